import re
from dataclasses import replace
from html import escape

import pytest

from adapt_lora.recommender.answer import Verdict
from adapt_lora.report.recommendation_page import recommendation_html
from adapt_lora.report.wording import gain_text
from tests.report.test_card import tags_of


def changed(answer, **parts):
    """The answer with other parts of its recommendation."""
    return replace(answer, recommendation=replace(answer.recommendation, **parts))


def test_the_page_tells_the_ranking_and_its_back_test(answer):
    html = recommendation_html(answer)
    first = answer.recommendation.ranking[0]
    gain = gain_text(first.predicted_gain)
    assert "<h1>Use sentiment-lora: 43.0 → about" in html
    assert f"<b>{gain}</b>" in html
    span = f"{gain_text(first.interval.low)} to {gain_text(first.interval.high)}"
    for words in (span, "80 % interval", "spearman rho", "regret at 1", "6.1 s", "1.23 s"):
        assert words in html
    own = next(entry for entry in answer.recommendation.ranking if entry.adapter_id == "id-a1")
    assert "the target's own group" in own.warnings[0]
    assert escape(own.warnings[0]).replace("&#x27;", "&#39;") in html
    assert "The base&#39;s weights are others." in html


def test_a_measured_adapter_shows_what_was_predicted_before(answer):
    alone = gain_text(answer.recommendation.ranking[0].predicted_alone)
    html = recommendation_html(answer)
    assert "+37.0 ± 3.0 (50 rows)" in html
    assert f"predicted alone: {alone}" in html


def test_an_adapter_of_figures_only_says_so(answer):
    assert recommendation_html(answer).count("Known by its figures") == 1


def test_evidence_is_a_line_of_words(answer):
    item = answer.recommendation.ranking[0].evidence[0]
    html = recommendation_html(answer)
    assert f"{escape(item.task)}, gain {gain_text(item.gain)}, similarity " in html


def test_hostile_names_and_reasons_stay_text(answer):
    tags = tags_of(recommendation_html(answer))
    assert "script" not in tags
    assert "img" not in tags


def test_the_page_loads_nothing(answer):
    assert not re.search(r"<[^>]*\s(src|href)=|url\(|@import", recommendation_html(answer))


def test_the_verdict_is_the_headline(answer):
    page = recommendation_html(changed(answer, verdict=Verdict("base")))
    assert "<h1>Use the base model: no adapter is likely to help" in page


def test_an_empty_ranking_without_back_test_says_so(answer):
    model = replace(answer.recommendation.model, backtest={})
    html = recommendation_html(changed(answer, ranking=(), model=model, verdict=Verdict("base")))
    assert "No adapter could be ranked" in html
    assert "No back-test was possible" in html


def test_gains_in_nats_are_shown_as_nats(answer):
    first = answer.recommendation.ranking[0]
    model = replace(answer.recommendation.model, unit="nats")
    html = recommendation_html(changed(answer, model=model))
    assert gain_text(first.predicted_gain, "nats") in html
    assert "nats per token" in html


@pytest.mark.parametrize("gains", [(0.0, 0.0, 0.0), (0.3, 0.0, -0.3)])
def test_every_strip_stays_within_its_width(answer, gains):
    ranking = tuple(
        replace(entry, predicted_gain=gain, interval=replace(entry.interval, low=gain, high=gain))
        for entry, gain in zip(answer.recommendation.ranking, gains, strict=True)
    )
    html = recommendation_html(changed(answer, ranking=ranking))
    places = [float(x) for x in re.findall(r'c?x[12]?="([\d.-]+)"', html)]
    assert places
    assert all(0 <= place <= 180 for place in places)


def test_a_ranking_without_gains_or_intervals_is_still_a_page(bare_answer):
    page = recommendation_html(bare_answer)
    name = bare_answer.recommendation.ranking[0].adapter
    assert f"Try {name} first: too little is measured to say more" in page
    assert "No back-test was possible" in page
