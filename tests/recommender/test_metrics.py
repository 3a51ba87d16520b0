"""Every metric against figures worked out by hand."""

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest

from adapt_lora.recommender import metrics

GAINS = np.array([0.4, 0.1, 0.3, 0.0])  # true order: 0, 2, 1, 3


def test_spearman_of_the_same_order_is_one_and_of_the_reverse_minus_one() -> None:
    assert metrics.spearman(GAINS, 7 * GAINS) == pytest.approx(1.0)
    assert metrics.spearman(GAINS, -GAINS) == pytest.approx(-1.0)


def test_spearman_with_one_swap() -> None:
    # Ranks 4 2 3 1 against 4 3 2 1: 1 − 6 · (1 + 1)/(4 · 15).
    assert metrics.spearman(GAINS, np.array([4.0, 3.0, 2.0, 1.0])) == pytest.approx(0.8)


def test_a_constant_prediction_ranks_nothing() -> None:
    assert metrics.spearman(GAINS, np.zeros(4)) == 0.0
    assert metrics.weighted_kendall(GAINS, np.zeros(4)) == 0.0


def test_weighted_kendall_punishes_a_swap_at_the_top_more() -> None:
    top = metrics.weighted_kendall(GAINS, np.array([0.3, 0.1, 0.4, 0.0]))
    bottom = metrics.weighted_kendall(GAINS, np.array([0.4, 0.0, 0.3, 0.1]))
    assert top < bottom < 1


def test_ndcg_at_3_by_hand() -> None:
    # Relevances 1, .25, .75, 0; predicted order 1, 0, 2: .25 + 1/log2(3) + .75/2.
    found = metrics.ndcg_at(3, GAINS, np.array([3.0, 4.0, 2.0, 1.0]))
    best = 1 + 0.75 / np.log2(3) + 0.25 / 2
    assert found == pytest.approx((0.25 + 1 / np.log2(3) + 0.75 / 2) / best)


def test_ndcg_taskshop_by_hand() -> None:
    # Candidates worse: 3, 1, 2, 0, so gains 7, 1, 3, 0; predicted order 2, 0, 1, 3.
    found = metrics.ndcg_taskshop(GAINS, np.array([3.0, 2.0, 4.0, 1.0]))
    best = 7 + 3 / np.log2(3) + 1 / 2
    assert found == pytest.approx((3 + 7 / np.log2(3) + 1 / 2) / best)


def test_langranks_ndcg_by_hand() -> None:
    # Grades 10 to 1 for the ten best of twelve, 0 below; predicted: third, twelfth, best.
    true = np.arange(12.0)
    predicted = np.zeros(12)
    predicted[[9, 0, 11]] = [3.0, 2.0, 1.0]
    found = metrics.ndcg_at_langrank(3, true, predicted)
    best = (2**10 - 1) + (2**9 - 1) / np.log2(3) + (2**8 - 1) / 2
    assert found == pytest.approx(((2**8 - 1) + 0 + (2**10 - 1) / 2) / best)
    assert "ndcg_at_3_langrank" in metrics.ranking_metrics(true, predicted, points=False)


def test_equal_candidates_share_langranks_better_grade() -> None:
    true = np.array([0.5, 0.5, 0.1])  # grades 10, 10, 8
    found = metrics.ndcg_at_langrank(3, true, np.array([2.0, 1.0, 3.0]))
    best = 1023 + 1023 / np.log2(3) + 255 / 2
    assert found == pytest.approx((255 + 1023 / np.log2(3) + 1023 / 2) / best)
    assert metrics.ndcg_at_langrank(3, np.full(4, 0.7), np.arange(4.0)) == 1.0


def test_regrets_by_hand() -> None:
    scores = 0.5 + GAINS
    wrong_first = np.array([3.0, 1.0, 4.0, 2.0])  # order 2, 0, 3, 1
    assert metrics.regret_at(1, scores, wrong_first) == pytest.approx(0.1 / 0.9)
    assert metrics.regret_at(2, scores, wrong_first) == 0.0
    assert metrics.regret_at_spread(1, GAINS, wrong_first) == pytest.approx(0.1 / 0.4)


