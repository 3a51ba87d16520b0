"""Leave-one-task-group-out back-tests; what `default` uses is chosen afresh in each fold."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from adapt_lora.recommender import metrics
from adapt_lora.recommender.calibration import OutOfFold
from adapt_lora.recommender.features import TrainingSet
from adapt_lora.recommender.gains import GainModel, GainPrediction
from adapt_lora.recommender.models import (
    METHODS,
    MIN_GROUPS_FOR_TREES,
    Ranker,
    make_ranker,
    unit_scores,
)
from adapt_lora.recommender.table import Array, Fold, Query, TransferTable
from adapt_lora.recommender.verification import Shelf, expected_choice

DEFAULT = "default"
"""The row that stands for the choice itself."""

MIN_GROUPS_TO_CHOOSE = 12
"""Below this, free choice loses more often than the fixed stack (docs/experiments.md, 6)."""

VERIFIED, VERIFIED_ROWS = 3, 100
"""`verified_share`: the best three are measured on a hundred rows each."""

MIN_CANDIDATES = 3
"""A target with fewer measured candidates has no ranking to judge."""

ALTERNATIVES = ("popularity_trimmed", "trait_regression", "stack", "lightgbm")
"""Methods that may replace the house default where they win clearly."""

_INNER_FOLDS = 5
_CLEAR_WIN = 2.0  # standard errors
_FEW_GROUPS_FOLDS = 10  # with fewer than 12 groups nothing is chosen, so finer folds are cheap
INNER_SEEDS = 2
"""LightGBM models averaged per inner fit: enough to compare methods."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The method that `default` uses on one table, and its out-of-fold scores there."""

    method: str
    """Name in METHODS."""
    scores: Mapping[str, Array]
    """Method → (n_sources, n_targets) z of predictions made without the column's group."""


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


def house_default(n_groups: int) -> str:
    """The stack, joined by LightGBM where the data carry it (docs/experiments.md, 4-5)."""
    return "mix" if n_groups >= MIN_GROUPS_FOR_TREES else "stack"


def group_folds(groups: Sequence[str], n_folds: int | None, *, seed: int) -> list[tuple[str, ...]]:
    """Deal the distinct groups into folds; one group each when `n_folds` is None or too many."""
    names = list(dict.fromkeys(groups))
    if n_folds is None or n_folds >= len(names):
        return [(name,) for name in names]
    shuffled = np.random.default_rng(seed).permutation(len(names))
    return [tuple(names[i] for i in sorted(shuffled[f::n_folds])) for f in range(n_folds)]


def out_of_fold(
    train: TrainingSet,
    methods: Sequence[str],
    *,
    n_folds: int | None = _INNER_FOLDS,
    seed: int = 0,
    n_seeds: int = INNER_SEEDS,
) -> dict[str, Array]:
    """Z of each method's predictions for every column, made without the column's group."""
    table = train.table
    found = {method: np.full(table.scores.shape, np.nan) for method in methods}

    def fill(fold_groups: tuple[str, ...]) -> None:
        fold = table.hold_out(fold_groups)
        inner = TrainingSet(fold.table)
        for method in methods:
            ranker = make_ranker(method, seed=seed, n_seeds=n_seeds).fit(inner)
            for t, query in zip(fold.held, fold.queries, strict=True):
                found[method][:, t] = unit_scores(ranker.predict(query))

    # LightGBM lets go of the interpreter while it grows trees, so two folds fit side by side.
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(fill, group_folds(table.groups, n_folds, seed=seed)))
    return found


def choose_method(train: TrainingSet, *, seed: int = 0, n_seeds: int = INNER_SEEDS) -> Choice:
    """Pick what `default` uses: the house default, left only for a clear win over many groups.

    From 12 groups on, each alternative is compared with the house default by the mean of ρ and
    NDCG@3 per task group over 5 inner folds; the best one that wins by more than two standard
    errors of the paired difference replaces it. (By one, the luckiest of four alternatives that
    are no better would win every second time.)
    """
    house = house_default(train.n_groups)
    if train.n_groups < MIN_GROUPS_TO_CHOOSE:
        return Choice(house, {})
    names = tuple(dict.fromkeys((house, *ALTERNATIVES)))
    scores = out_of_fold(train, names, seed=seed, n_seeds=n_seeds)
    return Choice(_clear_winner(train.table, scores, house), scores)


def _clear_winner(table: TransferTable, scores: Mapping[str, Array], house: str) -> str:
    merit = {name: _merit_by_group(table, found) for name, found in scores.items()}
    best, best_win = house, 0.0
    for name in merit:
        difference = merit[name] - merit[house]
        error = float(difference.std(ddof=1)) / np.sqrt(len(difference))
        win = float(difference.mean())
        if win > _CLEAR_WIN * error and win > best_win:
            best, best_win = name, win
    return best


