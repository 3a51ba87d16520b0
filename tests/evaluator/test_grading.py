"""What grades answers that a reference alone can't grade."""

import pytest

from adapt_lora.errors import TaskError
from adapt_lora.evaluator import Grading, Judge, code_protection, make_graders, make_task
from adapt_lora.evaluator.grading import needed_grader
from tests.evaluator.scripted import HalfGrader

JUDGED = Grading(judge_url="http://127.0.0.1:9/v1", judge_model="m")


@pytest.fixture
def essays(make_dataset):
    return make_task(make_dataset("essays", ["a"], labels=()), metric="judge_accuracy")


def test_only_what_a_task_needs_is_made(essays, reviews):
    assert make_graders(JUDGED, [reviews]) == {}
    graders = make_graders(JUDGED, [reviews, essays])
    assert list(graders) == ["judge_accuracy"]
    assert isinstance(graders["judge_accuracy"], Judge)
    assert make_graders(Grading(), [essays]) == {}
    assert code_protection(graders) is None


def test_a_task_is_graded_by_its_metrics_grader_or_by_its_references(essays, reviews):
    grader = HalfGrader()
    assert needed_grader(essays, {"judge_accuracy": grader}) is grader
    assert needed_grader(reviews, {"judge_accuracy": grader}) is None
    with pytest.raises(TaskError, match="essays: judge_accuracy asks a judging model"):
        needed_grader(essays, {"pass_at_1": grader})
