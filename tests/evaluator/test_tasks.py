from dataclasses import replace

import pytest

from adapt_lora.errors import TaskError
from adapt_lora.evaluator import choose_metric, make_task
from adapt_lora.evaluator.grading import needed_grader


@pytest.mark.parametrize(
    ("responses", "metric"),
    [
        (["12", "-3.5", "$1,000"], "numeric_match"),
        (["Paris", "New York City"], "exact_match"),
        (["3338 R 46", "17"], "exact_match"),
        (["a long explanation of why the film was good", "x"], "answer_log_likelihood"),
        (["one\ntwo"], "answer_log_likelihood"),
    ],
)
def test_the_metric_of_free_answers_follows_their_shape(make_dataset, responses, metric):
    dataset = make_dataset(responses=responses, labels=())
    assert choose_metric(dataset) == metric
    assert make_task(dataset).record.metric == metric


def test_rows_with_unit_tests_are_judged_by_pass_at_1(make_dataset):
    dataset = make_dataset(responses=["def f(): return 1"], labels=())
    tested = replace(dataset, rows=[replace(row, tests=("assert f()",)) for row in dataset.rows])
    assert make_task(tested).record.metric == "pass_at_1"
    assert make_task(tested, metric="pass@1").record.metric == "pass_at_1"
    with pytest.raises(TaskError, match=r"12 of 12 rows have none \(first: line 1\)"):
        make_task(dataset, metric="pass@1")


@pytest.mark.parametrize(
    ("metric", "words"),
    [("pass@1", "off; allow it with --allow-code-execution"), ("judge_accuracy", "--judge-url")],
)
def test_a_metric_that_needs_leave_says_how_to_give_it(make_dataset, metric, words):
    dataset = make_dataset(responses=["def f(): return 1"], labels=())
    rows = [replace(row, tests=("assert f()",)) for row in dataset.rows]
    task = make_task(replace(dataset, rows=rows), metric=metric)
    assert task.is_generated
    with pytest.raises(TaskError, match=words):
        needed_grader(task, {})


def test_labelled_rows_are_judged_by_balanced_accuracy(make_dataset):
    task = make_task(make_dataset())
    assert task.record.metric == "balanced_accuracy"
    assert task.record.labels == ("positive", "negative")
    assert task.record.family == "sentiment"
    assert task.gold == [1, 0, 0] * 4
    assert task.is_label_task
    assert not task.is_generated


def test_the_datasets_own_metric_goes_before_the_guess_and_an_asked_one_before_both(make_dataset):
    dataset = make_dataset(metric="macro_f1")
    assert make_task(dataset).record.metric == "macro_f1"
    asked = make_task(dataset, metric="answer_log_likelihood")
    assert asked.record.metric == "answer_log_likelihood"
    assert asked.record.labels == ()


def test_a_sample_is_drawn_with_the_seed_and_has_its_own_digest(make_dataset):
    dataset = make_dataset()
    whole, one, again, other = (
        make_task(dataset),
        make_task(dataset, max_rows=5, seed=1),
        make_task(dataset, max_rows=5, seed=1),
        make_task(dataset, max_rows=5, seed=2),
    )
    assert one == again
    assert one.rows != other.rows
    assert one.record.dataset.n_rows == len(one.rows) == 5
    assert len({task.record.dataset.digest for task in (whole, one, other)}) == 3


def test_asking_for_more_rows_than_there_are_takes_all(make_dataset):
    assert len(make_task(make_dataset(), max_rows=999).rows) == 12


def test_an_unknown_metric_is_an_error_that_lists_the_known(make_dataset):
    with pytest.raises(TaskError, match=r"no metric 'bleu'.*balanced_accuracy"):
        make_task(make_dataset(), metric="bleu")


def test_a_published_measure_cant_be_measured_here(make_dataset):
    with pytest.raises(TaskError, match="no metric 'published_score'"):
        make_task(make_dataset(), metric="published_score")


def test_a_label_metric_without_labels_is_an_error(make_dataset):
    dataset = make_dataset(responses=["12"], labels=())
    with pytest.raises(TaskError, match=r"12 of 12 rows have no label.*--map label="):
        make_task(dataset, metric="accuracy")


def test_a_single_label_is_an_error(make_dataset):
    with pytest.raises(TaskError, match="only one label"):
        make_task(make_dataset(labels=("yes",)), metric="balanced_accuracy")


def test_an_unlabelled_target_without_responses_is_an_error_that_names_a_line(make_dataset):
    dataset = make_dataset(labels=(), responses=[None])
    with pytest.raises(TaskError, match=r"12 of 12 rows have none \(first: line 1\)"):
        make_task(dataset)


def test_no_rows_and_no_wish_for_rows_are_errors(make_dataset):
    with pytest.raises(TaskError, match="no rows"):
        make_task(replace(make_dataset(), rows=()))
    with pytest.raises(TaskError, match="at least 1"):
        make_task(make_dataset(), max_rows=0)
