import json
from dataclasses import replace

import pytest

from adapt_lora.analysis import SideEffects, side_effects
from adapt_lora.analysis.effects import AdapterEffects
from adapt_lora.report.plain import side_effects_json

FAMILIES = {"flipkart": "sentiment", "magicoder": "code", "goat": "math", "stories": "text"}


def test_each_adapter_names_its_best_and_worst_foreign_tasks(matrix):
    math_adapter = by_name(side_effects(matrix))["math"]
    assert [effect.task for effect in math_adapter.best] == ["gsm8k"]
    assert [effect.task for effect in math_adapter.worst] == ["rotten", "sst2-test", "rte"]
    assert math_adapter.worst[0].gain == pytest.approx(-0.17)
    assert math_adapter.worst[0].outcome == "harmed"


def test_the_own_task_is_never_a_side_effect(matrix):
    sentiment = by_name(side_effects(matrix, top=9))["sentiment"]
    assert "sst2-test" not in {effect.task for effect in sentiment.best}
    assert sum(sentiment.counts.values()) == 4


def test_a_gain_within_two_standard_errors_is_unclear(matrix):
    code = by_name(side_effects(matrix))["code"]
    assert code.counts == {"helped": 1, "harmed": 0, "unclear": 4}
    assert by_name(side_effects(matrix, n_standard_errors=0.1))["code"].counts["unclear"] == 1


def test_pairs_are_counted_by_family(matrix):
    found = side_effects(matrix, families=FAMILIES)
    same, different = found.kinship
    assert (same.kinship, different.kinship) == ("same family", "different family")
    # sentiment → rotten, imbalanced → both, nli → rte, math → gsm8k
    assert same.n == 5
    assert same.counts == {"helped": 4, "harmed": 0, "unclear": 1}
    assert different.n == 22
    assert different.counts["harmed"] == 6
    assert different.share_harmed == pytest.approx(6 / 22)
    assert found.n_unknown_family == 0


def test_a_family_follows_from_a_task_of_the_same_group_else_is_unknown(matrix):
    found = side_effects(matrix)
    assert found.kinship[0].n == 2  # sentiment → rotten, nli → rte
    assert found.n_unknown_family == 27 - found.kinship[0].n - found.kinship[1].n
    assert found.n_unknown_family == 19


def test_the_quadrants_split_pairs_by_likeness_of_their_statistics(matrix):
    found = side_effects(matrix, families=FAMILIES)
    counts = {quadrant.kinship: quadrant.n for quadrant in found.quadrants}
    assert list(counts) == [
        "same family, similar statistics",
        "different family, similar statistics",
        "same family, different statistics",
        "different family, different statistics",
    ]
    assert sum(counts.values()) == 27
    assert counts["same family, similar statistics"] >= 3
    assert counts["different family, different statistics"] > 8


def test_an_adapter_without_foreign_cells_is_left_out(matrix):
    cells = tuple(cell for cell in matrix.cells if cell.row.id in {"base", "nli"})
    assert set(by_name(side_effects(replace(matrix, cells=cells)))) == {"nli"}


def test_an_empty_matrix_gives_empty_counts(matrix):
    found = side_effects(replace(matrix, cells=()))
    assert found.adapters == ()
    assert [count.n for count in found.kinship] == [0, 0]
    assert "share_harmed" not in side_effects_json(found)["kinship"][0]


def test_the_json_has_no_null(matrix):
    text = json.dumps(side_effects_json(side_effects(matrix)), allow_nan=False)
    assert "null" not in text
    assert json.loads(text)["adapters"][0]["n_helped"] == 3


def by_name(found: SideEffects) -> dict[str, AdapterEffects]:
    return {item.adapter: item for item in found.adapters}
