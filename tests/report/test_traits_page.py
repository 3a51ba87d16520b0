"""A fit of the traits in Markdown."""

from adapt_lora.report.traits_page import traits_markdown


def test_a_row_says_name_share_and_poles():
    text = traits_markdown(
        {
            "keys": ["T1", "T2"],
            "names": ["sentiment", "T2 Goat"],
            "explained_variance_ratio": [0.297, 0.201],
            "poles": [{"high": ["IMDB", "SST2"], "low": ["GSM8K"]}, {"high": ["Goat"], "low": []}],
            "notes": ["Left out: x."],
        }
    )
    assert "| T1 | sentiment | 30 % | IMDB, SST2 | GSM8K |" in text
    assert "| T2 | · | 20 % | Goat | · |" in text
    assert text.endswith("Left out: x.")


def test_names_can_not_break_the_table_or_bring_tags():
    text = traits_markdown(
        {
            "keys": ["T1"],
            "names": ["a|b <img>"],
            "explained_variance_ratio": [1.0],
            "poles": [{"high": ["x\ny"], "low": []}],
        }
    )
    assert "| T1 | a\\|b &lt;img> | 100 % | x y | · |" in text
