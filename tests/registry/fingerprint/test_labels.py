import math

import numpy as np
import pytest

from adapt_lora.registry.fingerprint.labels import (
    base_label_part,
    entropy,
    label_length_part,
    label_part,
    total_variation,
)


def test_shares_entropy_and_imbalance_are_those_computed_by_hand():
    part = label_part(["a", "b", "c"], ["a", "a", "a", "b"])
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert part.label_shares == {"a": 0.75, "b": 0.25, "c": 0.0}
    assert part.values["n_labels"] == 3
    assert part.values["label_entropy"] == pytest.approx(expected)
    assert part.values["label_entropy_normalised"] == pytest.approx(expected / math.log(3))
    assert part.values["label_share_max"] == 0.75
    assert part.values["label_imbalance_ratio"] == 3  # the unseen label does not count


def test_an_even_spread_has_normalised_entropy_one():
    part = label_part(["a", "b"], ["a", "b"])
    assert part.values["label_entropy_normalised"] == pytest.approx(1)


def test_a_known_label_set_without_gold_labels_says_what_is_absent():
    part = label_part(["a", "b"], [None, None])
    assert part.values == {"is_classification": 1.0, "n_labels": 2.0}
    assert part.label_shares == {}
    assert "No row carries a label" in part.notes[0]


def test_entropy_of_certainty_is_zero():
    assert entropy([1.0, 0.0]) == 0
    assert math.copysign(1, entropy([1.0, 0.0])) == 1


def test_total_variation_is_one_for_disjoint_and_zero_for_equal_shares():
    assert total_variation([1, 0], [0, 1]) == 1
    assert total_variation([0.5, 0.5], [0.5, 0.5]) == 0


def test_eta_squared_is_the_share_of_length_variance_between_labels():
    lengths = np.array([1, 3, 5, 7])
    part = label_length_part(["short", "short", "long", "long"], lengths)
    # Mean 4, total 9 + 1 + 1 + 9 = 20; group means 2 and 6, between 2 · 4 + 2 · 4 = 16.
    assert part.values["label_length_eta2"] == pytest.approx(0.8)
    assert part.values["label_prompt_tokens_mean/short"] == 2
    assert part.values["label_prompt_tokens_mean/long"] == 6


def test_rows_without_label_take_no_part_in_eta_squared():
    labelled = label_length_part(["a", "a", "b", "b"], np.array([1, 3, 5, 7]))
    mixed = label_length_part(["a", None, "a", "b", "b"], np.array([1, 900, 3, 5, 7]))
    assert mixed.values == labelled.values


def test_equal_lengths_have_no_eta_squared():
    part = label_length_part(["a", "b"], np.array([4, 4]))
    assert "label_length_eta2" not in part.values


def test_many_labels_keep_no_mean_length_each():
    gold = [f"intent {index}" for index in range(21)]
    part = label_length_part(gold, np.arange(21))
    assert set(part.values) == {"label_length_eta2"}
    assert "21" in part.notes[0]


def test_labels_that_differ_in_odd_letters_alone_keep_their_own_keys():
    part = label_length_part(["正面", "负面"], np.array([1, 2]))
    assert part.values["label_prompt_tokens_mean/正面"] == 1
    assert part.values["label_prompt_tokens_mean/负面"] == 2


LOG_LIKELIHOOD = np.log(np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]]))


def test_the_bases_score_is_its_mean_recall_with_an_error():
    part = base_label_part(LOG_LIKELIHOOD, ["a", "b"], ["a", "a", "b", "b"])
    assert part.values["base_score"] == pytest.approx(0.75)  # recalls 2/2 and 1/2
    # Variances with (k + 1)/(n + 2): 3/4 · 1/4 / 2 and 1/2 · 1/2 / 2, over 2².
    expected = math.sqrt((3 / 32 + 1 / 8) / 4)
    assert part.values["base_score_se"] == pytest.approx(expected)
    assert part.base_label_shares == {"a": 0.75, "b": 0.25}
    assert part.values["base_label_tv"] == pytest.approx(0.25)
    assert part.values["base_label_share_max"] == 0.75


def test_cross_entropy_is_over_the_label_set_whatever_the_answers_total_probability():
    gold = ["a", "a", "b", "b"]
    plain = base_label_part(LOG_LIKELIHOOD, ["a", "b"], gold)
    unlikely = base_label_part(LOG_LIKELIHOOD - 700, ["a", "b"], gold)
    expected = -sum(map(math.log, (0.9, 0.8, 0.4, 0.7))) / 4
    assert plain.values["base_label_cross_entropy"] == pytest.approx(expected)
    assert unlikely.values["base_label_cross_entropy"] == pytest.approx(expected)


def test_without_gold_labels_the_base_still_shows_its_favourite():
    part = base_label_part(LOG_LIKELIHOOD, ["a", "b"], [None] * 4)
    assert part.values["base_label_share_max"] == 0.75
    assert not {"base_score", "base_label_tv", "base_label_cross_entropy"} & set(part.values)


def test_a_label_that_occurs_once_still_carries_an_error():
    part = base_label_part(LOG_LIKELIHOOD[:1], ["a", "b"], ["a"])
    assert part.values["base_score"] == 1
    assert part.values["base_score_se"] > 0.3


def test_the_base_without_its_label_bias_is_scored_as_the_decision_does():
    # It says "a" to everything, but is surer where that is right.
    scores = np.array([[-1.0, -3.0], [-1.0, -3.2], [-1.0, -1.4], [-1.0, -1.6]])
    part = base_label_part(scores, ["a", "b"], ["a", "a", "b", "b"])
    assert part.values["base_score"] == 0.5
    assert part.values["base_unbiased"] == 1.0


def test_rows_without_a_label_tell_the_bias_too():
    scores = np.array([[-1.0, -3.0], [-1.0, -1.4], [-1.0, -9.0], [-1.0, -9.0]])
    alone = base_label_part(scores[:2], ["a", "b"], ["a", "b"])
    beside = base_label_part(scores, ["a", "b"], ["a", "b", None, None])
    assert alone.values["base_unbiased"] == 1.0
    assert beside.values["base_unbiased"] == 0.5
