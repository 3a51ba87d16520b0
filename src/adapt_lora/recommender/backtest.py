"""Leave-one-task-group-out back-tests; what `default` uses is chosen afresh in each fold."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adapt_lora.recommender import metrics
from adapt_lora.recommender.calibration import OutOfFold
from adapt_lora.recommender.choice import (
    DEFAULT,
    INNER_SEEDS,
    Choice,
    choose_method,
    group_folds,
    house_default,
    out_of_fold,
)
from adapt_lora.recommender.columns import Array, Mask, standardise
from adapt_lora.recommender.level import GainModel, GainPrediction
from adapt_lora.recommender.metrics import MIN_CANDIDATES, means_over_targets, ranking_metrics
from adapt_lora.recommender.models import METHODS, make_ranker
from adapt_lora.recommender.rankers import Ranker
from adapt_lora.recommender.table import Query, TransferTable
from adapt_lora.recommender.training_set import TrainingSet
from adapt_lora.recommender.verification import Trial, expected_choice

VERIFIED, VERIFIED_ROWS = 3, 100
"""`verified_share`: the best three are measured on a hundred rows each."""

_VERIFIED_DRAWS = 200
_DRAWS_PER_TIE = 25  # of each of the 64 ways to break a tie


@dataclass(frozen=True, slots=True, eq=False)
class Backtest:
    """How well each method would have ranked every measured task, had it been unseen."""

    methods: Mapping[str, Mapping[str, float]]
    """Method → metric → mean over targets; a metric without meaning there is absent."""
    per_target: Mapping[str, Mapping[str, Array]]
    """Method → metric → (n_targets,), NaN where a target could not be judged."""
    scores: Mapping[str, Array]
    """Method → (n_sources, n_targets): z of predictions made without the column's group."""
    chosen: str
    """What `default` used most often over the folds."""
    chosen_by_group: Mapping[str, str]
    """What it used when each group was held out."""
    n_targets: int
    """Targets that could be judged."""
    n_groups: int
    """Task groups among them."""
    cells: tuple[OutOfFold, ...] = ()
    """What `default` said of each measured gain, by target; empty where gains were not judged."""


def backtest(
    table: TransferTable,
    *,
    methods: Sequence[str] = tuple(METHODS),
    seed: int = 0,
    n_folds: int | None = None,
    n_seeds: int = 8,
    inner_seeds: int = INNER_SEEDS,
    judge_gains: bool = True,
    held_out: Collection[str] | None = None,
) -> Backtest:
    """Rank every task as if it were unseen, by each method and by `default`.

    Args:
        table: What was measured.
        methods: Names in METHODS; `default` is always added.
        seed: Of folds, LightGBM and simulated measurements.
        n_folds: Folds over task groups; None leaves each group out alone.
        n_seeds: LightGBM models averaged per fit.
        inner_seeds: The same inside the folds, where methods are compared.
        judge_gains: Also predict gains and judge their intervals, signs and P(harm): costs an
            inner cross-validation per fold and method.
        held_out: Only folds with one of these groups are run, so that a long back-test can be
            dealt out (`merge_backtests`); None runs all.
    """
    names = [*methods, DEFAULT, *table.rivals]
    judge = _Judge(table, names, seed=seed)
    scores = {name: np.full(table.scores.shape, np.nan) for name in names}
    chosen: dict[str, str] = {}
    gains_known = judge_gains and bool(np.isfinite(table.gains).any())
    for groups in group_folds(table.groups, n_folds, seed=seed):
        if held_out is not None and not set(groups) & set(held_out):
            continue
        fold = table.hold_out(groups)
        train = TrainingSet(fold.table)
        if train.n_groups == 0:
            continue
        choice = choose_method(train, seed=seed, n_seeds=inner_seeds)
        chosen |= dict.fromkeys(groups, choice.method)
        rankers = {
            name: make_ranker(name, seed=seed, n_seeds=n_seeds).fit(train)
            for name in dict.fromkeys((*methods, choice.method))
        }
        rankers[DEFAULT] = rankers[choice.method]
        models = _gain_models(train, choice, methods, seed=seed) if gains_known else {}
        others = fold.table.gains[np.isfinite(fold.table.gains)]
        for t, query in zip(fold.held, fold.queries, strict=True):
            for name in names:
                predicted = _prediction(rankers.get(name), query, name)
                if predicted is None:
                    continue
                score = standardise(predicted)
                scores[name][:, t] = score
                judge.ranking(name, t, score)
                if name in models and models[name].n_groups_:
                    harm_rate = float((others < 0).mean())
                    judge.gains(name, t, score, models[name], query=query, harm_rate=harm_rate)
    return replace(_backtest(table, judge.per_target, scores, chosen), cells=tuple(judge.cells))


