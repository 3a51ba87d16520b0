"""Backends: what can score and write answers with an adapter on, behind one Protocol."""

from adapt_lora.evaluator.backends.protocol import Backend, Progress
from adapt_lora.evaluator.backends.transformers import TransformersBackend

__all__ = ["Backend", "Progress", "TransformersBackend"]
