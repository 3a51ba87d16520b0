"""Twins: what one change of the training data does to transfer.

Krishna et al. 2025 (latent traits) train on a dataset and on a balanced or mislabelled copy of it
(their section 5.4, Tables 3-5). Adapters of one group are such twins; here the scores of two of
them are held against each other, task by task.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from adapt_lora.registry.fingerprint.labels import entropy
from adapt_lora.registry.records import AdapterRecord, Cell, TaskRecord, TransferMatrix, Unit


@dataclass(frozen=True, slots=True)
class TaskDifference:
    """What two twins score on one task, one against the other."""

    task: str
    """Name of the task."""
    difference: float
    """Score of `first` minus score of `second`, in the task's unit."""
    se: float | None
    """Standard error of the difference, as if the two scores were independent: for scores on the
    same rows this errs on the wide side. None where a score came without."""


@dataclass(frozen=True, slots=True)
class MeanDifference:
    """A mean over foreign task groups, each the mean of its tasks."""

    mean: float
    """First minus second."""
    interval: tuple[float, float] | None
    """Student's t interval over task groups; None with fewer than three."""
    interval_level: float
    """Its level, e.g. 0.9."""
    n_task_groups: int
    """Foreign task groups behind it."""


@dataclass(frozen=True, slots=True)
class TwinComparison:
    """Two adapters of one group on the tasks that both were measured on, in one unit."""

    first: str
    """Name of the adapter; the changed copy where the other one is its original."""
    second: str
    """Name of the adapter that it is held against."""
    unit: Unit
    """What scores are counted in."""
    scores: MeanDifference
    """Of the scores."""
    evenness: MeanDifference | None
    """Of the entropy of the labels that each predicts, as a share of its largest value, in
    [0, 1]: 0 says one label to every row. None without label tasks."""
    foreign: tuple[TaskDifference, ...]
    """By task, the largest difference first, whichever way it goes."""
    own: tuple[TaskDifference, ...]
    """On the tasks of their own group, in-domain."""

    @property
    def mean_absolute(self) -> float:
        """Mean over foreign tasks of the differences' sizes: how far apart the twins are."""
        return float(np.mean([abs(one.difference) for one in self.foreign]))


def compare_twins(matrix: TransferMatrix, *, level: float = 0.9) -> tuple[TwinComparison, ...]:
    """Every pair of adapters of one group, on tasks measured under one protocol.

    Args:
        matrix: Scores; adapters whose group is unknown have no twins.
        level: Level of the intervals.

    Returns:
        One comparison per pair and unit that has foreign tasks, in the matrix's order.
    """
    cells = {(cell.row, cell.task): cell for cell in matrix.cells}
    found = []
    for first, second in _pairs(matrix.adapters):
        shared: dict[Unit, list[_Shared]] = defaultdict(list)
        for task in matrix.tasks:
            a = cells.get((first.row, task.name))
            b = cells.get((second.row, task.name))
            if a is not None and b is not None and _comparable(a, b):
                shared[task.unit].append(_Shared(task, a, b))
        for unit, both in shared.items():
            foreign = [one for one in both if one.task.group != first.group]
            if foreign:
                own = [one for one in both if one.task.group == first.group]
                found.append(_compared(first, second, unit, foreign, own, level))
    return tuple(found)


class _Shared(NamedTuple):
    """A task that both twins were measured on."""

    task: TaskRecord
    first: Cell
    second: Cell


def _pairs(adapters: Sequence[AdapterRecord]) -> Iterator[tuple[AdapterRecord, AdapterRecord]]:
    by_group: dict[str, list[AdapterRecord]] = defaultdict(list)
    for record in adapters:
        if record.group is not None:
            by_group[record.group].append(record)
    for members in by_group.values():
        copies_first = sorted(members, key=lambda record: not _is_copy(record))
        yield from itertools.combinations(copies_first, 2)


def _is_copy(record: AdapterRecord) -> bool:
    return record.dataset is not None and bool(record.dataset.parent)


def _comparable(first: Cell, second: Cell) -> bool:
    return (first.metric, first.protocol) == (second.metric, second.protocol)


def _compared(
    first: AdapterRecord,
    second: AdapterRecord,
    unit: Unit,
    foreign: Sequence[_Shared],
    own: Sequence[_Shared],
    level: float,
) -> TwinComparison:
    scores = [(one.task.group, one.first.score - one.second.score) for one in foreign]
    evenness = [
        (one.task.group, a - b)
        for one in foreign
        for a, b in [(_evenness(one.first, one.task), _evenness(one.second, one.task))]
        if a is not None and b is not None
    ]
    differences = [_difference(one) for one in foreign]
    return TwinComparison(
        first=first.name,
        second=second.name,
        unit=unit,
        scores=_mean_difference(scores, level),
        evenness=_mean_difference(evenness, level) if evenness else None,
        foreign=tuple(sorted(differences, key=lambda one: (-abs(one.difference), one.task))),
        own=tuple(_difference(one) for one in own),
    )


def _difference(shared: _Shared) -> TaskDifference:
    a, b = shared.first, shared.second
    se = None if a.se is None or b.se is None else math.hypot(a.se, b.se)
    return TaskDifference(shared.task.name, a.score - b.score, se)


def _evenness(cell: Cell, task: TaskRecord) -> float | None:
    """Entropy of the predicted labels' shares over its largest value; None without labels."""
    if not cell.predicted_shares or len(task.labels) < 2:
        return None
    return entropy(tuple(cell.predicted_shares.values())) / math.log(len(task.labels))


def _mean_difference(by_group: Sequence[tuple[str, float]], level: float) -> MeanDifference:
    from scipy.stats import t

    members: dict[str, list[float]] = defaultdict(list)
    for group, value in by_group:
        members[group].append(value)
    means = np.array([np.mean(values) for values in members.values()])
    n, mean = len(means), float(means.mean())
    interval = None
    if n >= 3:
        half = float(t.ppf((1 + level) / 2, n - 1)) * float(means.std(ddof=1)) / math.sqrt(n)
        interval = (mean - half, mean + half)
    return MeanDifference(mean, interval, level, n)
