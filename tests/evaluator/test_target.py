"""A few adapters beside their base on the rows of a target."""

import pytest

from adapt_lora.errors import TaskError
from adapt_lora.evaluator import Measuring, TargetMeter, make_task
from adapt_lora.evaluator.target import spread_rows
from adapt_lora.registry.records import BASE_ROW, MAJORITY_ROW
from tests.evaluator.scripted import A, ScriptedBackend, Shelf


@pytest.fixture
def target(make_dataset):
    return make_dataset(n=24)


def meter(backend, target, shelf, **options):
    def find(row, protocol):
        cells = [r.cell for r in shelf.results if (r.cell.row, r.cell.protocol) == (row, protocol)]
        return cells[-1] if cells else None

    return TargetMeter(
        Measuring(backend),
        target,
        make_task(target),
        folder_of=lambda adapter_id: A.with_name(adapter_id),
        measured=shelf.measured,
        find_cell=find,
        save_cell=lambda result, batch: shelf.save(result),
        **options,
    )


def test_gains_are_measured_batch_by_batch_and_kept_as_chosen(target, shelf):
    made = meter(ScriptedBackend({None: 0, A: 1}), target, shelf)
    first = made.measure(["a", "gone"], range(12))
    assert first.gains["a"].n == 12
    assert "gone: broken" in first.failures["gone"]
    assert {r.cell.row for r in shelf.results} >= {BASE_ROW, MAJORITY_ROW}
    assert all(r.cell.selected for r in shelf.results)
    made.measure(["a"], range(12, 24))
    digests = {r.cell.protocol for r in shelf.results}
    assert len(digests) == 2  # other rows are another protocol
    assert made.base_score == (pytest.approx(0.5), 0.0)
    # Constant answers come with no error, yet one more row could break the habit.
    assert first.gains["a"].se >= 1 / 12


def test_what_is_measured_already_is_looked_up(target, shelf):
    backend = ScriptedBackend({None: 0, A: 1})
    first = meter(backend, target, shelf).measure(["a"], range(12))
    n_calls, n_cells = len(backend.calls), len(shelf.results)
    again = meter(backend, target, shelf)
    assert again.estimated_s([(["a"], range(12))]) == 0
    assert again.measure(["a"], range(12)) == first
    assert (len(backend.calls), len(shelf.results)) == (n_calls, n_cells)


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
