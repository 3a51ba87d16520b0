"""The answer: adapters ranked for one unseen target, with gains, doubts, reasons and evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt_lora.errors import RecommendError
from adapt_lora.recommender.backtest import (
    DEFAULT,
    ChosenScores,
    chosen_scores,
    house_default,
    judge_scores,
    judged_targets,
)
from adapt_lora.recommender.cautions import adapter_notes
from adapt_lora.recommender.features import (
    FEATURES,
    FROM_SCORES,
    TARGET_NAME,
    TrainingSet,
    table_for_target,
)
from adapt_lora.recommender.gains import (
    MIN_GROUPS_FOR_INTERVAL,
    GainModel,
    Update,
    measurement_update,
)
from adapt_lora.recommender.model_cache import FittedModel, ModelCache, model_key
from adapt_lora.recommender.models import METHODS, borrowed_share, make_ranker, unit_scores
from adapt_lora.recommender.table import Array, Query, TransferTable
from adapt_lora.recommender.verification import Measurement
from adapt_lora.registry.records import (
    METRIC_UNITS,
    AdapterRecord,
    Fingerprint,
    TransferMatrix,
    Unit,
)

if TYPE_CHECKING:
    import pandas as pd

_BASELINE = "popularity_trimmed"
_BACKTEST_METRICS = (
    "spearman_rho",
    "ndcg_at_3",
    "regret_at_1",
    "regret_at_3",
    "regret_at_1_spread",
    "regret_at_3_spread",
)
_N_DRAWS = 4_000
_MAX_DRAWN = 300  # P(best) of candidates behind these is 0 to three decimals
_N_REASONS = 3
_N_EVIDENCE = 3
_OUTSIDE_WIDENING = 1.5  # a guess, and said to be one: there is no residual from out there
_NO_GROUP = "\0no group"


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the gain lies with the recommendation's `interval_level`."""

    low: float
    """Lower end, in the target's unit."""
    high: float
    """Upper end."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One part of a prediction."""

    feature: str
    """Its name in `features.FEATURES`, or a method's."""
    contribution: float
    """What it adds over the average candidate, as gain (without any measured gain: as score)."""
    text: str
    """The same in words."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A measured gain that speaks for or against an adapter."""

    task: str
    """A measured task."""
    gain: float
    """What the adapter gained there, in the table's unit."""
    similarity: float | None = None
    """How near the task is to the target; None where nothing tells."""


@dataclass(frozen=True, slots=True)
class RankedAdapter:
    """One adapter's place and all that is known about its chances."""

    rank: int
    """From 1, best first."""
    adapter: str
    """Name of the registered model."""
    adapter_id: str
    """Its registry id."""
    predicted_gain: float | None
    """Predictive median of the gain over the base; None when too little was measured."""
    interval: Interval | None
    """None when too few task groups carry one."""
    p_harm: float | None
    """Probability that the adapter does worse than the base."""
    p_best: float | None
    """Probability that it is the best of all candidates and the base."""
    reasons: tuple[Reason, ...]
    """The largest contributions; at least one."""
    evidence: tuple[Evidence, ...]
    """Its measured gains on the tasks nearest to the target."""
    warnings: tuple[str, ...]
    """Sentences to show beside it."""
    measured: Measurement | None = None
    """Its measurement on the target, when there is one; `predicted_gain` then contains it."""
    predicted_alone: float | None = None
    """What was predicted before anything was measured on the target; None without measurements."""


@dataclass(frozen=True, slots=True)
class BaseChoice:
    """The bare base model as a candidate."""

    score: float | None
    """Its score on the target; None when the target is unlabelled."""
    se: float | None
    """Standard error of that score."""
    p_best: float | None
    """Probability that no adapter beats it."""
    recommended: bool
    """True when no adapter is expected to help."""


