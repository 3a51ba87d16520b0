"""The matrix runner: adapters × tasks as cells, each measured once and saved at once."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from adapt_lora.data import Row
from adapt_lora.errors import AdapterError, AdaptError, TaskError
from adapt_lora.evaluator.backends import (
    Backend,
    MixingBackend,
    TransformersBackend,
)
from adapt_lora.evaluator.cells import CellResult, CellUnit, measure_cell
from adapt_lora.evaluator.comparison import compare_with_base
from adapt_lora.evaluator.fewshot import Shots
from adapt_lora.evaluator.metrics import FloatArray, LabelDecision
from adapt_lora.evaluator.outcomes import with_outcomes
from adapt_lora.evaluator.protocol import Protocol
from adapt_lora.evaluator.tasks import Grader, Task, needed_grader
from adapt_lora.model.base import BaseModel
from adapt_lora.model.scoring import PROTOCOL_VERSION, Steps
from adapt_lora.registry.records import BASE_ROW, MAJORITY_ROW, Cell, MatrixRow, Prediction

HasCell = Callable[[MatrixRow, str, str], bool]
"""Whether (row, task, protocol digest) is measured already."""

FindPredictions = Callable[[str, str], Sequence[Prediction]]
"""The bare base's predictions by (task, protocol digest); empty where there are none."""

MeasureElsewhere = Callable[
    [Sequence[CellUnit]], Iterator[tuple[CellUnit, "CellResult | CellFailure"]]
]
"""Has units measured by others and yields each with its outcome, in the order they end."""

N_PROBE_ROWS = 3
"""Rows on which an adapter must differ from its base, to show that it is on."""

# A written answer may be somewhat longer than the longest reference, and a chatty base needs room
# for "The answer is …"; the cap bounds the cost of a task with essays for references.
_MIN_NEW_TOKENS, _MAX_NEW_TOKENS = 32, 512
# Rows read and tokens written to know the pace: about a second of a small model on two cores.
_PACE_ROWS, _PACE_TOKENS = 8, 8


@dataclass(frozen=True, slots=True)
class CellFailure:
    """A cell that could not be measured."""

    row: MatrixRow
    """The row of the matrix that it belongs to."""
    task: str
    """Name of the task."""
    reason: str
    """What went wrong, one sentence."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the bare base works on this machine."""

    read_tokens_per_s: float
    """Prompt and label tokens that it reads."""
    written_tokens_per_s: float | None = None
    """Tokens of answers that it writes; None where no task asks for any."""


@dataclass(frozen=True, slots=True)
class MatrixPlan:
    """What an evaluation is going to do."""

    units: tuple[CellUnit, ...]
    """Cells to be measured, in order: base, majority label, then adapter by adapter."""
    n_cells: int
    """Cells asked for, base and majority rows included."""
    protocols: Mapping[str, str]
    """Digest of the protocol that each task is scored under, by task; without examples shown."""

    @property
    def n_skipped(self) -> int:
        """Cells that are measured already under the same protocol."""
        return self.n_cells - len(self.units)

    @property
    def n_tokens(self) -> int:
        """Tokens that the model reads or writes for all units."""
        return sum(unit.n_tokens for unit in self.units)

    def estimated_s(self, pace: Pace) -> float:
        """Seconds the units take at most at that pace: answers may end before their limit."""
        return sum(unit_seconds(unit, pace) for unit in self.units)


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


def plan_matrix(
    base: BaseModel,
    adapters: Sequence[tuple[MatrixRow, Path]],
    tasks: Sequence[Task],
    *,
    has_cell: HasCell,
    backend: Backend | None = None,
    decision: LabelDecision = "sum",
    shots: Mapping[str, Shots] | None = None,
    graders: Mapping[str, Grader] | None = None,
) -> MatrixPlan:
    """Lay out the cells that are not measured yet; arguments as for `evaluate_matrix`."""
    names = [task.record.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TaskError(
            f"Two tasks are named '{twice[0]}'; a matrix needs one column each. Rename one."
        )
    scorer = backend or TransformersBackend(base)
    template = scorer.template
    sized = {
        task.record.name: _size_task(
            scorer, task, decision, template, needed_grader(task, graders or {})
        )
        for task in tasks
    }
    asked: list[CellUnit] = list(sized.values())
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
            _show_examples(scorer, sized[name], row, folder, examples)
            for row, folder in rows
            for name, examples in shots.items()
        ]
    missing = tuple(
        unit
        for unit in asked
        if not has_cell(unit.row, unit.task.record.name, unit.protocol.digest)
    )
    protocols = {name: unit.protocol.digest for name, unit in sized.items()}
    return MatrixPlan(missing, len(asked), protocols)


