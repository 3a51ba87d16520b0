"""Adapter-task pairs whose gain tells of transfer, and how like their two datasets are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adapt_lora.registry.records import (
    BASE_ROW,
    AdapterRecord,
    Fingerprint,
    TaskRecord,
    TransferMatrix,
    Unit,
)


@dataclass(frozen=True, slots=True)
class TransferPair:
    """One measured gain of an adapter on a task of another group than its training data."""

    adapter: AdapterRecord
    """The adapter."""
    task: TaskRecord
    """The task."""
    gain: float
    """Score minus base score, in the task's unit."""
    se: float | None
    """Standard error of the gain: of the differences row by row where both were at hand, else as if
    the two scores were independent, which is too wide. None where a score came without."""

    @property
    def unit(self) -> Unit:
        """What the gain is counted in."""
        return self.task.unit


def transfer_pairs(matrix: TransferMatrix) -> tuple[TransferPair, ...]:
    """All measured gains but own cells, in the matrix's order.

    An adapter whose training data is unknown has no own cell: its gains may be in-domain.
    """
    cells = {(cell.row, cell.task): cell for cell in matrix.cells}
    pairs = []
    for adapter in matrix.adapters:
        for task in matrix.tasks:
            if adapter.has_seen(task.group):
                continue
            cell, base = cells.get((adapter.row, task.name)), cells.get((BASE_ROW, task.name))
            if cell is None or base is None:
                continue
            if (cell.metric, cell.protocol) == (base.metric, base.protocol):
                gain = cell.score - base.score
                pairs.append(TransferPair(adapter, task, gain, cell.gain_se(base)))
    return tuple(pairs)


def pair_distances(source: Fingerprint, target: Fingerprint) -> dict[str, float]:
    """How far apart two datasets are, by statistic; what either side lacks is absent.

    Length and perplexity distances are |ln ratio|; label-share distances total variation in
    [0, 1]; cosines are likeness rather than distance.
    """
    ratios = {
        "response_length_distance": "response_tokens_mean",
        "prompt_length_distance": "prompt_tokens_mean",
        "perplexity_distance": "response_ppl",
    }
    if not _same_base(source, target):
        del ratios["perplexity_distance"]
    found = {name: _log_ratio(source.values, target.values, key) for name, key in ratios.items()}
    if source.label_shares and target.label_shares:
        found["label_shape_distance"] = _shape_distance(source.label_shares, target.label_shares)
        found["label_share_distance"] = _share_distance(source.label_shares, target.label_shares)
    for name in ("hidden_mid_mean", "hidden_last_mean", "minilm_mean"):
        found[f"{name.removesuffix('_mean')}_cosine"] = _cosine(source, target, name)
    return {name: value for name, value in found.items() if value is not None}


def _log_ratio(source: Mapping[str, float], target: Mapping[str, float], key: str) -> float | None:
    one, other = source.get(key), target.get(key)
    if one is None or other is None or one <= 0 or other <= 0:
        return None
    return abs(math.log(one / other))


def _shape_distance(source: Mapping[str, float], target: Mapping[str, float]) -> float:
    """Total variation of the shares in falling order: unlike label sets compare by balance only."""
    one, other = sorted(source.values(), reverse=True), sorted(target.values(), reverse=True)
    length = max(len(one), len(other))
    one += [0.0] * (length - len(one))
    other += [0.0] * (length - len(other))
    return 0.5 * sum(abs(a - b) for a, b in zip(one, other, strict=True))


def _share_distance(source: Mapping[str, float], target: Mapping[str, float]) -> float | None:
    """Total variation by label name; None where the label sets differ but for case."""
    one = {label.strip().casefold(): share for label, share in source.items()}
    other = {label.strip().casefold(): share for label, share in target.items()}
    if one.keys() != other.keys():
        return None
    return 0.5 * sum(abs(one[label] - other[label]) for label in one)


def _cosine(source: Fingerprint, target: Fingerprint, name: str) -> float | None:
    one, other = source.vectors.get(name), target.vectors.get(name)
    # Hidden states of two bases live in two spaces; a sentence encoder's do not depend on a base.
    if name.startswith("hidden") and not _same_base(source, target):
        return None
    if not one or not other or len(one) != len(other):
        return None
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(np.dot(one, other)) / length if length else None


def _same_base(source: Fingerprint, target: Fingerprint) -> bool:
    if source.base is None or target.base is None:
        return False
    return source.base.architecture == target.base.architecture