@dataclass(frozen=True, slots=True, eq=False)
class ChosenScores:
    """A method as it is used on one table, with what it would have said there."""

    method: str
    """Name in METHODS."""
    scores: Array
    """(n_sources, n_targets): its z for every column, made without the column's group."""
    beside: Mapping[str, Array]
    """The same of methods to compare it with."""


def chosen_scores(
    train: TrainingSet,
    method: str = DEFAULT,
    *,
    beside: Sequence[str] = ("popularity_trimmed",),
    seed: int = 0,
) -> ChosenScores:
    """What a recommendation uses, and its out-of-fold scores: one cross-validation for all of it.

    Where `default` left the house default, the scores of each fold are those of the method that
    the *other* folds chose, so that a lucky choice is not also its own judge. (A full nesting
    would fit six times as much; it moves these figures by less than their noise.)
    """
    choice = choose_method(train, seed=seed, n_seeds=1) if method == DEFAULT else Choice(method, {})
    wanted = [name for name in (choice.method, *beside) if name not in choice.scores]
    n_folds = _INNER_FOLDS if train.n_groups >= MIN_GROUPS_TO_CHOOSE else _FEW_GROUPS_FOLDS
    more = out_of_fold(train, wanted, n_folds=n_folds, seed=seed, n_seeds=1) if wanted else {}
    scores = {**choice.scores, **more}
    mine = scores[choice.method]
    if choice.scores and choice.method != house_default(train.n_groups):
        mine = _cross_chosen(train, choice, seed=seed)
    return ChosenScores(choice.method, mine, {name: scores[name] for name in beside})


def _cross_chosen(train: TrainingSet, choice: Choice, *, seed: int) -> Array:
    table, house = train.table, house_default(train.n_groups)
    mixed = np.full(table.scores.shape, np.nan)
    for fold_groups in group_folds(table.groups, _INNER_FOLDS, seed=seed):
        held = [t for t, group in enumerate(table.groups) if group in fold_groups]
        rest = [t for t, group in enumerate(table.groups) if group not in fold_groups]
        others = {name: found[:, rest] for name, found in choice.scores.items()}
        mixed[:, held] = choice.scores[_clear_winner(table.columns(rest), others, house)][:, held]
    return mixed


def judge_scores(table: TransferTable, scores: Array) -> dict[str, float]:
    """Every ranking metric of out-of-fold scores, mean over the targets that can be judged."""
    found: dict[str, list[float]] = {}
    for t in range(len(table.targets)):
        true = table.transfer_scores[:, t]
        kept = np.isfinite(true) & np.isfinite(scores[:, t])
        if kept.sum() < MIN_CANDIDATES:
            continue
        judged = _ranking_metrics(true[kept], scores[kept, t], points=table.unit == "points")
        for metric, value in judged.items():
            found.setdefault(metric, []).append(value)
    return {metric: float(np.mean(values)) for metric, values in found.items()}


def judged_targets(table: TransferTable) -> tuple[int, ...]:
    """Columns with enough measured candidates to judge a ranking by."""
    enough = np.isfinite(table.transfer_scores).sum(axis=0) >= MIN_CANDIDATES
    return tuple(int(t) for t in np.flatnonzero(enough))


def _merit_by_group(table: TransferTable, scores: Array) -> Array:
    """(ρ + NDCG@3)/2 per group, mean over its columns."""
    merits: dict[str, list[float]] = {}
    for t, group in enumerate(table.groups):
        true = table.transfer_scores[:, t]
        known = np.isfinite(true)
        if known.sum() < MIN_CANDIDATES:
            continue
        a, b = true[known], scores[known, t]
        merits.setdefault(group, []).append((metrics.spearman(a, b) + metrics.ndcg_at(3, a, b)) / 2)
    return np.array([np.mean(values) for values in merits.values()])


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
        seed: Of folds, random ranks, LightGBM and simulated measurements.
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
        models = _gain_models(train, choice, methods, seed=seed) if gains_known else {}
        rankers[DEFAULT] = rankers[choice.method]
        for t, query in zip(fold.held, fold.queries, strict=True):
            for name in names:
                predicted = _prediction(rankers.get(name), query, name)
                if predicted is None:
                    continue
                scores[name][:, t] = unit_scores(predicted)
                judge.see(name, t, scores[name][:, t], models.get(name), fold.table, query)
    return replace(_backtest(table, judge.per_target(), scores, chosen), cells=judge.cells())


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
    seen = {
        int(t)
        for found in per_target.values()
        for t in np.flatnonzero(np.isfinite(found.get("spearman_rho", np.zeros(0))))
    }
    return Backtest(
        methods={name: summarise(found) for name, found in per_target.items() if found},
        per_target=per_target,
        scores=scores,
        chosen=Counter(chosen.values()).most_common(1)[0][0] if chosen else house_default(0),
        chosen_by_group=chosen,
        n_targets=len(seen),
        n_groups=len({table.groups[t] for t in seen}),
    )


