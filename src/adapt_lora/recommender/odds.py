"""What a fitted model foretells for one target, measurements included: gains and probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.special import ndtr

from adapt_lora.recommender.columns import Array, standardise
from adapt_lora.recommender.joint import Update, measurement_update
from adapt_lora.recommender.level import (
    MIN_GROUPS_FOR_INTERVAL,
    GainModel,
    GainPrediction,
)
from adapt_lora.recommender.model_cache import FittedModel
from adapt_lora.recommender.table import Query
from adapt_lora.recommender.training_set import TrainingSet
from adapt_lora.registry.records import Measurement

OUTSIDE_WIDENING = 1.5
"""How many times as wide intervals are for a target unlike every measured task: a guess, and said
to be one, for there is no residual from out there."""

_N_DRAWS = 4_000
_MAX_DRAWN = 300  # P(best) of candidates behind these is 0 to three decimals


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """What was learned, and what it says about one target before anything is measured there."""

    train: TrainingSet
    """What was learned from; it has never seen the target's group."""
    query: Query
    """The target."""
    model: FittedModel
    """What was learned."""
    score: Array
    """(n_sources,): z of the prediction; only its order counts."""
    parts: Mapping[str, Array]
    """Feature → (n_sources,): summands of the score, up to a constant."""
    nearest: Array | None
    """(n_tasks,): likeness of each measured task to the target; None where nothing tells."""
    outside: bool
    """The target is unlike every measured task."""

    @classmethod
    def of(cls, train: TrainingSet, query: Query, model: FittedModel) -> Self:
        """Put a fitted model to a target."""
        raw = model.ranker.predict(query)
        spread = float(raw.std()) or 1.0
        parts = model.ranker.explain(query).items()
        nearest = train.task_similarity(query)
        return cls(
            train=train,
            query=query,
            model=model,
            score=standardise(raw),
            parts={name: (part - part.mean()) / spread for name, part in parts},
            nearest=nearest,
            outside=_lies_outside(train, nearest),
        )


def _lies_outside(train: TrainingSet, nearest: Array | None) -> bool:
    """Whether the target is farther from its nearest task than any measured task is from its."""
    table = train.table
    if nearest is None or train.n_groups < MIN_GROUPS_FOR_INTERVAL:
        return False
    best = []
    for t, group in enumerate(table.groups):
        others = [u for u, name in enumerate(table.groups) if name != group]
        similarity = train.task_similarity(table.query(t, range(len(table.targets))))
        if similarity is not None and np.isfinite(similarity[others]).any():
            best.append(float(np.nanmax(similarity[others])))
    mine = nearest[np.isfinite(nearest)]
    return bool(best) and mine.size > 0 and float(mine.max()) < min(best)


@dataclass(frozen=True, slots=True, eq=False)
class Odds:
    """Gains and probabilities of every source, measurements included; each (n_sources,)."""

    order: Sequence[int]
    """Sources, best first."""
    median: Array | None = None
    """Predictive median of the gain, NaN where unknown; None where no gain is known at all."""
    interval: tuple[Array, Array] | None = None
    """Its lower and upper end; None where too few task groups carry one, like what follows."""
    p_harm: Array | None = None
    """Probability that the gain is below 0."""
    p_best: Array | None = None
    """Probability of being the best of all sources and the base."""
    base_p_best: float | None = None
    """The base's, whose gain is 0."""


