"""A dataset as all rooms know it: rows of prompt, response and label, and how they were read."""

import hashlib
import json
import random
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from adapt_lora.data.short import clipped, counted, short_repr

# Formats whose rows people find by their line; in all others rows are counted.
_FORMATS_WITH_LINES = ("JSONL", "JSON", "CSV", "TSV")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One example."""

    prompt: str
    """What the model is asked, as in the file (line ends are LF)."""
    response: str | None
    """What it should answer; None on every row of an unlabelled target."""
    label: str | None
    """The gold label, always a string; None on every row of a dataset that is not labelled."""
    line: int
    """Where it starts in the file, counted from 1; the row's number in Parquet and Hub data."""
    tests: tuple[str, ...] = ()
    """Python that is run after the response where that is code; a raised error is a failure."""

    def __repr__(self) -> str:
        label = "" if self.label is None else f"label {clipped(self.label, 20)}"
        answer = "" if self.response is None or label else f" → {clipped(self.response, 30)}"
        return short_repr(self, f"{clipped(self.prompt)}{answer}", label, f"line {self.line}")

    @property
    def digest(self) -> str:
        """sha256 (hex) of prompt, response and label in NFC, white space at line ends dropped."""
        texts = [_normalised(self.prompt), _normalised(self.response), _normalised(self.label)]
        return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A row that could not be used."""

    line: int
    """Where it starts, counted as in `Row.line`."""
    reason: str
    """Why, as part of a sentence: "no 'prompt' field (found: text)"."""
    text: str = field(default="", compare=False, repr=False)
    """What stood there, where it was no record; else ""."""
    held: Mapping[str, Sequence[str]] = field(default_factory=dict, compare=False, repr=False)
    """What its fields may have held, where it was no record and that much can be told."""

    def describe(self, file_format: str) -> str:
        """Where people find it, and why it was skipped: "line 3: 'text' is empty"."""
        counted = "line" if file_format in _FORMATS_WITH_LINES else "row"
        return f"{counted} {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class SkipReason:
    """Rows that were skipped for one reason."""

    reason: str
    """As in `SkippedRow.reason`."""
    n_rows: int
    """How many there are."""
    lines: tuple[int, ...]
    """Where they start, the first ten."""


@dataclass(frozen=True, slots=True)
class Echo:
    """What a reader made of a source: for each command to print, and for its JSON."""

    source: str
    """As in `Dataset.source`."""
    file_format: str
    """As in `Dataset.file_format`."""
    encoding: str
    """As in `Dataset.encoding`."""
    shape: str
    """As in `Dataset.shape`."""
    n_rows: int
    """Rows that are used."""
    n_skipped: int
    """Rows that are not."""
    reasons: tuple[SkipReason, ...]
    """Why they are not, the most frequent reason first."""
    notes: tuple[str, ...]
    """As in `Dataset.notes`."""


@dataclass(frozen=True)
class Dataset:
    """A user's data, read and checked."""

    name: str
    """What people call it."""
    rows: tuple[Row, ...]
    """The usable rows, in the order of the file; at least one."""
    group: str
    """What twins share: train and test of one benchmark, a balanced copy and its parent."""
    source: str
    """File name (never a path) or Hub id."""
    shape: str
    """The fields that were recognised: "prompt/response", "text/label", "messages"."""
    mapping: Mapping[str, str]
    """Role ("prompt", "response", "label") to field; joined fields with "+"."""
    n_read: int
    """Rows in the file, blank lines not counted: used and skipped ones together."""
    skipped: tuple[SkippedRow, ...]
    """Rows that could not be used, by line."""
    labels: tuple[str, ...]
    """The label set, in the order of meta.json, else sorted; empty when not labelled."""
    metric: str | None
    """The metric that meta.json asks for, in our words; None without one."""
    family: str
    """Coarser than group: "nli", "sentiment"; "" when unknown."""
    file_format: str = "JSONL"
    """"JSONL", "JSON", "JSON on one line", "JSON by columns", "CSV", "TSV", "Parquet", "Arrow" or
    "Hub"."""
    notes: tuple[str, ...] = ()
    """What a person should know about the data, one sentence each."""
    parent: str = ""
    """What it was made from and how, where it is a copy with something changed; else ""."""
    parts: tuple[str, ...] = ()
    """Groups of the datasets that it is a mixture of; empty for all others."""
    encoding: str = "UTF-8"
    """What its text was read as: "UTF-8", "UTF-16", "UTF-32"; where bytes were lost, a guess."""

    def __repr__(self) -> str:
        labels = counted(len(self.labels), "label")
        return short_repr(
            self,
            clipped(self.name),
            counted(len(self.rows), "row"),
            labels or ("with responses" if self.has_responses else "no responses"),
            f"{self.shape} from {self.file_format}",
            counted(len(self.skipped), "skipped", "skipped"),
        )

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of the row digests, in order."""
        return hashlib.sha256("".join(row.digest for row in self.rows).encode()).hexdigest()

    @property
    def is_labelled(self) -> bool:
        """Whether every row has a label of a closed set."""
        return bool(self.labels)

    @property
    def has_responses(self) -> bool:
        """Whether every row has a response (if not, none has)."""
        return self.rows[0].response is not None

    @property
    def echo(self) -> Echo:
        """What was detected, how many rows are used, and why others are not."""
        lines: dict[str, list[int]] = {}
        for row in self.skipped:
            lines.setdefault(row.reason, []).append(row.line)
        reasons = [SkipReason(reason, len(at), tuple(at[:10])) for reason, at in lines.items()]
        return Echo(
            source=self.source,
            file_format=self.file_format,
            encoding=self.encoding,
            shape=self.shape,
            n_rows=len(self.rows),
            n_skipped=len(self.skipped),
            reasons=tuple(sorted(reasons, key=lambda each: -each.n_rows)),
            notes=self.notes,
        )

    def describe(self) -> str:
        """What was detected and used, a few lines for people."""
        encoding = "" if self.encoding == "UTF-8" else f" in {self.encoding}"
        fields = " · ".join(f"{role} ← {field}" for role, field in self.mapping.items())
        used = f"  {len(self.rows):,} of {self.n_read:,} rows used"
        skipped = [row.describe(self.file_format) for row in self.skipped[:5]]
        if len(self.skipped) > 5:
            skipped.append(f"and {len(self.skipped) - 5:,} more")
        lines = [
            f"{self.name} ({self.source}): {self.file_format}{encoding}, {self.shape}",
            f"  {fields}",
            f"{used}; skipped: {'; '.join(skipped)}" if skipped else used,
        ]
        if self.is_labelled:
            counts = Counter(row.label for row in self.rows)
            named = [f"{label} {count:,}" for label, count in counts.most_common(8)]
            more = ["…"] if len(counts) > 8 else []
            lines.append(f"  {len(self.labels)} labels: {', '.join([*named, *more])}")
        elif not self.has_responses:
            lines.append("  no responses: an unlabelled target")
        if self.parent:
            lines.append(f"  made from {self.parent}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def sample_rows(rows: Sequence[T], n: int, *, seed: int) -> tuple[T, ...]:
    """At most `n` rows, drawn without replacement, order kept; fewer rows are part of more.

    The draw is the beginning of a Fisher-Yates shuffle, so what was scored on 50 rows counts when
    200 of the same rows are asked for.
    """
    if n >= len(rows):
        return tuple(rows)
    rng, moved, chosen = random.Random(seed), dict[int, int](), list[int]()
    for last in range(len(rows) - 1, len(rows) - 1 - n, -1):
        place = rng.randrange(last + 1)
        chosen.append(moved.get(place, place))
        moved[place] = moved.get(last, last)
    return tuple(rows[index] for index in sorted(chosen))


def _normalised(text: str | None) -> str | None:
    if text is None:
        return None
    lines = unicodedata.normalize("NFC", text).strip().splitlines()
    return "\n".join(line.rstrip() for line in lines)
