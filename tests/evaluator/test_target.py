"""A few adapters beside their base on the rows of a target."""

from dataclasses import replace

import numpy as np
import pytest

from adapt_lora.errors import TaskError
from adapt_lora.evaluator import Measuring, TargetMeter, make_task
from adapt_lora.evaluator.target import spread_rows
from adapt_lora.model.scoring import LabelScores
from adapt_lora.registry.records import BASE_ROW, MAJORITY_ROW, MatrixRow
from tests.evaluator.scripted import A, ScriptedBackend, Shelf


@pytest.fixture
def target(make_dataset):
    return make_dataset(n=24)


def meter(backend, target, shelf, **options):
    def recall(row, protocol):
        alike = [r for r in shelf.results if r.cell.row == row and same(r.protocol, protocol)]
        return {one.row: one for result in alike for one in result.predictions}

    return TargetMeter(
        Measuring(backend, recall=recall),
        target,
        make_task(target),
        folder_of=lambda adapter_id: A.with_name(adapter_id),
        save_cell=lambda result, batch: shelf.save(result),
        **options,
    )


def same(left, right):
    return replace(left, rows="") == replace(right, rows="")


def test_gains_are_measured_batch_by_batch_and_kept_as_chosen(target, shelf):
    made = meter(ScriptedBackend({None: 0, A: 1}), target, shelf)
    first = made.measure(["a", "gone"], range(12))
    assert first.gains["a"].n == 12
    assert "gone: broken" in first.failures["gone"]
    assert {r.cell.row for r in shelf.results} >= {BASE_ROW, MAJORITY_ROW}
    assert all(r.cell.selected for r in shelf.results)
    second = made.measure(["a"], range(12, 24))
    assert second.gains["a"].n == 24
    assert second.gains == made.gains(["a", "gone"])
    digests = {r.cell.protocol for r in shelf.results}
    assert len(digests) == 2  # other rows are another protocol
    assert made.base_cell.score == pytest.approx(0.5)
    assert made.base_cell.n == 24
    # Constant answers come with no error, yet one more row could break the habit.
    assert first.gains["a"].se >= 1 / 12


def test_what_was_answered_before_is_not_asked_again(target, shelf):
    backend = ScriptedBackend({None: 0, A: 1})
    first = meter(backend, target, shelf).measure(["a"], range(12))
    n_calls, n_cells = len(backend.calls), len(shelf.results)
    again = meter(backend, target, shelf)
    assert again.gains(["a"]) == first.gains
    assert again.estimated_s([(["a"], range(12))]) == 0
    assert again.measure(["a"], range(12)) == first
    assert (len(backend.calls), len(shelf.results)) == (n_calls, n_cells)
    longer = again.measure(["a"], range(6, 18))
    assert longer.gains["a"].n == 18
    asked = [result.cell.n - result.cell.metrics.get("n_rows_known", 0) for result in shelf.results]
    assert asked[n_cells:].count(6) == 2  # of the base and of the adapter: rows 12 to 17


def test_rows_of_any_earlier_cell_count_and_no_others(target, make_dataset, shelf):
    backend = ScriptedBackend({None: 0, A: 1})
    measuring = Measuring(backend)
    half = replace(target, name="other name", rows=target.rows[:10])
    plan = measuring.plan([(MatrixRow("a"), A)], [make_task(half)])
    measuring.run(plan, shelf.save)
    assert meter(backend, target, shelf).gains(["a", "b"])["a"].n == 10
    foreign = make_dataset(n=24)
    foreign = replace(foreign, rows=[replace(r, prompt=f"{r.prompt}?") for r in foreign.rows])
    assert meter(backend, foreign, shelf).gains(["a"]) == {}


def test_a_bias_that_is_taken_off_is_a_gain_over_the_base_as_it_is(target, shelf):
    class Biased(ScriptedBackend):
        """Always surer of the first label, a little less so where the second is right."""

        def score_labels(self, prompts, labels, *, progress=None):
            gold = {row.prompt: row.label for row in target.rows}
            second = np.array([gold[prompt] == labels[1] for prompt in prompts])
            values = np.column_stack([np.full(len(prompts), -1.0), np.where(second, -2.0, -4.0)])
            return LabelScores(values, np.ones(2, dtype=np.int64), None)

    made = meter(Biased({None: 0, A: 0}), target, shelf)
    assert made.unbiased(BASE_ROW) is None
    made.measure([], range(24))
    assert made.base_cell.score == 0.5
    found = made.unbiased(BASE_ROW)
    assert found.gain.gain == pytest.approx(0.5)
    assert found.gain.n == 24
    first, second = target.labels
    assert found.offsets[first] == pytest.approx(-found.offsets[second])
    assert 1.0 < found.offsets[first] - found.offsets[second] < 3.0


def test_without_the_base_there_is_no_gain(target):
    class Fails(ScriptedBackend):
        def score_labels(self, prompts, labels, *, progress=None):
            raise TaskError("no room")

    with pytest.raises(TaskError, match=r"base model could not be measured .*no room"):
        meter(Fails({None: 0, A: 1}), target, Shelf()).measure(["a"], range(12))


def test_every_stretch_of_rows_has_the_labels_in_about_their_shares(target):
    rows = spread_rows(make_task(target), seed=3)
    assert sorted(row.line for row in rows) == list(range(1, 25))
    halves = [sum(row.label == "negative" for row in half) for half in (rows[:12], rows[12:])]
    assert sorted(halves) in ([3, 5], [4, 4])
