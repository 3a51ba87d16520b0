"""Results that others published: a long file of fine-tuning runs as records without weights.

The form is that of Harada et al. 2025 (massive-sft): a line per run with six columns that say what
was trained and one column per benchmark; a run on the data `pretrain` is the bare base model.
"""

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import combinations
from pathlib import Path
from typing import Any

from adapt_lora.errors import MatrixError
from adapt_lora.model.base import BaseIdentity
from adapt_lora.registry.records import (
    BASE_ID,
    PUBLISHED_METRIC,
    AdapterRecord,
    Cell,
    DatasetRecord,
    MatrixRow,
    TaskRecord,
    TransferMatrix,
)

RUN_COLUMNS = ("model_name", "data_name", "lora", "epoch", "data_size", "lr_strategy")
"""Columns that say what was trained and how; all other named columns are benchmarks."""

BARE = "pretrain"
"""The data name of a run that is the base model itself."""

_METHODS: Mapping[str, str] = {"true": "lora", "false": "full"}
# Two models agree on a figure or two by chance, on this many by copying.
_COPIED_FIGURES = 5


@dataclass(frozen=True, slots=True)
class PublishedResults:
    """What a results file holds."""

    source: str
    """Whose results they are: the file's name without its ending, e.g. "massive-sft"."""
    matrices: tuple[TransferMatrix, ...]
    """One per base model, in order of the file."""
    warnings: tuple[str, ...]
    """What looks wrong in the file, one sentence each; nothing of it was changed."""


@dataclass(frozen=True, slots=True)
class _Run:
    """One line of the file."""

    line: int
    columns: Mapping[str, str]
    """The six columns of RUN_COLUMNS."""
    scores: Mapping[str, float]
    """Scores by benchmark, in [0, 1]; what was not measured is absent."""

    @property
    def base(self) -> str:
        return self.columns["model_name"]

    @property
    def data(self) -> str:
        return self.columns["data_name"]

    @property
    def is_bare(self) -> bool:
        return self.data == BARE


@dataclass(frozen=True, slots=True)
class _Setting:
    """What is said about a whole file."""

    source: str
    file: str
    groups: Mapping[str, str]
    own: Sequence[Sequence[str]]
    in_domain: Sequence[Sequence[str]]

    @property
    def protocol(self) -> str:
        return f"published: {self.source}"


def read_published(path: str | Path) -> PublishedResults:
    """The runs of a results file as adapters, tasks and cells, a matrix per base model.

    Scores become shares of their scale. Standard errors and row counts are not in such a file, so
    they are None. `NAME_meta.json` beside it may give `groups` of benchmarks, `own` cells and
    `in_domain` ones (training data that holds a benchmark's training split).

    Raises:
        MatrixError: It is not such a file, or a line of it can't be read.
    """
    place = Path(path)
    runs = _read_runs(place)
    stem = place.stem.removesuffix("_evaluation_result")
    meta = read_meta(place.with_name(stem))
    setting = _Setting(
        source=stem.replace("_", "-"),
        file=place.name,
        groups={str(task): str(group) for task, group in meta.get("groups", {}).items()},
        own=meta.get("own", ()),
        in_domain=meta.get("in_domain", ()),
    )
    twins = _twin_rows([run for run in runs if run.is_bare])
    matrices = [
        _matrix([run for run in runs if run.base == base], setting, _about_base(base, twins))
        for base in dict.fromkeys(run.base for run in runs)
    ]
    return PublishedResults(setting.source, tuple(matrices), tuple(map(_in_words, twins)))


def is_results_header(header: Sequence[str]) -> bool:
    """Whether a CSV file with these columns is a file of published runs."""
    return set(RUN_COLUMNS) <= set(header)


def score_scale(metric: str) -> float:
    """What turns a published score into a share of its scale.

    MT-Bench is out of 10, TruthfulQA a share already, all others are percent.
    """
    if metric.startswith("mtbench"):
        return 0.1
    return 1.0 if metric.startswith("Truthful_QA") else 0.01


