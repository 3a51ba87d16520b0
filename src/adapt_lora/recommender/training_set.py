"""What a ranking model is fitted on, and the door that keeps folds clean.

A training row is described exactly as an unseen target is: its task group leaves the table first,
then popularity, similarity, centring and scaling are computed from what is left.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from adapt_lora.recommender.catalogue import BASE_SCORE, similarity_name
from adapt_lora.recommender.columns import (
    TRIM,
    Array,
    cosines,
    mean_of_known,
    neighbour_weights,
    normal_scores,
    shrunken_popularity,
    standardise,
    trimmed_mean,
    weighted_mean,
)
from adapt_lora.recommender.level import GainModel
from adapt_lora.recommender.likeness import Agreement
from adapt_lora.recommender.table import Query, TransferTable

ELSEWHERE_WEIGHT = 1.0
"""Weight of a task group of other base models' matrices beside one of the own."""

_Z_CLIP = 2.0  # one runaway cell must not carry a neighbour's whole column
_MIN_TASKS_TO_CENTRE = 3  # the mean of two embeddings would put them exactly opposite


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Training rows of a ranking model: one per measured transfer cell."""

    names: tuple[str, ...]
    """Features, in the order of the columns of `x`; constant ones are dropped."""
    x: Array
    """(n_cells, n_features): z within the cell's column, 0 where unknown."""
    y: Array
    """(n_cells,): normal score of the cell within its column."""
    weight: Array
    """(n_cells,): a task group's cells sum to 1: nine columns of one benchmark are one task. A
    column counts by its `reliability`."""
    column: Array
    """(n_cells,): the cell's column in the table, as an integer-valued float."""
    group: npt.NDArray[np.str_]
    """(n_cells,): the column's task group; other base models' cells of it bear the same name."""


def _joined(own: Cells, other: Cells) -> Cells:
    """Both in one; a feature that one side lacks is average (0) there."""
    names = tuple(dict.fromkeys((*own.names, *other.names)))
    first = own.column.max(initial=-1.0) + 1.0
    return Cells(
        names,
        np.vstack([_aligned(own, names), _aligned(other, names)]),
        np.concatenate([own.y, other.y]),
        np.concatenate([own.weight, ELSEWHERE_WEIGHT * other.weight]),
        np.concatenate([own.column, first + other.column]),
        np.concatenate([own.group, other.group]),
    )


def _aligned(cells: Cells, names: Sequence[str]) -> Array:
    x = np.zeros((len(cells.y), len(names)))
    for i, name in enumerate(cells.names):
        x[:, names.index(name)] = cells.x[:, i]
    return x


