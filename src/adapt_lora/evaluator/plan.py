"""What is to be measured, and what it costs: cells, their tokens, the seconds they take."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from adapt_lora.model.scoring import PROTOCOL_VERSION, WrittenAnswer
from adapt_lora.registry.records import BASE_ROW, MatrixRow

# A written answer may be somewhat longer than the longest reference, and a chatty base needs room
# for "The answer is …"; the cap bounds the cost of a task with essays for references.
_MIN_NEW_TOKENS, _MAX_NEW_TOKENS = 32, 512
# A batch writes until its longest answer ends; this many prompts with their answers fill one.
_BATCH_ROWS = 8
# The pace is taken on as many rows as fill half a batch of reading: a few seconds of a small model
# on two cores. A row alone is read several times slower than a row among others.
_PACE_TOKENS, _MIN_PACE_ROWS, _MAX_PACE_ROWS = 1024, 2, 64
# Tokens written to know the pace; more where only these answers say how long answers are.
_WRITTEN, _WRITTEN_UNKNOWN = 16, 64


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """How long something takes, as far as that can be known before."""

    least_s: float
    """Seconds it takes where it is short."""
    likely_s: float
    """Seconds it should take."""
    most_s: float
    """Seconds it takes at most."""

    @classmethod
    def total(cls, spans: "Iterable[TimeSpan]") -> "TimeSpan":
        """Of several things, one after another."""
        each = list(spans)
        return cls(
            sum(span.least_s for span in each),
            sum(span.likely_s for span in each),
            sum(span.most_s for span in each),
        )


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the bare base works on this machine."""

    read_tokens_per_s: float
    """Prompt and label tokens that it reads."""
    written_tokens_per_s: float | None = None
    """Tokens of answers that it writes; None where no task asks for any."""
    answer_tokens: float | None = None
    """Mean length that its answers would have without a limit; infinite where none ended, None
    where references say how long answers are."""

    def span(self, unit: CellUnit) -> TimeSpan:
        """Seconds that a unit takes at this pace, by how long answers get.

        At least, where they are as long as their references; as a rule, where a batch also waits
        for its longest; at most, where all of them run to their limit.
        """
        reading = (unit.n_tokens - unit.n_written) / self.read_tokens_per_s
        if not unit.n_written:
            return TimeSpan(reading, reading, reading)
        rate = self.written_tokens_per_s or self.read_tokens_per_s
        likely: float | None = unit.n_likely
        if likely is None:
            likely = unit.n_written * _share_written(self.answer_tokens, unit.max_new_tokens)
        least: float = likely if unit.n_reference is None else unit.n_reference
        return TimeSpan(
            *(reading + n_written / rate for n_written in (least, likely, unit.n_written))
        )


def _share_written(mean: float | None, limit: int | None) -> float:
    """Share of the limit that an answer of that mean length without one writes.

    Answers are taken to end at each token with one probability: E[min(L, m)] = μ (1 − exp(−m/μ)).
    """
    if mean is None or limit is None or math.isinf(mean):
        return 1.0
    return mean / limit * -math.expm1(-limit / mean)


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

    def span(self, pace: Pace) -> TimeSpan:
        """Seconds the units take at that pace."""
        return TimeSpan.total(map(pace.span, self.units))


def size_task(
    backend: Backend, task: Task, *, decision: LabelDecision, grader: Grader | None
) -> CellUnit:
    """The base's unit of a task: its protocol, and the tokens that one cell of it costs."""
    record = task.record
    n_tokens = sum(backend.count_tokens([row.prompt for row in task.rows]))
    max_new_tokens: int | None = None
    n_written = 0
    n_reference: int | None = None
    n_likely: int | None = None
    if task.is_label_task:
        n_tokens += len(task.rows) * sum(backend.count_tokens(record.labels))
    else:
        answers = backend.count_tokens([row.response or "" for row in task.rows])
        if task.is_generated:
            n_tokens *= 2  # prompts are read to score the references, and to write answers
            room = max(_MIN_NEW_TOKENS, round(1.25 * max(answers)) + 8)
            # Without references (pass@1 has its tests) nothing says how long an answer may be.
            answered = any(row.response for row in task.rows)
            max_new_tokens = min(room, _MAX_NEW_TOKENS) if answered else _MAX_NEW_TOKENS
            n_written = len(task.rows) * max_new_tokens
            if answered:
                ends = [min(n + 1, max_new_tokens) for n in answers]  # the end mark is written, too
                n_reference = sum(ends)
                n_likely = sum(len(batch) * max(batch) for batch in _batches(ends))
        n_tokens += sum(answers)
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
    return CellUnit(
        BASE_ROW,
        None,
        task,
        protocol,
        n_tokens + n_written,
        n_written,
        n_reference=n_reference,
        n_likely=n_likely,
    )


