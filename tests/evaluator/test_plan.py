"""What a plan holds and costs."""

import math
from dataclasses import replace

import pytest

from adapt_lora.errors import TaskError
from adapt_lora.evaluator import (
    Measuring,
    Pace,
    TransformersBackend,
    make_task,
    measure_pace,
)
from adapt_lora.model.scoring import WrittenAnswer
from adapt_lora.registry.records import MatrixRow
from tests.evaluator.scripted import A, HalfGrader, ScriptedBackend, measure


def test_two_tasks_of_one_name_are_an_error(shelf, reviews):
    with pytest.raises(TaskError, match="Two tasks are named 'reviews'"):
        measure(ScriptedBackend({None: 0}), [], [reviews, reviews], shelf)


def test_the_plan_counts_cells_tokens_and_time(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0, A: 1}, ["12"])
    measure(backend, [], [reviews], shelf)
    plan = Measuring(backend).plan([(MatrixRow("a"), A)], [reviews, sums], measured=shelf.measured)
    assert (plan.n_cells, plan.n_skipped, len(plan.units)) == (5, 2, 3)
    # Prompts of 5 words and two one-word labels; or such a prompt to read twice, a one-word answer
    # and room for 32 more.
    assert plan.n_tokens == 12 * (5 + 2) + 2 * 12 * (2 * 5 + 1 + 32)
    n_read = 12 * (5 + 2) + 2 * 12 * (2 * 5 + 1)
    # An answer as long as its reference, and its end mark; or one that runs to its limit.
    time = plan.span(Pace(10, written_tokens_per_s=2))
    assert time.least_s == time.likely_s == pytest.approx(n_read / 10 + 2 * 12 * 2 / 2)
    assert time.most_s == pytest.approx(n_read / 10 + 2 * 12 * 32 / 2)
    pace = measure_pace(backend, plan)
    assert pace.read_tokens_per_s > 0
    assert pace.written_tokens_per_s > 0


def test_a_batch_waits_for_its_longest_answer(make_dataset):
    answers = ["one", "one two three"] * 4 + ["one two"] * 4
    task = make_task(make_dataset("essays", answers, labels=()), metric="token_f1")
    (unit,) = Measuring(ScriptedBackend({None: 0}, ["12"])).plan([], [task]).units
    reading = unit.n_tokens - unit.n_written
    time = Pace(1, written_tokens_per_s=1).span(unit)
    assert time.least_s - reading == 4 * (2 + 4) + 4 * 3
    assert time.likely_s - reading == 8 * 4 + 4 * 3


class Writer(ScriptedBackend):
    """Takes time for every token, and knows how its answers ended."""

    def __init__(self, length):
        super().__init__({None: 0})
        self.length = length

    def generate(self, prompts, *, max_new_tokens, progress=None):
        self.calls.append((self.on, "generate", max_new_tokens))
        n_tokens = min(self.length, max_new_tokens)
        finish = "stop" if self.length < max_new_tokens else "length"
        return [WrittenAnswer("x", n_tokens=n_tokens, finish=finish) for _ in prompts]


def test_without_references_what_the_base_writes_says_how_long_answers_are(make_dataset):
    rows = make_dataset("code", ["a"], labels=())
    rows = replace(
        rows, rows=tuple(replace(r, response=None, tests=("assert 1",)) for r in rows.rows)
    )
    measuring = [
        Measuring(Writer(length), graders={"pass_at_1": HalfGrader()}) for length in (19, 600)
    ]
    plans = [one.plan([], [make_task(rows)]) for one in measuring]
    short, endless = (
        measure_pace(one.backend, plan) for one, plan in zip(measuring, plans, strict=True)
    )
    assert (short.answer_tokens, endless.answer_tokens) == (20, math.inf)
    assert [limit for _, what, limit in measuring[0].backend.calls if what == "generate"] == [1, 64]
    unit = plans[0].units[0]
    pace = Pace(1e9, written_tokens_per_s=1, answer_tokens=20)
    assert pace.span(unit).likely_s == pytest.approx(len(rows.rows) * 20, rel=1e-6)
    assert pace.span(unit).most_s == pytest.approx(unit.n_written, rel=1e-6)
    unknown = replace(pace, answer_tokens=math.inf).span(unit)
    assert unknown.likely_s == unknown.most_s


def test_the_pace_is_taken_on_rows_that_fill_half_a_batch(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0}, ["12"])
    plan = Measuring(backend).plan([], [reviews, sums])
    measure_pace(backend, plan)
    # Twelve short rows are all read at once; and the task that costs most says how fast.
    assert backend.calls[:2] == [(None, "nll", 1), (None, "nll", 12)]
    long = Measuring(backend).plan([], [replace(sums, rows=sums.rows * 20)])
    measure_pace(backend, long)
    assert (None, "nll", 64) in backend.calls


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
