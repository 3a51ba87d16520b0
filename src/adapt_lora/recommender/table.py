"""The transfer matrix as arrays: the one door through which "not measured" becomes NaN."""

import csv
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from adapt_lora.errors import MatrixError
from adapt_lora.recommender.likeness import task_likeness
from adapt_lora.registry.exchange.published import (
    BARE,
    RUN_COLUMNS,
    is_results_header,
    read_meta,
    score_scale,
)
from adapt_lora.registry.records import (
    BASE_ROW,
    METRIC_UNITS,
    AdapterRecord,
    Fingerprint,
    TransferMatrix,
    Unit,
)

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

BASE_SCORE = "base_score"
"""The target feature that says how well the bare base does there (other rows than the gains')."""

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
    likeness: Mapping[str, Array] | None = None
    """Every way in which tasks are alike, (n_targets, n_targets); see `likeness.task_likeness`.
    None: derived by `described`."""
    elsewhere: "TransferTable | None" = None
    """The adapters' mean standing under other base models, as a table of the same sources and of
    some of the same targets (`consensus`). A group that is held out leaves it too."""
    lenders: tuple[str, ...] = ()
    """The other base models that these scores are the mean standing under; empty where they are
    the base's own."""
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

    @cached_property
    def reliability(self) -> Array:
        """(n_targets,): share of the spread between adapters that is not noise, in [0, 1].

        1 − mean squared standard error / variance of the scores, over foreign cells; 1 where too
        few standard errors are known to tell.
        """
        found = np.ones(len(self.targets))
        for t in range(len(self.targets)):
            scores, errors = self.transfer_scores[:, t], self.errors[:, t]
            known = np.isfinite(scores) & np.isfinite(errors)
            if known.sum() < _MIN_SHARED:
                continue
            total = float(scores[known].var(ddof=1))
            noise = float((errors[known] ** 2).mean())
            found[t] = max(1 - noise / total, 0.0) if total > 0 else 0.0
        return found

    @property
    def lent(self) -> "TransferTable | None":
        """What other base models say: this table where the base has no scores, or `elsewhere`."""
        return self if self.lenders else self.elsewhere

    @property
    def group_names(self) -> tuple[str, ...]:
        """The distinct groups, in order of first column."""
        return tuple(dict.fromkeys(self.groups))

    @cached_property
    def described(self) -> "TransferTable":
        """This table with its `likeness`, computed once: it needs no scores, so folds share it."""
        if self.likeness is not None:
            return self
        # How well the base does tells harm, not order (docs/experiments.md, learned likeness).
        features = {name: x for name, x in self.target_features.items() if name != BASE_SCORE}
        likeness = task_likeness(
            similarity=self.similarity,
            pair_features=self.pair_features,
            target_features=features,
            target_vectors=self.target_vectors,
        )
        return replace(self, likeness=likeness)

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
            likeness=_submatrices(self.likeness, index, index),
            target_vectors={name: x[index] for name, x in self.target_vectors.items()},
            rivals={name: x[:, index] for name, x in self.rivals.items()},
        )

    def query(self, target: int, known: Sequence[int]) -> "Query":
        """What is known about one target before any run, as seen from the columns `known`."""
        index = np.asarray(known, dtype=np.intp)
        similarity = None if self.similarity is None else self.similarity[target, index]
        likeness = self.described.likeness or {}
        return Query(
            target=self.targets[target],
            candidates=~self.own[:, target],
            pair_features={name: x[:, target] for name, x in self.pair_features.items()},
            target_features={name: float(x[target]) for name, x in self.target_features.items()},
            similarity=similarity,
            likeness={name: x[target, [*index, target]] for name, x in likeness.items()},
            vectors={name: x[target] for name, x in self.target_vectors.items()},
            rivals={name: x[:, target] for name, x in self.rivals.items()},
        )

    def hold_out(self, groups: Iterable[str]) -> "Fold":
        """Split off all columns of these groups; they leave as queries, which hold no scores."""
        leaving = frozenset(groups)
        known = [t for t, group in enumerate(self.groups) if group not in leaving]
        held = tuple(t for t, group in enumerate(self.groups) if group in leaving)
        elsewhere = self.elsewhere.without(leaving) if self.elsewhere is not None else None
        table = replace(self.described.columns(known), elsewhere=elsewhere)
        return Fold(table, held, tuple(self.query(t, known) for t in held))

    def without(self, groups: Iterable[str]) -> "TransferTable | None":
        """The table without these groups' columns; None where nothing is left."""
        leaving = frozenset(groups)
        known = [t for t, group in enumerate(self.groups) if group not in leaving]
        return self.described.columns(known) if known else None

    def without_adapters(self, sources: Sequence[int]) -> "TransferTable":
        """The table as if these adapters had never been measured, under any base model."""
        scores = self.scores.copy()
        scores[list(sources)] = np.nan
        elsewhere = None
        if self.elsewhere is not None:
            elsewhere = self.elsewhere.without_adapters(sources)
        return replace(self.described, scores=scores, elsewhere=elsewhere)

    def by_family(self, families: Mapping[str, str] | None = None) -> "TransferTable":
        """The table with whole families of tasks as groups, so that related ones leave together.

        Args:
            families: Family of each group; None joins groups whose tasks are alike above .5 by
                the mean given similarity (average linkage), such as entailment with entailment.
        """
        named = _linked_groups(self) if families is None else families
        return replace(self, groups=tuple(named.get(group, group) for group in self.groups))


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
    likeness: Mapping[str, Array] = field(default_factory=dict)
    """How near each measured task is, in every known way, and last the target to itself,
    (n_targets of the table + 1,)."""
    vectors: Mapping[str, Array] = field(default_factory=dict)
    """Embeddings of the target by name, (d,)."""
    rivals: Mapping[str, Array] = field(default_factory=dict)
    """Others' predictions for this target, (n_sources,)."""

    @property
    def base_hint(self) -> float | None:
        """The base's score on the target, on other rows than any gain; None where unknown."""
        value = self.target_features.get(BASE_SCORE, float("nan"))
        return value if np.isfinite(value) else None


