import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from hashlib import sha256
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch

from adapt_lora.errors import AdapterError, TaskError
from adapt_lora.evaluator import (
    CellResult,
    Pace,
    TransformersBackend,
    evaluate_matrix,
    make_task,
    measure_pace,
    measure_units,
    plan_matrix,
)
from adapt_lora.evaluator.cells import majority_label
from adapt_lora.model.scoring import LabelScores, WrittenAnswer
from adapt_lora.registry.records import BASE_ID, MAJORITY_ID, MatrixRow


class Shelf:
    """Keeps cells as a registry would."""

    def __init__(self) -> None:
        self.results: list[CellResult] = []

    def has(self, row: MatrixRow, task: str, protocol: str) -> bool:
        return (row, task, protocol) in {
            (r.cell.row, r.cell.task, r.cell.protocol) for r in self.results
        }

    def save(self, result: CellResult) -> None:
        self.results.append(result)

    def cell(self, adapter_id: str, task: str):
        return next(
            r.cell for r in self.results if (r.cell.row.id, r.cell.task) == (adapter_id, task)
        )


class ScriptedBackend:
    """Obeys the Protocol with scripted answers; each adapter has its own favourite label."""

    family = "scripted"
    template = "plain:0"

    def __init__(self, favourites: dict[Path | None, int], answers: list[str] | None = None):
        self.favourites = favourites
        self.answers = answers or []
        self.on: Path | None = None
        self.calls: list[tuple[Path | None, str, int]] = []

    @contextmanager
    def adapted(self, folder: Path | None) -> Iterator[None]:
        if folder is not None and folder not in self.favourites:
            raise AdapterError(f"{folder}: broken")
        self.on = folder
        yield
        self.on = None

    def count_tokens(self, texts):
        return [len(text.split()) for text in texts]

    def score_labels(self, prompts, labels, *, progress=None):
        self.calls.append((self.on, "labels", len(prompts)))
        values = np.zeros((len(prompts), len(labels)), dtype=np.float32)
        values[:, self.favourites[self.on]] = 1.0
        greedy = np.full(len(prompts), 1 - self.favourites[self.on], dtype=np.int64)
        return LabelScores(values, np.ones(len(labels), dtype=np.int64), greedy)

    def answer_nll(self, rows, *, progress=None):
        self.calls.append((self.on, "nll", len(rows)))
        return [np.full(2, 1.0 + self.favourites[self.on], dtype=np.float32) for _ in rows]

    def generate(self, prompts, *, max_new_tokens, progress=None):
        self.calls.append((self.on, "generate", max_new_tokens))
        return [self.answers[i % len(self.answers)] for i in range(len(prompts))]


A, B = Path("a"), Path("b")


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def reviews(make_dataset):
    return make_task(make_dataset())


@pytest.fixture
def sums(make_dataset):
    return make_task(make_dataset("sums", ["12", "7"], labels=()))


def _run(backend, adapters, tasks, shelf, **options):
    return evaluate_matrix(
        None,  # the scripted backend needs no model
        [(MatrixRow(name), folder) for name, folder in adapters],
        tasks,
        has_cell=shelf.has,
        save_cell=shelf.save,
        backend=backend,
        **options,
    )


def test_the_base_comes_first_then_the_majority_label_then_each_adapter(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0, A: 1}, ["12"])
    report = _run(backend, [("a", A)], [reviews, sums], shelf)
    assert [(c.row.id, c.task) for c in report.cells] == [
        (BASE_ID, "reviews"),
        (BASE_ID, "sums"),
        (MAJORITY_ID, "reviews"),
        ("a", "reviews"),
        ("a", "sums"),
    ]
    assert [r.cell for r in shelf.results] == list(report.cells)
    assert report.failures == ()


