"""Training: rows and a recipe in, a plain PEFT folder out."""

from adapt_lora.trainer.loop import StepMetrics, TrainingResult, train_adapter
from adapt_lora.trainer.recipe import RECIPES, Recipe, find_recipe, override_recipe

__all__ = [
    "RECIPES",
    "Recipe",
    "StepMetrics",
    "TrainingResult",
    "find_recipe",
    "override_recipe",
    "train_adapter",
]