def unit_seconds(unit: CellUnit, pace: Pace) -> float:
    """Seconds that a unit takes at most at that pace."""
    writing = pace.written_tokens_per_s or pace.read_tokens_per_s
    n_read = unit.n_tokens - unit.n_written
    return n_read / pace.read_tokens_per_s + unit.n_written / writing


def measure_pace(backend: Backend, plan: MatrixPlan) -> Pace | None:
    """How fast the bare base reads and writes, from a few rows; None where nothing is planned.

    Raises:
        AdaptError: Not one of the planned tasks can be read.
    """
    units = list({u.task.record.name: u for u in plan.units if u.n_tokens}.values())
    if not units:
        return None
    reading = _first_pace(backend, units, _read_pace)
    writing = [unit for unit in units if unit.n_written]
    return replace(
        reading,
        written_tokens_per_s=_first_pace(backend, writing, _write_pace).written_tokens_per_s
        if writing
        else None,
    )


def evaluate_matrix(
    base: BaseModel,
    adapters: Sequence[tuple[MatrixRow, Path]],
    tasks: Sequence[Task],
    *,
    has_cell: HasCell,
    save_cell: Callable[[CellResult], None],
    progress: Steps | None = None,
    backend: Backend | None = None,
    decision: LabelDecision = "sum",
    keep_text: bool = False,
    selected: bool = False,
    shots: Mapping[str, Shots] | None = None,
    graders: Mapping[str, Grader] | None = None,
    base_predictions: FindPredictions | None = None,
) -> MatrixReport:
    """Measure every cell of adapters × tasks that is not measured yet.

    The base's row comes first, then the majority label of label tasks, then the adapters, each put
    on once for all of its tasks; a backend that mixes adapters takes task by task instead. A cell
    is handed to `save_cell` the moment it is done, so a killed run loses the cell in hand and no
    more. A cell that fails is named in the report and the others go on; what `save_cell` raises
    goes through.

    Args:
        base: The base model of all adapters.
        adapters: (row, folder) pairs.
        tasks: Tasks with distinct names.
        has_cell: Tells which cells exist; those are not measured again.
        save_cell: Keeps a cell.
        progress: Told (tokens done, tokens in all).
        backend: Scores and writes; the base model itself by default.
        decision: How a label is chosen.
        keep_text: Whether predictions keep written answers.
        selected: Marks the cells as chosen by a ranking (verification).
        shots: Examples by task; then these tasks get few-shot rows of the adapters, or of the base
            where there are none, beside the bare base.
        graders: By metric, what grades written answers where a reference alone can't: "pass_at_1"
            and "judge_accuracy".
        base_predictions: Finds the bare base's predictions of an earlier run, so that gains over a
            base that is not measured again are tested too.

    Raises:
        TaskError: Two tasks share a name, or a metric needs a grader that is not there.
    """
    scorer = backend or TransformersBackend(base)
    plan = plan_matrix(
        base,
        adapters,
        tasks,
        has_cell=has_cell,
        backend=scorer,
        decision=decision,
        shots=shots,
        graders=graders,
    )
    return run_plan(
        scorer,
        plan,
        save_cell=save_cell,
        progress=progress,
        keep_text=keep_text,
        selected=selected,
        graders=graders,
        base_predictions=base_predictions,
    )


