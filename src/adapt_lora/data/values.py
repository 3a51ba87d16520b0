"""The values of a file's fields: as text, in words, or not usable."""

import ast
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping


class Unusable(Exception):
    """Why one row can't be used; caught where rows are read."""


class Number(str):
    """A number of a JSON file, in the digits that stand there: 1.50 is not 1.5."""

    __slots__ = ()


def scalar_text(value: object) -> str | None:
    """A string, number or truth value as text, as a file would write it; None where it is missing.

    Bytes that are not UTF-8 become lone surrogates.
    """
    if value is None or value != value:  # NaN is the one value that differs from itself
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return str(value)


def checked_text(value: object, field: str) -> str | None:
    """The value as text, line ends as LF; None where it is missing or blank.

    Raises:
        Unusable: A list or object, or text that is not UTF-8.
    """
    if isinstance(value, list | Mapping):
        raise Unusable(f"'{field}' is {kind_of(value)} where text was expected")
    text = scalar_text(value)
    if text is None or not text.strip():
        return None
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            reason = f"'{field}' has bytes that are not UTF-8, or half an emoji escape"
            raise Unusable(reason) from None
    return text.replace("\r\n", "\n")


def json_text(value: object) -> str:
    """A nested value as one line of JSON; the fields that Arrow fills with nulls are left out."""
    return json.dumps(_plain(value), ensure_ascii=False)


def nested_value(text: str) -> object:
    """The list or object that a text spells in JSON, or in Python as pandas does; else None."""
    stripped = text.strip()
    if stripped[:2] in ('"[', '"{'):  # spelt twice over
        stripped = str(_read(json.loads, stripped))
    if stripped[:1] not in ("[", "{"):
        return None
    value = _read(json.loads, stripped) or _read(_python_literal, stripped)
    return value if isinstance(value, list | dict) else None


def kind_of(value: object) -> str:
    """What a value is, in words: "an array"."""
    if isinstance(value, list):
        return "an array"
    if isinstance(value, Mapping):
        return "an object"
    return "a string or number" if isinstance(value, str) else "null or a truth value"


def listed(names: Iterable[str], shown: int = 12) -> str:
    """Names from a file, made fit for one line of a message."""
    plain = ["".join(c if c.isprintable() else "?" for c in name[:41]) for name in names]
    short = [name if len(name) <= 40 else name[:37] + "..." for name in plain[:shown]]
    if len(short) > 1:
        short = [f"'{name}'" if "," in name else name for name in short]
    return ", ".join(short) + (", ..." if len(plain) > shown else "")


def _read(reader: Callable[[str], object], text: str) -> object:
    try:
        return reader(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


# Python's strings, words and signs; what numpy writes around the parts of a list.
_TOKEN = re.compile(
    r"""(?P<space>\s+|,\s*dtype=[^()\[\],]+(?=\)))|(?P<call>[A-Za-z_][\w.]*(?=\())"""
    r"""|(?P<value>[bru]?'(?:\\.|[^'\\])*'|[bru]?"(?:\\.|[^"\\])*"|[-+]?[\w.][\w.+-]*)"""
    r"""|(?P<sign>.)""",
    re.DOTALL | re.IGNORECASE,
)
_WRAPPERS = re.compile(r"((np|numpy)\.)?(array|str_|bool_?|u?int\d+|float\d+)")
_NAMES = {"nan": "None", "null": "None", "true": "True", "false": "False"}


def _python_literal(text: str) -> object:
    """A list or object as Python, pandas and numpy print it; numpy writes no commas."""
    if text[-1] not in "]}":
        return None
    parts: list[str] = []
    after_value = False
    for match in _TOKEN.finditer(text):
        kind, said = match.lastgroup, match[0]
        if kind == "space":
            continue
        # Python would join the strings of ['a' 'b'] to one.
        if after_value and (kind in ("value", "call") or said in "[{("):
            parts.append(",")
            after_value = False
        if kind == "call":
            if not _WRAPPERS.fullmatch(said):
                return None
            continue
        if said.startswith("..."):  # numpy leaves out the middle of long lists
            return None
        parts.append(_NAMES.get(said, said))
        after_value = kind == "value" or said in "]})"
    with warnings.catch_warnings():  # of odd escapes in what turns out to be no literal
        warnings.simplefilter("ignore", SyntaxWarning)
        return ast.literal_eval("".join(parts))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Number):
        return json.loads(value)
    return value if isinstance(value, str | int | float | None) else str(value)
