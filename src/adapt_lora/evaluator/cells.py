"""Cells: how one adapter does on one task, from a backend's scores and written answers."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from adapt_lora.errors import ScoringError, TaskError
from adapt_lora.evaluator.backends import Backend
from adapt_lora.evaluator.fewshot import Shots
from adapt_lora.evaluator.grading import Grader
from adapt_lora.evaluator.metrics import (
    WHOLE_SET_DECISIONS,
    Estimate,
    FloatArray,
    LabelDecision,
    answer_log_likelihood,
    balanced_accuracy,
    count_confusion,
    gold_label_probability,
    label_cross_entropy,
    label_metrics,
    label_scores,
    mean_grade,
)
from adapt_lora.evaluator.protocol import Protocol
from adapt_lora.evaluator.tasks import TEXT_METRICS, Task
from adapt_lora.model.scoring import LabelScores, Steps, WrittenAnswer
from adapt_lora.registry.records import MAJORITY_ROW, Cell, MatrixRow, Prediction

EVERY = "*"
"""In a failure: every task."""

EVERY_ROW = MatrixRow("*")
"""In a failure: every row of the matrix."""


@dataclass(frozen=True, slots=True)
class CellUnit:
    """One cell to be measured: the unit of work, of saving and of failing."""

    row: MatrixRow
    """The row of the matrix that it belongs to."""
    folder: Path | None
    """The adapter's files; None for base and majority label."""
    task: Task
    """The task."""
    protocol: Protocol
    """How it will be scored."""
    n_tokens: int
    """Tokens that the model reads or writes for it; 0 for the majority label."""
    n_written: int = 0
    """Of these, tokens that it may write."""
    shots: Shots | None = None
    """Examples that the prompts show."""
    n_reference: int | None = None
    """Tokens of the written ones where answers are as long as their references; None without."""
    n_likely: int | None = None
    """The same where the answers of a batch take as long as its longest; None without."""

    known: Mapping[str, Prediction] = field(default_factory=dict)
    """What came out for rows that were run before under this protocol, by digest of the row."""

    def named(self, reason: str) -> str:
        """A sentence about this cell, with the adapter's name in place of its folder."""
        return reason if self.folder is None else reason.replace(str(self.folder), self.row.label)

    @property
    def unknown(self) -> Task:
        """The task with the rows that are to be run."""
        if not self.known:
            return self.task
        rows = tuple(row for row in self.task.rows if row.digest not in self.known)
        return replace(self.task, rows=rows)

    @property
    def max_new_tokens(self) -> int | None:
        """Tokens that one answer may have; None where none is written."""
        return self.protocol.max_new_tokens

    @property
    def asked(self) -> Task:
        """The task as the model is asked it: with the examples in its prompts."""
        return self.task if self.shots is None else self.shots.shown(self.task)


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
class CellFailure:
    """A cell that could not be measured."""

    row: MatrixRow
    """The row of the matrix that it belongs to."""
    task: str
    """Name of the task."""
    reason: str
    """What went wrong, one sentence."""


def majority_label(task: Task) -> str:
    """The commonest gold label of a task's rows; of equals, the first of the label set."""
    counts = np.bincount(task.gold, minlength=len(task.record.labels))
    return task.record.labels[int(counts.argmax())]


def measure_cell(
    backend: Backend,
    unit: CellUnit,
    *,
    grader: Grader | None = None,
    selected: bool = False,
    keep_text: bool = False,
    progress: Steps | None = None,
) -> CellResult:
    """Score one unit under its protocol, with its adapter on already.

    Rows that the unit knows the outcome of are not run again.

    Args:
        backend: Scores and writes.
        unit: What is measured.
        grader: Grades written answers where the metric needs one.
        selected: Marks the cell as chosen by a ranking (verification).
        keep_text: Whether predictions keep written answers.
        progress: Told (rows done, rows in all).

    Raises:
        ScoringError: A log-likelihood is not finite, or no answer could be graded.
        TaskError: The references hold nothing to score.
    """
    started = time.perf_counter()
    task, shares, beside = unit.task, dict[str, float](), dict[str, float]()
    predictions: list[Prediction] = []
    if unit.row == MAJORITY_ROW:
        label = task.record.labels.index(majority_label(task))
        estimates = _decided(task, [label] * len(task.rows))
        shares = _shares(task, [label] * len(task.rows))
    elif task.is_label_task:
        predictions = _joined(unit, _score_labels(backend, unit, progress))
        estimates, shares, predictions = _judge_labels(unit, predictions)
    else:
        predictions = _joined(unit, _score_answers(backend, unit, grader, progress))
        estimates, beside = _judge_answers(task, predictions)
    ruling = estimates.pop(task.record.metric)
    beside |= {name: estimate.value for name, estimate in estimates.items()}
    beside |= {f"{name}_se": estimate.se for name, estimate in estimates.items()}
    beside["seconds"] = seconds = time.perf_counter() - started
    if unit.known:
        beside["n_rows_known"] = float(sum(row.digest in unit.known for row in task.rows))
    if predictions:
        beside |= _length_metrics(predictions)
    cell = Cell(
        row=unit.row,
        task=task.record.name,
        metric=task.record.metric,
        score=ruling.value,
        se=ruling.se,
        n=_n_scored(task, predictions),
        protocol=unit.protocol.digest,
        metrics=beside,
        predicted_shares=shares,
        selected=selected,
        zero_shot=None if unit.shots is None else unit.protocol.zero_shot.digest,
    )
    # Texts go here, now that their lengths are counted; what stays of one is a plain string.
    kept = (
        prediction
        if task.is_label_task or prediction.answer is None
        else replace(prediction, answer=str(prediction.answer) if keep_text else None)
        for prediction in predictions
    )
    return CellResult(cell, unit.protocol, tuple(kept), seconds)


