"""Which reader takes a file: its content decides, its suffix only where content can't."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from adapt_lora.data.files.arrow import FEATHER_1, read_arrow, read_parquet
from adapt_lora.data.files.content import Content, read_content
from adapt_lora.data.files.delimited import read_delimited
from adapt_lora.data.files.json import read_json
from adapt_lora.data.files.lines import read_lines
from adapt_lora.data.table import Table
from adapt_lora.errors import DatasetError


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file."""

    suffixes: tuple[str, ...]
    """What its names end in, `.gz` aside."""
    read: Callable[[Content], Table]
    """Its reader."""
    magic: tuple[bytes, ...] = ()
    """What its files begin with, one of these; none for text."""


_JSON = Format((".jsonl", ".ndjson", ".json"), read_json)
# A new format is a file beside this one and a line here. Where a folder holds one split in several
# formats, the first here is read.
_FORMATS = (
    _JSON,
    Format((".csv", ".tsv"), read_delimited),
    Format((".parquet",), read_parquet, (b"PAR1",)),
    Format((".arrow", ".feather"), read_arrow, (b"ARROW1", b"\xff\xff\xff\xff", FEATHER_1)),
    Format((".txt",), read_lines),
)
SUFFIXES = tuple(suffix for each in _FORMATS for suffix in each.suffixes)


def read_file(path: Path, *, split: str = "test", allow_skips: bool = False) -> Table:
    """Records of a file.

    Args:
        path: Where it lies.
        split: Which rows are wanted, where it holds several splits.
        allow_skips: Whether to go on where its text is not UTF-8, so that rows may be lost.

    Raises:
        DatasetError: It can't be read, is damaged, of no known format or encoding, or holds no
            rows.
    """
    content = read_content(path, split=split)
    its_format = _format_of(content)
    table = its_format.read(content)
    if not table.n_read:
        raise DatasetError(f"{path} holds no rows. Add some; one JSON object per line will do.")
    if its_format.magic or content.encoding.is_unicode:
        return table
    name = content.encoding.name
    if not allow_skips:
        raise DatasetError(
            f"{path} is not UTF-8 text. It looks like {name}: as that, "
            f"{content.encoding.preview(content.data)}. Where this is right, convert it: "
            f"iconv -f {name} -t UTF-8 {path.name} > utf8-{path.name}."
        )
    note = f"not UTF-8 but perhaps {name}: rows with letters beyond ASCII can't be read"
    return replace(table, notes=(*table.notes, note))


def _format_of(content: Content) -> Format:
    for each in _FORMATS:
        # The suffix tells binary files without their mark: old ones, and damaged ones.
        is_named_so = content.suffix in each.suffixes and content.is_binary
        if each.magic and (content.data.startswith(each.magic) or is_named_so):
            return each
    text = content.text
    for each in _FORMATS:
        if not each.magic and content.suffix in each.suffixes:
            return each
    if content.suffix not in SUFFIXES and text.lstrip()[:1] not in ("{", "["):
        raise DatasetError(
            f"{content.path}: the format is not known. "
            "Give it as JSONL, or name it .csv, .tsv, .parquet, .arrow, or .txt (a prompt a line)."
        )
    return _JSON