def test_label_scores_become_the_cells_of_a_label_task(shelf, reviews):
    _run(ScriptedBackend({None: 0, A: 1}), [("a", A)], [reviews], shelf)
    base, majority = shelf.cell(BASE_ID, "reviews"), shelf.cell(MAJORITY_ID, "reviews")
    # Of 12 rows every third is "negative"; always saying "positive" is right on 8.
    assert majority_label(reviews) == "positive"
    for cell in (base, majority):
        assert (cell.metric, cell.score, cell.n) == ("balanced_accuracy", 0.5, 12)
        assert cell.metrics["accuracy"] == pytest.approx(8 / 12)
        assert cell.predicted_shares == {"positive": 1.0, "negative": 0.0}
    # The favourite has e times the other's probability.
    gold_first, gold_last = log(1 + np.exp(-1)), log(1 + np.exp(1))
    assert base.metrics["label_cross_entropy"] == pytest.approx(
        (8 * gold_first + 4 * gold_last) / 12
    )
    assert "label_cross_entropy" not in majority.metrics
    assert shelf.cell("a", "reviews").metrics["accuracy"] == pytest.approx(4 / 12)


def test_written_answers_are_matched_and_their_likelihood_stands_beside(shelf, sums):
    backend = ScriptedBackend({None: 0}, ["it is 12", "8"])
    _run(backend, [], [sums], shelf)
    cell = shelf.cell(BASE_ID, "sums")
    assert (cell.metric, cell.score) == ("numeric_match", 0.5)
    assert cell.metrics["answer_log_likelihood"] == -1.0
    assert cell.metrics["answer_log_likelihood_se"] == 0.0
    assert (None, "generate", 32) in backend.calls


def test_nothing_is_measured_twice_under_the_same_protocol(shelf, reviews, sums):
    first = _run(ScriptedBackend({None: 0, A: 1}, ["12"]), [("a", A)], [reviews, sums], shelf)
    backend = ScriptedBackend({None: 0, A: 1}, ["12"])
    second = _run(backend, [("a", A)], [reviews, sums], shelf)
    assert (len(first.cells), second.cells, second.n_skipped) == (5, (), 5)
    assert backend.calls == []


def test_another_decision_or_other_rows_are_another_protocol(shelf, make_dataset, reviews):
    backend = ScriptedBackend({None: 0})
    _run(backend, [], [reviews], shelf)
    fewer = make_task(make_dataset(), max_rows=6)
    for task, decision in ((reviews, "per_token"), (fewer, "sum")):
        report = _run(backend, [], [task], shelf, decision=decision)
        assert len(report.cells) == 2
    assert len({r.cell.protocol for r in shelf.results}) == 3


def test_a_killed_run_loses_only_the_cell_in_hand(shelf, reviews, sums):
    class Killed(BaseException):
        pass

    def save_two(result: CellResult) -> None:
        if len(shelf.results) == 2:
            raise Killed
        shelf.save(result)

    favourites = {None: 0, A: 1, B: 1}
    adapters = [(MatrixRow("a"), A), (MatrixRow("b"), B)]
    with pytest.raises(Killed):
        evaluate_matrix(
            None,
            adapters,
            [reviews, sums],
            has_cell=shelf.has,
            save_cell=save_two,
            backend=ScriptedBackend(favourites, ["12"]),
        )
    assert len(shelf.results) == 2
    report = _run(ScriptedBackend(favourites, ["12"]), adapters, [reviews, sums], shelf)
    assert (report.n_skipped, len(report.cells)) == (2, 5)


def test_a_bad_adapter_is_named_and_the_others_go_on(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0, A: 1}, ["12"])
    report = _run(backend, [("b", B), ("a", A)], [reviews, sums], shelf)
    assert [(f.row.id, f.task, f.reason) for f in report.failures] == [
        ("b", "reviews", "b: broken"),
        ("b", "sums", "b: broken"),
    ]
    assert shelf.cell("a", "sums").score == 0.5


def test_a_bad_task_is_named_and_the_others_go_on(shelf, reviews, sums):
    class BreaksOnLabels(ScriptedBackend):
        def score_labels(self, prompts, labels, *, progress=None):
            raise RuntimeError("out of memory\nlong trace")

    backend = BreaksOnLabels({None: 0, A: 1}, ["12"])
    report = _run(backend, [("a", A)], [reviews, sums], shelf)
    assert [(f.row.id, f.task) for f in report.failures] == [
        (BASE_ID, "reviews"),
        ("a", "reviews"),
    ]
    assert report.failures[0].reason == "RuntimeError: out of memory"
    assert shelf.cell("a", "sums").score == 0.5


