"""What a ranking may look at: every feature with its formula, and the door that keeps folds clean.

A training row is described exactly as an unseen target is: its task group leaves the table first,
then popularity, similarity, centring and scaling are computed from what is left.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from adapt_lora.recommender.borrowing import Translations, translate
from adapt_lora.recommender.likeness import Agreement
from adapt_lora.recommender.table import (
    BASE_SCORE,
    Array,
    Query,
    TransferTable,
    consensus,
    mean_of_known,
    standardise,
    table_from_matrix,
    vector_table,
)
from adapt_lora.registry.records import (
    AdapterRecord,
    DatasetRecord,
    Fingerprint,
    TaskRecord,
    TransferMatrix,
    Unit,
)

TARGET_NAME = "(target)"
"""Name of the column that stands for the unseen target in a table made for it."""

TRIM = 0.2
"""Share of a source's z-scores cut from each end before averaging (experiments.md, finding 1)."""

ELSEWHERE_WEIGHT = 1.0
"""Weight of a task group of other base models' matrices beside one of the own."""

_MAX_WEIGHT_RATIO = 20.0  # one near-twin must not be the only neighbour that counts
_Z_CLIP = 2.0  # one runaway cell must not carry a neighbour's whole column
_MIN_TASKS_TO_CENTRE = 3  # the mean of two embeddings would put them exactly opposite


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing a ranking looks at."""

    name: str
    """Key in tables, contributions and reasons."""
    side: Literal["adapter", "target", "pair"]
    """What it describes."""
    formula: str
    """How it is computed, in a line."""
    source: str
    """Paper or measurement that speaks for it."""
    high: str = ""
    """Words for a reason when the adapter stands high in it; "" of a target's features, which say
    the same of every adapter."""
    low: str = ""
    """Words for a reason when it stands low."""
    nonnegative: bool = True
    """More of it is never held against an adapter; False: the data say which way it works."""


_S = "experiments.md, findings 1-4"
_KRISHNA_LENGTH = "Krishna et al. 2025, §5.3"
_KRISHNA_LABELS = "Krishna et al. 2025, §5.4"
_HARADA = "Harada et al. 2025, RQ2"
_HABIT = "experiments.md, the base model's habits"

FEATURES: Mapping[str, Feature] = {
    f.name: f
    for f in (
        Feature(
            "popularity",
            "pair",
            "20 % trimmed mean of column z-scores over the other task groups, × n/(n+1)",
            _S,
            "it beat most adapters on the other measured tasks",
            "it fell behind most adapters on the other measured tasks",
        ),
        Feature(
            "similarity",
            "pair",
            "given similarity, else mean cosine of the embeddings, centred over the known tasks",
            "Poth et al. 2021, arXiv:2104.08247; experiments.md, finding 2",
            "its training data resembles the target",
            "its training data is unlike the target",
        ),
        Feature(
            "neighbours",
            "pair",
            "neighbour-weighted minus plain mean z; weights exp(z of task similarity), at most "
            "20 × the median, z clipped to ±2",
            "experiments.md, finding 3",
            "it does better on the tasks nearest to the target than elsewhere",
            "it does worse on the tasks nearest to the target than elsewhere",
        ),
        Feature(
            "related_tasks",
            "pair",
            "best linear prediction from the measured columns; their expected agreement with the "
            "target is learned from every known likeness of tasks (likeness.Agreement)",
            "Cressie 1993, section 3.2; experiments.md, learned likeness",
            "it does well on the tasks that should rank adapters as the target does",
            "it does badly on the tasks that should rank adapters as the target does",
        ),
        Feature(
            "elsewhere",
            "adapter",
            "20 % trimmed mean of z over the other groups' tasks under other base models",
            "experiments.md, finding 7",
            "the same training data helped other base models on other tasks",
            "the same training data helped other base models little on other tasks",
        ),
        Feature(
            "traits",
            "pair",
            "adapter's trait scores × the target's loadings, predicted from its likeness to known "
            "tasks (the method trait_regression)",
            "Krishna et al. 2025, §5.1; Ruan et al. 2024, arXiv:2405.10938",
            "its traits are those that the target is expected to need",
            "its traits are not those that the target is expected to need",
        ),
        Feature(
            "length_match",
            "pair",
            "−|ln ratio| of mean prompt tokens, response tokens, and of the response/prompt ratio",
            _KRISHNA_LENGTH,
            "prompts and answers of its training data are about as long as the target's",
            "prompts and answers of its training data differ in length from the target's",
        ),
        Feature(
            "label_match",
            "pair",
            "Jaccard overlap of label sets; −|difference| of is_classification, normalised label "
            "entropy and largest share; −|ln ratio| of the number of labels; −total variation of "
            "label shares",
            _KRISHNA_LABELS,
            "its labels and their balance are like the target's",
            "its labels or their balance differ from the target's",
        ),
        Feature(
            "language_match",
            "pair",
            "−|difference| of MATTR, zlib ratio, shares of digits, punctuation and code",
            "Krishna et al. 2025, App. F",
            "its training text has the target's mix of words, digits and code",
            "its training text has another mix of words, digits and code than the target",
        ),
        Feature(
            "perplexity_match",
            "pair",
            "−|ln ratio| of response and prompt perplexity under the base",
            _HARADA,
            "the base model finds its training data about as hard as the target",
            "the base model finds its training data harder or easier than the target",
        ),
        Feature(
            "perplexity",
            "adapter",
            "−ln response perplexity of the training data under the base",
            _HARADA,
            "the base model was at home in its training data (low perplexity)",
            "its training data was hard for the base model (high perplexity)",
            nonnegative=False,
        ),
        Feature(
            "training_rows",
            "adapter",
            "ln number of training rows",
            _HARADA,
            "it saw more training rows than the others",
            "it saw fewer training rows than the others",
            nonnegative=False,
        ),
        Feature(
            "response_length",
            "adapter",
            "ln mean response tokens of the training data",
            _KRISHNA_LENGTH,
            "it learned to answer at length",
            "it learned to answer briefly",
            nonnegative=False,
        ),
        Feature(
            "weight_change",
            "adapter",
            "ln relative size of the weight change, ‖ΔW‖/‖W‖",
            "Harada et al. 2025, RQ3",
            "it changes the base model more than the others",
            "it changes the base model less than the others",
            nonnegative=False,
        ),
        Feature(
            "behaviour_change",
            "adapter",
            "ln relative size of the mean hidden-state shift on the probe prompts",
            "delta activations, arXiv:2509.04442",
            "it shifts the base model's behaviour on the probes more than the others",
            "it shifts the base model's behaviour on the probes less than the others",
            nonnegative=False,
        ),
        Feature(
            "habit_match",
            "pair",
            "−|difference| of base_label_share_max, base_label_entropy_normalised and "
            "base_label_tv, base model on the training data and on the target",
            _HABIT,
            "the base model answers its training data as one-sidedly as the target",
            "the base model answers its training data more or less one-sidedly than the target",
        ),
        Feature(
            "habit_pull",
            "pair",
            "total variation between the base model's picks on the target and the gold label "
            "shares of the training data, where the label sets are the same",
            f"{_HABIT}; {_KRISHNA_LABELS}",
            "it learned other label shares than the base model answers with on the target",
            "it learned the label shares that the base model answers with on the target anyway",
            nonnegative=False,
        ),
        Feature(
            "prior_shift",
            "adapter",
            "label_prior_tv: how far it moves the label shares of the probes",
            _HABIT,
            "it moves the shares of labels on the probes more than the others",
            "it moves the shares of labels on the probes less than the others",
            nonnegative=False,
        ),
        Feature(
            "prior_shift_on_habit",
            "pair",
            "z of prior_shift × (base_label_share_max − 1/n_labels)/(1 − 1/n_labels) of the target",
            _HABIT,
            "it moves label shares, and the base model answers the target with one label",
            "it hardly moves label shares, and the base model answers the target with one label",
            nonnegative=False,
        ),
    )
}
"""Every feature of adapters and pairs that is computed from the registry. Others come from a
matrix's pairs file."""

