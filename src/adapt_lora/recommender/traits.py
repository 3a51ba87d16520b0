"""Traits: principal components of the column-standardised transfer matrix (Krishna et al. 2025)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adapt_lora.errors import MatrixError
from adapt_lora.recommender.table import Array

_ROUNDS = 500


@dataclass(frozen=True, slots=True)
class Traits:
    """What varies between adapters, in a few numbers each."""

    names: tuple[str, ...]
    """One per trait, from the tasks at its poles; only letters that MLflow keys allow."""
    explained_variance_ratio: tuple[float, ...]
    """Share of the variance of the standardised matrix, per trait; descending."""
    loadings: dict[str, tuple[float, ...]]
    """Task → its entry in each unit eigenvector."""
    scores: dict[str, tuple[float, ...]]
    """Adapter (the base among them) → its coordinate on each trait."""
    n_imputed: int = 0
    """Cells that were not measured and were filled by the model."""

    def to_json(self) -> dict[str, Any]:
        """The object that `adapt traits --json` prints, without its schema version."""
        return {
            "explained_variance_ratio": list(self.explained_variance_ratio),
            "loadings": {task: list(row) for task, row in self.loadings.items()},
            "scores": {adapter: list(row) for adapter, row in self.scores.items()},
            "names": list(self.names),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """A truncated principal component analysis of one standardised matrix."""

    scores: Array
    """(n_rows, k)."""
    loadings: Array
    """(n_columns, k): unit eigenvectors as columns."""
    explained_variance_ratio: Array
    """(k,)."""


def fit_traits(
    scores: Array, *, n_components: int = 4, adapters: Sequence[str], tasks: Sequence[str]
) -> Traits:
    """Standardise each task's column, fill gaps, and take the principal components.

    Args:
        scores: (n_adapters, n_tasks), the base row included; NaN = not measured.
        n_components: How many traits; fewer where the matrix has fewer.
        adapters: Names of the rows.
        tasks: Names of the columns.

    Raises:
        MatrixError: Fewer than two rows or columns, or a row or column without any score.

    Gaps are filled by iterating the truncated decomposition to convergence (EM for PCA; Josse and
    Husson 2012), so shares of a matrix with many gaps flatter the first traits.
    """
    values = np.asarray(scores, dtype=np.float64)
    _check(values, adapters, tasks, n_components)
    standard = _standardised(values)
    filled = impute(standard, n_components=n_components)
    parts = principal_components(filled, n_components=n_components)
    return Traits(
        names=_names(parts.loadings, tasks),
        explained_variance_ratio=tuple(float(v) for v in parts.explained_variance_ratio),
        loadings={t: _floats(row) for t, row in zip(tasks, parts.loadings, strict=True)},
        scores={a: _floats(row) for a, row in zip(adapters, parts.scores, strict=True)},
        n_imputed=int(np.isnan(values).sum()),
    )


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


def impute(standard: Array, *, n_components: int, tolerance: float = 1e-7) -> Array:
    """Fill NaN of a standardised matrix by its own low-rank reconstruction, starting from 0.

    Stops when no filled cell moves by more than `tolerance` standard deviations.
    """
    gaps = np.isnan(standard)
    filled: Array = np.where(gaps, 0.0, standard)
    if not gaps.any():
        return filled
    # A component for every row or column would reproduce any filling: leave some variance over.
    k = max(1, min(n_components, min(standard.shape) - 2))
    for _ in range(_ROUNDS):
        mean = filled.mean(axis=0)
        u, s, vt = np.linalg.svd(filled - mean, full_matrices=False)
        rest = float((s[k:] ** 2).mean()) if len(s) > k else 0.0
        # Regularised as in Josse and Husson 2012: noise must not be extrapolated into the gaps.
        kept = np.where(s[:k] > 0, np.maximum(s[:k] ** 2 - rest, 0.0) / np.maximum(s[:k], 1e-12), 0)
        guess = mean + (u[:, :k] * kept) @ vt[:k]
        step = float(np.abs(np.where(gaps, guess - filled, 0.0)).max())
        filled = np.where(gaps, guess, filled)
        if step < tolerance:
            break
    return filled


def _check(values: Array, adapters: Sequence[str], tasks: Sequence[str], k: int) -> None:
    if values.shape != (len(adapters), len(tasks)):
        raise MatrixError(
            f"The scores are {values.shape}, but there are {len(adapters)} adapters and "
            f"{len(tasks)} tasks."
        )
    if min(values.shape, default=0) < 2:
        raise MatrixError(
            f"Traits need at least two rows and two tasks, not {len(adapters)} × {len(tasks)}. "
            "Evaluate more adapters or tasks first."
        )
    if k < 1:
        raise MatrixError(f"{k} traits were asked for; at least one is needed.")
    known = np.isfinite(values)
    empty = [a for a, row in zip(adapters, known, strict=True) if not row.any()]
    empty += [t for t, column in zip(tasks, known.T, strict=True) if not column.any()]
    if empty:
        raise MatrixError(f"No score at all for {', '.join(empty)}: leave them out.")


def _standardised(values: Array) -> Array:
    """(x − mean)/sd per column over what was measured; a constant column becomes 0."""
    mean = np.nanmean(values, axis=0)
    spread = np.nanstd(values, axis=0)
    flat = spread <= 1e-12 * np.maximum(np.abs(mean), 1e-12)
    scaled: Array = np.where(flat, 0.0 * values, (values - mean) / np.where(flat, 1.0, spread))
    return scaled


def _names(loadings: Array, tasks: Sequence[str]) -> tuple[str, ...]:
    """Up to three tasks at the poles, as in "T1 GSM8K Goat vs IMDB": above 60 % of the largest."""
    names = []
    for i, column in enumerate(loadings.T, start=1):
        largest = np.abs(column).max()
        strong = [t for t in np.argsort(-np.abs(column)) if abs(column[t]) >= 0.6 * largest][:3]
        high = [_key(tasks[t]) for t in strong if column[t] > 0]
        low = [_key(tasks[t]) for t in strong if column[t] < 0]
        poles = " ".join(high) + (f" vs {' '.join(low)}" if low else "")
        names.append(f"T{i} {poles}")
    return tuple(names)


def _key(task: str) -> str:
    return re.sub(r"[^\w.-]+", "-", task).strip("-")


def _floats(row: Array) -> tuple[float, ...]:
    return tuple(float(value) for value in row)
