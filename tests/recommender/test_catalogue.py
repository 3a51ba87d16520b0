"""The table of features, and its page."""

import re
from pathlib import Path

from adapt_lora.recommender.catalogue import (
    FEATURES,
    LEVEL_FEATURES,
    TARGET_FEATURES,
    similarity_name,
)


def test_the_registrys_own_parts_are_never_taken_for_the_similarity() -> None:
    assert similarity_name(["label_match/overlap", "x"]) is None
    assert similarity_name(["genetic", "roe_minilm"]) == "roe_minilm"
    assert similarity_name(["overlap_word", "similarity"]) == "similarity"


def page_rows() -> list[tuple[str, ...]]:
    """(feature, side, formula, source) as the page's table says them."""
    page = (Path(__file__).parents[2] / "docs" / "science.md").read_text(encoding="utf-8")
    section = page.split("### Features")[1].split("### Methods")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    rows = [re.split(r"(?<!\\)\|", line)[1:5] for line in lines]
    return [tuple(field.strip(" ").replace("\\|", "|") for field in row) for row in rows]


def test_the_page_has_every_feature_with_its_side_formula_and_source() -> None:
    of_level = [feature for of_unit in LEVEL_FEATURES.values() for feature in of_unit.values()]
    known = [*FEATURES.values(), *TARGET_FEATURES.values(), *of_level]
    said = {(f"`{f.name}`", f.side, f.formula, f.source) for f in known}
    rows = page_rows()
    assert len(rows) == len(known)
    assert set(rows) == said


def test_a_formula_names_every_value_that_is_compared() -> None:
    for feature in FEATURES.values():
        for key in (*feature.ratios, *feature.differences):
            assert f"`{key}`" in feature.formula, feature.name
