"""The answer: adapters ranked for one unseen target, with gains, doubts, reasons and evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt_lora.errors import RecommendError
from adapt_lora.recommender.backtest import (
    DEFAULT,
    Backtest,
    backtest,
    choose_method,
    house_default,
)
from adapt_lora.recommender.features import (
    FEATURES,
    TARGET_NAME,
    TrainingSet,
    table_for_target,
)
from adapt_lora.recommender.gains import (
    MIN_GROUPS_FOR_INTERVAL,
    GainModel,
    Update,
    measurement_update,
)
from adapt_lora.recommender.models import METHODS, make_ranker, unit_scores
from adapt_lora.recommender.table import Array, Query, TransferTable
from adapt_lora.registry.records import (
    METRIC_UNITS,
    AdapterRecord,
    Cell,
    Fingerprint,
    TransferMatrix,
    Unit,
)

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1

_BASELINE = "popularity_trimmed"
_BACKTEST_FOLDS, _FEW_FOLDS = 10, 5
_MANY_GROUPS = (
    20  # from here on five folds leave enough tasks to learn from, and take half the time
)
_BACKTEST_SEEDS, _INNER_SEEDS = 2, 1  # the ranking itself averages 8; here time counts
_BACKTEST_METRICS = (
    "spearman_rho",
    "ndcg_at_3",
    "regret_at_1",
    "regret_at_3",
    "regret_at_1_spread",
    "regret_at_3_spread",
)
_N_DRAWS = 4_000
_MAX_DRAWN = 300  # P(best) of candidates behind these is 0 to three decimals
_N_REASONS = 3
_N_EVIDENCE = 3
_LEAK_SHARE = 0.01
_NO_GROUP = "\0no group"


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the gain lies with the recommendation's `interval_level`."""

    low: float
    """Lower end, in the target's unit."""
    high: float
    """Upper end."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One part of a prediction."""

    feature: str
    """Its name in `features.FEATURES`, or a method's."""
    contribution: float
    """What it adds over the average candidate, as gain (without any measured gain: as score)."""
    text: str
    """The same in words."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A measured gain that speaks for or against an adapter."""

    task: str
    """A measured task."""
    gain: float
    """What the adapter gained there, in the table's unit."""
    similarity: float | None = None
    """How near the task is to the target; None where nothing tells."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the adapter gained on the target's own rows."""

    gain: float
    """Score minus the base's score, in the target's unit."""
    se: float
    """Standard error of the gain, both scores' errors added in squares."""
    n: int
    """Rows."""


@dataclass(frozen=True, slots=True)
class RankedAdapter:
    """One adapter's place and all that is known about its chances."""

    rank: int
    """From 1, best first."""
    adapter: str
    """Name of the registered model."""
    adapter_id: str
    """Its registry id."""
    predicted_gain: float | None
    """Predictive median of the gain over the base; None when too little was measured."""
    interval: Interval | None
    """None when too few task groups carry one."""
    p_harm: float | None
    """Probability that the adapter does worse than the base."""
    p_best: float | None
    """Probability that it is the best of all candidates and the base."""
    reasons: tuple[Reason, ...]
    """The largest contributions; at least one."""
    evidence: tuple[Evidence, ...]
    """Its measured gains on the tasks nearest to the target."""
    warnings: tuple[str, ...]
    """Sentences to show beside it."""
    measured: Measurement | None = None
    """Its measurement on the target, when there is one; `predicted_gain` then contains it."""

    def to_json(self) -> dict[str, Any]:
        """An entry of `ranking`; what is not known is absent."""
        found: dict[str, Any] = {
            "rank": self.rank,
            "adapter": self.adapter,
            "adapter_id": self.adapter_id,
        }
        if self.predicted_gain is not None:
            found["predicted_gain"] = self.predicted_gain
        if self.interval is not None:
            found["interval"] = [self.interval.low, self.interval.high]
        if self.p_harm is not None:
            found["p_harm"] = self.p_harm
        if self.p_best is not None:
            found["p_best"] = self.p_best
        if self.measured is not None:
            m = self.measured
            found["measured"] = {"gain": m.gain, "se": m.se, "n": m.n}
        found["reasons"] = [
            {"feature": r.feature, "contribution": r.contribution, "text": r.text}
            for r in self.reasons
        ]
        found["evidence"] = [_evidence_json(item) for item in self.evidence]
        found["warnings"] = list(self.warnings)
        return found


