"""Tasks and examples from what a request names."""

import json

import pytest

from adapt_lora.errors import ConfigError, TaskError
from adapt_lora.evaluator import EVERY_ROW, EvaluationRequest, Grading, read_tasks


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def moods(tmp_path):
    rows = [{"text": f"film {i}", "label": ("good", "bad")[i % 2]} for i in range(12)]
    return write(tmp_path / "moods.jsonl", rows)


@pytest.fixture
def code(tmp_path):
    rows = [{"prompt": f"film {i}", "response": "x", "tests": ["assert x"]} for i in range(3)]
    return write(tmp_path / "code.jsonl", rows)


def test_a_task_without_its_grader_is_named_and_the_others_are_read(moods, code):
    read = read_tasks(EvaluationRequest([code, moods]))
    assert [task.record.name for task in read.tasks] == ["moods"]
    (failure,) = read.failures
    assert (failure.row, failure.task) == (EVERY_ROW, "code")
    assert "--allow-code-execution" in failure.reason
    allowed = EvaluationRequest([code, moods], grading=Grading(allow_code_execution=True))
    assert [task.record.name for task in read_tasks(allowed).tasks] == ["code", "moods"]


def test_where_nothing_can_be_scored_the_reason_is_the_error(code, tmp_path):
    with pytest.raises(TaskError, match="--allow-code-execution"):
        read_tasks(EvaluationRequest([tmp_path / "nothing.jsonl", code]))


def test_examples_come_from_one_source_per_file(moods, tmp_path):
    request = EvaluationRequest([moods], shots=2)
    with pytest.raises(ConfigError, match=r"one --shots-from for each .*moods.jsonl"):
        read_tasks(request)
    rows = [{"text": f"food {i}", "label": ("good", "bad")[i % 2]} for i in range(6)]
    others = write(tmp_path / "others.jsonl", rows)
    read = read_tasks(EvaluationRequest([moods], shots=2, shots_from=[others]))
    assert {row.prompt[:4] for row in read.shots["moods"].examples} == {"food"}
    assert read_tasks(EvaluationRequest([moods])).shots is None


def test_a_task_without_examples_to_show_is_named_and_measured_without(moods, tmp_path):
    few = write(tmp_path / "few.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    rows = [{"text": f"food {i}", "label": ("good", "bad")[i % 2]} for i in range(6)]
    others = write(tmp_path / "others.jsonl", rows)
    read = read_tasks(EvaluationRequest([moods, few], shots=2, shots_from=[others, few]))
    assert [task.record.name for task in read.tasks] == ["moods", "few"]
    assert set(read.shots) == {"moods"}
    (failure,) = read.failures
    assert (failure.task, "may be shown" in failure.reason) == ("few", True)
