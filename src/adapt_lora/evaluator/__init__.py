"""Evaluation: adapters × tasks in, cells of the transfer matrix out."""

from adapt_lora.evaluator.backends import Backend, TransformersBackend
from adapt_lora.evaluator.cells import CellResult, Prediction
from adapt_lora.evaluator.comparison import PairedComparison, compare_with_base
from adapt_lora.evaluator.judge import Judge
from adapt_lora.evaluator.matrix import (
    CellFailure,
    MatrixPlan,
    MatrixReport,
    evaluate_matrix,
    measure_tokens_per_s,
    plan_matrix,
)
from adapt_lora.evaluator.metrics import Estimate, LabelDecision
from adapt_lora.evaluator.protocol import Protocol
from adapt_lora.evaluator.sandbox import CodeRunner, Protection, open_runner
from adapt_lora.evaluator.tasks import (
    Grader,
    Task,
    choose_metric,
    make_task,
    metric_key,
    needed_grader,
)

__all__ = [
    "Backend",
    "CellFailure",
    "CellResult",
    "CodeRunner",
    "Estimate",
    "Grader",
    "Judge",
    "LabelDecision",
    "MatrixPlan",
    "MatrixReport",
    "PairedComparison",
    "Prediction",
    "Protection",
    "Protocol",
    "Task",
    "TransformersBackend",
    "choose_metric",
    "compare_with_base",
    "evaluate_matrix",
    "make_task",
    "measure_tokens_per_s",
    "metric_key",
    "needed_grader",
    "open_runner",
    "plan_matrix",
]
