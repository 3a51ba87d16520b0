"""Principal components of tables with gaps: standardise, fill, decompose, score what is sparse."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from adapt_lora.recommender.columns import Array, Scale

_ROUNDS = 500
_FOLDS = 5
_MOST_COMPONENTS = 10
"""Tried by cross-validation; transfer matrices need two to five (Ruan et al. 2024, section 3)."""


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """A truncated principal component analysis of one standardised matrix."""

    scores: Array
    """(n_rows, k)."""
    loadings: Array
    """(n_columns, k): unit eigenvectors as columns."""
    explained_variance_ratio: Array
    """(k,)."""


@dataclass(frozen=True, slots=True)
class RankChoice:
    """How many components predict cells that were held out."""

    n_components: int
    """The number with the smallest error; 0 where none beats the column's mean."""
    errors: tuple[float, ...]
    """Root mean square error in standard deviations of the task, for 0, 1, 2, … components."""


@dataclass(frozen=True, slots=True, eq=False)
class RowScores:
    """Coordinates of rows that may have gaps."""

    scores: Array
    """(n_rows, k)."""
    errors: Array | None
    """(n_rows, k): standard errors; None where too few cells are left over to know the noise."""


def principal_components(values: Array, *, n_components: int) -> Components:
    """Components of a complete matrix; each sign makes the largest loading positive."""
    centred = values - values.mean(axis=0)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    k = min(n_components, len(s))
    total = float((s**2).sum())
    # The first of several loadings that are equal but for rounding decides, on every machine.
    size = np.round(np.abs(vt[:k]), 8)
    signs = np.sign(vt[np.arange(k), size.argmax(axis=1)])
    signs[signs == 0] = 1.0
    share = s[:k] ** 2 / total if total > 0 else np.zeros(k)
    return Components(u[:, :k] * s[:k] * signs, vt[:k].T * signs, share)


def impute(
    standard: Array, *, n_components: int, tolerance: float = 1e-7, start: Array | None = None
) -> Array:
    """Fill NaN of a standardised matrix by its own low-rank reconstruction.

    Args:
        standard: (n_rows, n_columns); columns of mean 0 and spread 1.
        n_components: Rank of the reconstruction; 0 leaves the gaps at the start.
        tolerance: Stops when no filled cell moves by more than this, in standard deviations.
        start: First guess of the gaps, same shape; 0, the column's mean, by default.

    Regularised EM for principal components, Josse and Husson 2012 (J. SFdS 153, section 3). By
    hand: scikit-learn has no PCA of tables with gaps, and its IterativeImputer knows no number of
    components to choose.
    """
    gaps = np.isnan(standard)
    filled: Array = np.where(gaps, 0.0 if start is None else start, standard)
    # A component for every row or column would reproduce any filling: leave some variance over.
    k = min(n_components, max(1, min(standard.shape) - 2))
    if k < 1 or not gaps.any():
        return filled
    is_wide = standard.shape[0] < standard.shape[1]
    for _ in range(_ROUNDS):
        mean = filled.mean(axis=0)
        centred = filled - mean
        # The smaller Gram matrix has the same leading directions and costs a fraction of the SVD.
        values, vectors = np.linalg.eigh(centred @ centred.T if is_wide else centred.T @ centred)
        values = np.maximum(values, 0.0)
        rest = float(values[:-k].mean()) if len(values) > k else 0.0
        # Noise must not be extrapolated into the gaps: what the rest explains is taken off.
        kept = np.maximum(values[-k:] - rest, 0.0) / np.maximum(values[-k:], 1e-24)
        leading = vectors[:, -k:]
        if is_wide:
            guess = mean + (leading * kept) @ (leading.T @ centred)
        else:
            guess = mean + ((centred @ leading) * kept) @ leading.T
        step = float(np.abs(np.where(gaps, guess - filled, 0.0)).max())
        filled = np.where(gaps, guess, filled)
        if step < tolerance:
            break
    return filled