_AS_FINGERPRINT = "as in the fingerprint"
_LIKENESS = "experiments.md, learned likeness"

TARGET_FEATURES: Mapping[str, Feature] = {
    f.name: f
    for f in (
        Feature(
            BASE_SCORE,
            "target",
            "balanced accuracy of the bare base on training data of the same group, on the target "
            "its own rows",
            "experiments.md, P(harm)",
        ),
        Feature("base_label_share_max", "target", _AS_FINGERPRINT, _HABIT),
        Feature("base_label_entropy_normalised", "target", _AS_FINGERPRINT, _HABIT),
        Feature("base_label_tv", "target", _AS_FINGERPRINT, _HABIT),
        Feature("prompt_tokens_mean", "target", _AS_FINGERPRINT, _LIKENESS),
        Feature("response_tokens_mean", "target", _AS_FINGERPRINT, _LIKENESS),
        Feature("response_ppl", "target", _AS_FINGERPRINT, _LIKENESS),
        Feature("n_labels", "target", _AS_FINGERPRINT, _LIKENESS),
        Feature("label_entropy_normalised", "target", _AS_FINGERPRINT, _LIKENESS),
        Feature("is_classification", "target", _AS_FINGERPRINT, _LIKENESS),
        Feature("mattr", "target", _AS_FINGERPRINT, _LIKENESS),
        Feature("zlib_ratio", "target", _AS_FINGERPRINT, _LIKENESS),
        Feature("share_digits", "target", _AS_FINGERPRINT, _LIKENESS),
        Feature("share_code", "target", _AS_FINGERPRINT, _LIKENESS),
    )
}
"""What is known of a task itself: how alike two tasks are, and how much there is to win."""

