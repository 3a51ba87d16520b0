"""What is to be measured, and what it costs: cells, their tokens, the seconds they take at most."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from adapt_lora.data import Row
from adapt_lora.errors import AdaptError
from adapt_lora.evaluator.backends import Backend
from adapt_lora.evaluator.cells import CellUnit
from adapt_lora.evaluator.fewshot import Shots
from adapt_lora.evaluator.grading import Grader
from adapt_lora.evaluator.metrics import FloatArray, LabelDecision
from adapt_lora.evaluator.protocol import Protocol
from adapt_lora.evaluator.tasks import Task
from adapt_lora.model.scoring import PROTOCOL_VERSION
from adapt_lora.registry.records import BASE_ROW, MatrixRow

# A written answer may be somewhat longer than the longest reference, and a chatty base needs room
# for "The answer is …"; the cap bounds the cost of a task with essays for references.
_MIN_NEW_TOKENS, _MAX_NEW_TOKENS = 32, 512
# Rows read and tokens written to know the pace: about a second of a small model on two cores.
_PACE_ROWS, _PACE_TOKENS = 8, 8


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the bare base works on this machine."""

    read_tokens_per_s: float
    """Prompt and label tokens that it reads."""
    written_tokens_per_s: float | None = None
    """Tokens of answers that it writes; None where no task asks for any."""

    def seconds(self, unit: CellUnit) -> float:
        """Seconds that a unit takes at most at this pace: answers may end before their limit."""
        writing = self.written_tokens_per_s or self.read_tokens_per_s
        n_read = unit.n_tokens - unit.n_written
        return n_read / self.read_tokens_per_s + unit.n_written / writing


@dataclass(frozen=True, slots=True)
class MatrixPlan:
    """What an evaluation is going to do."""

    units: tuple[CellUnit, ...]
    """Cells to be measured, in order: base, majority label, then adapter by adapter."""
    n_skipped: int
    """Cells that are measured already under the same protocol."""
    protocols: Mapping[str, str]
    """Digest of the protocol that each task is scored under, by task; without examples shown."""

    @property
    def n_cells(self) -> int:
        """Cells asked for, base and majority rows included."""
        return len(self.units) + self.n_skipped

    @property
    def n_tokens(self) -> int:
        """Tokens that the model reads or writes for all units."""
        return sum(unit.n_tokens for unit in self.units)

    def estimated_s(self, pace: Pace) -> float:
        """Seconds the units take at most at that pace."""
        return sum(pace.seconds(unit) for unit in self.units)


def size_task(
    backend: Backend, task: Task, *, decision: LabelDecision, grader: Grader | None
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
        template=backend.template,
        scoring=PROTOCOL_VERSION,
        decision=decision if task.is_label_task else None,
        max_new_tokens=max_new_tokens,
        backend=backend.family,
        grader=None if grader is None else grader.protocol_key(task.rows),
    )
    return CellUnit(BASE_ROW, None, task, protocol, n_tokens + n_written, n_written)


def show_examples(
    backend: Backend, unit: CellUnit, row: MatrixRow, folder: Path | None, shots: Shots
) -> CellUnit:
    """A unit of the bare base as one of a row whose prompts show examples."""
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


def measure_pace(backend: Backend, plan: MatrixPlan) -> Pace | None:
    """How fast the bare base reads and writes, from a few rows; None where nothing is planned.

    Raises:
        AdaptError: Not one of the planned tasks can be read.
    """
    units = {unit.task.record.name: unit for unit in plan.units if unit.n_tokens}
    if not units:
        return None
    tasks = [unit.asked for unit in units.values()]
    generated = [task for task in tasks if task.is_generated]
    return Pace(
        _first_pace(backend, tasks, _read_pace),
        _first_pace(backend, generated, _write_pace) if generated else None,
    )


def _first_pace(
    backend: Backend, tasks: Sequence[Task], measure: Callable[[Backend, Task], float]
) -> float:
    """The pace on the first task that can be read; a broken one is named when its turn comes."""
    for task in tasks[:-1]:
        try:
            with backend.adapted(None):
                return measure(backend, task)
        except AdaptError:
            continue
    with backend.adapted(None):
        return measure(backend, tasks[-1])


def _read_pace(backend: Backend, task: Task) -> float:
    rows = task.rows[:_PACE_ROWS]
    n_tokens = sum(backend.count_tokens([row.prompt for row in rows]))
    labels = task.record.labels if task.is_label_task else ()
    n_tokens += len(rows) * sum(backend.count_tokens(labels))
    if not task.is_label_task:
        n_tokens += sum(backend.count_tokens([row.response or "" for row in rows]))
    read_rows(backend, task, rows[:1])  # the first pass of a process is several times slower
    started = time.perf_counter()
    read_rows(backend, task, rows)
    return max(n_tokens, 1) / (time.perf_counter() - started)


def _write_pace(backend: Backend, task: Task) -> float:
    prompts = [row.prompt for row in task.rows[:_PACE_ROWS]]
    started = time.perf_counter()
    backend.generate(prompts, max_new_tokens=_PACE_TOKENS)
    return len(prompts) * _PACE_TOKENS / (time.perf_counter() - started)


def read_rows(backend: Backend, task: Task, rows: Sequence[Row]) -> FloatArray:
    """Nats of each label of each row, (n_rows, n_labels), or of each token of its answers."""
    if task.is_label_task:
        scores = backend.score_labels([row.prompt for row in rows], task.record.labels)
        return np.asarray(scores.log_likelihood, dtype=np.float64)
    readable = [row if row.response else replace(row, response=" ") for row in rows]
    return np.concatenate(backend.answer_nll(readable)).astype(np.float64)
