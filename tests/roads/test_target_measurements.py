"""Whatever was measured on a target's rows answers for it, by whichever command."""

import json

import pytest

from adapt_lora import roads
from adapt_lora.evaluator import EvaluationRequest
from adapt_lora.report.plain import recommendation_json
from tests.roads.test_roads import asked, shelf, write_rows

__all__ = ["shelf"]


def measured_in(answer: roads.TargetRanking) -> dict[str, int]:
    """Rows that each measured adapter was measured on, by name."""
    entries = recommendation_json(answer)["ranking"]
    return {entry["adapter"]: entry["measured"]["n"] for entry in entries if "measured" in entry}


def test_an_evaluation_of_the_target_is_its_measurement(shelf, tiny_base_dir):
    home, registry, _ = shelf
    target = write_rows(home / "asked_before.jsonl", "choice", 30, start=1000)
    base = str(tiny_base_dir)
    ask = asked(target, tiny_base_dir, verify=0)
    assert measured_in(roads.recommend(ask, registry=registry)) == {}
    few = EvaluationRequest([target], base_model=base, adapters=["moods"], max_rows=10)
    roads.evaluate(few, registry=registry)
    assert measured_in(roads.recommend(ask, registry=registry)) == {"moods": 10}
    roads.evaluate(EvaluationRequest([target], base_model=base), registry=registry)
    answer = roads.recommend(ask, registry=registry)
    assert measured_in(answer) == {"moods": 30, "choices": 30, "sums": 30}
    # The gain is the one that the matrix shows.
    matrix = registry.transfer_matrix(answer.base).to_pandas()["asked_before"]
    for entry in answer.recommendation.ranking:
        gain = matrix[entry.adapter] - matrix["base"]
        assert entry.measured.gain == pytest.approx(gain)


def test_rows_under_another_name_are_the_same_rows(shelf, tiny_base_dir):
    home, registry, _ = shelf
    first = write_rows(home / "first_name.jsonl", "mood", 20, start=1100)
    roads.evaluate(
        EvaluationRequest([first], base_model=str(tiny_base_dir), adapters=["sums"]),
        registry=registry,
    )
    longer = write_rows(home / "second_name.jsonl", "mood", 35, start=1105)
    answer = roads.recommend(asked(longer, tiny_base_dir, verify=0), registry=registry)
    assert measured_in(answer) == {"sums": 15}


def test_who_leaves_the_best_keeps_its_measurement(shelf, tiny_base_dir):
    home, registry, _ = shelf
    target = write_rows(home / "kept.jsonl", "mood", 40, start=1200)
    first = roads.recommend(asked(target, tiny_base_dir, verify=3), registry=registry)
    assert len(measured_in(first)) == 3
    again = roads.recommend(asked(target, tiny_base_dir, verify=0), registry=registry)
    assert measured_in(again) == measured_in(first)
    one = roads.recommend(asked(target, tiny_base_dir, verify=1), registry=registry)
    assert set(measured_in(one)) == set(measured_in(first))
    assert one.top(1).recommendation.ranking == one.recommendation.ranking


def test_a_target_is_no_task_unless_it_is_kept_as_one(shelf, tiny_base_dir, tiny_base):
    home, registry, _ = shelf

    def tasks() -> set[str]:
        return {task.name for task in registry.transfer_matrix(tiny_base.identity).tasks}

    target = write_rows(home / "private.jsonl", "mood", 24, start=1300)
    before = registry.transfer_matrix(tiny_base.identity)
    roads.recommend(asked(target, tiny_base_dir, verify=2), registry=registry)
    assert registry.transfer_matrix(tiny_base.identity) == before
    wanted = write_rows(home / "wanted.jsonl", "mood", 24, start=1400)
    roads.recommend(asked(wanted, tiny_base_dir, verify=2, keep_as_task=True), registry=registry)
    assert "wanted" in tasks()
    # Who evaluates on the rows of a target means them as a task.
    roads.evaluate(EvaluationRequest([target], base_model=str(tiny_base_dir)), registry=registry)
    assert "private" in tasks()


def test_cells_without_answers_count_where_the_rows_are_the_same(
    shelf, tiny_base_dir, tiny_base, tmp_path
):
    from adapt_lora.registry import Registry

    home, registry, _ = shelf
    target = write_rows(home / "figures.jsonl", "choice", 26, start=1500)
    roads.evaluate(
        EvaluationRequest([target], base_model=str(tiny_base_dir), max_rows=16), registry=registry
    )
    roads.export_registry(tmp_path / "shelf", registry=registry, base_model=str(tiny_base_dir))
    other = Registry(tmp_path / "other", cache_folder=tmp_path / "cache")
    roads.import_results(tmp_path / "shelf", registry=other)
    answer = roads.recommend(asked(target, tiny_base_dir, verify=0), registry=other)
    assert measured_in(answer) == {"moods": 16, "choices": 16, "sums": 16}
    assert json.dumps(recommendation_json(answer))
