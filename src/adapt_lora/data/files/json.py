"""JSON files: an object per line, an array of objects, or an object around such arrays."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from adapt_lora.data.dataset import SkippedRow
from adapt_lora.data.files.content import Content
from adapt_lora.data.splits import choose_split, kind_of_split, refuse_split
from adapt_lora.data.table import Table
from adapt_lora.data.values import Number, kind_of, listed, scalar_text
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
_NAMED_VALUE = re.compile(r'"([^"\\]*)"\s*:\s*("(?:[^"\\]|\\.)*"|[-\w.]+)(?=\s*[,}])')
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
            table = table_of_values("JSONL", _line_values(text, may_have_commas=True))
    if table is None:
        table = _whole(content, start, is_one_line=is_one_line)
    _refuse_rows_inside(table, content)
    return replace(table, encoding=content.encoding.name)


def _refuse_rows_inside(table: Table, content: Content) -> None:
    """Nothing, unless each object holds rows of its own: {"data": [...]}, {"data": [...]}.

    Raises:
        DatasetError: It does.
    """
    holding = [
        key
        for _, record in table.records[:1]
        for key, value in record.items()
        if (key in _WRAPPER_KEYS or kind_of_split(key))
        and isinstance(value, list)
        and value
        and isinstance(value[0], dict)
    ]
    if holding and len(table.records[0][1]) == len(holding):
        raise DatasetError(
            f"{content.path}: each of its objects holds rows of its own, in {listed(holding)}. "
            "Write those out, an object per line."
        )


def _whole(content: Content, start: int, *, is_one_line: bool) -> Table:
    """The rows of a file that is one array or one object; of JSONL whose first line is broken."""
    text = content.text
    # Where all is one line, only the number of the row leads anywhere.
    file_format = "JSON on one line" if is_one_line else "JSON"
    try:
        if text[start] == "[":
            return table_of_values(file_format, _array_values(text, start, is_one_line=is_one_line))
        value, end = _DECODER.raw_decode(text, start)
        if text[end:].strip():
            values = _following_values(text, start, is_one_line=is_one_line)
            return table_of_values(file_format, values)
        rows = _find_rows(content, start)
        if rows is not None and text[rows.start] == "[":
            values = _array_values(text, rows.start, is_one_line=is_one_line, is_inside=True)
            table = table_of_values(file_format, values)
        else:
            value, _ = _DECODER.raw_decode(text, start if rows is None else rows.start)
            columns = columns_as_rows(value)
            if columns is None:
                _refuse_nested_table(value, content)
                return table_of_values(file_format, [(1, value)])
            table = table_of_values("JSON by columns", enumerate(columns, start=1))
        return replace(table, notes=(rows.note,)) if rows and rows.note else table
    except (json.JSONDecodeError, RecursionError) as error:
        # Perhaps only the first line of a JSONL file is broken; a broken array can't be resumed.
        # A comma behind each object is no fault of a line, but in an array it is no sign of lines.
        table = table_of_values("JSONL", _line_values(text, may_have_commas=text[start] != "["))
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
            held = {key: [scalar_text(item) or ""] for key, item in value.items()}
            text = " ".join(cell for cells in held.values() for cell in cells)
            reason = "two fields of one name, so one is lost"
            skipped.append(SkippedRow(line, reason, text, held))
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


def _line_values(text: str, *, may_have_commas: bool = False) -> Iterator[tuple[int, object]]:
    """What each line holds, blank lines left out; a `SkippedRow` where it is not JSON."""
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if not stripped:
            continue
        try:
            yield number, _DECODER.decode(stripped.rstrip(", ") if may_have_commas else stripped)
        except json.JSONDecodeError as error:
            reason = f"not JSON ({error.msg}, column {error.colno})"
            yield number, SkippedRow(number, reason, stripped, _glimpse(stripped))
        except RecursionError:
            yield number, SkippedRow(number, "not JSON that can be read (nested too deeply)")


def _glimpse(text: str) -> dict[str, list[str]]:
    """The texts and numbers that stand behind names in a line of broken JSON."""
    held: dict[str, list[str]] = {}
    for name, value in _NAMED_VALUE.findall(text):
        try:
            said = scalar_text(_DECODER.decode(value)) or ""
        except json.JSONDecodeError:
            continue
        held.setdefault(name, []).append(said)
    return held


def _array_values(
    text: str, start: int, *, is_one_line: bool, is_inside: bool = False
) -> Iterator[tuple[int, object]]:
    """The elements of the array that opens at `start`, each with its line (or its number).

    Unless it stands inside an object, those of further arrays behind it too.
    """
    line, counted = 0 if is_one_line else 1, 0
    position = _skip_space(text, start + 1)
    while True:
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
        position = _skip_space(text, position + 1)
        if is_inside or position == len(text):
            return
        if text[position] != "[":
            raise json.JSONDecodeError("Extra data", text, position)
        position = _skip_space(text, position + 1)


def _following_values(text: str, start: int, *, is_one_line: bool) -> Iterator[tuple[int, object]]:
    """Values that follow one another; each with the line where it starts (or its number).

    Raises:
        json.JSONDecodeError: What follows is no value.
    """
    position, line, counted = start, 0 if is_one_line else 1, 0
    while position < len(text):
        line += 1 if is_one_line else text.count("\n", counted, position)
        counted = position
        value, end = _DECODER.raw_decode(text, position)
        yield line, value
        position = _skip_space(text, end)
        if text[position : position + 1] == ",":
            position = _skip_space(text, position + 1)


def _find_rows(content: Content, start: int) -> _Rows | None:
    """The rows inside an object such as {"version": 2, "data": [...]} or {"train": [...], ...}.

    Raises:
        DatasetError: The wanted split is not there, or can't be told from the rest.
    """
    text = content.text
    parts = {key: at for key, at in _parts(text, start) if text[at] in "[{"}
    if "columns" in parts and "data" in parts and _opens(text, parts["data"], "["):
        return _Rows(start)
    splits = _find_splits(content, parts)
    arrays = [key for key in _WRAPPER_KEYS if key in parts and text[parts[key]] == "["]
    if splits:
        there = [*splits, *arrays]
        choice = choose_split(content.split, there)
        if choice is None:
            raise DatasetError(
                f"{content.path}: {refuse_split(content.split, there)}. "
                "Save the rows that you mean as a file of their own."
            )
        is_near = kind_of_split(choice.name, qualified=True) != kind_of_split(content.split)
        if arrays and is_near:
            raise DatasetError(
                f"{content.path}: which rows are the split {content.split!r} can't be told "
                f"(found: {listed(there)}). Save them as a file of their own."
            )
        at = parts[choice.name]
        inner = _find_rows(content, at) if text[at] == "{" else None
        return _Rows(inner.start if inner else at, choice.note)
    lists = [key for key, at in parts.items() if _opens(text, at, "{")]
    filled = [key for key in arrays if key in lists]
    if len(filled) > 1:
        raise DatasetError(
            f"{content.path}: rows stand in {listed(filled)}, so which are meant can't be told. "
            "Save those that you mean as a file of their own."
        )
    if arrays:
        chosen = next(iter(filled or arrays))
        others = [key for key in lists if key != chosen]
        note = f"the rows of {chosen!r} are read, not those of {listed(others)}" if others else ""
        return _Rows(parts[chosen], note)
    inside = (_find_rows(content, parts[key]) for key in _WRAPPER_KEYS if key in parts)
    return next((rows for rows in inside if rows), None)


def _find_splits(content: Content, parts: Mapping[str, int]) -> list[str]:
    """The fields that hold a split each; names that say more than that only beside one another."""
    named = [
        key
        for key, at in parts.items()
        if kind_of_split(key, qualified=True) and _holds_rows(content, at)
    ]
    return named if len(named) > 1 or any(map(kind_of_split, named)) else []


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
        return _opens(text, start, "{") or text[_skip_space(text, start + 1)] == "]"
    if _find_rows(content, start) is not None:
        return True
    return columns_as_rows(_DECODER.raw_decode(text, start)[0]) is not None


def _opens(text: str, start: int, inner: str) -> bool:
    """Whether an array opens there whose first element begins so."""
    inside = _skip_space(text, start + 1)
    return text[start] == "[" and text[inside : inside + 1] == inner


def columns_as_rows(value: object, *, fewest: int = 2) -> list[dict[str, object]] | None:
    """The rows of an object that `datasets` or pandas wrote; None of any other.

    {"text": ["a", "b"], "label": [0, 1]}; {"text": {"0": "a", "1": "b"}, ...}; {"0": {"text": "a",
    ...}, "1": ...}; or {"columns": ["text", "label"], "data": [["a", 0], ["b", 1]]}. None too where
    it has fewer columns than `fewest`: one field of a file may hold a list.
    """
    if not isinstance(value, dict) or len(value) < fewest:
        return None
    columns: Sequence[object] = list(value.values())
    names, table = value.get("columns"), value.get("data")
    if (
        isinstance(names, list)
        and isinstance(table, list)
        and any(isinstance(row, list) for row in table)
    ):
        if any(not isinstance(row, list) or len(row) != len(names) for row in table):
            return None
        return [dict(zip(map(str, names), row, strict=True)) for row in table]
    if all(isinstance(column, dict) for column in columns):
        keys = {tuple(column) for column in columns if isinstance(column, dict)}
        if len(keys) == 1 and all(map(str.isdigit, value)):
            return [column for column in columns if isinstance(column, dict)]
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


def _refuse_nested_table(value: object, content: Content) -> None:
    """Nothing, unless it is a table of objects that may be rows or columns.

    Raises:
        DatasetError: It is.
    """
    inner = list(value.values()) if isinstance(value, dict) else []
    keys = {frozenset(each) if isinstance(each, dict) else frozenset() for each in inner}
    shared = next(iter(keys)) if len(keys) == 1 and len(inner) > 1 else frozenset()
    cells = [cell for each in inner if isinstance(each, dict) for cell in each.values()]
    is_flat = not any(isinstance(cell, dict | list) for cell in cells)
    if is_flat and len(shared) > 1 and not shared & {"role", "from"}:
        raise DatasetError(
            f"{content.path}: whether {listed(map(str, value if isinstance(value, dict) else ()))} "
            "are its rows or its columns can't be told. Write an object per row: in pandas "
            "`to_json(FILE, orient='records', lines=True)`."
        )


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
