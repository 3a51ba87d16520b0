"""CSV and TSV files."""

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from adapt_lora.data.dataset import SkippedRow
from adapt_lora.data.files.content import Content
from adapt_lora.data.table import HEADER_AGAIN, Table
from adapt_lora.data.values import listed
from adapt_lora.errors import DatasetError

_DELIMITERS = ",;\t|"
# A character that no text holds: one column, whatever stands in it.
_NO_DELIMITER = "\x1f"
# Excel's first line, which says the separator and is no row.
_SEP_LINE = re.compile(r'\ufeff?"?sep=(.)"?[ \t]*(\r\n|\n|\r|$)', re.IGNORECASE)
_ROWS_TO_JUDGE_BY = 1000


def read_delimited(content: Content) -> Table:
    """Rows of a CSV or TSV file with a header line.

    Raises:
        DatasetError: Two columns have one name, or what separates them can't be told.
    """
    said = _SEP_LINE.match(content.text)
    text = content.text[said.end() :] if said else content.text
    # Cells may be larger than the csv module's 128 KiB; its limit is global, so put it back.
    limit = csv.field_size_limit(sys.maxsize)
    try:
        delimiter = said[1] if said else _find_delimiter(content, text)
        first_line = 2 if said else 1
        table = _table(content, text, delimiter, first_line, quoting=csv.QUOTE_MINIMAL)
        if any(row.reason != HEADER_AGAIN for row in table.skipped):
            # Many TSV files know no quoting: there a quotation mark is a character like any other.
            # Elsewhere a stray one shows by the lines that it swallows, up to the next mark.
            plain = _table(content, text, delimiter, first_line, quoting=csv.QUOTE_NONE)
            swallowed = plain.n_read > table.n_read
            if swallowed or (delimiter == "\t" and len(plain.skipped) < len(table.skipped)):
                table = plain
    finally:
        csv.field_size_limit(limit)
    return table


def looks_delimited(content: Content) -> bool:
    """Whether all lines of a file that is no JSON are divided alike, whatever it is called."""
    lines = [line for line in content.text.splitlines() if line.strip()]
    if lines[0].lstrip()[0] in "{[":
        return False
    shares = [_fit(content.text, delimiter, csv.QUOTE_MINIMAL) for delimiter in _DELIMITERS]
    return len(lines) > 1 and any(fit[:2] == (1.0, 1.0) and fit[2] > 1 for fit in shares)


def _find_delimiter(content: Content, text: str) -> str:
    """The one by which most rows have as many fields as the header; of equal ones, most fields.

    Raises:
        DatasetError: Two do it equally well.
    """
    header_line = text.lstrip().split("\n", 1)[0]
    if content.suffix == ".tsv" and "\t" in header_line:
        return "\t"
    fits: dict[str, tuple[float, float, int]] = {}
    for delimiter in _DELIMITERS:
        # A stray quotation mark must not hide what all other rows say.
        fit = max(_fit(text, delimiter, quoting) for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE))
        # Where hardly a row is divided it stands in the name of the one column there is.
        if delimiter in header_line and fit[1] > 0.5:
            fits[delimiter] = fit
    best = max((fit[:2] for fit in fits.values()), default=(0.0, 0.0))
    rivals = [delimiter for delimiter, fit in fits.items() if fit[:2] == best]
    # In prose a comma has a space behind it; between fields it hardly ever has.
    rivals = [each for each in rivals if not _is_spaced(text, each)] or rivals
    most = max((fits[delimiter][2] for delimiter in rivals), default=0)
    rivals = [delimiter for delimiter in rivals if fits[delimiter][2] == most]
    if len(rivals) > 1:
        one, other = map(repr, rivals[:2])
        raise DatasetError(
            f"{content.path}: {one} and {other} divide every row alike, so which separates the "
            f"fields can't be told. Write sep={rivals[0]} or sep={rivals[1]} above the header."
        )
    return next(iter(rivals), _NO_DELIMITER)


def _is_spaced(text: str, delimiter: str) -> bool:
    return delimiter != "\t" and text.count(delimiter) == text.count(f"{delimiter} ")