@dataclass(frozen=True, slots=True)
class BaseChoice:
    """The bare base model as a candidate."""

    score: float | None
    """Its score on the target; None when the target is unlabelled."""
    se: float | None
    """Standard error of that score."""
    p_best: float | None
    """Probability that no adapter beats it."""
    recommended: bool
    """True when no adapter is expected to help."""

    def to_json(self) -> dict[str, Any]:
        """The `base` object; what is not known is absent."""
        found = {"score": self.score, "se": self.se, "p_best": self.p_best}
        known: dict[str, Any] = {key: value for key, value in found.items() if value is not None}
        return {**known, "recommended": self.recommended}


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """Which model ranked, on what it was fitted, and how well it did in the back-test."""

    name: str
    """The method, e.g. "stack"."""
    regime: str
    """How the adapters were used when they were measured."""
    unit: Unit
    """What gains are counted in."""
    metric: str
    """The target's metric."""
    n_groups: int
    """Task groups that it was fitted on."""
    n_cells: int
    """Measured transfer cells that it was fitted on."""
    backtest: Mapping[str, Any] = field(default_factory=dict)
    """Leave-one-task-group-out figures; empty when fewer than two groups were measured."""

    def to_json(self) -> dict[str, Any]:
        """The `model` object."""
        return {
            "name": self.name,
            "regime": self.regime,
            "unit": self.unit,
            "metric": self.metric,
            "n_groups": self.n_groups,
            "n_cells": self.n_cells,
            "backtest": dict(self.backtest),
        }


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Adapters ranked for one target."""

    base_model: str
    """The base model that all candidates sit on."""
    base: BaseChoice
    """The base model as a candidate; it has no entry in `ranking`."""
    model: ModelSummary
    """What made the ranking."""
    ranking: tuple[RankedAdapter, ...]
    """Best first."""
    interval_level: float | None
    """Nominal coverage of the intervals, marginal over targets; None when there are none."""
    warnings: tuple[str, ...] = ()
    """What the reader must know before trusting it."""

    def top(self, k: int) -> "Recommendation":
        """The same answer with the first k adapters alone."""
        return replace(self, ranking=self.ranking[:k])

    def to_json(self) -> dict[str, Any]:
        """What `adapt recommend --json` prints, but for the target and the timing."""
        entries = [entry.to_json() for entry in self.ranking]
        if self.interval_level is not None:
            for entry in entries:
                if "interval" in entry:
                    entry["interval_level"] = self.interval_level
        return {
            "schema_version": SCHEMA_VERSION,
            "base_model": self.base_model,
            "base": self.base.to_json(),
            "model": self.model.to_json(),
            "ranking": entries,
            "warnings": list(self.warnings),
        }

    def to_pandas(self) -> "pd.DataFrame":
        """One row per adapter, best first."""
        import pandas as pd

        return pd.DataFrame(
            {
                "rank": entry.rank,
                "adapter": entry.adapter,
                "predicted_gain": entry.predicted_gain,
                "low": entry.interval.low if entry.interval else None,
                "high": entry.interval.high if entry.interval else None,
                "p_harm": entry.p_harm,
                "p_best": entry.p_best,
                "measured_gain": entry.measured.gain if entry.measured else None,
                "reason": entry.reasons[0].text,
            }
            for entry in self.ranking
        )


def rank_adapters(
    matrix: TransferMatrix,
    target: Fingerprint,
    *,
    metric: str,
    group: str | None = None,
    base_score: tuple[float, float] | None = None,
    measured: Mapping[str, Cell] | None = None,
    seed: int = 0,
    method: str = DEFAULT,
) -> Recommendation:
    """Rank a registry's adapters for an unseen target.

    Args:
        matrix: All that was measured under the target's base model. Tasks of the target's group
            are dropped before anything is learned.
        target: Fingerprint of the unseen dataset under the same base model.
        metric: The metric to gain in; it fixes the unit, and cells of the other unit are ignored.
        group: The target's group, where known. Adapters trained on that group stay in the ranking,
            with a warning: an in-domain adapter is a fair choice in use, but what is predicted for
            it is transfer.
        base_score: Score of the bare base on the target and its standard error.
        measured: Cells of adapters on the target itself, by adapter id; needs `base_score`.
        seed: Of folds, LightGBM and simulations; the same seed gives the same answer.
        method: A name in `models.METHODS`, or "default": chosen by what was measured.

    Raises:
        RecommendError: No adapter at all, an unknown metric or method, or measured cells without
            a base score.
    """
    measured = measured or {}
    _check(matrix, metric, method, measured, base_score)
    unit = METRIC_UNITS[metric]
    target_group = group or _NO_GROUP
    table = table_for_target(matrix, target, metric=metric, unit=unit, group=target_group)
    fold = table.hold_out([target_group])
    own = next(query for query in fold.queries if query.target == TARGET_NAME)
    query = replace(own, candidates=np.ones(len(table.sources), dtype=bool))
    train = TrainingSet(fold.table)
    fit = _fit(train, query, method=method, seed=seed)
    surprises = _measured_gains(table, measured, base_score)
    odds = _odds(fit, surprises, base_score, unit=unit, seed=seed)
    order = np.lexsort((np.arange(len(fit.score)), -fit.score, -odds.order_by))
    nearest = train.task_similarity(query)
    notes = _adapter_notes(matrix.adapters, fold.table, target, group)
    ranking = tuple(
        _entry(rank, int(s), matrix.adapters[s], fit, odds, nearest, notes[s], surprises)
        for rank, s in enumerate(order, start=1)
    )
    return Recommendation(
        base_model=matrix.base.name,
        base=_base_choice(odds, base_score, ranking),
        model=_summary(fit, metric),
        ranking=ranking,
        interval_level=fit.gains.interval_level if fit.gains is not None else None,
        warnings=_warnings(fit, query, nearest),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """What was learned, and what it says about the target."""

    train: TrainingSet
    asked: str
    """"default" or the method that the caller named."""
    method: str
    """The method that ranked."""
    score: Array
    """(n_sources,): z of the prediction; only its order counts."""
    parts: Mapping[str, Array]
    """Feature → (n_sources,): summands of the score, up to a constant."""
    gains: GainModel | None
    """None when no gain was measured."""
    standing: Mapping[str, Array]
    """Feature → (n_sources,): z of the feature itself."""
    tested: Backtest | None
    """None with fewer than two task groups."""
    base_hint: float | None
    """The base's score on the target from its fingerprint; None where unknown."""


