"""Which method ranks: the house default, left only where another wins clearly on other tasks."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from adapt_lora.recommender.columns import Array, standardise
from adapt_lora.recommender.metrics import MIN_CANDIDATES, ndcg_at, spearman
from adapt_lora.recommender.models import MIN_GROUPS_FOR_TREES, make_ranker
from adapt_lora.recommender.table import TransferTable
from adapt_lora.recommender.training_set import TrainingSet

DEFAULT = "default"
"""The row that stands for the choice itself."""

MIN_GROUPS_TO_CHOOSE = 12
"""Below this, free choice loses more often than the fixed stack (docs/experiments.md, 6)."""

ALTERNATIVES = ("popularity_trimmed", "trait_regression", "stack", "lightgbm")
"""Methods that may replace the house default where they win clearly."""

INNER_SEEDS = 2
"""LightGBM models averaged per inner fit: enough to compare methods."""

_INNER_FOLDS = 5
_CLEAR_WIN = 2.0  # standard errors
_FEW_GROUPS_FOLDS = 10  # with fewer than 12 groups nothing is chosen, so finer folds are cheap


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The method that `default` uses on one table, and its out-of-fold scores there."""

    method: str
    """Name in METHODS."""
    scores: Mapping[str, Array]
    """Method → (n_sources, n_targets) z of predictions made without the column's group."""


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
                found[method][:, t] = standardise(ranker.expected(query))

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


def _merit_by_group(table: TransferTable, scores: Array) -> Array:
    """(ρ + NDCG@3)/2 per group, mean over its columns."""
    merits: dict[str, list[float]] = {}
    for t, group in enumerate(table.groups):
        true = table.transfer_scores[:, t]
        known = np.isfinite(true)
        if known.sum() < MIN_CANDIDATES:
            continue
        a, b = true[known], scores[known, t]
        merits.setdefault(group, []).append((spearman(a, b) + ndcg_at(3, a, b)) / 2)
    return np.array([np.mean(values) for values in merits.values()])
