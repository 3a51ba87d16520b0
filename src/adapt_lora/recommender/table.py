"""The transfer matrix as arrays: the one door through which "not measured" becomes NaN."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from adapt_lora.errors import MatrixError
from adapt_lora.registry.published import (
    BARE,
    RUN_COLUMNS,
    is_results_header,
    read_meta,
    score_scale,
)
from adapt_lora.registry.records import (
    BASE_ID,
    MAJORITY_ID,
    METRIC_UNITS,
    AdapterRecord,
    Fingerprint,
    TransferMatrix,
    Unit,
    few_shot_row,
)

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

COMPANIONS = ("_pairs", "_targets", "_meta", "_seeds")
"""Endings of the files that stand beside a pivot and belong to it."""


@dataclass(frozen=True, eq=False)
class TransferTable:
    """Sources × targets under one base model, as arrays; NaN = not measured.

    Sources are the adapters that could be recommended, targets the tasks they were scored on.
    Nothing here is fitted: scaling, centring and averaging happen after a target has left.
    """

    sources: tuple[str, ...]
    """Names or ids of the adapters, one per row."""
    targets: tuple[str, ...]
    """Names of the tasks, one per column."""
    groups: tuple[str, ...]
    """Group of each target; columns of one group leave together."""
    scores: Array
    """(n_sources, n_targets): the task's metric with the adapter; own cells included."""
    base_scores: Array
    """(n_targets,): the metric of the bare base; NaN where it was not measured."""
    own: Mask
    """(n_sources, n_targets): the adapter was trained on the task's group."""
    errors: Array
    """(n_sources, n_targets): standard error of each score; NaN where unknown."""
    unit: Unit = "points"
    """What scores and gains are counted in; a table never holds both."""
    regime: str = "zeroshot"
    """How the adapters were used: "zeroshot", "intermediate", or a pivot's own word."""
    pair_features: Mapping[str, Array] = field(default_factory=dict)
    """Raw numbers per (source, target), known before any run."""
    source_features: Mapping[str, Array] = field(default_factory=dict)
    """Raw numbers per source, (n_sources,)."""
    target_features: Mapping[str, Array] = field(default_factory=dict)
    """Raw numbers per target, (n_targets,)."""
    similarity: Array | None = None
    """(n_targets, n_targets) given similarity of tasks; None: taken from the vectors."""
    source_vectors: Mapping[str, Array] = field(default_factory=dict)
    """Embeddings of the adapters' training data by name, (n_sources, d)."""
    target_vectors: Mapping[str, Array] = field(default_factory=dict)
    """Embeddings of the tasks by name, (n_targets, d)."""
    rivals: Mapping[str, Array] = field(default_factory=dict)
    """Others' predictions, (n_sources, n_targets): rows to beat, never features."""
    warnings: tuple[str, ...] = ()
    """What was left out and why, one sentence each."""

    @cached_property
    def transfer_scores(self) -> Array:
        """Scores without own cells: all that may be learned from, or judged on."""
        return np.where(self.own, np.nan, self.scores)

    @cached_property
    def gains(self) -> Array:
        """Score minus base score; NaN = not measured, own, or no base score."""
        return self.transfer_scores - self.base_scores[None, :]

    @property
    def group_names(self) -> tuple[str, ...]:
        """The distinct groups, in order of first column."""
        return tuple(dict.fromkeys(self.groups))

    def columns(self, keep: Sequence[int]) -> "TransferTable":
        """The table of these target columns alone."""
        index = np.asarray(keep, dtype=np.intp)
        similarity = None if self.similarity is None else self.similarity[np.ix_(index, index)]
        return replace(
            self,
            targets=tuple(self.targets[t] for t in keep),
            groups=tuple(self.groups[t] for t in keep),
            scores=self.scores[:, index],
            base_scores=self.base_scores[index],
            own=self.own[:, index],
            errors=self.errors[:, index],
            pair_features={name: x[:, index] for name, x in self.pair_features.items()},
            target_features={name: x[index] for name, x in self.target_features.items()},
            similarity=similarity,
            target_vectors={name: x[index] for name, x in self.target_vectors.items()},
            rivals={name: x[:, index] for name, x in self.rivals.items()},
        )

    def query(self, target: int, known: Sequence[int]) -> "Query":
        """What is known about one target before any run, as seen from the columns `known`."""
        similarity = None
        if self.similarity is not None:
            similarity = self.similarity[target, np.asarray(known, dtype=np.intp)]
        return Query(
            target=self.targets[target],
            candidates=~self.own[:, target],
            pair_features={name: x[:, target] for name, x in self.pair_features.items()},
            target_features={name: float(x[target]) for name, x in self.target_features.items()},
            similarity=similarity,
            vectors={name: x[target] for name, x in self.target_vectors.items()},
            rivals={name: x[:, target] for name, x in self.rivals.items()},
        )

    def hold_out(self, groups: Iterable[str]) -> "Fold":
        """Split off all columns of these groups; they leave as queries, which hold no scores."""
        leaving = frozenset(groups)
        known = [t for t, group in enumerate(self.groups) if group not in leaving]
        held = tuple(t for t, group in enumerate(self.groups) if group in leaving)
        return Fold(self.columns(known), held, tuple(self.query(t, known) for t in held))


