"""Side effects: where each adapter helps and harms beside its own task, and whether kinship tells.

After Krishna et al. 2025 (latent traits), section 5.2 and Table 2, which crosses same and different
domain with similar and different statistics; here with counts instead of chosen examples.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from adapt_lora.analysis.pairs import TransferPair, pair_distances, transfer_pairs
from adapt_lora.registry.records import TransferMatrix, Unit, row_labels

Outcome = Literal["helped", "harmed", "unclear"]

_SIMILARITY_STATISTICS = ("response_length_distance", "label_shape_distance")
"""The "hidden statistics" of the paper's sections 5.3 and 5.4."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One adapter's gain on one foreign task."""

    task: str
    """Name of the task."""
    gain: float
    """Score minus base score, in `unit`."""
    se: float | None
    """Standard error of the gain; None where unknown."""
    unit: Unit
    """What the gain is counted in."""
    outcome: Outcome
    """Whether the gain is beyond its error bars, and which way."""


@dataclass(frozen=True, slots=True)
class AdapterEffects:
    """What one adapter does to tasks it was not trained for."""

    adapter: str
    """Name of the adapter."""
    adapter_id: str
    """Its registry id."""
    best: tuple[Effect, ...]
    """Tasks with the largest gains above zero, by gain over its standard error."""
    worst: tuple[Effect, ...]
    """Tasks with the largest losses, the worst first."""
    counts: Mapping[Outcome, int]
    """Tasks by outcome."""


@dataclass(frozen=True, slots=True)
class KinshipCount:
    """How transfer went among pairs of one kind."""

    kinship: str
    """The kind, e.g. "same family"."""
    counts: Mapping[Outcome, int]
    """Pairs by outcome."""

    @property
    def n(self) -> int:
        """Pairs of this kind."""
        return sum(self.counts.values())

    @property
    def share_harmed(self) -> float | None:
        """Share of pairs that were harmed beyond their error bars; None without pairs."""
        return self.counts["harmed"] / self.n if self.n else None


@dataclass(frozen=True, slots=True)
class SideEffects:
    """The side effects of all adapters, and their count by kinship."""

    adapters: tuple[AdapterEffects, ...]
    """In the matrix's order; adapters without a measured foreign task are left out."""
    kinship: tuple[KinshipCount, ...]
    """Same and different family: the columns of the paper's table."""
    quadrants: tuple[KinshipCount, ...]
    """Family crossed with likeness of statistics: the paper's four fields."""
    n_unknown_family: int
    """Pairs left out of both counts because a family is unknown."""


def side_effects(
    matrix: TransferMatrix,
    *,
    families: Mapping[str, str] | None = None,
    top: int = 3,
    n_standard_errors: float = 2.0,
) -> SideEffects:
    """What adapters do to foreign tasks; own cells are left out.

    Args:
        matrix: Measured scores with the base row.
        families: Family of training data by group, e.g. {"sst2": "sentiment"}; groups that are
            missing here take the family of the matrix's tasks of the same group.
        top: Best and worst tasks to name per adapter.
        n_standard_errors: A gain within so many standard errors of zero is "unclear".
    """
    pairs = transfer_pairs(matrix)
    known = {task.group: task.family for task in matrix.tasks if task.family} | dict(families or {})
    kin = [(pair, kinship) for pair in pairs if (kinship := _kinship(pair, known)) is not None]
    similar = _similar_statistics([pair for pair, _ in kin])
    by_family: list[tuple[str, Outcome]] = []
    by_quadrant: list[tuple[str, Outcome]] = []
    for (pair, kinship), alike in zip(kin, similar, strict=True):
        outcome = _outcome(pair, n_standard_errors)
        by_family.append((kinship, outcome))
        if alike is not None:
            likeness = "similar" if alike else "different"
            by_quadrant.append((f"{kinship}, {likeness} statistics", outcome))
    families_named = ("same family", "different family")
    fields = [f"{f}, {s} statistics" for s in ("similar", "different") for f in families_named]
    return SideEffects(
        adapters=_by_adapter(pairs, top=top, n_standard_errors=n_standard_errors),
        kinship=_counted(families_named, by_family),
        quadrants=_counted(fields, by_quadrant),
        n_unknown_family=len(pairs) - len(kin),
    )


def _by_adapter(
    pairs: Sequence[TransferPair], *, top: int, n_standard_errors: float
) -> tuple[AdapterEffects, ...]:
    members: dict[str, list[TransferPair]] = defaultdict(list)
    for pair in pairs:
        members[pair.adapter.adapter_id].append(pair)
    names = row_labels([own[0].adapter for own in members.values()])
    found = []
    for adapter_id, own in members.items():
        # Points and nats meet here, so gains are ordered by their error bars, which have no unit.
        ranked = sorted(own, key=lambda pair: (_strength(pair), pair.gain), reverse=True)
        effects = [
            Effect(p.task.name, p.gain, p.se, p.unit, _outcome(p, n_standard_errors))
            for p in ranked
        ]
        found.append(
            AdapterEffects(
                adapter=names[adapter_id],
                adapter_id=adapter_id,
                best=tuple(effect for effect in effects if effect.gain > 0)[:top],
                worst=tuple(effect for effect in reversed(effects) if effect.gain < 0)[:top],
                counts=_tally([effect.outcome for effect in effects]),
            )
        )
    return tuple(found)


def _strength(pair: TransferPair) -> float:
    """The gain in standard errors; a score without error counts as sure."""
    if pair.se:
        return pair.gain / pair.se
    return math.copysign(math.inf, pair.gain) if pair.gain else 0.0


def _outcome(pair: TransferPair, n_standard_errors: float) -> Outcome:
    if abs(_strength(pair)) <= n_standard_errors:
        return "unclear"
    return "helped" if pair.gain > 0 else "harmed"


def _kinship(pair: TransferPair, families: Mapping[str, str]) -> str | None:
    source = families.get(pair.adapter.group) if pair.adapter.group is not None else None
    target = pair.task.family or families.get(pair.task.group)
    if not source or not target:
        return None
    return "same family" if source == target else "different family"


def _similar_statistics(pairs: Sequence[TransferPair]) -> list[bool | None]:
    """Whether each pair's length and label distances lie at or below the pairs' median.

    Each distance becomes the share of pairs that are nearer, so that both weigh the same; None
    where neither is known. The paper judges likeness by eye.
    """
    distances = [pair_distances(p.adapter.fingerprint, p.task.fingerprint) for p in pairs]
    shares: list[list[float]] = [[] for _ in pairs]
    for name in _SIMILARITY_STATISTICS:
        values = np.array([found[name] for found in distances if name in found])
        for found, own in zip(distances, shares, strict=True):
            if name in found:
                nearer, ties = values < found[name], values == found[name]
                own.append(float(nearer.mean() + 0.5 * ties.mean()))
    means = [float(np.mean(own)) if own else None for own in shares]
    middle = float(np.median([mean for mean in means if mean is not None] or [0.0]))
    return [None if mean is None else mean <= middle for mean in means]


def _counted(
    kinds: Sequence[str], outcomes: Sequence[tuple[str, Outcome]]
) -> tuple[KinshipCount, ...]:
    return tuple(
        KinshipCount(kind, _tally([outcome for name, outcome in outcomes if name == kind]))
        for kind in kinds
    )


def _tally(outcomes: Sequence[Outcome]) -> dict[Outcome, int]:
    kinds: tuple[Outcome, ...] = ("helped", "harmed", "unclear")
    return {kind: outcomes.count(kind) for kind in kinds}
