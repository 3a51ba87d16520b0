"""Grading of written answers that a reference alone can't grade: by unit tests, or by a judge."""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from adapt_lora.data import Row
from adapt_lora.errors import TaskError
from adapt_lora.evaluator.judge import Judge
from adapt_lora.evaluator.request import Grading
from adapt_lora.evaluator.sandbox import CodeRunner, open_runner
from adapt_lora.evaluator.tasks import GRADED_METRICS, Task
from adapt_lora.model.base import cache_dir
from adapt_lora.model.scoring import Steps


class Grader(Protocol):
    """What grades written answers where a reference alone can't."""

    def protocol_key(self, rows: Sequence[Row]) -> str:
        """All that decides a grade besides the answer; part of the protocol's digest."""
        ...

    def grade(
        self,
        rows: Sequence[Row],
        answers: Sequence[str],
        *,
        progress: Steps | None = None,
    ) -> list[float | None]:
        """A grade in [0, 1] per answer; None for an answer that could not be graded."""
        ...


def check_gradable(task: Task, offered: Collection[str]) -> None:
    """Refuse a task whose metric needs a grader that is not among those offered.

    Raises:
        TaskError: There is none, and how to have one.
    """
    metric = task.record.metric
    if metric not in GRADED_METRICS or metric in offered:
        return
    how = (
        "runs code that the model writes, which is off; allow it with --allow-code-execution"
        if metric == "pass_at_1"
        else "asks a judging model; name it with --judge-url and --judge-model"
    )
    named = "pass@1" if metric == "pass_at_1" else metric
    raise TaskError(f"{task.record.name}: {named} {how}, or choose another metric with --metric.")


def needed_grader(task: Task, graders: Mapping[str, Grader]) -> Grader | None:
    """What grades the task's answers; None where their references do.

    Raises:
        TaskError: The metric needs a grader and there is none.
    """
    check_gradable(task, graders)
    return graders.get(task.record.metric)


def make_graders(grading: Grading, tasks: Sequence[Task]) -> dict[str, Grader]:
    """What grades answers by more than their reference, by metric, where one of the tasks needs it.

    Raises:
        CodeExecutionError: Code can't be run here behind enough protection.
    """
    metrics = {task.record.metric for task in tasks}
    graders: dict[str, Grader] = {}
    if "judge_accuracy" in metrics and grading.judge_url and grading.judge_model:
        graders["judge_accuracy"] = Judge(
            grading.judge_url,
            grading.judge_model,
            cache_dir() / "judge" / "verdicts.sqlite",
            api_key=os.environ.get("ADAPT_JUDGE_API_KEY") or os.environ.get("OPENAI_API_KEY"),
        )
    if "pass_at_1" in metrics and grading.allow_code_execution:
        graders["pass_at_1"] = open_runner(accept_weak=grading.accept_weak_sandbox)
    return graders


def code_protection(graders: Mapping[str, Grader]) -> str | None:
    """What stands between this machine and code that a model wrote; None where none is run."""
    runner = graders.get("pass_at_1")
    return runner.protection.describe() if isinstance(runner, CodeRunner) else None
