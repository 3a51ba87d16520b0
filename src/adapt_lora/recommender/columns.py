"""Arithmetic on arrays with gaps: a column is a task, NaN is not measured."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

TRIM = 0.2
"""Share of a source's z-scores cut from each end before averaging (experiments.md, finding 1)."""

_MAX_WEIGHT_RATIO = 20.0  # one near-twin must not be the only neighbour that counts


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """What was measured of each column, or of a single one, in two numbers."""

    mean: Array
    """(n_columns,), or one number; 0 where nothing was measured."""
    spread: Array
    """The same shape: standard deviation; 0 for a constant column."""

    @classmethod
    def of(cls, values: Array) -> Self:
        """Moments over what was measured, (n_rows, n_columns) or (n_rows,); NaN = not measured.

        A spread that is mere rounding is none: blown up to 1 it would look like knowledge.
        """
        known = np.isfinite(values)
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, values, 0.0).sum(axis=0) / count
        spread = np.sqrt((np.where(known, values - mean, 0.0) ** 2).sum(axis=0) / count)
        flat = spread <= 1e-12 * np.maximum(np.abs(mean), 1e-12)
        return cls(mean, np.where(flat, 0.0, spread))

    def apply(self, values: Array) -> Array:
        """(x − mean)/spread; a constant column becomes 0, a gap stays NaN."""
        varied = self.spread > 0
        scaled: Array = (values - self.mean) * varied / np.where(varied, self.spread, 1.0)
        return scaled

    def undo(self, standard: Array) -> Array:
        """The inverse of `apply`."""
        values: Array = standard * self.spread + self.mean
        return values


def standardise(values: Array, mask: Mask | None = None) -> Array:
    """z-scores over the masked entries of each column, NaN elsewhere; 0 where all are equal.

    Without a mask over all that is known. `values` may be a single column, (n_rows,).
    """
    kept = values if mask is None else np.where(mask, values, np.nan)
    return Scale.of(kept).apply(kept)


def mean_of_known(values: Array, axis: int = 1) -> Array:
    """Mean over the finite entries of each row (axis 1) or column (0); NaN where there is none."""
    known = np.isfinite(values)
    n = known.sum(axis=axis)
    mean = np.where(known, values, 0.0).sum(axis=axis) / np.maximum(n, 1)
    found: Array = np.where(n > 0, mean, np.nan)
    return found


def weighted_mean(values: Array, weights: Array) -> Array:
    """Mean of each row over its known entries, (n, t) × (t,) → (n,); NaN where nothing weighs."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0) @ weights
    weight = known @ weights
    means: Array = np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)
    return means


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


def neighbour_weights(similarity: Array) -> Array:
    """Exp of the standardised task similarity, each at most 20 × the median; NaN weighs 0."""
    known = np.isfinite(similarity)
    weights: Array = np.where(known, np.exp(np.nan_to_num(standardise(similarity))), 0.0)
    if known.any():
        weights = np.minimum(weights, _MAX_WEIGHT_RATIO * np.median(weights[known]))
    return weights


def cosines(matrix: Array, vector: Array) -> Array:
    """Cosine of each row with a vector; NaN where either is absent or zero."""
    norms = np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = np.where(norms > 0, (matrix @ vector) / norms, np.nan)
    return found