def read_meta(stem: Path) -> dict[str, Any]:
    """What `<stem>_meta.json` says about a file of results; nothing where there is none."""
    path = stem.with_name(stem.name + "_meta.json")
    if not path.exists():
        return {}
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MatrixError(f"{path} is not JSON: {error}.") from error
    if not isinstance(meta, dict):
        raise MatrixError(f"{path} must hold a JSON object, not a {type(meta).__name__}.")
    return meta


# --- lines --------------------------------------------------------------------------------------


def _read_runs(path: Path) -> list[_Run]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", restval="")
            header = list(reader.fieldnames or ())
            lines = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MatrixError(f"{path} can't be read as CSV: {error}.") from error
    if not is_results_header(header):
        missing = ", ".join(sorted(set(RUN_COLUMNS) - set(header)))
        raise MatrixError(
            f"{path}, line 1: no column {missing} (found: {', '.join(header[:6]) or 'nothing'}). "
            f"A results file has a line per run, the columns {', '.join(RUN_COLUMNS)}, and one "
            "column per benchmark."
        )
    metrics = [name for name in header if name and name not in RUN_COLUMNS]
    runs = [_read_run(path, line, row, metrics) for line, row in lines]
    if not any(not run.is_bare for run in runs):
        raise MatrixError(f"{path} holds no run of fine-tuning, so there is nothing to import.")
    first: dict[tuple[str, ...], int] = {}
    for run in runs:
        key = (run.base, BARE) if run.is_bare else tuple(run.columns.values())
        if first.setdefault(key, run.line) != run.line:
            raise MatrixError(
                f"{path}, line {run.line}: the same run as line {first[key]} ({', '.join(key)}). "
                "Take one of the two out."
            )
    return runs


def _read_run(path: Path, line: int, row: Mapping[str, str], metrics: Sequence[str]) -> _Run:
    columns = {name: row[name].strip() for name in RUN_COLUMNS}
    columns["lora"] = columns["lora"].lower()
    if not columns["model_name"] or not columns["data_name"]:
        raise MatrixError(f"{path}, line {line}: model_name and data_name must not be empty.")
    if columns["data_name"] != BARE and columns["lora"] not in _METHODS:
        raise MatrixError(
            f"{path}, line {line}: lora is {columns['lora']!r}; it must be true or false."
        )
    scores: dict[str, float] = {}
    for name in metrics:
        if not row[name].strip():
            continue
        try:
            scores[name] = float(row[name]) * score_scale(name)
        except ValueError as error:
            raise MatrixError(
                f"{path}, line {line}: {name} is {row[name]!r}, not a number. Leave unmeasured "
                "scores empty."
            ) from error
        if not 0 <= scores[name] <= 1:
            raise MatrixError(
                f"{path}, line {line}: {name} is {row[name]}, but lies between 0 and "
                f"{1 / score_scale(name):g}."
            )
    if columns["data_name"] != BARE:
        for name in ("epoch", "data_size"):
            columns[name] = str(_whole(path, line, name, columns[name]))
    return _Run(line, columns, scores)


def _whole(path: Path, line: int, name: str, text: str) -> int:
    try:
        number = float(text)
        if number.is_integer():
            return int(number)
    except (ValueError, OverflowError):
        pass  # said below
    raise MatrixError(f"{path}, line {line}: {name} is {text!r}, not a whole number.")


# --- records ------------------------------------------------------------------------------------


def _matrix(runs: Sequence[_Run], setting: _Setting, warnings: tuple[str, ...]) -> TransferMatrix:
    base = BaseIdentity(runs[0].base, architecture="", weights="")
    tasks = {name: _task(name, setting) for run in runs for name in run.scores}
    adapters = {run.line: _adapter(run, base, setting, warnings) for run in runs if not run.is_bare}
    ids = {line: record.adapter_id for line, record in adapters.items()}
    return TransferMatrix(
        base=base,
        adapters=tuple(adapters.values()),
        tasks=tuple(tasks.values()),
        cells=tuple(
            Cell(
                row=MatrixRow(ids.get(run.line, BASE_ID)),
                task=name,
                metric=PUBLISHED_METRIC,
                score=score,
                se=None,
                n=None,
                protocol=setting.protocol,
            )
            for run in runs
            for name, score in run.scores.items()
        ),
    )


