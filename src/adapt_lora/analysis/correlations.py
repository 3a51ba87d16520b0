"""What goes along with gains: the two papers' claims, checked on a transfer matrix.

Adapter statistics are held against an adapter's mean standing over foreign tasks, as Harada et al.
2025 (massive-sft, arXiv:2506.14681) do with perplexity (their Fig. 4) and weight change (Fig. 5);
distances between training data and target against each cell's standing, after Krishna et al. 2025
(latent traits, sections 5.3-5.5). A standing is the gain's z within its task, since tasks differ in
what can be gained. Correlation is no cause: recipes differ, and statistics move together.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from adapt_lora.analysis.pairs import TransferPair, pair_distances, transfer_pairs
from adapt_lora.registry.records import TransferMatrix, Unit

Sign = Literal["positive", "negative"]
Verdict = Literal["agrees", "differs", "open", "no claim"]

MIN_ADAPTERS = 5
"""With fewer adapters every rank correlation's interval spans nearly all of [-1, 1]."""

_MIN_CELLS_PER_TASK = 3  # a z among two adapters is always ±1

_MASSIVE_SFT = "massive-sft"
_LATENT_TRAITS = "latent traits"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a paper says about a statistic."""

    sign: Sign
    """Which way gains go as the statistic grows."""
    source: str
    """The paper and its section."""


CLAIMS: Mapping[str, Claim] = {
    "response_ppl": Claim("negative", f"{_MASSIVE_SFT}, Fig. 4a"),
    "total_ppl": Claim("negative", f"{_MASSIVE_SFT}, Fig. 4a"),
    "weights/delta_norm_relative_at_06": Claim("positive", f"{_MASSIVE_SFT}, Fig. 5"),
    "weights/delta_share_middle": Claim("positive", f"{_MASSIVE_SFT}, Fig. 5"),
    "response_length_distance": Claim("negative", f"{_LATENT_TRAITS}, section 5.3"),
    "label_shape_distance": Claim("negative", f"{_LATENT_TRAITS}, section 5.4"),
    "label_share_distance": Claim("negative", f"{_LATENT_TRAITS}, section 5.4"),
}
"""Claims with a direction: that closeness in meaning tells little can't be tested by sign."""

_DATASET_STATISTICS = (
    "response_ppl",
    "prompt_ppl",
    "total_ppl",
    "response_tokens_mean",
    "prompt_tokens_mean",
    "total_tokens_mean",
    "label_entropy",
    "label_entropy_normalised",
    "label_share_max",
    "label_imbalance_ratio",
    "label_length_eta2",
    "mattr",
    "zlib_ratio",
)
_RELATIVE_TO_BASE = {"response_ppl", "prompt_ppl", "total_ppl"}


@dataclass(frozen=True, slots=True)
class Correlation:
    """One statistic against gains in one unit."""

    statistic: str
    """Its key; "weights/…" for an adapter's weights, "…_distance" and "…_cosine" for pairs."""
    unit: Unit
    """What the gains are counted in; gains of two units are never pooled."""
    rho: float
    """Spearman's correlation, in [-1, 1]."""
    interval: tuple[float, float]
    """Percentile bootstrap interval over adapters (and task groups, for pairs); for statistics of
    adapters at least as wide as the normal approximation for so few."""
    interval_level: float
    """Its level, e.g. 0.9."""
    n: int
    """Points behind it: adapters, or cells for a statistic of pairs."""
    n_adapters: int
    """Adapters among them."""
    n_task_groups: int
    """Task groups that the gains come from."""
    claim: Claim | None = None
    """What the papers say; None where they name no direction."""

    @property
    def verdict(self) -> Verdict:
        """Whether the interval lies on the claimed side of zero, on the other, or on both."""
        if self.claim is None:
            return "no claim"
        low, high = self.interval
        if low <= 0 <= high:
            return "open"
        return "agrees" if (low > 0) == (self.claim.sign == "positive") else "differs"


@dataclass(frozen=True, slots=True)
class SkippedStatistic:
    """A statistic that could not be held against gains."""

    statistic: str
    """Its key."""
    unit: Unit
    """What the gains would have been counted in."""
    reason: str
    """Why, for a person."""


@dataclass(frozen=True, slots=True)
class GainCorrelations:
    """All statistics that could be held against gains, and those that could not."""

    rows: tuple[Correlation, ...]
    """Claimed ones first, then by strength."""
    skipped: tuple[SkippedStatistic, ...]
    """The others, each with its reason."""


