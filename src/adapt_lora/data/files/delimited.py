"""CSV and TSV files."""

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Literal

from adapt_lora.data.dataset import SkippedRow
from adapt_lora.data.files.content import Content
from adapt_lora.data.table import Table
from adapt_lora.data.values import listed
from adapt_lora.errors import DatasetError

_DELIMITERS = ",;\t|"
# A character that no text holds: one column, whatever stands in it.
_NO_DELIMITER = "\x1f"
# Excel's first line, which says the separator and is no row.
_SEP_LINE = re.compile(r'\ufeff?"?sep=(.)"?[ \t]*(\r\n|\n|\r|$)', re.IGNORECASE)
_ROWS_TO_JUDGE_BY = 1000
_HEADER_AGAIN = "the header line once more"


def read_delimited(content: Content) -> Table:
    """Rows of a CSV or TSV file with a header line.

    Raises:
        DatasetError: Two columns have one name.
    """
    said = _SEP_LINE.match(content.text)
    text = content.text[said.end() :] if said else content.text
    # Cells may be larger than the csv module's 128 KiB; its limit is global, so put it back.
    limit = csv.field_size_limit(sys.maxsize)
    try:
        delimiter = said[1] if said else _find_delimiter(text, content.suffix)
        first_line = 2 if said else 1
        table = _table(content, text, delimiter, first_line, quoting=csv.QUOTE_MINIMAL)
        if any(row.reason != _HEADER_AGAIN for row in table.skipped):
            # Many TSV files know no quoting: there a quotation mark is a character like any other.
            # Elsewhere a stray one shows by the lines that it swallows, up to the next mark.
            plain = _table(content, text, delimiter, first_line, quoting=csv.QUOTE_NONE)
            swallowed = plain.n_read > table.n_read
            if swallowed or (delimiter == "\t" and len(plain.skipped) < len(table.skipped)):
                table = plain
    finally:
        csv.field_size_limit(limit)
    return table


def _find_delimiter(text: str, suffix: str) -> str:
    """The one by which most rows have as many fields as the header; of equal ones, most fields."""
    header_line = text.lstrip().split("\n", 1)[0]
    if suffix == ".tsv" and "\t" in header_line:
        return "\t"
    best, best_fit = _NO_DELIMITER, (0.0, 0.0, 1)
    for delimiter in _DELIMITERS:
        # A stray quotation mark must not hide what all other rows say.
        fit = max(_fit(text, delimiter, quoting) for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE))
        # Where hardly a row is divided it stands in the name of the one column there is.
        if delimiter in header_line and fit[1] > 0.5 and fit > best_fit:
            best, best_fit = delimiter, fit
    return best


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
    for line, cells in _lines(text, delimiter, quoting):
        at = line + first_line - 1
        if isinstance(cells, SkippedRow):
            skipped.append(SkippedRow(at, cells.reason))
        elif not header:
            header = [cell.strip() for cell in cells]
            _check_header(header, f"{content.path}, line {at}")
        elif len(cells) > len(header):
            count = f"{len(cells)} fields where the header names {len(header)}"
            skipped.append(SkippedRow(at, f"{count} (an unquoted separator?)"))
        elif [cell.strip() for cell in cells] == header:
            skipped.append(SkippedRow(at, _HEADER_AGAIN))
        else:
            records.append((at, dict(zip(header, cells, strict=False))))
    return Table("TSV" if delimiter == "\t" else "CSV", records, skipped, content.encoding.name)


def _lines(
    text: str, delimiter: str, quoting: Literal[0, 3]
) -> Iterator[tuple[int, list[str] | SkippedRow]]:
    """The cells of each row that has any, with the line where it starts."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True
    )
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, SkippedRow(line, f"not valid CSV ({error})")
            continue
        if any(cell.strip() for cell in cells):
            yield line, cells


def _check_header(header: list[str], where: str) -> None:
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise DatasetError(
            f"{where}: two columns are called {listed(twice[:1])!r}, so which is meant can't be "
            "told. Rename one of them."
        )
