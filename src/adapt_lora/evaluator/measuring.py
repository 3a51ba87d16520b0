"""Measuring: adapters × tasks as cells, each measured once and handed on at once."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from adapt_lora.errors import AdapterError, TaskError, failure_reason
from adapt_lora.evaluator.backends import Backend, MixingBackend
from adapt_lora.evaluator.cells import (
    CellFailure,
    CellResult,
    CellUnit,
    measure_cell,
)
from adapt_lora.evaluator.comparison import compare_with_base
from adapt_lora.evaluator.fewshot import Shots
from adapt_lora.evaluator.grading import Grader, needed_grader
from adapt_lora.evaluator.metrics import FloatArray, LabelDecision
from adapt_lora.evaluator.plan import MatrixPlan, read_rows, show_examples, size_task
from adapt_lora.evaluator.protocol import Protocol
from adapt_lora.evaluator.tasks import Task
from adapt_lora.model.scoring import Steps
from adapt_lora.registry.records import BASE_ROW, MAJORITY_ROW, Cell, MatrixRow, Prediction

N_PROBE_ROWS = 3
"""Rows on which an adapter must differ from its base, to show that it is on."""


@dataclass(frozen=True, slots=True)
class MatrixReport:
    """What an evaluation did."""

    cells: tuple[Cell, ...]
    """Cells measured and saved, in order."""
    failures: tuple[CellFailure, ...]
    """Cells that could not be measured."""
    n_skipped: int
    """Cells left alone because they were measured already."""
    protocols: Mapping[str, str]
    """Digest of the protocol that each task is scored under, by task; without examples shown."""
    n_tokens: int
    """Tokens planned for the measured cells."""
    seconds: float
    """Wall time."""
    n_failed: int = 0
    """Cells planned that came to nothing, and tasks that could not be planned; a failure may stand
    for several of these cells."""


@dataclass(frozen=True, slots=True)
class Measuring:
    """What measures cells, and how: the same for all cells of an evaluation."""

    backend: Backend
    """Scores and writes."""
    decision: LabelDecision = "sum"
    """How a label is chosen."""
    graders: Mapping[str, Grader] = field(default_factory=dict)
    """By metric, what grades written answers where a reference alone can't."""
    keep_text: bool = False
    """Whether predictions keep written answers."""
    selected: bool = False
    """Marks the cells as chosen by a ranking (verification)."""
    base_predictions: Callable[[str, str], Sequence[Prediction]] | None = None
    """By (task, protocol digest) the bare base's predictions of an earlier run, none where there
    are none, so that gains over a base that is not measured again are tested too."""
    recall: Callable[[MatrixRow, Protocol], Mapping[str, Prediction]] | None = None
    """What came out for rows of any cell of this row of the matrix under this protocol, whichever
    rows that cell was made of, by digest of the row; those are not run again."""

    def plan(
        self,
        adapters: Sequence[tuple[MatrixRow, Path]],
        tasks: Sequence[Task],
        *,
        measured: Collection[tuple[MatrixRow, str, str]] = (),
        shots: Mapping[str, Shots] | None = None,
    ) -> MatrixPlan:
        """Lay out the cells of adapters × tasks that are not measured yet.

        The base's row comes first, then the majority label of label tasks, then the adapters, each
        with all of its tasks, so that it is put on once.

        Args:
            adapters: (row, folder) pairs.
            tasks: Tasks with distinct names.
            measured: (row, task, protocol digest) of the cells that there are; those are not
                measured again.
            shots: Examples by task; then these tasks get few-shot rows of the adapters, or of the
                base where there are none, beside the bare base.

        Raises:
            TaskError: Two tasks share a name, or a metric needs a grader that is not there.
        """
        names = [task.record.name for task in tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise TaskError(
                f"Two tasks are named '{twice[0]}'; a matrix needs one column each. Rename one."
            )
        sized = {
            task.record.name: size_task(
                self.backend,
                task,
                decision=self.decision,
                grader=needed_grader(task, self.graders),
            )
            for task in tasks
        }
        asked = list(sized.values())
        asked += [
            replace(unit, row=MAJORITY_ROW, n_tokens=0, n_written=0)
            for unit in sized.values()
            if unit.task.is_label_task
        ]
        if shots is None:
            asked += [
                replace(unit, row=row, folder=Path(folder))
                for row, folder in adapters
                for unit in sized.values()
            ]
        else:
            rows: Sequence[tuple[MatrixRow, Path | None]] = adapters or [(BASE_ROW, None)]
            asked += [
                show_examples(self.backend, sized[name], row, folder, examples)
                for row, folder in rows
                for name, examples in shots.items()
            ]
        missing = tuple(
            self._recalled(unit)
            for unit in asked
            if (unit.row, unit.task.record.name, unit.protocol.digest) not in measured
        )
        protocols = {name: unit.protocol.digest for name, unit in sized.items()}
        return MatrixPlan(missing, len(asked) - len(missing), protocols)

    def _recalled(self, unit: CellUnit) -> CellUnit:
        """The unit with what is known of its rows, and the tokens of the others."""
        if self.recall is None or unit.row == MAJORITY_ROW:
            return unit
        needs_text = self.keep_text and unit.task.is_generated
        answered = {
            digest: prediction
            for digest, prediction in self.recall(unit.row, unit.protocol).items()
            if prediction.answer is not None or not needs_text
        }
        known = {
            row.digest: answered[row.digest] for row in unit.task.rows if row.digest in answered
        }
        if not known:
            return unit
        unit = replace(unit, known=known)
        left = len(unit.unknown.rows) / len(unit.task.rows)
        counts = ("n_tokens", "n_written", "n_reference", "n_likely")
        planned = {name: getattr(unit, name) for name in counts}
        fewer = {name: round(left * n) for name, n in planned.items() if n is not None}
        return replace(unit, **fewer)

    def run(
        self,
        plan: MatrixPlan,
        save: Callable[[CellResult], None],
        *,
        progress: Steps | None = None,
        elsewhere: Iterable[tuple[CellUnit, CellResult | CellFailure]] | None = None,
    ) -> MatrixReport:
        """Measure what is planned.

        A cell is handed to `save` the moment it is done, so a killed run loses the cell in hand and
        no more. A cell that fails is named in the report and the others go on; what `save` raises
        goes through.

        Args:
            plan: What to measure.
            save: Keeps a cell.
            progress: Told (tokens done, tokens in all).
            elsewhere: The plan's units with what came of them, as other processes measure them, in
                any order; None to measure them here.
        """
        started = time.perf_counter()
        cells: list[Cell] = []
        failures: list[CellFailure] = []
        for outcome in (
            self.outcomes(plan.units, progress=progress)
            if elsewhere is None
            else self._compared(_base_first(_told(elsewhere, progress, plan), plan.units))
        ):
            if isinstance(outcome, CellFailure):
                failures.append(outcome)
            else:
                save(outcome)
                cells.append(outcome.cell)
        failed = {(failure.row, failure.task) for failure in failures}
        return MatrixReport(
            cells=tuple(cells),
            failures=tuple(failures),
            n_skipped=plan.n_skipped,
            protocols=plan.protocols,
            n_tokens=sum(
                unit.n_tokens
                for unit in plan.units
                if (unit.row, unit.task.record.name) not in failed
            ),
            seconds=time.perf_counter() - started,
        )

    def outcomes(
        self, units: Sequence[CellUnit], *, progress: Steps | None = None
    ) -> Iterator[CellResult | CellFailure]:
        """Measure units in their order, each outcome as soon as it is there.

        Any part of a plan can be measured anywhere: units are plain data. Those of one adapter that
        stand together share one loading of it; a backend that mixes adapters takes task by task
        instead. Nothing that a unit raises ends the others.

        Args:
            units: Of a plan.
            progress: Told (tokens done, tokens of all these units).
        """
        return self._compared(self._measured(units, progress))

    def _measured(
        self, units: Sequence[CellUnit], progress: Steps | None
    ) -> Iterator[tuple[CellUnit, CellResult | CellFailure]]:
        backend = self.backend
        # A backend that mixes adapters checks itself that each is on.
        probe = None if isinstance(backend, MixingBackend) else _read_reference(backend, units)
        total, n_tokens = sum(unit.n_tokens for unit in units), 0
        for together in _groups(backend, units):
            folder = together[0].folder
            with ExitStack() as block:
                # Whatever one adapter or task brings down, the others are still worth having.
                try:
                    block.enter_context(backend.adapted(folder))
                    if folder is not None and probe is not None:
                        _check_active(backend, probe, folder)
                except Exception as error:
                    n_tokens += sum(unit.n_tokens for unit in together)
                    yield from [(unit, _failure(unit, error)) for unit in together]
                    continue
                for unit in together:
                    scaled = _scaled(progress, n_tokens, unit.n_tokens, total)
                    n_tokens += unit.n_tokens
                    try:
                        outcome: CellResult | CellFailure = measure_cell(
                            backend,
                            unit,
                            grader=needed_grader(unit.task, self.graders),
                            selected=self.selected,
                            keep_text=self.keep_text,
                            progress=scaled,
                        )
                    except Exception as error:
                        outcome = _failure(unit, error)
                    yield unit, outcome
                    if progress is not None:
                        progress(n_tokens, total)

    def _compared(
        self, ended: Iterable[tuple[CellUnit, CellResult | CellFailure]]
    ) -> Iterator[CellResult | CellFailure]:
        """What came of units, the base's before others of its column, with their gains tested."""
        of_base: dict[str, Sequence[Prediction]] = {}
        for unit, outcome in ended:
            if isinstance(outcome, CellFailure):
                yield outcome
            elif unit.row.is_reference:
                if unit.row == BASE_ROW:
                    of_base[unit.protocol.digest] = outcome.predictions
                yield outcome
            else:
                try:
                    # By the task's own rows: prompts with examples have other digests.
                    compared = self._with_gain(outcome, of_base.get(outcome.cell.column))
                except Exception as error:
                    yield _failure(unit, error)
                else:
                    yield compared

    def _with_gain(self, result: CellResult, of_base: Sequence[Prediction] | None) -> CellResult:
        """The result with what its rows say of the gain over the base; as it is without those."""
        cell = result.cell
        if of_base is None and self.base_predictions is not None:
            of_base = self.base_predictions(cell.task, cell.column)
        if not of_base or not result.predictions:
            return result
        gain = compare_with_base(result.predictions, of_base, metric=cell.metric)
        return replace(result, cell=replace(cell, metrics={**cell.metrics, **gain.metrics}))


def _base_first(
    ended: Iterable[tuple[CellUnit, CellResult | CellFailure]], units: Sequence[CellUnit]
) -> Iterator[tuple[CellUnit, CellResult | CellFailure]]:
    """What came of units in whatever order, held back until the base's rows beside it are known."""
    pending = {unit.protocol.digest for unit in units if unit.row == BASE_ROW}
    waiting: dict[str, list[tuple[CellUnit, CellResult | CellFailure]]] = {}
    for unit, outcome in ended:
        column = unit.protocol.zero_shot.digest
        if unit.row == BASE_ROW:
            pending.discard(column)
            yield unit, outcome
            yield from waiting.pop(column, ())
        elif column in pending:
            waiting.setdefault(column, []).append((unit, outcome))
        else:
            yield unit, outcome
    # Left only where the base's own cell never came back.
    for late in waiting.values():
        yield from late


def _told(
    ended: Iterable[tuple[CellUnit, CellResult | CellFailure]],
    progress: Steps | None,
    plan: MatrixPlan,
) -> Iterator[tuple[CellUnit, CellResult | CellFailure]]:
    done = 0
    for unit, outcome in ended:
        done += unit.n_tokens
        yield unit, outcome
        if progress is not None:
            progress(done, plan.n_tokens)


def _scaled(progress: Steps | None, at: int, n_tokens: int, total: int) -> Steps | None:
    """A callback for one cell's rows that reports on the whole matrix in tokens."""
    if progress is None:
        return None
    return lambda done, rows: progress(at + n_tokens * done // max(rows, 1), total)


def _groups(backend: Backend, units: Sequence[CellUnit]) -> Iterator[list[CellUnit]]:
    """Units that share one loading of their adapter.

    Where a backend mixes adapters, they come task by task, and while a task's groups are measured
    the backend may answer for all of its adapters at once.
    """
    if not isinstance(backend, MixingBackend):
        yield from (list(group) for _, group in groupby(units, lambda unit: unit.folder))
        return
    columns: dict[str, list[CellUnit]] = {}
    for unit in units:
        columns.setdefault(unit.task.record.name, []).append(unit)
    for column in columns.values():
        with backend.together([unit.folder for unit in column]):
            yield from (list(group) for _, group in groupby(column, lambda unit: unit.folder))


@dataclass(frozen=True, slots=True)
class _Reference:
    """What the bare base says to a few rows, to be compared with what an adapter says."""

    task: Task
    values: FloatArray


def _read_reference(backend: Backend, units: Sequence[CellUnit]) -> _Reference | None:
    """What the bare base says to the first pending task that can be read."""
    for unit in units:
        if unit.folder is None:
            continue
        try:
            with backend.adapted(None):
                rows = unit.task.rows[:N_PROBE_ROWS]
                return _Reference(unit.task, read_rows(backend, unit.task, rows))
        except Exception:
            # The task's own cells will fail the same way and be named; another task may do.
            continue
    return None


def _check_active(backend: Backend, reference: _Reference, folder: Path) -> None:
    """Compare with the base on the same batch, since batches of other shapes round differently."""
    task = reference.task
    if np.array_equal(read_rows(backend, task, task.rows[:N_PROBE_ROWS]), reference.values):
        raise AdapterError(
            f"{folder}: with the adapter on, the model says exactly what the base says "
            f"({N_PROBE_ROWS} rows of {task.record.name}), so it is not active. Its "
            "update may be zero, or too small for the base's number format."
        )


def _failure(unit: CellUnit, error: Exception) -> CellFailure:
    return CellFailure(unit.row, unit.task.record.name, unit.named(failure_reason(error)))