def test_numbers_that_are_not_finite_are_a_failure_not_a_score(shelf, reviews):
    class Overflows(ScriptedBackend):
        def score_labels(self, prompts, labels, *, progress=None):
            scores = super().score_labels(prompts, labels)
            scores.log_likelihood[0, 0] = np.nan
            return scores

    report = _run(Overflows({None: 0}), [], [reviews], shelf)
    assert "no finite log-likelihood on 1 rows" in report.failures[0].reason
    assert [c.row.id for c in report.cells] == [MAJORITY_ID]


def test_an_adapter_without_effect_is_a_failure(shelf, reviews):
    backend = ScriptedBackend({None: 0, A: 0})
    report = _run(backend, [("a", A)], [reviews], shelf)
    assert [f.row.id for f in report.failures] == ["a"]
    assert "not active" in report.failures[0].reason


def test_what_saving_raises_goes_through(reviews):
    def registry_is_down(_result):
        raise ConnectionError("registry is down")

    with pytest.raises(ConnectionError):
        evaluate_matrix(
            None,
            [],
            [reviews],
            has_cell=lambda *_: False,
            save_cell=registry_is_down,
            backend=ScriptedBackend({None: 0}),
        )


def test_text_is_kept_only_when_asked_for(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0}, ["secret 12", "8"])
    _run(backend, [], [reviews, sums], shelf)
    kept = Shelf()
    _run(backend, [], [sums], kept, keep_text=True)
    by_task = {r.cell.task: r for r in shelf.results if r.cell.row.id == BASE_ID}
    assert {p.answer for p in by_task["reviews"].predictions} == {"positive"}
    predictions = by_task["sums"].predictions
    assert {p.answer for p in predictions} == {None}
    assert [p.right for p in predictions[:2]] == [True, False]
    assert [p.row for p in predictions] == [row.digest for row in sums.rows]
    assert kept.results[0].predictions[0].answer == "secret 12"


def test_progress_runs_from_nothing_to_the_planned_tokens(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0, A: 1}, ["12"])
    seen: list[tuple[int, int]] = []
    plan = plan_matrix(
        None, [(MatrixRow("a"), A)], [reviews, sums], has_cell=shelf.has, backend=backend
    )
    _run(
        backend,
        [("a", A)],
        [reviews, sums],
        shelf,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (plan.n_tokens, plan.n_tokens)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_two_tasks_of_one_name_are_an_error(shelf, reviews):
    with pytest.raises(TaskError, match="Two tasks are named 'reviews'"):
        _run(ScriptedBackend({None: 0}), [], [reviews, reviews], shelf)


def test_the_plan_counts_cells_tokens_and_time(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0, A: 1}, ["12"])
    _run(backend, [], [reviews], shelf)
    plan = plan_matrix(
        None, [(MatrixRow("a"), A)], [reviews, sums], has_cell=shelf.has, backend=backend
    )
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


def test_a_selected_cell_says_so(shelf, reviews):
    _run(ScriptedBackend({None: 0}), [], [reviews], shelf, selected=True)
    assert all(r.cell.selected for r in shelf.results)


# ---- With a model --------------------------------------------------------------------------------


@pytest.fixture
def model_tasks(make_dataset):
    return [
        make_task(make_dataset()),
        make_task(make_dataset("capitals", ["city", "a city"], labels=(), n=4)),
        make_task(make_dataset("essays", ["the film was good and the food was bad"], labels=())),
    ]


def test_a_real_model_with_real_adapters_fills_the_matrix(
    tiny_base, tiny_adapter, model_tasks, shelf
):
    before = {k: v.clone() for k, v in tiny_base.model.state_dict().items()}
    adapters = [
        (MatrixRow("one"), tiny_adapter("one", seed=1)),
        (MatrixRow("two"), tiny_adapter("two", seed=2)),
    ]
    report = evaluate_matrix(
        tiny_base, adapters, model_tasks, has_cell=shelf.has, save_cell=shelf.save
    )
    assert report.failures == ()
    assert len(report.cells) == 3 * 3 + 1
    base, one = shelf.cell(BASE_ID, "essays"), shelf.cell("one", "essays")
    assert base.score < 0
    assert base.score != one.score
    assert base.se > 0
    assert "answer_log_likelihood" in shelf.cell("two", "capitals").metrics
    assert all(torch.equal(before[k], v) for k, v in tiny_base.model.state_dict().items())