def odds_of(
    forecast: Forecast,
    measured: Mapping[int, Measurement],
    *,
    base_score: tuple[float, float] | None,
    chance: float = 0.0,
    seed: int,
) -> Odds:
    """Gains and probabilities of every source.

    Args:
        forecast: What is foretold.
        measured: What was measured on the target, by number of the source.
        base_score: Score of the bare base on the target and its standard error; a score in [0, 1]
            can't gain more than is left, nor lose more than is there.
        chance: Score of an answer that is always the same: who knows nothing has it.
        seed: Of the simulated draws.
    """
    model, score = forecast.model.gains, forecast.score
    gains = np.full(len(score), -np.inf)
    for s, found in measured.items():
        gains[s] = found.gain
    is_measured = np.isfinite(gains)
    if model is None or model.n_groups_ == 0:
        # Nothing is known about gains but what was measured on the target itself.
        known = np.where(is_measured, gains, np.nan) if measured else None
        return Odds(_best_first(gains, score), known)
    query = forecast.query
    predicted = model.predict(score, base_hint=query.base_hint, level_features=query.level_features)
    if model.interval_level is None:
        median = np.where(is_measured, gains, predicted.median)
        return Odds(_best_first(median, score), median)
    widening = OUTSIDE_WIDENING if forecast.outside else 1.0
    spread = widening * predicted.spread
    update = None
    if measured:
        update = measurement_update(model.joint(spread), predicted.median, measured)
    median = predicted.median + (0.0 if update is None else update.shift)
    scale = spread * (np.ones(len(score)) if update is None else update.scale)
    middle = model.quantile(0.5)
    p_harm = predicted.p_harm
    if update is not None or forecast.outside:
        # From the residuals, shrunken to what the measurement leaves open. What K task groups never
        # showed may still happen in the next one.
        k, below = model.n_groups_, model.weight_below(middle - median / np.maximum(scale, 1e-9))
        p_harm = (k * below + model.harm_rate_) / (k + 1)
        if update is not None:
            of_measured = ndtr(-median / np.maximum(update.left, 1e-9))
            p_harm = np.where(is_measured, of_measured, p_harm)
    floor, ceiling = -np.inf, np.inf
    if base_score is not None and forecast.train.table.unit == "points":
        # Who knows nothing may still be unlucky on these rows.
        floor = max(min(chance - base_score[0], 0.0) - base_score[1], -base_score[0])
        ceiling = 1.0 - base_score[0]
    draws = _draws(model, predicted, spread, update, measured, seed=seed)
    p_best, base_p_best = _best_shares(np.clip(draws, floor, ceiling), median)
    ends = (model.quantile(model.tail), model.quantile(1 - model.tail))
    low, high = (median + scale * (end - middle) for end in ends)
    # What was measured stands, even where it lies below chance.
    seen = np.where(is_measured, gains, 0.0)
    bounds = (np.minimum(floor, seen), np.maximum(ceiling, seen))
    return Odds(
        order=_best_first(median, score),
        median=np.clip(median, *bounds),
        interval=(np.clip(low, *bounds), np.clip(high, *bounds)),
        p_harm=None if p_harm is None else np.clip(p_harm, 0.0, 1.0),
        p_best=p_best,
        base_p_best=base_p_best,
    )


def _best_first(gains: Array, score: Array) -> list[int]:
    """Sources by gain, by score where gains are equal, then as they were registered."""
    order: list[int] = np.lexsort((np.arange(len(score)), -score, -gains)).tolist()
    return order


def _draws(
    model: GainModel,
    predicted: GainPrediction,
    spread: float,
    update: Update | None,
    measured: Mapping[int, Measurement],
    *,
    seed: int,
) -> Array:
    """Joint draws of all gains, (n_draws, n_sources), conditioned on what was measured."""
    rng = np.random.default_rng(seed)
    residuals = model.draw(_N_DRAWS, rng) - model.quantile(0.5)
    draws: Array = predicted.median + spread * residuals
    if update is None:
        return draws
    index = np.fromiter(measured, dtype=np.intp)
    gain = np.array([one.gain for one in measured.values()])
    error = np.array([one.se for one in measured.values()])
    noisy = gain + error * rng.standard_normal((_N_DRAWS, len(index)))
    # Matheron's rule: correct each draw by how far it misses the measurement.
    corrected: Array = draws + (noisy - draws[:, index]) @ update.pull.T
    return corrected


def _best_shares(draws: Array, median: Array) -> tuple[Array, float]:
    """How often each source, and the base with its gain of 0, is the best."""
    p_best = np.zeros(len(median))
    front = np.argsort(-median, kind="stable")[:_MAX_DRAWN]
    contest = np.column_stack([np.zeros(len(draws)), draws[:, front]])
    winners = np.bincount(contest.argmax(axis=1), minlength=contest.shape[1]) / len(draws)
    p_best[front] = winners[1:]
    return p_best, float(winners[0])