@dataclass(frozen=True, slots=True, eq=False)
class _Odds:
    """Gains and probabilities of every source, measurements included."""

    order_by: Array
    median: Array | None = None
    low: Array | None = None
    high: Array | None = None
    p_harm: Array | None = None
    p_best: Array | None = None
    base_p_best: float | None = None


def _check(
    matrix: TransferMatrix,
    metric: str,
    method: str,
    measured: Mapping[str, Cell],
    base_score: tuple[float, float] | None,
) -> None:
    if not matrix.adapters:
        raise RecommendError(
            f"No adapter of {matrix.base.name} is registered, so there is nothing to rank. "
            "Register one with `adapt register`."
        )
    if metric not in METRIC_UNITS:
        raise RecommendError(f"Unknown metric {metric!r}; known: {', '.join(METRIC_UNITS)}.")
    if method != DEFAULT and method not in METHODS:
        raise RecommendError(f"Unknown method {method!r}; known: {', '.join((DEFAULT, *METHODS))}.")
    if measured and base_score is None:
        raise RecommendError(
            "Measured cells were given without the base model's score on the same rows, so their "
            "gain is unknown. Score the base model too."
        )
    foreign = sorted({cell.metric for cell in measured.values()} - {metric})
    if foreign:
        raise RecommendError(
            f"Measured cells are in {', '.join(foreign)}, but the ranking is in {metric}."
        )


