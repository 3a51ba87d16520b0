"""Evaluation: adapters × tasks in, cells of the transfer matrix out."""

from adapt_lora.evaluator.backends import Backend, TransformersBackend, open_backend
from adapt_lora.evaluator.cells import (
    EVERY,
    EVERY_ROW,
    CellFailure,
    CellResult,
    CellUnit,
)
from adapt_lora.evaluator.comparison import PairedComparison, compare_with_base
from adapt_lora.evaluator.fewshot import Shots, draw_shots
from adapt_lora.evaluator.grading import Grader, code_protection, make_graders
from adapt_lora.evaluator.judge import Judge
from adapt_lora.evaluator.measuring import MatrixReport, Measuring
from adapt_lora.evaluator.metrics import Estimate, LabelDecision
from adapt_lora.evaluator.plan import MatrixPlan, Pace, TimeSpan, measure_pace
from adapt_lora.evaluator.protocol import Protocol
from adapt_lora.evaluator.request import (
    BackendName,
    EvaluationRequest,
    Grading,
    ServerOptions,
)
from adapt_lora.evaluator.sandbox import CodeRunner, Protection, open_runner
from adapt_lora.evaluator.sources import ReadTask, ReadTasks, read_tasks
from adapt_lora.evaluator.target import PairedGain, TargetBatch, TargetMeter
from adapt_lora.evaluator.tasks import LABEL_METRICS, Task, choose_metric, make_task, metric_key
from adapt_lora.evaluator.workers import measure_on_cluster

__all__ = [
    "EVERY",
    "EVERY_ROW",
    "LABEL_METRICS",
    "Backend",
    "BackendName",
    "CellFailure",
    "CellResult",
    "CellUnit",
    "CodeRunner",
    "Estimate",
    "EvaluationRequest",
    "Grader",
    "Grading",
    "Judge",
    "LabelDecision",
    "MatrixPlan",
    "MatrixReport",
    "Measuring",
    "Pace",
    "PairedComparison",
    "PairedGain",
    "Protection",
    "Protocol",
    "ReadTask",
    "ReadTasks",
    "ServerOptions",
    "Shots",
    "TargetBatch",
    "TargetMeter",
    "Task",
    "TimeSpan",
    "TransformersBackend",
    "choose_metric",
    "code_protection",
    "compare_with_base",
    "draw_shots",
    "make_graders",
    "make_task",
    "measure_on_cluster",
    "measure_pace",
    "metric_key",
    "open_backend",
    "open_runner",
    "read_tasks",
]