@dataclass(frozen=True, slots=True)
class Borrowed:
    """What other base models lent to a ranking."""

    base_models: tuple[str, ...]
    """Their names."""
    n_groups: int
    """Task groups that were measured under them, the target's left out."""
    n_adapters: int
    """Candidates whose training data an adapter of theirs shares."""
    share: float
    """Their part of the starting weight of an adapter's standing; 1 where nothing was measured
    under the target's own base model."""


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """Which model ranked, on what it was fitted, and how well it did in the back-test."""

    name: str
    """The method, e.g. "stack"."""
    regime: str
    """How the adapters were used when they were measured."""
    unit: Unit
    """What gains are counted in."""
    metric: str
    """The target's metric."""
    n_groups: int
    """Task groups that it was fitted on."""
    n_cells: int
    """Measured transfer cells that it was fitted on."""
    backtest: Mapping[str, Any] = field(default_factory=dict)
    """Leave-one-task-group-out figures; empty when fewer than two groups were measured."""
    borrowed: Borrowed | None = None
    """What other base models lent; None where none was measured on the same sources."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Adapters ranked for one target."""

    base_model: str
    """The base model that all candidates sit on."""
    base: BaseChoice
    """The base model as a candidate; it has no entry in `ranking`."""
    model: ModelSummary
    """What made the ranking."""
    ranking: tuple[RankedAdapter, ...]
    """Best first."""
    interval_level: float | None
    """Nominal coverage of the intervals, marginal over targets; None when there are none."""
    warnings: tuple[str, ...] = ()
    """What the reader must know before trusting it."""

    def top(self, k: int) -> "Recommendation":
        """The same answer with the first k adapters alone."""
        return replace(self, ranking=self.ranking[:k])

    def to_pandas(self) -> "pd.DataFrame":
        """One row per adapter, best first."""
        import pandas as pd

        return pd.DataFrame(
            {
                "rank": entry.rank,
                "adapter": entry.adapter,
                "predicted_gain": entry.predicted_gain,
                "low": entry.interval.low if entry.interval else None,
                "high": entry.interval.high if entry.interval else None,
                "p_harm": entry.p_harm,
                "p_best": entry.p_best,
                "predicted_alone": entry.predicted_alone,
                "measured_gain": entry.measured.gain if entry.measured else None,
                "measured_se": entry.measured.se if entry.measured else None,
                "measured_rows": entry.measured.n if entry.measured else None,
                "reason": entry.reasons[0].text,
                "warnings": " ".join(entry.warnings),
            }
            for entry in self.ranking
        )

    def _repr_html_(self) -> str:
        """The ranking as a notebook shows it: a table, the base's chances and the warnings."""
        frame = self.to_pandas()
        shown = frame.loc[:, frame.notna().any()]  # columns that nothing is known in say nothing
        table: str = shown.to_html(index=False, float_format=lambda x: f"{x:.3f}", na_rep="·")
        base = "The base model competes"
        if self.base.p_best is not None:
            base += f": best with probability {self.base.p_best:.0%}"
        if self.base.recommended:
            base = f"<b>Use the base model: no adapter is likely to help.</b> {base}"
        notes = "".join(f"<p>{escape(warning)}</p>" for warning in self.warnings)
        return f"{table}<p>{base}; gains in {self.model.unit}.</p>{notes}"


def rank_adapters(
    matrix: TransferMatrix,
    target: Fingerprint,
    *,
    metric: str,
    group: str | None = None,
    others: Sequence[TransferMatrix] = (),
    base_score: tuple[float, float] | None = None,
    measured: Mapping[str, Measurement] | None = None,
    seed: int = 0,
    method: str = DEFAULT,
    cache: ModelCache | None = None,
) -> Recommendation:
    """Rank a registry's adapters for an unseen target: `fit_ranking`, then its `answer`."""
    fitted = fit_ranking(
        matrix,
        target,
        metric=metric,
        group=group,
        others=others,
        seed=seed,
        method=method,
        cache=cache,
    )
    return fitted.answer(base_score=base_score, measured=measured)


