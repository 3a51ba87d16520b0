import re

import pytest

from adapt_lora.report.recommendation_page import recommendation_html
from tests.report.test_card import tags_of


def test_the_page_tells_the_ranking_and_its_back_test(recommendation):
    html = recommendation_html(recommendation)
    assert "<h1>sentiment-lora: +8.2 points expected after measuring</h1>" in html
    for words in ("+8.2", "+1.0 to +16.0", "80 % interval", "55 %", "regret at 1", "6.1 s"):
        assert words in html
    assert "Shares 12 rows with the target." in html


def test_a_measured_adapter_shows_what_was_predicted_before(recommendation):
    recommendation["ranking"][0]["predicted_alone"] = 0.031
    html = recommendation_html(recommendation)
    assert "+7.0 ± 3.0 (50 rows); predicted alone: +3.1" in html


def test_hostile_names_and_reasons_stay_text(recommendation):
    tags = tags_of(recommendation_html(recommendation))
    assert "script" not in tags
    assert "img" not in tags


def test_the_page_loads_nothing(recommendation):
    assert not re.search(r"<[^>]*\s(src|href)=|url\(|@import", recommendation_html(recommendation))


def test_a_recommended_base_is_the_headline(recommendation):
    recommendation["base"]["recommended"] = True
    assert "<h1>Stay with the base model" in recommendation_html(recommendation)


def test_an_empty_ranking_without_back_test_says_so(recommendation):
    recommendation |= {"ranking": [], "model": {"name": "prior"}, "target": {}, "timing_s": {}}
    html = recommendation_html(recommendation)
    assert "No adapter could be ranked" in html
    assert "No back-test was possible" in html


def test_gains_in_nats_are_shown_as_nats(recommendation):
    recommendation["target"]["metric"] = "answer_log_likelihood"
    html = recommendation_html(recommendation)
    assert "+0.082" in html
    assert "nats per token" in html


@pytest.mark.parametrize("gains", [(0.0, 0.0), (0.3, -0.3)])
def test_every_strip_stays_within_its_width(recommendation, gains):
    for entry, gain in zip(recommendation["ranking"], gains, strict=True):
        entry |= {"predicted_gain": gain, "interval": [gain, gain]}
    places = [
        float(x) for x in re.findall(r'c?x[12]?="([\d.-]+)"', recommendation_html(recommendation))
    ]
    assert places
    assert all(0 <= place <= 180 for place in places)


def test_a_ranking_without_gains_or_intervals_is_still_a_page():
    entry = {"rank": 1, "adapter": "first", "reasons": [{"text": "registered first"}]}
    page = recommendation_html(
        {"ranking": [entry], "base": {"recommended": False}, "warnings": ["too little is measured"]}
    )
    assert "first comes first, but too little is measured to say more" in page
    assert "No back-test was possible" in page
