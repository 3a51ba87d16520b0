"""From a score to a gain: level, slope, interval, P(harm), and what a measurement adds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from adapt_lora.recommender.columns import Array, Mask, Scale
from adapt_lora.registry.records import Measurement

MIN_GROUPS_FOR_INTERVAL = 3
"""With two task groups, nothing tells an outlier from the rule."""

_NOMINAL = 0.8
_TRIM = 0.2
_HARM_PRIOR = 2.0  # pseudo-cells at the overall harm rate, for adapters measured a few times
_LOGIT_RIDGE = 1.0
_HARM_GROUPS = 4.0  # task groups at which the logistic and the residuals count the same
_HINT_GROUPS = 10.0  # a task has one base score: fewer groups than this pull harder on its weight
_NEWTON_STEPS = 25


@dataclass(frozen=True, slots=True, eq=False)
class GainPrediction:
    """Predicted gains of every source on one target, in the table's unit."""

    median: Array
    """(n_sources,): predictive median."""
    low: Array | None
    """(n_sources,): lower end of the interval; None where too few groups carry one."""
    high: Array | None
    """(n_sources,): upper end."""
    p_harm: Array | None
    """(n_sources,): probability that the gain is below 0."""


class GainModel:
    """Gain = level + slope × score, with signed residuals by task group.

    Level and slope are 20 % trimmed means over task groups; a residual compares a group's gains
    with the level and slope of the *other* groups and a score made without it. Level means little
    for a new target (docs/experiments.md, 8), which is why the residuals are wide.
    """

    def fit(
        self,
        scores: Array,
        gains: Array,
        groups: Sequence[str],
        *,
        base_hints: Array | None = None,
    ) -> Self:
        """Learn from out-of-fold scores.

        Args:
            scores: (n_sources, n_targets) z of predictions made without the column's group.
            gains: (n_sources, n_targets) measured gains, NaN where not measured.
            groups: Group of each column.
            base_hints: (n_targets,) the base's score on each target, estimated on other rows than
                the gains: how much there is left to win, or to lose. NaN where unknown.
        """
        hints = np.full(len(groups), np.nan) if base_hints is None else base_hints
        self.hint_scale_ = Scale.of(hints[np.isfinite(hints)])
        usable = np.isfinite(scores) & np.isfinite(gains)
        columns = [t for t in range(len(groups)) if usable[:, t].sum() >= 2]
        self.groups_ = tuple(dict.fromkeys(groups[t] for t in columns))
        self.n_groups_ = len(self.groups_)
        lines = np.array([_line(scores[:, t], gains[:, t], usable[:, t]) for t in columns])
        member = np.array([groups[t] for t in columns])
        by_group = [lines[member == group].mean(axis=0) for group in self.groups_]
        self.lines_ = np.array(by_group).reshape(-1, 2)
        self.level_, self.slope_ = _pooled(self.lines_)
        self._keep_residuals(scores, gains, usable, columns, member)
        self._fit_harm(scores, gains, usable, columns, member, self._standard_hints(hints))
        return self

    def _keep_residuals(
        self, scores: Array, gains: Array, usable: Mask, columns: list[int], member: Array
    ) -> None:
        """Residuals per column, with weights under which every group counts the same."""
        values, weights, owner = [], [], []
        for i, t in enumerate(columns):
            g = self.groups_.index(str(member[i]))
            level, slope = _pooled(np.delete(self.lines_, g, axis=0))
            keep = usable[:, t]
            residual = gains[keep, t] - (level + slope * scores[keep, t])
            share = 1.0 / (self.n_groups_ * (member == member[i]).sum())
            values.append(residual)
            weights.append(np.full(len(residual), share / len(residual)))
            owner.append(np.full(len(residual), i))
        self.residuals_ = np.concatenate(values) if values else np.zeros(0)
        self.weights_ = np.concatenate(weights) if weights else np.zeros(0)
        self.column_ = np.concatenate(owner).astype(np.intp) if owner else np.zeros(0, np.intp)

    @property
    def interval_level(self) -> float | None:
        """Nominal level of the interval that so many task groups can carry; None below three.

        K exchangeable groups span at most (K − 1)/(K + 1); from five on the residuals carry 80 %.
        """
        k = self.n_groups_
        if k < MIN_GROUPS_FOR_INTERVAL:
            return None
        return _NOMINAL if k >= 5 else (k - 1) / (k + 1)

    @property
    def tail(self) -> float:
        """Share of residuals below the lower end: (1 − level)/2 × (1 − 2.5/(K + 1)).

        At 80 % this is .10 − .25/(K + 1): coverage .77-.86 on public
        matrices (docs/experiments.md, 9).
        """
        level = self.interval_level or _NOMINAL
        return (1 - level) / 2 * (1 - 2.5 / (self.n_groups_ + 1))

    def quantile(self, q: float) -> float:
        """Weighted quantile of the residuals: the smallest with at least q of the weight."""
        order = np.argsort(self.residuals_)
        reached = np.cumsum(self.weights_[order])
        place = int(np.searchsorted(reached, q * reached[-1] - 1e-12))
        return float(self.residuals_[order][min(place, len(order) - 1)])

    def weight_below(self, values: Array) -> Array:
        """Weight of the residuals below each value: their distribution function, (n,) in [0, 1]."""
        order = np.argsort(self.residuals_)
        reached = np.concatenate([[0.0], np.cumsum(self.weights_[order])])
        below: Array = reached[np.searchsorted(self.residuals_[order], values, side="left")]
        return below

    def needed_level(self, residuals: Array) -> Array:
        """The lowest nominal level, in [0, 1], whose interval holds each residual, (n,)."""
        order = np.sort(self.residuals_)
        reached = np.concatenate([[0.0], np.cumsum(self.weights_[np.argsort(self.residuals_)])])
        below = reached[np.searchsorted(order, residuals, side="left")] / reached[-1]
        up_to = reached[np.searchsorted(order, residuals, side="right")] / reached[-1]
        # Inside as long as the tails are smaller than what lies below, and above.
        tail = np.minimum(up_to, 1.0 - below)
        shrink = 1 - 2.5 / (self.n_groups_ + 1)
        level: Array = np.clip(1.0 - 2.0 * tail / shrink, 0.0, 1.0)
        return level

    def predict(self, score: Array, *, base_hint: float | None = None) -> GainPrediction:
        """Median, interval and P(harm) for z-scores of one target.

        Args:
            score: (n_sources,) z of the ranking.
            base_hint: The base's score on this target, as in `fit`; None where unknown.
        """
        point = self.level_ + self.slope_ * score
        if self.interval_level is None:
            return GainPrediction(point, None, None, None)
        middle = self.quantile(0.5)
        return GainPrediction(
            median=point + middle,
            low=point + self.quantile(self.tail),
            high=point + self.quantile(1 - self.tail),
            p_harm=self._harm(score, point, base_hint),
        )

    def draw(self, n_sources: int, n_draws: int, rng: np.random.Generator) -> Array:
        """Joint residuals, (n_draws, n_sources): a task is drawn, then each source its residual.

        Sources of one draw share the task's level, so they are as correlated as measured ones.
        """
        columns = np.unique(self.column_)
        mass = np.array([self.weights_[self.column_ == c].sum() for c in columns])
        picked = rng.choice(len(columns), size=n_draws, p=mass / mass.sum())
        draws = np.empty((n_draws, n_sources))
        for i, column in enumerate(columns):
            rows = np.flatnonzero(picked == i)
            pool = self.residuals_[self.column_ == column]
            draws[rows] = pool[rng.integers(len(pool), size=(len(rows), n_sources))]
        return draws

    @property
    def variances(self) -> tuple[float, float]:
        """(shared by all sources of a task, each source's own): of the residuals.

        The shared part is shrunken by K/(K + 3) (docs/experiments.md, 8).
        """
        mean = float(self.weights_ @ self.residuals_)
        total = float(self.weights_ @ (self.residuals_ - mean) ** 2)
        within = 0.0
        for column in np.unique(self.column_):
            mine = self.column_ == column
            pool = self.residuals_[mine]
            within += float(self.weights_[mine].sum()) * float(pool.var())
        shared = max(total - within, 0.0) * self.n_groups_ / (self.n_groups_ + 3)
        return shared, max(total - shared, 1e-12)

    def _harm(self, score: Array, point: Array, base_hint: float | None) -> Array:
        """Logistic and residual odds, the former by K/(K + 4): it has more to learn."""
        counted = learned = self.weight_below(-point)
        if self.logit_ is not None:
            hint = np.full(len(score), np.nan if base_hint is None else base_hint)
            rate = _logit(self.harm_rate_)
            x = np.column_stack([np.ones(len(score)), score, rate, self._standard_hints(hint)])
            learned = _sigmoid(x @ self.logit_)
        share = self.n_groups_ / (self.n_groups_ + _HARM_GROUPS)
        odds: Array = share * learned + (1 - share) * counted
        return odds

    def _standard_hints(self, hints: Array) -> Array:
        """Base scores as harm is regressed on them; 0 (average) where unknown."""
        return np.nan_to_num(self.hint_scale_.apply(hints))

    def _fit_harm(
        self,
        scores: Array,
        gains: Array,
        usable: Mask,
        columns: list[int],
        member: Array,
        hints: Array,
    ) -> None:
        """Ridge logistic of harm on score, the source's other harm rate, and the base's score."""
        harmed = np.where(usable, gains < 0, np.nan)[:, columns]
        self.harm_rate_ = _shrunken_rate(harmed)
        x, y, w = [], [], []
        for i, t in enumerate(columns):
            keep = usable[:, t]
            rate = _shrunken_rate(harmed[:, member != member[i]])
            hint = np.full(keep.sum(), hints[t])
            x.append(np.column_stack([scores[keep, t], _logit(rate[keep]), hint]))
            y.append(harmed[keep, i])
            w.append(np.full(keep.sum(), 1.0 / (keep.sum() * (member == member[i]).sum())))
        hint_ridge = _LOGIT_RIDGE * (_HINT_GROUPS / max(self.n_groups_, 1)) ** 2
        ridge = np.array([_LOGIT_RIDGE, _LOGIT_RIDGE, hint_ridge])
        self.logit_ = (
            _ridge_logistic(np.vstack(x), np.concatenate(y), np.concatenate(w), ridge)
            if x
            else None
        )


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """What measurements on the target itself change."""

    shift: Array
    """(n_sources,): to be added to the predicted gain."""
    scale: Array
    """(n_sources,): of the residual spread, in (0, 1]."""
    pull: Array
    """(n_sources, n_measured): how a gain that is off its prediction moves every source."""