def fit_ranking(
    matrix: TransferMatrix,
    target: Fingerprint,
    *,
    metric: str,
    group: str | None = None,
    others: Sequence[TransferMatrix] = (),
    seed: int = 0,
    method: str = DEFAULT,
    cache: ModelCache | None = None,
) -> "FittedRanking":
    """Learn from what was measured, and look at the target; nothing is refitted after that.

    Args:
        matrix: All that was measured under the target's base model. Tasks of the target's group
            are dropped before anything is learned, and so are columns that hold little but the
            adapters which earlier rankings chose.
        target: Fingerprint of the unseen dataset under the same base model.
        metric: The metric to gain in; it fixes the unit, and cells of the other unit are ignored.
        group: The target's group, where known. Adapters trained on that group stay in the ranking,
            with a warning: an in-domain adapter is a fair choice in use, but what is predicted for
            it is transfer.
        others: What was measured under other base models. Adapters that were trained on the same
            data as this base's lend them their standing on tasks of other groups than the target's.
        seed: Of folds, LightGBM and simulations; the same seed gives the same answer.
        method: A name in `models.METHODS`, or "default": chosen by what was measured.
        cache: Where fitted models are kept; a model of the same content is not fitted again.

    Raises:
        RecommendError: No adapter at all, or an unknown metric or method.
    """
    _check(matrix, metric, method)
    unit = METRIC_UNITS[metric]
    target_group = group or _NO_GROUP
    used = without_selected_columns(matrix)
    table = table_for_target(
        used,
        target,
        metric=metric,
        unit=unit,
        group=target_group,
        others=[without_selected_columns(other) for other in others],
    )
    fold = table.hold_out([target_group])
    own = next(query for query in fold.queries if query.target == TARGET_NAME)
    query = replace(own, candidates=np.ones(len(table.sources), dtype=bool))
    train = TrainingSet(fold.table)
    model = _fitted(train, method=method, seed=seed, cache=cache)
    nearest = train.task_similarity(query)
    fit = _fit(train, query, model, asked=method, outside=_lies_outside(train, nearest))
    notes = adapter_notes(matrix, fold.table, target, group=group)
    return FittedRanking(matrix, metric, seed, query, nearest, fit, notes)


def without_selected_columns(matrix: TransferMatrix) -> TransferMatrix:
    """The matrix without columns that verification alone filled, and hardly.

    A column that holds the best three of twenty makes the third look like the worst: standing is
    relative. It counts once half of the adapters are in it, or somebody measured others too.
    """
    chosen: dict[str, list[bool]] = {}
    for cell in matrix.cells:
        if not cell.row.is_reference:
            chosen.setdefault(cell.task, []).append(cell.selected)
    biased = {
        task
        for task, marks in chosen.items()
        if all(marks) and 2 * len(marks) < len(matrix.adapters)
    }
    if not biased:
        return matrix
    return replace(
        matrix,
        tasks=tuple(task for task in matrix.tasks if task.name not in biased),
        cells=tuple(cell for cell in matrix.cells if cell.task not in biased),
    )