def test_label_likelihoods_equal_a_plain_forward_of_transformers(tiny_base, model_tasks, shelf):
    evaluate_matrix(tiny_base, [], model_tasks[:1], has_cell=shelf.has, save_cell=shelf.save)
    row, prediction = model_tasks[0].rows[0], shelf.results[0].predictions[0]
    turn = [{"role": "user", "content": row.prompt}]
    prompt = tiny_base.tokenizer.apply_chat_template(
        turn, tokenize=True, add_generation_prompt=True, return_dict=False
    )
    end = tiny_base.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for label, expected in zip(("positive", "negative"), prediction.log_likelihood, strict=True):
        answer = [*tiny_base.tokenizer(label, add_special_tokens=False)["input_ids"], end]
        with torch.no_grad():
            logits = tiny_base.model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
        total = sum(float(logits[len(prompt) + i - 1, token]) for i, token in enumerate(answer))
        assert expected == pytest.approx(total, abs=1e-3)


def test_an_adapter_of_zeros_is_found_not_active(tiny_base, tiny_adapter, model_tasks, shelf):
    report = evaluate_matrix(
        tiny_base,
        [
            (MatrixRow("zero"), tiny_adapter("zero", scale=0.0)),
            (MatrixRow("one"), tiny_adapter("one", seed=1)),
        ],
        model_tasks[:1],
        has_cell=shelf.has,
        save_cell=shelf.save,
    )
    assert [f.row.id for f in report.failures] == ["zero"]
    assert "not active" in report.failures[0].reason
    assert shelf.cell("one", "reviews").n == 12


def test_a_missing_and_a_foreign_adapter_are_named(
    tiny_base, tiny_adapter, model_tasks, shelf, tmp_path
):
    foreign = tiny_adapter("foreign")
    config = json.loads((foreign / "adapter_config.json").read_text())
    config["target_modules"] = ["query_key_value"]
    (foreign / "adapter_config.json").write_text(json.dumps(config))
    report = evaluate_matrix(
        tiny_base,
        [
            (MatrixRow("gone"), tmp_path / "gone"),
            (MatrixRow("foreign"), foreign),
            (MatrixRow("one"), tiny_adapter("one", seed=1)),
        ],
        model_tasks[:1],
        has_cell=shelf.has,
        save_cell=shelf.save,
    )
    assert [f.row.id for f in report.failures] == ["gone", "foreign"]
    assert shelf.cell("one", "reviews").n == 12


def test_a_row_too_long_for_the_model_fails_its_task_alone(tiny_base, model_tasks, shelf):
    task = model_tasks[0]
    long = replace(task.rows[0], prompt="the film was good " * 300)
    broken = replace(task, record=replace(task.record, name="long"), rows=(long, *task.rows[1:]))
    report = evaluate_matrix(
        tiny_base, [], [broken, task], has_cell=shelf.has, save_cell=shelf.save
    )
    assert [(f.row.id, f.task) for f in report.failures] == [(BASE_ID, "long")]
    assert shelf.cell(BASE_ID, "reviews").n == 12


def test_answer_nll_leaves_out_the_closing_tokens(tiny_base, model_tasks):
    rows = model_tasks[2].rows[:2]
    nll = TransformersBackend(tiny_base).answer_nll(rows)
    words = tiny_base.tokenizer(rows[0].response, add_special_tokens=False)["input_ids"]
    assert [len(values) for values in nll] == [len(words)] * 2


def test_the_protocol_names_the_kind_of_template_and_its_tokens(tiny_base, model_tasks):
    plan = plan_matrix(tiny_base, [], model_tasks[:1], has_cell=lambda *_: False)
    kind, _, tokens = plan.units[0].protocol.template.partition(":")
    assert kind == tiny_base.template == "chat"
    assert len(tokens) == 12


