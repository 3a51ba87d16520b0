"""What the papers look at beside a score: lengths and ends of answers, row by row."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from adapt_lora.evaluator.backends import Backend
from adapt_lora.evaluator.cells import CellResult
from adapt_lora.evaluator.tasks import Task
from adapt_lora.model.scoring import WrittenAnswer
from adapt_lora.registry.records import Prediction


def with_outcomes(
    backend: Backend, task: Task, result: CellResult, *, keep_text: bool
) -> CellResult:
    """A measured cell with its time, and predictions that name lengths and finish.

    Args:
        backend: Counts tokens where an answer does not say how many it has.
        task: The task as it was read; its rows name the predictions, also where the prompts of the
            measured rows held examples.
        result: From `measure_cell`, written answers included.
        keep_text: Whether written answers stay.
    """
    cell = replace(result.cell, metrics={**result.cell.metrics, "seconds": result.seconds})
    if not result.predictions:
        return replace(result, cell=cell)
    lengths = backend.count_tokens([row.prompt for row in task.rows])
    predictions = tuple(
        replace(prediction, row=row.digest, prompt_tokens=length)
        for prediction, row, length in zip(result.predictions, task.rows, lengths, strict=True)
    )
    if not task.is_label_task:
        predictions = _with_ends(backend, predictions)
        cell = replace(cell, metrics={**cell.metrics, **_length_metrics(predictions)})
        # A plain text or none: what knew how it ended has told it.
        predictions = tuple(
            replace(one, answer=str(one.answer) if keep_text and one.answer is not None else None)
            for one in predictions
        )
    return replace(result, cell=cell, predictions=predictions)


def _with_ends(backend: Backend, predictions: Sequence[Prediction]) -> tuple[Prediction, ...]:
    texts = [one.answer or "" for one in predictions]
    if not any(one.answer is not None for one in predictions):
        return tuple(predictions)
    counted = backend.count_tokens(texts)
    return tuple(
        prediction
        if prediction.answer is None
        else replace(
            prediction,
            answer_tokens=text.n_tokens if isinstance(text, WrittenAnswer) else count,
            finish=text.finish if isinstance(text, WrittenAnswer) else None,
        )
        for prediction, text, count in zip(predictions, texts, counted, strict=True)
    )


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
