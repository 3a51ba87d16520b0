"""Adapt: which LoRA adapter will help on a new task, by how much, and how sure are we."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from adapt_lora.data import read_dataset
    from adapt_lora.evaluator import EvaluationRequest
    from adapt_lora.registry import Registry
    from adapt_lora.roads import RecommendRequest, evaluate, recommend, register, train
    from adapt_lora.trainer import TrainRequest

# Resolved on first use, so that `import adapt_lora` stays as cheap as an empty module.
_HOMES = {
    "EvaluationRequest": "adapt_lora.evaluator",
    "RecommendRequest": "adapt_lora.roads",
    "Registry": "adapt_lora.registry",
    "TrainRequest": "adapt_lora.trainer",
    "evaluate": "adapt_lora.roads",
    "read_dataset": "adapt_lora.data",
    "recommend": "adapt_lora.roads",
    "register": "adapt_lora.roads",
    "train": "adapt_lora.roads",
}

__all__ = [
    "EvaluationRequest",
    "RecommendRequest",
    "Registry",
    "TrainRequest",
    "__version__",
    "evaluate",
    "read_dataset",
    "recommend",
    "register",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
