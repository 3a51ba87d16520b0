"""Evaluation: adapters × tasks in, cells of the transfer matrix out."""

from adapt_lora.evaluator.backends import (
    Backend,
    BackendName,
    ServerOptions,
    TransformersBackend,
    open_backend,
)
from adapt_lora.evaluator.cells import CellResult, CellUnit
from adapt_lora.evaluator.comparison import PairedComparison, compare_with_base
from adapt_lora.evaluator.fewshot import Shots, draw_shots
from adapt_lora.evaluator.judge import Judge
from adapt_lora.evaluator.matrix import (
    CellFailure,
    MatrixPlan,
    MatrixReport,
    MeasureElsewhere,
    Pace,
    evaluate_matrix,
    failure_reason,
    measure_pace,
    measure_units,
    plan_matrix,
    run_plan,
    unit_seconds,
)
from adapt_lora.evaluator.metrics import Estimate, LabelDecision
from adapt_lora.evaluator.protocol import Protocol
from adapt_lora.evaluator.sandbox import CodeRunner, Protection, open_runner
from adapt_lora.evaluator.target import PairedGain, TargetBatch, TargetMeter
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
    "BackendName",
    "CellFailure",
    "CellResult",
    "CellUnit",
    "CodeRunner",
    "Estimate",
    "Grader",
    "Judge",
    "LabelDecision",
    "MatrixPlan",
    "MatrixReport",
    "MeasureElsewhere",
    "Pace",
    "PairedComparison",
    "PairedGain",
    "Protection",
    "Protocol",
    "ServerOptions",
    "Shots",
    "TargetBatch",
    "TargetMeter",
    "Task",
    "TransformersBackend",
    "choose_metric",
    "compare_with_base",
    "draw_shots",
    "evaluate_matrix",
    "failure_reason",
    "make_task",
    "measure_pace",
    "measure_units",
    "metric_key",
    "needed_grader",
    "open_backend",
    "open_runner",
    "plan_matrix",
    "run_plan",
    "unit_seconds",
]
