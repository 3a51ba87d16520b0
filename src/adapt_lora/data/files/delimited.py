"""CSV and TSV files."""

import csv
import io
import sys
from collections.abc import Mapping
from typing import Literal

from adapt_lora.data.dataset import SkippedRow
from adapt_lora.data.files.content import Content
from adapt_lora.data.table import Table


def read_delimited(content: Content) -> Table:
    """Rows of a CSV or TSV file with a header line."""
    text = content.text
    header_line = text.lstrip().split("\n", 1)[0]
    delimiter = "\t" if content.suffix == ".tsv" else max(",;\t|", key=header_line.count)
    # Cells may be larger than the csv module's 128 KiB; its limit is global, so put it back.
    limit = csv.field_size_limit(sys.maxsize)
    try:
        table = _table(text, delimiter, quoting=csv.QUOTE_MINIMAL)
        if table.skipped:
            # Many TSV files know no quoting: there a quotation mark is a character like any other.
            # Elsewhere a stray one shows by the lines that it swallows, up to the next mark.
            plain = _table(text, delimiter, quoting=csv.QUOTE_NONE)
            swallowed = plain.n_read > table.n_read
            if swallowed or (delimiter == "\t" and len(plain.skipped) < len(table.skipped)):
                table = plain
    finally:
        csv.field_size_limit(limit)
    return table


def _table(text: str, delimiter: str, *, quoting: Literal[0, 3]) -> Table:
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True
    )
    records: list[tuple[int, Mapping[str, object]]] = []
    skipped: list[SkippedRow] = []
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            skipped.append(SkippedRow(line, f"not valid CSV ({error})"))
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
        elif len(cells) > len(header):
            count = f"{len(cells)} fields where the header names {len(header)}"
            skipped.append(SkippedRow(line, f"{count} (an unquoted separator?)"))
        else:
            records.append((line, dict(zip(header, cells, strict=False))))
    return Table("TSV" if delimiter == "\t" else "CSV", records, skipped)
