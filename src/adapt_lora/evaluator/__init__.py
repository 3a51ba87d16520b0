"""Evaluation: adapters × tasks in, cells of the transfer matrix out."""

from adapt_lora.evaluator.backends import Backend, TransformersBackend
from adapt_lora.evaluator.cells import CellResult, Prediction
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
from adapt_lora.evaluator.tasks import Task, choose_metric, make_task

__all__ = [
    "Backend",
    "CellFailure",
    "CellResult",
    "Estimate",
    "LabelDecision",
    "MatrixPlan",
    "MatrixReport",
    "Prediction",
    "Protocol",
    "Task",
    "TransformersBackend",
    "choose_metric",
    "evaluate_matrix",
    "make_task",
    "measure_tokens_per_s",
    "plan_matrix",
]
