"""Which measured tasks speak for an unseen one: their likeness, and the agreement it foretells.

Likeness comes from features alone, so it may be computed with the target present. How much each
kind of likeness means is learned from measured tasks: tasks that are alike in it should put the
adapters in like orders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from scipy.optimize import nnls

from adapt_lora.recommender.columns import Array, Scale, mean_of_known, standardise

GIVEN = "similarity"
"""The likeness that came with the matrix."""

_MEAN_AGREEMENT = 0.25
"""Mean correlation of two tasks' columns that is assumed before any is seen (experiments.md)."""
_GIVEN_AGREEMENT = 0.05  # the same for one standard deviation of the given similarity
_STRENGTH = 5.0  # of the pull toward these, in tasks
_MEAN_STRENGTH = 0.5  # the mean of many pairs is known sooner than what explains them
_NOISE = 0.3  # added to each task's own variance; also keeps the system well-posed
_LEAST_EIGENVALUE = 0.05
_INNER = "inner/"  # marks likenesses that are inner products, still to be centred
_Z_CLIP = 2.5
_MIN_SHARED = 3  # a correlation over two adapters is ±1


def task_likeness(
    *,
    similarity: Array | None,
    pair_features: Mapping[str, Array],
    target_features: Mapping[str, Array],
    target_vectors: Mapping[str, Array],
) -> dict[str, Array]:
    """Every way in which tasks are known to be alike, (n_targets, n_targets) each; higher = nearer.

    `similarity` as given; −|difference| of each target feature and of its logarithm; inner
    products of the tasks' embeddings, and of their columns of each pair feature ("alike to the
    same sources"), which `Agreement` turns into correlations. A pair feature that is the same for
    all sources describes the target, and counts as a target feature.

    An entry depends on its two tasks alone: centring and scaling wait until a target has left.
    """
    found: dict[str, Array] = {} if similarity is None else {GIVEN: similarity}
    numbers = dict(target_features)
    for name, values in pair_features.items():
        if _is_constant(values, axis=0):
            numbers[name] = mean_of_known(values, axis=0)
        elif not _is_constant(values, axis=1):
            z = np.nan_to_num(standardise(values))
            found[_INNER + name] = z.T @ z
    for name, value in numbers.items():
        logs = np.log(np.where(value > 0, value, np.nan))
        found[name] = -np.abs(value[:, None] - value[None, :])
        found[f"log/{name}"] = -np.abs(logs[:, None] - logs[None, :])
    for name, vectors in target_vectors.items():
        found[_INNER + name] = vectors @ vectors.T
    return {name: x for name, x in found.items() if np.isfinite(x).any()}


def _is_constant(values: Array, *, axis: int) -> bool:
    known = np.isfinite(values)
    low = np.where(known, values, np.inf).min(axis=axis, initial=np.inf)
    high = np.where(known, values, -np.inf).max(axis=axis, initial=-np.inf)
    measured = known.any(axis=axis)
    span = high[measured] - low[measured]
    return bool((span <= 1e-9 * np.maximum(np.abs(high[measured]), 1.0)).all())


@dataclass(frozen=True, slots=True, eq=False)
class _Centre:
    """Turns inner products with tasks into correlations, after taking off the tasks' mean."""

    to_mean: Array
    """(n_targets,): mean inner product of each task with all."""
    overall: float
    """Mean of `to_mean`."""
    size: Array
    """(n_targets,): length of each centred column; NaN where it is the mean itself."""

    @classmethod
    def of(cls, inner: Array) -> Self:
        to_mean = mean_of_known(inner, axis=0)
        overall = float(mean_of_known(to_mean, axis=0))
        return cls(to_mean, overall, _length(np.diag(inner) - 2 * to_mean + overall))

    def among(self, inner: Array) -> Array:
        """(n_targets, n_targets)."""
        centred = inner - self.to_mean[:, None] - self.to_mean[None, :] + self.overall
        correlation: Array = centred / (self.size[:, None] * self.size[None, :])
        return correlation

    def to_target(self, inner: Array) -> Array:
        """(n_targets,), from inner products with each task and, last, with itself."""
        to_mean = float(mean_of_known(inner[:-1], axis=0))
        size = _length(inner[-1:] - 2 * to_mean + self.overall)
        correlation: Array = (inner[:-1] - to_mean - self.to_mean + self.overall) / (
            self.size * size
        )
        return correlation


def _length(squared: Array) -> Array:
    length: Array = np.sqrt(np.where(squared > 1e-9, squared, np.nan))
    return length


