"""Every ranking method by name, LightGBM and its blend with the stack among them."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np
from scipy.special import ndtr

from adapt_lora.recommender.columns import TRIM, Array
from adapt_lora.recommender.rankers import (
    NearestTaskRanker,
    NothingRanker,
    PerplexityRanker,
    PopularityRanker,
    RandomRanker,
    Ranker,
    SemanticRanker,
    TraitRanker,
)
from adapt_lora.recommender.stack import StackRanker, learnable
from adapt_lora.recommender.table import Query
from adapt_lora.recommender.training_set import TrainingSet

MIN_GROUPS_FOR_TREES = 10
"""Below this many task groups LightGBM learns the tasks by heart (docs/experiments.md, 5)."""

_N_TREES = 80
_N_GRADES = 5
_MANY_ROWS = 10_000  # candidates from which a second thread saves more than it costs


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
        # Which fifth of its column each cell is in, 0 (worst) to 4: what LambdaRank learns from.
        grades = np.clip((ndtr(cells.y) * _N_GRADES).astype(int), 0, _N_GRADES - 1)

        def grow(seeds: range) -> list[Any]:
            settings = [_tree_settings(self.objective, seed=first + seed) for seed in seeds]
            # Cells of a column stand together, as LightGBM wants the documents of a query.
            data = lightgbm.Dataset(
                cells.x,
                grades if is_ranking else cells.y,
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
