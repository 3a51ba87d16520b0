"""JSON files: an object per line, an array of objects, or an object around such arrays."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from adapt_lora.data.dataset import SkippedRow
from adapt_lora.data.files.content import Content
from adapt_lora.data.splits import choose_split, kind_of_split
from adapt_lora.data.table import Table
from adapt_lora.data.values import Number, kind_of, listed
from adapt_lora.errors import DatasetError

_WRAPPER_KEYS = ("data", "rows", "examples", "instances", "items")


class _Doubled(dict[str, object]):
    """An object two of whose fields have one name."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    plain = dict(pairs)
    return plain if len(plain) == len(pairs) else _Doubled(pairs)


# Numbers stay as they are written and NaN is a missing value; raw tabs inside strings are common
# in home-made files and harmless, hence strict=False.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_float=Number,
    parse_int=Number,
    parse_constant=lambda _: None,
    strict=False,
)
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class _Rows:
    """Where the rows stand inside an object."""

    start: int
    """Where their array opens, or the object that holds them by columns."""
    note: str = ""
    """As in `Table.notes`; "" where there is nothing to say."""


def read_json(content: Content) -> Table:
    """Rows of JSONL, of an array, or of an object such as {"data": [...]} or {"train": [...]}.

    Raises:
        DatasetError: An array breaks off or is malformed, or the wanted split is not there.
    """
    text = content.text
    start = _skip_space(text, 0)
    first_end = text.find("\n", start)
    is_one_line = first_end < 0 or not text[first_end:].strip()
    table = None
    if text[start] == "{" and not is_one_line:
        _, first = next(_line_values(text[start:first_end]))
        if isinstance(first, dict):
            table = table_of_values("JSONL", _line_values(text))
    if table is None:
        table = _whole(content, start, is_one_line=is_one_line)
    return replace(table, encoding=content.encoding.name)


def _whole(content: Content, start: int, *, is_one_line: bool) -> Table:
    """The rows of a file that is one array or one object; of JSONL whose first line is broken."""
    text = content.text
    # Where all is one line, only the number of the row leads anywhere.
    file_format = "JSON on one line" if is_one_line else "JSON"
    try:
        rows = _Rows(start) if text[start] == "[" else _find_rows(content, start)
        if rows is None or text[rows.start] == "{":
            value, _ = _DECODER.raw_decode(text, start if rows is None else rows.start)
            columns = columns_as_rows(value)
            if columns is not None:
                table = table_of_values("JSON by columns", enumerate(columns, start=1))
            else:
                table = table_of_values(file_format, [(1, _DECODER.decode(text.strip()))])
        else:
            values = _array_values(text, rows.start, is_one_line=is_one_line)
            table = table_of_values(file_format, values)
        return replace(table, notes=(rows.note,)) if rows and rows.note else table
    except (json.JSONDecodeError, RecursionError) as error:
        # Perhaps only the first line of a JSONL file is broken; a broken array can't be resumed.
        table = table_of_values("JSONL", _line_values(text))
        if text[start] != "[" or len(table.records) > len(table.skipped):
            return table
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise DatasetError(
            f"{content.path}, line {line}: the JSON array breaks off or is malformed ({error}). "
            "Mend it there, or write one object per line."
        ) from error


def table_of_values(file_format: str, values: Iterable[tuple[int, object]]) -> Table:
    """The objects among the values as records; the rest as skipped rows.

    Where there are only texts, and no object, each is a prompt.
    """
    records: list[tuple[int, Mapping[str, object]]] = []
    skipped: list[SkippedRow] = []
    texts: list[tuple[int, str]] = []
    for line, value in values:
        if isinstance(value, _Doubled):
            skipped.append(SkippedRow(line, "two fields of one name, so one is lost"))
        elif isinstance(value, dict):
            records.append((line, value))
        elif isinstance(value, SkippedRow):
            skipped.append(value)
        elif isinstance(value, str) and not isinstance(value, Number):
            texts.append((line, value))
        else:
            skipped.append(SkippedRow(line, f"{kind_of(value)} where an object was expected"))
    if records:
        reason = f"{kind_of('')} where an object was expected"
        skipped += [SkippedRow(line, reason) for line, _ in texts]
    else:
        records += [(line, {"prompt": text}) for line, text in texts]
    return Table(file_format, records, sorted(skipped, key=lambda row: row.line))


def _line_values(text: str) -> Iterator[tuple[int, object]]:
    """What each line holds, blank lines left out; a `SkippedRow` where it is not JSON."""
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if not stripped:
            continue
        try:
            yield number, _DECODER.decode(stripped)
        except json.JSONDecodeError as error:
            reason = f"not JSON ({error.msg}, column {error.colno})"
            yield number, SkippedRow(number, reason)
        except RecursionError:
            yield number, SkippedRow(number, "not JSON that can be read (nested too deeply)")


