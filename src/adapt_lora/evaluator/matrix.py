"""The matrix runner: adapters × tasks as cells, each measured once and saved at once."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from adapt_lora.base_model import BaseModel
from adapt_lora.errors import AdapterError, AdaptError, TaskError
from adapt_lora.evaluator.backends import Backend, Progress, TransformersBackend
from adapt_lora.evaluator.cells import CellResult, CellUnit, Prediction, measure_cell
from adapt_lora.evaluator.metrics import FloatArray, LabelDecision
from adapt_lora.evaluator.protocol import Protocol
from adapt_lora.evaluator.tasks import Grader, Task, needed_grader
from adapt_lora.registry.records import BASE_ID, MAJORITY_ID, Cell
from adapt_lora.scoring import PROTOCOL_VERSION

HasCell = Callable[[str, str, str], bool]
"""Whether (adapter_id, task, protocol digest) is measured already."""

FindPredictions = Callable[[str, str], Sequence[Prediction]]
"""The bare base's predictions by (task, protocol digest); empty where there are none."""

N_PROBE_ROWS = 3
"""Rows on which an adapter must differ from its base, to show that it is on."""

# A written answer may be somewhat longer than the longest reference, and a chatty base needs room
# for "The answer is …"; the cap bounds the cost of a task with essays for references.
_MIN_NEW_TOKENS, _MAX_NEW_TOKENS = 32, 512


@dataclass(frozen=True, slots=True)
class CellFailure:
    """A cell that could not be measured."""

    adapter_id: str
    """The adapter, or BASE_ID."""
    task: str
    """Name of the task."""
    reason: str
    """What went wrong, one sentence."""


@dataclass(frozen=True, slots=True)
class MatrixPlan:
    """What an evaluation is going to do."""

    units: tuple[CellUnit, ...]
    """Cells to be measured, in order: base, majority label, then adapter by adapter."""
    n_cells: int
    """Cells asked for, base and majority rows included."""
    protocols: Mapping[str, str]
    """Digest of the protocol that each task is scored under, by task."""

    @property
    def n_skipped(self) -> int:
        """Cells that are measured already under the same protocol."""
        return self.n_cells - len(self.units)

    @property
    def n_tokens(self) -> int:
        """Tokens that the model reads or writes for all units."""
        return sum(unit.n_tokens for unit in self.units)

    def estimated_s(self, tokens_per_s: float) -> float:
        """Seconds the units will take at that rate (`measure_tokens_per_s`)."""
        return self.n_tokens / tokens_per_s


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
    """Digest of the protocol that each task is scored under, by task."""
    n_tokens: int
    """Tokens planned for the measured cells."""
    seconds: float
    """Wall time."""