def test_top5_regret_compares_means_of_five() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.1])
    worst_first = -scores  # takes all but the .9
    best, found = np.mean([0.9, 0.8, 0.7, 0.6, 0.5]), np.mean([0.8, 0.7, 0.6, 0.5, 0.1])
    expected = (best - found) / best
    assert metrics.top5_regret_taskshop(scores, worst_first) == pytest.approx(expected)


@pytest.mark.parametrize(
    "predicted", [np.zeros(6), np.array([1.0, 0, 0, 1, 0, 2]), np.array([0, 3.0, 1, 1, 1, 1])]
)
def test_ties_count_as_the_mean_over_every_order(predicted: np.ndarray) -> None:
    true = np.array([0.9, 0.1, 0.5, 0.4, 0.4, 0.75])
    figures: list[Callable[[np.ndarray, np.ndarray], float]] = [
        lambda a, b: metrics.ndcg_at(3, a, b),
        lambda a, b: metrics.ndcg_at_langrank(3, a, b),
        metrics.ndcg_taskshop,
        lambda a, b: metrics.regret_at(1, a, b),
        lambda a, b: metrics.regret_at(3, a, b),
        lambda a, b: metrics.regret_at_spread(3, a, b),
        metrics.top5_regret_taskshop,
    ]
    orders = [predicted + 1e-3 * np.array(one) for one in permutations(range(6))]
    for figure in figures:
        expected = np.mean([figure(true, order) for order in orders])
        assert figure(true, predicted) == pytest.approx(expected)


def test_the_first_three_are_drawn_where_ties_leave_a_choice() -> None:
    assert metrics.leading(3, np.array([0.1, 0.9, 0.5, 0.7])) == [[1, 3, 2]]
    assert metrics.leading(3, np.array([1.0, 2.0])) == [[1, 0]]
    assert metrics.leading(2, np.array([1.0, 2.0, 2.0])) == [[1, 2]]
    draws = metrics.leading(3, np.array([0.5, 0.9, 0.5, 0.5, 0.1]))
    assert {draw[0] for draw in draws} == {1}
    assert {i for draw in draws for i in draw[1:]} == {0, 2, 3}


def test_equal_candidates_leave_nothing_to_regret() -> None:
    same, order = np.full(4, 0.7), np.arange(4.0)
    assert metrics.ndcg_at(3, same, order) == 1.0
    assert metrics.ndcg_taskshop(same, order) == 1.0
    assert metrics.regret_at_spread(1, same, order) == 0.0


def test_signs_coverage_and_brier_by_hand() -> None:
    gains = np.array([0.1, -0.1, 0.0, 0.2])
    predicted = np.array([0.2, 0.1, -0.1, 0.1])
    assert metrics.sign_accuracy(gains, predicted) == pytest.approx(3 / 4)
    low, high = np.full(4, -0.05), np.array([0.1, 0.1, 0.1, 0.1])
    assert metrics.coverage(gains, low, high) == pytest.approx(2 / 4)
    harmed = (gains < 0).astype(float)
    assert metrics.brier(harmed, np.full(4, 0.5)) == pytest.approx(0.25)


def test_the_skill_of_harm_is_against_the_climate_over_all_targets() -> None:
    # Climatology .25 scores (3 · .25² + .75²)/4 = .1875; a perfect forecast has skill 1.
    climate = np.full(2, 0.1875)
    once = np.ones((1, 2))
    for brier, skill in ((0.0, 1.0), (0.25, 1 - 0.25 / 0.1875)):
        found = {"brier": np.full(2, brier), "_brier_climate": climate}
        assert metrics.means_over_targets(found, once)["brier_skill"] == pytest.approx(skill)


def test_a_mean_is_over_the_judged_targets_as_often_as_each_is_drawn() -> None:
    found = {"rho": np.array([0.2, np.nan, 0.8]), "_best_gain": np.array([0.1, 0.3, 0.0])}
    found["_verified_gain"] = np.array([0.1, 0.1, 0.0])
    draws = np.array([[1.0, 1.0, 1.0], [3.0, 0.0, 1.0], [0.0, 2.0, 0.0]])
    means = metrics.means_over_targets(found, draws)
    np.testing.assert_allclose(means["rho"], [0.5, 0.35, np.nan])
    np.testing.assert_allclose(means["verified_share"], [0.5, 1.0, 1 / 3])
