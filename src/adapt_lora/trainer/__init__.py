"""Training: rows and a recipe in, a plain PEFT folder out."""

from adapt_lora.trainer.loop import train_adapter
from adapt_lora.trainer.processes import Processes, join_processes
from adapt_lora.trainer.recipe import (
    RECIPES,
    Recipe,
    find_recipe,
    override_recipe,
    read_recipe,
    recipe_from_params,
)
from adapt_lora.trainer.records import EpochRecord, StepMetrics, TrainingResult
from adapt_lora.trainer.request import TrainRequest
from adapt_lora.trainer.workshop import Workshop, open_workshop

__all__ = [
    "RECIPES",
    "EpochRecord",
    "Processes",
    "Recipe",
    "StepMetrics",
    "TrainRequest",
    "TrainingResult",
    "Workshop",
    "find_recipe",
    "join_processes",
    "open_workshop",
    "override_recipe",
    "read_recipe",
    "recipe_from_params",
    "train_adapter",
]