FROM_SCORES = ("popularity", "neighbours", "related_tasks", "traits")
"""Features that come from scores of the table that was learned from."""

_RATIO_PARTS = {
    "length_match": ("prompt_tokens_mean", "response_tokens_mean", "response_prompt_ratio"),
    "label_match": ("n_labels",),
    "perplexity_match": ("response_ppl", "prompt_ppl"),
}
_DIFFERENCE_PARTS = {
    "label_match": ("is_classification", "label_entropy_normalised", "label_share_max"),
    "language_match": ("mattr", "zlib_ratio", "share_digits", "share_punctuation", "share_code"),
    "habit_match": ("base_label_share_max", "base_label_entropy_normalised", "base_label_tv"),
}
_SIMILARITY_WORDS = ("similarity", "minilm", "cosine", "overlap")


def similarity_name(names: Sequence[str]) -> str | None:
    """Which pair feature is *the* similarity: the one called so, else the first that sounds so.

    Parts of the registry's own features ("label_match/overlap") are none: there it comes from
    embeddings.
    """
    if "similarity" in names:
        return "similarity"
    return next((n for n in names if "/" not in n and _sounds_similar(n)), None)


def is_nonnegative(name: str) -> bool:
    """Whether more of a feature is never held against an adapter."""
    if name in FEATURES:
        return FEATURES[name].nonnegative
    return _sounds_similar(name)


def _sounds_similar(name: str) -> bool:
    return any(word in name for word in _SIMILARITY_WORDS)


# --- columns ------------------------------------------------------------------------------------


