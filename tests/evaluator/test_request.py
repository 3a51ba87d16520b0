"""A request that can't be met is an error before anything is read."""

import pytest

from adapt_lora.errors import ConfigError
from adapt_lora.evaluator import EvaluationRequest, Grading, ServerOptions


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": []}, "no task to score on"),
        ({"suite": "mine"}, "no suite 'mine'"),
        ({"suite": "core", "shots": 2}, "--shots shows training rows"),
        ({"backend": "tgi"}, r"no backend 'tgi'\. Choose auto, transformers, vllm, openai\."),
        ({"backend": "vllm", "ray_address": "auto"}, "leave out --backend vllm"),
        ({"backend": "openai"}, "--backend openai needs --server http://HOST:PORT"),
        ({"server": ServerOptions("http://x")}, "is for --backend openai, not for --backend auto"),
        ({"shots_from": ["train.jsonl"]}, "say how many: --shots"),
    ],
)
def test_what_does_not_go_together_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        EvaluationRequest(**{"tasks": ["moods.jsonl"], **options})


def test_half_a_judge_and_an_unknown_decision_are_errors():
    with pytest.raises(ConfigError, match="both --judge-url and --judge-model"):
        Grading(judge_model="m")
    with pytest.raises(ConfigError, match="no decision 'max'"):
        Grading(decision="max")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"metric": "x"}, "no metric 'x'"),
        ({"max_rows": 0}, "--max-rows is 0"),
        ({"max_rows": "10"}, "--max-rows is '10'"),
        ({"shots": -1}, "--shots is -1"),
        ({"grading": 3}, "grading is 3"),
        ({"tasks": 3}, "tasks is 3"),
        ({"tasks": ["a.jsonl", 3]}, r"tasks\[1\] is 3, but must be a path, a Hub id, a DataFrame"),
        ({"adapters": [3]}, "adapters is"),
    ],
)
def test_a_value_that_can_t_be_is_refused_where_the_request_is_made(more, words):
    with pytest.raises(ConfigError, match=words):
        EvaluationRequest(**{"tasks": ["moods.jsonl"], **more})


def test_a_single_name_is_one_and_a_list_is_taken_as_it_was():
    tasks = ["moods.jsonl"]
    request = EvaluationRequest(tasks, adapters="snli")
    tasks.clear()
    assert request.tasks == EvaluationRequest("moods.jsonl").tasks == ("moods.jsonl",)
    assert request.adapters == ("snli",)


def test_rows_that_python_holds_are_tasks_too():
    rows = [{"text": "fine", "label": "good"}]
    assert EvaluationRequest(rows).tasks == (rows,)
    assert EvaluationRequest.of([rows, "moods.jsonl"]).tasks == (rows, "moods.jsonl")
    columns = {"text": ["fine"], "label": ["good"]}
    assert EvaluationRequest(columns).tasks == (columns,)


def test_plain_tasks_stand_for_a_request_with_defaults():
    request = EvaluationRequest(("moods.jsonl",), shots=2)
    assert EvaluationRequest.of(request) is request
    assert EvaluationRequest.of(["moods.jsonl"]) == EvaluationRequest(("moods.jsonl",))
    assert EvaluationRequest.of("moods.jsonl") == EvaluationRequest(("moods.jsonl",))


def test_what_may_be_graded_follows_from_what_is_allowed():
    assert Grading().graded_metrics == frozenset()
    assert Grading(allow_code_execution=True).graded_metrics == {"pass_at_1"}
    judged = Grading(judge_url="http://x", judge_model="m")
    assert judged.graded_metrics == {"judge_accuracy"}
