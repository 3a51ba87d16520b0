"""The JSON forms of records: keys that programs read, nothing unknown, nothing that JSON lacks."""

import json
from dataclasses import replace

import pytest

from adapt_lora.evaluator import CellFailure, MatrixReport
from adapt_lora.recommender.traits import TraitMemory
from adapt_lora.registry.records import BASE_ID, BASE_ROW, AdapterRecord, MatrixRow
from adapt_lora.report.plain import (
    adapter_json,
    evaluation_json,
    matrix_json,
    plan_json,
    recommendation_json,
    sweep_json,
    traits_json,
    versioned,
)
from adapt_lora.results import Evaluation, EvaluationPlan, PlannedCell, Run, Sweep
from adapt_lora.trainer import TrainRequest, find_recipe
from tests.report.conftest import BASE


def strict(content):
    """As it is printed and read again."""
    return json.loads(json.dumps(content, allow_nan=False))


def test_a_recommendation_has_the_documented_keys(answer):
    content = strict(recommendation_json(answer))
    assert set(content) == {
        *("target", "base_model", "base", "model", "ranking"),
        *("warnings", "verification", "timing_s", "verdict", "n_adapters"),
    }
    verdict = content["verdict"]
    assert (verdict["use"], verdict["adapter_id"], verdict["n_measured"]) == (
        *("adapter", content["ranking"][0]["adapter_id"]),
        50,
    )
    assert verdict["score"] == pytest.approx(0.43 + verdict["gain"])
    assert content["n_adapters"] == 3
    assert content["target"]["fingerprint"]["n_labels"] == 2
    assert content["target"]["n_rows"] == 4
    assert content["base"] == {
        "score": 0.43,
        "se": 0.04,
        "p_best": answer.recommendation.base.p_best,
        "recommended": False,
        "majority": 0.5,
    }
    first, *others = content["ranking"]
    assert set(first) == {
        *("rank", "adapter", "adapter_id", "predicted_gain", "predicted_alone", "interval"),
        *("p_harm", "p_best", "measured", "reasons", "evidence", "warnings"),
        *("interval_level", "has_weights"),
    }
    assert first["measured"] == {"gain": 0.37, "se": 0.03, "n": 50}
    assert first["interval"][0] <= first["predicted_gain"] <= first["interval"][1]
    assert set(first["reasons"][0]) == {"feature", "contribution", "text"}
    assert set(first["evidence"][0]) == {"task", "gain", "similarity"}
    assert [entry["has_weights"] for entry in content["ranking"]] == [True, False, True]
    assert not any("measured" in entry for entry in others)
    assert content["verification"]["rounds"] == [{"n_adapters": 1, "n_rows": 50}]
    assert content["timing_s"] == {"fingerprint": 6.1, "rank": 1.234}
    assert content["warnings"][-1] == "The base's weights are others."


def test_what_is_not_predicted_is_absent(bare_answer):
    content = strict(recommendation_json(bare_answer))
    assert "score" not in content["base"]
    assert not {"predicted_gain", "interval", "interval_level", "measured"} & set(
        content["ranking"][0]
    )
    assert "verification" not in content


def test_the_version_stands_in_front():
    assert list(versioned({"a": 1}).items()) == [("schema_version", 1), ("a", 1)]


def test_a_matrix_has_gains_of_all_but_the_rows_they_are_counted_from(matrix):
    shown = MatrixRow(BASE_ID, shots=3)
    cells = tuple(
        replace(cell, row=shown, protocol="shown", zero_shot=cell.protocol)
        for cell in matrix.cells
        if cell.row == BASE_ROW and cell.task == "snli"
    )
    content = strict(matrix_json(replace(matrix, cells=(*matrix.cells, *cells))))
    without = {cell["adapter"] for cell in content["cells"] if "gain" not in cell}
    assert without == {"base", "majority label"}
    assert content["rows"][2] == {"adapter_id": "base+3shot", "adapter": "base, 3 shots"}
    assert not any("row" in cell for cell in content["cells"])


def test_failures_are_named_by_the_id_of_their_row(matrix):
    failure = CellFailure(MatrixRow("a" * 64, name="moods"), "snli", "RuntimeError: full")
    cell = PlannedCell("moods", "snli", 1500, 2.0)
    plan = EvaluationPlan("org/tiny", (cell,), 3, 2.0, None, failures=(failure,))
    content = strict(plan_json(plan))
    told = {"adapter_id": "a" * 64, "task": "snli", "reason": "RuntimeError: full"}
    assert content["failed"] == [told]
    assert (content["n_to_measure"], content["n_there"], content["n_skipped"]) == (1, 2, 2)
    assert "tokens_per_s" not in content
    report = MatrixReport(matrix.cells[:1], (failure,), 2, {}, 0, 1.5)
    done = Evaluation(report, matrix, names={failure.row: "moods", BASE_ROW: "base model"})
    content = strict(evaluation_json(done))
    assert content["failed"] == [{**told, "adapter": "moods"}]
    assert content["measured"][0]["adapter_id"] == BASE_ID
    assert content["measured"][0]["adapter"] == "base model"
    assert set(content) == {"measured", "skipped", "n_failed", "failed", "seconds", "read"}


def test_an_adapter_says_every_figure_by_section_when_asked_for_the_whole(record):
    assert "weights/norm_relative" not in adapter_json(record)
    content = strict(adapter_json(record, whole=True))
    assert content["weights/norm_relative"] == 0.0131
    assert content["fingerprint/response_ppl"] == 12.4
    assert content["lora/r"] == "8"
    bare = adapter_json(AdapterRecord("b", "bare", BASE))
    assert not {"group", "dataset"} & set(bare)


def test_traits_leave_out_what_no_row_tells(traits):
    content = strict(traits_json(traits))
    assert {"standard_errors", "stability", "poles", "keys"} <= set(content)
    assert "memory" not in content
    few = replace(traits, standard_errors={}, stability=(), memory=TraitMemory())
    assert not {"standard_errors", "stability", "imputation"} & set(traits_json(few))


def test_a_sweep_names_recipe_and_dataset_of_each_run():
    run = Run(TrainRequest("moods.jsonl", "moods", find_recipe("quick")), seconds=1.23456)
    (told,) = strict(sweep_json(Sweep((run,), 2.0)))["runs"]
    assert told == {
        "name": "moods",
        "recipe": "quick",
        "status": "to train",
        "seconds": 1.235,
        "seed": find_recipe("quick").seed,
        "dataset": "moods.jsonl",
    }
