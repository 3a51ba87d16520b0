"""Records of a source file, whatever public format it has."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import PurePosixPath
from typing import Any

from adapt_lora.data.suite.definitions import SuiteTask
from adapt_lora.errors import DatasetError

Record = Mapping[str, Any]

# A file of a benchmark may hold a field longer than the csv module's 128 KiB.
_MAX_FIELD_CHARACTERS = 2**24


def read_records(task: SuiteTask, contents: Sequence[bytes]) -> Iterator[Record]:
    """The records of a task's files, in order.

    A field "file" is added to each: the file's name, spaces for its underscores.

    Args:
        task: Says the format.
        contents: Of its files, in their order.

    Raises:
        DatasetError: A file is not of that format.
    """
    texts = [_decode(content) for content in contents]
    names = [PurePosixPath(path).name for path in task.files]
    if task.format == "parallel lines":
        yield from _zip_columns(task, texts)
        return
    for name, text in zip(names, texts, strict=True):
        try:
            for record in _records_of(task, text):
                yield {**record, "file": name.replace("_", " ")}
        except (csv.Error, ValueError, TypeError) as error:
            raise DatasetError(
                f"{task.name}: {name} of {task.source} is not the {task.format} that it was "
                f"({error}). Something else was sent in its place; try again later."
            ) from error


def _records_of(task: SuiteTask, text: str) -> Iterator[Record]:
    match task.format:
        case "csv" | "tsv" | "plain tsv":
            yield from _delimited(task, text)
        case "jsonl":
            for line in _lines(text):
                yield dict(json.loads(line))
        case "json":
            for record in json.loads(text):
                yield dict(record)
        case "labelled lines":
            for line in _lines(text):
                label, _, rest = line.partition(" ")
                yield {"label": label.partition(":")[0], "text": rest}
        case _:
            for line in _lines(text):
                yield {"text": line}


def _delimited(task: SuiteTask, text: str) -> Iterator[Record]:
    """Rows as the header names their fields, or the definition where it names the columns."""
    before = csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    try:
        yield from csv.DictReader(
            StringIO(text, newline=""),
            fieldnames=task.columns or None,
            delimiter="," if task.format == "csv" else "\t",
            quoting=csv.QUOTE_NONE if task.format == "plain tsv" else csv.QUOTE_MINIMAL,
        )
    finally:
        csv.field_size_limit(before)


def _zip_columns(task: SuiteTask, texts: Sequence[str]) -> Iterator[Record]:
    columns = [list(_lines(text)) for text in texts]
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise DatasetError(
            f"{task.name}: the files of {task.source} have {' and '.join(map(str, lengths))} "
            "lines, but must have equally many. Something else was sent in place of one; "
            "try again later."
        )
    for values in zip(*columns, strict=True):
        yield dict(zip(task.columns, values, strict=True))


def _lines(text: str) -> Iterator[str]:
    """Lines that are not blank; only a line feed ends one, as tweets hold other separators."""
    for line in text.split("\n"):
        if line.strip():
            yield line


def _decode(content: bytes) -> str:
    """UTF-8, else Latin-1, which older corpora use."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")
