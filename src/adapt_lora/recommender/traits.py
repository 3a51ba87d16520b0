"""Traits: principal components of the column-standardised transfer matrix (Krishna et al. 2025)."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits

from adapt_lora.errors import ConfigError, MatrixError
from adapt_lora.recommender.columns import Array, Scale
from adapt_lora.recommender.components import (
    Components,
    RankChoice,
    choose_rank,
    impute,
    principal_components,
    score_rows,
)

SAME_TRAIT = 0.85
"""|cosine| of loadings from which a trait counts as the one of the last fit (Tucker's congruence,
"fair similarity" from .85: Lorenzo-Seva and ten Berge 2006)."""

_MAX_LEFT_OUT = 200


@dataclass(frozen=True, slots=True)
class Poles:
    """The tasks that a trait sets against each other, strongest first."""

    high: tuple[str, ...]
    """Tasks that an adapter with a positive score does well on; empty where none stands out."""
    low: tuple[str, ...]
    """Tasks that it does badly on; empty where none stands out."""


@dataclass(frozen=True, slots=True)
class Stability:
    """How much a trait's loadings hang on single rows: |cosine| after one row is left out."""

    median: float
    """Over the rows; 1 = nothing changes."""
    minimum: float
    """Without the row that matters most."""
    row: str
    """Which row that is."""


