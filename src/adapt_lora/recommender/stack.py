"""The stack: a small blend of features, shrunken toward what is believed beforehand."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.optimize import nnls
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from adapt_lora.recommender.catalogue import is_nonnegative
from adapt_lora.recommender.columns import Array
from adapt_lora.recommender.rankers import Ranker
from adapt_lora.recommender.table import Query
from adapt_lora.recommender.training_set import Cells, TrainingSet

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

_STARTS: Sequence[Collection[str]] = ((), ("similarity",), ("similarity", "neighbours"))
"""Features whose starting weight is taken away, should the measured tasks speak against it: on some
shelves likeness of data finds the best adapters, on others it tells nothing."""

_STANDING = ("popularity", "related_tasks", "elsewhere")
"""Features that share the starting weight of an adapter's standing."""

_START_FOLDS = 10
_MIN_GROUPS_TO_START = 5
_CLEAR_START = 1.0  # standard errors by which a start must win


class ShrunkenRidge(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """Linear regression without intercept whose weights are pulled toward a prior.

    Minimises Σ w (y − xβ)² + Σ_j strength_j (β_j − prior_j)², β ≥ 0 where asked.
    """

    def __init__(
        self,
        strength: float | Sequence[float] = 10.0,
        prior: Sequence[float] | None = None,
        nonnegative: Sequence[bool] | None = None,
    ) -> None:
        self.strength = strength
        self.prior = prior
        self.nonnegative = nonnegative

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn `coef_`; what is no single number holds one entry per column of X."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        n_features = X.shape[1]
        prior = [0.0] * n_features if self.prior is None else self.prior
        bound = np.zeros(n_features, dtype=bool)
        if self.nonnegative is not None:
            bound = np.asarray(self.nonnegative, dtype=bool)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not weight.any():
            raise ValueError("Every sample weight is zero: there is nothing to fit.")
        pull = np.broadcast_to(np.asarray(self.strength, dtype=np.float64), n_features)
        gram = (X.T * weight) @ X + np.diag(pull)
        moment = (X.T * weight) @ y + pull * np.asarray(prior, dtype=np.float64)
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


class StackRanker(Ranker):
    """Small blend of popularity, similarity, neighbours and the rest, shrunken toward a prior.

    Ridge onto within-column normal scores, non-negative for what can't be held against an
    adapter, every task group weighted equally; with few groups it is the prior. Whether likeness
    of data has a place in the prior is decided by groups that are left out in turn; the prior lets
    go as far as groups say that it trusts standing too much (`_pulls`).
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
            strength=_pulls(cells, start, self.strength),
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


@dataclass(frozen=True, slots=True, eq=False)
class _GroupSums:
    """Weighted sums over the cells of each task group; a description never saw its own group."""

    grams: Array
    """(n_groups, n_features, n_features): Σ w x xᵀ."""
    moments: Array
    """(n_groups, n_features): Σ w x y."""
    weights: Array
    """(n_groups,): Σ w."""

    @classmethod
    def of(cls, cells: Cells) -> Self:
        grams, moments, weights = [], [], []
        for group in dict.fromkeys(cells.group.tolist()):
            mine = cells.group == group
            weighted = cells.x[mine].T * cells.weight[mine]
            grams.append(weighted @ cells.x[mine])
            moments.append(weighted @ cells.y[mine])
            weights.append(float(cells.weight[mine].sum()))
        return cls(np.array(grams), np.array(moments), np.array(weights))


def _pulls(cells: Cells, start: Mapping[str, float], strength: float) -> list[float]:
    """How strongly each feature's weight is pulled toward its start, one per name of the cells.

    `strength`, but less for all features that start with a weight where the groups speak against
    the trust in standing. Evidence of a group: covariance of standing with what the start leaves
    unexplained; its mean over K groups is d, below 0 where standing is trusted too much. With its
    error v, the spread of true deviations is τ² = d² − v (method of moments), and a pull of
    K c v/τ², for standing of variance c, moves the weight by τ²/(τ² + v) of what the groups ask:
    empirical Bayes, Morris 1983 (JASA 78, 47).
    """
    sums = _GroupSums.of(cells)
    k = len(sums.weights)
    prior = np.array([start.get(name, 0.0) for name in cells.names])
    share = np.where([name in _STANDING for name in cells.names], prior, 0.0)
    if k < _MIN_GROUPS_TO_START or not share.any():
        return [strength] * len(prior)
    share = share / share.sum()
    total = float(sums.weights.sum())
    evidence = (sums.moments - sums.grams @ prior) @ share
    d = float(evidence.sum()) / total
    # What one group says of another stands in the evidence of both, so only half of it is news.
    v = 2 * float(((evidence - sums.weights * d) ** 2).sum()) * k / (k - 1) / total**2
    excess = d**2 - v
    if d >= 0 or excess <= 0:
        return [strength] * len(prior)
    pull = min(strength, float(share @ sums.grams.sum(axis=0) @ share) * v / excess)
    return [pull if weight else strength for weight in prior.tolist()]


def _best_start(cells: Cells, starts: Sequence[Mapping[str, float]], strength: float) -> int:
    """The first start, or the best where it wins clearly on groups that it was not fitted on.

    Merit of a group: correlation of the fitted score with the normal scores of its cells.
    """
    sums = _GroupSums.of(cells)
    grams, moments, n_groups = sums.grams, sums.moments, len(sums.weights)
    if n_groups < _MIN_GROUPS_TO_START:
        return 0
    bound = np.array([is_nonnegative(name) for name in cells.names])
    priors = np.array([[start.get(name, 0.0) for name in cells.names] for start in starts])
    all_grams, all_moments = grams.sum(axis=0), moments.sum(axis=0)
    n_folds = min(_START_FOLDS, n_groups)
    merit = np.zeros((len(starts), n_groups))
    for fold in range(n_folds):
        held = range(fold, n_groups, n_folds)
        gram = all_grams - grams[held].sum(axis=0)
        moment = all_moments - moments[held].sum(axis=0)
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
