"""Cells: how one adapter does on one task, from a backend's scores and written answers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapt_lora.errors import ScoringError, TaskError
from adapt_lora.evaluator.backends import Backend, Progress
from adapt_lora.evaluator.metrics import (
    Estimate,
    FloatArray,
    answer_log_likelihood,
    count_confusion,
    is_exact_match,
    is_numeric_match,
    label_cross_entropy,
    label_metrics,
    label_scores,
    share_right,
)
from adapt_lora.evaluator.protocol import Protocol
from adapt_lora.evaluator.tasks import Task
from adapt_lora.registry.records import MAJORITY_ID, Cell


@dataclass(frozen=True, slots=True)
class Prediction:
    """What came out for one row."""

    row: str
    """Digest of the row; the text itself is not kept."""
    right: bool | None
    """Whether the answer matches; None where answers are not matched."""
    answer: str | None
    """Chosen label; a written answer only where text is kept."""
    log_likelihood: tuple[float, ...]
    """Of each label in order, or of the reference response alone, nats."""
    n_tokens: int | None
    """Tokens of the reference response; None for label tasks."""


@dataclass(frozen=True, slots=True)
class CellResult:
    """A measured cell and what it rests on."""

    cell: Cell
    """The scores."""
    protocol: Protocol
    """What the cell's protocol digest stands for."""
    predictions: tuple[Prediction, ...]
    """One per row, in the task's order; empty for the majority row."""
    seconds: float
    """Time it took."""


@dataclass(frozen=True, slots=True)
class CellUnit:
    """One cell to be measured: the unit of work, of saving and of failing."""

    adapter_id: str
    """The adapter, or BASE_ID or MAJORITY_ID."""
    folder: Path | None
    """The adapter's files; None for base and majority label."""
    task: Task
    """The task."""
    protocol: Protocol
    """How it will be scored."""
    n_tokens: int
    """Tokens that the model reads or writes for it; 0 for the majority label."""


def majority_label(task: Task) -> str:
    """The commonest gold label of a task's rows; of equals, the first of the label set."""
    counts = np.bincount(task.gold, minlength=len(task.record.labels))
    return task.record.labels[int(counts.argmax())]


def measure_cell(
    backend: Backend,
    unit: CellUnit,
    *,
    keep_text: bool,
    selected: bool,
    progress: Progress | None = None,
) -> CellResult:
    """Score one unit under its protocol, with its adapter on already.

    Raises:
        ScoringError: A log-likelihood is not finite.
        TaskError: The references hold nothing to score.
    """
    started = time.perf_counter()
    task, shares = unit.task, dict[str, float]()
    if unit.adapter_id == MAJORITY_ID:
        label = task.record.labels.index(majority_label(task))
        estimates = _decided(task, [label] * len(task.rows))
        shares = _shares(task, [label] * len(task.rows))
        predictions: list[Prediction] = []
    elif task.is_label_task:
        estimates, shares, predictions = _score_label_task(backend, unit, progress)
    else:
        estimates, predictions = _score_answers(backend, unit, keep_text, progress)
    ruling = estimates.pop(task.record.metric)
    beside = {name: estimate.value for name, estimate in estimates.items()}
    beside |= {f"{name}_se": estimate.se for name, estimate in estimates.items()}
    cell = Cell(
        adapter_id=unit.adapter_id,
        task=task.record.name,
        metric=task.record.metric,
        score=ruling.value,
        se=ruling.se,
        n=len(task.rows),
        protocol=unit.protocol.digest,
        metrics=beside,
        predicted_shares=shares,
        selected=selected,
    )
    return CellResult(cell, unit.protocol, tuple(predictions), time.perf_counter() - started)


def _score_label_task(
    backend: Backend, unit: CellUnit, progress: Progress | None
) -> tuple[dict[str, Estimate], dict[str, float], list[Prediction]]:
    task, gold = unit.task, unit.task.gold
    scores = backend.score_labels(
        [row.prompt for row in task.rows], task.record.labels, progress=progress
    )
    likelihood = np.asarray(scores.log_likelihood, dtype=np.float64)
    check_numbers(likelihood, task)
    decision = unit.protocol.decision or "sum"
    chosen = label_scores(likelihood, scores.n_tokens.tolist(), decision).argmax(axis=1).tolist()
    estimates = _decided(task, chosen)
    estimates["label_cross_entropy"] = label_cross_entropy(likelihood, gold)
    predictions = [
        Prediction(
            row=row.digest,
            right=chosen[i] == gold[i],
            answer=task.record.labels[chosen[i]],
            log_likelihood=tuple(likelihood[i].tolist()),
            n_tokens=None,
        )
        for i, row in enumerate(task.rows)
    ]
    return estimates, _shares(task, chosen), predictions


def _score_answers(
    backend: Backend, unit: CellUnit, keep_text: bool, progress: Progress | None
) -> tuple[dict[str, Estimate], list[Prediction]]:
    task, limit = unit.task, unit.protocol.max_new_tokens
    nll = [values.astype(np.float64) for values in backend.answer_nll(task.rows, progress=progress)]
    sums, lengths = [float(v.sum()) for v in nll], [len(v) for v in nll]
    check_numbers(np.array(sums), task)
    if not sum(lengths):
        raise TaskError(f"{task.record.name}: its responses hold no tokens to score.")
    estimates = {"answer_log_likelihood": answer_log_likelihood(sums, lengths)}
    answers: list[str] = []
    right: list[bool] = []
    if limit is not None:
        matches = is_numeric_match if task.record.metric == "numeric_match" else is_exact_match
        answers = backend.generate(
            [row.prompt for row in task.rows], max_new_tokens=limit, progress=progress
        )
        right = [matches(a, r.response or "") for a, r in zip(answers, task.rows, strict=True)]
        estimates[task.record.metric] = share_right(sum(right), len(right))
    predictions = [
        Prediction(
            row=row.digest,
            right=right[i] if right else None,
            answer=answers[i] if answers and keep_text else None,
            log_likelihood=(-sums[i],),
            n_tokens=lengths[i],
        )
        for i, row in enumerate(task.rows)
    ]
    return estimates, predictions


def _decided(task: Task, chosen: Sequence[int]) -> dict[str, Estimate]:
    return dict(label_metrics(count_confusion(task.gold, chosen, len(task.record.labels))))


def _shares(task: Task, chosen: Sequence[int]) -> dict[str, float]:
    counts = np.bincount(chosen, minlength=len(task.record.labels))
    return {
        label: float(count / len(chosen))
        for label, count in zip(task.record.labels, counts, strict=True)
    }


def check_numbers(values: FloatArray, task: Task) -> None:
    """Refuse log-likelihoods (n_rows, …) that are not finite."""
    broken = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)  # (n_rows,)
    if broken.any():
        raise ScoringError(
            f"{task.record.name}: no finite log-likelihood on {int(broken.sum())} rows; the "
            "adapter's weights may be broken, or overflow in this number format."
        )
