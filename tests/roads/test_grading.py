"""Grading by code and by a judge, from the road and from the command line, on a tiny base model."""

import json

import pytest
from typer.testing import CliRunner

from adapt_lora import roads
from adapt_lora.cli import app
from adapt_lora.errors import TaskError
from adapt_lora.evaluator import EvaluationRequest, Grading
from adapt_lora.registry import Registry
from tests.evaluator.test_judge import JudgeServer


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "registry", cache_folder=tmp_path / "cache")


@pytest.fixture
def code(tmp_path):
    row = {"prompt": "the film was good", "response": "x = 1", "tests": ["assert x == 1"]}
    path = tmp_path / "code.jsonl"
    path.write_text("".join(json.dumps({**row, "id": i}) + "\n" for i in range(3)))
    return path


def test_code_is_not_run_without_leave(registry, code, tiny_base_dir):
    with pytest.raises(TaskError, match="--allow-code-execution"):
        roads.evaluate(EvaluationRequest([code], base_model=str(tiny_base_dir)), registry=registry)


def test_the_command_line_says_how_to_allow_code(tmp_path, code, tiny_base_dir):
    options = ["--tracking-uri", str(tmp_path / "r"), "--base-model", str(tiny_base_dir)]
    refused = CliRunner().invoke(app, ["evaluate", "--task", str(code), *options])
    assert refused.exit_code == 1
    assert "allow it with --allow-code-execution" in " ".join(refused.output.split())
    allowed = CliRunner().invoke(
        app, ["evaluate", "--task", str(code), *options, "--allow-code-execution", "--json"]
    )
    if "--accept-weak-sandbox" in allowed.output:
        pytest.skip(allowed.output)
    content = json.loads(allowed.stdout)
    assert content["code_protection"].startswith("Code ran in a process of its own behind ")
    assert [(cell["metric"], cell["score"]) for cell in content["measured"]] == [("pass_at_1", 0)]


def test_a_judge_grades_a_task_and_belongs_to_its_protocol(
    registry, tmp_path, tiny_base_dir, monkeypatch
):
    monkeypatch.setenv("ADAPT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ADAPT_JUDGE_API_KEY", "sk-road")
    essays = tmp_path / "essays.jsonl"
    rows = [{"prompt": f"what is the film {i}", "response": f"good {i}"} for i in range(4)]
    essays.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with JudgeServer() as server:
        import threading

        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        measured = [
            roads.evaluate(
                EvaluationRequest(
                    [essays],
                    base_model=str(tiny_base_dir),
                    metric="judge_accuracy",
                    grading=Grading(judge_url=server.url, judge_model=model),
                ),
                registry=registry,
            )
            for model in ("one", "one", "two")
        ]
        server.shutdown()
    assert [len(evaluation.report.cells) for evaluation in measured] == [1, 0, 1]
    assert measured[0].report.cells[0].metric == "judge_accuracy"
    assert set(server.keys) <= {"Bearer sk-road"}


def test_the_decision_is_part_of_what_was_measured(registry, tmp_path, tiny_base_dir):
    moods = tmp_path / "moods.jsonl"
    rows = [{"text": f"film {i}", "label": ("good", "bad")[i % 2]} for i in range(12)]
    moods.write_text("".join(json.dumps(row) + "\n" for row in rows))
    digests = {
        decision: roads.evaluate(
            EvaluationRequest(
                [moods],
                base_model=str(tiny_base_dir),
                grading=Grading(decision=decision),
            ),
            registry=registry,
        ).report.protocols["moods"]
        for decision in ("sum", "choice")
    }
    assert digests["sum"] != digests["choice"]