def measurement_update(
    model: GainModel, predicted: Array, measured: Mapping[int, Measurement]
) -> Update:
    """Condition all gains on those of measured sources, by their number.

    Residuals of one target share a variance (its level) and have their own: the measured adapter
    moves to a precision-weighted mean of prediction and measurement, which also corrects for
    having been chosen as the best of several; the others follow by the shared part.
    """
    index = np.fromiter(measured, dtype=np.intp)
    gain = np.array([one.gain for one in measured.values()])
    error = np.array([one.se for one in measured.values()])
    shared, own = model.variances
    cross = np.full((len(predicted), len(index)), shared)
    cross[index, np.arange(len(index))] += own
    pull = np.linalg.solve(cross[index] + np.diag(error**2), cross.T).T
    variance = shared + own - (pull * cross).sum(axis=1)
    return Update(
        shift=pull @ (gain - predicted[index]),
        scale=np.sqrt(np.maximum(variance, 0.0) / (shared + own)),
        pull=pull,
    )


def _line(score: Array, gain: Array, usable: Mask) -> tuple[float, float]:
    """Gain at score 0 and slope, by least squares; slope 0 where the scores are all equal."""
    x, y = score[usable], gain[usable]
    spread = float(((x - x.mean()) ** 2).mean())
    slope = float(((x - x.mean()) * (y - y.mean())).mean()) / spread if spread > 1e-12 else 0.0
    return float(y.mean() - slope * x.mean()), slope


