"""A logistic regression of harm: by hand, for each coefficient has its own ridge.

scikit-learn's logistic has one strength for all coefficients, and folds fit it thousands of times.
"""

import numpy as np

from adapt_lora.recommender.columns import Array

_PRIOR = 2.0  # pseudo-cells at the overall harm rate, for adapters measured a few times
_NEWTON_STEPS = 25


def shrunken_rate(harmed: Array) -> Array:
    """Harm rate per source, pulled toward the overall rate by two pseudo-cells.

    Args:
        harmed: (n_sources, n_targets): 1 where it did harm, 0 where not, NaN not measured.
    """
    known = np.isfinite(harmed)
    n = known.sum(axis=1)
    hits = np.where(known, harmed, 0.0).sum(axis=1)
    overall = (hits.sum() + 0.5) / (n.sum() + 1.0)
    rate: Array = (hits + _PRIOR * overall) / (n + _PRIOR)
    return rate


def logit(p: Array) -> Array:
    """ln(p/(1 − p)), p kept within [.001, .999]."""
    clipped = np.clip(p, 1e-3, 1 - 1e-3)
    odds: Array = np.log(clipped / (1 - clipped))
    return odds


def sigmoid(x: Array) -> Array:
    """1/(1 + exp(−x))."""
    p: Array = 1.0 / (1.0 + np.exp(-np.clip(x, -30, 30)))
    return p


def ridge_logistic(x: Array, y: Array, weight: Array, ridge: Array) -> Array:
    """(intercept, coefficients) by Newton steps, with a ridge on all but the intercept.

    Args:
        x: (n, k).
        y: (n,) of 0 and 1.
        weight: (n,) of each row.
        ridge: (k,) strength on each coefficient.
    """
    x = np.column_stack([np.ones(len(x)), x])
    penalty = np.diag([1e-6, *ridge])
    beta = np.zeros(x.shape[1])
    for _ in range(_NEWTON_STEPS):
        p = sigmoid(x @ beta)
        gradient = x.T @ (weight * (p - y)) + penalty @ beta
        curve = (x.T * (weight * np.maximum(p * (1 - p), 1e-6))) @ x + penalty
        step = np.linalg.solve(curve, gradient)
        beta = beta - np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-8:
            break
    return beta