def _fit(train: TrainingSet, query: Query, *, method: str, seed: int) -> _Fit:
    table = train.table
    chosen = choose_method(train, seed=seed).method if method == DEFAULT else method
    if train.n_groups == 0:
        chosen = house_default(0) if method == DEFAULT else method
    ranker = make_ranker(chosen, seed=seed).fit(train)
    raw = ranker.predict(query)
    score = unit_scores(raw)
    spread = float(raw.std())
    parts = {
        name: (part - part.mean()) / (spread or 1.0) for name, part in ranker.explain(query).items()
    }
    tested, gains = None, None
    if train.n_groups >= 2:
        names = tuple(dict.fromkeys((_BASELINE,) if method == DEFAULT else (_BASELINE, method)))
        tested = backtest(
            table,
            methods=names,
            seed=seed,
            n_folds=_BACKTEST_FOLDS if train.n_groups < _MANY_GROUPS else _FEW_FOLDS,
            n_seeds=_BACKTEST_SEEDS,
            inner_seeds=_INNER_SEEDS,
            judge_gains=False,
        )
    if np.isfinite(table.gains).any():
        blank = np.zeros(table.scores.shape)
        scores = np.nan_to_num(tested.scores[method]) if tested is not None else blank
        gains = GainModel().fit(scores, table.gains, table.groups, base_hints=train.base_hints)
    standing = train.describe(query)
    return _Fit(train, method, chosen, score, parts, gains, standing, tested, query.base_hint)


def _measured_gains(
    table: TransferTable, measured: Mapping[str, Cell], base_score: tuple[float, float] | None
) -> dict[int, Measurement]:
    """Row number → gain on the target with its standard error."""
    if base_score is None:
        return {}
    row = {adapter_id: s for s, adapter_id in enumerate(table.sources)}
    return {
        row[name]: Measurement(
            gain=cell.score - base_score[0], se=float(np.hypot(cell.se, base_score[1])), n=cell.n
        )
        for name, cell in measured.items()
        # A score without its error can't be weighed against a prediction.
        if name in row and cell.se is not None and cell.n is not None
    }


def _odds(
    fit: _Fit,
    surprises: Mapping[int, Measurement],
    base_score: tuple[float, float] | None,
    *,
    unit: Unit,
    seed: int,
) -> _Odds:
    if fit.gains is None or fit.gains.n_groups_ == 0:
        return _without_model(fit.score, surprises)
    model = fit.gains
    predicted = model.predict(fit.score, base_hint=fit.base_hint)
    if model.interval_level is None:
        order_by = predicted.median.copy()
        for s, found in surprises.items():
            order_by[s] = found.gain
        return _Odds(order_by, median=order_by)
    update = None
    if surprises:
        seen = {s: (found.gain, found.se) for s, found in surprises.items()}
        update = measurement_update(model, predicted.median, seen)
    zeros, ones = np.zeros(len(fit.score)), np.ones(len(fit.score))
    median = predicted.median + (zeros if update is None else update.shift)
    scale = ones if update is None else update.scale
    middle = model.quantile(0.5)
    low = median + scale * (model.quantile(model.tail) - middle)
    high = median + scale * (model.quantile(1 - model.tail) - middle)
    draws = _draws(model, fit.score, predicted.median, update, surprises, seed=seed)
    p_best, base_p_best = _best_shares(draws, median)
    p_harm = predicted.p_harm if update is None else _harm_after(median, scale, model)
    floor, ceiling = _possible_gains(base_score, unit)
    return _Odds(
        order_by=median,
        median=np.clip(median, floor, ceiling),
        low=np.clip(low, floor, ceiling),
        high=np.clip(high, floor, ceiling),
        p_harm=p_harm,
        p_best=p_best,
        base_p_best=base_p_best,
    )


