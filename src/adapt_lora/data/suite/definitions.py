"""What a suite's tasks are: where their rows come from, and what is made of them."""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

import numpy as np

from adapt_lora.data.dataset import sample_rows
from adapt_lora.errors import ConfigError

FileFormat = Literal[
    "csv", "tsv", "plain tsv", "jsonl", "json", "lines", "labelled lines", "parallel lines"
]
"""How a source file holds its records: "tsv" has quoted fields, "plain tsv" takes quotation marks
as they stand; "labelled lines" begin with the label; "parallel lines" are one file for each column.
"""

SUITE_NAMES: Mapping[str, str] = {
    "core": "every task: labels, multiple choice and written answers",
    "labels": "the tasks of the core suite whose answers are chosen from labels or options",
}
"""Suites by name, and what is in them."""

DIGEST_BYTES = 8
"""First bytes of a row's digest by which it is known: among 25,000 rows of a source, one that is
taken for another has a chance of one in 10^12."""


@dataclass(frozen=True, slots=True)
class SuiteTask:
    """One task, without its rows."""

    name: str
    """Name of the task, e.g. "sst2"."""
    family: str
    """As in `Dataset.family`."""
    group: str
    """As in `Dataset.group`."""
    metric: str
    """What it is scored by, where nothing else is asked for."""
    n_rows: int
    """Rows that are scored, where nothing else is asked for."""
    licence: str
    """Under what the source is published, as far as it says."""
    citation: str
    """The paper, or what there is instead."""
    repository: str
    """GitHub repository of the source: "owner/name"."""
    commit: str
    """Its commit, 40 hex digits."""
    files: tuple[str, ...]
    """Paths in it; of "parallel lines" one for each column."""
    format: FileFormat
    """How they hold records."""
    prompt: str
    """Template: {field} stands for a field of a record, dotted where it is nested; {labels} for the
    label set, {options} and {letters} for lettered options, {optional} for the next one."""
    mean_characters: int
    """Characters of a prompt and its answer, on average."""
    labels: tuple[str, ...] = ()
    """The label set, in its order; () where answers are written."""
    label: str = ""
    """Field of the label; "file" is the name of the file itself."""
    classes: Mapping[str, str] | None = None
    """Label by what the source calls it; None where it uses the labels themselves."""
    response: str = ""
    """Field of the written answer; "" where the label is the answer."""
    optional: str = ""
    """Template of a part that is left out where one of its fields is empty."""
    options: tuple[str, ...] = ()
    """Fields of the options of multiple choice, or the one field that holds all."""
    option_mark: str = ""
    """Regular expression of what stands before each option; "" for nothing."""
    tests: tuple[str, ...] = ()
    """Fields of the unit tests, in the order in which they are run."""
    columns: tuple[str, ...] = ()
    """Names of the columns, where the file has no header or a useless one."""
    extract: Mapping[str, str] | None = None
    """Regular expressions by field, whose named groups become fields."""
    replace: tuple[tuple[str, str], ...] = ()
    """Regular expressions and what takes their place, in each text."""
    unescape: bool = False
    """Whether HTML entities are read as characters."""
    keep_spaces: bool = False
    """Whether runs of spaces stay as they are, as code needs them."""

    @property
    def is_label_task(self) -> bool:
        """Whether an answer is chosen from labels."""
        return self.metric == "balanced_accuracy"

    @property
    def source(self) -> str:
        """The repository and the beginning of its commit."""
        return f"{self.repository}@{self.commit[:7]}"

    @property
    def n_tokens(self) -> int:
        """Tokens of the scored rows, at four characters a token (an estimate)."""
        return round(self.n_rows * self.mean_characters / 4)

    @property
    def digests(self) -> tuple[bytes, ...]:
        """First bytes of the digests of the test rows, in order."""
        return _digests()[self.name]

    def measured_digests(self, max_rows: int | None, *, seed: int) -> tuple[bytes, ...]:
        """Those of the rows that are scored: `max_rows` of them, or as many as is usual."""
        return sample_rows(self.digests, max_rows or self.n_rows, seed=seed)


def suite_tasks(name: str = "core") -> tuple[SuiteTask, ...]:
    """The tasks of a suite, in the order in which they are measured.

    Raises:
        ConfigError: There is no suite of that name.
    """
    if name not in SUITE_NAMES:
        raise ConfigError(f"There is no suite {name!r}. Choose {', '.join(SUITE_NAMES)}.")
    return tuple(task for task in _core() if name == "core" or task.is_label_task)


@functools.cache
def _core() -> tuple[SuiteTask, ...]:
    text = files(__package__).joinpath("core.toml").read_text(encoding="utf-8")
    return tuple(_task(name, table) for name, table in tomllib.loads(text).items())


def _task(name: str, table: dict[str, Any]) -> SuiteTask:
    """A table of the file as a task; lists as tuples, a path with {subject} as one for each."""
    values = {key: _frozen(value) for key, value in table.items()}
    subjects = values.pop("subjects", ("",))
    paths = (path.replace("{subject}", each) for path in values["files"] for each in subjects)
    return SuiteTask(name=name, **{**values, "files": tuple(dict.fromkeys(paths))})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value


@functools.cache
def _digests() -> dict[str, tuple[bytes, ...]]:
    with files(__package__).joinpath("rows.npz").open("rb") as file, np.load(file) as arrays:
        return {name: tuple(row.tobytes() for row in arrays[name]) for name in arrays.files}
