"""Backends: what can score and write answers with an adapter on, behind one interface.

The vLLM and server backends are imported from their modules, so that nothing heavy comes along.
"""

from adapt_lora.evaluator.backends.choice import open_backend
from adapt_lora.evaluator.backends.interface import Backend, MixingBackend
from adapt_lora.evaluator.backends.transformers import TransformersBackend

__all__ = [
    "Backend",
    "MixingBackend",
    "TransformersBackend",
    "open_backend",
]
