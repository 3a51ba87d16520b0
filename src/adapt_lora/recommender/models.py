"""Ranking models behind one interface: `fit(train)`, `predict(query)`, `explain(query)`.

They keep scikit-learn's promises: `__init__` only stores, `fit` returns self, what was learned
ends in `_`, `predict` never refits. `ShrunkenRidge` is the flat regressor inside.
"""

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np
from scipy.optimize import nnls
from scipy.special import ndtr
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from adapt_lora.recommender.components import impute, principal_components
from adapt_lora.recommender.features import (
    TRIM,
    Cells,
    TrainingSet,
    is_nonnegative,
    shrunken_popularity,
)
from adapt_lora.recommender.table import Array, Query, standardise

STACK_PRIOR: Mapping[str, float] = {"standing": 0.4, "similarity": 0.15, "neighbours": 0.1}
"""Weights that the stack starts from (docs/experiments.md, 4); all other features start from 0.
`stack_prior` shares out that of an adapter's standing."""

_ELSEWHERE = 0.1  # more weight of standing where other base models speak of it too

ROWS_TO_LEARN = 1_000.0
"""Training rows at which what must be learned from them, trees and the agreement of tasks, counts
half of what it may (docs/experiments.md, third form)."""

_BORROWED_GROUPS = {"zeroshot": 12.0}
"""With as many own task groups, what is known elsewhere counts the same. Adapters used as they are
stand under one base as under another; fine-tuning on from them brings out the base's own likings
(docs/experiments.md, other bases)."""
_BORROWED_GROUPS_ELSE = 3.0

MIN_GROUPS_FOR_TREES = 10
"""Below this many task groups LightGBM learns the tasks by heart (docs/experiments.md, 5)."""

_MANY_ROWS = 10_000  # candidates from which a second thread saves more than it costs


