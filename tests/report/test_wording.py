import pytest

from adapt_lora.report.wording import (
    gain_text,
    interval_head,
    number_text,
    one_line,
    score_text,
    share_text,
)


@pytest.mark.parametrize(
    ("gain", "unit", "text"),
    [
        (0.0942, "points", "+9.4"),
        (-0.0105, "points", "−1.1"),
        (-0.0001, "points", "0.0"),  # no "−0.0"
        (-0.12, "nats", "−0.120"),
    ],
)
def test_a_gain_shows_its_sign_and_the_digits_of_its_unit(gain, unit, text):
    assert gain_text(gain, unit) == text


def test_a_log_likelihood_keeps_its_minus():
    assert score_text(-2.6, "nats") == "−2.600"


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.001, "< 1 %"), (0.42, "42 %"), (0.999, "> 99 %"), (1.0, "100 %")],
)
def test_a_share_never_rounds_to_certainty(share, text):
    assert share_text(share) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234, "1,234"),
        (12.44, "12.4"),
        (0.05, "0.05"),
        (0.00314, "0.00314"),
        (-3.0, "−3"),
        (99999.6, "100,000"),
        (float("nan"), "not a number"),
    ],
)
def test_a_number_keeps_three_digits(value, text):
    assert number_text(value) == text


def test_one_line_takes_out_what_can_break_a_line_or_turn_it_around():
    assert one_line("a\nb\x00\u202ec\ud800  d") == "a b c d"


def test_one_line_cuts_with_an_ellipsis():
    assert one_line("sentiment", limit=5) == "sent…"


def test_the_column_of_intervals_says_their_level_where_there_are_any(answer, bare_answer):
    assert interval_head(answer.recommendation) == "80 % interval"
    assert interval_head(bare_answer.recommendation) == "interval"
