"""What a plan holds and costs."""

import pytest

from adapt_lora.errors import TaskError
from adapt_lora.evaluator import (
    Measuring,
    Pace,
    TransformersBackend,
    make_task,
    measure_pace,
)
from adapt_lora.registry.records import MatrixRow
from tests.evaluator.scripted import A, ScriptedBackend, measure


def test_two_tasks_of_one_name_are_an_error(shelf, reviews):
    with pytest.raises(TaskError, match="Two tasks are named 'reviews'"):
        measure(ScriptedBackend({None: 0}), [], [reviews, reviews], shelf)


def test_the_plan_counts_cells_tokens_and_time(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0, A: 1}, ["12"])
    measure(backend, [], [reviews], shelf)
    plan = Measuring(backend).plan([(MatrixRow("a"), A)], [reviews, sums], measured=shelf.measured)
    assert (plan.n_cells, plan.n_skipped, len(plan.units)) == (5, 2, 3)
    # Prompts of 5 words and two one-word labels; or one-word answers and room for 32 more.
    assert plan.n_tokens == 12 * (5 + 2) + 2 * 12 * (5 + 1 + 32)
    assert plan.estimated_s(Pace(10)) == pytest.approx(plan.n_tokens / 10)
    n_written = 2 * 12 * 32
    slow_writer = Pace(10, written_tokens_per_s=2)
    expected = (plan.n_tokens - n_written) / 10 + n_written / 2
    assert plan.estimated_s(slow_writer) == pytest.approx(expected)
    pace = measure_pace(backend, plan)
    assert pace.read_tokens_per_s > 0
    assert pace.written_tokens_per_s > 0


def test_a_task_without_its_grader_stops_the_plan(shelf, make_dataset):
    essays = make_task(make_dataset("essays", ["a"], labels=()), metric="judge_accuracy")
    with pytest.raises(TaskError, match="--judge-url"):
        measure(ScriptedBackend({None: 0}), [], [essays], shelf)


def test_another_decision_or_other_rows_are_another_protocol(shelf, make_dataset, reviews):
    backend = ScriptedBackend({None: 0})
    measure(backend, [], [reviews], shelf)
    fewer = make_task(make_dataset(), max_rows=6)
    for task, decision in ((reviews, "per_token"), (fewer, "sum")):
        report = measure(backend, [], [task], shelf, decision=decision)
        assert len(report.cells) == 2
    assert len({r.cell.protocol for r in shelf.results}) == 3


def test_the_protocol_names_the_kind_of_template_and_its_tokens(tiny_base, model_tasks):
    plan = Measuring(TransformersBackend(tiny_base)).plan([], model_tasks[:1])
    kind, _, tokens = plan.units[0].protocol.template.partition(":")
    assert kind == tiny_base.template == "chat"
    assert len(tokens) == 12
