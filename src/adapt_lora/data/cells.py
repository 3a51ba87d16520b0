"""Lists that tables of text hold in their cells, as pandas and `datasets` write them there."""

import re
from collections.abc import Mapping
from dataclasses import replace

from adapt_lora.data.preferences import ALTERNATIVES
from adapt_lora.data.shapes import LABEL_FIELDS, RESPONSE_FIELDS, names_of
from adapt_lora.data.table import Table
from adapt_lora.data.values import nested_value
from adapt_lora.errors import DatasetError

# numpy writes lists without commas, and its own name around those inside.
_NUMPY = re.compile(r"\barray\(\[|['\"]\s+['\"]")


def unfold_cells(table: Table, shown: str) -> Table:
    """The table with lists where answers and labels are lists written as text, CSV and TSV only.

    Any other text that looks like a list stays text: an answer may well be JSON or code.

    Raises:
        DatasetError: A cell of such a field can't be read, for example since it was cut short.
    """
    if table.file_format not in ("CSV", "TSV"):
        return table
    unfolded = {
        field: lists
        for name, field in names_of(table.field_counts).items()
        if name in {*ALTERNATIVES, *LABEL_FIELDS, *RESPONSE_FIELDS}
        and (lists := _lists(table, field, name, shown))
    }
    records = []
    for line, record in table.records:
        cells = {field: values[line] for field, values in unfolded.items() if line in values}
        records.append((line, {**record, **cells}))
    return replace(table, records=records) if unfolded else table


def _lists(table: Table, field: str, name: str, shown: str) -> dict[int, object]:
    """What the cells of a field spell, by their lines; nothing where they are to stay text."""
    cells = {line: str(record.get(field) or "").strip() for line, record in table.records}
    texts = {line: cell for line, cell in cells.items() if cell[:1] in ("[", "{")}
    if not texts or 2 * len(texts) < sum(map(bool, cells.values())):
        return {}
    lists = {line: nested_value(cell) for line, cell in texts.items()}
    is_list = any(_is_list_of_answers(value, name) for value in lists.values())
    if not is_list and not any(
        cell[:2] != '{"' and _NUMPY.search(cell) and lists[line] is not None
        for line, cell in texts.items()
    ):
        return {}
    bad = next((line for line, value in lists.items() if value is None), None)
    if bad is not None:
        raise DatasetError(
            f"{shown}, line {bad}: '{field}' holds lists as text, and this one can't be read (cut "
            "short?). Save the data as JSONL or Parquet."
        )
    return lists


def _is_list_of_answers(value: object, name: str) -> bool:
    """Whether it is SQuAD's object of answers, a list of texts, or of class numbers for labels."""
    if isinstance(value, Mapping):
        return name in ALTERNATIVES and isinstance(value.get("text"), list)
    if not isinstance(value, list) or not value:
        return False
    if name in LABEL_FIELDS:
        return not any(isinstance(item, list | Mapping) for item in value)
    return name in ALTERNATIVES and all(isinstance(item, str) for item in value)
