"""How far gains of one target lie from their prediction together, and what a measurement tells."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from adapt_lora.recommender.columns import Array
from adapt_lora.registry.records import Measurement

_DEGREES = 4.0  # of freedom of Student's t: few enough that a lone outlier explains itself
_ROUNDS = 50
_MAX_SOURCES = 300  # how much residuals repeat is as well known from some sources as from all


@dataclass(frozen=True, slots=True, eq=False)
class JointSpread:
    """The covariance of what predictions miss on one target, in the square of the table's unit.

    Of two sources it is `shared` plus the product of their rows of `factors`; a source's own
    variance adds `own`.
    """

    shared: float
    """Variance of the target's level, which moves all sources alike."""
    factors: Array
    """(n_sources, n_columns): what a source missed on each measured task beside its level, scaled
    so that the products are the covariance; sources that miss alike there will do so here."""
    own: Array
    """(n_sources,): variance of what moves a source alone."""

    @property
    def variance(self) -> Array:
        """(n_sources,): of each source's residual."""
        found: Array = self.shared + (self.factors**2).sum(axis=1) + self.own
        return found

    def of(self, sources: npt.NDArray[np.intp]) -> Self:
        """The same of some sources, by number."""
        return type(self)(self.shared, self.factors[sources], self.own[sources])


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """What measurements on the target itself change."""

    shift: Array
    """(n_sources,): to be added to the predicted gain."""
    scale: Array
    """(n_sources,): of the residual spread, in (0, 1]."""
    left: Array
    """(n_sources,): standard deviation of what is left open, in the table's unit."""
    pull: Array
    """(n_sources, n_measured): how a gain that is off its prediction moves every source."""


def correlation_share(within: Array) -> float:
    """How much of a source's residual is its own on other tasks too, in [0, 1].

    1 − the shrinkage of Ledoit & Wolf (2004, doi:10.1016/S0047-259X(03)00096-4) of the covariance
    between sources toward none.

    Args:
        within: (n_sources, n_columns) residuals less their column's mean, 0 where not measured.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    alive = within[np.abs(within).max(axis=1, initial=0.0) > 0]
    if min(alive.shape) < 2:
        return 0.0
    if len(alive) > _MAX_SOURCES:
        alive = alive[:: -(-len(alive) // _MAX_SOURCES)]
    return float(1.0 - ledoit_wolf_shrinkage(alive.T, assume_centered=True))


def measurement_update(
    spread: JointSpread, predicted: Array, measured: Mapping[int, Measurement]
) -> Update:
    """Condition all gains on those of measured sources, by their number.

    A measured adapter moves to a precision-weighted mean of prediction and measurement, which also
    corrects for having been chosen as the best of several. The others follow by what they share
    with it, as far as the measured ones agree: what moves a source alone has the tails of Student's
    t with four degrees of freedom (Lange, Little & Taylor 1989, doi:10.2307/2290063), so one
    outlier is taken for the adapter's own, and moves the others little.
    """
    index = np.fromiter(measured, dtype=np.intp)
    error = np.array([one.se for one in measured.values()])
    missed = np.array([one.gain for one in measured.values()]) - predicted[index]
    own = spread.own[index] / _outlier_weights(spread.of(index), missed, error)
    cross = spread.shared + spread.factors @ spread.factors[index].T  # (n_sources, n_measured)
    cross[index, np.arange(len(index))] += own
    before = spread.variance
    before[index] += own - spread.own[index]
    inverse = np.linalg.inv(cross[index] + np.diag(error**2 + 1e-12))
    pull: Array = cross @ inverse.T
    after = np.clip(before - (pull * cross).sum(axis=1), 0.0, before)
    return Update(
        shift=pull @ missed, scale=np.sqrt(after / before), left=np.sqrt(after), pull=pull
    )


def _outlier_weights(spread: JointSpread, missed: Array, error: Array) -> Array:
    """(n_measured,) in (0, 1]: how far each is taken to be moved by what moves others too."""
    weights = np.ones(len(missed))
    common = spread.shared + spread.factors @ spread.factors.T
    scale = np.maximum(spread.own + error**2, 1e-12)
    for _ in range(_ROUNDS):
        noise = np.diag(spread.own / weights + error**2 + 1e-12)
        explained = common @ np.linalg.solve(common + noise, missed)
        distance = (missed - explained) ** 2 / scale
        renewed = np.minimum((_DEGREES + 1.0) / (_DEGREES + distance), 1.0)
        if np.abs(renewed - weights).max(initial=0.0) < 1e-6:
            break
        weights = renewed
    return weights