def merge_backtests(table: TransferTable, parts: Sequence[Backtest]) -> Backtest:
    """The whole of back-tests of one table that each ran other folds."""
    names = list(dict.fromkeys(name for part in parts for name in part.per_target))
    blank = np.full(len(table.targets), np.nan)
    per_target: dict[str, dict[str, Array]] = {name: {} for name in names}
    scores = {name: np.full(table.scores.shape, np.nan) for name in names}
    chosen: dict[str, str] = {}
    for part in parts:
        chosen |= part.chosen_by_group
        for name, found in part.per_target.items():
            for metric, values in found.items():
                so_far = per_target[name].get(metric, blank)
                per_target[name][metric] = np.where(np.isfinite(values), values, so_far)
        for name, values in part.scores.items():
            scores[name] = np.where(np.isfinite(values), values, scores[name])
    in_order = {group: chosen[group] for group in table.group_names if group in chosen}
    cells = tuple(cell for part in parts for cell in part.cells)
    return replace(_backtest(table, per_target, scores, in_order), cells=cells)


def _backtest(
    table: TransferTable,
    per_target: Mapping[str, Mapping[str, Array]],
    scores: Mapping[str, Array],
    chosen: Mapping[str, str],
) -> Backtest:
    once = np.ones((1, len(table.targets)))
    methods = {}
    for name, found in per_target.items():
        if found:
            means = means_over_targets(found, once)
            methods[name] = {
                metric: float(x[0]) for metric, x in means.items() if np.isfinite(x[0])
            }
    judged = {
        int(t)
        for found in per_target.values()
        for t in np.flatnonzero(np.isfinite(found.get("spearman_rho", np.zeros(0))))
    }
    return Backtest(
        methods=methods,
        per_target=per_target,
        scores=scores,
        chosen=Counter(chosen.values()).most_common(1)[0][0] if chosen else house_default(0),
        chosen_by_group=chosen,
        n_targets=len(judged),
        n_groups=len({table.groups[t] for t in judged}),
    )


def _prediction(ranker: Ranker | None, query: Query, name: str) -> Array | None:
    """A method's or a rival's prediction; None where it has nothing to look at."""
    if ranker is not None:
        return ranker.expected(query) if ranker.can_rank(query) else None
    rival = query.rivals[name]
    known = np.isfinite(rival)
    return np.where(known, rival, rival[known].min() - 1.0) if known.any() else None


def _gain_models(
    train: TrainingSet, choice: Choice, methods: Sequence[str], *, seed: int
) -> dict[str, GainModel]:
    """Level, slope and residuals of each method, from inner folds of the training table."""
    wanted = dict.fromkeys((*methods, choice.method))
    missing = [name for name in wanted if name not in choice.scores]
    scores = {**choice.scores, **out_of_fold(train, missing, seed=seed)}
    models = {name: train.gain_model(scores[name]) for name in wanted}
    return {**models, DEFAULT: models[choice.method]}