class HalfGrader:
    """Grades answers by their first digit; can't grade those that have none."""

    def protocol_key(self, rows):
        return "half"

    def grade(self, rows, answers, *, progress=None):
        return [float(a[0]) if a[:1].isdigit() else None for a in answers]


def test_a_grader_grades_what_references_cant(shelf, make_dataset):
    essays = make_task(make_dataset("essays", ["a", "b"], labels=()), metric="judge_accuracy")
    backend = ScriptedBackend({None: 0}, ["1", "0", "1", "?"])
    report = _run(backend, [], [essays], shelf, graders={"judge_accuracy": HalfGrader()})
    cell = report.cells[0]
    assert cell.score == pytest.approx(2 / 3)
    assert cell.n == 9
    assert cell.metrics["judge_unparsable_share"] == pytest.approx(0.25)
    assert shelf.results[0].protocol.grader == "half"
    rights = [p.right for p in shelf.results[0].predictions[:4]]
    assert rights == [True, False, True, None]


def test_answers_that_can_never_be_graded_leave_no_score(shelf, make_dataset):
    essays = make_task(make_dataset("essays", ["a"], labels=()), metric="judge_accuracy")
    graders = {"judge_accuracy": HalfGrader()}
    report = _run(ScriptedBackend({None: 0}, ["?"]), [], [essays], shelf, graders=graders)
    assert not report.cells
    assert "none of 12 answers could be graded" in report.failures[0].reason


def test_a_task_without_its_grader_stops_the_plan(shelf, make_dataset):
    essays = make_task(make_dataset("essays", ["a"], labels=()), metric="judge_accuracy")
    with pytest.raises(TaskError, match="--judge-url"):
        _run(ScriptedBackend({None: 0}), [], [essays], shelf)


@pytest.mark.parametrize("metric", ["token_f1", "rouge_l"])
def test_written_answers_are_graded_in_degrees(shelf, make_dataset, metric):
    task = make_task(make_dataset("essays", ["blue sky"], labels=()), metric=metric)
    report = _run(ScriptedBackend({None: 0}, ["blue", "blue sky"]), [], [task], shelf)
    assert report.cells[0].score == pytest.approx((2 / 3 + 1) / 2)
    assert shelf.results[0].predictions[0].grade == pytest.approx(2 / 3)
    assert shelf.results[0].predictions[0].right is None


def test_choice_takes_what_constrained_decoding_writes(shelf, reviews):
    report = _run(ScriptedBackend({None: 0}), [], [reviews], shelf, decision="choice")
    assert report.cells[0].predicted_shares == {"positive": 0, "negative": 1}


def test_a_gain_over_the_base_is_tested_on_the_same_rows(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0, A: 1}, ["12"])
    _run(backend, [("a", A)], [reviews, sums], shelf)
    cell, base = shelf.cell("a", "reviews"), shelf.cell(BASE_ID, "reviews")
    assert cell.metrics["gain_vs_base"] == pytest.approx(cell.score - base.score)
    assert cell.metrics["n_rows_vs_base"] == 12
    assert 0 < cell.metrics["p_value_vs_base"] <= 1
    assert cell.metrics["minimum_detectable_gain"] > 0
    assert shelf.cell("a", "sums").metrics["p_value_vs_base"] == 1
    assert "p_value_vs_base" not in base.metrics
    assert "p_value_vs_base" not in shelf.cell(MAJORITY_ID, "reviews").metrics


def test_the_bases_predictions_of_an_earlier_run_serve_too(shelf, reviews):
    backend = ScriptedBackend({None: 0, A: 1})
    _run(backend, [], [reviews], shelf)
    first = shelf.results[0]

    def find(task, protocol):
        assert (task, protocol) == ("reviews", first.cell.protocol)
        return first.predictions

    _run(backend, [("a", A)], [reviews], shelf, base_predictions=find)
    assert "p_value_vs_base" in shelf.cell("a", "reviews").metrics