def _without_model(score: Array, surprises: Mapping[int, Measurement]) -> _Odds:
    """Nothing is known about gains but what was measured on the target itself."""
    order_by = np.full(len(score), -np.inf)
    for s, found in surprises.items():
        order_by[s] = found.gain
    known = np.isfinite(order_by)
    return _Odds(order_by, median=np.where(known, order_by, np.nan) if known.any() else None)


def _possible_gains(base_score: tuple[float, float] | None, unit: Unit) -> tuple[float, float]:
    """A score in [0, 1] can't gain more than is left, nor lose more than is there."""
    if base_score is None or unit != "points":
        return -np.inf, np.inf
    return -base_score[0], 1.0 - base_score[0]


def _draws(
    model: GainModel,
    score: Array,
    predicted: Array,
    update: Update | None,
    surprises: Mapping[int, Measurement],
    *,
    seed: int,
) -> Array:
    """Joint draws of all gains, (n_draws, n_sources), conditioned on what was measured."""
    rng = np.random.default_rng(seed)
    point = model.level_ + model.slope_ * score
    draws = point + model.draw(len(score), _N_DRAWS, rng)
    if update is None:
        return draws
    index = np.fromiter(surprises, dtype=np.intp)
    gain = np.array([surprises[int(s)].gain for s in index])
    error = np.array([surprises[int(s)].se for s in index])
    noisy = gain + error * rng.standard_normal((_N_DRAWS, len(index)))
    # Matheron's rule: correct each draw by how far it misses the measurement.
    corrected: Array = draws + (noisy - draws[:, index]) @ update.pull.T
    return corrected


def _best_shares(draws: Array, median: Array) -> tuple[Array, float]:
    """How often each source, and the base with its gain of 0, is the best."""
    p_best = np.zeros(len(median))
    front = np.argsort(-median, kind="stable")[:_MAX_DRAWN]
    contest = np.column_stack([np.zeros(len(draws)), draws[:, front]])
    winners = np.bincount(contest.argmax(axis=1), minlength=contest.shape[1]) / len(draws)
    p_best[front] = winners[1:]
    return p_best, float(winners[0])


def _harm_after(median: Array, scale: Array, model: GainModel) -> Array:
    """P(gain < 0) from the residuals, shrunken to what the measurement leaves open."""
    around = model.residuals_ - model.quantile(0.5)
    harmed = (median[:, None] + scale[:, None] * around[None, :]) < 0
    probability: Array = harmed @ model.weights_
    return probability


def _entry(
    rank: int,
    s: int,
    adapter: AdapterRecord,
    fit: _Fit,
    odds: _Odds,
    nearest: Array | None,
    notes: Sequence[str],
    surprises: Mapping[int, Measurement],
) -> RankedAdapter:
    interval = None
    if odds.low is not None and odds.high is not None:
        interval = Interval(float(odds.low[s]), float(odds.high[s]))
    gain = None if odds.median is None or np.isnan(odds.median[s]) else float(odds.median[s])
    return RankedAdapter(
        rank=rank,
        adapter=adapter.name,
        adapter_id=adapter.adapter_id,
        predicted_gain=gain,
        interval=interval,
        p_harm=None if odds.p_harm is None else float(np.clip(odds.p_harm[s], 0.0, 1.0)),
        p_best=None if odds.p_best is None else float(odds.p_best[s]),
        reasons=_reasons(s, fit, surprises.get(s)),
        evidence=_evidence(s, fit.train.table, nearest),
        warnings=tuple(notes),
        measured=surprises.get(s),
    )