def run_plan(
    backend: Backend,
    plan: MatrixPlan,
    *,
    save_cell: Callable[[CellResult], None],
    progress: Steps | None = None,
    keep_text: bool = False,
    selected: bool = False,
    graders: Mapping[str, Grader] | None = None,
    base_predictions: FindPredictions | None = None,
    elsewhere: MeasureElsewhere | None = None,
) -> MatrixReport:
    """Measure what `plan_matrix` laid out; arguments as for `evaluate_matrix`.

    Args:
        backend: Measures, where nothing else does.
        plan: What to measure.
        save_cell: Keeps a cell.
        progress: Told (tokens done, tokens in all).
        keep_text: Whether predictions keep written answers.
        selected: Marks the cells as chosen by a ranking (verification).
        graders: What grades written answers, by metric.
        base_predictions: Finds the bare base's predictions of an earlier run.
        elsewhere: Has the units measured by other processes, in any order.
    """
    started = time.perf_counter()
    cells: list[Cell] = []
    failures: list[CellFailure] = []
    if elsewhere is None:
        outcomes = measure_units(
            backend,
            plan.units,
            keep_text=keep_text,
            selected=selected,
            progress=progress,
            graders=graders,
            base_predictions=base_predictions,
        )
    else:
        told = _told(elsewhere(plan.units), progress, plan.n_tokens)
        outcomes = _compared_late(told, plan.units, base_predictions)
    for outcome in outcomes:
        if isinstance(outcome, CellFailure):
            failures.append(outcome)
        else:
            save_cell(outcome)
            cells.append(outcome.cell)
    failed = {(failure.row, failure.task) for failure in failures}
    return MatrixReport(
        cells=tuple(cells),
        failures=tuple(failures),
        n_skipped=plan.n_skipped,
        protocols=plan.protocols,
        n_tokens=sum(u.n_tokens for u in plan.units if (u.row, u.task.record.name) not in failed),
        seconds=time.perf_counter() - started,
    )


def measure_units(
    backend: Backend,
    units: Sequence[CellUnit],
    *,
    keep_text: bool = False,
    selected: bool = False,
    progress: Steps | None = None,
    graders: Mapping[str, Grader] | None = None,
    base_predictions: FindPredictions | None = None,
) -> Iterator[CellResult | CellFailure]:
    """Measure units in their order, each outcome as soon as it is there.

    Any part of a plan can be measured anywhere: units are plain data. Those of one adapter that
    stand together share one loading of it. Nothing that a unit raises ends the others.

    Args:
        backend: Scores and writes.
        units: From `plan_matrix`.
        keep_text: Whether predictions keep written answers.
        selected: Marks the cells as chosen by a ranking (verification).
        progress: Told (tokens done, tokens of all these units).
        graders: As for `evaluate_matrix`.
        base_predictions: The same.
    """
    of_base: dict[str, Sequence[Prediction]] = {}
    # A backend that mixes adapters checks itself that each is on.
    probe = None if isinstance(backend, MixingBackend) else _read_reference(backend, units)
    total = sum(unit.n_tokens for unit in units)
    n_tokens = 0
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
                yield from [_failure(unit, error) for unit in together]
                continue
            for unit in together:
                scaled = _scaled(progress, n_tokens, unit.n_tokens, total)
                n_tokens += unit.n_tokens
                try:
                    outcome: CellResult | CellFailure = _measure_unit(
                        backend,
                        unit,
                        keep_text=keep_text,
                        selected=selected,
                        progress=scaled,
                        grader=needed_grader(unit.task, graders or {}),
                        of_base=_of_base(unit, of_base, base_predictions),
                    )
                except Exception as error:
                    outcome = _failure(unit, error)
                if isinstance(outcome, CellResult) and unit.row == BASE_ROW:
                    of_base[unit.protocol.digest] = outcome.predictions
                yield outcome
                if progress is not None:
                    progress(n_tokens, total)


def _measure_unit(
    backend: Backend,
    unit: CellUnit,
    *,
    keep_text: bool,
    selected: bool,
    progress: Steps | None,
    grader: Grader | None,
    of_base: Sequence[Prediction],
) -> CellResult:
    asked = unit if unit.shots is None else replace(unit, task=unit.shots.shown(unit.task))
    result = measure_cell(backend, asked, selected=selected, grader=grader, progress=progress)
    if unit.shots is not None:
        cell = replace(result.cell, zero_shot=unit.protocol.zero_shot.digest)
        result = replace(result, cell=cell)
    # Here texts are dropped, now that their lengths can be counted.
    result = with_outcomes(backend, unit.task, result, keep_text=keep_text)
    # Only now: prompts with examples had other digests than the rows that the base was asked.
    return _compared(result, of_base)