class _Judge:
    """Collects every metric per method and target."""

    def __init__(self, table: TransferTable, names: Sequence[str], *, seed: int) -> None:
        self._table = table
        self._seed = seed
        self._kept = np.isfinite(table.transfer_scores)
        self.per_target: dict[str, dict[str, Array]] = {name: {} for name in names}
        """Method → metric → (n_targets,)."""
        self.cells: list[OutOfFold] = []
        """Every gain that `default` predicted."""

    def ranking(self, method: str, t: int, score: Array) -> None:
        """Judge the order of a target's measured adapters."""
        kept = self._kept[:, t]
        if kept.sum() < MIN_CANDIDATES:
            return
        true = self._table.transfer_scores[kept, t]
        judged = ranking_metrics(true, score[kept], points=self._table.unit == "points")
        for metric, value in judged.items():
            self._note(method, metric, t, value)

    def gains(
        self,
        method: str,
        t: int,
        score: Array,
        model: GainModel,
        *,
        query: Query,
        harm_rate: float,
    ) -> None:
        """Judge the gains that a model foretells from a score.

        Args:
            method: What scored.
            t: The target's column.
            score: (n_sources,) z of the prediction.
            model: From score to gain, fitted without the target's group.
            query: What is known of the target.
            harm_rate: Share of gains on other tasks that are below 0.
        """
        kept = self._kept[:, t]
        gains, true = self._table.gains[kept, t], self._table.transfer_scores[kept, t]
        if kept.sum() < MIN_CANDIDATES or not np.isfinite(gains).all():
            return
        predicted = model.predict(
            score, base_hint=query.base_hint, level_features=query.level_features
        )
        median = predicted.median[kept]
        if method == DEFAULT:
            self._keep_cells(t, kept, predicted, model)
        if self._table.unit == "points":
            spread = model.joint(predicted.spread).of(np.flatnonzero(kept))
            trial = Trial(gains, true, float(self._table.base_scores[t]), median, spread)
            rng = np.random.default_rng([self._seed, t])
            tops = metrics.leading(VERIFIED, score[kept])
            n_draws = _VERIFIED_DRAWS if len(tops) == 1 else _DRAWS_PER_TIE
            won = [
                expected_choice(trial, top, n_rows=VERIFIED_ROWS, rng=rng, n_draws=n_draws)
                for top in tops
            ]
            self._note(method, "_verified_gain", t, float(np.mean(won)))
            self._note(method, "_best_gain", t, max(float(gains.max()), 0.0))
        self._note(method, "sign_accuracy", t, metrics.sign_accuracy(gains, median))
        self._note(method, "mae", t, float(np.abs(gains - median).mean()))
        low, high, p_harm = predicted.low, predicted.high, predicted.p_harm
        if low is not None and high is not None and model.interval_level == 0.8:
            covered = metrics.coverage(gains, low[kept], high[kept])
            self._note(method, "coverage_80", t, covered)
            self._note(method, "width_80", t, float((high[kept] - low[kept]).mean()))
        if p_harm is not None:
            harmed = (gains < 0).astype(np.float64)
            climate = np.full(harmed.shape, harm_rate)
            self._note(method, "brier", t, metrics.brier(harmed, p_harm[kept]))
            self._note(method, "_brier_climate", t, metrics.brier(harmed, climate))

    def _keep_cells(self, t: int, kept: Mask, predicted: GainPrediction, model: GainModel) -> None:
        table, low, high, p_harm = self._table, predicted.low, predicted.high, predicted.p_harm
        needed = None
        if low is not None:
            missed = (table.gains[:, t] - predicted.median) / predicted.spread
            needed = model.needed_level(missed + model.quantile(0.5))
        self.cells += [
            OutOfFold(
                adapter=table.sources[s],
                target=table.targets[t],
                group=table.groups[t],
                predicted=float(predicted.median[s]),
                measured=float(table.gains[s, t]),
                interval=None if low is None or high is None else (float(low[s]), float(high[s])),
                p_harm=None if p_harm is None else float(np.clip(p_harm[s], 0.0, 1.0)),
                needed_level=None if needed is None else float(needed[s]),
            )
            for s in np.flatnonzero(kept).tolist()
        ]

    def _note(self, method: str, metric: str, t: int, value: float) -> None:
        blank = np.full(len(self._table.targets), np.nan)
        self.per_target[method].setdefault(metric, blank)[t] = value
