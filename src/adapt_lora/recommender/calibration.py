"""Whether predicted gains, their intervals and P(harm) mean what they say: out-of-fold, counted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from adapt_lora.recommender.columns import Array

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Nominal levels at which coverage is counted."""

_MAX_BINS = 8
_MIN_IN_BIN = 15
_N_BOOTSTRAP = 1_000


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """One gain, predicted without its task's group, and what was measured."""

    adapter: str
    """Name or id of the adapter."""
    target: str
    """The task."""
    group: str
    """Its group, which the prediction has not seen."""
    predicted: float
    """Predicted gain: predictive median, in the table's unit."""
    measured: float
    """Measured gain, same unit."""
    interval: tuple[float, float] | None = None
    """Interval of the prediction; None where too few groups carry one."""
    p_harm: float | None = None
    """Predicted probability that the gain is below 0."""
    needed_level: float | None = None
    """The lowest nominal level, in [0, 1], whose interval holds the measured gain."""


@dataclass(frozen=True, slots=True)
class Share:
    """A predicted share against the observed one."""

    predicted: float
    """Mean predicted probability, or nominal level."""
    observed: float
    """Share of cells in which it came true."""
    low: float
    """Lower end of the 95 % interval of the observed share."""
    high: float
    """Upper end."""
    n: int
    """Cells."""
    n_groups: int
    """Task groups that they come from."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How often what was given a probability came true."""

    harm: tuple[Share, ...]
    """P(harm) in bins of about as many cells each, lowest first; empty where none was given."""
    coverage: tuple[Share, ...]
    """Of intervals, at each of LEVELS; empty where none was given."""


def calibrate(cells: Sequence[OutOfFold], *, seed: int = 0) -> Calibration:
    """Count how often predicted probabilities came true.

    Intervals are Wilson's for a binomial share, or those of resampled task groups where these are
    wider: adapters on one task share its luck, so a hundred cells of five tasks are not a hundred
    draws.
    """
    odds = [cell for cell in cells if cell.p_harm is not None]
    p = np.array([cell.p_harm for cell in odds], dtype=np.float64)
    harmed = np.array([cell.measured < 0 for cell in odds], dtype=np.float64)
    groups = np.array([cell.group for cell in odds], dtype=np.str_)
    n_bins = max(1, min(_MAX_BINS, len(odds) // _MIN_IN_BIN)) if odds else 0
    bins = np.array_split(np.argsort(p, kind="stable"), n_bins) if n_bins else []
    spans = [cell for cell in cells if cell.needed_level is not None]
    needed = np.array([cell.needed_level for cell in spans], dtype=np.float64)
    of = np.array([cell.group for cell in spans], dtype=np.str_)
    levels = LEVELS if spans else ()
    return Calibration(
        harm=tuple(
            _share(float(p[rows].mean()), harmed[rows], groups[rows], seed=seed) for rows in bins
        ),
        coverage=tuple(
            _share(level, (needed <= level).astype(np.float64), of, seed=seed) for level in levels
        ),
    )


def _share(predicted: float, hits: Array, groups: np.ndarray, *, seed: int) -> Share:
    n, names = len(hits), np.unique(groups)
    observed = float(hits.mean())
    low, high = map(float, binomtest(int(hits.sum()), n).proportion_ci(method="wilson"))
    if len(names) > 1:
        sums = np.array([[hits[groups == g].sum(), (groups == g).sum()] for g in names])
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_N_BOOTSTRAP)
        totals = drawn @ sums  # (n_draws, 2): hits and cells
        ends = np.quantile(totals[:, 0] / totals[:, 1], [0.025, 0.975])
        low, high = min(low, float(ends[0])), max(high, float(ends[1]))
    return Share(predicted, observed, low, high, n, len(names))