def _compared(result: CellResult, of_base: Sequence[Prediction]) -> CellResult:
    """The result with what its rows say of the gain over the base; as it is without the base's."""
    if not of_base or not result.predictions:
        return result
    compared = compare_with_base(result.predictions, of_base, metric=result.cell.metric)
    metrics = {**result.cell.metrics, **compared.metrics}
    return replace(result, cell=replace(result.cell, metrics=metrics))


def _compared_late(
    outcomes: Iterable[tuple[CellUnit, CellResult | CellFailure]],
    units: Sequence[CellUnit],
    find: FindPredictions | None,
) -> Iterator[CellResult | CellFailure]:
    """Outcomes in whatever order they came, each once the base's rows beside it are known."""
    pending = {unit.protocol.digest for unit in units if unit.row == BASE_ROW}
    of_base: dict[str, Sequence[Prediction]] = {}
    waiting: dict[str, list[tuple[CellUnit, CellResult]]] = {}
    for unit, outcome in outcomes:
        column = unit.protocol.zero_shot.digest
        if unit.row == BASE_ROW:
            if isinstance(outcome, CellResult):
                of_base[column] = outcome.predictions
            pending.discard(column)
            yield outcome
            for late, result in waiting.pop(column, ()):
                yield _compared(result, _of_base(late, of_base, find))
        elif isinstance(outcome, CellFailure):
            yield outcome
        elif column in pending:
            waiting.setdefault(column, []).append((unit, outcome))
        else:
            yield _compared(outcome, _of_base(unit, of_base, find))
    # Left only where the base's own cell never came back.
    for late, result in (pair for column in waiting.values() for pair in column):
        yield _compared(result, _of_base(late, of_base, find))


def _of_base(
    unit: CellUnit, measured: Mapping[str, Sequence[Prediction]], find: FindPredictions | None
) -> Sequence[Prediction]:
    """The bare base's predictions in the unit's column; none for rows that have no gain."""
    if unit.row.is_reference:
        return ()
    digest = unit.protocol.zero_shot.digest
    if digest in measured or find is None:
        return measured.get(digest, ())
    return find(unit.task.record.name, digest)


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


def _size_task(
    backend: Backend, task: Task, decision: LabelDecision, template: str, grader: Grader | None
) -> CellUnit:
    """The base's unit of a task: its protocol, and the tokens that one cell of it costs."""
    record = task.record
    n_tokens = sum(backend.count_tokens([row.prompt for row in task.rows]))
    max_new_tokens: int | None = None
    n_written = 0
    if task.is_label_task:
        n_tokens += len(task.rows) * sum(backend.count_tokens(record.labels))
    else:
        answers = backend.count_tokens([row.response or "" for row in task.rows])
        n_tokens += sum(answers)
        if task.is_generated:
            room = max(_MIN_NEW_TOKENS, round(1.25 * max(answers)) + 8)
            # Without references (pass@1 has its tests) nothing says how long an answer may be.
            answered = any(row.response for row in task.rows)
            max_new_tokens = min(room, _MAX_NEW_TOKENS) if answered else _MAX_NEW_TOKENS
            n_written = len(task.rows) * max_new_tokens
    protocol = Protocol(
        metric=record.metric,
        rows=record.dataset.digest,
        labels=record.labels,
        template=template,
        scoring=PROTOCOL_VERSION,
        decision=decision if task.is_label_task else None,
        max_new_tokens=max_new_tokens,
        backend=backend.family,
        grader=None if grader is None else grader.protocol_key(task.rows),
    )
    return CellUnit(BASE_ROW, None, task, protocol, n_tokens + n_written, n_written)


def _show_examples(
    backend: Backend, unit: CellUnit, row: MatrixRow, folder: Path | None, shots: Shots
) -> CellUnit:
    """A unit of the bare base as one whose prompts show examples."""
    n_shots = len(shots.examples)
    reads = 2 if unit.n_written else 1  # to score the reference, and to write an answer
    preamble = len(unit.task.rows) * sum(backend.count_tokens([shots.preamble]))
    return replace(
        unit,
        row=replace(row, shots=n_shots, seed=shots.seed),
        folder=folder,
        shots=shots,
        n_tokens=unit.n_tokens + reads * preamble,
        protocol=replace(
            unit.protocol, shots=n_shots, shots_seed=shots.seed, shots_digest=shots.digest
        ),
    )


