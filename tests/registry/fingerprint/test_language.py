import random

import pytest

from adapt_lora.registry.fingerprint.language import (
    compression_ratio,
    language_part,
    moving_ttr,
)


def values_of(*prompts, responses=None):
    return language_part(prompts, responses or [""] * len(prompts)).values


def test_moving_ttr_is_the_mean_over_all_windows():
    # Windows of two: "a b" 1, "b a" 1, "a a" 1/2.
    assert moving_ttr(["a", "b", "a", "a"], window=2) == pytest.approx(2.5 / 3)


def test_moving_ttr_agrees_with_counting_each_window():
    words = random.Random(0).choices("abcdefgh", k=300)
    slow = [len(set(words[i : i + 50])) / 50 for i in range(251)]
    assert moving_ttr(words) == pytest.approx(sum(slow) / len(slow))


def test_moving_ttr_of_a_short_text_is_the_plain_ratio():
    assert moving_ttr(["to", "be", "or", "not", "to", "be"]) == pytest.approx(4 / 6)


def test_repetition_compresses_better():
    noise = "".join(random.Random(0).choices("abcdefghijklmnop", k=5_000))
    assert compression_ratio("same " * 1_000) < 0.1 < compression_ratio(noise)


def test_compression_is_judged_on_as_much_text_whatever_the_datasets_size():
    text = "".join(random.Random(0).choices("abcdefghijklmnop", k=70_000))
    assert compression_ratio(text) == compression_ratio(text + "same " * 10_000)


def test_character_shares_are_of_visible_characters_and_upper_case_of_letters():
    values = values_of("Ab 12!")
    assert values["share_digits"] == pytest.approx(2 / 5)
    assert values["share_punctuation"] == pytest.approx(1 / 5)
    assert values["share_upper"] == pytest.approx(1 / 2)


def test_shares_cover_responses_but_cues_are_counted_in_prompts():
    values = values_of("one", responses=["2 2 2"])
    assert values["share_digits"] == pytest.approx(3 / 6)
    assert values["numbers_per_row"] == 0


@pytest.mark.parametrize(
    "code", ["print(x)", "x = a[0];", "if (a == b) {", "my_name", "camelCase", "</div>"]
)
def test_code_is_seen(code):
    assert values_of(code)["share_code"] > 0


@pytest.mark.parametrize(
    "prose", ["The film was good, and I liked it.", "Is 5 (five) more than 3?", "e-mail: yes/no"]
)
def test_prose_is_not_code(prose):
    assert values_of(prose)["share_code"] == 0


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("I paid 1,200.50 for 3 of 7.", "numbers_per_row", 3),
        ("Ann has more apples than Bob; 3 < 5.", "comparisons_per_row", 3),
        ("It took 2 hours and 30 minutes.", "unit_conversions_per_row", 1),
        ("It took 2 hours, then 1 hour.", "unit_conversions_per_row", 0),
        ("3 feet, 2 inches and 1 foot", "unit_conversions_per_row", 2),  # foot is not a plural form
        ("Why? Really?? Yes.", "questions_per_row", 2),
    ],
)
def test_cues_are_counted(text, key, expected):
    assert values_of(text)[key] == expected


def test_steps_sum_questions_sentences_operations_comparisons_and_conditions():
    # 1 question, 1 sentence, operations "+" and "total", comparison "more", condition "if".
    text = "If he buys 3 + 4 more eggs, he is glad. What is the total?"
    assert values_of(text)["steps_per_row"] == 6


def test_cues_are_means_over_rows():
    assert values_of("1 2 3", "none")["numbers_per_row"] == 1.5


def test_empty_texts_leave_no_shares():
    assert "share_digits" not in values_of("", "")
    assert "mattr" not in values_of("", "")