class ShrunkenRidge(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """Linear regression without intercept whose weights are pulled toward a prior.

    Minimises Σ w (y − xβ)² + strength · ‖β − prior‖², β ≥ 0 where asked.
    """

    def __init__(
        self,
        strength: float = 10.0,
        prior: Sequence[float] | None = None,
        nonnegative: Sequence[bool] | None = None,
    ) -> None:
        self.strength = strength
        self.prior = prior
        self.nonnegative = nonnegative

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn `coef_`; `prior` and `nonnegative` hold one entry per column of X."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        n_features = X.shape[1]
        prior = [0.0] * n_features if self.prior is None else self.prior
        bound = np.zeros(n_features, dtype=bool)
        if self.nonnegative is not None:
            bound = np.asarray(self.nonnegative, dtype=bool)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not weight.any():
            raise ValueError("Every sample weight is zero: there is nothing to fit.")
        gram = (X.T * weight) @ X + self.strength * np.eye(n_features)
        moment = (X.T * weight) @ y + self.strength * np.asarray(prior, dtype=np.float64)
        self.coef_ = _bounded_solve(gram, moment, bound)
        return self

    def predict(self, X: Any) -> Array:
        """X @ coef_."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        predicted: Array = X @ self.coef_
        return predicted


def _bounded_solve(gram: Array, moment: Array, bound: Any) -> Array:
    """Minimise β'Gβ − 2m'β with β ≥ 0 where `bound`; G is positive definite."""
    free: Array = np.asarray(np.linalg.solve(gram, moment), dtype=np.float64)
    if not (free[bound] < 0).any():
        return free
    # nnls knows only β ≥ 0: an unbounded weight enters twice, as +x and as −x.
    root = np.linalg.cholesky(gram).T
    aim = np.linalg.solve(root.T, moment)
    both = np.hstack([root, -root[:, ~bound]])
    found = nnls(both, aim)[0]
    weights: Array = found[: len(moment)].copy()
    weights[~bound] -= found[len(moment) :]
    return weights


class Ranker(BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """What every ranking model can do. Higher predictions are better; only their order counts."""

    def fit(self, X: TrainingSet, y: None = None) -> Self:
        """Learn from a table that has never seen the target's group."""
        self.train_ = X
        return self

    def can_rank(self, query: Query) -> bool:
        """Whether what this model looks at is known here at all."""
        return True

    def predict(self, query: Query) -> Array:
        """Score of every source for the target, (n_sources,); finite, own cells included."""
        raise NotImplementedError

    def explain(self, query: Query) -> dict[str, Array]:
        """Parts of the prediction by feature; for a linear model they sum to it."""
        return {self.reason: np.nan_to_num(self.predict(query))}

    @property
    def reason(self) -> str:
        """The feature that a model of one feature looks at."""
        return "popularity"


class RandomRanker(Ranker):
    """A shuffle that is the same for the same target and seed."""

    def __init__(self, random_state: int = 0) -> None:
        self.random_state = random_state

    def predict(self, query: Query) -> Array:
        """Uniform noise."""
        rng = np.random.default_rng([self.random_state, zlib.crc32(query.target.encode())])
        return rng.random(len(query.candidates))

    @property
    def reason(self) -> str:
        """Says that chance ranked."""
        return "chance"


class NothingRanker(Ranker):
    """The null: like the constant guess of a label, it tells no adapter from another."""

    def predict(self, query: Query) -> Array:
        """Zeros; the metrics break ties at random."""
        return np.zeros(len(query.candidates))

    @property
    def reason(self) -> str:
        """Says that nothing is known."""
        return "nothing"


class PopularityRanker(Ranker):
    """(Trimmed) mean z-score over the other task groups."""

    def __init__(self, trim: float = 0.0) -> None:
        self.trim = trim

    def predict(self, query: Query) -> Array:
        """The mean, 0 (average) for adapters that were never measured."""
        return np.nan_to_num(shrunken_popularity(self.train_.standard, self.trim))


class NearestTaskRanker(Ranker):
    """z-scores on the most similar measured task; popularity breaks ties and fills gaps."""

    def can_rank(self, query: Query) -> bool:
        """Needs similarities between tasks."""
        return self.train_.task_similarity(query) is not None

    def predict(self, query: Query) -> Array:
        """Z on the nearest task plus a thousandth of popularity."""
        similarity = self.train_.task_similarity(query)
        popularity = np.nan_to_num(self.train_.popularity)
        if similarity is None or not np.isfinite(similarity).any():
            return popularity
        nearest = self.train_.standard[:, int(np.nanargmax(similarity))]
        return np.where(np.isfinite(nearest), nearest, popularity) + 1e-3 * popularity

    @property
    def reason(self) -> str:
        """The feature it looks at."""
        return "neighbours"


class SemanticRanker(Ranker):
    """Similarity of the adapter's training data to the target, of all embeddings or of one."""

    def __init__(self, vectors: str | None = None) -> None:
        self.vectors = vectors

    def can_rank(self, query: Query) -> bool:
        """Needs embeddings or a given similarity."""
        return self._similarity(query) is not None

    def predict(self, query: Query) -> Array:
        """Z of the similarity over the candidates; 0 (average) where unknown."""
        if self.vectors is None:
            return self.train_.describe(query).get("similarity", np.zeros(len(query.candidates)))
        cosine = self._similarity(query)
        if cosine is None:
            return np.zeros(len(query.candidates))
        return np.nan_to_num(standardise(cosine[:, None], query.candidates[:, None])[:, 0])

    def _similarity(self, query: Query) -> Array | None:
        if self.vectors is None:
            return self.train_.similarity(query)
        vectors = self.train_.table.source_vectors
        alone = {self.vectors: vectors[self.vectors]} if self.vectors in vectors else {}
        return self.train_.mean_cosine(alone, query)

    @property
    def reason(self) -> str:
        """The feature it looks at."""
        return "similarity"


class PerplexityRanker(Ranker):
    """Training data that the base finds easy helps more (Harada et al. 2025, RQ2)."""

    def can_rank(self, query: Query) -> bool:
        """Needs the perplexity of training data."""
        return "perplexity" in self.train_.table.source_features

    def predict(self, query: Query) -> Array:
        """Z of −ln perplexity; 0 (average) where unknown."""
        return self.train_.describe(query).get("perplexity", np.zeros(len(query.candidates)))

    @property
    def reason(self) -> str:
        """The feature it looks at."""
        return "perplexity"


class TraitRanker(Ranker):
    """Predicts the target's loadings from its likeness to known tasks, times the adapters' traits.

    Traits are refitted here, on the table without the target's group. Loadings are regressed by
    kernel ridge on the similarity of tasks; without any similarity they are the mean loadings.
    """

    def __init__(self, n_components: int = 4, strength: float = 1.0) -> None:
        self.n_components = n_components
        self.strength = strength

    def fit(self, X: TrainingSet, y: None = None) -> Self:
        """Learn `traits_` (n_sources, k) and `loadings_` (n_targets, k)."""
        self.train_ = X
        # A ranking needs no more than two digits, and folds fit this thousands of times.
        filled = impute(X.standard, n_components=self.n_components, tolerance=1e-2)
        parts = principal_components(filled, n_components=self.n_components)
        self.traits_ = parts.scores
        self.loadings_ = parts.loadings
        return self

    def predict(self, query: Query) -> Array:
        """Traits × predicted loadings."""
        mean = self.loadings_.mean(axis=0)
        predicted: Array = self.traits_ @ (mean + self._deviation(query, mean))
        return predicted

    def _deviation(self, query: Query, mean: Array) -> Array:
        similarity = self.train_.task_similarity(query)
        if similarity is None:
            return np.zeros(len(mean))
        table = self.train_.table
        known = range(len(table.targets))
        rows = [self.train_.task_similarity(table.query(t, known)) for t in known]
        blank = np.zeros(len(table.targets))
        kernel = np.nan_to_num(np.array([blank if row is None else row for row in rows]))
        kernel = (kernel + kernel.T) / 2
        values, vectors = np.linalg.eigh(kernel)  # a given similarity need not be a kernel
        inverse = (vectors / (np.maximum(values, 0.0) + self.strength)) @ vectors.T
        deviation: Array = np.nan_to_num(similarity) @ inverse @ (self.loadings_ - mean)
        return deviation

    @property
    def reason(self) -> str:
        """The feature it looks at."""
        return "traits"


def borrowed_share(train: TrainingSet) -> float:
    """Share of other base models in the starting weight of standing, in [0, 1]: b/(K + b).

    K own task groups; b = 12 where adapters are used as they are, else 3. 1 where all that there
    is to learn from was measured under others, 0 where nothing was.
    """
    if train.table.lenders:
        return 1.0
    if train.standing_elsewhere is None:
        return 0.0
    borrowed = _BORROWED_GROUPS.get(train.table.regime, _BORROWED_GROUPS_ELSE)
    return borrowed / (train.n_groups + borrowed)


def stack_prior(train: TrainingSet) -> dict[str, float]:
    """The weights to start from.

    A fresh base trusts other bases, a well-measured one itself. Of its own standing, n/(n + 1000)
    goes to the prediction from related tasks, for n training rows: which tasks agree must be
    learned, plain popularity need not.
    """
    is_lent = train.standing_elsewhere is not None
    standing = STACK_PRIOR["standing"] + (_ELSEWHERE if is_lent else 0.0)
    own = standing * (1 - borrowed_share(train) if is_lent else 1.0)
    learned = learnable(train)
    prior = {"popularity": own * (1 - learned), "related_tasks": own * learned}
    prior |= {name: weight for name, weight in STACK_PRIOR.items() if name != "standing"}
    return prior | ({"elsewhere": standing - own} if is_lent else {})


def learnable(train: TrainingSet) -> float:
    """Share of what may be learned from so many training rows, in [0, 1]."""
    n = len(train.cells.y)
    return n / (n + ROWS_TO_LEARN)


_STARTS: Sequence[Collection[str]] = ((), ("similarity",), ("similarity", "neighbours"))
"""Features whose starting weight is taken away, should the measured tasks speak against it: on some
shelves likeness of data finds the best adapters, on others it tells nothing."""

_START_FOLDS = 10
_MIN_GROUPS_TO_START = 5
_CLEAR_START = 1.0  # standard errors by which a start must win


class StackRanker(Ranker):
    """Small blend of popularity, similarity, neighbours and the rest, shrunken toward a prior.

    Ridge onto within-column normal scores, non-negative for what can't be held against an
    adapter, every task group weighted equally; with few groups it is the prior. Whether likeness
    of data has a place in the prior is decided by groups that are left out in turn.
    """

    def __init__(self, strength: float = 10.0) -> None:
        self.strength = strength

    def fit(self, X: TrainingSet, y: None = None) -> Self:
        """Learn `weights_` by feature name."""
        self.train_ = X
        key = ("stack", self.strength)
        if key not in X.shared:
            X.shared[key] = self._learned(X.cells, stack_prior(X))
        self.weights_: dict[str, float] = dict(X.shared[key])
        return self

    def _learned(self, cells: Cells, prior: Mapping[str, float]) -> dict[str, float]:
        if not cells.y.size:
            return dict(prior)
        starts = [{n: w for n, w in prior.items() if n not in taken} for taken in _STARTS]
        start = starts[_best_start(cells, starts, self.strength)]
        ridge = ShrunkenRidge(
            strength=self.strength,
            prior=[start.get(name, 0.0) for name in cells.names],
            nonnegative=[is_nonnegative(name) for name in cells.names],
        ).fit(cells.x, cells.y, sample_weight=cells.weight)
        found = {name: float(b) for name, b in zip(cells.names, ridge.coef_, strict=True)}
        return {**start, **found}

    def predict(self, query: Query) -> Array:
        """The weighted sum of the features."""
        parts = list(self.explain(query).values())
        total: Array = np.sum(parts, axis=0) if parts else np.zeros(len(query.candidates))
        return total

    def explain(self, query: Query) -> dict[str, Array]:
        """Weight × feature, exactly what `predict` sums."""
        described = self.train_.describe(query)
        return {
            name: weight * described[name]
            for name, weight in self.weights_.items()
            if name in described
        }


def _best_start(cells: Cells, starts: Sequence[Mapping[str, float]], strength: float) -> int:
    """The first start, or the best where it wins clearly on groups that it was not fitted on.

    Merit of a group: correlation of the fitted score with the normal scores of its cells.
    """
    groups = list(dict.fromkeys(cells.group.tolist()))
    if len(groups) < _MIN_GROUPS_TO_START:
        return 0
    bound = np.array([is_nonnegative(name) for name in cells.names])
    priors = np.array([[start.get(name, 0.0) for name in cells.names] for start in starts])
    grams, moments = [], []
    for group in groups:
        mine = cells.group == group
        weighted = cells.x[mine].T * cells.weight[mine]
        grams.append(weighted @ cells.x[mine])
        moments.append(weighted @ cells.y[mine])
    all_grams, all_moments = np.sum(grams, axis=0), np.sum(moments, axis=0)
    n_folds = min(_START_FOLDS, len(groups))
    merit = np.zeros((len(starts), len(groups)))
    for fold in range(n_folds):
        held = range(fold, len(groups), n_folds)
        gram = all_grams - np.sum([grams[g] for g in held], axis=0)
        moment = all_moments - np.sum([moments[g] for g in held], axis=0)
        for i, prior in enumerate(priors):
            pulled = gram + strength * np.eye(len(prior))
            weights = _bounded_solve(pulled, moment + strength * prior, bound)
            for g in held:
                size = np.sqrt(max(float(weights @ grams[g] @ weights), 1e-9))
                merit[i, g] = float(moments[g] @ weights) / size
    best = int(merit.mean(axis=1).argmax())
    won = merit[best] - merit[0]
    error = float(won.std(ddof=1)) / np.sqrt(len(won))
    return best if won.mean() > _CLEAR_START * error else 0


class BoostRanker(Ranker):
    """LightGBM on the stack's features, averaged over seeds: 80 trees of 4 leaves.

    `objective` is "regression" (of normal scores) or "lambdarank" (each task a query, its
    candidates graded into fifths).
    """

    def __init__(
        self, objective: str = "regression", n_seeds: int = 8, random_state: int = 0
    ) -> None:
        self.objective = objective
        self.n_seeds = n_seeds
        self.random_state = random_state

    def fit(self, X: TrainingSet, y: None = None) -> Self:
        """Learn `boosters_`, one per seed; none where there are too few task groups."""
        self.train_ = X
        key = ("boosters", self.objective, self.n_seeds, self.random_state)
        if key not in X.shared:
            X.shared[key] = self._boosters(X)
        self.boosters_: list[Any] = X.shared[key]
        self.names_ = X.cells.names if self.boosters_ else ()
        return self

    def _boosters(self, train: TrainingSet) -> list[Any]:
        cells = train.cells
        if train.n_groups < MIN_GROUPS_FOR_TREES or not cells.y.size:
            return []
        import lightgbm  # seconds that small registries need not pay

        first = self.random_state * 1_000
        is_ranking = self.objective == "lambdarank"

        def grow(seeds: range) -> list[Any]:
            settings = [_tree_settings(self.objective, seed=first + seed) for seed in seeds]
            # Cells of a column stand together, as LightGBM wants the documents of a query.
            data = lightgbm.Dataset(
                cells.x,
                _grades(cells) if is_ranking else cells.y,
                weight=cells.weight / cells.weight.mean(),
                group=np.unique(cells.column, return_counts=True)[1] if is_ranking else None,
                params=settings[0],
                free_raw_data=False,
            )
            return [
                lightgbm.train(each, data, num_boost_round=_N_TREES, keep_training_booster=True)
                for each in settings
            ]

        half = self.n_seeds // 2
        if not half:
            return grow(range(self.n_seeds))
        # Two models side by side use two cores better than two threads inside one small model.
        with ThreadPoolExecutor(max_workers=2) as pool:
            halves = pool.map(grow, (range(half), range(half, self.n_seeds)))
            return [booster for part in halves for booster in part]

    def can_rank(self, query: Query) -> bool:
        """Needs enough task groups."""
        return bool(self.boosters_)

    def predict(self, query: Query) -> Array:
        """Mean over the seeds."""
        if not self.boosters_:
            return np.zeros(len(query.candidates))
        x = self._matrix(query)
        n_threads = 2 if len(x) >= _MANY_ROWS else 1
        predicted: Array = np.mean(
            [b.predict(x, num_threads=n_threads) for b in self.boosters_], axis=0
        )
        return predicted

    def explain(self, query: Query) -> dict[str, Array]:
        """LightGBM's own exact contributions (TreeSHAP), mean over the seeds."""
        if not self.boosters_:
            return {}
        x = self._matrix(query)
        parts = np.mean(
            [b.predict(x, pred_contrib=True, num_threads=1) for b in self.boosters_], axis=0
        )
        return {name: parts[:, i] for i, name in enumerate(self.names_)}

    def _matrix(self, query: Query) -> Array:
        described = self.train_.describe(query)
        blank = np.zeros(len(query.candidates))
        return np.column_stack([described.get(name, blank) for name in self.names_])


def read_booster(text: str) -> Any:
    """A LightGBM model from its own text form.

    Raises:
        ValueError: The text is no model.
    """
    import lightgbm

    try:
        return lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise ValueError(f"Not the text of a LightGBM model: {error}") from error


_N_TREES = 80
_N_GRADES = 5


def _grades(cells: Cells) -> np.ndarray:
    """Which fifth of its column each cell is in, 0 (worst) to 4: what LambdaRank learns from."""
    grades: np.ndarray = np.clip((ndtr(cells.y) * _N_GRADES).astype(int), 0, _N_GRADES - 1)
    return grades


def _tree_settings(objective: str, *, seed: int) -> dict[str, Any]:
    return {
        "objective": objective,
        "num_leaves": 4,
        "min_child_samples": 20,
        "learning_rate": 0.05,
        "lambda_l2": 5.0,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "feature_fraction": 0.8,
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": 1,  # so small that threads would wait for each other most of the time
        "verbose": -1,
    }


class MixRanker(Ranker):
    """z of the stack plus w × z of LightGBM.

    w is 0 below 10 task groups, then n/(n + 1000) for n training rows: on a hundred cells trees
    learn noise, on thousands they know more than the stack.
    """

    def __init__(self, strength: float = 10.0, n_seeds: int = 8, random_state: int = 0) -> None:
        self.strength = strength
        self.n_seeds = n_seeds
        self.random_state = random_state

    def fit(self, X: TrainingSet, y: None = None) -> Self:
        """Fit `stack_`, and `boost_` where the data carry it; `tree_weight_` is its share."""
        self.train_ = X
        self.stack_ = StackRanker(strength=self.strength).fit(X)
        self.boost_: BoostRanker | None = None
        self.tree_weight_ = 0.0
        if X.n_groups >= MIN_GROUPS_FOR_TREES and X.cells.y.size:
            self.boost_ = BoostRanker(n_seeds=self.n_seeds, random_state=self.random_state).fit(X)
            self.tree_weight_ = learnable(X)
        return self

    def predict(self, query: Query) -> Array:
        """The stack's prediction, or the sum of both on the scale of z."""
        total = _unit_parts({"stack": self.stack_.predict(query)}, query)["stack"]
        if self.boost_ is None:
            return total
        trees = _unit_parts({"trees": self.boost_.predict(query)}, query)["trees"]
        both: Array = total + self.tree_weight_ * trees
        return both

    def explain(self, query: Query) -> dict[str, Array]:
        """The parts of both, on the scale of the sum."""
        parts = _unit_parts(self.stack_.explain(query), query)
        if self.boost_ is None:
            return parts
        for name, part in _unit_parts(self.boost_.explain(query), query).items():
            parts[name] = parts.get(name, np.zeros(len(part))) + self.tree_weight_ * part
        return parts


def _unit_parts(parts: Mapping[str, Array], query: Query) -> dict[str, Array]:
    """Centre each part over the candidates and scale all by the spread of their sum."""
    if not parts:
        return {}
    kept = query.candidates if query.candidates.any() else np.ones_like(query.candidates)
    centred = {name: part - part[kept].mean() for name, part in parts.items()}
    spread = float(np.sum(list(centred.values()), axis=0)[kept].std())
    return {name: part / spread if spread > 0 else part for name, part in centred.items()}


METHODS: Mapping[str, Callable[[int, int], Ranker]] = {
    "random": lambda seed, n_seeds: RandomRanker(random_state=seed),
    "majority": lambda seed, n_seeds: NothingRanker(),
    "popularity": lambda seed, n_seeds: PopularityRanker(),
    "popularity_trimmed": lambda seed, n_seeds: PopularityRanker(trim=TRIM),
    "nearest_task": lambda seed, n_seeds: NearestTaskRanker(),
    "semantic": lambda seed, n_seeds: SemanticRanker(),
    "minilm": lambda seed, n_seeds: SemanticRanker("minilm_mean"),
    "perplexity": lambda seed, n_seeds: PerplexityRanker(),
    "trait_regression": lambda seed, n_seeds: TraitRanker(),
    "stack": lambda seed, n_seeds: StackRanker(),
    "lightgbm": lambda seed, n_seeds: BoostRanker(n_seeds=n_seeds, random_state=seed),
    "lambdarank": lambda seed, n_seeds: BoostRanker("lambdarank", max(1, n_seeds // 2), seed),
    "mix": lambda seed, n_seeds: MixRanker(n_seeds=n_seeds, random_state=seed),
}
"""Every ranking method by name; called with the seed and the number of LightGBM seeds."""


def make_ranker(method: str, *, seed: int = 0, n_seeds: int = 8) -> Ranker:
    """A fresh, unfitted model by the name in METHODS."""
    return METHODS[method](seed, n_seeds)


def unit_scores(predicted: Array) -> Array:
    """Standardise a prediction over all sources; what levels and slopes are fitted on."""
    return standardise(predicted[:, None], np.ones((len(predicted), 1), dtype=bool))[:, 0]
