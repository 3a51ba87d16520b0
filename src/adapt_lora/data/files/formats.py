"""Which reader takes a file: its content decides, its suffix only where content can't."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adapt_lora.data.files.content import Content, read_content
from adapt_lora.data.files.delimited import read_delimited
from adapt_lora.data.files.json import read_json
from adapt_lora.data.files.parquet import read_parquet
from adapt_lora.data.table import Table
from adapt_lora.errors import DatasetError


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file."""

    suffixes: tuple[str, ...]
    """What its names end in, `.gz` aside."""
    read: Callable[[Content], Table]
    """Its reader."""
    magic: bytes = b""
    """The bytes that each of its files begins with; none for text."""


_JSON = Format((".jsonl", ".ndjson", ".json"), read_json)
# A new format is a file beside this one and a line here. Where a folder holds one split in several
# formats, the first here is read.
_FORMATS = (
    _JSON,
    Format((".csv", ".tsv"), read_delimited),
    Format((".parquet",), read_parquet, b"PAR1"),
)
SUFFIXES = tuple(suffix for each in _FORMATS for suffix in each.suffixes)


def read_file(path: Path) -> Table:
    """Records of a file.

    Raises:
        DatasetError: It can't be read, is damaged, of no known format, or holds no rows.
    """
    content = read_content(path)
    table = _format_of(content).read(content)
    if not table.n_read:
        raise DatasetError(f"{path} holds no rows. Add some; one JSON object per line will do.")
    return table


def _format_of(content: Content) -> Format:
    for each in _FORMATS:
        if each.magic and content.data.startswith(each.magic):
            return each
    text = content.text
    for each in _FORMATS:
        if not each.magic and content.suffix in each.suffixes:
            return each
    if content.suffix not in SUFFIXES and text.lstrip()[:1] not in ("{", "["):
        raise DatasetError(
            f"{content.path}: the format is not known. "
            "Give it as JSONL, or name it .csv, .tsv or .parquet."
        )
    return _JSON