@dataclass(frozen=True, eq=False)
class Query:
    """One unseen target: all that a ranking may know about it. It has no field for scores."""

    target: str
    """Its name."""
    candidates: Mask
    """(n_sources,): may be ranked (not an own cell)."""
    pair_features: Mapping[str, Array] = field(default_factory=dict)
    """Raw numbers per source, (n_sources,)."""
    target_features: Mapping[str, float] = field(default_factory=dict)
    """Raw numbers of the target; NaN where unknown."""
    similarity: Array | None = None
    """(n_targets of the table,) given similarity to each measured task."""
    vectors: Mapping[str, Array] = field(default_factory=dict)
    """Embeddings of the target by name, (d,)."""
    rivals: Mapping[str, Array] = field(default_factory=dict)
    """Others' predictions for this target, (n_sources,)."""


@dataclass(frozen=True, eq=False)
class Fold:
    """A table that has never seen some groups, and the queries for their columns."""

    table: TransferTable
    """What may be learned from."""
    held: tuple[int, ...]
    """Column numbers, in the table that was split, of the queries."""
    queries: tuple[Query, ...]
    """One per held column."""


# --- from records -------------------------------------------------------------------------------


def table_from_matrix(matrix: TransferMatrix, *, unit: Unit) -> TransferTable:
    """Turn records into arrays: the tasks of one unit, a row per adapter.

    Cells measured under another protocol than the base's cell of the same task are left out, and
    said so: a difference of protocols is not a gain. `features.registry_table` adds features.
    """
    tasks = [task for task in matrix.tasks if METRIC_UNITS[task.metric] == unit]
    row = {adapter.adapter_id: s for s, adapter in enumerate(matrix.adapters)}
    column = {task.name: t for t, task in enumerate(tasks)}
    shape = (len(row), len(column))
    scores, errors = np.full(shape, np.nan), np.full(shape, np.nan)
    base_scores = np.full(shape[1], np.nan)
    metrics = {task.name: task.metric for task in tasks}
    # A model that is shown examples is no candidate, and its gain is not an adapter's.
    usable = [
        cell
        for cell in matrix.cells
        if metrics.get(cell.task) == cell.metric and few_shot_row(cell.adapter_id) is None
    ]
    protocols = {cell.task: cell.protocol for cell in usable if cell.adapter_id == BASE_ID}
    foreign: dict[str, int] = {}
    for cell in usable:
        if cell.protocol != protocols.get(cell.task, cell.protocol):
            foreign[cell.task] = foreign.get(cell.task, 0) + 1
        elif cell.adapter_id == BASE_ID:
            base_scores[column[cell.task]] = cell.score
        elif cell.adapter_id != MAJORITY_ID and cell.adapter_id in row:
            scores[row[cell.adapter_id], column[cell.task]] = cell.score
            error = float("nan") if cell.se is None else cell.se
            errors[row[cell.adapter_id], column[cell.task]] = error
    groups = tuple(task.group for task in tasks)
    own = np.array(
        [[_is_own(adapter, group) for group in groups] for adapter in matrix.adapters], dtype=bool
    ).reshape(shape)
    return TransferTable(
        sources=tuple(row),
        targets=tuple(column),
        groups=groups,
        scores=scores,
        base_scores=base_scores,
        own=own,
        errors=errors,
        unit=unit,
        regime=matrix.regime,
        warnings=tuple(
            f"{n} cell(s) of {task} were measured under another protocol than the base model's "
            "and are left out."
            for task, n in foreign.items()
        ),
    )


def _is_own(adapter: AdapterRecord, group: str) -> bool:
    return adapter.group is not None and adapter.group == group


def vector_table(prints: Sequence[Fingerprint], name: str) -> Array | None:
    """Stack one embedding of many fingerprints, NaN rows where absent; None where all lack it."""
    found = [print_.vectors.get(name) for print_ in prints]
    widths = {len(vector) for vector in found if vector}
    if len(widths) != 1:
        return None
    blank = (float("nan"),) * widths.pop()
    return np.array([vector if vector else blank for vector in found], dtype=np.float64)


# --- from pivot files ---------------------------------------------------------------------------