def _first_pace(
    backend: Backend, units: Sequence[CellUnit], measure: Callable[[Backend, Task], Pace]
) -> Pace:
    """The pace on the first task that can be read; a broken one is named when its turn comes."""
    for number, unit in enumerate(units, start=1):
        task = unit.task if unit.shots is None else unit.shots.shown(unit.task)
        try:
            with backend.adapted(None):
                return measure(backend, task)
        except AdaptError:
            if number == len(units):
                raise
    raise AssertionError("no units")


def _read_pace(backend: Backend, task: Task) -> Pace:
    rows = task.rows[:_PACE_ROWS]
    n_tokens = sum(backend.count_tokens([row.prompt for row in rows]))
    labels = task.record.labels if task.is_label_task else ()
    n_tokens += len(rows) * sum(backend.count_tokens(labels))
    if not task.is_label_task:
        n_tokens += sum(backend.count_tokens([row.response or "" for row in rows]))
    _read_rows(backend, task, rows[:1])  # the first pass of a process is several times slower
    started = time.perf_counter()
    _read_rows(backend, task, rows)
    return Pace(max(n_tokens, 1) / (time.perf_counter() - started))


def _write_pace(backend: Backend, task: Task) -> Pace:
    prompts = [row.prompt for row in task.rows[:_PACE_ROWS]]
    started = time.perf_counter()
    backend.generate(prompts, max_new_tokens=_PACE_TOKENS)
    return Pace(1.0, len(prompts) * _PACE_TOKENS / (time.perf_counter() - started))


@dataclass(frozen=True, slots=True)
class _Reference:
    """What the bare base says to a few rows, to be compared with what an adapter says."""

    task: Task
    values: FloatArray


def _read_reference(backend: Backend, units: Sequence[CellUnit]) -> _Reference | None:
    """The bare base's log-likelihoods on the first pending task that can be read."""
    for unit in units:
        if unit.folder is None:
            continue
        try:
            with backend.adapted(None):
                return _Reference(unit.task, _probe(backend, unit.task))
        except Exception:
            # The task's own cells will fail the same way and be named; another task may do.
            continue
    return None


def _probe(backend: Backend, task: Task) -> FloatArray:
    return _read_rows(backend, task, task.rows[:N_PROBE_ROWS])


def _read_rows(backend: Backend, task: Task, rows: Sequence[Row]) -> FloatArray:
    if task.is_label_task:
        scores = backend.score_labels([row.prompt for row in rows], task.record.labels)
        return np.asarray(scores.log_likelihood, dtype=np.float64)
    readable = [row if row.response else replace(row, response=" ") for row in rows]
    return np.concatenate(backend.answer_nll(readable)).astype(np.float64)


def _check_active(backend: Backend, reference: _Reference, folder: Path) -> None:
    """Compare with the base on the same batch, since batches of other shapes round differently."""
    if np.array_equal(_probe(backend, reference.task), reference.values):
        raise AdapterError(
            f"{folder}: with the adapter on, the model says exactly what the base says "
            f"({N_PROBE_ROWS} rows of {reference.task.record.name}), so it is not active. Its "
            "update may be zero, or too small for the base's number format."
        )


def _failure(unit: CellUnit, error: Exception) -> CellFailure:
    return CellFailure(unit.row, unit.task.record.name, failure_reason(error))


def failure_reason(error: Exception) -> str:
    """One sentence about an error, with its type where it is not one of ours."""
    reason = str(error).strip() or repr(error)
    if isinstance(error, AdaptError):
        return reason
    return f"{type(error).__name__}: {reason.splitlines()[0]}"


def _told(
    outcomes: Iterable[tuple[CellUnit, CellResult | CellFailure]],
    progress: Steps | None,
    n_tokens: int,
) -> Iterator[tuple[CellUnit, CellResult | CellFailure]]:
    done = 0
    for unit, outcome in outcomes:
        done += unit.n_tokens
        yield unit, outcome
        if progress is not None:
            progress(done, n_tokens)


def _scaled(progress: Steps | None, at: int, n_tokens: int, total: int) -> Steps | None:
    """A callback for one cell's rows that reports on the whole matrix in tokens."""
    if progress is None:
        return None
    return lambda done, rows: progress(at + n_tokens * done // max(rows, 1), total)