def normal_scores(values: Array) -> Array:
    """Blom's normal scores within one vector: Φ⁻¹((rank − 3/8)/(n + 1/4)), NaN stays NaN."""
    scores = np.full(values.shape, np.nan)
    known = np.isfinite(values)
    found = values[known]
    if found.size == 0:
        return scores
    ordered = np.sort(found)
    low = np.searchsorted(ordered, found, side="left")
    high = np.searchsorted(ordered, found, side="right")
    rank = (low + high + 1) / 2.0  # mean rank of ties, from 1
    scores[known] = ndtri((rank - 0.375) / (found.size + 0.25))
    return scores


def trimmed_mean(values: Array, trim: float = TRIM) -> Array:
    """Mean of each row without the lowest and highest `trim` share; NaN where nothing is known."""
    n = np.isfinite(values).sum(axis=1)
    cut = np.floor(trim * n).astype(np.intp)
    ordered = np.sort(values, axis=1)  # NaN last
    place = np.arange(values.shape[1])[None, :]
    kept = (place >= cut[:, None]) & (place < (n - cut)[:, None])
    total = np.where(kept, ordered, 0.0).sum(axis=1)
    count = kept.sum(axis=1)
    means: Array = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means


def shrunken_popularity(z: Array, trim: float) -> Array:
    """Trimmed mean of each source's z-scores × n/(n+1): one lucky cell is not a reputation."""
    n = np.isfinite(z).sum(axis=1)
    popularity: Array = trimmed_mean(z, trim) * n / (n + 1)
    return popularity


def neighbour_weights(similarity: Array) -> Array:
    """Exp of the standardised task similarity, each at most 20 × the median; NaN weighs 0."""
    known = np.isfinite(similarity)
    z = standardise(similarity[:, None], known[:, None])[:, 0]
    weights = np.where(known, np.exp(np.where(known, z, 0.0)), 0.0)
    if known.any():
        weights = np.minimum(weights, _MAX_WEIGHT_RATIO * np.median(weights[known]))
    capped: Array = weights
    return capped


def weighted_mean(values: Array, weights: Array) -> Array:
    """Mean of each row over its known entries, (n, t) × (t,) → (n,); NaN where nothing weighs."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0) @ weights
    weight = known @ weights
    means: Array = np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)
    return means


def cosines(matrix: Array, vector: Array) -> Array:
    """Cosine of each row with a vector; NaN where either is absent or zero."""
    norms = np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = np.where(norms > 0, (matrix @ vector) / norms, np.nan)
    return found


# --- what a model is fitted on ------------------------------------------------------------------


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
        scores = self.table.transfer_scores
        return standardise(scores, np.isfinite(scores))

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

    @cached_property
    def standing_elsewhere(self) -> Array | None:
        """Trimmed mean z of each source under other base models; None where nothing is known."""
        other = self.table.elsewhere
        if other is None:
            return None
        return trimmed_mean(standardise(other.scores, np.isfinite(other.scores)), TRIM)

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
            if t not in usable:
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


# --- from the registry --------------------------------------------------------------------------


def registry_table(
    matrix: TransferMatrix, *, unit: Unit, others: Sequence[TransferMatrix] = ()
) -> TransferTable:
    """The table of a registry's matrix with all features of its adapters and tasks.

    Args:
        matrix: What was measured under the base model.
        unit: The tasks of this unit alone.
        others: What was measured under other base models: it becomes the table's `elsewhere`.
    """
    lent = translate(matrix, others, unit=unit)
    return _lent_to(_featured(lent.matrix, unit), lent, {task.name for task in matrix.tasks})


def table_for_target(
    matrix: TransferMatrix,
    target: Fingerprint,
    *,
    metric: str,
    unit: Unit,
    group: str,
    others: Sequence[TransferMatrix] = (),
) -> TransferTable:
    """The registry's table plus one last column, never measured, that stands for the target.

    Where nothing was measured under the base model itself, the table holds the adapters' standing
    under the others in its place, and its `lenders` say so: then that is all there is to learn
    from. What others measured of the target's group is not looked at.
    """
    column = TaskRecord(
        name=TARGET_NAME,
        group=group,
        metric=metric,
        dataset=DatasetRecord(name=TARGET_NAME, digest="", group=group, n_rows=0),
        fingerprint=target,
    )
    lent = translate(matrix, [other.without_groups([group]) for other in others], unit=unit)
    wide = _featured(replace(lent.matrix, tasks=(*lent.matrix.tasks, column)), unit)
    table = _lent_to(wide, lent, {TARGET_NAME, *(task.name for task in matrix.tasks)})
    if table.elsewhere is None or np.isfinite(table.transfer_scores).any():
        return table
    return _stand_in(wide, table.elsewhere)


def _lent_to(wide: TransferTable, lent: Translations, own: Collection[str]) -> TransferTable:
    """The own columns, with what other base models say as `elsewhere`."""
    if not lent.tables:
        return wide
    kept = [t for t, name in enumerate(wide.targets) if name in own]
    return replace(wide.columns(kept), elsewhere=consensus(wide, lent.tables))


def _stand_in(wide: TransferTable, elsewhere: TransferTable) -> TransferTable:
    """The others' columns and the target's in the place of a base's own."""
    kept = [t for t, name in enumerate(wide.targets) if name in {*elsewhere.targets, TARGET_NAME}]
    table = wide.described.columns(kept)
    scores = np.full(table.scores.shape, np.nan)
    for t, name in enumerate(table.targets):
        if name != TARGET_NAME:
            scores[:, t] = elsewhere.scores[:, elsewhere.targets.index(name)]
    blank = np.full(len(kept), np.nan)
    return replace(table, scores=scores, base_scores=blank, lenders=elsewhere.lenders)


