"""JSON files: an object per line, an array of objects, or an object around such an array."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping

from adapt_lora.data.dataset import SkippedRow
from adapt_lora.data.files.content import Content
from adapt_lora.data.table import Table
from adapt_lora.data.values import kind_of
from adapt_lora.errors import DatasetError

_WRAPPER_KEYS = ("data", "rows", "examples", "instances", "items", "train", "test")

# Numbers stay as they are written (a label 1.50 is not 1.5) and NaN is a missing value; raw tabs
# inside strings are common in home-made files and harmless, hence strict=False.
_DECODER = json.JSONDecoder(
    parse_float=str, parse_int=str, parse_constant=lambda _: None, strict=False
)
_SPACE = re.compile(r"[ \t\r\n]*")


def read_json(content: Content) -> Table:
    """Rows of JSONL, of an array, or of an object such as {"data": [...]}.

    Raises:
        DatasetError: An array breaks off or is malformed.
    """
    text = content.text
    start = _skip_space(text, 0)
    first_end = text.find("\n", start)
    is_one_line = first_end < 0 or not text[first_end:].strip()
    if text[start] == "{" and not is_one_line:
        _, first = next(_line_values(text[start:first_end]))
        if isinstance(first, dict):
            return _table("JSONL", _line_values(text))
    # Where all is one line, only the number of the row leads anywhere.
    file_format = "JSON on one line" if is_one_line else "JSON"
    try:
        array_start = start if text[start] == "[" else _wrapped_array(text, start)
        if array_start is not None:
            return _table(file_format, _array_values(text, array_start, is_one_line=is_one_line))
        return _table(file_format, [(1, _DECODER.decode(text.strip()))])
    except (json.JSONDecodeError, RecursionError) as error:
        # Perhaps only the first line of a JSONL file is broken; a broken array can't be resumed.
        table = _table("JSONL", _line_values(text))
        if text[start] != "[" or len(table.records) > len(table.skipped):
            return table
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise DatasetError(
            f"{content.path}, line {line}: the JSON array breaks off or is malformed ({error}). "
            "Mend it there, or write one object per line."
        ) from error


def _table(file_format: str, values: Iterable[tuple[int, object]]) -> Table:
    """The objects among the values as records; the rest as skipped rows."""
    records: list[tuple[int, Mapping[str, object]]] = []
    skipped: list[SkippedRow] = []
    for line, value in values:
        if isinstance(value, dict):
            records.append((line, value))
        elif isinstance(value, SkippedRow):
            skipped.append(value)
        else:
            skipped.append(SkippedRow(line, f"{kind_of(value)} where an object was expected"))
    return Table(file_format, records, skipped)


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


def _wrapped_array(text: str, start: int) -> int | None:
    """Where the array of rows opens inside an object such as {"version": 2, "data": [...]}."""
    position = _skip_space(text, start + 1) if text[start] == "{" else len(text)
    while text[position : position + 1] == '"':
        key, end = _DECODER.raw_decode(text, position)
        position = _skip_space(text, end)
        if text[position : position + 1] != ":":
            raise json.JSONDecodeError("Expecting ':'", text, position)
        position = _skip_space(text, position + 1)
        if key in _WRAPPER_KEYS and text[position : position + 1] == "[":
            return position
        _, end = _DECODER.raw_decode(text, position)
        position = _skip_space(text, end)
        if text[position : position + 1] == ",":
            position = _skip_space(text, position + 1)
    return None


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
