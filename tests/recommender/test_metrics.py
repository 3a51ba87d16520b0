"""Every metric against figures worked out by hand."""

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


def test_who_ties_everything_earns_chance_level() -> None:
    regret = metrics.regret_at_spread(1, np.linspace(0, 1, 5), np.zeros(5))
    assert regret == pytest.approx(0.5, abs=0.12)  # 64 draws of a uniform value


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
