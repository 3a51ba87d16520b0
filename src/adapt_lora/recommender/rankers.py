"""What every ranking model can do, and the models that look at one thing alone.

They keep scikit-learn's promises: `__init__` only stores, `fit` returns self, what was learned
ends in `_`, `predict` never refits.
"""

import zlib
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator

from adapt_lora.recommender.columns import Array, shrunken_popularity, standardise
from adapt_lora.recommender.components import impute, principal_components
from adapt_lora.recommender.table import Query
from adapt_lora.recommender.training_set import TrainingSet


class Ranker(BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """What every ranking model can do. Higher predictions are better; only their order counts."""

    reason = "popularity"
    """The feature that a model of one feature looks at; or "chance", or "nothing"."""

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

    def expected(self, query: Query) -> Array:
        """Mean of `predict` over the model's own chance: what a back-test judges it by."""
        return self.predict(query)

    def explain(self, query: Query) -> dict[str, Array]:
        """Parts of the prediction by feature; for a linear model they sum to it."""
        return {self.reason: np.nan_to_num(self.predict(query))}


class RandomRanker(Ranker):
    """A shuffle that is the same for the same target and seed."""

    reason = "chance"

    def __init__(self, random_state: int = 0) -> None:
        self.random_state = random_state

    def predict(self, query: Query) -> Array:
        """Uniform noise."""
        rng = np.random.default_rng([self.random_state, zlib.crc32(query.target.encode())])
        return rng.random(len(query.candidates))

    def expected(self, query: Query) -> Array:
        """One half for every source: all tie, and the metrics are means over every order."""
        return np.full(len(query.candidates), 0.5)


class NothingRanker(Ranker):
    """The null: like the constant guess of a label, it tells no adapter from another."""

    reason = "nothing"

    def predict(self, query: Query) -> Array:
        """Zeros; the metrics are means over every order of ties."""
        return np.zeros(len(query.candidates))


class PopularityRanker(Ranker):
    """(Trimmed) mean z-score over the other task groups."""

    def __init__(self, trim: float = 0.0) -> None:
        self.trim = trim

    def predict(self, query: Query) -> Array:
        """The mean, 0 (average) for adapters that were never measured."""
        return np.nan_to_num(shrunken_popularity(self.train_.standard, self.trim))


class NearestTaskRanker(Ranker):
    """z-scores on the most similar measured task; popularity breaks ties and fills gaps."""

    reason = "neighbours"

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


class SemanticRanker(Ranker):
    """Similarity of the adapter's training data to the target, of all embeddings or of one."""

    reason = "similarity"

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
        return np.nan_to_num(standardise(cosine, query.candidates))

    def _similarity(self, query: Query) -> Array | None:
        if self.vectors is None:
            return self.train_.similarity(query)
        vectors = self.train_.table.source_vectors
        alone = {self.vectors: vectors[self.vectors]} if self.vectors in vectors else {}
        return self.train_.mean_cosine(alone, query)


class PerplexityRanker(Ranker):
    """Training data that the base finds easy helps more (Harada et al. 2025, RQ2)."""

    reason = "perplexity"

    def can_rank(self, query: Query) -> bool:
        """Needs the perplexity of training data."""
        return "perplexity" in self.train_.table.source_features

    def predict(self, query: Query) -> Array:
        """Z of −ln perplexity; 0 (average) where unknown."""
        return self.train_.describe(query).get("perplexity", np.zeros(len(query.candidates)))


class TraitRanker(Ranker):
    """Predicts the target's loadings from its likeness to known tasks, times the adapters' traits.

    Traits are refitted here, on the table without the target's group. Loadings are regressed by
    kernel ridge on the similarity of tasks; without any similarity they are the mean loadings.
    """

    reason = "traits"

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