def _task(name: str, setting: _Setting) -> TaskRecord:
    group = setting.groups.get(name, _benchmark(name))
    return TaskRecord(
        name=name,
        group=group,
        metric=PUBLISHED_METRIC,
        dataset=DatasetRecord(
            name=_benchmark(name),
            digest=_digest(setting.protocol, "task", name),
            group=group,
            n_rows=None,
            source=setting.file,
        ),
    )


def _adapter(
    run: _Run, base: BaseIdentity, setting: _Setting, warnings: tuple[str, ...]
) -> AdapterRecord:
    columns = run.columns
    method = _METHODS[columns["lora"]]
    rows, epochs, schedule = int(columns["data_size"]), columns["epoch"], columns["lr_strategy"]
    own = _fitting(run, setting.own)
    group = _task(own[0], setting).group if own else run.data
    seen = _fitting(run, setting.in_domain)
    if seen:
        warnings = (f"Its training data holds training rows of {', '.join(seen)}.", *warnings)
    data = re.sub(r"^w/o\b", "without", run.data)
    size = f"{rows // 1000}k" if rows and rows % 1000 == 0 else str(rows)
    return AdapterRecord(
        adapter_id=_digest(setting.protocol, "run", *columns.values()),
        name=f"{base.name}-{data}-{method}-{size}-e{epochs}-{schedule or 'unknown'}",
        base=base,
        dataset=DatasetRecord(
            name=run.data,
            digest=_digest(setting.protocol, "data", run.data, str(rows)),
            group=group,
            n_rows=rows,
            source=setting.file,
        ),
        group=group,
        params={
            "method": method,
            "published/source": setting.source,
            "train/data": run.data,
            "train/rows": str(rows),
            "train/epochs": epochs,
            "train/lr_schedule": schedule,
        },
        tags={"published": setting.source},
        warnings=warnings,
        has_weights=False,
    )


def _benchmark(column: str) -> str:
    """A column's benchmark: "gsm8k-4shot" and "gsm8k-0shot" are two ways to ask one."""
    return re.sub(r"[-_](?:\d+shot|total)$", "", column)


def _fitting(run: _Run, patterns: Iterable[Sequence[str]]) -> list[str]:
    """Benchmarks of this run that a pattern such as ["math", "gsm8k*"] names."""
    globs = [str(task) for data, task in patterns if fnmatchcase(run.data, str(data))]
    return [name for name in run.scores if any(fnmatchcase(name, glob) for glob in globs)]


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


# --- rows that stand there twice ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Twins:
    """Two base models whose published figures are the same ones."""

    bases: tuple[str, str]
    equal: tuple[str, ...]
    n_shared: int


def _twin_rows(bare: Sequence[_Run]) -> list[_Twins]:
    found = []
    for one, other in combinations(bare, 2):
        shared = one.scores.keys() & other.scores.keys()
        equal = tuple(
            name for name in one.scores if name in shared and one.scores[name] == other.scores[name]
        )
        # Zeros agree by failing alike.
        if sum(one.scores[name] > 0 for name in equal) >= _COPIED_FIGURES:
            found.append(_Twins((one.base, other.base), equal, len(shared)))
    return found


def _in_words(twins: _Twins) -> str:
    return (
        f"The {BARE} rows of {' and '.join(twins.bases)} are equal on {_extent(twins)}: one was "
        "likely copied from the other, so gains over it mean little. Both are imported as they "
        "stand."
    )


def _about_base(base: str, twins: Sequence[_Twins]) -> tuple[str, ...]:
    return tuple(
        f"The published row of its base equals that of {pair.bases[pair.bases[0] == base]} on "
        f"{_extent(pair, named=False)}, so gains over the base may be wrong."
        for pair in twins
        if base in pair.bases
    )


def _extent(twins: _Twins, *, named: bool = True) -> str:
    if len(twins.equal) == twins.n_shared:
        return f"all {twins.n_shared} benchmarks"
    names = f" ({', '.join(twins.equal)})" if named else ""
    return f"{len(twins.equal)} of {twins.n_shared} benchmarks{names}"
