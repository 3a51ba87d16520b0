"""What must be said beside an adapter before it is used: leaks, faults, mismatches, thin evidence.

Each sentence says what was seen, with its figure, and what it may mean; none changes the ranking.
"""

import math
from collections import Counter

import numpy as np

from adapt_lora.recommender.columns import Array, Mask, mean_of_known
from adapt_lora.recommender.features import total_variation
from adapt_lora.recommender.table import TransferTable
from adapt_lora.registry.fingerprint.duplicates import leak_report
from adapt_lora.registry.records import (
    BASE_ROW,
    AdapterRecord,
    Cell,
    Fingerprint,
    MatrixRow,
    TransferMatrix,
)

LEAK_SHARE = 0.01
"""Share of the target's prompts in the training data from which it is said."""

FEW_TASKS = 3
"""With fewer measured tasks an adapter's standing is hearsay."""

_LENGTH_RATIO = 4.0  # one answers with a word where the other writes a sentence
_LABEL_SHIFT = 0.3  # total variation between label shares: 50/50 against 80/20
_ONE_LABEL = 0.95  # share of one predicted label from which nothing else is answered
_LOPSIDED = 0.8  # gold shares from which a constant answer is no fault
_COLLAPSED_TASKS = 3
_NO_EFFECT = 1e-4  # relative shift of the hidden states on the probes
_LAST_PLACES = 2.0  # z below the other adapters, on average over tasks


def adapter_notes(
    matrix: TransferMatrix, table: TransferTable, target: Fingerprint, *, group: str | None
) -> list[list[str]]:
    """Sentences per adapter, in the order of the matrix.

    Args:
        matrix: Everything measured.
        table: What the ranking learned from: without the target's group.
        target: Fingerprint of the target.
        group: The target's group, where known.
    """
    foreign = _foreign_cells(matrix, table)
    collapsed = _constant_answers(matrix, frozenset(table.targets))
    standing = _standing(table)
    elsewhere: Mask = np.zeros(len(table.sources), dtype=bool)
    if table.lent is not None:
        elsewhere = np.asarray(np.isfinite(table.lent.transfer_scores).any(axis=1))
    return [
        [
            *adapter.warnings,
            *_leaks(adapter, target, group),
            *_faults(adapter, collapsed.get(adapter.row), float(standing[s])),
            *_mismatches(adapter.fingerprint, target),
            *_thin_evidence(int(np.isfinite(table.transfer_scores[s]).sum()), bool(elsewhere[s])),
            *foreign.get(adapter.row, ()),
        ]
        for s, adapter in enumerate(matrix.adapters)
    ]


def overlap_share(source: Fingerprint, target: Fingerprint) -> float:
    """Share of the target's prompts that the source holds, exact or from bottom-k sketches."""
    found = leak_report(source.row_sketches, target.row_sketches)
    return 0.0 if found is None else found.share_of_second


def _leaks(adapter: AdapterRecord, target: Fingerprint, group: str | None) -> list[str]:
    said = []
    if group is not None and adapter.has_seen(group):
        said.append(
            f"Trained on data of the target's own group ({group}): the prediction is for "
            "transfer, and in-domain gains are usually larger. Check that no test row was "
            "trained on."
        )
    share = overlap_share(adapter.fingerprint, target)
    if share >= LEAK_SHARE:
        said.append(
            f"About {share:.0%} of the target's prompts are in its training data: "
            "scores on them would flatter it."
        )
    return said


def _faults(adapter: AdapterRecord, constant: tuple[int, int] | None, z: float) -> list[str]:
    """Signs that the adapter is broken rather than unsuited."""
    said = []
    shift = adapter.behaviour.get("hidden_shift_relative")
    if shift is not None and shift < _NO_EFFECT:
        said.append(
            f"It hardly changes the base model (relative shift {shift:.1e} on the probe prompts): "
            "it may be untrained, or not take effect."
        )
    broken = sorted(
        key.removeprefix("train/")
        for key, value in adapter.metrics.items()
        if key.startswith("train/") and "loss" in key and not math.isfinite(value)
    )
    if broken:
        said.append(f"Its training ended without a finite {broken[0].replace('_', ' ')}.")
    if constant is not None:
        n, of = constant
        said.append(
            f"It gave nearly every row the same label on {n} of {of} measured label tasks: it may "
            "have collapsed, and score well only where that label is common."
        )
    if z < -_LAST_PLACES:
        said.append(
            f"It stands {-z:.1f} standard deviations below the other adapters on average: it may "
            "be broken."
        )
    return said