@dataclass(frozen=True, slots=True, eq=False)
class _Points:
    """Points of one statistic, with what they have in common."""

    x: np.ndarray
    """(n,) the statistic."""
    y: np.ndarray
    """(n,) standing of the gain."""
    adapter: np.ndarray
    """(n,) index of the adapter's cluster: twins trained on one group count as one."""
    task_group: np.ndarray
    """(n,) index of the task's group; all 0 where each point is a mean over tasks."""


def gain_correlations(
    matrix: TransferMatrix, *, level: float = 0.9, n_resamples: int = 1000, seed: int = 0
) -> GainCorrelations:
    """Spearman correlations between statistics known before a run and measured gains.

    Own cells are left out. Intervals come from a bootstrap that redraws whole adapter groups and,
    for statistics of pairs, task groups too (the pigeonhole bootstrap of Owen 2007): cells of one
    adapter are no independent points. They are not corrected for the number of rows.

    Args:
        matrix: Gains with adapters' and tasks' fingerprints.
        level: Level of the intervals.
        n_resamples: Bootstrap draws.
        seed: Of the draws.
    """
    rows: list[Correlation] = []
    skipped: list[SkippedStatistic] = []
    pairs = transfer_pairs(matrix)
    for unit in dict.fromkeys(pair.unit for pair in pairs):
        standing = _standings([pair for pair in pairs if pair.unit == unit])
        values = _adapter_values(matrix, standing) | _pair_values(standing)
        for statistic, known in values.items():
            points = _points(known, of_pairs=statistic.endswith(("_distance", "_cosine")))
            reason = _why_not(points)
            if reason is not None:
                skipped.append(SkippedStatistic(statistic, unit, reason))
                continue
            interval = _interval(points, level=level, n_resamples=n_resamples, seed=seed)
            groups = {pair.task.group for pair, _, _ in known}
            rows.append(
                Correlation(
                    statistic=statistic,
                    unit=unit,
                    rho=float(_spearman(points.x, points.y, np.ones((1, len(points.x))))[0]),
                    interval=interval,
                    interval_level=level,
                    n=len(points.x),
                    n_adapters=len({pair.adapter.adapter_id for pair, _, _ in known}),
                    n_task_groups=len(groups),
                    claim=CLAIMS.get(statistic),
                )
            )
    rows.sort(key=lambda row: (row.claim is None, -abs(row.rho), row.statistic))
    return GainCorrelations(tuple(rows), tuple(skipped))


_Known = list[tuple[TransferPair, float, float]]
"""(pair, statistic, standing) of every pair for which the statistic is known."""


def _standings(pairs: Sequence[TransferPair]) -> list[tuple[TransferPair, float]]:
    """Each pair with its gain's z among the adapters of its task; tasks without spread left out."""
    by_task: dict[str, list[TransferPair]] = defaultdict(list)
    for pair in pairs:
        by_task[pair.task.name].append(pair)
    standings = []
    for members in by_task.values():
        gains = np.array([pair.gain for pair in members])
        spread = gains.std()
        if len(members) >= _MIN_CELLS_PER_TASK and spread > 1e-12:
            scores = (gains - gains.mean()) / spread
            standings += [(pair, float(z)) for pair, z in zip(members, scores, strict=True)]
    return standings


def _adapter_values(
    matrix: TransferMatrix, standings: Sequence[tuple[TransferPair, float]]
) -> dict[str, _Known]:
    values: dict[str, _Known] = {name: [] for name in _DATASET_STATISTICS}
    for pair, z in standings:
        fingerprint = pair.adapter.fingerprint
        base = fingerprint.base
        same_base = base is not None and base.architecture == matrix.base.architecture
        for name in _DATASET_STATISTICS:
            # Perplexities under two models can't be compared, not even by rank.
            if name in fingerprint.values and (same_base or name not in _RELATIVE_TO_BASE):
                values[name].append((pair, fingerprint.values[name], z))
        for key, value in pair.adapter.weights.items():
            values.setdefault(f"weights/{key}", []).append((pair, value, z))
    return values


def _pair_values(standings: Sequence[tuple[TransferPair, float]]) -> dict[str, _Known]:
    values: dict[str, _Known] = defaultdict(list)
    for pair, z in standings:
        for name, value in pair_distances(pair.adapter.fingerprint, pair.task.fingerprint).items():
            values[name].append((pair, value, z))
    return values


