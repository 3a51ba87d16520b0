"""Put stored cells together into a transfer matrix: one protocol and one set of rows per column."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from adapt_lora.model.base import BaseIdentity
from adapt_lora.registry.layout import StoredCell
from adapt_lora.registry.records import (
    BASE_ID,
    BASE_ROW,
    AdapterRecord,
    MatrixRow,
    TaskRecord,
    TransferMatrix,
)


class _Column(NamedTuple):
    """What all cells of one column must share."""

    task: str
    dataset_digest: str
    metric: str
    protocol: str


def assemble_matrix(
    base: BaseIdentity,
    *,
    adapters: Sequence[AdapterRecord],
    tasks: Sequence[TaskRecord],
    cells: Sequence[StoredCell],
    protocol: str | None = None,
    with_targets: bool = False,
) -> TransferMatrix:
    """The matrix of these cells.

    Cells of one task are compared only under one protocol, on the same rows and in the same
    metric. Where a task was measured under several, the column with a base row and the most
    adapters is taken, of equal ones that of the most rows, then the latest. Of two measurements of
    one cell the latest counts. Rows that are known as a mere target make no column. Few-shot rows
    stand in the column of the same protocol without examples. Cells of adapters that are gone are
    left out.

    Args:
        base: Base model of all that follows.
        adapters: Rows.
        tasks: Known tasks; may hold one name with several sets of rows.
        cells: Everything measured.
        protocol: Take only this protocol.
        with_targets: Whether rows that are known as a mere target make columns too.
    """
    columns = _columns(cells, known={BASE_ID, *(record.adapter_id for record in adapters)})
    if protocol is not None:
        columns = {key: value for key, value in columns.items() if key.protocol == protocol}
    described = {
        (task.name, task.dataset.digest, task.metric): task
        for task in tasks
        if with_targets or not task.is_target
    }
    chosen: dict[str, _Column] = {}
    for key, column in columns.items():
        if (key.task, key.dataset_digest, key.metric) not in described:
            continue
        rival = chosen.get(key.task)
        if rival is None or _worth(column) > _worth(columns[rival]):
            chosen[key.task] = key
    ordered = sorted(chosen.values(), key=lambda key: _first_measured(columns[key]))
    return TransferMatrix(
        base=base,
        adapters=tuple(sorted(adapters, key=lambda record: (record.created_ms, record.name))),
        tasks=tuple(described[key.task, key.dataset_digest, key.metric] for key in ordered),
        cells=tuple(stored.cell for key in ordered for stored in columns[key].values()),
    )


def _columns(
    cells: Sequence[StoredCell], *, known: set[str]
) -> Mapping[_Column, dict[MatrixRow, StoredCell]]:
    columns: dict[_Column, dict[MatrixRow, StoredCell]] = defaultdict(dict)
    for stored in sorted(cells, key=lambda stored: stored.measured_ms):
        cell = stored.cell
        if cell.row.is_reference or cell.row.model in known:
            key = _Column(cell.task, stored.dataset_digest, cell.metric, cell.column)
            columns[key][cell.row] = stored
    return columns


def _worth(column: Mapping[MatrixRow, StoredCell]) -> tuple[bool, int, int, int]:
    adapters = sum(row.is_candidate for row in column)
    n_rows = max(stored.cell.n or 0 for stored in column.values())
    latest = max(stored.measured_ms for stored in column.values())
    return BASE_ROW in column, adapters, n_rows, latest


def _first_measured(column: Mapping[MatrixRow, StoredCell]) -> tuple[int, str]:
    return min((stored.measured_ms, stored.cell.task) for stored in column.values())