def read_matrices(folder: str | Path) -> dict[str, TransferTable]:
    """All matrices of a folder: a pivot by its stem, cuts of a results file as `…_lora/BASE`."""
    place = Path(folder)
    if not place.is_dir():
        raise MatrixError(f"{place} is not a folder. Name a folder of pivot CSV files.")
    tables: dict[str, TransferTable] = {}
    for path in sorted(place.glob("*.csv")):
        if path.stem.endswith(COMPANIONS):
            continue
        if _is_results_file(path):
            tables |= read_results_file(path)
        else:
            tables[path.stem] = read_matrix(path)
    if not tables:
        raise MatrixError(
            f"{place}: no transfer matrix found. A matrix is a CSV file whose first column is "
            "'source' and whose other columns are targets."
        )
    return tables


def read_matrix(path: str | Path) -> TransferTable:
    """Read a pivot (first column `source`, other columns targets, optional row `base`).

    `NAME_pairs.csv`, `NAME_targets.csv`, `NAME_seeds.csv` and `NAME_meta.json` beside it are read
    too. Percent
    becomes a fraction (some score above 1.5); a column with a negative score makes it nats.
    """
    place = Path(path)
    rows = _read_rows(place)
    header = rows[0]
    if len(header) < 2 or header[0] != "source":
        raise MatrixError(
            f"{place}, line 1: the first column must be 'source' and the others targets "
            f"(found: {', '.join(header[:5]) or 'nothing'})."
        )
    names = [row[0] for row in rows[1:]]
    if len(set(names)) != len(names) or len(set(header)) != len(header):
        raise MatrixError(f"{place}: a source or target stands there twice; names must be unique.")
    values = np.array([_numbers(place, n, row[1:]) for n, row in enumerate(rows[1:], start=2)])
    values = values.reshape(len(names), len(header) - 1)
    return _pivot_table(place.parent / place.stem, names, header[1:], values)


def read_results_file(path: str | Path) -> dict[str, TransferTable]:
    """Cut a long results file of SFT runs into one matrix per (base model, LoRA or full).

    Kept: 1k rows (`all`: 10k), cosine schedule, epoch 10, all metrics but LongBench, and the
    `pretrain` row as base. The form of Harada et al. 2025 (massive-sft), whose MT-Bench columns
    are out of 10, whose TruthfulQA is a fraction and whose other columns are percent.
    """
    place = Path(path)
    rows = _read_rows(place)
    header = rows[0]
    records = [dict(zip(header, row, strict=False)) for row in rows[1:]]
    metrics = [
        name for name in header[1:] if name not in RUN_COLUMNS and not name.startswith("LongBench")
    ]
    stem = place.stem.removesuffix("_evaluation_result")
    scale = np.array([score_scale(name) for name in metrics])
    tables: dict[str, TransferTable] = {}
    for base in sorted({record["model_name"] for record in records}):
        mine = [record for record in records if record["model_name"] == base]
        bare = [record for record in mine if record["data_name"] == BARE][:1]
        for kind, flag in (("lora", "true"), ("full", "false")):
            runs = [r for r in mine if r["lora"].lower() == flag and _is_main_run(r)]
            runs = list({record["data_name"]: record for record in runs}.values())
            if len(runs) < 2:
                continue
            names = [*("base" for _ in bare), *(record["data_name"] for record in runs)]
            values = np.array([[_number(r.get(m, "")) for m in metrics] for r in [*bare, *runs]])
            tables[f"{stem}_{kind}/{base}"] = _pivot_table(
                place.parent / stem, names, metrics, values * scale, base=base
            )
    return tables


def _pivot_table(
    stem: Path,
    names: Sequence[str],
    targets: Sequence[str],
    values: Array,
    *,
    base: str | None = None,
) -> TransferTable:
    """Make the table of a pivot and its companions; `base` names a cut of a results file."""
    meta = read_meta(stem)
    finite = values[np.isfinite(values)]
    unit: Unit = "nats" if finite.size and finite.min() < 0 else "points"
    percent = base is None and unit == "points" and finite.size and finite.max() > 1.5
    if percent:
        values = values / 100.0
    is_base = np.array([name == "base" for name in names], dtype=bool)
    sources = tuple(name for name in names if name != "base")
    scores = values[~is_base]
    base_scores = values[is_base][0] if is_base.any() else np.full(len(targets), np.nan)
    if base is not None and base in meta.get("base_unreliable", ()):
        base_scores = np.full(len(targets), np.nan)
    pairs = _read_pairs(stem, sources, targets)
    rivals = set(meta.get("rivals", ()))
    groups = meta.get("groups", {})
    return TransferTable(
        sources=sources,
        targets=tuple(targets),
        groups=tuple(str(groups.get(target, target)) for target in targets),
        scores=scores,
        base_scores=base_scores,
        own=_matching_cells(meta.get("own", ()), sources, targets),
        errors=_read_errors(stem, sources, targets) / (100.0 if percent else 1.0),
        unit=unit,
        regime=str(meta.get("regime", "zeroshot")),
        pair_features={name: x for name, x in pairs.items() if name not in rivals},
        similarity=_read_similarity(stem, targets),
        rivals={name: x for name, x in pairs.items() if name in rivals},
    )