_ALIKE = 0.5


def _linked_groups(table: TransferTable) -> dict[str, str]:
    """Group → the first group of its cluster; each alone where no similarity was given."""
    names = table.group_names
    if table.similarity is None or len(names) < 2:
        return {}
    member = np.array([[group == name for group in table.groups] for name in names], dtype=float)
    share = member / member.sum(axis=1, keepdims=True)
    alike = share @ np.nan_to_num(table.similarity) @ share.T  # (n_groups, n_groups)
    distance = 1.0 - (alike + alike.T) / 2
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(np.maximum(distance, 0.0), checks=False), method="average")
    cluster = fcluster(tree, 1.0 - _ALIKE, criterion="distance")
    first: dict[int, str] = {}
    return {name: first.setdefault(int(c), name) for name, c in zip(names, cluster, strict=True)}


def _submatrices(
    matrices: Mapping[str, Array] | None, rows: np.ndarray, columns: np.ndarray
) -> dict[str, Array] | None:
    if matrices is None:
        return None
    return {name: x[np.ix_(rows, columns)] for name, x in matrices.items()}


@dataclass(frozen=True, eq=False)
class Fold:
    """A table that has never seen some groups, and the queries for their columns."""

    table: TransferTable
    """What may be learned from."""
    held: tuple[int, ...]
    """Column numbers, in the table that was split, of the queries."""
    queries: tuple[Query, ...]
    """One per held column."""


# --- columns ------------------------------------------------------------------------------------


def standardise(values: Array, mask: Mask) -> Array:
    """z-scores over the masked entries of each column, NaN elsewhere; 0 where all are equal."""
    kept = np.where(mask, values, np.nan)
    known = np.isfinite(kept)
    n = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, kept, 0.0).sum(axis=0) / n
    centred = kept - mean
    spread = np.sqrt(np.where(known, centred**2, 0.0).sum(axis=0) / n)
    flat = spread <= 1e-12 * np.maximum(np.abs(mean), 1e-12)
    scaled: Array = np.where(flat, centred * 0.0, centred / np.where(flat, 1.0, spread))
    return scaled


