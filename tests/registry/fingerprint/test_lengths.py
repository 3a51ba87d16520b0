import numpy as np
import pytest

from adapt_lora.registry.fingerprint.lengths import (
    count_histogram,
    length_part,
    token_counts,
    value_histogram,
)


def counts(*values):
    return np.array(values, dtype=np.int64)


ALL = np.array([True, True, True, True])


def test_mean_sd_skew_and_quantiles_are_those_computed_by_hand():
    values = length_part(counts(1, 1, 1, 5), counts(2, 2, 2, 2), ALL).values
    assert values["prompt_tokens_mean"] == 2
    assert values["prompt_tokens_sd"] == pytest.approx(np.sqrt(3))  # deviations -1 -1 -1 3
    assert values["prompt_tokens_skew"] == pytest.approx(6 / 3**1.5)  # mean cube (−1 −1 −1 + 27)/4
    assert values["prompt_tokens_q50"] == 1
    assert values["prompt_tokens_q75"] == 2  # linear: 1 + 0.25 · 4
    assert values["total_tokens_mean"] == 4
    assert values["response_prompt_ratio"] == 1


def test_equal_lengths_have_no_skew():
    values = length_part(counts(3, 3, 3, 3), counts(1, 1, 1, 1), ALL).values
    assert values["prompt_tokens_sd"] == 0
    assert "prompt_tokens_skew" not in values


def test_without_responses_only_prompts_are_described():
    part = length_part(counts(1, 2, 3, 4), counts(0, 0, 0, 0), ~ALL)
    assert all(key.startswith("prompt_tokens") for key in part.values)
    assert list(part.histograms) == ["prompt_tokens"]


@pytest.mark.parametrize("high", [3, 17, 1000])
def test_a_count_histogram_holds_every_row_in_bins_of_equally_many_numbers(high):
    lengths = np.arange(high + 1)
    histogram = count_histogram(lengths)
    assert sum(histogram.counts) == high + 1
    assert len(histogram.counts) <= 16
    assert len(set(histogram.counts[:-1])) == 1


def test_equal_values_make_a_histogram_too():
    histogram = value_histogram(np.array([2.0, 2.0]))
    assert sum(histogram.counts) == 2
    assert len(histogram.edges) == len(histogram.counts) + 1


def test_token_counts_leave_out_template_and_special_tokens(tiny_base):
    texts = ["the film was good", ""]
    expected = [
        len(tiny_base.tokenizer(text, add_special_tokens=False).input_ids) for text in texts
    ]
    assert token_counts(tiny_base, texts).tolist() == expected
    assert expected[1] == 0