def _featured(matrix: TransferMatrix, unit: Unit) -> TransferTable:
    table = table_from_matrix(matrix, unit=unit)
    tasks = {task.name: task for task in matrix.tasks}
    return _with_features(table, matrix.adapters, [tasks[name] for name in table.targets])


def _with_features(
    table: TransferTable, adapters: Sequence[AdapterRecord], tasks: Sequence[TaskRecord]
) -> TransferTable:
    data = [adapter.fingerprint for adapter in adapters]
    marks = [task.fingerprint for task in tasks]
    names = sorted({name for task in marks for name in task.vectors if name.endswith("_mean")})
    sources = {name: vector_table(data, name) for name in names}
    targets = {name: vector_table(marks, name) for name in names}
    return replace(
        table,
        pair_features=_pair_features(data, marks),
        source_features=_source_features(adapters),
        target_features={
            **{key: _values(marks, key) for key in TARGET_FEATURES},
            BASE_SCORE: _base_hints(adapters, tasks),
        },
        source_vectors={name: x for name, x in sources.items() if x is not None},
        target_vectors={name: x for name, x in targets.items() if x is not None},
    )


def _pair_features(data: Sequence[Fingerprint], tasks: Sequence[Fingerprint]) -> dict[str, Array]:
    """Parts are named `feature/part`; those without a single known number are left out."""
    parts: dict[str, Array] = {}
    for feature, keys in _RATIO_PARTS.items():
        for key in keys:
            a, b = _logs(_values(data, key)), _logs(_values(tasks, key))
            parts[f"{feature}/{key}"] = -np.abs(a[:, None] - b[None, :])
    for feature, keys in _DIFFERENCE_PARTS.items():
        for key in keys:
            a, b = _values(data, key), _values(tasks, key)
            parts[f"{feature}/{key}"] = -np.abs(a[:, None] - b[None, :])
    shape = (len(data), len(tasks))
    overlap, variation, pull = (np.full(shape, np.nan) for _ in range(3))
    for s, source in enumerate(data):
        for t, task in enumerate(tasks):
            overlap[s, t] = label_overlap(source, task)
            if overlap[s, t] > 0:
                variation[s, t] = -total_variation(source.label_shares, task.label_shares)
            if overlap[s, t] == 1 and task.base_label_shares:
                pull[s, t] = total_variation(source.label_shares, task.base_label_shares)
    parts["label_match/overlap"] = overlap
    parts["label_match/shares"] = variation
    parts["habit_pull"] = pull
    return {name: x for name, x in parts.items() if np.isfinite(x).any()}


