"""The transfer matrix as arrays: the one door through which "not measured" becomes NaN."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from adapt_lora.recommender.catalogue import BASE_SCORE
from adapt_lora.recommender.columns import Array, Mask, mean_of_known, standardise
from adapt_lora.recommender.likeness import task_likeness
from adapt_lora.registry.records import BASE_ROW, METRIC_UNITS, TransferMatrix, Unit

_MIN_SHARED = 3  # fewer sources or targets in common say nothing about each other


@dataclass(frozen=True, eq=False)
class TransferTable:
    """Sources × targets under one base model, as arrays; NaN = not measured.

    Sources are the adapters that could be recommended, targets the tasks they were scored on.
    Nothing here is fitted: scaling, centring and averaging happen after a target has left.
    """

    sources: tuple[str, ...]
    """Names or ids of the adapters, one per row."""
    targets: tuple[str, ...]
    """Names of the tasks, one per column."""
    groups: tuple[str, ...]
    """Group of each target; columns of one group leave together."""
    scores: Array
    """(n_sources, n_targets): the task's metric with the adapter; own cells included."""
    base_scores: Array
    """(n_targets,): the metric of the bare base; NaN where it was not measured."""
    own: Mask
    """(n_sources, n_targets): the adapter was trained on the task's group."""
    errors: Array
    """(n_sources, n_targets): standard error of each score; NaN where unknown."""
    unit: Unit = "points"
    """What scores and gains are counted in; a table never holds both."""
    regime: str = "zeroshot"
    """How the adapters were used: "zeroshot", "intermediate", or a pivot's own word."""
    pair_features: Mapping[str, Array] = field(default_factory=dict)
    """Raw numbers per (source, target), known before any run."""
    source_features: Mapping[str, Array] = field(default_factory=dict)
    """Raw numbers per source, (n_sources,)."""
    target_features: Mapping[str, Array] = field(default_factory=dict)
    """Raw numbers per target, (n_targets,)."""
    level_features: Mapping[str, Array] = field(default_factory=dict)
    """What may tell how much a target allows, (n_targets,): of gains alone, not of the order."""
    similarity: Array | None = None
    """(n_targets, n_targets) given similarity of tasks; None: taken from the vectors."""
    source_vectors: Mapping[str, Array] = field(default_factory=dict)
    """Embeddings of the adapters' training data by name, (n_sources, d)."""
    target_vectors: Mapping[str, Array] = field(default_factory=dict)
    """Embeddings of the tasks by name, (n_targets, d)."""
    likeness: Mapping[str, Array] | None = None
    """Every way in which tasks are alike, (n_targets, n_targets); see `likeness.task_likeness`.
    None: derived by `described`."""
    elsewhere: "TransferTable | None" = None
    """The adapters' mean standing under other base models, as a table of the same sources and of
    some of the same targets (`consensus`). A group that is held out leaves it too."""
    lenders: tuple[str, ...] = ()
    """The other base models that these scores are the mean standing under; empty where they are
    the base's own."""
    rivals: Mapping[str, Array] = field(default_factory=dict)
    """Others' predictions, (n_sources, n_targets): rows to beat, never features."""
    warnings: tuple[str, ...] = ()
    """What was left out and why, one sentence each."""

    @cached_property
    def transfer_scores(self) -> Array:
        """Scores without own cells: all that may be learned from, or judged on."""
        return np.where(self.own, np.nan, self.scores)

    @cached_property
    def gains(self) -> Array:
        """Score minus base score; NaN = not measured, own, or no base score."""
        return self.transfer_scores - self.base_scores[None, :]

    @cached_property
    def reliability(self) -> Array:
        """(n_targets,): share of the spread between adapters that is not noise, in [0, 1].

        1 − mean squared standard error / variance of the scores, over foreign cells; 1 where too
        few standard errors are known to tell.
        """
        found = np.ones(len(self.targets))
        for t in range(len(self.targets)):
            scores, errors = self.transfer_scores[:, t], self.errors[:, t]
            known = np.isfinite(scores) & np.isfinite(errors)
            if known.sum() < _MIN_SHARED:
                continue
            total = float(scores[known].var(ddof=1))
            noise = float((errors[known] ** 2).mean())
            found[t] = max(1 - noise / total, 0.0) if total > 0 else 0.0
        return found

    @property
    def lent(self) -> "TransferTable | None":
        """What other base models say: this table where the base has no scores, or `elsewhere`."""
        return self if self.lenders else self.elsewhere

    @property
    def group_names(self) -> tuple[str, ...]:
        """The distinct groups, in order of first column."""
        return tuple(dict.fromkeys(self.groups))

    @cached_property
    def described(self) -> "TransferTable":
        """This table with its `likeness`, computed once: it needs no scores, so folds share it."""
        if self.likeness is not None:
            return self
        # How well the base does tells harm, not order (docs/experiments.md, learned likeness).
        features = {name: x for name, x in self.target_features.items() if name != BASE_SCORE}
        likeness = task_likeness(
            similarity=self.similarity,
            pair_features=self.pair_features,
            target_features=features,
            target_vectors=self.target_vectors,
        )
        return replace(self, likeness=likeness)

    def columns(self, keep: Sequence[int]) -> "TransferTable":
        """The table of these target columns alone."""
        index = np.asarray(keep, dtype=np.intp)
        square = np.ix_(index, index)
        alike = self.likeness
        return replace(
            self,
            targets=tuple(self.targets[t] for t in keep),
            groups=tuple(self.groups[t] for t in keep),
            scores=self.scores[:, index],
            base_scores=self.base_scores[index],
            own=self.own[:, index],
            errors=self.errors[:, index],
            pair_features={name: x[:, index] for name, x in self.pair_features.items()},
            target_features={name: x[index] for name, x in self.target_features.items()},
            level_features={name: x[index] for name, x in self.level_features.items()},
            similarity=None if self.similarity is None else self.similarity[square],
            likeness=None if alike is None else {name: x[square] for name, x in alike.items()},
            target_vectors={name: x[index] for name, x in self.target_vectors.items()},
            rivals={name: x[:, index] for name, x in self.rivals.items()},
        )

    def query(self, target: int, known: Sequence[int]) -> "Query":
        """What is known about one target before any run, as seen from the columns `known`."""
        index = np.asarray(known, dtype=np.intp)
        similarity = None if self.similarity is None else self.similarity[target, index]
        likeness = self.described.likeness or {}
        return Query(
            target=self.targets[target],
            candidates=~self.own[:, target],
            pair_features={name: x[:, target] for name, x in self.pair_features.items()},
            target_features={name: float(x[target]) for name, x in self.target_features.items()},
            level_features={name: float(x[target]) for name, x in self.level_features.items()},
            similarity=similarity,
            likeness={name: x[target, [*index, target]] for name, x in likeness.items()},
            vectors={name: x[target] for name, x in self.target_vectors.items()},
            rivals={name: x[:, target] for name, x in self.rivals.items()},
        )

    def hold_out(self, groups: Iterable[str]) -> "Fold":
        """Split off all columns of these groups; they leave as queries, which hold no scores."""
        leaving = frozenset(groups)
        known = [t for t, group in enumerate(self.groups) if group not in leaving]
        held = tuple(t for t, group in enumerate(self.groups) if group in leaving)
        elsewhere = self.elsewhere.without(leaving) if self.elsewhere is not None else None
        table = replace(self.described.columns(known), elsewhere=elsewhere)
        return Fold(table, held, tuple(self.query(t, known) for t in held))

    def without(self, groups: Iterable[str]) -> "TransferTable | None":
        """The table without these groups' columns; None where nothing is left."""
        leaving = frozenset(groups)
        known = [t for t, group in enumerate(self.groups) if group not in leaving]
        return self.described.columns(known) if known else None


