"""What an adapter trained on the target's own rows might score, from the registry's trainings."""

from dataclasses import dataclass

import numpy as np

from adapt_lora.recommender.columns import Array, Scale
from adapt_lora.registry.records import (
    BASE_ROW,
    METRIC_UNITS,
    AdapterRecord,
    Fingerprint,
    TransferMatrix,
)

MIN_TRAININGS = 5
"""Fewer trainings that were measured on a task of their own group say too little."""

_STRENGTH = 3.0  # trainings by which each coefficient is pulled to 0
_LEVEL = 0.8


@dataclass(frozen=True, slots=True)
class OwnTraining:
    """What training on the target's own rows might give."""

    gain: float
    """Expected gain over the base, in the metric's unit."""
    interval: tuple[float, float]
    """Where it lies with probability .8, as far as the registry's own trainings tell."""
    n_trainings: int
    """Adapters that were measured on a task of the group that they were trained on."""
    n_rows: int
    """Rows that it is taken to have: as the middle one of those trainings."""
    seconds: float | None
    """Time it would take at their pace; None where nobody measured it."""


def estimate_own_training(
    matrix: TransferMatrix, target: Fingerprint, *, metric: str, base_score: float | None
) -> OwnTraining | None:
    """Regress what adapters gained on their own tasks on what a probe reads there.

    Own gains over the base of unaltered trainings, by ridge regression on the probe's margin over
    the base and the logarithm of the training rows; the interval is of residuals, each made
    without its own training. The target is taken to have as many rows as the middle training.

    Args:
        matrix: What was measured under the base model.
        target: Fingerprint of the target.
        metric: The target's metric; cells of others are left out.
        base_score: The base's score on the target, which bounds the gain of a score in [0, 1].

    Returns:
        None where fewer than five trainings were measured on a task of their own group.
    """
    tasks = {task.name: task for task in matrix.tasks if task.metric == metric}
    bare = {cell.task: cell for cell in matrix.cells if cell.row == BASE_ROW}
    adapters = {adapter.adapter_id: adapter for adapter in matrix.adapters if _is_plain(adapter)}
    margins, sizes, gains, paces = [], [], [], []
    for cell in matrix.cells:
        adapter, task, base = (
            adapters.get(cell.row.model),
            tasks.get(cell.task),
            bare.get(cell.task),
        )
        if adapter is None or task is None or base is None or not cell.row.is_candidate:
            continue
        n_rows = _n_rows(adapter)
        if task.group != adapter.group or cell.protocol != base.protocol or not n_rows:
            continue
        margins.append(_margin(task.fingerprint))
        sizes.append(n_rows)
        gains.append(cell.score - base.score)
        trained = adapter.metrics
        if trained.get("train/n_tokens") and trained.get("train/seconds"):
            paces.append(trained["train/n_tokens"] / trained["train/seconds"])
    if len(gains) < MIN_TRAININGS:
        return None
    known, y, middle = np.column_stack([margins, np.log(sizes)]), np.array(gains), np.median(sizes)
    scale = Scale.of(known)
    x = np.nan_to_num(scale.apply(known))
    mine = np.nan_to_num(scale.apply(np.array([[_margin(target), np.log(middle)]])))
    point = _fitted(x, y, mine)
    missed = [
        y[i] - _fitted(np.delete(x, i, axis=0), np.delete(y, i), x[i : i + 1])
        for i in range(len(y))
    ]
    ends = point + np.array([0.0, *np.quantile(missed, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])])
    if base_score is not None and METRIC_UNITS[metric] == "points":
        ends = np.clip(ends, -base_score, 1.0 - base_score)
    lengths = [target.values.get(f"{side}_tokens_mean", 0.0) for side in ("prompt", "response")]
    return OwnTraining(
        gain=float(ends[0]),
        interval=(float(ends[1]), float(ends[2])),
        n_trainings=len(gains),
        n_rows=int(middle),
        seconds=float(middle * sum(lengths) / np.median(paces)) if paces and any(lengths) else None,
    )


def _n_rows(adapter: AdapterRecord) -> float | None:
    """Rows that it was trained on; where only its data are known, theirs."""
    of_data = None if adapter.dataset is None else adapter.dataset.n_rows
    return adapter.metrics.get("train/n_rows", of_data)


def _is_plain(adapter: AdapterRecord) -> bool:
    """Whether it was trained on a dataset as it is."""
    dataset = adapter.dataset
    return dataset is not None and not dataset.parent and not dataset.parts


def _margin(fingerprint: Fingerprint) -> float:
    values = fingerprint.values
    return values.get("probe_score", float("nan")) - values.get("base_score", float("nan"))


def _fitted(x: Array, y: Array, at: Array) -> float:
    """A ridge regression's value at one place."""
    centre, middle = x.mean(axis=0), float(y.mean())
    square = (x - centre).T @ (x - centre) + _STRENGTH * np.eye(x.shape[1])
    weights = np.linalg.solve(square, (x - centre).T @ (y - middle))
    return middle + float(((at - centre) @ weights)[0])