def _reasons(s: int, fit: _Fit, measurement: Measurement | None) -> tuple[Reason, ...]:
    """The measurement first, then the largest summands of the score, in units of gain."""
    reasons = []
    if measurement is not None:
        text = f"it was measured on {measurement.n} of the target's own rows"
        reasons.append(Reason("measured", measurement.gain, text))
    scale = fit.gains.slope_ if fit.gains is not None and fit.gains.slope_ > 0 else 1.0
    sizes = {name: scale * float(part[s]) for name, part in fit.parts.items()}
    largest = sorted(sizes.items(), key=lambda item: -abs(item[1]))[:_N_REASONS]
    for name, size in largest:
        if abs(size) > 1e-9:
            reasons.append(Reason(name, size, _reason_text(s, name, size, fit)))
    if reasons:
        return tuple(reasons)
    return (Reason("nothing", 0.0, _no_reason(fit)),)


def _reason_text(s: int, name: str, size: float, fit: _Fit) -> str:
    measured = int(np.isfinite(fit.train.standard[s]).sum())
    if name == "popularity" and measured == 0:
        return "it was never measured, so it counts as an average adapter"
    feature = FEATURES.get(name)
    if feature is None:
        return f"{name.replace('_', ' ')} speaks {'for' if size > 0 else 'against'} it"
    high = _standing(s, name, fit) > 0
    text = feature.high if high else feature.low
    if name == "popularity":
        text += f" ({measured} measured)"
    if feature.nonnegative and high == (size > 0):
        return text
    # A free weight or a tree holds a high value against an adapter, or a low one for it.
    return f"{text}, which {'helped' if size > 0 else 'hurt'} on the measured tasks"


def _standing(s: int, name: str, fit: _Fit) -> float:
    described = fit.standing.get(name)
    return float(described[s]) if described is not None else float(fit.parts[name][s])


def _no_reason(fit: _Fit) -> str:
    if fit.train.n_groups == 0:
        return "nothing was measured and nothing is known that would set it apart"
    return "all that is known about it is average"


def _evidence(s: int, table: TransferTable, nearest: Array | None) -> tuple[Evidence, ...]:
    """Measured gains on the tasks nearest to the target, own cells excepted."""
    known = np.flatnonzero(np.isfinite(table.gains[s]))
    if nearest is not None:
        known = known[np.argsort(-np.nan_to_num(nearest[known], nan=-np.inf), kind="stable")]
    return tuple(
        Evidence(
            task=table.targets[t],
            gain=float(table.gains[s, t]),
            similarity=_finite(nearest[t]) if nearest is not None else None,
        )
        for t in known[:_N_EVIDENCE]
    )


def _evidence_json(item: Evidence) -> dict[str, Any]:
    found: dict[str, Any] = {"task": item.task, "gain": item.gain}
    if item.similarity is not None:
        found["similarity"] = item.similarity
    return found


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _adapter_notes(
    adapters: Sequence[AdapterRecord], table: TransferTable, target: Fingerprint, group: str | None
) -> list[list[str]]:
    """Warnings per adapter, in the order of the table's sources."""
    notes = []
    for s, adapter in enumerate(adapters):
        mine = list(adapter.warnings)
        if group is not None and adapter.group == group:
            mine.append(
                f"Trained on data of the target's own group ({group}): the prediction is for "
                "transfer, and in-domain gains are usually larger. Check that no test row was "
                "trained on."
            )
        share = overlap_share(adapter.fingerprint, target)
        if share >= _LEAK_SHARE:
            mine.append(
                f"About {share:.0%} of the target's prompts are in its training data: "
                "scores on them would flatter it."
            )
        if not np.isfinite(table.transfer_scores[s]).any():
            mine.append("Never measured on another task: ranked as an average adapter.")
        notes.append(mine)
    return notes


def overlap_share(source: Fingerprint, target: Fingerprint) -> float:
    """Estimated share of the target's prompts that the source holds, from bottom-k sketches."""
    if not source.row_sketches or not target.row_sketches:
        return 0.0
    limit = max(source.row_sketches)  # beyond it, a full sketch of the source says nothing
    comparable = [h for h in target.row_sketches if h <= limit]
    held = frozenset(source.row_sketches)
    return sum(h in held for h in comparable) / len(comparable) if comparable else 0.0


