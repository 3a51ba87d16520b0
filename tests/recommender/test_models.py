"""The ranking models and the ridge inside them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from adapt_lora.recommender.features import Cells, TrainingSet, normal_scores, registry_table
from adapt_lora.recommender.models import (
    METHODS,
    ShrunkenRidge,
    _best_start,
    make_ranker,
    stack_prior,
)
from tests.recommender.conftest import MakeMatrix, MakeTable


@parametrize_with_checks([ShrunkenRidge()])
def test_the_ridge_keeps_scikit_learns_promises(
    estimator: ShrunkenRidge, check: Callable[[Any], None]
) -> None:
    check(estimator)


def test_without_data_worth_the_name_the_ridge_returns_its_prior() -> None:
    x, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([5.0, -5.0])
    ridge = ShrunkenRidge(strength=1e9, prior=[0.4, 0.1]).fit(x, y)
    np.testing.assert_allclose(ridge.coef_, [0.4, 0.1], atol=1e-6)


def test_the_ridge_by_hand() -> None:
    # One feature, x = 1, 2, y = 2, 4, strength 5, prior 1: (10 + 5)/(5 + 5).
    ridge = ShrunkenRidge(strength=5.0, prior=[1.0]).fit(np.array([[1.0], [2.0]]), [2.0, 4.0])
    assert ridge.coef_[0] == pytest.approx(1.5)


def test_bounded_weights_stop_at_zero_and_free_ones_go_below() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3))
    y = x @ np.array([-1.0, -1.0, 1.0])
    ridge = ShrunkenRidge(strength=1e-6, nonnegative=[True, False, True]).fit(x, y)
    assert ridge.coef_[0] == 0.0
    assert ridge.coef_[1] == pytest.approx(-1.0, abs=0.2)
    # The same as solving without the bounded column.
    rest = np.linalg.lstsq(x[:, 1:], y, rcond=None)[0]
    np.testing.assert_allclose(ridge.coef_[1:], rest, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_fits_predicts_and_repeats_itself(
    make_matrix: MakeMatrix, method: str
) -> None:
    table = registry_table(make_matrix(8, 12), unit="points")
    fold = table.hold_out(["g5"])
    ranker = make_ranker(method, n_seeds=2)
    assert clone(ranker).get_params() == ranker.get_params()
    assert ranker.fit(TrainingSet(fold.table)) is ranker
    first = ranker.predict(fold.queries[0])
    assert first.shape == (8,)
    assert np.isfinite(first).all()
    again = make_ranker(method, n_seeds=2).fit(TrainingSet(fold.table)).predict(fold.queries[0])
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("method", ["stack", "mix", "popularity_trimmed", "semantic"])
def test_contributions_sum_to_the_prediction(make_matrix: MakeMatrix, method: str) -> None:
    table = registry_table(make_matrix(10, 14), unit="points")
    fold = table.hold_out(["g5"])
    ranker = make_ranker(method, n_seeds=2).fit(TrainingSet(fold.table))
    total = np.sum(list(ranker.explain(fold.queries[0]).values()), axis=0)
    predicted = ranker.predict(fold.queries[0])
    np.testing.assert_allclose(total - total.mean(), predicted - predicted.mean(), atol=1e-6)


def test_lightgbm_contributions_sum_to_the_prediction(make_matrix: MakeMatrix) -> None:
    table = registry_table(make_matrix(10, 14), unit="points")
    fold = table.hold_out(["g5"])
    ranker = make_ranker("lightgbm", n_seeds=2).fit(TrainingSet(fold.table))
    total = np.sum(list(ranker.explain(fold.queries[0]).values()), axis=0)
    predicted = ranker.predict(fold.queries[0])
    np.testing.assert_allclose(total - total.mean(), predicted - predicted.mean(), atol=1e-6)


def test_with_nothing_measured_the_stack_is_its_prior(make_matrix: MakeMatrix) -> None:
    table = registry_table(make_matrix(5, 1), unit="points")
    fold = table.hold_out(["g0"])
    ranker = make_ranker("stack").fit(TrainingSet(fold.table))
    assert ranker.weights_ == {
        "popularity": 0.4,
        "related_tasks": 0.0,
        "similarity": 0.15,
        "neighbours": 0.1,
    }


def test_trees_wait_for_ten_task_groups_and_count_more_with_more_rows(
    make_matrix: MakeMatrix,
) -> None:
    small = TrainingSet(registry_table(make_matrix(8, 9), unit="points"))
    large = TrainingSet(registry_table(make_matrix(8, 10), unit="points"))
    larger = TrainingSet(registry_table(make_matrix(20, 10), unit="points"))
    assert make_ranker("mix", n_seeds=1).fit(small).boost_ is None
    assert make_ranker("mix", n_seeds=1).fit(large).tree_weight_ == pytest.approx(78 / 1078)
    assert make_ranker("mix", n_seeds=1).fit(larger).tree_weight_ == pytest.approx(198 / 1198)


@pytest.mark.parametrize(("effect", "start"), [(0.3, 0), (-0.1, 1)])
def test_likeness_loses_its_starting_weight_where_it_misleads(effect: float, start: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 2))
    y = 0.5 * x[:, 0] + effect * x[:, 1] + 0.2 * rng.standard_normal(120)
    column = np.repeat(np.arange(12.0), 10)
    groups = np.array([f"g{t:.0f}" for t in column])
    cells = Cells(("popularity", "similarity"), x, y, np.full(120, 0.1), column, groups)
    starts = [{"popularity": 0.2, "similarity": 0.15}, {"popularity": 0.2}]
    assert _best_start(cells, starts, 40.0) == start
    few = cells.column < 4  # four groups decide nothing
    less = Cells(cells.names, x[few], y[few], cells.weight[few], column[few], groups[few])
    assert _best_start(less, starts, 40.0) == 0


def test_the_stack_learns_what_matters(make_matrix: MakeMatrix) -> None:
    table = registry_table(make_matrix(20, 20, seed=3), unit="points")
    weights = make_ranker("stack").fit(TrainingSet(table)).weights_
    assert weights["similarity"] > 0.2
    assert weights["popularity"] > 0.3
    prior = stack_prior(TrainingSet(table))
    assert all(abs(w) < 0.15 for name, w in weights.items() if name not in prior)
    # 398 training rows: of .4 for standing, 398/1398 to what related tasks say
    assert prior["related_tasks"] == pytest.approx(0.4 * 398 / 1398)
    assert prior["popularity"] == pytest.approx(0.4 * 1000 / 1398)


def test_nearest_task_follows_the_most_similar_column(make_table: MakeTable) -> None:
    scores = np.array([[3.0, 0.0, 9.0], [2.0, 1.0, 9.0], [1.0, 2.0, 9.0], [0.0, 3.0, 9.0]])
    similarity = np.array([[1.0, 0.1, 0.9], [0.1, 1.0, 0.2], [0.9, 0.2, 1.0]])
    fold = make_table(scores, similarity=similarity).hold_out(["g2"])
    predicted = make_ranker("nearest_task").fit(TrainingSet(fold.table)).predict(fold.queries[0])
    assert np.argsort(-predicted).tolist() == [0, 1, 2, 3]


def test_a_never_measured_adapter_counts_as_average(make_table: MakeTable) -> None:
    scores = np.array([[3.0, 3.0, 3.0], [1.0, 1.0, 1.0], [np.nan, np.nan, np.nan]])
    fold = make_table(scores).hold_out(["g2"])
    predicted = make_ranker("popularity").fit(TrainingSet(fold.table)).predict(fold.queries[0])
    assert predicted[0] > predicted[2] == 0.0 > predicted[1]


def test_normal_scores_share_the_mean_rank_of_ties() -> None:
    found = normal_scores(np.array([1.0, 2.0, 2.0, 3.0, np.nan]))
    assert found[1] == found[2] == pytest.approx(0.0)
    assert found[0] == pytest.approx(-found[3])
    assert np.isnan(found[4])


def test_minilm_looks_at_that_embedding_alone(make_table: MakeTable) -> None:
    rng = np.random.default_rng(0)
    vectors = {"minilm_mean": np.eye(3), "hidden_mid_mean": rng.standard_normal((3, 5))}
    tasks = {"minilm_mean": np.array([[0.0, 1.0, 0.0]] * 2), "hidden_mid_mean": rng.random((2, 5))}
    table = make_table(rng.random((3, 2)), source_vectors=vectors, target_vectors=tasks)
    fold = table.hold_out(["g1"])
    ranker = make_ranker("minilm").fit(TrainingSet(fold.table))
    assert ranker.can_rank(fold.queries[0])
    predicted = ranker.predict(fold.queries[0])
    assert predicted[1] > predicted[0] == predicted[2]
    bare = make_table(rng.random((3, 2))).hold_out(["g1"])
    assert not make_ranker("minilm").fit(TrainingSet(bare.table)).can_rank(bare.queries[0])
