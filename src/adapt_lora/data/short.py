"""Records in one line, as a notebook shows them: what a person wants, never all rows."""

_LONGEST = 120


def short_repr(record: object, *parts: str) -> str:
    """The record's class and these parts; parts of nothing are left out, and a long end is cut."""
    said = ", ".join(" ".join(part.split()) for part in parts if part)
    text = f"{type(record).__name__}({said})"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]}...)"


def clipped(text: str, longest: int = 40) -> str:
    """The text in quotes, cut where it is longer."""
    return repr(text if len(text) <= longest else f"{text[: longest - 3]}...")


def counted(n: int, noun: str, nouns: str = "") -> str:
    """A number with its noun: "1 row", "200 rows"; "" for none."""
    return f"{n:,} {noun if n == 1 else nouns or noun + 's'}" if n else ""