def _base_choice(
    odds: _Odds, base_score: tuple[float, float] | None, ranking: Sequence[RankedAdapter]
) -> BaseChoice:
    best = ranking[0].predicted_gain
    return BaseChoice(
        score=None if base_score is None else base_score[0],
        se=None if base_score is None else base_score[1],
        p_best=odds.base_p_best,
        recommended=best is not None and best <= 0,
    )


def _summary(fit: _Fit, metric: str) -> ModelSummary:
    table = fit.train.table
    return ModelSummary(
        name=fit.method,
        regime=table.regime,
        unit=table.unit,
        metric=metric,
        n_groups=fit.train.n_groups,
        n_cells=int(np.isfinite(table.transfer_scores).sum()),
        backtest=_backtest_summary(fit),
    )


def _backtest_summary(fit: _Fit) -> dict[str, Any]:
    """The chosen way's figures, and trimmed popularity's beside them."""
    if fit.tested is None or fit.asked not in fit.tested.methods:
        return {}
    row = fit.asked
    return {
        "method": row,
        "chosen": fit.tested.chosen,
        "n_groups": fit.tested.n_groups,
        "n_targets": fit.tested.n_targets,
        **_picked(fit.tested.methods[row]),
        "against": {_BASELINE: _picked(fit.tested.methods.get(_BASELINE, {}))},
    }


def _picked(found: Mapping[str, float]) -> dict[str, float]:
    return {name: found[name] for name in _BACKTEST_METRICS if name in found}


def _warnings(fit: _Fit, query: Query, nearest: Array | None) -> tuple[str, ...]:
    """What must be said aloud about the whole ranking."""
    said = list(fit.train.table.warnings)
    k = fit.train.n_groups
    if k == 0:
        how = (
            "by the likeness of training data to the target alone"
            if fit.train.similarity(query) is not None
            else "by nothing: the order says nothing"
        )
        said.append(
            "No adapter was measured on any other task, so gains can't be predicted; ranked "
            f"{how}. Run `adapt evaluate` first, or verify the top ones on the target."
        )
    elif k < MIN_GROUPS_FOR_INTERVAL:
        said.append(
            f"Only {k} task group(s) were measured: the ranking is the prior (popularity .4, "
            "similarity .15, neighbours .1), and intervals or odds can't be given. Three task "
            "groups are the least, ten are better."
        )
    elif fit.gains is None or fit.gains.n_groups_ == 0:
        said.append(
            "The base model was never measured, so gains can't be predicted, only an order."
        )
    elif _backtest_summary(fit).get("spearman_rho", 1.0) < 0.1:
        rho = _backtest_summary(fit)["spearman_rho"]
        said.append(
            f"On the measured tasks this ranking did hardly better than chance (mean ρ {rho:.2f}): "
            "trust a measurement on the target more than this order."
        )
    if _lies_outside(fit.train, nearest):
        said.append(
            "The target is unlike every measured task: intervals hold on average over targets like "
            "the measured ones, and may be too narrow here."
        )
    return tuple(said)


def _lies_outside(train: TrainingSet, nearest: Array | None) -> bool:
    """Whether the target is farther from its nearest task than any measured task is from its."""
    table = train.table
    if nearest is None or train.n_groups < MIN_GROUPS_FOR_INTERVAL:
        return False
    best = []
    for t, group in enumerate(table.groups):
        others = [u for u, name in enumerate(table.groups) if name != group]
        similarity = train.task_similarity(table.query(t, range(len(table.targets))))
        if similarity is not None and np.isfinite(similarity[others]).any():
            best.append(float(np.nanmax(similarity[others])))
    mine = nearest[np.isfinite(nearest)]
    return bool(best) and mine.size > 0 and float(mine.max()) < min(best)