class TrainingSet:
    """A table, and what is derived from it once: standardised scores, cells, descriptions."""

    def __init__(self, table: TransferTable) -> None:
        self.table = table.described
        self.shared: dict[Hashable, Any] = {}
        """What models with equal settings share, so that it is fitted once."""
        self._last: tuple[Query, dict[str, Array]] | None = None

    @cached_property
    def n_groups(self) -> int:
        """Task groups with at least two measured transfer cells: what can be learned from."""
        counts = np.isfinite(self.table.transfer_scores).sum(axis=0)
        return len({g for g, n in zip(self.table.groups, counts, strict=True) if n >= 2})

    @cached_property
    def standard(self) -> Array:
        """Z within each column over its transfer cells; NaN = not measured or own."""
        return standardise(self.table.transfer_scores)

    @cached_property
    def popularity(self) -> Array:
        """(n_sources,): trimmed mean z, shrunken; NaN where never measured."""
        return shrunken_popularity(self.standard, TRIM)

    @cached_property
    def agreement(self) -> Agreement:
        """Which tasks agree about adapters, learned from this table's columns."""
        return Agreement().fit(self.standard, self.table.groups, self.table.likeness or {})

    @property
    def base_hints(self) -> Array:
        """(n_targets,): the base's score on each task, other rows than the gains; NaN unknown."""
        blank = np.full(len(self.table.targets), np.nan)
        return self.table.target_features.get(BASE_SCORE, blank)

    def gain_model(self, scores: Array) -> GainModel:
        """From out-of-fold scores of this table, (n_sources, n_targets), to its gains."""
        table = self.table
        return GainModel().fit(
            scores,
            table.gains,
            table.groups,
            base_hints=self.base_hints,
            level_features=table.level_features,
            reliability=table.reliability,
        )

    @cached_property
    def standing_elsewhere(self) -> Array | None:
        """Trimmed mean z of each source under other base models; None where nothing is known."""
        other = self.table.elsewhere
        if other is None:
            return None
        return trimmed_mean(standardise(other.scores))

    @cached_property
    def centres(self) -> dict[str, Array]:
        """Mean embedding over the known tasks, per kind; zero where they are too few to centre."""
        found = {}
        for name, vectors in self.table.target_vectors.items():
            known = np.isfinite(vectors).all(axis=1)
            enough = known.sum() >= _MIN_TASKS_TO_CENTRE
            found[name] = vectors[known].mean(axis=0) if enough else np.zeros(vectors.shape[1])
        return found

    @cached_property
    def cells(self) -> Cells:
        """Training rows: the own, and with less to say those of other base models' matrices."""
        other = self.table.elsewhere
        if other is None:
            return self._own_cells
        # For a task under the other bases, "elsewhere" is these themselves, on their other tasks.
        return _joined(self._own_cells, TrainingSet(replace(other, elsewhere=other))._own_cells)

    @cached_property
    def _own_cells(self) -> Cells:
        """A row per measured transfer cell, described with its own task group left out."""
        rows: list[dict[str, Array]] = []
        columns: list[int] = []
        for group in self.table.group_names:
            fold = self.table.hold_out([group])
            without = TrainingSet(fold.table)
            for t, query in zip(fold.held, fold.queries, strict=True):
                rows.append(without.describe(query))
                columns.append(t)
        return self._stacked(rows, columns)

    def _stacked(self, rows: list[dict[str, Array]], columns: list[int]) -> Cells:
        names = tuple(dict.fromkeys(name for row in rows for name in row))
        blank = np.zeros(len(self.table.sources))
        targets = {t: normal_scores(self.table.transfer_scores[:, t]) for t in columns}
        # A column of mere noise would teach the models noise; a noisy one says less.
        certain = self.table.reliability
        usable = [t for t in columns if np.isfinite(targets[t]).sum() >= 2 and certain[t] > 0]
        twins = Counter(self.table.groups[t] for t in usable)
        x, y, weight, column = [], [], [], []
        for t, row in zip(columns, rows, strict=True):
            # A single group without features of pairs or adapters is described by nothing.
            if t not in usable or not names:
                continue
            known = np.isfinite(targets[t])
            share = certain[t] / (known.sum() * twins[self.table.groups[t]])
            x.append(np.column_stack([row.get(name, blank)[known] for name in names]))
            y.append(targets[t][known])
            weight.append(np.full(known.sum(), share))
            column.append(np.full(known.sum(), float(t)))
        if not x:
            none = np.zeros(0)
            return Cells(names, np.zeros((0, len(names))), none, none, none, np.zeros(0, np.str_))
        stacked = np.vstack(x)
        alive = np.abs(stacked).max(axis=0) > 0
        kept = tuple(name for name, lives in zip(names, alive, strict=True) if lives)
        return Cells(
            kept,
            stacked[:, alive],
            np.concatenate(y),
            np.concatenate(weight),
            np.concatenate(column),
            np.array([self.table.groups[int(t)] for t in np.concatenate(column)], dtype=np.str_),
        )

    def describe(self, query: Query) -> dict[str, Array]:
        """Features of every source for one target: z over the candidates, 0 where unknown."""
        # All models of a fold look at one target in turn.
        if self._last is None or self._last[0] is not query:
            self._last = (query, self._features(query))
        return self._last[1]

    def _features(self, query: Query) -> dict[str, Array]:
        raw = self.raw_features(query)
        if not raw:
            return {}
        candidates = query.candidates[:, None]
        # All features at once: folds do this thousands of times.
        z = standardise(
            np.column_stack([part for parts in raw.values() for part in parts]), candidates
        )
        merged, first = [], 0
        for parts in raw.values():
            merged.append(mean_of_known(z[:, first : first + len(parts)]))
            first += len(parts)
        again = standardise(np.nan_to_num(np.column_stack(merged)), candidates)
        found = dict(zip(raw, np.nan_to_num(again).T, strict=True))
        if "prior_shift" in found:
            # Not standardised: the more one-sided the base is, the more this can matter.
            found["prior_shift_on_habit"] = _habit(query) * found["prior_shift"]
        return found

    def raw_features(self, query: Query) -> dict[str, list[Array]]:
        """Unscaled parts of each feature; a feature with several parts is the mean of their z."""
        raw: dict[str, list[Array]] = {}
        if self.table.targets:
            raw["popularity"] = [self.popularity]
            raw["related_tasks"] = [self.agreement.predict(query.likeness)]
        similarity = self.similarity(query)
        if similarity is not None:
            raw["similarity"] = [similarity]
        neighbours = self.neighbours(query)
        if neighbours is not None:
            raw["neighbours"] = [neighbours]
        if self.standing_elsewhere is not None:
            raw["elsewhere"] = [self.standing_elsewhere]
        used = similarity_name(tuple(query.pair_features))
        for name, values in query.pair_features.items():
            if name != used:
                raw.setdefault(name.split("/")[0], []).append(values)
        for name, values in self.table.source_features.items():
            raw.setdefault(name, []).append(values)
        return raw

    def similarity(self, query: Query) -> Array | None:
        """How near each source's training data is to the target; None where nothing tells."""
        used = similarity_name(tuple(query.pair_features))
        if used is not None:
            return query.pair_features[used]
        return self.mean_cosine(self.table.source_vectors, query)

    def task_similarity(self, query: Query) -> Array | None:
        """How near each known task is to the target, (n_targets,); None where nothing tells."""
        if query.similarity is not None:
            return query.similarity
        by_vector = self.mean_cosine(self.table.target_vectors, query)
        return by_vector if by_vector is not None else self._statistical_nearness(query)

    def neighbours(self, query: Query) -> Array | None:
        """What the nearest tasks say beyond plain popularity; None without task similarities."""
        similarity = self.task_similarity(query)
        if similarity is None or np.isfinite(similarity).sum() < 2:
            return None
        return weighted_mean(self._clipped, neighbour_weights(similarity)) - self._mean_standing

    @cached_property
    def _clipped(self) -> Array:
        clipped: Array = np.clip(self.standard, -_Z_CLIP, _Z_CLIP)
        return clipped

    @cached_property
    def _mean_standing(self) -> Array:
        return weighted_mean(self.standard, np.ones(self.standard.shape[1]))

    def mean_cosine(self, vectors: Mapping[str, Array], query: Query) -> Array | None:
        """Mean cosine of these rows with the target, each embedding centred; None if unknown."""
        found = [
            cosines(vectors[name] - centre, query.vectors[name] - centre)
            for name, centre in self.centres.items()
            if name in vectors and name in query.vectors
        ]
        known = [part for part in found if np.isfinite(part).any()]
        return mean_of_known(np.column_stack(known)) if known else None

    def _statistical_nearness(self, query: Query) -> Array | None:
        """−RMS difference of standardised fingerprint statistics, for tasks without embeddings."""
        parts = []
        for name, known in self.table.target_features.items():
            value = query.target_features.get(name, float("nan"))
            finite = known[np.isfinite(known)]
            if np.isfinite(value) and finite.size >= 2 and finite.std() > 0:
                parts.append(((known - value) / finite.std()) ** 2)
        if not parts:
            return None
        return -np.sqrt(mean_of_known(np.column_stack(parts)))


def _habit(query: Query) -> float:
    """How far the base says one label to everything, 0 (evenly) to 1 (always); 0 where unknown."""
    share = query.target_features.get("base_label_share_max", float("nan"))
    n_labels = query.target_features.get("n_labels", float("nan"))
    if not (np.isfinite(share) and n_labels > 1):
        return 0.0
    return float(np.clip((share - 1 / n_labels) / (1 - 1 / n_labels), 0.0, 1.0))
