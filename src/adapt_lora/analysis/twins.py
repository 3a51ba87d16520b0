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
from typing import Any

import numpy as np

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
class TwinComparison:
    """Two adapters of one group on the tasks that both were measured on, in one unit."""

    first: str
    """Name of the adapter; the changed copy where the other one is its original."""
    second: str
    """Name of the adapter that it is held against."""
    unit: Unit
    """What scores are counted in."""
    mean: float
    """Mean difference over foreign task groups, each the mean of its tasks."""
    interval: tuple[float, float] | None
    """Student's t interval of that mean over task groups; None with fewer than three."""
    interval_level: float
    """Its level, e.g. 0.9."""
    n_task_groups: int
    """Foreign task groups behind it."""
    foreign: tuple[TaskDifference, ...]
    """By task, the largest difference first, whichever way it goes."""
    own: tuple[TaskDifference, ...]
    """On the tasks of their own group, in-domain."""

    @property
    def mean_absolute(self) -> float:
        """Mean over foreign tasks of the differences' sizes: how far apart the twins are."""
        return float(np.mean([abs(one.difference) for one in self.foreign]))

    def to_json(self) -> dict[str, Any]:
        """Plain values; absent keys are unknown."""
        content: dict[str, Any] = {
            "first": self.first,
            "second": self.second,
            "unit": self.unit,
            "mean": self.mean,
            "mean_absolute": self.mean_absolute,
            "n_task_groups": self.n_task_groups,
            "foreign": [_difference_json(one) for one in self.foreign],
            "own": [_difference_json(one) for one in self.own],
        }
        if self.interval is not None:
            content |= {"interval": list(self.interval), "interval_level": self.interval_level}
        return content


def compare_twins(matrix: TransferMatrix, *, level: float = 0.9) -> tuple[TwinComparison, ...]:
    """Every pair of adapters of one group, on tasks measured under one protocol.

    Args:
        matrix: Scores; adapters whose group is unknown have no twins.
        level: Level of the intervals.

    Returns:
        One comparison per pair and unit that has foreign tasks, in the matrix's order.
    """
    cells = {(cell.adapter_id, cell.task): cell for cell in matrix.cells}
    found = []
    for first, second in _pairs(matrix.adapters):
        by_unit: dict[Unit, list[tuple[TaskRecord, TaskDifference]]] = defaultdict(list)
        for task in matrix.tasks:
            difference = _difference(
                cells.get((first.adapter_id, task.name)), cells.get((second.adapter_id, task.name))
            )
            if difference is not None:
                by_unit[task.unit].append((task, difference))
        for unit, differences in by_unit.items():
            comparison = _compared(first, second, unit, differences, level)
            if comparison is not None:
                found.append(comparison)
    return tuple(found)


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


def _difference(first: Cell | None, second: Cell | None) -> TaskDifference | None:
    if first is None or second is None:
        return None
    if (first.metric, first.protocol) != (second.metric, second.protocol):
        return None
    known = first.se is not None and second.se is not None
    se = math.hypot(first.se or 0.0, second.se or 0.0) if known else None
    return TaskDifference(first.task, first.score - second.score, se)


def _compared(
    first: AdapterRecord,
    second: AdapterRecord,
    unit: Unit,
    differences: Sequence[tuple[TaskRecord, TaskDifference]],
    level: float,
) -> TwinComparison | None:
    by_group: dict[str, list[float]] = defaultdict(list)
    for task, one in differences:
        if task.group != first.group:
            by_group[task.group].append(one.difference)
    if not by_group:
        return None
    means = np.array([np.mean(values) for values in by_group.values()])
    foreign = [one for task, one in differences if task.group != first.group]
    return TwinComparison(
        first=first.name,
        second=second.name,
        unit=unit,
        mean=float(means.mean()),
        interval=_t_interval(means, level),
        interval_level=level,
        n_task_groups=len(means),
        foreign=tuple(sorted(foreign, key=lambda one: (-abs(one.difference), one.task))),
        own=tuple(one for task, one in differences if task.group == first.group),
    )


def _t_interval(values: np.ndarray, level: float) -> tuple[float, float] | None:
    from scipy.stats import t

    n = len(values)
    if n < 3:
        return None
    half = float(t.ppf((1 + level) / 2, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    return float(values.mean()) - half, float(values.mean()) + half


def twins_json(comparisons: Sequence[TwinComparison]) -> dict[str, Any]:
    """The object of `analyse twins --json`."""
    return {"schema_version": 1, "twins": [comparison.to_json() for comparison in comparisons]}


def _difference_json(one: TaskDifference) -> dict[str, Any]:
    content: dict[str, Any] = {"task": one.task, "difference": one.difference}
    return content if one.se is None else content | {"se": one.se}