def backtest_new_adapters(
    table: TransferTable,
    *,
    methods: Sequence[str] = tuple(METHODS),
    new_tasks: bool = False,
    seed: int = 0,
    n_folds: int | None = 10,
    n_seeds: int = INNER_SEEDS,
) -> Backtest:
    """How well adapters that nobody has measured would have been ranked.

    A fold's adapters lose every score, under other base models too, and are then predicted on
    each task from what is known of them and from the other adapters' scores. Each is judged by a
    fit that has not seen it, all of them together per task.

    Args:
        table: What was measured.
        methods: Names in METHODS; `default` is always added.
        new_tasks: Also leave out the task's group: both at once.
        seed: Of folds, random ranks and LightGBM.
        n_folds: Folds over adapters; None leaves each alone.
        n_seeds: LightGBM models averaged per fit.
    """
    names = (*methods, DEFAULT)
    scores = {name: np.full(table.scores.shape, np.nan) for name in names}
    chosen: Counter[str] = Counter()
    for hidden in group_folds(table.sources, n_folds, seed=seed):
        rows = [table.sources.index(name) for name in hidden]
        rest = table.without_adapters(rows)
        everywhere = tuple(range(len(table.targets)))
        known = [Fold(rest, everywhere, tuple(rest.query(t, everywhere) for t in everywhere))]
        for fold in [rest.hold_out([g]) for g in table.group_names] if new_tasks else known:
            train = TrainingSet(fold.table)
            if train.n_groups == 0:
                continue
            choice = choose_method(train, seed=seed, n_seeds=n_seeds).method
            chosen[choice] += 1
            for name in names:
                ranker = make_ranker(
                    choice if name == DEFAULT else name, seed=seed, n_seeds=n_seeds
                )
                ranker.fit(train)
                for t, query in zip(fold.held, fold.queries, strict=True):
                    if ranker.can_rank(query):
                        scores[name][rows, t] = unit_scores(ranker.predict(query))[rows]
    judge = _Judge(table, names, seed=seed)
    for name, found in scores.items():
        for t in np.flatnonzero(np.isfinite(found).all(axis=0)).tolist():
            judge.see(name, t, found[:, t], None, table, table.query(t, ()))
    tested = _backtest(table, judge.per_target(), scores, {})
    most = chosen.most_common(1)[0][0] if chosen else house_default(0)
    return replace(tested, chosen=most)


def _prediction(ranker: Ranker | None, query: Query, name: str) -> Array | None:
    """A method's or a rival's prediction; None where it has nothing to look at."""
    if ranker is not None:
        return ranker.predict(query) if ranker.can_rank(query) else None
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
    gains, groups = train.table.gains, train.table.groups
    models = {
        name: GainModel().fit(scores[name], gains, groups, base_hints=train.base_hints)
        for name in wanted
    }
    return {**models, DEFAULT: models[choice.method]}


