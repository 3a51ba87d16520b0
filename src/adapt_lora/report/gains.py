"""Gains over the base model, read from a transfer matrix for showing."""

from collections.abc import Mapping
from dataclasses import dataclass

from adapt_lora.registry.records import (
    BASE_ID,
    METRIC_UNITS,
    AdapterRecord,
    Cell,
    TaskRecord,
    TransferMatrix,
    Unit,
)


@dataclass(frozen=True, slots=True)
class TaskGain:
    """What one adapter did on one task, beside the base model on the same rows."""

    task: str
    """Name of the task."""
    metric: str
    """The metric of both scores; one of METRIC_UNITS."""
    score: float
    """With the adapter; in [0, 1] for points, nats per token for log-likelihood."""
    base_score: float
    """Base model alone."""
    se: float | None
    """Standard error of the gain, as if the two scores were independent: for scores on the same
    rows this errs on the wide side. None where a score came without."""
    n: int | None
    """Rows scored; None where nobody says."""
    own: bool = False
    """Whether adapter and task are of one group, so that the gain says nothing about transfer."""

    @property
    def gain(self) -> float:
        """Score minus base score."""
        return self.score - self.base_score

    @property
    def unit(self) -> Unit:
        """What the gain is counted in."""
        return METRIC_UNITS[self.metric]


def is_own_cell(adapter: AdapterRecord, task: TaskRecord) -> bool:
    """Whether the adapter was trained on the task's group; False where its data is unknown."""
    return adapter.group is not None and adapter.group == task.group


def adapter_gains(matrix: TransferMatrix, adapter: AdapterRecord) -> tuple[TaskGain, ...]:
    """The adapter's measured gains in the order of the matrix's tasks, own cells among them."""
    cells = cells_by_place(matrix)
    gains = []
    for task in matrix.tasks:
        gain = gain_of(cells, adapter.adapter_id, task, own=is_own_cell(adapter, task))
        if gain is not None:
            gains.append(gain)
    return tuple(gains)


def cells_by_place(matrix: TransferMatrix) -> dict[tuple[str, str], Cell]:
    """The matrix's cells by (adapter_id, task name)."""
    return {(cell.adapter_id, cell.task): cell for cell in matrix.cells}


def gain_of(
    cells: Mapping[tuple[str, str], Cell], adapter_id: str, task: TaskRecord, *, own: bool = False
) -> TaskGain | None:
    """The gain of one cell over the base's; None where either was not measured the same way."""
    cell, base = cells.get((adapter_id, task.name)), cells.get((BASE_ID, task.name))
    if cell is None or base is None:
        return None
    if (cell.metric, cell.column) != (base.metric, base.column):
        return None
    return TaskGain(
        task=task.name,
        metric=cell.metric,
        score=cell.score,
        base_score=base.score,
        se=cell.gain_se(base),
        n=cell.n,
        own=own,
    )