def _pooled(lines: Array) -> tuple[float, float]:
    """Trimmed mean level and slope; a negative slope is none, for ranks must not turn round."""
    if not len(lines):
        return 0.0, 0.0
    cut = int(_TRIM * len(lines))
    ordered = np.sort(lines, axis=0)[cut : len(lines) - cut]
    level, slope = ordered.mean(axis=0)
    return float(level), max(float(slope), 0.0)


def _shrunken_rate(harmed: Array) -> Array:
    """Harm rate per source, pulled toward the overall rate by two pseudo-cells."""
    known = np.isfinite(harmed)
    n = known.sum(axis=1)
    hits = np.where(known, harmed, 0.0).sum(axis=1)
    overall = (hits.sum() + 0.5) / (n.sum() + 1.0)
    rate: Array = (hits + _HARM_PRIOR * overall) / (n + _HARM_PRIOR)
    return rate


def _logit(p: Array) -> Array:
    clipped = np.clip(p, 1e-3, 1 - 1e-3)
    logit: Array = np.log(clipped / (1 - clipped))
    return logit


def _sigmoid(x: Array) -> Array:
    p: Array = 1.0 / (1.0 + np.exp(-np.clip(x, -30, 30)))
    return p


def _ridge_logistic(x: Array, y: Array, weight: Array, ridge: Array) -> Array:
    """Newton steps with a ridge on all but the intercept; (intercept, coefficients).

    By hand: scikit-learn's logistic has one strength for all coefficients, here each has its own,
    and folds fit it thousands of times.
    """
    x = np.column_stack([np.ones(len(x)), x])
    penalty = np.diag([1e-6, *ridge])
    beta = np.zeros(x.shape[1])
    for _ in range(_NEWTON_STEPS):
        p = _sigmoid(x @ beta)
        gradient = x.T @ (weight * (p - y)) + penalty @ beta
        curve = (x.T * (weight * np.maximum(p * (1 - p), 1e-6))) @ x + penalty
        step = np.linalg.solve(curve, gradient)
        beta = beta - np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-8:
            break
    return beta
