"""Published transfer matrices: pivot files with their companions, read into tables."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from adapt_lora.errors import MatrixError
from adapt_lora.recommender.catalogue import BASE_SCORE
from adapt_lora.recommender.columns import Array, Mask
from adapt_lora.recommender.csv_tables import read_fields, read_numbers
from adapt_lora.recommender.metrics import judged_targets
from adapt_lora.recommender.table import TransferTable, consensus
from adapt_lora.registry.exchange.published import (
    BARE,
    RUN_COLUMNS,
    is_results_header,
    read_meta,
    score_scale,
)
from adapt_lora.registry.records import Unit

COMPANIONS = ("_pairs", "_targets", "_meta", "_seeds")
"""Endings of the files that stand beside a pivot and belong to it."""

_PAIR = ["source", "target"]

_MOST_AS_FRACTION = 1.5  # a file with a greater score is in percent

_HINT_ROWS = 100
"""Rows on which a base score that serves as a feature is taken to be estimated."""


def read_matrices(folder: str | Path) -> dict[str, TransferTable]:
    """All matrices of a folder: a pivot by its stem, cuts of a results file as `…_lora/BASE`."""
    place = Path(folder)
    if not place.is_dir():
        raise MatrixError(f"{place} is not a folder. Name a folder of pivot CSV files.")
    tables: dict[str, TransferTable] = {}
    for path in sorted(place.glob("*.csv")):
        if path.stem.endswith(COMPANIONS):
            continue
        if is_results_header(list(read_fields(path).columns)):
            tables |= read_results_file(path)
        else:
            tables |= _named(path.stem, _read_pivot(path))
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
    too. Percent becomes a fraction (some score above 1.5). Each column decides its own unit (see
    `_units`); of a file that holds both, this is the table of the commoner unit, and a warning
    names the columns that are left out. `read_matrices` has both tables.
    """
    return next(iter(_read_pivot(path).values()))


def _read_pivot(path: str | Path) -> dict[Unit, TransferTable]:
    place = Path(path)
    fields = read_fields(place)
    header = list(fields.columns)
    if len(header) < 2 or header[0] != "source":
        raise MatrixError(
            f"{place}, line 1: the first column must be 'source' and the others targets "
            f"(found: {', '.join(header[:5]) or 'nothing'})."
        )
    names = fields.iloc[:, 0].tolist()
    if len(set(names)) != len(names) or len(set(header)) != len(header):
        raise MatrixError(f"{place}: a source or target stands there twice; names must be unique.")
    values = read_numbers(place, fields.iloc[:, 1:])
    return _pivot_tables(place.parent / place.stem, names, header[1:], values)


def read_results_file(path: str | Path) -> dict[str, TransferTable]:
    """Cut a long results file of SFT runs into one matrix per (base model, LoRA or full).

    Kept: 1k rows (`all`: 10k), cosine schedule, epoch 10, all metrics but LongBench, and the
    `pretrain` row as base. The form of Harada et al. 2025 (massive-sft), whose MT-Bench columns
    are out of 10, whose TruthfulQA is a fraction and whose other columns are percent.
    """
    place = Path(path)
    fields = read_fields(place)
    metrics = [
        name
        for name in fields.columns[1:]
        if name not in RUN_COLUMNS and not name.startswith("LongBench")
    ]
    stem = place.stem.removesuffix("_evaluation_result")
    scale = np.array([score_scale(name) for name in metrics])
    data = fields["data_name"]
    is_main = (
        (fields["lr_strategy"] == "cosine")
        & (pd.to_numeric(fields["epoch"], errors="coerce") == 10)
        & (
            pd.to_numeric(fields["data_size"], errors="coerce")
            == np.where(data == "all", 10_000, 1_000)
        )
        & (data != BARE)
        & ~data.str.startswith("w/o")
    )
    tables: dict[str, TransferTable] = {}
    for base, mine in fields.groupby("model_name"):
        bare = mine[mine["data_name"] == BARE].head(1)
        for kind, flag in (("lora", "true"), ("full", "false")):
            runs = mine[is_main[mine.index] & (mine["lora"].str.lower() == flag)]
            # Of several runs on the same data the last counts, in the place of the first.
            lines = {name: line for line, name in runs["data_name"].items()}
            if len(lines) < 2:
                continue
            rows = pd.concat([bare, runs.loc[list(lines.values())]])
            found = _pivot_tables(
                place.parent / stem,
                [*("base" for _ in range(len(bare))), *lines],
                metrics,
                read_numbers(place, rows[metrics]) * scale,
                base=str(base),
            )
            tables |= _named(f"{stem}_{kind}/{base}", found)
    return tables


