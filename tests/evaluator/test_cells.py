"""What one cell is made of, from a backend's scores and written answers."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch

from adapt_lora.evaluator import Measuring, TransformersBackend, make_task
from adapt_lora.evaluator.cells import majority_label
from adapt_lora.model.scoring import WrittenAnswer
from adapt_lora.registry.records import BASE_ID, MAJORITY_ID, MatrixRow
from tests.evaluator.scripted import A, HalfGrader, ScriptedBackend, Shelf, measure


def test_label_scores_become_the_cells_of_a_label_task(shelf, reviews):
    measure(ScriptedBackend({None: 0, A: 1}), [("a", A)], [reviews], shelf)
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
    measure(backend, [], [sums], shelf)
    cell = shelf.cell(BASE_ID, "sums")
    assert (cell.metric, cell.score) == ("numeric_match", 0.5)
    assert cell.metrics["answer_log_likelihood"] == -1.0
    assert cell.metrics["answer_log_likelihood_se"] == 0.0
    assert (None, "generate", 32) in backend.calls


def test_numbers_that_are_not_finite_are_a_failure_not_a_score(shelf, reviews):
    class Overflows(ScriptedBackend):
        def score_labels(self, prompts, labels, *, progress=None):
            scores = super().score_labels(prompts, labels)
            scores.log_likelihood[0, 0] = np.nan
            return scores

    report = measure(Overflows({None: 0}), [], [reviews], shelf)
    assert "no finite log-likelihood on 1 rows" in report.failures[0].reason
    assert [c.row.id for c in report.cells] == [MAJORITY_ID]


def test_a_selected_cell_says_so(shelf, reviews):
    measure(ScriptedBackend({None: 0}), [], [reviews], shelf, selected=True)
    assert all(r.cell.selected for r in shelf.results)


def test_label_likelihoods_equal_a_plain_forward_of_transformers(tiny_base, model_tasks, shelf):
    measure(TransformersBackend(tiny_base), [], model_tasks[:1], shelf)
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


def test_a_grader_grades_what_references_cant(shelf, make_dataset):
    essays = make_task(make_dataset("essays", ["a", "b"], labels=()), metric="judge_accuracy")
    backend = ScriptedBackend({None: 0}, ["1", "0", "1", "?"])
    report = measure(backend, [], [essays], shelf, graders={"judge_accuracy": HalfGrader()})
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
    report = measure(ScriptedBackend({None: 0}, ["?"]), [], [essays], shelf, graders=graders)
    assert not report.cells
    assert "none of 12 answers could be graded" in report.failures[0].reason


@pytest.mark.parametrize("metric", ["token_f1", "rouge_l"])
def test_written_answers_are_graded_in_degrees(shelf, make_dataset, metric):
    task = make_task(make_dataset("essays", ["blue sky"], labels=()), metric=metric)
    report = measure(ScriptedBackend({None: 0}, ["blue", "blue sky"]), [], [task], shelf)
    assert report.cells[0].score == pytest.approx((2 / 3 + 1) / 2)
    assert shelf.results[0].predictions[0].grade == pytest.approx(2 / 3)
    assert shelf.results[0].predictions[0].right is None


def test_choice_takes_what_constrained_decoding_writes(shelf, reviews):
    report = measure(ScriptedBackend({None: 0}), [], [reviews], shelf, decision="choice")
    assert report.cells[0].predicted_shares == {"positive": 0, "negative": 1}


def test_unit_tests_decide_where_there_is_no_reference(shelf, make_dataset):
    dataset = make_dataset("code", [None], labels=(), n=4)
    tested = replace(
        dataset, rows=tuple(replace(row, tests=("assert f()",)) for row in dataset.rows)
    )
    task = make_task(tested)
    graders = {"pass_at_1": HalfGrader()}
    backend = ScriptedBackend({None: 0, A: 1}, ["1", "0"])
    report = measure(backend, [("a", A)], [task], shelf, graders=graders)
    assert [cell.score for cell in report.cells] == [0.5, 0.5]
    assert "answer_log_likelihood" not in report.cells[0].metrics


def test_text_is_kept_only_when_asked_for(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0}, ["secret 12", "8"])
    measure(backend, [], [reviews, sums], shelf)
    kept = Shelf()
    measure(backend, [], [sums], kept, keep_text=True)
    by_task = {r.cell.task: r for r in shelf.results if r.cell.row.id == BASE_ID}
    assert {p.answer for p in by_task["reviews"].predictions} == {"positive"}
    predictions = by_task["sums"].predictions
    assert {p.answer for p in predictions} == {None}
    assert [p.right for p in predictions[:2]] == [True, False]
    assert [p.row for p in predictions] == [row.digest for row in sums.rows]
    assert kept.results[0].predictions[0].answer == "secret 12"


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
    measure(ScriptedBackend({None: 1}), [], [reviews], shelf)
    predictions = shelf.results[0].predictions
    assert [p.gold for p in predictions] == [row.label for row in reviews.rows]
    assert {p.prompt_tokens for p in predictions} == {5}
    assert {p.answer for p in predictions} == {reviews.record.labels[1]}
    assert shelf.results[0].cell.metrics["seconds"] >= 0


def test_written_answers_keep_length_and_end_but_no_text(shelf, sums):
    measure(Ends({None: 0}, ["12", "7"]), [], [sums], shelf)
    (result,) = shelf.results
    assert [p.finish for p in result.predictions[:2]] == ["stop", "length"]
    assert [p.answer_tokens for p in result.predictions[:2]] == [3, 4]
    assert {p.answer for p in result.predictions} == {None}
    assert result.cell.metrics["answers_cut_share"] == 0.5
    assert result.cell.metrics["answer_tokens_mean"] == 3.5


def test_a_backend_that_does_not_say_how_answers_ended_is_not_guessed_at(shelf, sums):
    measure(ScriptedBackend({None: 0}, ["it is 12"]), [], [sums], shelf)
    (result,) = shelf.results
    assert {p.finish for p in result.predictions} == {None}
    assert {p.answer_tokens for p in result.predictions} == {3}
    assert "answers_cut_share" not in result.cell.metrics


def test_a_real_model_says_how_its_answers_ended(tiny_base, make_dataset, shelf):
    sums = make_task(make_dataset("sums", ["12", "7"], labels=(), n=4))
    measure(TransformersBackend(tiny_base), [], [sums], shelf)
    limit = shelf.results[0].protocol.max_new_tokens
    for prediction in shelf.results[0].predictions:
        assert prediction.finish in ("stop", "length")
        assert (prediction.answer_tokens == limit) == (prediction.finish == "length")


def known_rows(shelf, keep=8):
    """What a shelf's cells hold of their first rows, for rows of the matrix."""
    answered = {}
    for result in shelf.results:
        rows = answered.setdefault(result.cell.row, {})
        rows |= {one.row: one for one in result.predictions[:keep]}
    return lambda row, protocol: answered.get(row, {})