@dataclass(frozen=True, slots=True)
class TraitMemory:
    """What a fit leaves for the next one to be matched to, by trait key ("T1", "T2", …)."""

    loadings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Key → task → loading."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Key → name that somebody gave it; keys without one are absent."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; the inverse of `from_json`."""
        loadings = {key: dict(row) for key, row in self.loadings.items()}
        return {"loadings": loadings, "names": dict(self.names)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(content["loadings"], content["names"])


@dataclass(frozen=True, slots=True)
class Traits:
    """What varies between adapters, in a few numbers each."""

    keys: tuple[str, ...]
    """"T1", "T2", …: what stays the same from fit to fit, and heads the stored scores."""
    names: tuple[str, ...]
    """One per trait: given by hand, or made of its key and the tasks at its poles."""
    explained_variance_ratio: tuple[float, ...]
    """Share of the variance of the standardised matrix, per trait; descending in a first fit."""
    loadings: dict[str, tuple[float, ...]]
    """Task → its entry in each unit eigenvector."""
    scores: dict[str, tuple[float, ...]]
    """Adapter (the base among them) → its coordinate on each trait."""
    standard_errors: dict[str, tuple[float, ...]]
    """Adapter → standard error of each score; empty where nothing is left over to know it from."""
    poles: tuple[Poles, ...]
    """Per trait."""
    stability: tuple[Stability, ...]
    """Per trait; empty with fewer rows than two more than traits."""
    memory: TraitMemory
    """For the next fit."""
    n_imputed: int = 0
    """Cells that were not measured and were filled by the model."""
    rank: RankChoice | None = None
    """How the gaps were filled; None where there are none."""
    notes: tuple[str, ...] = ()
    """Sentences: what was left out, filled, or is another trait than it was."""


def fit_traits(
    scores: Array,
    *,
    n_components: int = 4,
    adapters: Sequence[str],
    tasks: Sequence[str],
    last: TraitMemory | None = None,
    names: Mapping[str, str] | None = None,
) -> Traits:
    """Standardise each task's column, fill gaps, and take the principal components.

    The result does not depend on the order of rows and columns. Gaps are filled by as many
    components as predict held-out cells best (`choose_rank`), whatever number is reported; an
    adapter with gaps is scored by what was measured of it (`score_rows`). Rows and tasks without
    any score are left out, and `notes` names them.

    Args:
        scores: (n_adapters, n_tasks), the base row included; NaN = not measured.
        n_components: How many traits; fewer where the matrix has fewer.
        adapters: Names of the rows.
        tasks: Names of the columns.
        last: The fit before this one: traits take the keys, signs and hand-set names of those that
            they are most alike.
        names: Key → name set by hand; an empty one goes back to the tasks at the poles.

    Raises:
        MatrixError: Fewer than two rows or columns with a score, two of the same name, or every
            task has one and the same score everywhere.
        ConfigError: A name is for a key that there is not.
    """
    table = _usable(np.asarray(scores, dtype=np.float64), adapters, tasks, n_components)
    # On matrices this small, threads of the linear algebra library only wait for each other: on
    # busy cores that takes ten times as long.
    with threadpool_limits(limits=1, user_api="blas"):
        return _fitted(table, n_components, adapters, tasks, last or TraitMemory(), names or {})


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """What can be used, rows and columns sorted by name, so that their order decides nothing."""

    rows: tuple[str, ...]
    tasks: tuple[str, ...]
    values: Array
    notes: tuple[str, ...]


def _fitted(
    table: _Table,
    n_components: int,
    adapters: Sequence[str],
    tasks: Sequence[str],
    last: TraitMemory,
    names: Mapping[str, str],
) -> Traits:
    """The fit of `fit_traits`; what it gives back follows the order of `adapters` and `tasks`."""
    scale = Scale.of(table.values)
    standard = scale.apply(table.values)
    has_gaps = bool(np.isnan(standard).any())
    rank = choose_rank(table.values) if has_gaps else None
    filled = impute(standard, n_components=rank.n_components if rank else 0)
    found = _that_vary(principal_components(filled, n_components=n_components))
    places = _places(found.loadings, table.tasks, last)
    parts = _arranged(found, places)
    keys = tuple(f"T{place.number}" for place in places)
    notes = [*table.notes, *_gap_notes(standard, rank, scale, table.tasks)]
    by_hand = _names_by_hand(keys, places, last, names, notes)
    poles = tuple(_poles(column, table.tasks) for column in parts.loadings.T)
    rows = score_rows(standard - filled.mean(axis=0), parts)
    if rows.errors is None:
        notes.append("Too few rows or tasks beside so many traits to say how sure the scores are.")
    loadings = dict(zip(table.tasks, parts.loadings, strict=True))
    coordinates = dict(zip(table.rows, rows.scores, strict=True))
    errors = {} if rows.errors is None else dict(zip(table.rows, rows.errors, strict=True))
    return Traits(
        keys=keys,
        names=tuple(
            by_hand.get(key) or _automatic_name(key, pole)
            for key, pole in zip(keys, poles, strict=True)
        ),
        explained_variance_ratio=_floats(parts.explained_variance_ratio),
        loadings={task: _floats(loadings[task]) for task in tasks if task in loadings},
        scores={row: _floats(coordinates[row]) for row in adapters if row in coordinates},
        standard_errors={row: _floats(errors[row]) for row in adapters if row in errors},
        poles=poles,
        stability=_stability(table, scale.undo(filled), parts.loadings, rank),
        memory=_remembered(last, keys, parts.loadings, table.tasks, by_hand),
        n_imputed=int(np.isnan(standard).sum()),
        rank=rank,
        notes=tuple(notes),
    )


def _usable(values: Array, adapters: Sequence[str], tasks: Sequence[str], k: int) -> _Table:
    if values.shape != (len(adapters), len(tasks)):
        raise MatrixError(
            f"The scores are {values.shape}, but there are {len(adapters)} adapters and "
            f"{len(tasks)} tasks."
        )
    if k < 1:
        raise MatrixError(f"{k} traits were asked for; at least one is needed.")
    if np.isinf(values).any():
        raise MatrixError("A score is infinite; leave out what was not measured.")
    twice = [name for names in (adapters, tasks) for name, n in Counter(names).items() if n > 1]
    if twice:
        raise MatrixError(f"Two rows or two tasks are called {twice[0]!r}; rename one.")
    known = np.isfinite(values)
    rows = sorted(np.flatnonzero(known.any(axis=1)).tolist(), key=lambda row: adapters[row])
    columns = sorted(np.flatnonzero(known.any(axis=0)).tolist(), key=lambda column: tasks[column])
    empty = [name for name, row in zip(adapters, known, strict=True) if not row.any()]
    empty += [name for name, column in zip(tasks, known.T, strict=True) if not column.any()]
    notes = (f"Left out, because without any score: {', '.join(empty)}.",) if empty else ()
    if len(rows) < 2 or len(columns) < 2:
        raise MatrixError(
            f"Traits need at least two rows and two tasks, not {len(rows)} × {len(columns)}. "
            f"Evaluate more adapters or tasks first.{''.join(f' {note}' for note in notes)}"
        )
    return _Table(
        tuple(adapters[row] for row in rows),
        tuple(tasks[column] for column in columns),
        values[np.ix_(rows, columns)],
        notes,
    )


def _that_vary(parts: Components) -> Components:
    """Without components of no variance, whose direction is rounding error."""
    kept = parts.explained_variance_ratio > 1e-9
    if not kept.any():
        raise MatrixError(
            "Each task has one and the same score everywhere, so there are no traits to find. "
            "Evaluate more adapters first."
        )
    return Components(
        parts.scores[:, kept], parts.loadings[:, kept], parts.explained_variance_ratio[kept]
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a component goes among the traits."""

    component: int
    number: int
    """Of its key."""
    cosine: float
    """With the trait of that key in the last fit, over the tasks of both; 0 if there was none."""