@dataclass(frozen=True, eq=False)
class Query:
    """One unseen target: all that a ranking may know about it. It has no field for scores."""

    target: str
    """Its name."""
    candidates: Mask
    """(n_sources,): may be ranked (not an own cell)."""
    pair_features: Mapping[str, Array] = field(default_factory=dict)
    """Raw numbers per source, (n_sources,)."""
    target_features: Mapping[str, float] = field(default_factory=dict)
    """Raw numbers of the target; NaN where unknown."""
    level_features: Mapping[str, float] = field(default_factory=dict)
    """What may tell how much the target allows; NaN where unknown."""
    similarity: Array | None = None
    """(n_targets of the table,) given similarity to each measured task."""
    likeness: Mapping[str, Array] = field(default_factory=dict)
    """How near each measured task is, in every known way, and last the target to itself,
    (n_targets of the table + 1,)."""
    vectors: Mapping[str, Array] = field(default_factory=dict)
    """Embeddings of the target by name, (d,)."""
    rivals: Mapping[str, Array] = field(default_factory=dict)
    """Others' predictions for this target, (n_sources,)."""

    @property
    def base_hint(self) -> float | None:
        """The base's score on the target, on other rows than any gain; None where unknown."""
        value = self.target_features.get(BASE_SCORE, float("nan"))
        return value if np.isfinite(value) else None