def mean_of_known(parts: Array) -> Array:
    """Mean of each row over its finite entries; NaN where there is none."""
    known = np.isfinite(parts)
    n = known.sum(axis=1)
    mean = np.where(known, parts, 0.0).sum(axis=1) / np.maximum(n, 1)
    found: Array = np.where(n > 0, mean, np.nan)
    return found


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
        if metrics.get(cell.task) == cell.metric and not cell.row.shots
    ]
    protocols = {cell.task: cell.protocol for cell in usable if cell.row == BASE_ROW}
    foreign: dict[str, int] = {}
    for cell in usable:
        if cell.protocol != protocols.get(cell.task, cell.protocol):
            foreign[cell.task] = foreign.get(cell.task, 0) + 1
        elif cell.row == BASE_ROW:
            base_scores[column[cell.task]] = cell.score
        elif cell.row.model in row:
            scores[row[cell.row.model], column[cell.task]] = cell.score
            error = float("nan") if cell.se is None else cell.se
            errors[row[cell.row.model], column[cell.task]] = error
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


# --- other bases as a prior ---------------------------------------------------------------------

_MIN_SHARED = 3  # fewer sources or targets in common say nothing about each other


def consensus(own: TransferTable, others: Mapping[str, TransferTable]) -> TransferTable | None:
    """How adapters of the same names did under other base models: mean z per task, as a table.

    Only tasks of `own` (by name) are kept, so whatever group leaves `own` leaves here too. None
    where no other table of the same regime shares three sources and three targets.

    Args:
        own: The table to lend to.
        others: Those of the other base models, by a name that can be shown.
    """
    found: dict[int, list[Array]] = {}
    lenders: dict[str, None] = {}
    for lender, other in others.items():
        row = {name: s for s, name in enumerate(other.sources)}
        rows = np.array([row.get(name, -1) for name in own.sources], dtype=np.intp)
        column = {name: t for t, name in enumerate(other.targets)}
        shared = [(t, column[name]) for t, name in enumerate(own.targets) if name in column]
        few = min(int((rows >= 0).sum()), len(shared)) < _MIN_SHARED
        if other.regime != own.regime or few:
            continue
        for t, c in shared:
            standing = np.where(
                (rows >= 0) & ~own.own[:, t], other.transfer_scores[rows, c], np.nan
            )
            if np.isfinite(standing).sum() >= _MIN_SHARED:
                lenders[lender] = None
                found.setdefault(t, []).append(
                    standardise(standing[:, None], np.isfinite(standing)[:, None])[:, 0]
                )
    if not found:
        return None
    scores = np.full(own.scores.shape, np.nan)
    for t, standings in found.items():
        scores[:, t] = mean_of_known(np.column_stack(standings))
    whole = replace(
        own.described,
        scores=scores,
        base_scores=np.full(len(own.targets), np.nan),
        errors=np.full(scores.shape, np.nan),
        elsewhere=None,
        lenders=tuple(lenders),
        rivals={},
        warnings=(),
    )
    return whole.columns(sorted(found))


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
    return {
        name: replace(table, elsewhere=consensus(table, _kindred(name, tables)))
        for name, table in tables.items()
    }


def _kindred(name: str, tables: Mapping[str, TransferTable]) -> dict[str, TransferTable]:
    """The other tables, of the same results file and kind where the name says one (`…_lora/`)."""
    kind = name.rpartition("/")[0]
    return {
        key: other
        for key, other in tables.items()
        if key != name and key.rpartition("/")[0] == kind
    }


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
        target_features=_base_hints(base_scores, targets) if unit == "points" else {},
        similarity=_read_similarity(stem, targets),
        rivals={name: x for name, x in pairs.items() if name in rivals},
    )


_HINT_ROWS = 100
"""Rows on which a base score that serves as a feature is taken to be estimated."""


def _base_hints(base_scores: Array, targets: Sequence[str]) -> dict[str, Array]:
    """The base's score on each target, as if measured on 100 other rows than the gains.

    A file holds one measurement, which is also the zero point of the gains: read exactly, its
    error would be in both. So binomial noise of 100 rows is added, the same for a name each time.
    """
    if not np.isfinite(base_scores).any():
        return {}
    p = np.clip(base_scores, 0.0, 1.0)
    draws = [np.random.default_rng(zlib.crc32(name.encode())).standard_normal() for name in targets]
    noisy = p + np.sqrt(p * (1 - p) / _HINT_ROWS) * np.array(draws)
    return {BASE_SCORE: np.clip(noisy, 0.0, 1.0)}


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