def _fit(text: str, delimiter: str, quoting: Literal[0, 3]) -> tuple[float, float, int]:
    """Shares of the first rows with as many fields as the header, and with several; its fields."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting)
    counts = [len(cells) for cells in islice(filter(any, reader), _ROWS_TO_JUDGE_BY)] or [0]
    rows = counts[1:] or counts
    n_alike, n_divided = rows.count(counts[0]), sum(count > 1 for count in rows)
    return n_alike / len(rows), n_divided / len(rows), counts[0]


def _table(
    content: Content, text: str, delimiter: str, first_line: int, *, quoting: Literal[0, 3]
) -> Table:
    records: list[tuple[int, Mapping[str, object]]] = []
    skipped: list[SkippedRow] = []
    header: list[str] = []
    long: dict[int, Sequence[str]] = {}
    for row in _rows(text, delimiter, quoting):
        at, cells = row.line + first_line - 1, row.cells
        if not header and not row.problem:
            header = [cell.strip() for cell in cells]
            _check_header(header, f"{content.path}, line {at}")
        elif row.problem or len(cells) > len(header):
            count = f"{len(cells)} fields where the header names {len(header)}"
            reason = row.problem or f"{count} (an unquoted separator?)"
            # The separator too many stands before a field or behind it.
            held = {
                name: [cells[index], cells[index - len(header)]]
                for index, name in enumerate(header)
                if len(cells) >= len(header)
            }
            skipped.append(SkippedRow(at, reason, "".join(row.lines), held))
        elif [cell.strip() for cell in cells] == header:
            skipped.append(SkippedRow(at, HEADER_AGAIN))
        elif len(header) > 1 and sorted(cell.strip() for cell in cells) == sorted(header):
            raise DatasetError(
                f"{content.path}, line {at}: the header once more, in another order. "
                "Join the files by the names of their columns."
            )
        else:
            records.append((at, dict(zip(header, cells, strict=False))))
            if len(row.lines) > 1:
                long[at] = row.lines
    file_format = "TSV" if delimiter == "\t" else "CSV"
    table = Table(file_format, records, skipped, content.encoding.name)
    return _free_swallowed(table, header, delimiter, long)


def _free_swallowed(
    table: Table, header: Sequence[str], delimiter: str, long: Mapping[int, Sequence[str]]
) -> Table:
    """The table, its rows apart that stood between two stray quotation marks.

    Dialogues open a quotation in one row and close it in a later one. Where each line between the
    two is a row by itself, with a known value in every column that repeats its values, it is one.

    Args:
        table: What was read with quoting.
        header: The names of the columns.
        delimiter: What separates the fields.
        long: The lines of each record that has several, by the first.
    """
    short = [record for at, record in table.records if at not in long]
    closed: dict[int, set[object]] = {}
    for index, name in enumerate(header):
        values = {record.get(name) for record in short}
        if 0 < 2 * len(values) <= len(short) and not values & {None, ""}:
            closed[index] = values
    records: list[tuple[int, Mapping[str, object]]] = []
    freed: list[str] = []
    doubtful: list[str] = []
    for at, record in table.records:
        rows = [_lone_row(line, header, delimiter, closed) for line in long.get(at, ())]
        if not rows or None in rows:
            records.append((at, record))
            if any(row is not None for row in rows[1:]):
                doubtful.append(str(at))
            continue
        freed.append(f"{at} to {at + len(rows) - 1}")
        records += [
            (at + index, dict(zip(header, row, strict=True)))
            for index, row in enumerate(rows)
            if row is not None
        ]
    notes = []
    if freed:
        what = "a quotation mark opens in one row and closes in another; each line is read as a row"
        notes.append(f"lines {listed(freed)}: {what}")
    if doubtful:
        what = "the quotation marks enclose lines that look like rows; they are read as text"
        notes.append(f"line {listed(doubtful)}: {what}")
    return replace(table, records=records, notes=(*table.notes, *notes))


def _lone_row(
    line: str, header: Sequence[str], delimiter: str, closed: Mapping[int, set[object]]
) -> list[str] | None:
    """The cells of a line that is a row by itself, quotation marks as characters; None of others.

    Only a tab is rare enough in texts to tell it without a column that repeats its values.
    """
    if not closed and (delimiter != "\t" or len(header) < 2):
        return None
    for quoting in (csv.QUOTE_NONE, csv.QUOTE_MINIMAL):
        cells = next(csv.reader([line], delimiter=delimiter, quoting=quoting), [])
        cells = [cell.rstrip("\r\n") for cell in cells]
        if len(cells) == len(header) and all(cells[at] in known for at, known in closed.items()):
            return cells
    return None


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of a file, as far as it is one."""

    line: int
    """Where it starts, counted from 1."""
    cells: list[str]
    """Its fields; of what is no valid row those that can be told."""
    lines: Sequence[str]
    """The lines that it stands in."""
    problem: str = ""
    """Why it is no valid row, as part of a sentence; "" for one that is."""


def _rows(text: str, delimiter: str, quoting: Literal[0, 3]) -> Iterator[_Row]:
    """The rows that have any text."""
    lines: list[str] = []

    def read_lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            lines.append(line)
            yield line

    reader = csv.reader(read_lines(), delimiter=delimiter, quoting=quoting, strict=True)
    while True:
        start = reader.line_num + 1
        lines.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            loose = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
            cells = next(loose, [])
            yield _Row(start, cells, tuple(lines), f"not valid CSV ({error})")
            continue
        if any(cell.strip() for cell in cells):
            yield _Row(start, cells, tuple(lines))


def _check_header(header: list[str], where: str) -> None:
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise DatasetError(
            f"{where}: two columns are called {listed(twice[:1])!r}, so which is meant can't be "
            "told. Rename one of them."
        )
