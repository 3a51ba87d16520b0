"""Nothing about a target leaks into what is said about it, by any method."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from adapt_lora.recommender.backtest import Backtest, backtest
from adapt_lora.recommender.choice import Choice, choose_method
from adapt_lora.recommender.features import registry_table
from adapt_lora.recommender.models import METHODS, make_ranker
from adapt_lora.recommender.table import TransferTable
from adapt_lora.recommender.training_set import TrainingSet
from tests.recommender.conftest import MakeMatrix, MakeTable

QUICK = {"n_seeds": 1, "inner_seeds": 1}


def full_table(make_matrix: MakeMatrix, *, n_tasks: int = 14, seed: int = 0) -> TransferTable:
    """Enough groups that trees grow and the method is chosen; twins share a group."""
    table = registry_table(make_matrix(9, n_tasks, seed=seed), unit="points")
    return replace(table, groups=(*table.groups[:-1], table.groups[-2]))


@pytest.fixture(scope="module")
def before_and_after(make_matrix: MakeMatrix) -> tuple[list[int], Backtest, Backtest]:
    """Back-tests by all methods of two tables that differ in the last group's scores alone."""
    table = full_table(make_matrix)
    held = [t for t, group in enumerate(table.groups) if group == table.groups[-1]]
    rng = np.random.default_rng(5)
    scores, base = table.scores.copy(), table.base_scores.copy()
    scores[:, held] = rng.random((9, len(held)))
    base[held] = rng.random(len(held))
    changed = replace(table, scores=scores, base_scores=base)
    one, two = (backtest(t, judge_gains=False, **QUICK) for t in (table, changed))
    return held, one, two


@pytest.mark.parametrize("method", [*METHODS, "default"])
def test_changing_the_held_out_groups_scores_changes_no_prediction_for_it(
    before_and_after: tuple[list[int], Backtest, Backtest], method: str
) -> None:
    held, one, two = before_and_after
    assert len(held) == 2
    np.testing.assert_array_equal(one.scores[method][:, held], two.scores[method][:, held])
    # These read no scores.
    if method not in {"random", "majority", "semantic", "minilm", "perplexity"}:
        assert not np.array_equal(one.scores[method], two.scores[method])


