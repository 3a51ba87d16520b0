"""Arithmetic with gaps, by hand."""

import numpy as np
import pytest

from adapt_lora.recommender.columns import (
    neighbour_weights,
    normal_scores,
    shrunken_popularity,
    standardise,
    trimmed_mean,
)


def test_trimming_cuts_a_fifth_from_each_end_of_what_is_known() -> None:
    values = np.array([[9.0, 1.0, 2.0, 3.0, -50.0], [4.0, np.nan, 2.0, np.nan, np.nan]])
    np.testing.assert_allclose(trimmed_mean(values), [2.0, 3.0])


def test_popularity_shrinks_with_few_measurements() -> None:
    z = np.array([[1.0, 1.0, 1.0], [1.0, np.nan, np.nan], [np.nan, np.nan, np.nan]])
    found = shrunken_popularity(z, 0.2)
    np.testing.assert_allclose(found[:2], [0.75, 0.5])
    assert np.isnan(found[2])


def test_standardising_ignores_what_is_masked_and_flattens_constants() -> None:
    values = np.array([[1.0, 5.0], [3.0, 5.0], [99.0, 5.0]])
    mask = np.array([[True, True], [True, True], [False, True]])
    z = standardise(values, mask)
    np.testing.assert_allclose(z[:2, 0], [-1.0, 1.0])
    assert np.isnan(z[2, 0])
    np.testing.assert_array_equal(z[:, 1], np.zeros(3))


def test_one_near_twin_is_capped_at_twenty_medians() -> None:
    similarity = np.array([1.0, *([0.0] * 40)])
    weights = neighbour_weights(similarity)
    assert weights.max() == pytest.approx(20 * np.median(weights))


def test_normal_scores_share_the_mean_rank_of_ties() -> None:
    found = normal_scores(np.array([1.0, 2.0, 2.0, 3.0, np.nan]))
    assert found[1] == found[2] == pytest.approx(0.0)
    assert found[0] == pytest.approx(-found[3])
    assert np.isnan(found[4])
