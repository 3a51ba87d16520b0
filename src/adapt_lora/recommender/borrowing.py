"""Other base models of one registry as a prior: their cells, put onto this base's adapters.

Adapters of two base models that were trained on the same data are the same source, and a dataset
that was scored under both is the same task. Nothing else of the other base is used: what its
fingerprints say of perplexity or hidden states has no meaning here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adapt_lora.recommender.table import TransferTable, table_from_matrix
from adapt_lora.registry.records import (
    AdapterRecord,
    Fingerprint,
    TaskRecord,
    TransferMatrix,
    Unit,
)

_RELATIVE_TO_BASE = (
    "base_",
    "response_ppl",
    "prompt_ppl",
    "total_ppl",
    "response_nll",
    "prompt_nll",
)
"""How keys of a fingerprint begin whose values only a base model gives meaning to."""

_FREE_VECTORS = ("minilm_mean",)
"""Embeddings that no base model has a part in."""


@dataclass(frozen=True, slots=True, eq=False)
class Translations:
    """Other base models' matrices in the words of this base's."""

    matrix: TransferMatrix
    """This base's matrix with the tasks that only others were scored on, never measured here."""
    tables: Mapping[str, TransferTable]
    """By name of the other base model: sources are ids of this base's adapters, targets names of
    tasks of `matrix`."""


def translate(own: TransferMatrix, others: Sequence[TransferMatrix], *, unit: Unit) -> Translations:
    """Put other bases' cells onto this base's adapters and tasks.

    Args:
        own: This base's adapters and measured tasks.
        others: What was measured under other base models. One that shares no training data, or
            has no task of the unit, is left out.
        unit: The tasks of this unit alone.
    """
    tables: dict[str, TransferTable] = {}
    for other in others:
        table = table_from_matrix(other, unit=unit)
        pairs = [(a, _counterpart(a, other.adapters)) for a in own.adapters]
        rows = {a.adapter_id: s for a, s in pairs if s is not None}
        if not rows or not table.targets:
            continue
        records = {task.name: task for task in other.tasks}
        tasks = [_as_known(records[name], own.tasks, other.base.name) for name in table.targets]
        index = np.fromiter(rows.values(), dtype=np.intp)
        kept = [a for a, s in pairs if s is not None]
        mine = np.array([[a.has_seen(task.group) for task in tasks] for a in kept], dtype=bool)
        tables[other.base.name] = replace(
            table,
            sources=tuple(rows),
            targets=tuple(task.name for task in tasks),
            groups=tuple(task.group for task in tasks),
            scores=table.scores[index],
            errors=table.errors[index],
            own=table.own[index] | mine,
        )
        known = {task.name for task in own.tasks}
        new = tuple(task for task in tasks if task.name not in known)
        own = replace(own, tasks=(*own.tasks, *new))
    return Translations(own, tables)


def _counterpart(mine: AdapterRecord, others: Sequence[AdapterRecord]) -> int | None:
    """Row of the adapter that was trained on the same data, by the likest recipe; None without."""
    nearest = [(_sameness(mine, other), -i) for i, other in enumerate(others)]
    same = [found for found in nearest if found[0] > (0, 0)]
    return -max(same)[1] if same else None


def _sameness(a: AdapterRecord, b: AdapterRecord) -> tuple[int, int]:
    """(3 same rows, 2 same dataset by name, 1 same name where nobody knows the data; same params).

    (0, 0) for different sources.
    """
    if a.dataset is not None and b.dataset is not None:
        same_rows = bool(a.dataset.digest) and a.dataset.digest == b.dataset.digest
        same_name = (a.dataset.name, a.dataset.group) == (b.dataset.name, b.dataset.group)
        level = 3 if same_rows else 2 if same_name else 0
    else:
        level = int((a.name, a.group) == (b.name, b.group))
    return (level, len(a.params.items() & b.params.items())) if level else (0, 0)


def _as_known(task: TaskRecord, tasks: Sequence[TaskRecord], base: str) -> TaskRecord:
    """The same task among these, else the other's without what its base had a part in."""
    for known in tasks:
        same_rows = bool(task.dataset.digest) and task.dataset.digest == known.dataset.digest
        if same_rows or (task.name, task.group) == (known.name, known.group):
            return known
    taken = any(task.name == known.name for known in tasks)
    return replace(
        task,
        name=f"{task.name} ({base})" if taken else task.name,
        fingerprint=_free_of_base(task.fingerprint),
    )


def _free_of_base(print_: Fingerprint) -> Fingerprint:
    values: Mapping[str, float] = {
        key: value for key, value in print_.values.items() if not key.startswith(_RELATIVE_TO_BASE)
    }
    vectors = {name: x for name, x in print_.vectors.items() if name in _FREE_VECTORS}
    return Fingerprint(
        values=values,
        vectors=vectors,
        label_shares=print_.label_shares,
        row_sketches=print_.row_sketches,
    )