def test_the_method_is_chosen_without_the_held_out_group(
    make_matrix: MakeMatrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = registry_table(make_matrix(8, 6), unit="points")
    seen: list[set[str]] = []

    def spy(train: TrainingSet, *, seed: int, n_seeds: int) -> Choice:
        seen.append(set(train.table.groups))
        return choose_method(train, seed=seed, n_seeds=n_seeds)

    monkeypatch.setattr("adapt_lora.recommender.backtest.choose_method", spy)
    backtest(table, methods=("popularity",), **QUICK)
    everything = set(table.groups)
    assert seen == [everything - {group} for group in table.group_names]


def test_intervals_and_harm_do_not_see_the_held_out_gains_either(make_matrix: MakeMatrix) -> None:
    table = full_table(make_matrix, n_tasks=8)
    shifted = table.scores.copy()
    shifted[:, -2:] += 0.001 * np.random.default_rng(0).random((9, 2))  # ranks may change, not fits
    one = backtest(table, methods=("stack",), **QUICK)
    two = backtest(replace(table, scores=shifted), methods=("stack",), **QUICK)
    width = [b.per_target["stack"]["width_80"][-2:] for b in (one, two)]
    np.testing.assert_array_equal(*width)


def test_random_has_the_figures_that_chance_has_whatever_the_seed(make_table: MakeTable) -> None:
    rng = np.random.default_rng(3)
    table = make_table(0.5 + 0.1 * rng.standard_normal((5, 6)), base=0.5)
    one, two = (backtest(table, methods=("random", "majority"), seed=seed) for seed in (0, 1))
    found = one.methods["random"]
    spread = np.ptp(table.scores, axis=0)
    assert found["spearman_rho"] == 0
    chance = (table.scores.max(axis=0) - table.scores.mean(axis=0)) / spread
    assert found["regret_at_1_spread"] == pytest.approx(chance.mean())
    best_of_three = [
        np.mean([max(three) for three in combinations(column, 3)]) for column in table.scores.T
    ]
    regret = (table.scores.max(axis=0) - best_of_three) / spread
    assert found["regret_at_3_spread"] == pytest.approx(regret.mean())
    drawn = {"verified_share"}  # measurements are simulated
    for metric in found.keys() - drawn:
        assert two.methods["random"][metric] == found[metric]
    assert found["verified_share"] == pytest.approx(
        two.methods["random"]["verified_share"], abs=0.1
    )


@pytest.mark.parametrize("method", ["nearest_task", "stack", "trait_regression", "popularity"])
def test_a_planted_twin_in_the_same_group_does_not_help(make_table: MakeTable, method: str) -> None:
    """All else is noise: whoever looks at the twin, or at the column itself, ranks perfectly."""
    rng = np.random.default_rng(0)
    half = rng.standard_normal((12, 11))
    scores = np.hstack([half, half])  # column t and t + 11 are twins of one group
    groups = tuple(f"g{t % 11}" for t in range(22))
    similarity = np.full((22, 22), 0.1)
    for t in range(22):
        similarity[t, t] = similarity[t, (t + 11) % 22] = 1.0
    honest = make_table(scores, groups=groups, similarity=similarity)
    leaking = make_table(scores, groups=tuple(f"g{t}" for t in range(22)), similarity=similarity)
    found = backtest(honest, methods=(method,), judge_gains=False, n_folds=11, **QUICK)
    assert abs(found.methods[method]["spearman_rho"]) < 0.25
    if method != "popularity":
        leak = backtest(leaking, methods=(method,), judge_gains=False, n_folds=11, **QUICK)
        assert leak.methods[method]["spearman_rho"] > 0.3  # the plant would have been found


def test_pure_noise_gives_no_correlation_by_any_method(make_table: MakeTable) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((24, 6))
    table = make_table(
        rng.random((24, 24)),
        base=0.5,
        similarity=vectors @ vectors.T,
        pair_features={"similarity": rng.random((24, 24)), "size": rng.random((24, 24))},
        source_features={"perplexity": rng.random(24)},
        source_vectors={"minilm_mean": rng.standard_normal((24, 6))},
        target_vectors={"minilm_mean": rng.standard_normal((24, 6))},
    )
    found = backtest(table, judge_gains=False, n_folds=6, **QUICK)
    # 24 columns of 24: the standard error of a mean ρ is about .04.
    rhos = {name: row["spearman_rho"] for name, row in found.methods.items()}
    assert set(rhos) == {*METHODS, "default"}
    assert max(abs(rho) for rho in rhos.values()) < 0.15, rhos


def test_real_structure_is_found_and_beats_the_null(make_matrix: MakeMatrix) -> None:
    table = registry_table(make_matrix(12, 12), unit="points")
    found = backtest(table, **QUICK).methods
    assert found["majority"]["spearman_rho"] == 0.0
    assert found["default"]["spearman_rho"] > found["popularity_trimmed"]["spearman_rho"] > 0.4
    assert found["default"]["regret_at_1_spread"] < found["majority"]["regret_at_1_spread"]
    assert found["default"]["brier_skill"] > 0.1
    assert 0.6 < found["default"]["coverage_80"] < 1.0


def test_rivals_are_judged_but_never_learned_from(make_table: MakeTable) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((8, 6))
    plain = make_table(scores)
    beside = replace(plain, rivals={"oracle": scores})
    one = backtest(plain, judge_gains=False, **QUICK).methods
    two = backtest(beside, judge_gains=False, **QUICK).methods
    assert two["oracle"]["spearman_rho"] == pytest.approx(1.0)
    assert {name: two[name] for name in one} == one


def test_methods_without_their_ingredients_are_absent(make_table: MakeTable) -> None:
    table = make_table(np.random.default_rng(0).random((6, 5)))
    found = backtest(table, **QUICK).methods
    assert not {"semantic", "minilm", "perplexity", "nearest_task", "lightgbm"} & set(found)
    assert {"popularity_trimmed", "stack", "mix", "default"} <= set(found)


def with_elsewhere(
    make_table: MakeTable, scores: np.ndarray, other: np.ndarray, **more: object
) -> TransferTable:
    table = make_table(scores)
    return replace(table, elsewhere=replace(make_table(other), **more))


def popular(*, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((14, 1)) + rng.standard_normal((14, 14))


@pytest.mark.parametrize("method", ["stack", "lightgbm", "default"])
def test_a_planted_answer_under_another_base_leaves_with_the_targets_group(
    make_table: MakeTable, method: str
) -> None:
    """The other base's matrix holds every true order, also the one that is asked for."""
    scores = popular(seed=2)
    changed = scores.copy()
    changed[:, 3] = 3 * np.random.default_rng(5).standard_normal(14)
    methods = () if method == "default" else (method,)
    for groups in (None, tuple(f"never held out {t}" for t in range(14))):
        named = {} if groups is None else {"groups": groups}
        one, two = (
            backtest(
                with_elsewhere(make_table, scores, other, **named),
                methods=methods,
                judge_gains=False,
                **QUICK,
            ).scores[method]
            for other in (scores, changed)
        )
        assert not np.array_equal(one, two)  # elsewhere is in use
        stays = np.array_equal(one[:, 3], two[:, 3])
        assert stays == (groups is None)  # else the plant would have been found


def test_a_fresh_base_starts_from_what_others_know(make_table: MakeTable) -> None:
    rng = np.random.default_rng(4)
    quality = rng.standard_normal((16, 1))
    truth = quality + 0.5 * rng.standard_normal((16, 12))
    measured = np.where(np.arange(12) < 2, truth + 2 * rng.standard_normal((16, 12)), np.nan)
    fresh = make_table(measured)
    borrowing = with_elsewhere(make_table, measured, truth)
    found = []
    for table in (fresh, borrowing):
        fold = table.hold_out(["g11"])
        predicted = make_ranker("stack").fit(TrainingSet(fold.table)).predict(fold.queries[0])
        found.append(np.corrcoef(predicted, truth[:, 11])[0, 1])
    assert found[1] > 0.7
    assert found[1] > found[0] + 0.1
