"""From a score to a gain: level, slope and spread of a target, interval, P(harm)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from adapt_lora.recommender.columns import Array, Mask, Scale
from adapt_lora.recommender.harm import logit, ridge_logistic, shrunken_rate, sigmoid
from adapt_lora.recommender.joint import JointSpread, correlation_share

MIN_GROUPS_FOR_INTERVAL = 3
"""With two task groups, nothing tells an outlier from the rule."""

_NOMINAL = 0.8
_TRIM = 0.2
_LOGIT_RIDGE = 1.0
_HARM_GROUPS = 4.0  # task groups at which the logistic and the residuals count the same
_HINT_GROUPS = 10.0  # a task has one base score: fewer groups than this pull harder on its weight
_LEVEL_GROUPS = 10.0  # task groups at which what a target's own statistics say counts half


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
    spread: float = 1.0
    """How many times as far gains lie from their prediction as on an average target."""


@dataclass(frozen=True, slots=True, eq=False)
class _Lines:
    """What task groups say of level, slope and spread."""

    level: float
    """Gain at score 0 on a target of which nothing is known."""
    level_weights: Array
    """(n_features,): of a target's standardised statistics."""
    slope: float
    """Gain per unit of score on a target of average spread."""
    spread_weights: Array
    """(n_features,): of the same, on the logarithm of the spread."""

    def level_of(self, features: Array) -> Array:
        """Gain at score 0 of targets, (n,), from (n, n_features)."""
        levels: Array = self.level + features @ self.level_weights
        return levels

    def spread_of(self, features: Array) -> Array:
        """Spread of targets relative to an average one, (n,)."""
        spreads: Array = np.exp(features @ self.spread_weights)
        return spreads


