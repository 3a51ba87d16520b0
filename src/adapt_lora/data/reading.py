"""The one reader of user files: any recognised shape in, rows of (prompt, response, label) out.

docs/data.md lists the shapes, the detection rules and what happens with each kind of dirt.
"""

import csv
import gzip
import hashlib
import io
import json
import random
import re
import sys
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Literal

from adapt_lora.errors import ConfigError, DatasetError

Role = Literal["prompt", "response", "label"]
ROLES: tuple[Role, ...] = ("prompt", "response", "label")

# Prompt fields ("+" joins them, "?" marks one that may be absent), then the fields that may hold
# the response, in order of preference. Of the shapes that fit, one with a response wins over one
# with a label, that over a bare prompt; then the one that fits the most rows; then the first here.
_SHAPES: tuple[tuple[str, str], ...] = (
    ("prompt", "response completion answer output target chosen"),
    ("messages", ""),
    ("conversations", ""),
    ("conversation", ""),
    ("instruction+input?+context?", "output response completion answer target"),
    ("context+question", "answers answer response output"),
    ("article+question", "answers answer response output"),
    ("passage+question", "answers answer response output"),
    ("premise+hypothesis", ""),
    ("sentence1+sentence2", ""),
    ("question1+question2", ""),
    ("question+sentence", ""),
    ("question", "answers answer response output"),
    ("query", "response answer output"),
    ("input", "output target response completion"),
    ("text", "response completion output target summary"),
    ("sentence", ""),
    ("content", ""),
    ("review", ""),
    ("utterance", ""),
    ("tweet", ""),
    ("comment", ""),
    ("message", ""),
    ("dialogue", "summary"),
    ("article", "summary highlights"),
    ("document", "summary"),
    ("source", "target"),
)
_CHAT_FIELDS = ("messages", "conversations", "conversation")
_LABEL_FIELDS = ("label_text", "label_name", "label", "labels")
# Beside a response these are remarks about the row ("category": "open_qa"), not what to answer.
_LONE_LABEL_FIELDS = (*_LABEL_FIELDS, "intent", "category", "sentiment", "class")
_RESPONSE_FIELDS = ("response", "completion", "answer", "answers", "output", "target", "summary")
_WRAPPER_KEYS = ("data", "rows", "examples", "instances", "items", "train", "test")

_ROLE_OF = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}

# Unit tests of an answer that is code, and what stands before them (MBPP and its kin).
_TEST_FIELDS = ("tests", "test_list", "unit_tests", "test")
_TEST_SETUP_FIELDS = ("test_setup", "test_setup_code")
_TESTED_NAME_FIELDS = ("entry_point",)

# A task's metric by its name in meta.json; one that we don't score falls to the log-likelihood.
_METRIC_OF = {
    "label_accuracy": "balanced_accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "accuracy": "accuracy",
    "macro_f1": "macro_f1",
    "exact_match": "exact_match",
    "numeric_match": "numeric_match",
    "token_f1": "token_f1",
    "rouge_l": "rouge_l",
    "pass@1": "pass_at_1",
    "pass_at_1": "pass_at_1",
    "judge_accuracy": "judge_accuracy",
    "answer_log_likelihood": "answer_log_likelihood",
}
_METRIC_OF_OTHERS = "answer_log_likelihood"

_DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_SPLIT_NAMES = (
    *("train", "training", "test", "testing", "dev", "devel", "valid", "validation", "val", "eval"),
    *("data", "dataset"),
)
_HUB_ID = re.compile(
    r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<config>[\w.+-]+))?(@(?P<revision>[\w./-]+))?"
    r"(#(?P<split>[\w.-]+))?"
)