def label_overlap(source: Fingerprint, target: Fingerprint) -> float:
    """Jaccard overlap of two label sets, in [0, 1]; NaN where either is unlabelled."""
    a, b = set(source.label_shares), set(target.label_shares)
    return len(a & b) / len(a | b) if a and b else float("nan")


def total_variation(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Half the summed difference of two label distributions, in [0, 1]."""
    return 0.5 * sum(abs(a.get(label, 0.0) - b.get(label, 0.0)) for label in {*a, *b})


def _base_hints(adapters: Sequence[AdapterRecord], tasks: Sequence[TaskRecord]) -> Array:
    """(n_tasks,): the base's score on each task, from other rows than those that gains come from.

    That is its mean score on training data of the task's group with the same labels: another split
    of the same benchmark, which the adapters' fingerprints hold. Altered copies (balanced, wrong
    labels) are no such split. On the scored rows themselves an unlucky base would look like a task
    with much to gain. The target, where no gain is known, has its own rows' score.
    """
    return np.array([_base_hint(task, adapters) for task in tasks], dtype=np.float64)


def _base_hint(task: TaskRecord, adapters: Sequence[AdapterRecord]) -> float:
    if task.name == TARGET_NAME:
        return task.fingerprint.values.get(BASE_SCORE, float("nan"))
    found = [
        adapter.fingerprint.values[BASE_SCORE]
        for adapter in adapters
        if adapter.dataset is not None
        and adapter.dataset.group == task.group
        and not adapter.dataset.parent
        and adapter.dataset.digest != task.dataset.digest
        and BASE_SCORE in adapter.fingerprint.values
        and adapter.fingerprint.label_shares.keys() == task.fingerprint.label_shares.keys()
    ]
    return float(np.mean(found)) if found else float("nan")


def _source_features(adapters: Sequence[AdapterRecord]) -> dict[str, Array]:
    data = [adapter.fingerprint for adapter in adapters]
    rows = np.array(
        [a.dataset.n_rows if a.dataset is not None else np.nan for a in adapters], dtype=np.float64
    )
    features = {
        "perplexity": -_logs(_values(data, "response_ppl")),
        "training_rows": _logs(rows),
        "response_length": _logs(_values(data, "response_tokens_mean")),
        "weight_change": _logs(_keyed([a.weights for a in adapters], WEIGHT_CHANGE_KEYS)),
        "behaviour_change": _logs(_keyed([a.behaviour for a in adapters], BEHAVIOUR_KEYS)),
        "prior_shift": _keyed([a.behaviour for a in adapters], ("label_prior_tv",)),
    }
    return {name: x for name, x in features.items() if np.isfinite(x).any()}


WEIGHT_CHANGE_KEYS = ("delta_norm_relative", "delta_norm")
"""Keys of `AdapterRecord.weights` that measure ‖ΔW‖, best first."""

BEHAVIOUR_KEYS = ("hidden_shift_relative",)
"""Keys of `AdapterRecord.behaviour` that measure the shift on the probes, best first."""


def _keyed(records: Sequence[Mapping[str, float]], keys: Sequence[str]) -> Array:
    """One column by the first key that any record has: two scales are never mixed."""
    key = next((key for key in keys if any(key in record for record in records)), None)
    missing = float("nan")
    return np.array([record.get(key, missing) if key else missing for record in records])


def _values(prints: Sequence[Fingerprint], key: str) -> Array:
    return np.array([print_.values.get(key, float("nan")) for print_ in prints], dtype=np.float64)


def _logs(values: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        logs: Array = np.where(values > 0, np.log(values), np.nan)
    return logs
