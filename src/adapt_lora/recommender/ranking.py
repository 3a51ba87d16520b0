"""Rank a registry's adapters for one unseen target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from adapt_lora.errors import RecommendError
from adapt_lora.recommender.answer import (
    BaseChoice,
    Borrowed,
    Interval,
    LabelBias,
    ModelSummary,
    RankedAdapter,
    Recommendation,
)
from adapt_lora.recommender.cautions import adapter_notes
from adapt_lora.recommender.choice import DEFAULT, ChosenScores, chosen_scores, house_default
from adapt_lora.recommender.columns import Array
from adapt_lora.recommender.features import TARGET_NAME, table_for_target
from adapt_lora.recommender.metrics import judge_scores, judged_targets
from adapt_lora.recommender.model_cache import FittedModel, ModelCache, model_key
from adapt_lora.recommender.models import METHODS, make_ranker
from adapt_lora.recommender.odds import Forecast, odds_of
from adapt_lora.recommender.own_training import estimate_own_training
from adapt_lora.recommender.stack import borrowed_share
from adapt_lora.recommender.table import TransferTable
from adapt_lora.recommender.training_set import TrainingSet
from adapt_lora.recommender.verdict import decide
from adapt_lora.recommender.words import evidence_for, reasons_for, warnings_about
from adapt_lora.registry.records import (
    BASE_ID,
    METRIC_UNITS,
    Fingerprint,
    Measurement,
    TransferMatrix,
    row_labels,
)

_BASELINE = "popularity_trimmed"
_BACKTEST_METRICS = (
    "spearman_rho",
    "ndcg_at_3",
    "regret_at_1",
    "regret_at_3",
    "regret_at_1_spread",
    "regret_at_3_spread",
)
_NO_GROUP = "\0no group"


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
    check_names(metric=metric, method=method)
    if not matrix.adapters:
        raise RecommendError(
            f"No adapter of {matrix.base.name} is registered, so there is nothing to rank. "
            "Register one with `adapt register`."
        )
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
    notes = adapter_notes(matrix, fold.table, target, group=group)
    return FittedRanking(matrix, metric, seed, Forecast.of(train, query, model), target, notes)


def check_names(*, metric: str, method: str) -> None:
    """Raise RecommendError where there is no such metric or ranking method."""
    if metric not in METRIC_UNITS:
        raise RecommendError(f"Unknown metric {metric!r}; known: {', '.join(METRIC_UNITS)}.")
    if method != DEFAULT and method not in METHODS:
        raise RecommendError(f"Unknown method {method!r}; known: {', '.join((DEFAULT, *METHODS))}.")


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
    forecast: Forecast
    """What was learned, and what it says about the target."""
    target: Fingerprint
    """Of the target."""
    notes: Sequence[Sequence[str]]
    """Warnings per adapter."""

    def answer(
        self,
        *,
        base_score: tuple[float, float] | None = None,
        measured: Mapping[str, Measurement] | None = None,
        failures: Mapping[str, str] | None = None,
        unbiased: Mapping[str, LabelBias] | None = None,
        few_shot: Mapping[str, float] | None = None,
    ) -> Recommendation:
        """The recommendation.

        Args:
            base_score: Score of the bare base on the target and its standard error.
            measured: Gains of adapters on the target itself, by adapter id.
            failures: Adapter id to why it could not be measured there.
            unbiased: The same adapters, and the base by BASE_ID, with their label bias taken off.
            few_shot: Scores of the base shown examples, by label of the matrix's row.
        """
        forecast, train = self.forecast, self.forecast.train
        of_source = self._by_source(measured or {})
        shares = [share for share in self.target.label_shares.values() if share > 0]
        chance = 1 / len(shares) if shares and self.metric == "balanced_accuracy" else None
        odds_given = partial(
            odds_of, forecast, base_score=base_score, chance=chance or 0.0, seed=self.seed
        )
        odds = odds_given(of_source)
        alone = odds_given({}) if of_source else None
        failed, bias = failures or {}, unbiased or {}
        names = row_labels(self.matrix.adapters)
        ranking = []
        for rank, s in enumerate(odds.order, start=1):
            adapter, notes = self.matrix.adapters[s], list(self.notes[s])
            if adapter.adapter_id in failed:
                why = failed[adapter.adapter_id]
                notes.append(f"Could not be measured on the target: {why}")
            interval = None
            if odds.interval is not None:
                interval = Interval(*(float(end[s]) for end in odds.interval))
            entry = RankedAdapter(
                rank=rank,
                adapter=names[adapter.adapter_id],
                adapter_id=adapter.adapter_id,
                predicted_gain=_at(odds.median, s),
                interval=interval,
                p_harm=_at(odds.p_harm, s),
                p_best=_at(odds.p_best, s),
                reasons=reasons_for(forecast, s, of_source.get(s)),
                evidence=evidence_for(forecast, s),
                warnings=tuple(notes),
                measured=of_source.get(s),
                predicted_alone=None if alone is None else _at(alone.median, s),
                unbiased=bias.get(adapter.adapter_id),
            )
            ranking.append(entry)
        borrowed = _borrowed(train)
        score, se = base_score or (None, None)
        gains = forecast.model.gains
        base = BaseChoice(
            score,
            se,
            odds.base_p_best,
            recommended=not any(entry.is_promising for entry in ranking),
            unbiased=bias.get(BASE_ID),
            majority=max(shares) if shares and self.metric == "accuracy" else chance,
            few_shot=few_shot or {},
        )
        own = estimate_own_training(self.matrix, self.target, metric=self.metric, base_score=score)
        return Recommendation(
            base_model=self.matrix.base.name,
            base=base,
            model=ModelSummary(
                name=forecast.model.method,
                regime=train.table.regime,
                unit=train.table.unit,
                metric=self.metric,
                n_groups=train.n_groups,
                n_cells=int(np.isfinite(train.table.transfer_scores).sum()),
                backtest=forecast.model.backtest,
                borrowed=borrowed,
            ),
            ranking=tuple(ranking),
            interval_level=None if gains is None else gains.interval_level,
            verdict=decide(ranking, base, own=own, chance=chance),
            own_training=own,
            warnings=warnings_about(forecast, borrowed),
        )

    def expected_gains(self, measured: Mapping[str, Measurement]) -> dict[str, float]:
        """Adapter id to expected gain, given these measurements; without gains, to the score."""
        of_source = self._by_source(measured)
        odds = odds_of(self.forecast, of_source, base_score=None, seed=self.seed)
        expected = {}
        for n_before, s in enumerate(odds.order):
            gain = _at(odds.median, s)
            place = float(len(odds.order) - 1 - n_before)
            expected[self.matrix.adapters[s].adapter_id] = place if gain is None else gain
        return expected

    def _by_source(self, measured: Mapping[str, Measurement]) -> dict[int, Measurement]:
        sources = self.forecast.train.table.sources
        row = {adapter_id: s for s, adapter_id in enumerate(sources)}
        return {row[name]: one for name, one in measured.items() if name in row}


def _at(values: Array | None, s: int) -> float | None:
    return None if values is None or np.isnan(values[s]) else float(values[s])


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
        gains = train.gain_model(scores)
    ranker = make_ranker(chosen, seed=seed).fit(train)
    return FittedModel(chosen, ranker, gains, figures)


def _figures(table: TransferTable, asked: str, tested: ChosenScores) -> dict[str, Any]:
    """The chosen way's figures, and trimmed popularity's beside them."""
    judged = judged_targets(table)
    if not judged:
        return {}

    def shown(scores: Array) -> dict[str, float]:
        found = judge_scores(table, scores)
        return {name: found[name] for name in _BACKTEST_METRICS if name in found}

    return {
        "method": asked,
        "chosen": tested.method,
        "n_groups": len({table.groups[t] for t in judged}),
        "n_targets": len(judged),
        **shown(tested.scores),
        "against": {_BASELINE: shown(tested.beside[_BASELINE])},
    }
