"""Training: rows and a recipe in, a plain PEFT folder out."""

from adapt_lora.trainer.checkpoint import read_checkpoint, remove_folder
from adapt_lora.trainer.loop import train_adapter, training_key
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

__all__ = [
    "RECIPES",
    "EpochRecord",
    "Processes",
    "Recipe",
    "StepMetrics",
    "TrainingResult",
    "find_recipe",
    "join_processes",
    "override_recipe",
    "read_checkpoint",
    "read_recipe",
    "recipe_from_params",
    "remove_folder",
    "train_adapter",
    "training_key",
]