class GainModel:
    """Gain = level(x) + slope × spread(x) × score, with signed residuals by task group.

    What a target allows is its own: its statistics x (such as what a probe reads from the base's
    states and the base does not say) move the level, and the spread of adapters around it, by ridge
    regressions over task groups; without statistics both are the same for every target. Level and
    slope are 20 % trimmed means over groups, the level shrunken toward no gain by its own error
    (James & Stein 1961). A residual compares a group's gains with what the *other* groups say and a
    score made without it, in units of the spread.
    """

    def fit(
        self,
        scores: Array,
        gains: Array,
        groups: Sequence[str],
        *,
        base_hints: Array | None = None,
        level_features: Mapping[str, Array] | None = None,
        reliability: Array | None = None,
    ) -> Self:
        """Learn from out-of-fold scores.

        Args:
            scores: (n_sources, n_targets) z of predictions made without the column's group.
            gains: (n_sources, n_targets) measured gains, NaN where not measured.
            groups: Group of each column.
            base_hints: (n_targets,) the base's score on each target, estimated on other rows than
                the gains: how much there is left to win, or to lose. NaN where unknown.
            level_features: (n_targets,) each, what may tell how much a target allows; NaN where
                unknown.
            reliability: (n_targets,) share of the spread between adapters that is not noise; a
                column of mere noise says nothing about the slope. None counts all in full.
        """
        hints = np.full(len(groups), np.nan) if base_hints is None else base_hints
        self.hint_scale_ = Scale.of(hints[np.isfinite(hints)])
        usable = np.isfinite(scores) & np.isfinite(gains)
        columns = [t for t in range(len(groups)) if usable[:, t].sum() >= 2]
        self.groups_ = tuple(dict.fromkeys(groups[t] for t in columns))
        self.n_groups_ = len(self.groups_)
        self.features_ = tuple(level_features or ())
        known = np.array([(level_features or {})[name] for name in self.features_])
        known = known.reshape(len(self.features_), len(groups)).T  # (n_targets, n_features)
        self.feature_scale_ = Scale.of(known[columns])
        x = np.nan_to_num(self.feature_scale_.apply(known))
        weight = np.ones(len(groups)) if reliability is None else reliability
        member = np.array([groups[t] for t in columns])
        drawn = np.array([_line(scores[:, t], gains[:, t], usable[:, t]) for t in columns]).reshape(
            -1, 3
        )
        table = np.column_stack([drawn, weight[columns], x[columns]])
        by_group = [table[member == group].mean(axis=0) for group in self.groups_]
        per_group = np.array(by_group).reshape(len(by_group), 4 + len(self.features_))
        lines = _pooled(per_group)
        self.level_, self.slope_ = lines.level, lines.slope
        self.level_weights_, self.spread_weights_ = lines.level_weights, lines.spread_weights
        others = {
            group: _pooled(np.delete(per_group, g, axis=0)) for g, group in enumerate(self.groups_)
        }
        self._keep_residuals(scores, gains, usable, columns, member, others, x)
        told = np.zeros(len(groups))
        for t in columns:
            told[t] = x[t] @ others[groups[t]].level_weights
        self._fit_harm(scores, gains, usable, columns, member, self._standard_hints(hints), told)
        return self

    def _keep_residuals(
        self,
        scores: Array,
        gains: Array,
        usable: Mask,
        columns: list[int],
        member: Array,
        others: Mapping[str, _Lines],
        x: Array,
    ) -> None:
        """Residuals per column, with weights under which every group counts the same."""
        values, weights, owner, source = [], [], [], []
        for i, t in enumerate(columns):
            lines = others[str(member[i])]
            level, spread = (float(of(x[t : t + 1])[0]) for of in (lines.level_of, lines.spread_of))
            keep = np.flatnonzero(usable[:, t])
            point = level + lines.slope * spread * scores[keep, t]
            share = 1.0 / (self.n_groups_ * (member == member[i]).sum())
            values.append((gains[keep, t] - point) / spread)
            weights.append(np.full(len(keep), share / len(keep)))
            owner.append(np.full(len(keep), i))
            source.append(keep)
        self.residuals_ = np.concatenate(values) if values else np.zeros(0)
        self.weights_ = np.concatenate(weights) if weights else np.zeros(0)
        self.column_ = np.concatenate(owner).astype(np.intp) if owner else np.zeros(0, np.intp)
        self.source_ = np.concatenate(source).astype(np.intp) if source else np.zeros(0, np.intp)
        self.n_sources_ = len(scores)
        within = self._within()
        self.correlation_ = correlation_share(within)

    def _within(self) -> Array:
        """(n_sources, n_columns): residuals less their column's mean; 0 where not measured."""
        n_columns = int(self.column_.max(initial=-1)) + 1
        within = np.zeros((self.n_sources_, n_columns))
        for c in range(n_columns):
            mine = self.column_ == c
            within[self.source_[mine], c] = self.residuals_[mine] - self.residuals_[mine].mean()
        return within

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

    def predict(
        self,
        score: Array,
        *,
        base_hint: float | None = None,
        level_features: Mapping[str, float] | None = None,
    ) -> GainPrediction:
        """Median, interval and P(harm) for z-scores of one target.

        Args:
            score: (n_sources,) z of the ranking.
            base_hint: The base's score on this target, as in `fit`; None where unknown.
            level_features: What is known of the target, as in `fit`; one that is absent or NaN
                counts as average.
        """
        x = self._standard_features(level_features or {})
        lines = _Lines(self.level_, self.level_weights_, self.slope_, self.spread_weights_)
        level, spread = (float(of(x[None])[0]) for of in (lines.level_of, lines.spread_of))
        point = level + self.slope_ * spread * score
        if self.interval_level is None:
            return GainPrediction(point, None, None, None, spread)
        told = float(x @ self.level_weights_)
        return GainPrediction(
            median=point + spread * self.quantile(0.5),
            low=point + spread * self.quantile(self.tail),
            high=point + spread * self.quantile(1 - self.tail),
            p_harm=self._harm(score, point / spread, base_hint, told),
            spread=spread,
        )

    def draw(self, n_draws: int, rng: np.random.Generator) -> Array:
        """Joint residuals of all sources, (n_draws, n_sources), in units of the spread.

        A task is drawn, so all share its level; then each source gets its own residual there, or,
        where it has none and with the chance that residuals don't repeat, one of the others'.
        """
        columns = np.unique(self.column_)
        mass = np.array([self.weights_[self.column_ == c].sum() for c in columns])
        picked = rng.choice(len(columns), size=n_draws, p=mass / mass.sum())
        draws = np.empty((n_draws, self.n_sources_))
        for i, column in enumerate(columns):
            rows, mine = np.flatnonzero(picked == i), self.column_ == column
            pool = self.residuals_[mine]
            drawn = pool[rng.integers(len(pool), size=(len(rows), self.n_sources_))]
            own = np.full(self.n_sources_, np.nan)
            own[self.source_[mine]] = pool
            repeats = rng.random(drawn.shape) < self.correlation_
            draws[rows] = np.where(repeats & np.isfinite(own), own, drawn)
        return draws

    def joint(self, spread: float = 1.0) -> JointSpread:
        """How far gains of a target lie from their prediction, together, in the table's unit.

        Args:
            spread: Of the target, as `predict` says.
        """
        mean = float(self.weights_ @ self.residuals_)
        total = float(self.weights_ @ (self.residuals_ - mean) ** 2)
        within = self._within()
        mass = np.bincount(self.column_, self.weights_, minlength=within.shape[1])
        n_rows = np.maximum(np.bincount(self.column_, minlength=within.shape[1]), 1)
        between = max(total - float(mass @ ((within**2).sum(axis=0) / n_rows)), 0.0)
        # The level of few groups is little known (docs/experiments.md, 8).
        shared = between * self.n_groups_ / (self.n_groups_ + 3)
        own, repeated = max(total - shared, 1e-12), self.correlation_
        known = np.zeros(within.shape, dtype=bool)
        known[self.source_, self.column_] = True
        own_alone = own * (1.0 - repeated * (known @ mass))
        square = spread**2
        return JointSpread(
            shared=square * shared,
            factors=spread * np.sqrt(repeated * mass) * within,
            own=square * np.maximum(own_alone, 1e-12),
        )

    def _standard_features(self, given: Mapping[str, float]) -> Array:
        """(n_features,) as levels are regressed on them; 0 (average) where unknown."""
        values = np.array([given.get(name, float("nan")) for name in self.features_])
        return np.nan_to_num(self.feature_scale_.apply(values.reshape(len(self.features_))))

    def _standard_hints(self, hints: Array) -> Array:
        """Base scores as harm is regressed on them; 0 (average) where unknown."""
        return np.nan_to_num(self.hint_scale_.apply(hints))

    def _harm(self, score: Array, point: Array, base_hint: float | None, told: float) -> Array:
        """Logistic and residual odds, the former by K/(K + 4): it has more to learn."""
        counted = learned = self.weight_below(-point)
        if self.logit_ is not None:
            hint = np.full(len(score), np.nan if base_hint is None else base_hint)
            x = np.column_stack(
                [
                    np.ones(len(score)),
                    score,
                    logit(self.harm_rate_),
                    self._standard_hints(hint),
                    np.full(len(score), told / self.told_scale_),
                ]
            )
            learned = sigmoid(x @ self.logit_)
        share = self.n_groups_ / (self.n_groups_ + _HARM_GROUPS)
        odds: Array = share * learned + (1 - share) * counted
        return odds

    def _fit_harm(
        self,
        scores: Array,
        gains: Array,
        usable: Mask,
        columns: list[int],
        member: Array,
        hints: Array,
        told: Array,
    ) -> None:
        """Ridge logistic of harm on score, harm rate, base score, and the level that x tells."""
        harmed = np.where(usable, gains < 0, np.nan)[:, columns]
        self.harm_rate_ = shrunken_rate(harmed)
        self.told_scale_ = float(told[columns].std()) or 1.0 if columns else 1.0
        x, y, w = [], [], []
        for i, t in enumerate(columns):
            keep = usable[:, t]
            rate = shrunken_rate(harmed[:, member != member[i]])
            of_task = np.tile([hints[t], told[t] / self.told_scale_], (keep.sum(), 1))
            x.append(np.column_stack([scores[keep, t], logit(rate[keep]), of_task]))
            y.append(harmed[keep, i])
            w.append(np.full(keep.sum(), 1.0 / (keep.sum() * (member == member[i]).sum())))
        hint_ridge = _LOGIT_RIDGE * (_HINT_GROUPS / max(self.n_groups_, 1)) ** 2
        ridge = np.array([_LOGIT_RIDGE, _LOGIT_RIDGE, hint_ridge, hint_ridge])
        self.logit_ = (
            ridge_logistic(np.vstack(x), np.concatenate(y), np.concatenate(w), ridge) if x else None
        )