def _points(known: _Known, *, of_pairs: bool) -> _Points:
    """One point per cell for statistics of pairs, else one per adapter with its mean standing."""
    if not of_pairs:
        by_adapter: dict[str, _Known] = defaultdict(list)
        for item in known:
            by_adapter[item[0].adapter.adapter_id].append(item)
        known = [
            (members[0][0], members[0][1], float(np.mean([z for *_, z in members])))
            for members in by_adapter.values()
        ]
    clusters = [pair.adapter.group or pair.adapter.adapter_id for pair, _, _ in known]
    groups = [pair.task.group if of_pairs else "" for pair, _, _ in known]
    return _Points(
        x=np.array([x for _, x, _ in known]),
        y=np.array([y for _, _, y in known]),
        adapter=_numbered(clusters),
        task_group=_numbered(groups),
    )


def _why_not(points: _Points) -> str | None:
    n_clusters = len(set(points.adapter.tolist()))
    if len(points.x) == 0:
        return "not known for any adapter with measured gains"
    if n_clusters < MIN_ADAPTERS:
        return f"known for {n_clusters} groups of adapters; at least {MIN_ADAPTERS} are needed"
    if np.ptp(points.x) == 0:
        return "the same for all adapters"
    if np.ptp(points.y) == 0:
        return "all adapters gain alike"
    return None


def _interval(points: _Points, *, level: float, n_resamples: int, seed: int) -> tuple[float, float]:
    """Percentile interval of ρ when adapters and task groups are drawn anew."""
    rng = np.random.default_rng(seed)
    adapters = _redrawn(points.adapter, n_resamples, rng)
    groups = _redrawn(points.task_group, n_resamples, rng)
    draws = _spearman(points.x, points.y, adapters * groups)
    # A draw of one cluster only has no rank order: it says nothing and is left out.
    draws = draws[np.isfinite(draws)]
    if not draws.size:
        return (-1.0, 1.0)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    if int(points.task_group.max()) > 0:
        return float(low), float(high)
    # Six adapters in perfect order stay so in every draw: no bootstrap sees how few they are.
    rho = float(_spearman(points.x, points.y, np.ones((1, len(points.x))))[0])
    few = _normal_interval(rho, n=int(points.adapter.max()) + 1, level=level)
    return min(float(low), few[0]), max(float(high), few[1])


def _normal_interval(rho: float, *, n: int, level: float) -> tuple[float, float]:
    """Interval of Spearman's ρ by Fisher's z with the error of Bonett and Wright 2000.

    A perfect ρ, of which z is infinite, counts as one swap of neighbours away from perfect, and
    the interval then reaches to the perfect one.
    """
    nearly = 1 - 12 / (n * (n**2 - 1))
    z = math.atanh(min(max(rho, -nearly), nearly))
    reach = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return min(math.tanh(z - reach), rho), max(math.tanh(z + reach), rho)


def _redrawn(members: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each point comes when its clusters are drawn with replacement: (n_draws, n)."""
    n_clusters = int(members.max()) + 1
    if n_clusters == 1:
        return np.ones((n_draws, len(members)))
    counts = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_draws)
    return counts[:, members].astype(float)  # (n_draws, n)


def _spearman(x: np.ndarray, y: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Rank correlation where point i counts times[d, i] times: (n_draws,), NaN without spread."""
    one, other = _mid_ranks(x, times), _mid_ranks(y, times)
    total = times.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        one -= (times * one).sum(axis=1, keepdims=True) / total
        other -= (times * other).sum(axis=1, keepdims=True) / total
        scale = np.sqrt((times * one**2).sum(axis=1) * (times * other**2).sum(axis=1))
        rho = (times * one * other).sum(axis=1) / scale
    return np.where(scale > 1e-9, rho, np.nan)


def _mid_ranks(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Ranks of points that come several times, ties at their mean rank: (n_draws, n)."""
    _, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    tied = np.add.reduceat(times[:, order], starts, axis=1)  # (n_draws, n_distinct)
    ranks = np.cumsum(tied, axis=1) - tied + (tied + 1) / 2
    return np.asarray(ranks[:, place])


def _numbered(names: Sequence[str]) -> np.ndarray:
    """Each name's number in order of first appearance: (n,)."""
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([order[name] for name in names], dtype=int)