class _Judge:
    """Collects every metric per method and target."""

    def __init__(self, table: TransferTable, names: Sequence[str], *, seed: int) -> None:
        self.table = table
        self.seed = seed
        self._found: dict[str, dict[str, Array]] = {name: {} for name in names}
        self._cells: list[OutOfFold] = []

    def per_target(self) -> dict[str, dict[str, Array]]:
        """Method → metric → (n_targets,)."""
        return self._found

    def cells(self) -> tuple[OutOfFold, ...]:
        """Every gain that `default` predicted."""
        return tuple(self._cells)

    def see(
        self,
        name: str,
        t: int,
        score: Array,
        model: GainModel | None,
        known: TransferTable,
        query: Query,
    ) -> None:
        """Judge one prediction; `known` is the table that it was made from."""
        true = self.table.transfer_scores[:, t]
        kept = np.isfinite(true)
        if kept.sum() < MIN_CANDIDATES:
            return
        for metric, value in _ranking_metrics(
            true[kept], score[kept], points=self.table.unit == "points"
        ).items():
            self._note(name, metric, t, value)
        gains = self.table.gains[:, t]
        if np.isfinite(gains[kept]).all():
            self._judge_gains(name, t, kept, score, model, known, query)

    def _judge_gains(
        self,
        name: str,
        t: int,
        kept: np.ndarray[tuple[int], np.dtype[np.bool_]],
        score: Array,
        model: GainModel | None,
        known: TransferTable,
        query: Query,
    ) -> None:
        gains, true = self.table.gains[kept, t], self.table.transfer_scores[kept, t]
        if model is None or model.n_groups_ == 0:
            return
        predicted = model.predict(score, base_hint=query.base_hint)
        if name == DEFAULT:
            self._cells += self._out_of_fold(t, kept, predicted, model)
        if self.table.unit == "points":
            base = float(self.table.base_scores[t])
            shelf = Shelf(gains, true, base, predicted.median[kept], model)
            rng = np.random.default_rng([self.seed, t])
            top = np.argsort(-score[kept], kind="stable")[:VERIFIED]
            won = expected_choice(shelf, top.tolist(), n_rows=VERIFIED_ROWS, rng=rng)
            self._note(name, "_verified_gain", t, won)
            self._note(name, "_best_gain", t, max(float(gains.max()), 0.0))
        self._note(name, "sign_accuracy", t, metrics.sign_accuracy(gains, predicted.median[kept]))
        self._note(name, "mae", t, float(np.abs(gains - predicted.median[kept]).mean()))
        if model.interval_level == 0.8:
            self._judge_interval(name, t, gains, kept, predicted)
        if predicted.p_harm is not None:
            harmed = (gains < 0).astype(np.float64)
            others = known.gains[np.isfinite(known.gains)]
            climate = np.full(harmed.shape, float((others < 0).mean()))
            self._note(name, "brier", t, metrics.brier(harmed, predicted.p_harm[kept]))
            self._note(name, "_brier_climate", t, metrics.brier(harmed, climate))

    def _out_of_fold(
        self,
        t: int,
        kept: np.ndarray[tuple[int], np.dtype[np.bool_]],
        predicted: GainPrediction,
        model: GainModel,
    ) -> list[OutOfFold]:
        low, high, p_harm = predicted.low, predicted.high, predicted.p_harm
        needed = None
        if low is not None:
            residuals = self.table.gains[:, t] - (predicted.median - model.quantile(0.5))
            needed = model.needed_level(residuals)
        return [
            OutOfFold(
                adapter=self.table.sources[s],
                target=self.table.targets[t],
                group=self.table.groups[t],
                predicted=float(predicted.median[s]),
                measured=float(self.table.gains[s, t]),
                interval=None if low is None or high is None else (float(low[s]), float(high[s])),
                p_harm=None if p_harm is None else float(np.clip(p_harm[s], 0.0, 1.0)),
                needed_level=None if needed is None else float(needed[s]),
            )
            for s in np.flatnonzero(kept).tolist()
        ]

    def _judge_interval(
        self,
        name: str,
        t: int,
        gains: Array,
        kept: np.ndarray[tuple[int], np.dtype[np.bool_]],
        predicted: GainPrediction,
    ) -> None:
        if predicted.low is None or predicted.high is None:
            return
        low, high = predicted.low[kept], predicted.high[kept]
        self._note(name, "coverage_80", t, metrics.coverage(gains, low, high))
        self._note(name, "width_80", t, float((high - low).mean()))

    def _note(self, name: str, metric: str, t: int, value: float) -> None:
        blank = np.full(len(self.table.targets), np.nan)
        self._found[name].setdefault(metric, blank)[t] = value


def _ranking_metrics(true: Array, predicted: Array, *, points: bool) -> dict[str, float]:
    found = {
        "spearman_rho": metrics.spearman(true, predicted),
        "weighted_kendall_tau": metrics.weighted_kendall(true, predicted),
        "ndcg_at_3": metrics.ndcg_at(3, true, predicted),
        "ndcg_taskshop": metrics.ndcg_taskshop(true, predicted),
        "regret_at_1_spread": metrics.regret_at_spread(1, true, predicted),
        "regret_at_3_spread": metrics.regret_at_spread(3, true, predicted),
    }
    if points:
        found |= {
            "regret_at_1": metrics.regret_at(1, true, predicted),
            "regret_at_3": metrics.regret_at(3, true, predicted),
            "top5_regret_taskshop": metrics.top5_regret_taskshop(true, predicted),
        }
    return found


def summarise(found: Mapping[str, Array], weights: Array | None = None) -> dict[str, float]:
    """Means over targets; ratios of means where a ratio per target would explode.

    Args:
        found: Metric → (n_targets,), NaN where a target could not be judged.
        weights: (n_targets,), how often each target counts; once by default.
    """
    sums = {metric: _weighted_sum(values, weights) for metric, values in found.items()}
    means = {
        metric: total / weight
        for metric, (total, weight) in sums.items()
        if not metric.startswith("_") and weight > 0
    }
    best = sums.get("_best_gain", (0.0, 0.0))[0]
    if best > 0:
        means["verified_share"] = sums["_verified_gain"][0] / best
    climate = sums.get("_brier_climate", (0.0, 0.0))[0]
    if climate > 0:
        means["brier_skill"] = 1.0 - sums["brier"][0] / climate
    return means


def _weighted_sum(values: Array, weights: Array | None) -> tuple[float, float]:
    known = np.isfinite(values)
    weight = known.astype(np.float64) if weights is None else known * weights
    return float(np.where(known, values, 0.0) @ weight), float(weight.sum())