def _line(score: Array, gain: Array, usable: Mask) -> tuple[float, float, float]:
    """Gain at score 0, slope (0 where scores are all equal) and spread of the gains of a column."""
    x, y = score[usable], gain[usable]
    varied = float(((x - x.mean()) ** 2).mean())
    slope = float(((x - x.mean()) * (y - y.mean())).mean()) / varied if varied > 1e-12 else 0.0
    return float(y.mean() - slope * x.mean()), slope, float(y.std())


def _pooled(groups: Array) -> _Lines:
    """What groups say together.

    Args:
        groups: (n_groups, 4 + n_features): level, slope, spread, reliability, statistics of each.
    """
    n_features = groups.shape[1] - 4
    if not len(groups):
        return _Lines(0.0, np.zeros(n_features), 0.0, np.zeros(n_features))
    levels, slopes, spreads, reliability, x = np.split(groups, [1, 2, 3, 4], axis=1)
    level_weights = _ridge(x, levels[:, 0])
    floor = 1e-3 * max(float(spreads.max()), 1e-12)  # a constant column is none of all
    spread_weights = _ridge(x, np.log(np.maximum(spreads[:, 0], floor)))
    relative = slopes[:, 0] / np.exp(x @ spread_weights)
    level, error = _trimmed(levels[:, 0] - x @ level_weights, np.ones(len(groups)))
    if error > 0:
        level *= max(0.0, 1.0 - (error / level) ** 2) if level else 0.0
    # A negative slope is none, for ranks must not turn round.
    slope = max(_trimmed(relative, np.maximum(reliability[:, 0], 1e-6))[0], 0.0)
    return _Lines(level, level_weights, slope, spread_weights)


def _ridge(x: Array, y: Array) -> Array:
    """(n_features,) weights, pulled to 0 as by ten groups of which the statistics say nothing."""
    centred = x - x.mean(axis=0)
    square = centred.T @ centred + _LEVEL_GROUPS * np.eye(x.shape[1])
    weights: Array = np.linalg.solve(square, centred.T @ (y - y.mean()))
    return weights


def _trimmed(values: Array, weight: Array) -> tuple[float, float]:
    """Trimmed mean, and the standard error of a mean of all these values; 0 for one value."""
    cut = int(_TRIM * len(values))
    kept = np.argsort(values)[cut : len(values) - cut]
    mean = float(np.average(values[kept], weights=weight[kept]))
    return mean, float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
