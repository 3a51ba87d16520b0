"""Gains over the base model, read from a transfer matrix for showing."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from adapt_lora.errors import NotFoundError
from adapt_lora.registry.records import (
    BASE_ID,
    BASE_ROW,
    MAJORITY_ID,
    MAJORITY_ROW,
    METRIC_UNITS,
    AdapterRecord,
    Cell,
    MatrixRow,
    TaskRecord,
    TransferMatrix,
    Unit,
    row_labels,
)
from adapt_lora.report.wording import UNIT_WORDS, one_line

if TYPE_CHECKING:
    from adapt_lora.results import Evaluation

MatrixValues = Literal["gain", "score"]


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
    """Standard error of the gain: of the differences row by row where both were at hand, else as if
    the two scores were independent, which is too wide. None where a score came without."""
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


def gain_rows(matrix: TransferMatrix) -> tuple[MatrixRow, ...]:
    """All rows with gains: few-shot rows as they were measured, then the adapters."""
    return tuple(row for row in matrix.rows if not row.is_reference)


def filter_matrix(
    matrix: TransferMatrix,
    *,
    adapters: Sequence[str] = (),
    tasks: Sequence[str] = (),
    families: Sequence[str] = (),
) -> TransferMatrix:
    """The part of a matrix with these names; base and majority rows stay.

    Args:
        matrix: All of it.
        adapters: Names, name/version, or patterns with "*"; few-shot rows of an adapter go with it.
            Empty for all.
        tasks: The same for tasks.
        families: The same for families of tasks.

    Raises:
        NotFoundError: A name or pattern fits nothing.
    """
    labels = row_labels(matrix.adapters)
    known = [name for r in matrix.adapters for name in {r.name, labels[r.adapter_id]}]
    _check_known(adapters, known, "adapter")
    _check_known(tasks, [task.name for task in matrix.tasks], "task")
    _check_known(families, [task.family for task in matrix.tasks if task.family], "family")
    kept = tuple(
        record
        for record in matrix.adapters
        if _fits(record.name, adapters) or _fits(labels[record.adapter_id], adapters)
    )
    columns = tuple(
        task for task in matrix.tasks if _fits(task.name, tasks) and _fits(task.family, families)
    )
    models = {BASE_ID, MAJORITY_ID, *(record.adapter_id for record in kept)}
    names = {task.name for task in columns}
    cells = tuple(cell for cell in matrix.cells if cell.row.model in models and cell.task in names)
    return replace(matrix, adapters=kept, tasks=columns, cells=cells)


def asked_part(evaluation: "Evaluation") -> TransferMatrix:
    """The part of the matrix that an evaluation was about: its tasks, and the rows it asked for.

    Cells that were there before are among them; rows of other adapters and all other tasks are not.
    """
    matrix = evaluation.matrix
    rows = {BASE_ROW, MAJORITY_ROW, *evaluation.names}
    return replace(
        matrix,
        adapters=tuple(record for record in matrix.adapters if record.row in rows),
        tasks=tuple(task for task in matrix.tasks if task.name in evaluation.read),
        cells=tuple(
            cell for cell in matrix.cells if cell.row in rows and cell.task in evaluation.read
        ),
    )


def matrix_csv(
    matrix: TransferMatrix, *, values: MatrixValues = "gain", errors: bool = False
) -> str:
    """A line per row, a column per task, gaps empty; `adapt traits --scores` reads such scores.

    Args:
        matrix: What to write.
        values: Gains of all rows that have any, or scores of all rows.
        errors: Follow each column by one of standard errors, "TASK se".
    """
    rows = matrix.rows if values == "score" else gain_rows(matrix)
    heads = [
        head for t in matrix.tasks for head in ((t.name, f"{t.name} se") if errors else (t.name,))
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["adapter", *heads])
    cells = cells_by_place(matrix)
    for row in rows:
        line = [row.label]
        for task in matrix.tasks:
            figure = figure_of(cells, row, task, values=values)
            line.append("" if figure is None else f"{figure.value:.6g}")
            if errors:
                line.append("" if figure is None or figure.se is None else f"{figure.se:.6g}")
        writer.writerow(line)
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class Figure:
    """What stands in one place of a shown matrix."""

    value: float
    """Gain or score; in [-1, 1] for points, nats per token for log-likelihood."""
    se: float | None
    """Its standard error; None where none is known."""


def figure_of(
    cells: Mapping[tuple[MatrixRow, str], Cell],
    row: MatrixRow,
    task: TaskRecord,
    *,
    values: MatrixValues,
) -> Figure | None:
    """The gain or score of one place; None where it was not measured."""
    if values == "gain":
        gain = gain_of(cells, row, task)
        return None if gain is None else Figure(gain.gain, gain.se)
    cell = cells.get((row, task.name))
    return None if cell is None else Figure(cell.score, cell.se)


def is_own_cell(adapter: AdapterRecord, task: TaskRecord) -> bool:
    """Whether the adapter was trained on the task's group; False where its data is unknown."""
    return adapter.has_seen(task.group)


