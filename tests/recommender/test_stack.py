"""The stack and the ridge inside it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from adapt_lora.recommender import stack
from adapt_lora.recommender.backtest import backtest
from adapt_lora.recommender.features import registry_table
from adapt_lora.recommender.models import make_ranker
from adapt_lora.recommender.stack import ShrunkenRidge, _best_start, _pulls, stack_prior
from adapt_lora.recommender.table import TransferTable
from adapt_lora.recommender.training_set import Cells, TrainingSet
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


def cells_of(effects: tuple[float, float], *, n_groups: int = 8, noise: float = 0.8) -> Cells:
    """Cells of ten adapters a group: y = effects · (popularity, neighbours) + noise."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((10 * n_groups, 3))
    y = x[:, :2] @ np.array(effects) + noise * rng.standard_normal(len(x))
    column = np.repeat(np.arange(float(n_groups)), 10)
    groups = np.array([f"g{t:.0f}" for t in column])
    names = ("popularity", "neighbours", "label_match")
    return Cells(names, x, y, np.full(len(x), 0.1), column, groups)


@pytest.mark.parametrize(
    ("effects", "n_groups"),
    [
        pytest.param((0.4, 0.1), 8, id="standing is worth what the start says"),
        pytest.param((0.8, 0.1), 8, id="it is worth more"),
        pytest.param((0.4, 0.6), 8, id="another signal is worth more"),
        pytest.param((-0.4, 0.6), 4, id="four groups decide nothing"),
    ],
)
def test_the_start_holds_where_standing_is_not_refuted(
    effects: tuple[float, float], n_groups: int
) -> None:
    start = {"popularity": 0.4, "neighbours": 0.1}
    assert _pulls(cells_of(effects, n_groups=n_groups), start, 10.0) == [10.0, 10.0, 10.0]


def test_the_start_lets_go_the_more_the_surer_it_is_that_standing_misleads() -> None:
    start = {"popularity": 0.4, "neighbours": 0.1}
    found = [_pulls(cells_of((p, 0.6)), start, 10.0) for p in (-0.1, -0.3, -0.6)]
    assert 10.0 > found[0][0] > found[1][0] > found[2][0] > 0
    # All that starts with a weight lets go; what starts from none is held as before.
    assert all(pulls[1] == pulls[0] and pulls[2] == 10.0 for pulls in found)


def test_a_pull_of_its_own_for_each_weight_by_hand() -> None:
    x, y = np.array([[1.0, 0.0], [0.0, 1.0]]), [2.0, 2.0]
    ridge = ShrunkenRidge(strength=[1.0, 3.0], prior=[0.0, 1.0]).fit(x, y)
    np.testing.assert_allclose(ridge.coef_, [2 / 2, (2 + 3) / 4])


def opposed_families(make_table: MakeTable, *, seed: int, signal: float) -> TransferTable:
    """Eight tasks of two families: who is good at one is bad at the other.

    The given similarity of tasks tells the families by and large, likeness of data tells nothing.
    """
    rng = np.random.default_rng(seed)
    family = np.where(np.arange(8) % 2, 1.0, -1.0)
    z = signal * np.outer(rng.standard_normal(8), family)
    z += np.sqrt(1 - signal**2) * rng.standard_normal((8, 8))
    noise = rng.standard_normal((8, 8))
    similarity = np.outer(family, family) + 0.3 * (noise + noise.T)
    return make_table(
        0.5 + 0.05 * z, similarity=similarity, pair_features={"similarity": rng.random((8, 8))}
    )


@pytest.mark.parametrize(
    ("signal", "least", "most"),
    [
        pytest.param(0.7, 0.05, 0.3, id="popularity misleads, neighbours know"),
        pytest.param(0.0, -0.03, 0.1, id="nothing to know"),
    ],
)
def test_with_eight_groups_a_refuted_start_gives_way(
    make_table: MakeTable,
    monkeypatch: pytest.MonkeyPatch,
    signal: float,
    least: float,
    most: float,
) -> None:
    tables = [opposed_families(make_table, seed=seed, signal=signal) for seed in range(12)]

    def mean_rho(method: str) -> float:
        found = [backtest(one, methods=(method,), judge_gains=False) for one in tables]
        return float(np.mean([one.methods[method]["spearman_rho"] for one in found]))

    now = mean_rho("stack")
    if signal:
        assert mean_rho("popularity_trimmed") < 0.05
    monkeypatch.setattr(stack, "_pulls", lambda cells, _, strength: [strength] * len(cells.names))
    assert least < now - mean_rho("stack") < most


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