def plan_matrix(
    base: BaseModel,
    adapters: Sequence[tuple[str, Path]],
    tasks: Sequence[Task],
    *,
    has_cell: HasCell,
    backend: Backend | None = None,
    decision: LabelDecision = "sum",
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
    sized = [
        _size_task(scorer, task, decision, template, needed_grader(task, graders or {}))
        for task in tasks
    ]
    rows: dict[str, Path | None] = {BASE_ID: None, MAJORITY_ID: None}
    rows.update({adapter_id: Path(folder) for adapter_id, folder in adapters})
    asked = [
        CellUnit(row, folder, task, protocol, 0 if row == MAJORITY_ID else n_tokens)
        for row, folder in rows.items()
        for task, protocol, n_tokens in sized
        if row != MAJORITY_ID or task.is_label_task
    ]
    missing = tuple(
        unit
        for unit in asked
        if not has_cell(unit.adapter_id, unit.task.record.name, unit.protocol.digest)
    )
    protocols = {task.record.name: protocol.digest for task, protocol, _ in sized}
    return MatrixPlan(missing, len(asked), protocols)


def measure_tokens_per_s(backend: Backend, plan: MatrixPlan) -> float | None:
    """How fast the bare base reads the plan's first task, from a few rows; None without a plan."""
    units = [unit for unit in plan.units if unit.n_tokens]
    if not units:
        return None
    task = units[0].task
    started = time.perf_counter()
    with backend.adapted(None):
        _probe(backend, task)
    n_probe = min(N_PROBE_ROWS, len(task.rows))
    return units[0].n_tokens * n_probe / len(task.rows) / (time.perf_counter() - started)


def evaluate_matrix(
    base: BaseModel,
    adapters: Sequence[tuple[str, Path]],
    tasks: Sequence[Task],
    *,
    has_cell: HasCell,
    save_cell: Callable[[CellResult], None],
    progress: Progress | None = None,
    backend: Backend | None = None,
    decision: LabelDecision = "sum",
    keep_text: bool = False,
    selected: bool = False,
    graders: Mapping[str, Grader] | None = None,
    base_predictions: FindPredictions | None = None,
) -> MatrixReport:
    """Measure every cell of adapters × tasks that is not measured yet.

    The base's row comes first, then the majority label of label tasks, then the adapters, each put
    on once for all of its tasks. A cell is handed to `save_cell` the moment it is done, so a killed
    run loses the cell in hand and no more. A cell that fails is named in the report and the others
    go on; what `save_cell` raises goes through.

    Args:
        base: The base model of all adapters.
        adapters: (adapter_id, folder) pairs.
        tasks: Tasks with distinct names.
        has_cell: Tells which cells exist; those are not measured again.
        save_cell: Keeps a cell.
        progress: Told (tokens done, tokens in all).
        backend: Scores and writes; the base model itself by default.
        decision: How a label is chosen.
        keep_text: Whether predictions keep written answers.
        selected: Marks the cells as chosen by a ranking (verification).
        graders: By metric, what grades written answers where a reference alone can't: "pass_at_1"
            and "judge_accuracy".
        base_predictions: Finds the bare base's predictions of an earlier run, so that gains over a
            base that is not measured again are tested too.

    Raises:
        TaskError: Two tasks share a name, or a metric needs a grader that is not there.
    """
    started = time.perf_counter()
    scorer = backend or TransformersBackend(base)
    plan = plan_matrix(
        base,
        adapters,
        tasks,
        has_cell=has_cell,
        backend=scorer,
        decision=decision,
        graders=graders,
    )
    of_base: dict[str, Sequence[Prediction]] = {}
    probe = _read_reference(scorer, plan.units)
    cells: list[Cell] = []
    failures: list[CellFailure] = []
    n_tokens = 0
    for _, group in groupby(plan.units, lambda unit: unit.adapter_id):
        units = list(group)
        folder = units[0].folder
        with ExitStack() as block:
            # Whatever one adapter or task brings down, the others are still worth having.
            try:
                block.enter_context(scorer.adapted(folder))
                if folder is not None and probe is not None:
                    _check_active(scorer, probe, folder)
            except Exception as error:
                failures += [_failure(unit, error) for unit in units]
                n_tokens += sum(unit.n_tokens for unit in units)
                continue
            for unit in units:
                at = n_tokens
                n_tokens += unit.n_tokens
                try:
                    result = measure_cell(
                        scorer,
                        unit,
                        keep_text=keep_text,
                        selected=selected,
                        grader=needed_grader(unit.task, graders or {}),
                        base_predictions=_of_base(unit, of_base, base_predictions),
                        progress=_scaled(progress, at, unit.n_tokens, plan.n_tokens),
                    )
                except Exception as error:
                    failures.append(_failure(unit, error))
                    continue
                if unit.adapter_id == BASE_ID:
                    of_base[unit.protocol.digest] = result.predictions
                save_cell(result)
                cells.append(result.cell)
                if progress is not None:
                    progress(n_tokens, plan.n_tokens)
    failed = {(failure.adapter_id, failure.task) for failure in failures}
    return MatrixReport(
        cells=tuple(cells),
        failures=tuple(failures),
        n_skipped=plan.n_skipped,
        protocols=plan.protocols,
        n_tokens=sum(
            u.n_tokens for u in plan.units if (u.adapter_id, u.task.record.name) not in failed
        ),
        seconds=time.perf_counter() - started,
    )


def _size_task(
    backend: Backend, task: Task, decision: LabelDecision, template: str, grader: Grader | None
) -> tuple[Task, Protocol, int]:
    """The task with its protocol and the tokens that one cell of it costs."""
    record = task.record
    n_tokens = sum(backend.count_tokens([row.prompt for row in task.rows]))
    max_new_tokens: int | None = None
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
            n_tokens += len(task.rows) * max_new_tokens
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
    return task, protocol, n_tokens


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
    rows = task.rows[:N_PROBE_ROWS]
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


def _of_base(
    unit: CellUnit, measured: Mapping[str, Sequence[Prediction]], find: FindPredictions | None
) -> Sequence[Prediction]:
    """The bare base's predictions under the unit's protocol; none for rows that are no adapter."""
    if unit.adapter_id in (BASE_ID, MAJORITY_ID):
        return ()
    digest = unit.protocol.digest
    if digest in measured or find is None:
        return measured.get(digest, ())
    return find(unit.task.record.name, digest)


def _failure(unit: CellUnit, error: Exception) -> CellFailure:
    reason = str(error).strip() or repr(error)
    if not isinstance(error, AdaptError):
        reason = f"{type(error).__name__}: {reason.splitlines()[0]}"
    return CellFailure(unit.adapter_id, unit.task.record.name, reason)


def _scaled(progress: Progress | None, at: int, n_tokens: int, total: int) -> Progress | None:
    """A callback for one cell's rows that reports on the whole matrix in tokens."""
    if progress is None:
        return None
    return lambda done, rows: progress(at + n_tokens * done // max(rows, 1), total)