def _array_values(text: str, start: int, *, is_one_line: bool) -> Iterator[tuple[int, object]]:
    """The elements of the array that opens at `start`, each with its line (or its number)."""
    line, counted = 0 if is_one_line else 1, 0
    position = _skip_space(text, start + 1)
    while text[position : position + 1] != "]":
        line += 1 if is_one_line else text.count("\n", counted, position)
        counted = position
        value, end = _DECODER.raw_decode(text, position)
        yield line, value
        position = _skip_space(text, end)
        if text[position : position + 1] == ",":
            position = _skip_space(text, position + 1)
        elif text[position : position + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' or ']'", text, position)


def _find_rows(content: Content, start: int) -> _Rows | None:
    """The rows inside an object such as {"version": 2, "data": [...]} or {"train": [...], ...}.

    Raises:
        DatasetError: The wanted split is not there, or can't be told from the rest.
    """
    text = content.text
    parts = {key: at for key, at in _parts(text, start) if text[at] in "[{"}
    splits = [key for key, at in parts.items() if kind_of_split(key) and _holds_rows(content, at)]
    arrays = [key for key in _WRAPPER_KEYS if key in parts and text[parts[key]] == "["]
    if splits:
        choice = choose_split(content.split, [*splits, *arrays])
        found = listed([*splits, *arrays])
        if choice is None:
            raise DatasetError(
                f"{content.path}: there is no split {content.split!r} (found: {found}). "
                "Save the rows that you mean as a file of their own."
            )
        if arrays and kind_of_split(choice.name) != kind_of_split(content.split):
            raise DatasetError(
                f"{content.path}: which rows are the split {content.split!r} can't be told "
                f"(found: {found}). Save them as a file of their own."
            )
        at = parts[choice.name]
        inner = _find_rows(content, at) if text[at] == "{" else None
        return _Rows(inner.start if inner else at, choice.note)
    if arrays:
        return _Rows(min(parts[key] for key in arrays))
    inside = (_find_rows(content, parts[key]) for key in _WRAPPER_KEYS if key in parts)
    return next((rows for rows in inside if rows), None)


def _parts(text: str, start: int) -> Iterator[tuple[str, int]]:
    """The fields of the object that opens at `start`, each with where its value begins."""
    position = _skip_space(text, start + 1)
    while text[position : position + 1] == '"':
        key, end = _DECODER.raw_decode(text, position)
        position = _skip_space(text, end)
        if text[position : position + 1] != ":":
            raise json.JSONDecodeError("Expecting ':'", text, position)
        position = _skip_space(text, position + 1)
        yield key, position
        _, end = _DECODER.raw_decode(text, position)
        position = _skip_space(text, end)
        if text[position : position + 1] == ",":
            position = _skip_space(text, position + 1)


def _holds_rows(content: Content, start: int) -> bool:
    """Whether an array of objects opens there (or an empty one), or an object that holds rows."""
    text = content.text
    if text[start] == "[":
        inside = _skip_space(text, start + 1)
        return text[inside : inside + 1] in ("{", "]")
    if _find_rows(content, start) is not None:
        return True
    return columns_as_rows(_DECODER.raw_decode(text, start)[0]) is not None


def columns_as_rows(value: object, *, fewest: int = 2) -> list[dict[str, object]] | None:
    """The rows of {"text": ["a", "b"], "label": [0, 1]}, or of {"text": {"0": "a", "1": "b"}, ...}.

    `datasets` and pandas write these; None where the value is neither, or has fewer columns: one
    field of a file may hold a list too.
    """
    if not isinstance(value, dict) or len(value) < fewest:
        return None
    columns: Sequence[object] = list(value.values())
    if all(isinstance(column, dict) for column in columns):
        keys = {tuple(column) for column in columns if isinstance(column, dict)}
        columns = [[*column.values()] for column in columns if isinstance(column, dict)]
        if len(keys) != 1 or not all(key.isdigit() for key in next(iter(keys))):
            return None
    lists = [column for column in columns if isinstance(column, list)]
    if len(lists) < len(columns) or len({*map(len, lists)}) != 1:
        return None
    rows = [dict(zip(value, cells, strict=True)) for cells in zip(*lists, strict=True)]
    # One row may have a list of messages in each of its fields.
    first = rows[0].values() if rows else ()
    is_chat = any(isinstance(cell, dict) and {"role", "from"} & cell.keys() for cell in first)
    return None if is_chat else rows


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
