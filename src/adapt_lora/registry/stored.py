"""Records as JSON and back: one form for MLflow, the local copy and exported folders.

What a record looks like follows from its fields. An unknown quantity is an absent key: what is not
a finite number is left out.
"""

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_T = TypeVar("_T")
_FORMS: "dict[Any, TypeAdapter[Any]]" = {}


def to_plain(record: Any) -> dict[str, Any]:
    """A record as dicts, lists, strings and finite numbers; the inverse of `from_plain`."""
    # numpy scalars come along as values; their plain twins are what JSON knows.
    plain: dict[str, Any] = record_form(type(record)).dump_python(
        record, mode="json", by_alias=True, warnings=False, fallback=lambda value: value.item()
    )
    return _finite(plain)


def from_plain(kind: type[_T], plain: Mapping[str, Any]) -> _T:
    """The record of this kind that `to_plain` made these values from.

    Raises:
        ValueError: A field is missing, or holds what it can't; in one line.
    """
    try:
        record: _T = record_form(kind).validate_python(plain)
    except ValueError as error:
        raise _one_line(error) from error
    return record


def to_json(plain: Mapping[str, Any]) -> str:
    """Plain values as text: the same values, the same text."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_json(kind: type[_T], text: str | bytes) -> _T:
    """The record of this kind in a text that `to_json` made; errors as for `from_plain`."""
    try:
        record: _T = record_form(kind).validate_json(text)
    except ValueError as error:
        raise _one_line(error) from error
    return record


def record_form(kind: Any) -> "TypeAdapter[Any]":
    """How records of a kind are checked and written; made once, for that takes a while."""
    from pydantic import TypeAdapter

    if kind not in _FORMS:
        _FORMS[kind] = TypeAdapter(kind)
    return _FORMS[kind]


def _finite(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _finite(value) if isinstance(value, dict) else value
        for key, value in plain.items()
        if not (isinstance(value, float) and not math.isfinite(value))
    }


def _one_line(error: ValueError) -> ValueError:
    """The first fault: pydantic would fill a page with all of them."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return error
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return ValueError(f"{place}: {first['msg']}" if place else first["msg"])