def test_unit_tests_decide_where_there_is_no_reference(shelf, make_dataset):
    dataset = make_dataset("code", [None], labels=(), n=4)
    tested = replace(
        dataset, rows=tuple(replace(row, tests=("assert f()",)) for row in dataset.rows)
    )
    task = make_task(tested)
    graders = {"pass_at_1": HalfGrader()}
    backend = ScriptedBackend({None: 0, A: 1}, ["1", "0"])
    report = _run(backend, [("a", A)], [task], shelf, graders=graders)
    assert [cell.score for cell in report.cells] == [0.5, 0.5]
    assert "answer_log_likelihood" not in report.cells[0].metrics


# ---- What a cell keeps ---------------------------------------------------------------------------


class Ends(ScriptedBackend):
    """Knows how its answers ended: the second of two was cut."""

    def generate(self, prompts, *, max_new_tokens, progress=None):
        texts = super().generate(prompts, max_new_tokens=max_new_tokens)
        ends = ("stop", "length")
        return [
            WrittenAnswer(text, n_tokens=3 + i % 2, finish=ends[i % 2])
            for i, text in enumerate(texts)
        ]


def test_predictions_name_gold_label_and_lengths(shelf, reviews):
    _run(ScriptedBackend({None: 1}), [], [reviews], shelf)
    predictions = shelf.results[0].predictions
    assert [p.gold for p in predictions] == [row.label for row in reviews.rows]
    assert {p.prompt_tokens for p in predictions} == {5}
    assert {p.answer for p in predictions} == {reviews.record.labels[1]}
    assert shelf.results[0].cell.metrics["seconds"] >= 0


def test_written_answers_keep_length_and_end_but_no_text(shelf, sums):
    _run(Ends({None: 0}, ["12", "7"]), [], [sums], shelf)
    (result,) = shelf.results
    assert [p.finish for p in result.predictions[:2]] == ["stop", "length"]
    assert [p.answer_tokens for p in result.predictions[:2]] == [3, 4]
    assert {p.answer for p in result.predictions} == {None}
    assert result.cell.metrics["answers_cut_share"] == 0.5
    assert result.cell.metrics["answer_tokens_mean"] == 3.5


def test_a_backend_that_does_not_say_how_answers_ended_is_not_guessed_at(shelf, sums):
    _run(ScriptedBackend({None: 0}, ["it is 12"]), [], [sums], shelf)
    (result,) = shelf.results
    assert {p.finish for p in result.predictions} == {None}
    assert {p.answer_tokens for p in result.predictions} == {3}
    assert "answers_cut_share" not in result.cell.metrics


def test_protocols_without_examples_have_the_digest_they_always_had(shelf, reviews):
    _run(ScriptedBackend({None: 0}), [], [reviews], shelf)
    protocol = shelf.results[0].protocol
    fields = {k: v for k, v in asdict(protocol).items() if not k.startswith(("grader", "shots"))}
    text = json.dumps(fields, sort_keys=True, ensure_ascii=True)
    assert protocol.digest == sha256(text.encode()).hexdigest()


def test_units_can_be_measured_anywhere_in_any_parts(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0, A: 1}, ["12"])
    plan = plan_matrix(
        None, [(MatrixRow("a"), A)], [reviews, sums], has_cell=shelf.has, backend=backend
    )
    halves = [plan.units[::2], plan.units[1::2]]
    there = [pickle.loads(pickle.dumps(half)) for half in halves]
    found = {
        (r.cell.row.id, r.cell.task): r.cell.score
        for half in there
        for r in measure_units(ScriptedBackend({None: 0, A: 1}, ["12"]), half)
    }
    _run(backend, [("a", A)], [reviews, sums], shelf)
    assert found == {(r.cell.row.id, r.cell.task): r.cell.score for r in shelf.results}


def test_a_real_model_says_how_its_answers_ended(tiny_base, make_dataset, shelf):
    sums = make_task(make_dataset("sums", ["12", "7"], labels=(), n=4))
    evaluate_matrix(tiny_base, [], [sums], has_cell=shelf.has, save_cell=shelf.save)
    limit = shelf.results[0].protocol.max_new_tokens
    for prediction in shelf.results[0].predictions:
        assert prediction.finish in ("stop", "length")
        assert (prediction.answer_tokens == limit) == (prediction.finish == "length")
