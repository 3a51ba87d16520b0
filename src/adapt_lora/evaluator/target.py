"""Measuring a few adapters against their base on an unseen target, batch of rows by batch."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from pathlib import Path
from random import Random

from adapt_lora.data import Dataset, Row
from adapt_lora.errors import TaskError
from adapt_lora.evaluator.cells import CellResult
from adapt_lora.evaluator.measuring import Measuring
from adapt_lora.evaluator.plan import MatrixPlan, measure_pace
from adapt_lora.evaluator.tasks import Task
from adapt_lora.model.scoring import Steps
from adapt_lora.registry.records import BASE_ROW, Cell, MatrixRow

_SWITCH_S = 1.0  # putting a 135M model's adapter on and checking that it is: .6-1.2 s on two cores


@dataclass(frozen=True, slots=True)
class PairedGain:
    """What an adapter gained over its base on the same rows."""

    gain: float
    """Difference of scores, in the metric's unit."""
    se: float
    """Its standard error, paired by row; at least 1/n."""
    n: int
    """Rows."""


@dataclass(frozen=True, slots=True)
class TargetBatch:
    """What came out for one batch of rows."""

    gains: Mapping[str, PairedGain]
    """By adapter id."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Adapter id → why it could not be measured."""


class TargetMeter:
    """Measures adapters on a target's rows; what it measured before it only looks up.

    Args:
        measuring: What measures; the cells bear the mark `selected`, whatever it says.
        dataset: The target's data, for the digests of its batches.
        task: The target with all its rows. They are taken in an order drawn by `seed`, in which
            every stretch holds the labels in about their shares.
        folder_of: Where an adapter's files are; asked only for those that are run.
        measured: (row, task, protocol digest) of the cells that there are.
        find_cell: (row, protocol digest) to a stored cell, or None.
        save_cell: Keeps a cell.
        seed: Decides the order of the rows.
        progress: Told (tokens done, tokens in all) within a batch.
    """

    def __init__(
        self,
        measuring: Measuring,
        dataset: Dataset,
        task: Task,
        *,
        folder_of: Callable[[str], Path],
        measured: Collection[tuple[MatrixRow, str, str]],
        find_cell: Callable[[MatrixRow, str], Cell | None],
        save_cell: Callable[[CellResult, Task], None],
        seed: int = 0,
        progress: Steps | None = None,
    ) -> None:
        self._measuring = replace(measuring, selected=True)
        self._dataset, self._task = dataset, task
        self._folder_of, self._measured = folder_of, measured
        self._find_cell, self._save_cell = find_cell, save_cell
        self._progress = progress
        self._rows = spread_rows(task, seed=seed)
        self._base_cells: list[Cell] = []

    @property
    def base_score(self) -> tuple[float, float]:
        """Score and standard error of the bare base on all rows measured so far."""
        n = sum(cell.n or 0 for cell in self._base_cells)
        score = sum((cell.n or 0) * cell.score for cell in self._base_cells) / n
        error = sqrt(sum(((cell.n or 0) * (cell.se or 0.0)) ** 2 for cell in self._base_cells)) / n
        return score, error

    def estimated_s(self, rounds: Sequence[tuple[Sequence[str], range]]) -> float:
        """Seconds that these (adapters, rows) would take, from a few rows read by the base now."""
        plans = [
            self._plan([(name, Path(name)) for name in names], self._batch(rows))
            for names, rows in rounds
        ]
        if not any(plan.n_tokens for plan in plans):
            return 0.0
        everything = self._measuring.plan((), [self._batch(range(len(self._rows)))])
        pace = measure_pace(self._measuring.backend, everything)
        if pace is None:
            return 0.0
        switches = sum(unit.folder is not None for plan in plans for unit in plan.units)
        return sum(plan.span(pace).likely_s for plan in plans) + _SWITCH_S * switches

    def measure(self, adapter_ids: Sequence[str], rows: range) -> TargetBatch:
        """Gains of these adapters on rows `rows` of the shuffled target.

        Raises:
            TaskError: The base itself can't be measured there.
        """
        batch = self._batch(rows)
        fresh: dict[MatrixRow, CellResult] = {}

        def keep(result: CellResult) -> None:
            fresh[result.cell.row] = result
            self._save_cell(result, batch)

        plan = self._plan([(name, self._folder_of(name)) for name in adapter_ids], batch)
        report = self._measuring.run(plan, keep, progress=self._progress)
        why = {failure.row: failure.reason for failure in report.failures}
        protocol = report.protocols[batch.record.name]

        def cell_of(row: MatrixRow) -> Cell | None:
            return fresh[row].cell if row in fresh else self._find_cell(row, protocol)

        bare = cell_of(BASE_ROW)
        if bare is None or bare.se is None:
            raise TaskError(
                f"{batch.record.name}: the base model could not be measured on the target "
                f"({why.get(BASE_ROW, 'no score came out')})."
            )
        self._base_cells.append(bare)
        cells = {name: cell_of(MatrixRow(name)) for name in adapter_ids}
        return TargetBatch(
            gains={name: _gain(cell, bare) for name, cell in cells.items() if cell is not None},
            failures={
                name: why.get(MatrixRow(name), "no score came out")
                for name, cell in cells.items()
                if cell is None
            },
        )

    def _batch(self, rows: range) -> Task:
        chosen = tuple(self._rows[i] for i in rows)
        digest = replace(self._dataset, rows=chosen).digest
        record = self._task.record
        dataset = replace(record.dataset, digest=digest, n_rows=len(chosen))
        return Task(replace(record, dataset=dataset), chosen)

    def _plan(self, adapters: Sequence[tuple[str, Path]], batch: Task) -> MatrixPlan:
        rows = [(MatrixRow(name), folder) for name, folder in adapters]
        return self._measuring.plan(rows, [batch], measured=self._measured)


def spread_rows(task: Task, *, seed: int) -> tuple[Row, ...]:
    """The rows in a drawn order in which every stretch has the labels in about their shares."""
    rng = Random(seed)
    shuffled = list(task.rows)
    rng.shuffle(shuffled)
    if not task.is_label_task:
        return tuple(shuffled)
    of_label: dict[str | None, list[Row]] = {}
    for row in shuffled:
        of_label.setdefault(row.label, []).append(row)
    placed = [
        ((place + rng.random()) / len(rows), row)
        for rows in of_label.values()
        for place, row in enumerate(rows)
    ]
    return tuple(row for _, row in sorted(placed, key=lambda item: item[0]))


def _gain(cell: Cell, base: Cell) -> PairedGain:
    n = cell.n or 0
    # Constant answers come with no error at all, yet one more row could break the habit.
    error = max(cell.gain_se(base) or 0.0, 1 / max(n, 1))
    return PairedGain(cell.score - base.score, error, n)