def _mismatches(source: Fingerprint, target: Fingerprint) -> list[str]:
    """Length and label prior, which decide transfer (Krishna et al. 2025, §5.3 and §5.4)."""
    said = []
    trained = source.values.get("response_tokens_mean", 0.0)
    wanted = target.values.get("response_tokens_mean", 0.0)
    if trained > 0 and wanted > 0:
        ratio = trained / wanted
        if ratio >= _LENGTH_RATIO or ratio <= 1 / _LENGTH_RATIO:
            said.append(
                f"It learned answers of {trained:.0f} tokens on average, the target's have "
                f"{wanted:.0f}: its answers may come out too {'long' if ratio > 1 else 'short'}."
            )
    a, b = source.label_shares, target.label_shares
    if a and set(a) == set(b):
        shift = total_variation(a, b)
        if shift >= _LABEL_SHIFT:
            label = max(a, key=lambda name: a[name] - b[name])
            said.append(
                f"{a[label]:.0%} of its training rows say {label!r}, {b[label]:.0%} of the "
                "target's do: it may favour that label."
            )
    return said


def _thin_evidence(n_tasks: int, is_known_elsewhere: bool) -> list[str]:
    if n_tasks == 0 and is_known_elsewhere:
        return ["Never measured on another task here: ranked by its counterpart's standing."]
    if n_tasks == 0:
        return ["Never measured on another task: ranked as an average adapter."]
    if n_tasks < FEW_TASKS:
        tasks = "one other task" if n_tasks == 1 else f"{n_tasks} other tasks"
        return [f"Measured on {tasks} only: its standing may be luck."]
    return []


def _foreign_cells(matrix: TransferMatrix, table: TransferTable) -> dict[MatrixRow, list[str]]:
    """Row → a sentence on its cells that were left out for their protocol."""
    tasks = frozenset(table.targets)
    of_base = {c.task: c.protocol for c in matrix.cells if c.row == BASE_ROW}
    left_out = Counter(
        cell.row
        for cell in matrix.cells
        if cell.task in tasks and cell.protocol != of_base.get(cell.task, cell.protocol)
    )
    return {
        row: [
            f"{n} of its cells were measured under another protocol than the base model's and do "
            "not count."
        ]
        for row, n in left_out.items()
    }


def _constant_answers(
    matrix: TransferMatrix, tasks: frozenset[str]
) -> dict[MatrixRow, tuple[int, int]]:
    """Row → (tasks with one label for nearly all rows, label tasks), where that is most.

    Tasks on which the bare base does the same, or whose gold labels are lopsided, tell nothing.
    """
    gold = {task.name: task.fingerprint.label_shares for task in matrix.tasks}
    of_base = {c.task: _largest(c) for c in matrix.cells if c.row == BASE_ROW}
    telling = {
        task
        for task, share in of_base.items()
        if task in tasks
        and 0 < share < _ONE_LABEL
        and max(gold.get(task, {}).values(), default=0.0) < _LOPSIDED
    }
    constant: dict[MatrixRow, list[bool]] = {}
    for cell in matrix.cells:
        if cell.task in telling and cell.predicted_shares:
            constant.setdefault(cell.row, []).append(_largest(cell) >= _ONE_LABEL)
    return {
        row: (sum(marks), len(marks))
        for row, marks in constant.items()
        if sum(marks) >= _COLLAPSED_TASKS and 2 * sum(marks) > len(marks)
    }


def _largest(cell: Cell) -> float:
    return max(cell.predicted_shares.values(), default=0.0)


def _standing(table: TransferTable) -> Array:
    """Mean over tasks of each adapter's robust distance to the others, in their spreads.

    Median and 1.4826 × median absolute deviation: a broken adapter must not set the scale that
    it is measured by. NaN with fewer than three measured tasks.
    """
    scores: Array = table.transfer_scores
    z = np.full(scores.shape, np.nan)
    for t in range(scores.shape[1]):
        known = np.isfinite(scores[:, t])
        if known.sum() < 4:
            continue
        middle = float(np.median(scores[known, t]))
        spread = 1.4826 * float(np.median(np.abs(scores[known, t] - middle)))
        if spread > 0:
            z[known, t] = np.clip((scores[known, t] - middle) / spread, -5.0, 5.0)
    enough = np.isfinite(z).sum(axis=1) >= FEW_TASKS
    means: Array = np.where(enough, mean_of_known(z), np.nan)
    return means
