"""What came out of a cell, row by row, as counts and lengths to be drawn."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from adapt_lora.registry.records import Prediction, TaskRecord

_AFFIRMATIVE = frozenset({"positive", "yes", "true", "1"})


@dataclass(frozen=True, slots=True, eq=False)
class CellOutcomes:
    """Confusion, lengths per outcome and ends of answers of one cell."""

    task: str
    """Name of the task."""
    labels: tuple[str, ...] = ()
    """The label set, in its order; empty for tasks without."""
    confusion: NDArray[np.int64] | None = None
    """Rows gold, columns predicted, (n_labels, n_labels); None without a label set."""
    lengths: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Tokens by outcome: of prompts for label tasks, of answers where they are written."""
    length_of: str = "prompt"
    """What the lengths are of: "prompt" or "answer"."""
    positive: str = ""
    """Of two labels, the one that TP and FP are about; else ""."""
    finishes: Mapping[str, int] = field(default_factory=dict)
    """How many written answers ended by "stop" and by "length"."""


def cell_outcomes(task: TaskRecord, predictions: Sequence[Prediction]) -> CellOutcomes | None:
    """The outcomes of a cell; None where no predictions were kept.

    Of two labels the one called positive, yes, true or 1 is the positive one, else the second, so
    that rows fall into TP, FP, TN and FN as in Krishna et al. 2025 (Fig. 13-15); with more labels,
    and for written answers, into "right" and "wrong", or "all" where answers are not matched.
    """
    if not predictions:
        return None
    decided = [one for one in predictions if one.gold is not None and one.answer is not None]
    if task.labels and decided:
        positive = _positive(task.labels) if len(task.labels) == 2 else ""
        return CellOutcomes(
            task=task.name,
            labels=task.labels,
            confusion=_confusion(task.labels, decided),
            lengths=_by_outcome(decided, [one.prompt_tokens for one in decided], positive),
            positive=positive,
        )
    written = [one for one in predictions if one.answer_tokens is not None]
    return CellOutcomes(
        task=task.name,
        lengths=_by_outcome(written, [one.answer_tokens for one in written], ""),
        length_of="answer",
        finishes=Counter(one.finish for one in written if one.finish is not None),
    )


def _positive(labels: Sequence[str]) -> str:
    return next((label for label in labels if label.casefold() in _AFFIRMATIVE), labels[1])


def _confusion(labels: Sequence[str], decided: Sequence[Prediction]) -> NDArray[np.int64]:
    place = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for one in decided:
        if one.gold in place and one.answer in place:
            counts[place[one.gold], place[one.answer]] += 1
    return counts


def _by_outcome(
    predictions: Sequence[Prediction], lengths: Sequence[int | None], positive: str
) -> dict[str, tuple[int, ...]]:
    order = ("TP", "FP", "TN", "FN") if positive else ("right", "wrong", "all")
    found: dict[str, list[int]] = {name: [] for name in order}
    for one, length in zip(predictions, lengths, strict=True):
        if length is not None:
            found[_outcome(one, positive)].append(length)
    return {name: tuple(values) for name, values in found.items() if values}


def _outcome(one: Prediction, positive: str) -> str:
    if not positive:
        return "all" if one.right is None else "right" if one.right else "wrong"
    return ("T" if one.right else "F") + ("P" if one.answer == positive else "N")