def _named(name: str, tables: Mapping[Unit, TransferTable]) -> dict[str, TransferTable]:
    """The commoner unit's table by the matrix's own name, the other's as `NAME (UNIT)`.

    The other is left to the warning of the first where nothing in it can be held out.
    """
    (_, main), *rest = tables.items()
    for unit, table in rest:
        if judged_targets(table) and len(table.group_names) > 1:
            return {
                name: replace(main, warnings=()),
                f"{name} ({unit})": replace(table, warnings=()),
            }
    return {name: main}


def _pivot_tables(
    stem: Path,
    names: Sequence[str],
    targets: Sequence[str],
    values: Array,
    *,
    base: str | None = None,
) -> dict[Unit, TransferTable]:
    """Make the table of a pivot and its companions, one for each unit, the commoner first.

    `base` names a cut of a results file, whose values are fractions already.
    """
    meta = read_meta(stem)
    stated = _stated_units(stem, meta, targets)
    scale, units = _units(values, stated, percent=None if base is None else False)
    values = values * scale
    is_base = np.array([name == "base" for name in names], dtype=bool)
    sources = tuple(name for name in names if name != "base")
    scores = values[~is_base]
    base_scores = values[is_base][0] if is_base.any() else np.full(len(targets), np.nan)
    if base is not None and base in meta.get("base_unreliable", ()):
        base_scores = np.full(len(targets), np.nan)
    pairs = _read_pairs(stem, sources, targets)
    rivals = set(meta.get("rivals", ()))
    groups = meta.get("groups", {})
    whole = TransferTable(
        sources=sources,
        targets=tuple(targets),
        groups=tuple(str(groups.get(target, target)) for target in targets),
        scores=scores,
        base_scores=base_scores,
        own=_matching_cells(meta.get("own", ()), sources, targets),
        errors=_read_errors(stem, sources, targets) * scale,
        regime=str(meta.get("regime", "zeroshot")),
        pair_features={name: x for name, x in pairs.items() if name not in rivals},
        similarity=_read_similarity(stem, targets),
        rivals={name: x for name, x in pairs.items() if name in rivals},
    )
    return _by_unit(whole, units)


def _stated_units(stem: Path, meta: Mapping[str, Any], targets: Sequence[str]) -> list[Unit | None]:
    """The unit of each column as the meta file's `units` says; None where it says nothing."""
    stated = meta.get("units", {})
    if not isinstance(stated, dict) or not set(stated.values()) <= {"points", "nats"}:
        raise MatrixError(
            f'{stem}_meta.json: "units" must name the unit of targets, "points" or "nats", as in '
            f'{{"{targets[0]}": "points"}} (found: {stated}).'
        )
    return [stated.get(target) for target in targets]


def _units(
    values: Array, stated: Sequence[Unit | None], *, percent: bool | None
) -> tuple[Array, list[Unit]]:
    """What each column is to be multiplied by, and its unit, as stated or by its scores.

    A log-likelihood is never above 0 and goes down without end; a correlation (Pearson, Matthews)
    may fall a little below 0 and stays a score. So a column counts in nats where all of it is
    negative, or where, as a fraction, some of it is below −1. Percent is the scale of a whole file:
    a column of which nothing exceeds 1.5 may be 1 % of a hard task.
    """
    low, high = _least(values), -_least(-values)
    is_nats = np.isfinite(high) & (high < 0)
    for t, unit in enumerate(stated):
        is_nats[t] = is_nats[t] if unit is None else unit == "nats"
    if percent is None:
        percent = bool((high[~is_nats] > _MOST_AS_FRACTION).any())
    scale = np.where(is_nats, 1.0, 0.01 if percent else 1.0)
    is_unstated = np.array([unit is None for unit in stated])
    is_nats |= is_unstated & (low * scale < -1)
    return np.where(is_nats, 1.0, scale), ["nats" if one else "points" for one in is_nats]


def _least(values: Array) -> Array:
    """Smallest known value of each column; infinity where nothing is known."""
    least: Array = np.where(np.isfinite(values), values, np.inf).min(axis=0, initial=np.inf)
    return least