def _places(loadings: Array, tasks: Sequence[str], last: TraitMemory) -> list[_Place]:
    """Components in the order of their keys, each given to the old trait that it is most alike."""
    old = sorted(last.loadings, key=_number)
    cosines = np.array([_cosines(loadings, tasks, last.loadings[key]) for key in old])
    cosines = cosines.reshape(len(old), loadings.shape[1])
    rows, columns = linear_sum_assignment(-np.abs(cosines))
    places = [
        _Place(component, _number(old[row]), float(cosines[row, component]))
        for row, component in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    taken = {place.number for place in places}
    free = (number for number in range(1, len(old) + loadings.shape[1] + 1) if number not in taken)
    matched = {place.component for place in places}
    new = [component for component in range(loadings.shape[1]) if component not in matched]
    places += [_Place(component, next(free), 0.0) for component in new]
    return sorted(places, key=lambda place: place.number)


def _cosines(loadings: Array, tasks: Sequence[str], old: Mapping[str, float]) -> Array:
    """Cosine of each component with an old trait over the tasks that both know."""
    both = [column for column, task in enumerate(tasks) if task in old]
    new = loadings[both]  # (n_both, k)
    wanted = np.array([old[tasks[column]] for column in both])
    sizes = np.linalg.norm(new, axis=0) * np.linalg.norm(wanted)
    cosines: Array = wanted @ new / np.where(sizes > 1e-12, sizes, np.inf)
    return cosines


def _arranged(parts: Components, places: Sequence[_Place]) -> Components:
    order = [place.component for place in places]
    signs = np.array([-1.0 if place.cosine < 0 else 1.0 for place in places])
    return Components(
        parts.scores[:, order] * signs,
        parts.loadings[:, order] * signs,
        parts.explained_variance_ratio[order],
    )


def _names_by_hand(
    keys: Sequence[str],
    places: Sequence[_Place],
    last: TraitMemory,
    names: Mapping[str, str],
    notes: list[str],
) -> dict[str, str]:
    """Old names of traits that are still the same, then the new ones; adds to the notes."""
    unknown = [key for key in names if key not in keys]
    if unknown:
        raise ConfigError(f"There is no trait {unknown[0]!r} to name: there are {', '.join(keys)}.")
    kept = {}
    for key, place in zip(keys, places, strict=True):
        if key not in last.names:
            continue
        if abs(place.cosine) >= SAME_TRAIT:
            kept[key] = last.names[key]
        elif key not in names:
            notes.append(
                f"{key} is another trait than in the last fit (|cosine| {abs(place.cosine):.2f}), "
                f"so its name {last.names[key]!r} is taken off; --name {key}=… sets one."
            )
    kept |= {key: name.strip() for key, name in names.items()}
    return {key: name for key, name in kept.items() if name}


def _remembered(
    last: TraitMemory,
    keys: Sequence[str],
    loadings: Array,
    tasks: Sequence[str],
    by_hand: Mapping[str, str],
) -> TraitMemory:
    """This fit's traits, and those of earlier fits that it did not ask for."""
    now = {
        key: dict(zip(tasks, _floats(column), strict=True))
        for key, column in zip(keys, loadings.T, strict=True)
    }
    others = {key: name for key, name in last.names.items() if key not in keys}
    return TraitMemory({**last.loadings, **now}, {**others, **by_hand})


def _gap_notes(
    standard: Array, rank: RankChoice | None, scale: Scale, tasks: Sequence[str]
) -> list[str]:
    notes = []
    flat = [task for task, spread in zip(tasks, scale.spread, strict=True) if spread == 0]
    if flat:
        notes.append(f"The same score everywhere, so no loading: {', '.join(flat)}.")
    if rank is not None:
        gaps = np.isnan(standard)
        best = rank.n_components
        how = (
            f"filled by {best} component{'' if best == 1 else 's'}, which miss held-out cells by "
            f"{rank.errors[best]:.2f} standard deviations (the task's mean: {rank.errors[0]:.2f})"
            if best
            else "filled by the task's mean, since no component predicts held-out cells better"
        )
        share = f"{100 * gaps.mean():.0f} %"
        notes.append(f"{int(gaps.sum())} of {gaps.size} cells ({share}) were not measured; {how}.")
    return notes


def _stability(
    table: _Table, filled: Array, loadings: Array, rank: RankChoice | None
) -> tuple[Stability, ...]:
    """|cosine| of each trait with its match in a fit without one row; at most 200 rows leave."""
    n, k = len(table.rows), loadings.shape[1]
    if n < k + 2:
        return ()
    # Every row up to 200; of more, as many at even distances.
    left_out = np.unique(np.linspace(0, n - 1, min(n, _MAX_LEFT_OUT)).round().astype(int))
    likeness = np.array(
        [
            _matched_cosines(_loadings_without(row, table.values, filled, k, rank), loadings)
            for row in left_out
        ]
    )  # (n_left_out, k)
    return tuple(
        Stability(
            float(np.median(column)), float(column.min()), table.rows[left_out[column.argmin()]]
        )
        for column in likeness.T
    )


def _loadings_without(
    row: int, values: Array, filled: Array, k: int, rank: RankChoice | None
) -> Array:
    """Loadings of a fit without one row; its gaps start where the whole fit filled them."""
    scale = Scale.of(np.delete(values, row, axis=0))
    standard = scale.apply(np.delete(values, row, axis=0))
    rest = impute(
        standard,
        n_components=rank.n_components if rank else 0,
        tolerance=1e-2,
        start=scale.apply(np.delete(filled, row, axis=0)),
    )
    return principal_components(rest, n_components=k).loadings


def _matched_cosines(new: Array, old: Array) -> Array:
    """|cosine| of each old column with the new one that the best assignment gives it."""
    cosines = np.abs(old.T @ new)  # (k, k): unit columns
    rows, columns = linear_sum_assignment(-cosines)
    matched = np.zeros(old.shape[1])
    matched[rows] = np.minimum(cosines[rows, columns], 1.0)
    return matched


def _poles(loadings: Array, tasks: Sequence[str]) -> Poles:
    """Per side the tasks above 60 % of its largest loading, three at most.

    A side whose largest loading is below a fifth of the other's has no name: it would be noise.
    """
    largest = float(np.abs(loadings).max())

    def strongest(side: Array) -> tuple[str, ...]:
        top = float(side.max())
        if top <= 0 or top < 0.2 * largest:
            return ()
        order = np.argsort(-np.round(side, 8), kind="stable")[:3]
        return tuple(tasks[column] for column in order if side[column] >= 0.6 * top)

    return Poles(strongest(loadings), strongest(-loadings))


def _automatic_name(key: str, poles: Poles) -> str:
    """The poles in words, as in "T1 GSM8K Goat vs IMDB"."""
    high, low = (
        " ".join(re.sub(r"[^\w.-]+", "-", task).strip("-") for task in side)
        for side in (poles.high, poles.low)
    )
    return f"{key} {high}" + (f" vs {low}" if low else "")


def _number(key: str) -> int:
    return int(key.removeprefix("T"))


def _floats(row: Array) -> tuple[float, ...]:
    return tuple(float(value) for value in row)
