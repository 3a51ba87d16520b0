"""The values of a file's fields: as text, in words, or not usable."""

from collections.abc import Iterable, Mapping


class Unusable(Exception):
    """Why one row can't be used; caught where rows are read."""


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
    return ", ".join(short) + (", ..." if len(plain) > shown else "")