def _joined(unit: CellUnit, fresh: Sequence[Prediction]) -> list[Prediction]:
    """One prediction per row of the task, in its order: what was known, and what is new."""
    if not unit.known:
        return list(fresh)
    new = iter(fresh)
    digests = [row.digest for row in unit.task.rows]
    return [unit.known[digest] if digest in unit.known else next(new) for digest in digests]


def _score_labels(backend: Backend, unit: CellUnit, progress: Steps | None) -> list[Prediction]:
    """Of the rows that are not known, in their order."""
    task = unit.unknown
    if not task.rows:
        return []
    asked = task if unit.shots is None else unit.shots.shown(task)
    scores = backend.score_labels(
        [row.prompt for row in asked.rows], task.record.labels, progress=progress
    )
    likelihood = np.asarray(scores.log_likelihood, dtype=np.float64)
    check_numbers(likelihood, task)
    chosen = _decide(scores, likelihood, unit.protocol.decision or "sum")
    predictions = [
        Prediction(
            row=row.digest,
            right=chosen[i] == task.gold[i],
            answer=task.record.labels[chosen[i]],
            log_likelihood=tuple(likelihood[i].tolist()),
            n_tokens=None,
            gold=row.label,
        )
        for i, row in enumerate(task.rows)
    ]
    return _with_lengths(backend, task, predictions)


def _judge_labels(
    unit: CellUnit, predictions: Sequence[Prediction]
) -> tuple[dict[str, Estimate], dict[str, float], list[Prediction]]:
    """Estimates, shares of the labels, and predictions as decided beside all the others."""
    task, gold, labels = unit.task, unit.task.gold, unit.task.record.labels
    likelihood = np.array([one.log_likelihood for one in predictions], dtype=np.float64)
    if unit.protocol.decision in WHOLE_SET_DECISIONS:
        # What a label is worth depends on the other rows, known ones among them.
        values = label_scores(likelihood, (), unit.protocol.decision)
        chosen = [int(label) for label in values.argmax(axis=1)]
    else:
        chosen = [labels.index(one.answer or "") for one in predictions]
    decided = [
        replace(one, answer=labels[chosen[i]], right=chosen[i] == gold[i])
        for i, one in enumerate(predictions)
    ]
    estimates = _decided(task, chosen)
    estimates["label_cross_entropy"] = label_cross_entropy(likelihood, gold)
    estimates["gold_label_probability"] = gold_label_probability(likelihood, gold)
    unbiased = label_scores(likelihood, (), "unbiased").argmax(axis=1)
    counts = count_confusion(gold, unbiased.tolist(), len(labels))
    estimates["unbiased_balanced_accuracy"] = balanced_accuracy(counts)
    return estimates, _shares(task, chosen), decided


def _decide(scores: LabelScores, likelihood: FloatArray, decision: LabelDecision) -> list[int]:
    """Index of the chosen label of each row."""
    if decision != "choice":
        values = label_scores(likelihood, scores.n_tokens.tolist(), decision)
        return [int(label) for label in values.argmax(axis=1)]
    if scores.greedy is None:
        raise TaskError(
            "This backend does not say which label constrained decoding would write. Use the "
            "transformers backend, or decide by sum, per_token, prior_corrected or unbiased."
        )
    return [int(label) for label in scores.greedy]


def _score_answers(
    backend: Backend,
    unit: CellUnit,
    grader: Grader | None,
    progress: Steps | None,
) -> list[Prediction]:
    """Of the rows that are not known, in their order; written texts are still there."""
    task, limit = unit.unknown, unit.protocol.max_new_tokens
    if not task.rows:
        return []
    asked = task if unit.shots is None else unit.shots.shown(task)
    sums, lengths = _read_references(backend, asked, progress)
    answers: Sequence[str] = ()
    grades: list[float | None] = [None] * len(task.rows)
    if limit is not None:
        answers = backend.generate(
            [row.prompt for row in asked.rows], max_new_tokens=limit, progress=progress
        )
        grades = _grade_answers(task, answers, grader, progress)
    in_degrees = task.record.metric in ("token_f1", "rouge_l")
    predictions = [
        Prediction(
            row=row.digest,
            right=None if grades[i] is None or in_degrees else bool(grades[i]),
            answer=answers[i] if answers else None,
            log_likelihood=(-sums[i],) if sums else (),
            n_tokens=lengths[i] if sums else None,
            grade=grades[i],
        )
        for i, row in enumerate(task.rows)
    ]
    return _with_lengths(backend, task, predictions)


