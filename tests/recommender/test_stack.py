"""The stack and the ridge inside it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from adapt_lora.recommender.features import registry_table
from adapt_lora.recommender.models import make_ranker
from adapt_lora.recommender.stack import ShrunkenRidge, _best_start, stack_prior
from adapt_lora.recommender.training_set import Cells, TrainingSet
from tests.recommender.conftest import MakeMatrix


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