def test_rows_that_were_answered_before_are_not_run_again(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0, A: 1}, ["12"])
    measure(backend, [("a", A)], [reviews, sums], shelf)
    again = ScriptedBackend({None: 0, A: 1}, ["12"])
    found = Shelf()
    measure(again, [("a", A)], [reviews, sums], found, recall=known_rows(shelf))
    n_labels = [n for _, what, n in again.calls if what == "labels"]
    assert n_labels[-1] == len(reviews.rows) - 8
    for row in (BASE_ID, "a"):
        for task in ("reviews", "sums"):
            first, second = shelf.cell(row, task), found.cell(row, task)
            assert (first.score, first.se, first.n) == (second.score, second.se, second.n)
            assert second.metrics["n_rows_known"] == 8
            assert first.predicted_shares == second.predicted_shares
    kept = {r.cell.row: r.predictions for r in found.results if r.cell.task == "reviews"}
    before = {r.cell.row: r.predictions for r in shelf.results if r.cell.task == "reviews"}
    assert kept == before


def test_a_cell_whose_rows_are_all_known_costs_nothing(shelf, reviews):
    measure(ScriptedBackend({None: 0, A: 1}), [("a", A)], [reviews], shelf)
    backend = ScriptedBackend({None: 0, A: 1})
    measuring = Measuring(backend, recall=known_rows(shelf, keep=12))
    plan = measuring.plan([(MatrixRow("a"), A)], [reviews])
    assert plan.n_tokens == 0
    assert plan.n_cells == 3
    cells = measuring.run(plan, lambda _: None).cells
    assert [cell.score for cell in cells] == [r.cell.score for r in shelf.results]


def test_answers_that_were_not_kept_are_written_again_where_texts_are_wanted(shelf, sums):
    measure(ScriptedBackend({None: 0}, ["12"]), [], [sums], shelf)
    backend, found = ScriptedBackend({None: 0}, ["12"]), Shelf()
    measure(backend, [], [sums], found, recall=known_rows(shelf), keep_text=True)
    assert "n_rows_known" not in found.cell(BASE_ID, "sums").metrics
    assert all(one.answer == "12" for one in found.results[0].predictions)


def test_a_decision_over_all_rows_is_made_anew_with_the_known_ones(reviews):
    class Leaning(ScriptedBackend):
        """Likes the first label, a little less on every later row."""

        def score_labels(self, prompts, labels, *, progress=None):
            scores = super().score_labels(prompts, labels, progress=progress)
            numbers = np.array([float(prompt.split()[-1]) for prompt in prompts])
            scores.log_likelihood[:, 1] = numbers / 24
            return scores

    backend, whole, joined, half = Leaning({None: 0}), Shelf(), Shelf(), Shelf()
    few = replace(reviews, rows=reviews.rows[:5])
    measure(backend, [], [reviews], whole, decision="unbiased")
    measure(backend, [], [few], half, decision="unbiased")
    measure(backend, [], [reviews], joined, decision="unbiased", recall=known_rows(half, keep=5))
    answers = [one.answer for one in whole.results[0].predictions]
    assert answers == ["positive"] * 6 + ["negative"] * 6
    assert joined.results[0].predictions == whole.results[0].predictions
    assert half.results[0].predictions[4].answer == "negative"  # beside four others only
    cell = joined.results[0].cell
    assert cell.metrics["unbiased_balanced_accuracy"] == cell.score