def _read_rows(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MatrixError(f"{path} can't be read as CSV: {error}.") from error
    if len(rows) < 2:
        raise MatrixError(f"{path} is empty: a header line and at least one row are needed.")
    return rows


def _is_results_file(path: Path) -> bool:
    return is_results_header(_read_rows(path)[0])


def _numbers(path: Path, line: int, fields: Sequence[str]) -> list[float]:
    try:
        return [_number(field_) for field_ in fields]
    except ValueError as error:
        raise MatrixError(f"{path}, line {line}: {error}. Leave unmeasured cells empty.") from error


def _number(text: str) -> float:
    return float(text) if text.strip() else float("nan")


def _is_main_run(record: Mapping[str, str]) -> bool:
    rows = 10_000 if record["data_name"] == "all" else 1_000
    return (
        record["lr_strategy"] == "cosine"
        and float(record["epoch"]) == 10
        and _number(record["data_size"]) == rows
        and record["data_name"] != BARE
        and not record["data_name"].startswith("w/o")
    )


def _read_pairs(stem: Path, sources: Sequence[str], targets: Sequence[str]) -> dict[str, Array]:
    """Numeric columns of the pairs file as arrays; columns without one number are dropped."""
    path = stem.with_name(stem.name + "_pairs.csv")
    if not path.exists():
        return {}
    rows = _read_rows(path)
    if rows[0][:2] != ["source", "target"]:
        raise MatrixError(f"{path}, line 1: the first two columns must be 'source' and 'target'.")
    row = {name: s for s, name in enumerate(sources)}
    column = {name: t for t, name in enumerate(targets)}
    features = {name: np.full((len(row), len(column)), np.nan) for name in rows[0][2:]}
    for line, cells in enumerate(rows[1:], start=2):
        if cells[0] not in row or cells[1] not in column:
            continue
        numbers = _numbers(path, line, cells[2:])
        for name, number in zip(features, numbers, strict=False):
            features[name][row[cells[0]], column[cells[1]]] = number
    return {name: x for name, x in features.items() if np.isfinite(x).any()}


def _read_errors(stem: Path, sources: Sequence[str], targets: Sequence[str]) -> Array:
    """Standard errors from `_seeds.csv` (source,target,seed,score): sd over seeds by √seeds."""
    errors = np.full((len(sources), len(targets)), np.nan)
    path = stem.with_name(stem.name + "_seeds.csv")
    if not path.exists():
        return errors
    rows = _read_rows(path)
    if rows[0] != ["source", "target", "seed", "score"]:
        raise MatrixError(f"{path}, line 1: the columns must be source, target, seed and score.")
    row = {name: s for s, name in enumerate(sources)}
    column = {name: t for t, name in enumerate(targets)}
    runs: dict[tuple[int, int], list[float]] = {}
    for line, cells in enumerate(rows[1:], start=2):
        if len(cells) == 4 and cells[0] in row and cells[1] in column:
            place = row[cells[0]], column[cells[1]]
            runs.setdefault(place, []).extend(_numbers(path, line, cells[3:]))
    for place, scores in runs.items():
        if len(scores) > 1:
            errors[place] = float(np.std(scores, ddof=1)) / len(scores) ** 0.5
    return errors


def _read_similarity(stem: Path, targets: Sequence[str]) -> Array | None:
    path = stem.with_name(stem.name + "_targets.csv")
    if not path.exists():
        return None
    rows = _read_rows(path)
    column = {name: t for t, name in enumerate(targets)}
    similarity = np.full((len(targets), len(targets)), np.nan)
    for line, cells in enumerate(rows[1:], start=2):
        for name, number in zip(rows[0][1:], _numbers(path, line, cells[1:]), strict=False):
            if cells[0] in column and name in column:
                similarity[column[cells[0]], column[name]] = number
    return similarity


def _matching_cells(
    patterns: Iterable[Sequence[str]], sources: Sequence[str], targets: Sequence[str]
) -> Mask:
    """Cells whose source and target fit a pattern such as ["math", "gsm8k*"]."""
    pairs = [(str(pattern[0]), str(pattern[1])) for pattern in patterns]
    return np.array(
        [[any(_fits(s, t, pair) for pair in pairs) for t in targets] for s in sources], dtype=bool
    ).reshape(len(sources), len(targets))


def _fits(source: str, target: str, pattern: tuple[str, str]) -> bool:
    named = (source, target) == pattern
    return named or (fnmatchcase(source, pattern[0]) and fnmatchcase(target, pattern[1]))