def _by_unit(whole: TransferTable, units: Sequence[Unit]) -> dict[Unit, TransferTable]:
    """A table for each unit, the commoner first (points where both are as common)."""
    found: dict[Unit, TransferTable] = {}
    for unit in sorted(set(units), key=lambda one: (-units.count(one), one != "points")):
        table = whole.columns([t for t, one in enumerate(units) if one == unit])
        left_out = [name for name, one in zip(whole.targets, units, strict=True) if one != unit]
        hints = _noisy_base_scores(table.base_scores, table.targets) if unit == "points" else {}
        found[unit] = replace(
            table,
            unit=unit,
            target_features=hints,
            warnings=(
                f"{len(left_out)} column(s) do not count in {unit} as the others do and are left "
                f"out: {', '.join(left_out)}.",
            )
            if left_out
            else (),
        )
    return found


def _noisy_base_scores(base_scores: Array, targets: Sequence[str]) -> dict[str, Array]:
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


def _matching_cells(
    patterns: Iterable[Sequence[str]], sources: Sequence[str], targets: Sequence[str]
) -> Mask:
    """Cells whose source and target fit a pattern such as ["math", "gsm8k*"]."""

    def fits(name: str, pattern: str) -> bool:
        return name == pattern or fnmatchcase(name, pattern)

    pairs = [(str(pattern[0]), str(pattern[1])) for pattern in patterns]
    return np.array(
        [[any(fits(s, a) and fits(t, b) for a, b in pairs) for t in targets] for s in sources],
        dtype=bool,
    ).reshape(len(sources), len(targets))


# --- companions ---------------------------------------------------------------------------------


def _read_pairs(stem: Path, sources: Sequence[str], targets: Sequence[str]) -> dict[str, Array]:
    """Numeric columns of the pairs file as arrays; columns without one number are dropped."""
    path = stem.with_name(stem.name + "_pairs.csv")
    if not path.exists():
        return {}
    fields = read_fields(path)
    if list(fields.columns[:2]) != _PAIR:
        raise MatrixError(f"{path}, line 1: the first two columns must be 'source' and 'target'.")
    pairs = _known(fields, sources, targets).drop_duplicates(_PAIR, keep="last").set_index(_PAIR)
    numbers = pd.DataFrame(read_numbers(path, pairs), pairs.index, pairs.columns)
    found = _grids(numbers, sources, targets)
    return {name: x for name, x in found.items() if np.isfinite(x).any()}


def _read_errors(stem: Path, sources: Sequence[str], targets: Sequence[str]) -> Array:
    """Standard errors from `_seeds.csv` (source,target,seed,score): sd over seeds by √seeds."""
    path = stem.with_name(stem.name + "_seeds.csv")
    if not path.exists():
        return np.full((len(sources), len(targets)), np.nan)
    fields = read_fields(path)
    if list(fields.columns) != [*_PAIR, "seed", "score"]:
        raise MatrixError(f"{path}, line 1: the columns must be source, target, seed and score.")
    runs = _known(fields, sources, targets)
    scores = pd.DataFrame({"score": read_numbers(path, runs[["score"]])[:, 0]}, runs.index)
    return _grids(runs[_PAIR].join(scores).groupby(_PAIR).sem(), sources, targets)["score"]


def _read_similarity(stem: Path, targets: Sequence[str]) -> Array | None:
    path = stem.with_name(stem.name + "_targets.csv")
    if not path.exists():
        return None
    fields = read_fields(path)
    numbers = pd.DataFrame(
        read_numbers(path, fields.iloc[:, 1:]), fields.iloc[:, 0], fields.columns[1:]
    )
    if numbers.index.has_duplicates or numbers.columns.has_duplicates:
        raise MatrixError(f"{path}: a target stands there twice; names must be unique.")
    return np.ascontiguousarray(numbers.reindex(index=list(targets), columns=list(targets)))


def _known(fields: pd.DataFrame, sources: Sequence[str], targets: Sequence[str]) -> pd.DataFrame:
    """The rows of known pairs."""
    return fields[fields["source"].isin(list(sources)) & fields["target"].isin(list(targets))]


def _grids(
    numbers: pd.DataFrame, sources: Sequence[str], targets: Sequence[str]
) -> dict[str, Array]:
    """Each column, by pair, as (n_sources, n_targets); NaN where a pair is not there."""
    every = numbers.reindex(pd.MultiIndex.from_product([sources, targets]))
    shape = len(sources), len(targets)
    return {
        str(name): np.array(column, dtype=np.float64).reshape(shape)
        for name, column in every.items()
    }
