"""A fit of the traits in Markdown."""

from dataclasses import replace

from adapt_lora.recommender.traits import Poles
from adapt_lora.report.traits_page import traits_markdown


def test_a_row_says_name_share_and_poles(traits):
    told = replace(
        traits,
        names=("sentiment", "T2 Goat"),
        explained_variance_ratio=(0.297, 0.201),
        poles=(Poles(("IMDB", "SST2"), ("GSM8K",)), Poles(("Goat",), ())),
        notes=("Left out: x.",),
    )
    text = traits_markdown(told)
    assert "| T1 | sentiment | 30 % | IMDB, SST2 | GSM8K |" in text
    assert "| T2 | · | 20 % | Goat | · |" in text
    assert text.endswith("Left out: x.")


def test_names_can_not_break_the_table_or_bring_tags(traits):
    hostile = replace(
        traits,
        names=("a|b <img>", "T2 x"),
        poles=(Poles(("x\ny",), ()), traits.poles[1]),
    )
    text = traits_markdown(hostile)
    assert "| T1 | a\\|b &lt;img> |" in text
    assert "| x y | · |" in text
    assert "<img" not in text
