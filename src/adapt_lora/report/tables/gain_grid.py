"""The transfer matrix as tables that fit the screen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from adapt_lora.registry.records import (
    BASE_ROW,
    MAJORITY_ROW,
    AdapterRecord,
    Cell,
    MatrixRow,
    TaskRecord,
    TransferMatrix,
)
from adapt_lora.report.tables.style import QUIET, error_text, gain_style, name_text, new_table
from adapt_lora.report.transfer import (
    MatrixValues,
    cells_by_place,
    figure_of,
    gain_of,
    gain_rows,
    is_own_cell,
)
from adapt_lora.report.wording import GAP, UNIT_WORDS, gain_text, one_line, score_text

OWN_MARK = "°"
"""What follows a gain on the adapter's own training data."""


def matrix_table(
    matrix: TransferMatrix,
    *,
    values: MatrixValues = "gain",
    errors: bool = False,
    width: int | None = None,
) -> RenderableType:
    """Gains of adapters over tasks, coloured; base and majority rows give scores.

    Gaps are `·`, own cells carry `°`. Gains smaller than two standard errors stay without colour.

    Args:
        matrix: What to show.
        values: Gains, or scores everywhere; colours say the same of both.
        errors: Write standard errors beside the figures.
        width: Columns of the screen; tasks that do not fit go on in further tables below. None
            for one table, however wide.
    """
    references = [row for row in matrix.rows if row.is_reference]
    rows = gain_rows(matrix)
    beside = " (score)" if values == "gain" else ""
    names = {row: row.label for row in rows}
    names |= {BASE_ROW: f"base model{beside}", MAJORITY_ROW: f"{MAJORITY_ROW.label}{beside}"}
    columns = _columns(matrix, (*references, *rows), values=values, errors=errors)
    blocks = _blocks(columns, names=list(names.values()), width=width)
    tables: list[RenderableType] = []
    done = 0
    for block in blocks:
        part = f", tasks {done + 1}-{done + len(block)} of {len(columns)}"
        title = f"Transfer on {one_line(matrix.base.name, limit=60)}"
        table = new_table(title + (part if len(blocks) > 1 else ""), ["adapter"])
        for column in block:
            head = Text(column.head)
            table.add_column(head, justify="right", overflow="fold", width=column.width)
        for row in references:
            words = [column.words[row] for column in block]
            table.add_row(name_text(names[row]), *words, style=QUIET)
        table.add_section()
        for row in rows:
            table.add_row(name_text(names[row]), *(column.words[row] for column in block))
        tables.append(table)
        done += len(block)
    units = [unit for unit in UNIT_WORDS if any(task.unit == unit for task in matrix.tasks)]
    counted = " or ".join(UNIT_WORDS[unit] for unit in units) or "points"
    what = "Gains over the base model" if values == "gain" else "Scores"
    legend = (
        f"{what} in {counted}; coloured where the gain is beyond two standard errors.  "
        f"{OWN_MARK} own training data  {GAP} not measured"
    )
    return Group(*tables, Text(legend, style=QUIET))


@dataclass(frozen=True, slots=True)
class _Column:
    head: str
    words: Mapping[MatrixRow, Text]

    @property
    def width(self) -> int:
        """Characters; a longer head is folded, figures never."""
        return max(6, min(len(self.head), 12), *(len(text) for text in self.words.values()))


def _columns(
    matrix: TransferMatrix, rows: Sequence[MatrixRow], *, values: MatrixValues, errors: bool
) -> list[_Column]:
    cells = cells_by_place(matrix)
    adapters = {adapter.row: adapter for adapter in matrix.adapters}
    columns = []
    for task in matrix.tasks:
        words = {
            row: _place_text(
                cells,
                row,
                task,
                adapters.get(row),
                values="score" if row.is_reference else values,
                errors=errors,
            )
            for row in rows
        }
        columns.append(_Column(one_line(task.name, limit=20), words))
    return columns


def _place_text(
    cells: Mapping[tuple[MatrixRow, str], Cell],
    row: MatrixRow,
    task: TaskRecord,
    adapter: AdapterRecord | None,
    *,
    values: MatrixValues,
    errors: bool,
) -> Text:
    figure = figure_of(cells, row, task, values=values)
    if figure is None:
        return Text(GAP, style=QUIET)
    write = gain_text if values == "gain" else score_text
    text = write(figure.value, task.unit)
    if errors:
        text += error_text(figure.se, task.unit)
    mark = OWN_MARK if adapter is not None and is_own_cell(adapter, task) else ""
    gain = None if row.is_reference else gain_of(cells, row, task)
    if gain is None:
        return Text(text + mark)
    sure = gain.se is not None and abs(gain.gain) > 2 * gain.se
    return Text(text + mark, style=gain_style(gain.gain, sure=sure))


def _blocks(
    columns: Sequence[_Column], *, names: Sequence[str], width: int | None
) -> list[list[_Column]]:
    """Columns in runs that fit the screen beside the names, at least one each."""
    if width is None:
        return [list(columns)]
    # Three spaces stand between columns; names longer than a third of the screen are folded.
    room = width - min(max(map(len, ["adapter", *names])), max(width // 3, 12)) - 2
    blocks: list[list[_Column]] = [[]]
    used = 0
    for column in columns:
        if blocks[-1] and used + column.width + 3 > room:
            blocks.append([])
            used = 0
        blocks[-1].append(column)
        used += column.width + 3
    return blocks
