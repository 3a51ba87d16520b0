"""Plain score tables, rows × tasks: what traits are fitted on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapt_lora.recommender.columns import Array
from adapt_lora.recommender.csv_tables import read_fields, read_numbers
from adapt_lora.registry.records import BASE_ROW, MatrixRow, TransferMatrix, row_labels


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTable:
    """Scores with the names of their rows and columns."""

    rows: tuple[str, ...]
    """Adapters by name, the base among them."""
    tasks: tuple[str, ...]
    """Columns."""
    values: Array
    """(n_rows, n_tasks); NaN = not measured."""


def measured_scores(matrix: TransferMatrix) -> ScoreTable:
    """The scores of a registry's base and adapters, also of those that nobody measured yet.

    The majority label's row stays out: it is no model.
    """
    names = unique_names(matrix)
    row_of = {row: i for i, row in enumerate(names)}
    column_of = {task.name: i for i, task in enumerate(matrix.tasks)}
    values = np.full((len(names), len(column_of)), np.nan)
    for cell in matrix.cells:
        if cell.row in row_of:
            values[row_of[cell.row], column_of[cell.task]] = cell.score
    return ScoreTable(tuple(names.values()), tuple(column_of), values)


def unique_names(matrix: TransferMatrix) -> dict[MatrixRow, str]:
    """Names of the base and the adapters; name/version where several rows would share a name."""
    labels = row_labels(matrix.adapters)
    return {
        BASE_ROW: BASE_ROW.label,
        **{record.row: labels[record.adapter_id] for record in matrix.adapters},
    }


def read_scores(path: str | Path) -> ScoreTable:
    """Read a CSV: a header of task names, then one line per model, its name first.

    Raises:
        MatrixError: Not readable, ragged, or something else than numbers.
    """
    place = Path(path)
    fields = read_fields(place)
    advice = "The first column holds names, all others numbers; leave what was not measured empty."
    values = read_numbers(place, fields.iloc[:, 1:], advice=advice)
    return ScoreTable(tuple(fields.iloc[:, 0]), tuple(fields.columns[1:]), values)
