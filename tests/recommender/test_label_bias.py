"""A model without its label bias, and when that is not to be trusted."""

from adapt_lora.recommender.label_bias import bias_of_base, label_bias
from adapt_lora.registry.records import Fingerprint, Measurement

EVEN = {"a": 0.5, "b": 0.5}
OFFSETS = {"a": 1.0, "b": -1.0}


def test_few_prompts_and_uneven_labels_speak_against_it() -> None:
    enough = Measurement(0.1, 0.03, 100)
    assert label_bias(enough, OFFSETS, EVEN).caution is None
    few = label_bias(Measurement(0.1, 0.03, 29), OFFSETS, EVEN).caution
    assert few is not None
    assert "29 prompts" in few
    uneven = label_bias(enough, OFFSETS, {"a": 0.85, "b": 0.15}).caution
    assert uneven is not None
    assert "85%" in uneven


def test_the_bases_comes_from_the_pass_that_read_the_target() -> None:
    values = {
        "base_score": 0.5,
        "base_score_se": 0.03,
        "base_unbiased": 0.7,
        "base_unbiased_se": 0.04,
        "n_rows_sampled": 75.0,
    }
    found = bias_of_base(Fingerprint(values=values, label_shares=EVEN, base_label_offsets=OFFSETS))
    assert found is not None
    assert found.gain == Measurement(0.7 - 0.5, 0.05, 75)
    assert found.offsets == OFFSETS


def test_without_gold_labels_there_are_offsets_and_no_gain() -> None:
    found = bias_of_base(Fingerprint(base_label_offsets=OFFSETS))
    assert found is not None
    assert found.gain is None
    assert bias_of_base(Fingerprint()) is None