def _batches(lengths: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(lengths), _BATCH_ROWS):
        yield lengths[start : start + _BATCH_ROWS]


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
    cost: dict[str, int] = {}
    for unit in plan.units:
        cost[unit.task.record.name] = cost.get(unit.task.record.name, 0) + unit.n_tokens
    # The task that most of the time goes into says most of it.
    units = {unit.task.record.name: unit for unit in plan.units if unit.n_tokens}
    asked = sorted(units.values(), key=lambda unit: -cost[unit.task.record.name])
    if not asked:
        return None
    reading = _first_paced(backend, asked, _read_pace)
    writing = [unit for unit in asked if unit.n_written]
    if not writing:
        return reading
    # Where references lack, only what the base writes says how long answers are.
    writing.sort(key=lambda unit: unit.n_likely is not None)
    return _first_paced(backend, writing, lambda b, unit: _write_pace(b, unit, reading))


def _first_paced(
    backend: Backend, units: Sequence[CellUnit], measure: Callable[[Backend, CellUnit], Pace]
) -> Pace:
    """The pace on the first task that can be read; a broken one is named when its turn comes."""
    for unit in units[:-1]:
        try:
            with backend.adapted(None):
                return measure(backend, unit)
        except AdaptError:
            continue
    with backend.adapted(None):
        return measure(backend, units[-1])


def _pace_rows(backend: Backend, unit: CellUnit, *, beside: int) -> Sequence[Row]:
    """Rows from all over a task that fill half a batch, `beside` tokens going along with each."""
    rows = unit.asked.rows
    mean = sum(backend.count_tokens([row.prompt for row in rows])) / len(rows) + beside
    n_rows = min(max(round(_PACE_TOKENS / max(mean, 1)), _MIN_PACE_ROWS), _MAX_PACE_ROWS, len(rows))
    return [rows[place * len(rows) // n_rows] for place in range(n_rows)]


def _read_pace(backend: Backend, unit: CellUnit) -> Pace:
    task = unit.asked
    labels = sum(backend.count_tokens(task.record.labels)) if task.is_label_task else 0
    rows = _pace_rows(backend, unit, beside=labels)
    n_tokens = len(rows) * labels + sum(backend.count_tokens([row.prompt for row in rows]))
    if not task.is_label_task:
        n_tokens += sum(backend.count_tokens([row.response or "" for row in rows]))
    read_rows(backend, task, rows[:1])  # the first pass of a process is several times slower
    started = time.perf_counter()
    read_rows(backend, task, rows)
    return Pace(max(n_tokens, 1) / (time.perf_counter() - started))


def _write_pace(backend: Backend, unit: CellUnit, reading: Pace) -> Pace:
    """The pace of reading with that of writing: the time of a first token is that of reading."""
    limit = unit.max_new_tokens or _WRITTEN
    is_known = unit.n_likely is not None
    rows = _pace_rows(backend, unit, beside=limit)[:_BATCH_ROWS]
    prompts = [row.prompt for row in rows]
    started = time.perf_counter()
    backend.generate(prompts, max_new_tokens=1)
    first_s = time.perf_counter() - started
    n_asked = min(_WRITTEN if is_known else _WRITTEN_UNKNOWN, limit)
    started = time.perf_counter()
    answers = backend.generate(prompts, max_new_tokens=n_asked)
    seconds = time.perf_counter() - started
    lengths = [_n_written(backend, answer, n_asked) for answer in answers]
    # All rows of a batch wait for the longest, and the first token came with the reading.
    n_steps = max(max(lengths) - 1, 1)
    rate = len(prompts) * n_steps / max(seconds - first_s, seconds / (n_steps + 1))
    ended = sum(length < n_asked for length in lengths)
    # Answers that were cut say only that they are longer: tokens by ends, as for any waiting time.
    mean = sum(lengths) / ended if ended else math.inf
    return replace(reading, written_tokens_per_s=rate, answer_tokens=None if is_known else mean)


def _n_written(backend: Backend, answer: str, limit: int) -> int:
    """Tokens that an answer took, with its end mark where it came to one."""
    if isinstance(answer, WrittenAnswer):
        return min(answer.n_tokens + (answer.finish == "stop"), limit)
    return min(backend.count_tokens([answer])[0] + 1, limit)


def read_rows(backend: Backend, task: Task, rows: Sequence[Row]) -> FloatArray:
    """Nats of each label of each row, (n_rows, n_labels), or of each token of its answers."""
    if task.is_label_task:
        scores = backend.score_labels([row.prompt for row in rows], task.record.labels)
        return np.asarray(scores.log_likelihood, dtype=np.float64)
    readable = [row if row.response else replace(row, response=" ") for row in rows]
    return np.concatenate(backend.answer_nll(readable)).astype(np.float64)
