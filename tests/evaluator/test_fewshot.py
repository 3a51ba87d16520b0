"""Examples in the prompt: drawn evenly, never from what is scored."""

from collections import Counter
from dataclasses import replace

import pytest

from adapt_lora.data import Row
from adapt_lora.errors import TaskError
from adapt_lora.evaluator import Measuring, draw_shots, make_task
from adapt_lora.registry.records import BASE_ID, MAJORITY_ID, MatrixRow
from tests.evaluator.scripted import A, ScriptedBackend, Shelf, measure


@pytest.fixture
def task(make_dataset):
    return make_task(make_dataset())


@pytest.fixture
def pool():
    """20 training rows, four of them negative."""
    return [
        Row(f"training row {i}", None, "negative" if i % 5 == 0 else "positive", i + 1)
        for i in range(20)
    ]


@pytest.mark.parametrize(("shots", "rarest"), [(2, 1), (4, 2), (5, 2), (12, 4)])
def test_labels_take_turns_however_rare_they_are(task, pool, shots, rarest):
    chosen = draw_shots(pool, task, shots).examples
    counts = Counter(row.label for row in chosen)
    assert len(set(chosen)) == shots
    assert counts["negative"] in (rarest, rarest + shots % 2)
    assert all(row.response == row.label for row in chosen)


def test_scored_rows_are_never_shown(task, pool):
    scored = list(task.rows)
    # The same question with another answer would give the question away, too.
    twisted = [replace(row, label="positive", response="positive") for row in task.rows]
    shots = draw_shots([*scored, *twisted, *pool[:4]], task, 4)
    assert {row.prompt for row in shots.examples} == {row.prompt for row in pool[:4]}
    with pytest.raises(TaskError, match="only 3 of 28 training rows may be shown"):
        draw_shots([*scored, *twisted, *pool[:4]], task, 4, taken={pool[0].digest})


def test_the_seed_decides_and_the_digest_tells(task, pool):
    assert draw_shots(pool, task, 4, seed=3) == draw_shots(pool, task, 4, seed=3)
    digests = {draw_shots(pool, task, 4, seed=seed).digest for seed in range(4)}
    assert len(digests) > 1


def test_prompts_show_question_and_answer_and_end_with_the_own_question(task, pool):
    shots = draw_shots(pool, task, 2)
    first = shots.examples[0]
    prompt = shots.shown(task).rows[0].prompt
    assert prompt.startswith(f"{first.prompt}\n{first.label}\n\n")
    assert prompt.endswith(f"\n\n{task.rows[0].prompt}")
    assert shots.shown(task).record == task.record


def test_no_examples_is_no_few_shot_row(task, pool):
    with pytest.raises(TaskError, match="at least one example"):
        draw_shots(pool, task, 0)


def test_a_task_without_labels_shows_responses(make_dataset, pool):
    sums = make_task(make_dataset("sums", ["12", "7"], labels=()))
    rows = [replace(row, label=None, response=f"answer {row.line}") for row in pool]
    assert "answer" in draw_shots(rows, sums, 3).preamble


class Remembers(ScriptedBackend):
    """Keeps the prompts it was given."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.prompts: list[str] = []

    def score_labels(self, prompts, labels, *, progress=None):
        self.prompts += prompts
        return super().score_labels(prompts, labels, progress=progress)


def _measure(backend, adapters, task, shelf, shots):
    return measure(backend, adapters, [task], shelf, shots={task.record.name: shots})


def test_a_few_shot_row_stands_in_the_column_of_the_bare_base(task, pool):
    shelf, backend = Shelf(), Remembers({None: 0})
    shots = draw_shots(pool, task, 3)
    _measure(backend, [], task, shelf, shots)
    assert [r.cell.row.id for r in shelf.results] == [BASE_ID, MAJORITY_ID, "base+3shot"]
    bare, shown = shelf.results[0], shelf.results[-1]
    assert shown.cell.column == bare.cell.protocol
    assert shown.cell.protocol != bare.cell.protocol
    assert shown.protocol.shots_digest == shots.digest
    assert sum(prompt.startswith(shots.preamble) for prompt in backend.prompts) == len(task.rows)
    # Rows keep their own digests, so that both cells can be compared row by row.
    assert [p.row for p in shown.predictions] == [row.digest for row in task.rows]
    assert [p.row for p in bare.predictions] == [p.row for p in shown.predictions]
    assert not _measure(backend, [], task, shelf, shots).cells


def test_named_adapters_get_few_shot_rows_of_their_own(task, pool):
    shelf, backend = Shelf(), ScriptedBackend({None: 0, A: 1})
    _measure(backend, [("a", A)], task, shelf, draw_shots(pool, task, 2, seed=7))
    row = shelf.results[-1].cell.row
    assert row == MatrixRow("a", shots=2, seed=7) == MatrixRow.parse("a+2shot-seed7")
    assert row.id == "a+2shot-seed7"
    assert row.of("moods").label == "moods, 2 shots, seed 7"
    assert not row.is_candidate


def test_other_examples_are_another_protocol(task, pool):
    shelf, backend = Shelf(), ScriptedBackend({None: 0})
    for seed in (0, 1):
        _measure(backend, [], task, shelf, draw_shots(pool, task, 2, seed=seed))
    protocols = [r.cell.protocol for r in shelf.results if r.cell.row.shots]
    assert len(set(protocols)) == 2


def test_examples_cost_tokens_in_the_plan(task, pool):
    backend, shots = ScriptedBackend({None: 0}), draw_shots(pool, task, 2)
    plan = Measuring(backend).plan([], [task], shots={task.record.name: shots})
    bare, _, shown = plan.units
    words = len(shots.preamble.split())
    assert shown.n_tokens == bare.n_tokens + len(task.rows) * words
    assert (shown.folder, bare.folder) == (None, None)


@pytest.mark.parametrize("row_id", ["base", "majority label", "a" * 64, "3shot", "base+shot"])
def test_other_ids_are_no_few_shot_rows(row_id):
    row = MatrixRow.parse(row_id)
    assert row == MatrixRow(row_id)
    assert row.id == row_id
    assert row.is_candidate != (row_id in ("base", "majority label"))
