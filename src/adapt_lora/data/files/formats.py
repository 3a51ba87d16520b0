"""Which reader takes a file: its content decides, its suffix only where content can't."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adapt_lora.data.dataset import SkippedRow
from adapt_lora.data.files.arrow import FEATHER_1, read_arrow, read_parquet
from adapt_lora.data.files.content import Content, read_content, stem_of
from adapt_lora.data.files.delimited import looks_delimited, read_delimited
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
    if its_format is _JSON and not table.records and looks_delimited(content):
        raise DatasetError(
            f"{path}: no line of it is JSON, and it looks like CSV. Name it .csv, or .tsv."
        )
    if its_format is _JSON and content.suffix in (".csv", ".tsv"):
        table = replace(table, notes=(*table.notes, f"named {content.suffix}, but JSON inside"))
    if its_format.magic or content.encoding.is_unicode:
        return table
    name = content.encoding.name
    if content.encoding.is_seven_bit or not allow_skips:
        converted = shlex.quote(f"utf8-{stem_of(path)}{content.suffix}")
        old, iconv = shlex.quote(path.name), f"iconv -f {name} -t UTF-8"
        convert = f"gunzip -c {old} | {iconv}" if content.is_zipped else f"{iconv} {old}"
        raise DatasetError(
            f"{path} is not UTF-8 text. It looks like {name}: as that, "
            f"{content.encoding.preview(content.data)}. Where this is right, convert it: "
            f"{convert} > {converted}."
        )
    note = f"not UTF-8 but perhaps {name}: rows with letters beyond ASCII can't be read"
    return replace(table, notes=(*table.notes, note))


def read_shards(paths: Sequence[Path], *, split: str = "test", allow_skips: bool = False) -> Table:
    """Records of several files that are one, counted through all of them.

    Raises:
        DatasetError: As in `read_file`, of one of them.
    """
    tables = [read_file(path, split=split, allow_skips=allow_skips) for path in paths]
    if len(tables) == 1:
        return tables[0]
    records: list[tuple[int, Mapping[str, object]]] = []
    skipped: list[SkippedRow] = []
    for table in tables:
        lines = sorted([line for line, _ in table.records] + [row.line for row in table.skipped])
        n_before = len(records) + len(skipped)
        row_of = {line: n_before + number for number, line in enumerate(lines, start=1)}
        records += [(row_of[line], record) for line, record in table.records]
        skipped += [replace(row, line=row_of[row.line]) for row in table.skipped]
    return Table(
        f"{tables[0].file_format} in {len(tables):,} shards",
        records,
        skipped,
        next((each.encoding for each in tables if each.encoding != "UTF-8"), "UTF-8"),
        tuple(dict.fromkeys(note for table in tables for note in table.notes)),
    )


def _format_of(content: Content) -> Format:
    for each in _FORMATS:
        # The suffix tells binary files without their mark: old ones, and damaged ones.
        is_named_so = content.suffix in each.suffixes and content.is_binary
        if each.magic and (content.data.startswith(each.magic) or is_named_so):
            return each
    text = content.text
    if content.suffix in (".csv", ".tsv") and _begins_with_object(text):
        return _JSON
    for each in _FORMATS:
        if not each.magic and content.suffix in each.suffixes:
            return each
    if content.suffix not in SUFFIXES and text.lstrip()[:1] not in ("{", "["):
        raise DatasetError(
            f"{content.path}: the format is not known. "
            "Give it as JSONL, or name it .csv, .tsv, .parquet, .arrow, or .txt (a prompt a line)."
        )
    return _JSON


def _begins_with_object(text: str) -> bool:
    """Whether the first line is an object in JSON, which no header of a CSV file is."""
    try:
        return isinstance(json.loads(text.lstrip().split("\n", 1)[0]), dict)
    except (ValueError, RecursionError):
        return False
