"""Nothing is said of labels or answers that a target does not have."""

from math import nan

import numpy as np
import pytest

from adapt_lora.recommender.catalogue import FEATURES
from adapt_lora.recommender.feature_words import feature_words, is_silent
from adapt_lora.recommender.table import Query


def query(*, n_labels: float = nan, answers: float = nan, **pairs: float) -> Query:
    return Query(
        "target",
        np.ones(2, dtype=bool),
        {name.replace("__", "/"): np.array([value, value]) for name, value in pairs.items()},
        {"n_labels": n_labels, "response_tokens_mean": answers},
    )


@pytest.mark.parametrize("is_high", [True, False])
def test_a_target_without_labels_hears_of_none(is_high: bool) -> None:
    free_text = query(answers=3.0, label_match__is_classification=-1.0, habit_pull=nan)
    for feature in FEATURES.values():
        if not is_silent(feature.name, free_text):
            assert "label" not in feature_words(feature, free_text, is_high=is_high)


@pytest.mark.parametrize("is_high", [True, False])
def test_a_target_without_answers_hears_of_none_of_its_own(is_high: bool) -> None:
    length = FEATURES["length_match"]
    assert "answers" not in feature_words(length, query(), is_high=is_high)
    assert "answers" in feature_words(length, query(answers=3.0), is_high=is_high)


def test_the_words_of_a_target_that_has_them_are_the_catalogues() -> None:
    for feature in FEATURES.values():
        asked = query(n_labels=2.0, answers=1.0)
        assert feature_words(feature, asked, is_high=True) == feature.high
        assert feature_words(feature, asked, is_high=False) == feature.low
    # A matrix that comes without fingerprints says nothing of its targets' labels.
    bare = Query("target", np.ones(2, dtype=bool))
    assert feature_words(FEATURES["label_match"], bare, is_high=True).startswith("its labels")


def test_what_can_not_be_compared_is_silent() -> None:
    assert is_silent("label_match", query(label_match__overlap=nan, label_match__shares=nan))
    assert not is_silent("label_match", query(label_match__overlap=nan, label_match__x=1.0))
    assert is_silent("prior_shift_on_habit", query())
    assert not is_silent("prior_shift_on_habit", query(n_labels=2.0))
    assert not is_silent("popularity", query())
