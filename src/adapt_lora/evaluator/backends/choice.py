"""Which backend measures: asked for by name, or chosen by what this machine has."""

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from adapt_lora.evaluator.backends.interface import Backend
from adapt_lora.evaluator.backends.transformers import TransformersBackend
from adapt_lora.evaluator.request import EvaluationRequest
from adapt_lora.model.base import BaseModel

API_KEY_VARIABLE = "ADAPT_SERVER_API_KEY"
"""Environment variable with the key for `--server`; a key on the command line could be read by all
users of the machine."""


@contextmanager
def open_backend(
    request: EvaluationRequest,
    base: BaseModel,
    adapters: Mapping[Path, str],
    *,
    say: Callable[[str], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Iterator[Backend]:
    """The backend that a request asks for, for the duration of a `with` block.

    Args:
        request: Names it. "auto" takes vLLM where there are a GPU and vLLM, else transformers; the
            workers of a cluster measure with transformers.
        base: The loaded base model.
        adapters: Folders that will be put on, and the names under which a server may serve them
            already.
        say: Told which backend "auto" took, and what server answers.
        warn: Told what is not measured as asked, as it arises.

    Raises:
        ServerError: The server can't be used.
    """
    name = "transformers" if request.ray_address is not None else request.backend
    chosen = _choose(base, say) if name == "auto" else name
    if chosen == "vllm":
        from adapt_lora.evaluator.backends.vllm import VllmBackend

        with VllmBackend(base, list(adapters), warn=warn) as engine:
            yield engine
    elif request.server is not None:
        from adapt_lora.evaluator.backends.endpoint import Endpoint, Patience
        from adapt_lora.evaluator.backends.openai import OpenAIBackend

        server = request.server
        endpoint = Endpoint(
            server.url,
            api_key=os.environ.get(API_KEY_VARIABLE),
            concurrency=server.concurrency,
            patience=Patience(timeout_s=server.timeout_s),
        )
        with OpenAIBackend(base, endpoint, model=server.model, names=adapters, warn=warn) as remote:
            if say is not None:
                say(f"Scores come from {remote.model} at {endpoint.url} ({remote.family}).")
            yield remote
    else:
        yield TransformersBackend(base)


def _choose(base: BaseModel, say: Callable[[str], None] | None) -> Literal["transformers", "vllm"]:
    on_gpu = str(base.device).startswith("cuda")
    has_vllm = importlib.util.find_spec("vllm") is not None
    chosen: Literal["transformers", "vllm"] = "vllm" if on_gpu and has_vllm else "transformers"
    if say is not None:
        why = "vLLM is the faster one on a GPU only"
        if on_gpu:
            why = "--backend transformers for the other"
            if not has_vllm:
                why = "pip install 'adapt-lora[vllm]' for a faster one"
        say(f"Backend: {chosen} on {base.device} ({why}).")
    return chosen