def choose_rank(values: Array, *, seed: int = 0) -> RankChoice:
    """How many components fill gaps best, by five-fold cross-validation over measured cells.

    A fifth of the measured cells is taken out at a time, the rest standardised anew and filled
    with 0, 1, 2, … components; the smallest mean squared error over all cells wins. The search
    ends at ten components, or when two in succession were worse than the best.

    Args:
        values: (n_rows, n_columns), not standardised; NaN = not measured.
        seed: Decides which cells leave together.

    After Josse and Husson 2012 (CSDA 56, 1869).
    """
    scale = Scale.of(values)
    standard = scale.apply(values)
    folds = [_Fold.without(cells, standard) for cells in _cell_folds(standard, seed)]
    errors: list[float] = []
    for k in range(min(_MOST_COMPONENTS, max(0, min(values.shape) - 2)) + 1):
        squared = np.concatenate([fold.squared_errors(k) for fold in folds] or [np.zeros(1)])
        errors.append(float(np.sqrt(squared.mean())))
        if len(errors) - int(np.argmin(errors)) > 2:
            break
    return RankChoice(int(np.argmin(errors)), tuple(errors))


def score_rows(standard: Array, parts: Components) -> RowScores:
    """Each row's coordinates by least squares on the loadings of what was measured of it.

    With O the measured and M the missing tasks of a row z, L the loadings, λ the components'
    variances and σ² the noise per cell:
    B = L_O'L_O + D L_M'L_M D, D = diag(min(1, σ/√λ)); score = B⁻¹ L_O' z_O; error² = σ² diag(B⁻¹).
    A complete row has B = 1: the component's own coordinate, error σ. A row without a single
    score has 0 ± √λ, what is known of any adapter. No error is below σ.

    Args:
        standard: (n_rows, n_columns), NaN = not measured, in the units that `parts` was made from.
        parts: Orthonormal loadings, and the scores whose variances are λ.

    Least squares onto the model plane: Nelson, Taylor and MacGregor 1996; what is not measured is
    held by the spread of the component as in Tipping and Bishop 1999.
    """
    n, t = standard.shape
    loadings = parts.loadings
    k = loadings.shape[1]
    known = np.isfinite(standard)
    variances = (parts.scores**2).mean(axis=0)  # (k,)
    dof = (n - 1 - k) * (t - k) * known.mean()
    plane = parts.scores @ loadings.T
    noise = float((np.where(known, standard - plane, 0.0) ** 2).sum() / max(dof, 1.0))
    floor = 1e-9 * float(variances.max(initial=0.0)) + 1e-300
    pull = np.sqrt(np.minimum(1.0, max(noise, floor) / np.maximum(variances, floor)))  # (k,)
    products = loadings[:, :, None] * loadings[:, None, :]  # (t, k, k)
    measured = np.tensordot(known.astype(float), products, axes=1)  # (n, k, k)
    missing = np.tensordot((~known).astype(float), products, axes=1)
    b = measured + pull[:, None] * missing * pull
    right = np.where(known, standard, 0.0) @ loadings  # (n, k)
    scores = np.linalg.solve(b, right[:, :, None])[:, :, 0]
    if dof < 1:
        return RowScores(scores, None)
    widths = np.diagonal(np.linalg.inv(b), axis1=1, axis2=2)  # (n, k)
    return RowScores(scores, np.sqrt(noise * np.maximum(widths, 1.0)))


@dataclass(slots=True, eq=False)
class _Fold:
    """Some cells out of sight, and the last filling of the rest to go on from."""

    cells: tuple[Array, Array]
    truth: Array
    scale: Scale
    standard: Array
    filled: Array | None = None

    @classmethod
    def without(cls, cells: tuple[Array, Array], standard: Array) -> Self:
        rest = standard.copy()
        rest[cells] = np.nan
        scale = Scale.of(rest)
        return cls(cells, standard[cells], scale, scale.apply(rest))

    def squared_errors(self, k: int) -> Array:
        filled = impute(self.standard, n_components=k, tolerance=1e-2, start=self.filled)
        self.filled = filled
        errors: Array = (self.scale.undo(filled)[self.cells] - self.truth) ** 2
        return errors


def _cell_folds(standard: Array, seed: int) -> list[tuple[Array, Array]]:
    """Places of measured cells, dealt to five; none from rows or columns that have too few."""
    known = np.isfinite(standard)
    spare = known & (known.sum(axis=1) > 2)[:, None] & (known.sum(axis=0) > 2)
    rows, columns = np.nonzero(spare)
    dealt = np.random.default_rng(seed).permutation(len(rows)) % _FOLDS
    folds = [(rows[dealt == fold], columns[dealt == fold]) for fold in range(_FOLDS)]
    return [cells for cells in folds if len(cells[0])]
