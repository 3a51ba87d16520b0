"""Backends: what can score and write answers with an adapter on, behind one Protocol.

The vLLM and server backends are imported from their modules, so that nothing heavy comes along.
"""

from adapt_lora.evaluator.backends.choice import BackendName, ServerOptions, open_backend
from adapt_lora.evaluator.backends.protocol import Backend, MixingBackend, Progress
from adapt_lora.evaluator.backends.transformers import TransformersBackend

__all__ = [
    "Backend",
    "BackendName",
    "MixingBackend",
    "Progress",
    "ServerOptions",
    "TransformersBackend",
    "open_backend",
]