def adapter_gains(matrix: TransferMatrix, adapter: AdapterRecord) -> tuple[TaskGain, ...]:
    """The adapter's measured gains in the order of the matrix's tasks, own cells among them."""
    return _row_gains(cells_by_place(matrix), matrix.tasks, adapter)


def _row_gains(
    cells: Mapping[tuple[MatrixRow, str], Cell], tasks: Sequence[TaskRecord], adapter: AdapterRecord
) -> tuple[TaskGain, ...]:
    found = (gain_of(cells, adapter.row, t, own=is_own_cell(adapter, t)) for t in tasks)
    return tuple(gain for gain in found if gain is not None)


@dataclass(frozen=True, slots=True)
class GainSummary:
    """What an adapter gains on the tasks of one unit."""

    unit: Unit
    """What its gains are counted in; gains of two units are never averaged."""
    mean: float | None
    """Mean gain over the other tasks, those of its own group left out; None without any."""
    n_tasks: int
    """Other tasks that it was measured on."""
    own: float | None
    """Mean gain on the tasks of its own group; None where there is none."""


def summarise_gains(gains: Sequence[TaskGain]) -> tuple[GainSummary, ...]:
    """A summary for each unit that there are gains in, points first."""
    summaries = []
    for unit in UNIT_WORDS:
        others = [gain.gain for gain in gains if gain.unit == unit and not gain.own]
        own = [gain.gain for gain in gains if gain.unit == unit and gain.own]
        if others or own:
            summaries.append(GainSummary(unit, _mean(others), len(others), _mean(own)))
    return tuple(summaries)


def gain_summaries(matrix: TransferMatrix) -> dict[str, tuple[GainSummary, ...]]:
    """What every adapter of a matrix gains, by adapter id."""
    cells = cells_by_place(matrix)
    return {
        adapter.adapter_id: summarise_gains(_row_gains(cells, matrix.tasks, adapter))
        for adapter in matrix.adapters
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def cells_by_place(matrix: TransferMatrix) -> dict[tuple[MatrixRow, str], Cell]:
    """The matrix's cells by (row, task name)."""
    return {(cell.row, cell.task): cell for cell in matrix.cells}


def gain_of(
    cells: Mapping[tuple[MatrixRow, str], Cell],
    row: MatrixRow,
    task: TaskRecord,
    *,
    own: bool = False,
) -> TaskGain | None:
    """The gain of one cell over the base's; None where either was not measured the same way."""
    cell, base = cells.get((row, task.name)), cells.get((BASE_ROW, task.name))
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


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_known(patterns: Sequence[str], names: Sequence[str], what: str) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            known = ", ".join(one_line(name, limit=40) for name in sorted(set(names))[:8])
            raise NotFoundError(
                f"No {what} {pattern!r} in the matrix (there are: {known or 'none'})."
            )