def _judge_answers(
    task: Task, predictions: Sequence[Prediction]
) -> tuple[dict[str, Estimate], dict[str, float]]:
    """Estimates, and figures beside them."""
    estimates, beside = dict[str, Estimate](), dict[str, float]()
    if all(one.log_likelihood for one in predictions):
        sums = [-one.log_likelihood[0] for one in predictions]
        lengths = [one.n_tokens or 0 for one in predictions]
        if not sum(lengths):
            raise TaskError(f"{task.record.name}: its responses hold no tokens to score.")
        estimates["answer_log_likelihood"] = answer_log_likelihood(sums, lengths)
    if task.is_generated:
        graded = [one.grade for one in predictions if one.grade is not None]
        if not graded:
            raise ScoringError(
                f"{task.record.name}: none of {len(predictions)} answers could be graded, so there "
                "is no score. Look at what the judge replies."
            )
        estimates[task.record.metric] = mean_grade(graded)
        if task.record.metric == "judge_accuracy":
            beside["judge_unparsable_share"] = 1 - len(graded) / len(predictions)
    return estimates, beside


def _read_references(
    backend: Backend, task: Task, progress: Steps | None
) -> tuple[list[float], list[int]]:
    """Nats and tokens of each reference response; nothing where rows have none (pass@1)."""
    if any(not row.response for row in task.rows):
        return [], []
    nll = [values.astype(np.float64) for values in backend.answer_nll(task.rows, progress=progress)]
    sums, lengths = [float(values.sum()) for values in nll], [len(values) for values in nll]
    check_numbers(np.array(sums), task)
    return sums, lengths


def _grade_answers(
    task: Task, answers: Sequence[str], grader: Grader | None, progress: Steps | None
) -> list[float | None]:
    if grader is not None:
        return grader.grade(task.rows, answers, progress=progress)
    grade = TEXT_METRICS[task.record.metric]
    return [float(grade(a, row.response or "")) for a, row in zip(answers, task.rows, strict=True)]


def _n_scored(task: Task, predictions: Sequence[Prediction]) -> int:
    """Rows behind the score: all but those whose answer could not be graded."""
    if not task.is_generated:
        return len(task.rows)
    return sum(prediction.grade is not None for prediction in predictions)


def _decided(task: Task, chosen: Sequence[int]) -> dict[str, Estimate]:
    return dict(label_metrics(count_confusion(task.gold, chosen, len(task.record.labels))))


def _shares(task: Task, chosen: Sequence[int]) -> dict[str, float]:
    counts = np.bincount(chosen, minlength=len(task.record.labels))
    return {
        label: float(count / len(chosen))
        for label, count in zip(task.record.labels, counts, strict=True)
    }


def _with_lengths(
    backend: Backend, task: Task, predictions: Sequence[Prediction]
) -> list[Prediction]:
    """Predictions that name lengths, of the task as it was read, and how answers ended."""
    asked = backend.count_tokens([row.prompt for row in task.rows])
    found = [
        replace(prediction, prompt_tokens=length)
        for prediction, length in zip(predictions, asked, strict=True)
    ]
    if task.is_label_task or all(one.answer is None for one in found):
        return found
    counted = backend.count_tokens([one.answer or "" for one in found])
    return [
        _ended(prediction, length) if prediction.answer is not None else prediction
        for prediction, length in zip(found, counted, strict=True)
    ]


def _ended(prediction: Prediction, counted: int) -> Prediction:
    answer = prediction.answer
    if isinstance(answer, WrittenAnswer):
        return replace(prediction, answer_tokens=answer.n_tokens, finish=answer.finish)
    return replace(prediction, answer_tokens=counted)


def _length_metrics(predictions: Sequence[Prediction]) -> dict[str, float]:
    lengths = [one.answer_tokens for one in predictions if one.answer_tokens is not None]
    ends = [one.finish for one in predictions if one.finish is not None]
    found: dict[str, float] = {}
    if lengths:
        found["answer_tokens_mean"] = float(np.mean(lengths))
        found["answer_tokens_q95"] = float(np.quantile(lengths, 0.95))
    if ends:
        found["answers_cut_share"] = ends.count("length") / len(ends)
    return found


def check_numbers(values: FloatArray, task: Task) -> None:
    """Refuse log-likelihoods (n_rows, …) that are not finite."""
    broken = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)  # (n_rows,)
    if broken.any():
        raise ScoringError(
            f"{task.record.name}: no finite log-likelihood on {int(broken.sum())} rows; the "
            "adapter's weights may be broken, or overflow in this number format."
        )
