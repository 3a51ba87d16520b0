"""The roads of Adapt as plain functions: register, train, evaluate, fit traits, recommend.

The command line and Python callers walk the same roads. Here, and only here, the rooms meet: what
is trained gets registered, what is registered gets measured, what is measured ranks the next task.
"""

from adapt_lora.results import (
    Evaluation,
    EvaluationPlan,
    Import,
    PlannedCell,
    TargetRanking,
    Training,
)
from adapt_lora.roads.bases import other_matrices, which_base
from adapt_lora.roads.evaluation import evaluate, plan_evaluation
from adapt_lora.roads.exchange import export_registry, import_results, pull
from adapt_lora.roads.progress import Progress
from adapt_lora.roads.recommendation import RecommendRequest, keep_recommendation, recommend
from adapt_lora.roads.registration import check_registered, register
from adapt_lora.roads.training import find_training, stored_recipe, train
from adapt_lora.roads.trait_scores import write_traits

__all__ = [
    "Evaluation",
    "EvaluationPlan",
    "Import",
    "PlannedCell",
    "Progress",
    "RecommendRequest",
    "TargetRanking",
    "Training",
    "check_registered",
    "evaluate",
    "export_registry",
    "find_training",
    "import_results",
    "keep_recommendation",
    "other_matrices",
    "plan_evaluation",
    "pull",
    "recommend",
    "register",
    "stored_recipe",
    "train",
    "which_base",
    "write_traits",
]