class Agreement:
    """Predicts from likeness how far two tasks agree about adapters, and weighs tasks by it.

    The correlation of two measured columns is regressed on the tasks' likeness (non-negative
    ridge toward a prior). The same regression gives the expected correlation c of an unseen task
    with each measured one and the matrix M among these; the best linear prediction of the unseen
    column is then Σ_t w_t z_t with w = (M + noise)⁻¹ c: simple kriging (Cressie 1993, section 3.2)
    with a learned covariance. Tasks that say the same share their weight.
    """

    def fit(self, standard: Array, groups: Sequence[str], likeness: Mapping[str, Array]) -> Self:
        """Learn from measured tasks.

        Args:
            standard: (n_sources, n_targets) z within each column, NaN = not measured.
            groups: Group of each column; pairs within a group teach nothing about likeness.
            likeness: (n_targets, n_targets) each; see `task_likeness`.
        """
        inner = {name: x for name, x in likeness.items() if name.startswith(_INNER)}
        self.centres_ = {name: _Centre.of(x) for name, x in inner.items()}
        likeness = {**likeness, **{name: self.centres_[name].among(x) for name, x in inner.items()}}
        z = np.nan_to_num(np.clip(standard, -_Z_CLIP, _Z_CLIP))
        known = np.isfinite(standard).astype(np.float64)
        shared = known.T @ known
        observed = (z.T @ z) / np.maximum(shared, 1.0)
        names = np.asarray(groups)
        twins = names[:, None] == names[None, :]
        pairs = np.triu(~twins, 1) & (shared >= _MIN_SHARED)
        self.scales_ = {name: _scale_of(x[pairs]) for name, x in likeness.items()}
        self.weights_ = self._regress(observed, pairs, likeness)
        matrix = np.clip(self._expected(likeness, (len(groups), len(groups))), -1.0, 0.95)
        # What twins share was measured, not predicted: nine columns of one benchmark are one task.
        matrix = np.where(twins, np.maximum(matrix, np.clip(observed, 0.0, 0.95)), matrix)
        np.fill_diagonal(matrix, 1.0)
        self.covariance_ = (matrix + matrix.T) / 2
        self.standard_ = z
        return self

    def _regress(self, observed: Array, pairs: Array, likeness: Mapping[str, Array]) -> Array:
        """(1 + n_kinds,) weights of the mean and of each kind of likeness, none below 0."""
        columns = [
            np.nan_to_num(self.scales_[name].apply(x[pairs.astype(bool)]))
            for name, x in likeness.items()
        ]
        x = np.column_stack([np.ones(int(pairs.sum())), *columns])
        prior = np.array([_MEAN_AGREEMENT, *(_GIVEN_AGREEMENT * (n == GIVEN) for n in likeness)])
        pull = np.array([_MEAN_STRENGTH, *([_STRENGTH] * len(likeness))])
        # K(K − 1)/2 pairs of K tasks are worth K observations: they are far from independent.
        worth = len(pairs) / max(int(pairs.sum()), 1)
        gram = worth * (x.T @ x) + np.diag(pull)
        moment = worth * (x.T @ observed[pairs.astype(bool)]) + pull * prior
        root = np.linalg.cholesky(gram).T
        weights: Array = nnls(root, np.linalg.solve(root.T, moment))[0]
        return weights

    def _expected(self, likeness: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
        total = np.full(shape, self.weights_[0])
        for weight, (name, scale) in zip(self.weights_[1:], self.scales_.items(), strict=True):
            if weight > 0 and name in likeness:
                # Unknown counts as average.
                total = total + weight * np.nan_to_num(scale.apply(likeness[name]))
        return total

    @cached_property
    def _solved(self) -> Array:
        """(n_sources, n_targets): z · (M + noise)⁻¹."""
        values, vectors = np.linalg.eigh(self.covariance_)  # likeness need not be a kernel
        lifted = np.maximum(values, _LEAST_EIGENVALUE) + _NOISE
        solved: Array = self.standard_ @ (vectors / lifted) @ vectors.T
        return solved

    def expected(self, likeness: Mapping[str, Array]) -> Array:
        """(n_targets,): correlation to expect between an unseen task and each measured one.

        `likeness` holds the unseen task's with each measured one and, last, with itself.
        """
        centred = {
            name: self.centres_[name].to_target(x) if name in self.centres_ else x[:-1]
            for name, x in likeness.items()
        }
        return self._expected(centred, (len(self.covariance_),))

    def predict(self, likeness: Mapping[str, Array]) -> Array:
        """(n_sources,): expected z on an unseen task."""
        predicted: Array = self._solved @ self.expected(likeness)
        return predicted


def _scale_of(values: Array) -> Scale:
    """Of one kind of likeness over pairs of measured tasks; where all are alike, as it stands."""
    scale = Scale.of(values[np.isfinite(values)])
    return scale if scale.spread > 0 else replace(scale, spread=np.ones(()))