@dataclass(frozen=True, eq=False)
class Fold:
    """A table that has never seen some groups, and the queries for their columns."""

    table: TransferTable
    """What may be learned from."""
    held: tuple[int, ...]
    """Column numbers, in the table that was split, of the queries."""
    queries: tuple[Query, ...]
    """One per held column."""


def table_from_matrix(matrix: TransferMatrix, *, unit: Unit) -> TransferTable:
    """Turn records into arrays: the tasks of one unit, a row per adapter.

    Cells measured under another protocol than the base's cell of the same task are left out, and
    said so: a difference of protocols is not a gain. `features.registry_table` adds features.
    """
    tasks = [task for task in matrix.tasks if METRIC_UNITS[task.metric] == unit]
    row = {adapter.adapter_id: s for s, adapter in enumerate(matrix.adapters)}
    column = {task.name: t for t, task in enumerate(tasks)}
    shape = (len(row), len(column))
    scores, errors = np.full(shape, np.nan), np.full(shape, np.nan)
    base_scores = np.full(shape[1], np.nan)
    metrics = {task.name: task.metric for task in tasks}
    # A model that is shown examples is no candidate, and its gain is not an adapter's.
    usable = [
        cell
        for cell in matrix.cells
        if metrics.get(cell.task) == cell.metric and not cell.row.shots
    ]
    protocols = {cell.task: cell.protocol for cell in usable if cell.row == BASE_ROW}
    foreign: dict[str, int] = {}
    for cell in usable:
        if cell.protocol != protocols.get(cell.task, cell.protocol):
            foreign[cell.task] = foreign.get(cell.task, 0) + 1
        elif cell.row == BASE_ROW:
            base_scores[column[cell.task]] = cell.score
        elif cell.row.model in row:
            scores[row[cell.row.model], column[cell.task]] = cell.score
            error = float("nan") if cell.se is None else cell.se
            errors[row[cell.row.model], column[cell.task]] = error
    groups = tuple(task.group for task in tasks)
    own = np.array([[a.has_seen(group) for group in groups] for a in matrix.adapters], dtype=bool)
    return TransferTable(
        sources=tuple(row),
        targets=tuple(column),
        groups=groups,
        scores=scores,
        base_scores=base_scores,
        own=own.reshape(shape),
        errors=errors,
        unit=unit,
        regime=matrix.regime,
        warnings=tuple(
            f"{n} cell(s) of {task} were measured under another protocol than the base model's "
            "and are left out."
            for task, n in foreign.items()
        ),
    )


def consensus(own: TransferTable, others: Mapping[str, TransferTable]) -> TransferTable | None:
    """How adapters of the same names did under other base models: mean z per task, as a table.

    Only tasks of `own` (by name) are kept, so whatever group leaves `own` leaves here too. None
    where no other table of the same regime and unit shares three sources and three targets.

    Args:
        own: The table to lend to.
        others: Those of the other base models, by a name that can be shown.
    """
    found: dict[int, list[Array]] = {}
    lenders: dict[str, None] = {}
    for lender, other in others.items():
        row = {name: s for s, name in enumerate(other.sources)}
        rows = np.array([row.get(name, -1) for name in own.sources], dtype=np.intp)
        column = {name: t for t, name in enumerate(other.targets)}
        shared = [(t, column[name]) for t, name in enumerate(own.targets) if name in column]
        few = min(int((rows >= 0).sum()), len(shared)) < _MIN_SHARED
        if (other.regime, other.unit) != (own.regime, own.unit) or few:
            continue
        for t, c in shared:
            standing = np.where(
                (rows >= 0) & ~own.own[:, t], other.transfer_scores[rows, c], np.nan
            )
            if np.isfinite(standing).sum() >= _MIN_SHARED:
                lenders[lender] = None
                found.setdefault(t, []).append(standardise(standing))
    if not found:
        return None
    scores = np.full(own.scores.shape, np.nan)
    for t, standings in found.items():
        scores[:, t] = mean_of_known(np.column_stack(standings))
    whole = replace(
        own.described,
        scores=scores,
        base_scores=np.full(len(own.targets), np.nan),
        errors=np.full(scores.shape, np.nan),
        elsewhere=None,
        lenders=tuple(lenders),
        rivals={},
        warnings=(),
    )
    return whole.columns(sorted(found))