@dataclass(frozen=True, slots=True, eq=False)
class FittedRanking:
    """A ranking that is ready to answer, with or without measurements on the target."""

    matrix: TransferMatrix
    """What it ranks."""
    metric: str
    """What gains are in."""
    seed: int
    """Of the simulated draws."""
    query: Query
    """The target."""
    nearest: Array | None
    """(n_tasks,): likeness of each measured task to the target."""
    fit: "_Fit"
    """What was learned, and what it says about the target."""
    notes: Sequence[Sequence[str]]
    """Warnings per adapter."""

    def answer(
        self,
        *,
        base_score: tuple[float, float] | None = None,
        measured: Mapping[str, Measurement] | None = None,
        failures: Mapping[str, str] | None = None,
    ) -> Recommendation:
        """The recommendation.

        Args:
            base_score: Score of the bare base on the target and its standard error.
            measured: Gains of adapters on the target itself, by adapter id.
            failures: Adapter id to why it could not be measured there.
        """
        table = self.fit.train.table
        row = {adapter_id: s for s, adapter_id in enumerate(table.sources)}
        seen = {row[name]: m for name, m in (measured or {}).items() if name in row}
        failed = {row[name]: why for name, why in (failures or {}).items() if name in row}
        unit, fit = table.unit, self.fit
        odds = _odds(fit, seen, base_score, unit=unit, seed=self.seed)
        before = _odds(fit, {}, base_score, unit=unit, seed=self.seed).median if seen else None
        order = np.lexsort((np.arange(len(fit.score)), -fit.score, -odds.order_by))
        ranking = tuple(
            _entry(
                rank,
                int(s),
                self.matrix.adapters[s],
                fit,
                odds,
                self.nearest,
                [*self.notes[s], *_failure_note(failed.get(int(s)))],
                seen,
                before,
            )
            for rank, s in enumerate(order, start=1)
        )
        return Recommendation(
            base_model=self.matrix.base.name,
            base=_base_choice(odds, base_score, ranking),
            model=_summary(fit, self.metric),
            ranking=ranking,
            interval_level=fit.gains.interval_level if fit.gains is not None else None,
            warnings=_warnings(fit, self.query),
        )

    def expected_gains(self, measured: Mapping[str, Measurement]) -> dict[str, float]:
        """Adapter id to expected gain, given these measurements; without gains, to the score."""
        answer = self.answer(measured=measured)
        n = len(answer.ranking)
        return {
            entry.adapter_id: float(n - entry.rank)
            if entry.predicted_gain is None
            else entry.predicted_gain
            for entry in answer.ranking
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """What was learned, and what it says about the target."""

    train: TrainingSet
    asked: str
    """"default" or the method that the caller named."""
    method: str
    """The method that ranked."""
    score: Array
    """(n_sources,): z of the prediction; only its order counts."""
    parts: Mapping[str, Array]
    """Feature → (n_sources,): summands of the score, up to a constant."""
    gains: GainModel | None
    """None when no gain was measured."""
    standing: Mapping[str, Array]
    """Feature → (n_sources,): z of the feature itself."""
    base_hint: float | None
    """The base's score on the target from its fingerprint; None where unknown."""
    backtest: Mapping[str, Any]
    """Figures to show; empty with fewer than two task groups."""
    outside: bool
    """The target is unlike every measured task."""

    @property
    def widening(self) -> float:
        """Factor on the residuals' spread."""
        return _OUTSIDE_WIDENING if self.outside else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Odds:
    """Gains and probabilities of every source, measurements included."""

    order_by: Array
    median: Array | None = None
    low: Array | None = None
    high: Array | None = None
    p_harm: Array | None = None
    p_best: Array | None = None
    base_p_best: float | None = None


def _check(matrix: TransferMatrix, metric: str, method: str) -> None:
    if not matrix.adapters:
        raise RecommendError(
            f"No adapter of {matrix.base.name} is registered, so there is nothing to rank. "
            "Register one with `adapt register`."
        )
    if metric not in METRIC_UNITS:
        raise RecommendError(f"Unknown metric {metric!r}; known: {', '.join(METRIC_UNITS)}.")
    if method != DEFAULT and method not in METHODS:
        raise RecommendError(f"Unknown method {method!r}; known: {', '.join((DEFAULT, *METHODS))}.")


def _fitted(train: TrainingSet, *, method: str, seed: int, cache: ModelCache | None) -> FittedModel:
    """The model of this content from the cache, else fitted and kept there."""
    if cache is None:
        return _learn(train, method=method, seed=seed)
    key = model_key(train.table, {"method": method, "seed": seed})
    model = cache.load(key, train)
    if model is None:
        model = _learn(train, method=method, seed=seed)
        cache.save(key, model)
        # The first answer is that of the file too: arrays of another layout round otherwise.
        model = cache.load(key, train) or model
    return model


def _learn(train: TrainingSet, *, method: str, seed: int) -> FittedModel:
    table = train.table
    chosen = house_default(train.n_groups) if method == DEFAULT else method
    scores, figures = np.zeros(table.scores.shape), {}
    if train.n_groups >= 2:
        tested = chosen_scores(train, method, beside=(_BASELINE,), seed=seed)
        chosen, scores = tested.method, np.nan_to_num(tested.scores)
        figures = _figures(table, method, tested)
    gains = None
    if np.isfinite(table.gains).any():
        gains = GainModel().fit(scores, table.gains, table.groups, base_hints=train.base_hints)
    ranker = make_ranker(chosen, seed=seed).fit(train)
    return FittedModel(chosen, ranker, gains, figures)


def _figures(table: TransferTable, asked: str, tested: ChosenScores) -> dict[str, Any]:
    """The chosen way's figures, and trimmed popularity's beside them."""
    judged = judged_targets(table)
    if not judged:
        return {}
    return {
        "method": asked,
        "chosen": tested.method,
        "n_groups": len({table.groups[t] for t in judged}),
        "n_targets": len(judged),
        **_picked(judge_scores(table, tested.scores)),
        "against": {_BASELINE: _picked(judge_scores(table, tested.beside[_BASELINE]))},
    }


def _picked(found: Mapping[str, float]) -> dict[str, float]:
    return {name: found[name] for name in _BACKTEST_METRICS if name in found}


def _fit(
    train: TrainingSet, query: Query, model: FittedModel, *, asked: str, outside: bool
) -> _Fit:
    raw = model.ranker.predict(query)
    spread = float(raw.std()) or 1.0
    parts = model.ranker.explain(query).items()
    return _Fit(
        train=train,
        asked=asked,
        method=model.method,
        score=unit_scores(raw),
        parts={name: (part - part.mean()) / spread for name, part in parts},
        gains=model.gains,
        standing=train.describe(query),
        base_hint=query.base_hint,
        backtest=model.backtest,
        outside=outside,
    )


def _odds(
    fit: _Fit,
    surprises: Mapping[int, Measurement],
    base_score: tuple[float, float] | None,
    *,
    unit: Unit,
    seed: int,
) -> _Odds:
    if fit.gains is None or fit.gains.n_groups_ == 0:
        return _without_model(fit.score, surprises)
    model = fit.gains
    predicted = model.predict(fit.score, base_hint=fit.base_hint)
    if model.interval_level is None:
        order_by = predicted.median.copy()
        for s, found in surprises.items():
            order_by[s] = found.gain
        return _Odds(order_by, median=order_by)
    update = None
    if surprises:
        seen = {s: (found.gain, found.se) for s, found in surprises.items()}
        update = measurement_update(model, predicted.median, seen)
    zeros, ones = np.zeros(len(fit.score)), np.ones(len(fit.score))
    median = predicted.median + (zeros if update is None else update.shift)
    scale = fit.widening * (ones if update is None else update.scale)
    middle = model.quantile(0.5)
    low = median + scale * (model.quantile(model.tail) - middle)
    high = median + scale * (model.quantile(1 - model.tail) - middle)
    draws = _draws(model, fit, update, surprises, seed=seed)
    p_best, base_p_best = _best_shares(draws, median)
    p_harm = predicted.p_harm
    if update is not None or fit.outside:
        p_harm = _harm_after(median, scale, model)
    floor, ceiling = _possible_gains(base_score, unit)
    return _Odds(
        order_by=median,
        median=np.clip(median, floor, ceiling),
        low=np.clip(low, floor, ceiling),
        high=np.clip(high, floor, ceiling),
        p_harm=p_harm,
        p_best=p_best,
        base_p_best=base_p_best,
    )


def _without_model(score: Array, surprises: Mapping[int, Measurement]) -> _Odds:
    """Nothing is known about gains but what was measured on the target itself."""
    order_by = np.full(len(score), -np.inf)
    for s, found in surprises.items():
        order_by[s] = found.gain
    known = np.isfinite(order_by)
    return _Odds(order_by, median=np.where(known, order_by, np.nan) if known.any() else None)


def _possible_gains(base_score: tuple[float, float] | None, unit: Unit) -> tuple[float, float]:
    """A score in [0, 1] can't gain more than is left, nor lose more than is there."""
    if base_score is None or unit != "points":
        return -np.inf, np.inf
    return -base_score[0], 1.0 - base_score[0]


def _draws(
    model: GainModel,
    fit: _Fit,
    update: Update | None,
    surprises: Mapping[int, Measurement],
    *,
    seed: int,
) -> Array:
    """Joint draws of all gains, (n_draws, n_sources), conditioned on what was measured."""
    rng = np.random.default_rng(seed)
    middle = model.quantile(0.5)
    residuals = model.draw(len(fit.score), _N_DRAWS, rng) - middle
    draws = model.level_ + model.slope_ * fit.score + middle + fit.widening * residuals
    if update is None:
        return draws
    index = np.fromiter(surprises, dtype=np.intp)
    gain = np.array([surprises[int(s)].gain for s in index])
    error = np.array([surprises[int(s)].se for s in index])
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


def _harm_after(median: Array, scale: Array, model: GainModel) -> Array:
    """P(gain < 0) from the residuals, shrunken to what the measurement leaves open."""
    return model.weight_below(model.quantile(0.5) - median / np.maximum(scale, 1e-9))


def _entry(
    rank: int,
    s: int,
    adapter: AdapterRecord,
    fit: _Fit,
    odds: _Odds,
    nearest: Array | None,
    notes: Sequence[str],
    surprises: Mapping[int, Measurement],
    before: Array | None,
) -> RankedAdapter:
    interval = None
    if odds.low is not None and odds.high is not None:
        interval = Interval(float(odds.low[s]), float(odds.high[s]))
    return RankedAdapter(
        rank=rank,
        adapter=adapter.name,
        adapter_id=adapter.adapter_id,
        predicted_gain=_at(odds.median, s),
        interval=interval,
        p_harm=None if odds.p_harm is None else float(np.clip(odds.p_harm[s], 0.0, 1.0)),
        p_best=_at(odds.p_best, s),
        reasons=_reasons(s, fit, surprises.get(s)),
        evidence=_evidence(s, fit.train.table, nearest),
        warnings=tuple(notes),
        measured=surprises.get(s),
        predicted_alone=_at(before, s),
    )


def _at(values: Array | None, s: int) -> float | None:
    return None if values is None or np.isnan(values[s]) else float(values[s])


def _failure_note(why: str | None) -> tuple[str, ...]:
    return () if why is None else (f"Could not be measured on the target: {why}",)


def _reasons(s: int, fit: _Fit, measurement: Measurement | None) -> tuple[Reason, ...]:
    """The measurement first, then the largest summands of the score, in units of gain."""
    reasons = []
    if measurement is not None:
        text = f"it was measured on {measurement.n} of the target's own rows"
        reasons.append(Reason("measured", measurement.gain, text))
    scale = fit.gains.slope_ if fit.gains is not None and fit.gains.slope_ > 0 else 1.0
    sizes = {name: scale * float(part[s]) for name, part in fit.parts.items()}
    largest = sorted(sizes.items(), key=lambda item: -abs(item[1]))[:_N_REASONS]
    for name, size in largest:
        if abs(size) > 1e-9:
            reasons.append(Reason(name, size, _reason_text(s, name, size, fit)))
    if reasons:
        return tuple(reasons)
    return (Reason("nothing", 0.0, _no_reason(fit)),)


def _reason_text(s: int, name: str, size: float, fit: _Fit) -> str:
    measured = int(np.isfinite(fit.train.standard[s]).sum())
    if name == "popularity" and measured == 0:
        return "it was never measured, so it counts as an average adapter"
    feature = FEATURES.get(name)
    if feature is None:
        return f"{name.replace('_', ' ')} speaks {'for' if size > 0 else 'against'} it"
    high = _standing(s, name, fit) > 0
    text = feature.high if high else feature.low
    if name == "popularity":
        text += f" ({measured} measured)"
    if fit.train.table.lenders and name in FROM_SCORES:
        text += ", under other base models"
    if feature.nonnegative and high == (size > 0):
        return text
    # A free weight or a tree holds a high value against an adapter, or a low one for it.
    return f"{text}, which {'helped' if size > 0 else 'hurt'} on the measured tasks"


def _standing(s: int, name: str, fit: _Fit) -> float:
    described = fit.standing.get(name)
    return float(described[s]) if described is not None else float(fit.parts[name][s])


def _no_reason(fit: _Fit) -> str:
    if fit.train.n_groups == 0:
        return "nothing was measured and nothing is known that would set it apart"
    return "all that is known about it is average"


def _evidence(s: int, table: TransferTable, nearest: Array | None) -> tuple[Evidence, ...]:
    """Measured gains on the tasks nearest to the target, own cells excepted."""
    known = np.flatnonzero(np.isfinite(table.gains[s]))
    if nearest is not None:
        known = known[np.argsort(-np.nan_to_num(nearest[known], nan=-np.inf), kind="stable")]
    return tuple(
        Evidence(
            task=table.targets[t],
            gain=float(table.gains[s, t]),
            similarity=_finite(nearest[t]) if nearest is not None else None,
        )
        for t in known[:_N_EVIDENCE]
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _base_choice(
    odds: _Odds, base_score: tuple[float, float] | None, ranking: Sequence[RankedAdapter]
) -> BaseChoice:
    promising = [
        entry
        for entry in ranking
        if entry.predicted_gain is None
        or (entry.predicted_gain > 0 and (entry.p_harm is None or entry.p_harm < 0.5))
    ]
    return BaseChoice(
        score=None if base_score is None else base_score[0],
        se=None if base_score is None else base_score[1],
        p_best=odds.base_p_best,
        recommended=not promising,
    )


def _summary(fit: _Fit, metric: str) -> ModelSummary:
    table = fit.train.table
    return ModelSummary(
        name=fit.method,
        regime=table.regime,
        unit=table.unit,
        metric=metric,
        n_groups=fit.train.n_groups,
        n_cells=int(np.isfinite(table.transfer_scores).sum()),
        backtest=fit.backtest,
        borrowed=_borrowed(fit.train),
    )


def _borrowed(train: TrainingSet) -> Borrowed | None:
    lent = train.table.lent
    if lent is None:
        return None
    known = np.isfinite(lent.transfer_scores)
    return Borrowed(
        base_models=lent.lenders,
        n_groups=len({g for g, n in zip(lent.groups, known.sum(axis=0), strict=True) if n}),
        n_adapters=int(known.any(axis=1).sum()),
        share=borrowed_share(train),
    )


def _warnings(fit: _Fit, query: Query) -> tuple[str, ...]:
    """What must be said aloud about the whole ranking."""
    said = list(fit.train.table.warnings)
    k = fit.train.n_groups
    lent = _borrowed(fit.train)
    if lent is not None:
        said.append(_loan_words(lent))
    if fit.train.table.lenders:
        said.append(
            "No adapter was measured under this base model yet, so gains can't be predicted, only "
            "an order. Run `adapt evaluate`, or verify the top ones on the target."
        )
    elif k == 0:
        how = (
            "by the likeness of training data to the target alone"
            if fit.train.similarity(query) is not None
            else "by nothing: the order says nothing"
        )
        said.append(
            "No adapter was measured on any other task, so gains can't be predicted; ranked "
            f"{how}. Run `adapt evaluate` first, or verify the top ones on the target."
        )
    elif k < MIN_GROUPS_FOR_INTERVAL:
        said.append(
            f"Only {k} task group(s) were measured: the ranking is the prior (half standing on "
            "other tasks, half likeness of training data), and intervals or odds can't be given. "
            "Three task groups are the least, ten are better."
        )
    elif fit.gains is None or fit.gains.n_groups_ == 0:
        said.append(
            "The base model was never measured, so gains can't be predicted, only an order."
        )
    elif fit.backtest.get("spearman_rho", 1.0) < 0.1:
        rho = fit.backtest["spearman_rho"]
        said.append(
            f"On the measured tasks this ranking did hardly better than chance (mean ρ {rho:.2f}): "
            "trust a measurement on the target more than this order."
        )
    if fit.outside and fit.gains is not None and fit.gains.interval_level is not None:
        said.append(
            "The target is unlike every measured task: intervals, which hold on average over "
            f"targets like the measured ones, are {_OUTSIDE_WIDENING:g} times as wide here. How "
            "wide they ought to be, nothing measured can tell."
        )
    elif fit.outside:
        said.append("The target is unlike every measured task.")
    return tuple(said)


def _loan_words(lent: Borrowed) -> str:
    names = " and ".join(lent.base_models[:2])
    if len(lent.base_models) > 2:
        names = f"{len(lent.base_models)} other base models ({names}, …)"
    counted = "stand in for" if lent.share == 1 else f"start with {lent.share:.0%} of the weight of"
    return (
        f"Scores of {names} on {lent.n_groups} task group(s) {counted} an adapter's standing here: "
        f"{lent.n_adapters} of the adapters have a counterpart there, trained on the same data."
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
