"""How good past recommendations were, once their targets have been measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapt_lora.recommender.metrics import spearman
from adapt_lora.registry.records import (
    BASE_ROW,
    KeptRecommendation,
    TaskRecord,
    TransferMatrix,
)


@dataclass(frozen=True, slots=True)
class PastRecommendation:
    """One kept recommendation against what was measured for its target."""

    target: str
    """The target's name."""
    made_ms: int
    """When it was made, milliseconds since 1970 (UTC)."""
    n: int
    """Adapters that had a predicted gain then and have a measured one now."""
    mae: float
    """Mean absolute error of the predicted gains, in the metric's unit."""
    mae_of_zero: float
    """The same for "no adapter changes anything"."""
    coverage: float | None
    """Share of measured gains inside their interval; None where no interval was given."""
    spearman_rho: float | None
    """Rank correlation of predicted and measured gains; None below three adapters."""


def judge_past(
    kept: Sequence[KeptRecommendation], matrix: TransferMatrix
) -> tuple[PastRecommendation, ...]:
    """Compare each recommendation with the matrix; those whose target nobody measured are left out.

    What counts is the prediction before anything was measured on the target. A target is known
    again by its rows, or by its name and group where a sample of its rows was measured.
    """
    judged = (_judged(one, matrix) for one in kept)
    return tuple(past for past in judged if past is not None)


def _judged(one: KeptRecommendation, matrix: TransferMatrix) -> PastRecommendation | None:
    task = next((task for task in matrix.tasks if _is_target(task, one)), None)
    bare = None if task is None else matrix.cell(BASE_ROW, task.name)
    if task is None or bare is None:
        return None
    name = one.content["target"]["name"]
    gains: dict[str, float] = {
        cell.row.id: cell.score - bare.score
        for cell in matrix.cells
        if (cell.task, cell.metric, cell.protocol) == (task.name, bare.metric, bare.protocol)
    }
    entries = [
        entry
        for entry in one.content["ranking"]
        if entry["adapter_id"] in gains and "predicted_gain" in entry
    ]
    if not entries:
        return None
    true = np.array([gains[entry["adapter_id"]] for entry in entries])
    said = np.array([entry.get("predicted_alone", entry["predicted_gain"]) for entry in entries])
    # Once the adapter was measured its interval is about what the measurement left open.
    ends = [
        (entry["interval"], gain)
        for entry, gain in zip(entries, true, strict=True)
        if "interval" in entry and "measured" not in entry
    ]
    inside = [low <= gain <= high for (low, high), gain in ends]
    return PastRecommendation(
        target=name,
        made_ms=one.made_ms,
        n=len(entries),
        mae=float(np.abs(true - said).mean()),
        mae_of_zero=float(np.abs(true).mean()),
        coverage=float(np.mean(inside)) if inside else None,
        spearman_rho=spearman(true, said) if len(entries) >= 3 else None,
    )


def _is_target(task: TaskRecord, one: KeptRecommendation) -> bool:
    target = one.content["target"]
    if task.metric != target.get("metric"):
        return False
    same_name = (task.name, task.group) == (target.get("name"), one.group)
    return task.dataset.digest == one.digest or same_name