# The rule of evidence by which responses count as labels where no field says so (docs/data.md).
_EVIDENCE_MIN_ROWS = 10
_EVIDENCE_MAX_LABELS = 50
_EVIDENCE_MAX_NUMBERS = 10
_EVIDENCE_MAX_CHARS = 60
_EVIDENCE_MAX_DISTINCT_SHARE = 0.2
# A label field with more values than this, most of them on one row only, holds free text; so does
# one with a value longer than this.
_FEW_LABELS = 20
_MAX_LABEL_CHARS = 100


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
    """"JSONL", "JSON", "JSON on one line", "CSV", "TSV", "Parquet" or "Hub"."""
    notes: tuple[str, ...] = ()
    """What a person should know about the data, one sentence each."""
    parent: str = ""
    """What it was made from and how, where it is a copy with something changed; else ""."""

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

    def describe(self) -> str:
        """What was detected and used, a few lines for people."""
        fields = " · ".join(f"{role} ← {field}" for role, field in self.mapping.items())
        lines = [f"{self.name} ({self.source}): {self.file_format}, {self.shape}", f"  {fields}"]
        lines.append(f"  {len(self.rows):,} of {self.n_read:,} rows used{self._skipped_text()}")
        if self.is_labelled:
            lines.append(f"  {len(self.labels)} labels: {self._label_counts_text()}")
        elif not self.has_responses:
            lines.append("  no responses: an unlabelled target")
        if self.parent:
            lines.append(f"  made from {self.parent}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def _skipped_text(self, shown: int = 5) -> str:
        if not self.skipped:
            return ""
        parts = [_where(self.file_format, row) for row in self.skipped[:shown]]
        more = len(self.skipped) - shown
        return f"; skipped: {'; '.join(parts)}{f'; and {more:,} more' if more > 0 else ''}"

    def _label_counts_text(self, shown: int = 8) -> str:
        counts = Counter(row.label for row in self.rows if row.label is not None)
        parts = [f"{label} {count:,}" for label, count in counts.most_common(shown)]
        return ", ".join(parts) + (", …" if len(counts) > shown else "")


def read_dataset(
    source: str | Path,
    *,
    mapping: Mapping[str, str] | None = None,
    group: str | None = None,
    name: str | None = None,
    split: str = "test",
) -> Dataset:
    """Read rows from a file, a folder with meta.json, or a Hub dataset.

    Args:
        source: A file (JSONL, JSON, CSV, TSV, Parquet; each also gzipped), a folder with
            `{split}.jsonl`, or a Hub id `org/name[:config][@revision][#split]`.
        mapping: Role to field ("prompt", "response", "label"), where detection should not decide;
            "a+b" joins fields, "" switches a role off.
        group: What twins share; the default comes from meta.json, else from the name.
        name: What people call it; the default comes from meta.json, else from the file.
        split: Which file of a folder or split of a Hub dataset: "test" to score, "train" to learn.

    Raises:
        DatasetError: Nothing is there, it can't be read, no field looks like a prompt, or more than
            half of the rows can't be used.
    """
    found = _find(source, split)
    table, meta, shown = found.table, found.meta, found.shown
    fields = _detect_fields(table, mapping or {}, shown)
    draft = _read_rows(table, fields)
    _settle_roles(draft)
    labels = _settle_labels(draft, fields, meta)
    _check_enough(draft, table, shown)
    _note_oddities(draft, labels)
    final_name = name or meta.name or found.name
    return Dataset(
        name=final_name,
        rows=tuple(draft.rows),
        group=group or meta.group or _group(final_name),
        source=found.source,
        shape=fields.shape,
        mapping=fields.mapping,
        n_read=table.n_read,
        skipped=tuple(sorted(draft.skipped, key=lambda row: row.line)),
        labels=labels,
        metric=meta.metric,
        family=meta.family,
        file_format=table.file_format,
        notes=tuple([*_unused_note(table, fields), *meta.notes, *draft.notes]),
        parent=meta.parent,
    )


def parse_mapping(text: str) -> dict[str, str]:
    """Role to field from "prompt=question,response=answer"; an empty field switches the role off.

    Raises:
        ConfigError: Not of that form, an unknown role, a role named twice, or an empty prompt.
    """
    mapping: dict[str, str] = {}
    for part in text.split(","):
        role, equals, field = (piece.strip() for piece in part.partition("="))
        if not equals or role not in ROLES or role in mapping or (role == "prompt" and not field):
            raise ConfigError(
                f"--map {text!r}: can't use {part.strip()!r}. "
                "Write it like prompt=question,response=answer,label=topic; each role once."
            )
        mapping[role] = field
    return mapping


def sample_rows(rows: Sequence[Row], n: int, *, seed: int) -> tuple[Row, ...]:
    """At most `n` rows, drawn without replacement, order kept."""
    if n >= len(rows):
        return tuple(rows)
    chosen = random.Random(seed).sample(range(len(rows)), n)
    return tuple(rows[index] for index in sorted(chosen))


# ---- Where the data is ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """What a source turned out to be, and how to speak of it."""

    table: "_Table"
    meta: "_Meta"
    name: str  # the default name
    source: str  # for the record: no path
    shown: str  # for messages: as people can open it


def _find(source: str | Path, split: str) -> _Found:
    path = Path(source).expanduser()
    hub = None if path.exists() else _hub_id(source)
    if hub is not None:
        return _Found(_read_hub(hub, split), _Meta(), hub.name, str(source), str(source))
    path = _data_file(path, split)
    return _Found(_read_file(path), _read_meta(path), _name(path), path.name, str(path))


@dataclass(frozen=True, slots=True)
class _HubId:
    repo: str
    config: str | None
    revision: str | None
    split: str | None

    @property
    def name(self) -> str:
        """Short name for people."""
        repo = self.repo.partition("/")[2]
        return f"{repo}-{self.config}" if self.config else repo


def _hub_id(source: str | Path) -> _HubId | None:
    """The parts of a Hub id, or None where the text can only be a path."""
    if isinstance(source, Path) or source.endswith((*_DATA_SUFFIXES, ".gz", ".txt")):
        return None
    match = _HUB_ID.fullmatch(source)
    return _HubId(**match.groupdict()) if match else None


def _data_file(path: Path, split: str) -> Path:
    """The file itself, or the split's file inside a folder."""
    if path.is_file():
        return path
    if not path.exists():
        raise DatasetError(
            f"{path} does not exist. Check the path; a Hub dataset is written org/name[#split]."
        )
    if not path.is_dir():
        raise DatasetError(f"{path} is neither a file nor a folder; save the data to a file first.")
    names = [f"{split}{suffix}{gz}" for suffix in _DATA_SUFFIXES for gz in ("", ".gz")]
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        there = ", ".join(sorted(entry.name for entry in islice(path.iterdir(), 8))) or "nothing"
        raise DatasetError(
            f"{path} is a folder without {split}.jsonl (found: {there}). "
            "Pass the data file itself, or name it so."
        )
    return found


def _name(path: Path) -> str:
    """The file's stem, or its folder's name where the stem only says which split it is."""
    stem = _stem(path)
    return path.resolve().parent.name or stem if stem.lower() in _SPLIT_NAMES else stem


def _stem(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).stem


def _group(name: str) -> str:
    """The name without a split at its end, so that "sst2_train" and "sst2-test" are twins."""
    return re.sub(rf"(?i)[-_. ]({'|'.join(_SPLIT_NAMES[:-2])})$", "", name) or name


@dataclass(frozen=True, slots=True)
class _Meta:
    """What the meta.json beside a split file says."""

    name: str = ""
    group: str = ""
    family: str = ""
    metric: str | None = None
    labels: tuple[str, ...] | None = None  # None: nothing is said; (): said not to be labelled
    notes: tuple[str, ...] = ()
    parent: str = ""


def _read_meta(path: Path) -> _Meta:
    """The meta.json of a split file such as train.jsonl; an empty record where there is none."""
    meta_path = path.parent / "meta.json"
    if _stem(path).lower() not in _SPLIT_NAMES or not meta_path.is_file():
        return _Meta()
    try:
        meta = json.loads(meta_path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise DatasetError(f"{meta_path}: can't be read as JSON ({error}). Mend it.") from error
    if not isinstance(meta, dict) or not isinstance(meta.get("labels") or [], list):
        raise DatasetError(f"{meta_path}: not an object whose 'labels' is a list or null. Mend it.")
    metric = meta.get("metric")
    known = metric is None or str(metric) in _METRIC_OF
    return _Meta(
        name=str(meta.get("name") or ""),
        group=str(meta.get("group") or ""),
        family=str(meta.get("family") or ""),
        metric=None if metric is None else _METRIC_OF.get(str(metric), _METRIC_OF_OTHERS),
        labels=_meta_labels(meta),
        notes=() if known else (f"metric {metric!r} is scored as {_METRIC_OF_OTHERS}",),
        parent=_parent_text(meta.get("derived")),
    )


def _parent_text(derived: object) -> str:
    """Names and digests of the parents, then what was done: "sst2 5f3a9c1e (balance, seed 0)"."""
    if not isinstance(derived, dict) or not isinstance(derived.get("parents"), list):
        return ""
    parents = [parent for parent in derived["parents"] if isinstance(parent, dict)]
    names = [f"{p.get('name', '?')} {str(p.get('digest', ''))[:12]}" for p in parents]
    options = [
        f"{key.replace('_', ' ')} {value}"
        for key, value in derived.items()
        if key not in ("operation", "parents")
    ]
    return f"{' + '.join(names)} ({', '.join([str(derived.get('operation', '?')), *options])})"


def _meta_labels(meta: Mapping[str, object]) -> tuple[str, ...] | None:
    labels = meta.get("labels")
    if "labels" not in meta:
        return None
    return tuple(_scalar_text(label) or "" for label in labels) if isinstance(labels, list) else ()


# ---- Files as records ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """A file as records, before anything is known about what its fields mean."""

    file_format: str
    records: Sequence[tuple[int, Mapping[str, object]]]
    skipped: Sequence[SkippedRow]

    @property
    def n_read(self) -> int:
        return len(self.records) + len(self.skipped)

    @cached_property
    def field_counts(self) -> Counter[str]:
        return Counter(key for _, record in self.records for key in record)


def _read_file(path: Path) -> _Table:
    """Records of a file; its content decides the format, its suffix only where content can't."""
    data = _bytes_of(path)
    if data[:4] == b"PAR1":
        table = _read_parquet(data, path)
    else:
        table = _read_text(_text_of(data, path), path)
    if not table.n_read:
        raise DatasetError(f"{path} holds no rows. Add some; one JSON object per line will do.")
    return table


def _read_text(text: str, path: Path) -> _Table:
    if not text.strip():
        raise DatasetError(f"{path} is empty: it needs one row at least, a JSON object per line.")
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _read_delimited(text, suffix)
    if suffix not in _DATA_SUFFIXES and text.lstrip()[:1] not in ("{", "["):
        raise DatasetError(
            f"{path}: the format is not known. Give it as JSONL, or name it .csv, .tsv or .parquet."
        )
    return _read_json(text, path)


def _bytes_of(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: the gzip file is damaged ({error}). Copy it again.") from error
    except OSError as error:
        raise DatasetError(
            f"{path} can't be read ({error.strerror}). Check its permissions."
        ) from error


def _text_of(data: bytes, path: Path) -> str:
    """The text; bytes that are not UTF-8 become lone surrogates, which cost only their own rows."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    if data[:4] in (b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"\xfd7zX"):
        raise DatasetError(
            f"{path} is an archive (zip, xz, zstd or a spreadsheet): unpack it first."
        )
    if b"\0" in data[:8192]:
        raise DatasetError(f"{path} is a binary file, not text. Save the data as JSONL or CSV.")
    return data.decode("utf-8-sig", "surrogateescape")


# Numbers stay as they are written (a label 1.50 is not 1.5) and NaN is a missing value; raw tabs
# inside strings are common in home-made files and harmless, hence strict=False.
_DECODER = json.JSONDecoder(
    parse_float=str, parse_int=str, parse_constant=lambda _: None, strict=False
)
_SPACE = re.compile(r"[ \t\r\n]*")


def _read_json(text: str, path: Path) -> _Table:
    """Rows of JSONL, of an array, or of an object such as {"data": [...]}."""
    start = _skip_space(text, 0)
    first_end = text.find("\n", start)
    is_one_line = first_end < 0 or not text[first_end:].strip()
    if text[start] == "{" and not is_one_line and _is_json(text[start:first_end]):
        return _json_table("JSONL", _line_values(text))
    # Where all is one line, only the number of the row leads anywhere.
    file_format = "JSON on one line" if is_one_line else "JSON"
    try:
        array_start = start if text[start] == "[" else _wrapped_array(text, start)
        if array_start is not None:
            return _json_table(
                file_format, _array_values(text, array_start, is_one_line=is_one_line)
            )
        return _json_table(file_format, [(1, _DECODER.decode(text.strip()))])
    except (json.JSONDecodeError, RecursionError) as error:
        # Perhaps only the first line of a JSONL file is broken; a broken array can't be resumed.
        table = _json_table("JSONL", _line_values(text))
        if text[start] != "[" or len(table.records) > len(table.skipped):
            return table
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise DatasetError(
            f"{path}, line {line}: the JSON array breaks off or is malformed ({error}). "
            "Mend it there, or write one object per line."
        ) from error


def _json_table(file_format: str, values: Iterable[tuple[int, object]]) -> _Table:
    """The objects among the values as records; the rest as skipped rows."""
    records: list[tuple[int, Mapping[str, object]]] = []
    skipped: list[SkippedRow] = []
    for line, value in values:
        if isinstance(value, dict):
            records.append((line, value))
        elif isinstance(value, SkippedRow):
            skipped.append(value)
        else:
            skipped.append(SkippedRow(line, f"{_kind(value)} where an object was expected"))
    return _Table(file_format, records, skipped)


def _line_values(text: str) -> Iterator[tuple[int, object]]:
    """What each line holds, blank lines left out; a `SkippedRow` where it is not JSON."""
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if not stripped:
            continue
        try:
            yield number, _DECODER.decode(stripped)
        except json.JSONDecodeError as error:
            reason = f"not JSON ({error.msg}, column {error.colno})"
            yield number, SkippedRow(number, reason)
        except RecursionError:
            yield number, SkippedRow(number, "not JSON that can be read (nested too deeply)")


def _is_json(text: str) -> bool:
    try:
        _DECODER.decode(text.strip())
    except (json.JSONDecodeError, RecursionError):
        return False
    return True


def _array_values(text: str, start: int, *, is_one_line: bool) -> Iterator[tuple[int, object]]:
    """The elements of the array that opens at `start`, each with its line (or its number)."""
    line, counted = 0 if is_one_line else 1, 0
    position = _skip_space(text, start + 1)
    while text[position : position + 1] != "]":
        line += 1 if is_one_line else text.count("\n", counted, position)
        counted = position
        value, end = _DECODER.raw_decode(text, position)
        yield line, value
        position = _skip_space(text, end)
        if text[position : position + 1] == ",":
            position = _skip_space(text, position + 1)
        elif text[position : position + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' or ']'", text, position)


def _wrapped_array(text: str, start: int) -> int | None:
    """Where the array of rows opens inside an object such as {"version": 2, "data": [...]}."""
    position = _skip_space(text, start + 1) if text[start] == "{" else len(text)
    while text[position : position + 1] == '"':
        key, end = _DECODER.raw_decode(text, position)
        position = _skip_space(text, end)
        if text[position : position + 1] != ":":
            raise json.JSONDecodeError("Expecting ':'", text, position)
        position = _skip_space(text, position + 1)
        if key in _WRAPPER_KEYS and text[position : position + 1] == "[":
            return position
        _, end = _DECODER.raw_decode(text, position)
        position = _skip_space(text, end)
        if text[position : position + 1] == ",":
            position = _skip_space(text, position + 1)
    return None


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _read_delimited(text: str, suffix: str) -> _Table:
    """Rows of a CSV or TSV file with a header line."""
    header_line = text.lstrip().split("\n", 1)[0]
    delimiter = "\t" if suffix == ".tsv" else max(",;\t|", key=header_line.count)
    # Cells may be larger than the csv module's 128 KiB; its limit is global, so put it back.
    limit = csv.field_size_limit(sys.maxsize)
    try:
        table = _delimited_table(text, delimiter, quoting=csv.QUOTE_MINIMAL)
        if table.skipped:
            # Many TSV files know no quoting: there a quotation mark is a character like any other.
            # Elsewhere a stray one shows by the lines that it swallows, up to the next mark.
            plain = _delimited_table(text, delimiter, quoting=csv.QUOTE_NONE)
            swallowed = plain.n_read > table.n_read
            if swallowed or (delimiter == "\t" and len(plain.skipped) < len(table.skipped)):
                table = plain
    finally:
        csv.field_size_limit(limit)
    return table


def _delimited_table(text: str, delimiter: str, *, quoting: Literal[0, 3]) -> _Table:
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True
    )
    records: list[tuple[int, Mapping[str, object]]] = []
    skipped: list[SkippedRow] = []
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            skipped.append(SkippedRow(line, f"not valid CSV ({error})"))
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
        elif len(cells) > len(header):
            count = f"{len(cells)} fields where the header names {len(header)}"
            skipped.append(SkippedRow(line, f"{count} (an unquoted separator?)"))
        else:
            records.append((line, dict(zip(header, cells, strict=False))))
    return _Table("TSV" if delimiter == "\t" else "CSV", records, skipped)


def _read_parquet(data: bytes, path: Path) -> _Table:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise DatasetError(f"{path}: damaged Parquet file ({first}). Write it again.") from error
    return _Table("Parquet", list(enumerate(rows, start=1)), [])


def _read_hub(hub: _HubId, split: str) -> _Table:
    """Rows of a Hub dataset, through the `datasets` library where people have installed it."""
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise DatasetError(
            f"{hub.repo} is not an existing path; as a Hub dataset id it needs the `datasets` "
            "library. Run `pip install datasets`, or download the file and pass its path."
        ) from error
    where = {"path": hub.repo, "revision": hub.revision}
    try:
        wanted = hub.split or _hub_split(
            split, datasets.get_dataset_split_names(config_name=hub.config, **where)
        )
        loaded = datasets.load_dataset(name=hub.config, split=wanted, **where)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = str(error).partition("\n")[0] or type(error).__name__
        raise DatasetError(
            f"{hub.repo} is not an existing path, and the Hub dataset can't be loaded: {first} "
            "Check the id org/name[:config][@revision][#split] and the network, or pass a file."
        ) from error
    names = {field: getattr(kind, "names", None) for field, kind in loaded.features.items()}
    records = [
        (number, {field: _class_name(value, names[field]) for field, value in record.items()})
        for number, record in enumerate(loaded, start=1)
    ]
    if not records:
        raise DatasetError(f"{hub.repo}: split {wanted!r} has no rows. Name another: #train.")
    return _Table("Hub", records, [])


def _hub_split(wanted: str, there: Sequence[str]) -> str:
    """The wanted split; for a task without one, what is nearest to a test split."""
    choices = (wanted,) if wanted == "train" else (wanted, "test", "validation", "dev", "train")
    found = next((choice for choice in choices if choice in there), None)
    if found is None:
        raise ValueError(f"there is no split {wanted!r} (found: {', '.join(there)}).")
    return found


def _class_name(value: object, names: Sequence[str] | None) -> object:
    """A class number's name; the Hub writes -1 where a test set hides its labels."""
    if names is None or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


# ---- Which field is what -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fields:
    """Which fields play which role."""

    prompt: tuple[str, ...]
    optional: frozenset[str]
    response: str | None
    label: str | None
    tests: tuple[str, ...] = ()  # the tests, what is set up for them, the name that they call

    @property
    def is_chat(self) -> bool:
        return self.prompt[0].lower() in _CHAT_FIELDS

    @property
    def used(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.prompt, *filter(None, (self.response, self.label))]))

    @property
    def shape(self) -> str:
        return "/".join(self.used)

    @property
    def mapping(self) -> dict[str, str]:
        response = self.response or self.label or (self.prompt[0] if self.is_chat else None)
        roles = {"prompt": "+".join(self.prompt), "response": response, "label": self.label}
        return {role: field for role, field in roles.items() if field}


def _detect_fields(table: _Table, mapping: Mapping[str, str], shown: str) -> _Fields:
    """The roles of the fields: as mapped where the caller says so, else by the best shape."""
    there = table.field_counts
    unknown = set(mapping) - set(ROLES)
    if unknown:
        raise ConfigError(f"No such role: {', '.join(sorted(unknown))}. Use {', '.join(ROLES)}.")
    for role, field in mapping.items():
        for part in field.split("+") if field and field not in there else ():
            if part not in there:
                raise DatasetError(
                    f"{shown}: no field {part!r} to use as {role} (found: {_listed(there)}). "
                    "Mind upper and lower case in --map."
                )
    if not there:
        raise DatasetError(_too_many_bad(table.skipped, table.n_read, table.file_format, shown))

    by_lower = {key.lower(): key for key in reversed(list(there))}
    shape = _mapped_shape(mapping["prompt"], there) if mapping.get("prompt") else None
    shape = shape or _best_shape(table, by_lower, mapping, shown)
    free = {lower: key for lower, key in by_lower.items() if key not in shape.prompt}
    response = mapping.get("response", _first(shape.responses, free)) or None
    is_answered = response is not None or shape.prompt[0].lower() in _CHAT_FIELDS
    label_names = _LABEL_FIELDS if is_answered else _LONE_LABEL_FIELDS
    label = mapping.get("label", _first(label_names, free)) or None
    names = (_TEST_FIELDS, _TEST_SETUP_FIELDS, _TESTED_NAME_FIELDS)
    found = [_first(names_of_one, free) or "" for names_of_one in names]
    tests = tuple(found) if found[0] not in ("", response, label) else ()
    return _Fields(shape.prompt, shape.optional, response, label, tests)


@dataclass(frozen=True, slots=True)
class _Shape:
    """How rows of one kind say prompt and response, in the file's own spelling."""

    prompt: tuple[str, ...]
    optional: frozenset[str]  # those of the prompt fields that may be absent
    responses: Sequence[str]  # names that may hold the response, lower case, best first


def _mapped_shape(field: str, there: Iterable[str]) -> _Shape:
    prompt = (field,) if field in there else tuple(field.split("+"))
    is_chat = field.lower() in _CHAT_FIELDS
    return _Shape(prompt, frozenset(), () if is_chat else _RESPONSE_FIELDS)


def _best_shape(
    table: _Table, by_lower: Mapping[str, str], mapping: Mapping[str, str], shown: str
) -> _Shape:
    has_response = bool(mapping.get("response"))
    has_label = bool(mapping.get("label")) or _first(_LONE_LABEL_FIELDS, by_lower) is not None
    best: _Shape | None = None
    best_fit = (-1, 0)
    for spec, response_names in _SHAPES:
        parts = spec.split("+")
        needed = [by_lower.get(part, "") for part in parts if not part.endswith("?")]
        if "" in needed:
            continue
        names = response_names.split()
        is_answered = has_response or spec in _CHAT_FIELDS or _first(names, by_lower) is not None
        fit = (
            2 if is_answered else int(has_label),
            min(map(table.field_counts.__getitem__, needed)),
        )
        if fit > best_fit:
            optional = [by_lower.get(part[:-1], "") for part in parts if part.endswith("?")]
            extra = [field for field in optional if field]
            best, best_fit = _Shape((*needed, *extra), frozenset(extra), names), fit
    if best is None:
        there = list(table.field_counts)
        raise DatasetError(
            f"{shown}: no field looks like a prompt (found: {_listed(there)}). Say which is which, "
            f"for example --map prompt={_listed(there[:1])}"
            f"{f',response={_listed(there[-1:])}' if there[1:] else ''}."
        )
    return best


def _first(names: Iterable[str], there: Mapping[str, str]) -> str | None:
    return next((there[name] for name in names if name in there), None)


def _listed(names: Iterable[str], shown: int = 12) -> str:
    """Names from a file, made fit for one line of a message."""
    plain = ["".join(c if c.isprintable() else "?" for c in name[:41]) for name in names]
    short = [name if len(name) <= 40 else name[:37] + "..." for name in plain[:shown]]
    return ", ".join(short) + (", ..." if len(plain) > shown else "")


def _unused_note(table: _Table, fields: _Fields) -> list[str]:
    used = {*fields.used, *fields.tests}
    unused = [field for field in table.field_counts if field not in used]
    return [f"fields not used: {_listed(unused)}"] if unused else []


# ---- Records as rows -----------------------------------------------------------------------------


@dataclass(slots=True)
class _Draft:
    """Rows on their way to a Dataset."""

    rows: list[Row]
    skipped: list[SkippedRow]
    notes: list[str]


class _Unusable(Exception):
    """Why one row can't be used; caught where rows are read."""


def _read_rows(table: _Table, fields: _Fields) -> _Draft:
    draft = _Draft([], list(table.skipped), [])
    for line, record in table.records:
        try:
            draft.rows.append(_row(line, record, fields))
        except _Unusable as error:
            draft.skipped.append(SkippedRow(line, str(error)))
    return draft


def _row(line: int, record: Mapping[str, object], fields: _Fields) -> Row:
    value = record.get(fields.prompt[0])
    response: str | None = None
    if isinstance(value, list):
        turns = _turns(value, fields.prompt[0])
        if fields.response is None:
            prompt, response = _split_chat(turns)
        else:
            prompt = _render_chat(turns)
    else:
        prompt = _prompt_text(record, fields)
    if not prompt.strip():
        raise _Unusable(f"'{fields.prompt[0]}' holds no text before the answer")
    if fields.response is not None:
        response = _answer_text(record.get(fields.response), fields.response)
    label = None if fields.label is None else _label_text(record.get(fields.label), fields.label)
    if fields.response is None and response is None:
        response = label
    return Row(prompt, response, label, line, _unit_tests(record, fields))


def _unit_tests(record: Mapping[str, object], fields: _Fields) -> tuple[str, ...]:
    """What is run after an answer that is code, in order; nothing where the field holds no code."""
    if not fields.tests:
        return ()
    value, setup, name = (record.get(field) for field in fields.tests)
    tests = [test for test in (value if isinstance(value, list) else [value]) if test]
    if not all(isinstance(test, str) for test in tests):
        return ()
    code = [str(test) for test in ([setup] if isinstance(setup, str) and setup else []) + tests]
    together = "\n".join(code)
    if "assert" not in together:
        return ()
    # HumanEval's tests are a function that is given the one to be tested.
    if isinstance(name, str) and name.isidentifier() and "def check(" in together:
        code.append(f"check({name})")
    return tuple(code)


def _prompt_text(record: Mapping[str, object], fields: _Fields) -> str:
    """The prompt; several fields are joined with their names, instruction and input without."""
    parts: list[str] = []
    bare = len(fields.prompt) == 1 or fields.prompt[0].lower() == "instruction"
    for field in fields.prompt:
        text = _checked_text(record.get(field), field)
        if text is not None:
            parts.append(text if bare else f"{field[:1].upper()}{field[1:]}: {text}")
        elif field not in fields.optional and field in record:
            raise _Unusable(f"'{field}' is empty")
        elif field not in fields.optional:
            raise _Unusable(f"no '{field}' field (found: {_listed(record)})")
    return ("\n\n" if bare else "\n").join(parts)


def _answer_text(value: object, field: str) -> str | None:
    """The response; the first of several answers, the last assistant turn of a chat."""
    if isinstance(value, Mapping):  # SQuAD: {"text": [...], "answer_start": [...]}
        if "text" not in value:
            raise _Unusable(f"'{field}' is an object without 'text'")
        value = value["text"]
    if isinstance(value, list):
        if not value:
            return None
        first = value[0]
        if isinstance(first, Mapping) and "text" not in first:
            return _split_chat(_turns(value, field))[1]
        value = first["text"] if isinstance(first, Mapping) else first
    return _checked_text(value, field)


def _label_text(value: object, field: str) -> str | None:
    if isinstance(value, list):
        if len(value) > 1:
            raise _Unusable(f"'{field}' holds {len(value)} labels where one was expected")
        value = value[0] if value else None
    text = _checked_text(value, field)
    return None if text is None else text.strip()


def _checked_text(value: object, field: str) -> str | None:
    """The value as text, None where it is missing or blank."""
    if isinstance(value, list | Mapping):
        raise _Unusable(f"'{field}' is {_kind(value)} where text was expected")
    text = _scalar_text(value)
    if text is None or not text.strip():
        return None
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            reason = f"'{field}' has bytes that are not UTF-8, or half an emoji escape"
            raise _Unusable(reason) from None
    return text.replace("\r\n", "\n")


def _scalar_text(value: object) -> str | None:
    if value is None or value != value:  # NaN is the one value that differs from itself
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return str(value)


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "an array"
    if isinstance(value, Mapping):
        return "an object"
    return "a string or number" if isinstance(value, str) else "null or a truth value"


def _turns(messages: list[object], field: str) -> list[tuple[str, str]]:
    """(role, text) of each message, roles in the words user, assistant, system, tool."""
    turns = []
    for message in messages:
        if not isinstance(message, Mapping):
            raise _Unusable(f"'{field}' is not a list of messages with role and content")
        said = str(message.get("role") or message.get("from") or "")
        role = _ROLE_OF.get(said.lower())
        if role is None:
            raise _Unusable(f"'{field}' has a message with the unknown role {_listed([said])!r}")
        content = message.get("content", message.get("value"))
        if isinstance(content, list):
            content = _content_parts(content, field)
        text = _checked_text(content, field)
        if text is not None:
            turns.append((role, text.strip()))
    return turns


def _content_parts(parts: list[object], field: str) -> str:
    """Text of a message that comes as [{"type": "text", "text": ...}]."""
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise _Unusable(f"'{field}' has a message with parts that are not text")
    return "\n".join(str(text) for text in texts)


def _split_chat(turns: list[tuple[str, str]]) -> tuple[str, str | None]:
    """What precedes the last assistant turn, and that turn; later turns are dropped."""
    answers = [index for index, (role, _) in enumerate(turns) if role == "assistant"]
    if not answers:
        return _render_chat(turns), None
    return _render_chat(turns[: answers[-1]]), turns[answers[-1]][1]


def _render_chat(turns: list[tuple[str, str]]) -> str:
    """System text and a single user turn bare; from two turns on, each with its speaker's name."""
    system = [text for role, text in turns if role == "system"]
    talk = [(role, text) for role, text in turns if role != "system"]
    if len(talk) == 1 and talk[0][0] == "user":
        return "\n\n".join([*system, talk[0][1]])
    return "\n\n".join([*system, *(f"{role.capitalize()}: {text}" for role, text in talk)])


# ---- The dataset as a whole ----------------------------------------------------------------------


def _settle_roles(draft: _Draft) -> None:
    """Make label and response a matter of all rows or none, so that no caller meets a mixture."""
    draft.rows = (
        _rows_having("label", draft)
        if _is_common("label", draft)
        else [replace(row, label=None) for row in draft.rows]
    )
    draft.rows = (
        _rows_having("response", draft)
        if _is_common("response", draft)
        else [replace(row, response=None) for row in draft.rows]
    )


def _is_common(role: Literal["response", "label"], draft: _Draft) -> bool:
    """Whether at least half of the rows have it; where a few have it in vain, a note says so."""
    n_having = sum(getattr(row, role) is not None for row in draft.rows)
    if 2 * n_having >= len(draft.rows):
        return True
    if n_having:
        draft.notes.append(
            f"only {n_having:,} of {len(draft.rows):,} rows have a {role}, so it is not used; "
            "pass those rows alone to use it"
        )
    return False


def _rows_having(role: Literal["response", "label"], draft: _Draft) -> list[Row]:
    """The rows that have it; the others join the skipped ones."""
    reason = f"no {role}, though most rows have one"
    draft.skipped += [
        SkippedRow(row.line, reason) for row in draft.rows if getattr(row, role) is None
    ]
    return [row for row in draft.rows if getattr(row, role) is not None]


def _settle_labels(draft: _Draft, fields: _Fields, meta: _Meta) -> tuple[str, ...]:
    """The label set: what meta.json says, else the label field, else the rule of evidence."""
    if not draft.rows:
        return ()
    has_field = draft.rows[0].label is not None
    if meta.labels is not None:
        return _labels_of_meta(draft, meta.labels, has_field=has_field)
    if has_field:
        _name_labels_by_responses(draft)
        distinct = {row.label for row in draft.rows if row.label is not None}
        if not _is_free_text(distinct, len(draft.rows)):
            return tuple(sorted(distinct))
        draft.rows = [replace(row, label=None) for row in draft.rows]
        draft.notes.append(f"'{fields.label}' has {len(distinct):,} values: free text, not labels")
        return ()
    labels = _labels_by_evidence([row.response for row in draft.rows])
    if labels:
        draft.rows = [_labelled_by_response(row) for row in draft.rows]
        draft.notes.append("the labels are the responses: a small closed set, each one repeated")
    return labels


def _is_free_text(labels: set[str], n_rows: int) -> bool:
    """Whether a label field holds texts rather than labels: they would be kept as names."""
    if any(len(label) > _MAX_LABEL_CHARS for label in labels):
        return True
    return len(labels) > _FEW_LABELS and 2 * len(labels) > n_rows


def _name_labels_by_responses(draft: _Draft) -> None:
    """Take "positive" for a label where the label field says 1 and the response "positive".

    What a model is trained to say, and is scored on, is the response.
    """
    pairs = {(row.label, (row.response or "").strip()) for row in draft.rows}
    labels, responses = {label for label, _ in pairs}, {response for _, response in pairs}
    one_to_one = len(pairs) == len(labels) == len(responses)
    # Pairs that never repeat are no evidence that the one stands for the other.
    if labels == responses or not one_to_one or not 2 <= len(pairs) <= len(draft.rows) // 2:
        return
    if "" in responses or _is_free_text(responses, len(draft.rows)):
        return
    draft.rows = [_labelled_by_response(row) for row in draft.rows]
    draft.notes.append("each label stands for one response, which is used as its name")


def _labels_of_meta(draft: _Draft, labels: tuple[str, ...], *, has_field: bool) -> tuple[str, ...]:
    if not labels:
        draft.rows = [replace(row, label=None) for row in draft.rows]
        return ()
    if not has_field:
        if draft.rows[0].response is None:
            return ()
        draft.rows = [_labelled_by_response(row) for row in draft.rows]
    draft.skipped += [
        SkippedRow(row.line, f"label {_listed([row.label or ''])!r} is not in meta.json's 'labels'")
        for row in draft.rows
        if row.label not in labels
    ]
    draft.rows = [row for row in draft.rows if row.label in labels]
    return labels


def _labelled_by_response(row: Row) -> Row:
    label = (row.response or "").strip()
    return replace(row, response=label, label=label)


def _labels_by_evidence(responses: Sequence[str | None]) -> tuple[str, ...]:
    """The distinct responses where they look like labels (rule in docs/data.md), else nothing."""
    counts = Counter(response.strip() for response in responses if response is not None)
    if len(responses) < _EVIDENCE_MIN_ROWS or not 2 <= len(counts) <= _EVIDENCE_MAX_LABELS:
        return ()
    if len(counts) > _EVIDENCE_MAX_DISTINCT_SHARE * len(responses) or min(counts.values()) < 2:
        return ()
    if any("\n" in label or len(label) > _EVIDENCE_MAX_CHARS for label in counts):
        return ()
    # Sums and amounts repeat too; only a short scale such as 1 to 5 stars is a label set.
    numbers = sum(re.fullmatch(r"[-+]?[\d.,]+", label) is not None for label in counts)
    if numbers == len(counts) > _EVIDENCE_MAX_NUMBERS:
        return ()
    return tuple(sorted(counts))


def _check_enough(draft: _Draft, table: _Table, shown: str) -> None:
    if draft.rows and 2 * len(draft.skipped) <= table.n_read:
        return
    skipped = sorted(draft.skipped, key=lambda row: row.line)
    raise DatasetError(_too_many_bad(skipped, table.n_read, table.file_format, shown))


def _too_many_bad(skipped: Sequence[SkippedRow], n_read: int, file_format: str, shown: str) -> str:
    parts = "; ".join(_where(file_format, row) for row in skipped[:3])
    return (
        f"{shown}: {len(skipped):,} of {n_read:,} rows can't be used ({parts}"
        f"{'; ...' if len(skipped) > 3 else ''}). Mend or drop them, or name the fields with --map."
    )


def _where(file_format: str, row: SkippedRow) -> str:
    counts_rows = file_format in ("Parquet", "Hub", "JSON on one line")
    return f"{'row' if counts_rows else 'line'} {row.line}: {row.reason}"


def _note_oddities(draft: _Draft, labels: Sequence[str]) -> None:
    """Say what does not stop the reading but will bend the figures."""
    rows = draft.rows
    n_distinct = len({(row.prompt, row.response, row.label) for row in rows})
    if len(rows) == 1:
        draft.notes.append("one row only: nothing can be said about spread or error")
    elif n_distinct == 1:
        draft.notes.append(f"all {len(rows):,} rows are the same row: figures will mean little")
    elif n_distinct < len(rows):
        draft.notes.append(f"{len(rows) - n_distinct:,} rows repeat an earlier one; they are kept")
    if len(labels) == 1:
        draft.notes.append(f"every row has the label {labels[0]!r}: balanced accuracy says nothing")
    n_tested = sum(bool(row.tests) for row in rows)
    if n_tested:
        draft.notes.append(f"{n_tested:,} rows carry unit tests")
    differing = sum(row.label is not None and row.response != row.label for row in rows)
    if differing:
        draft.notes.append(f"label and response differ in {differing:,} rows; both are kept")


def _normalised(text: str | None) -> str | None:
    if text is None:
        return None
    lines = unicodedata.normalize("NFC", text).strip().splitlines()
    return "\n".join(line.rstrip() for line in lines)
