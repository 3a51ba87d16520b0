"""Which backend measures: asked for by name, or chosen by what this machine has."""

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from adapt_lora.errors import ConfigError
from adapt_lora.evaluator.backends.interface import Backend
from adapt_lora.evaluator.backends.transformers import TransformersBackend
from adapt_lora.model.base import BaseModel

BackendName = Literal["auto", "transformers", "vllm", "openai"]

API_KEY_VARIABLE = "ADAPT_SERVER_API_KEY"
"""Environment variable with the key for `--server`; a key on the command line could be read by all
users of the machine."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where an OpenAI-compatible server is, and how to talk to it."""

    url: str
    """http://HOST:PORT, with or without /v1."""
    model: str | None = None
    """Its name for the base model; None where it serves one."""
    concurrency: int = 8
    """Requests under way at once."""
    timeout_s: float = 300.0
    """Seconds that one answer may take."""
    names: Mapping[Path, str] = field(default_factory=dict)
    """Names under which it may serve adapters already, by folder."""


@contextmanager
def open_backend(
    name: BackendName,
    base: BaseModel,
    adapters: Sequence[Path] = (),
    *,
    server: ServerOptions | None = None,
    say: Callable[[str], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Iterator[Backend]:
    """A backend for the duration of a `with` block.

    Args:
        name: Which one; "auto" takes vLLM where there are a GPU and vLLM, else transformers.
        base: The loaded base model.
        adapters: Folders that will be put on.
        server: Needed for "openai", and for nothing else.
        say: Told which backend "auto" took, and what server answers.
        warn: Told what is not measured as asked, as it arises.

    Raises:
        ConfigError: `name` and `server` do not go together.
        ServerError: The server can't be used.
    """
    if (name == "openai") != (server is not None):
        raise ConfigError(
            "--backend openai needs --server http://HOST:PORT."
            if server is None
            else f"--server is for --backend openai, not for --backend {name}."
        )
    chosen = _choose(base, say) if name == "auto" else name
    if chosen == "vllm":
        from adapt_lora.evaluator.backends.vllm import VllmBackend

        with VllmBackend(base, adapters, warn=warn) as engine:
            yield engine
    elif server is not None:
        from adapt_lora.evaluator.backends.endpoint import Endpoint, Patience
        from adapt_lora.evaluator.backends.openai import OpenAIBackend

        endpoint = Endpoint(
            server.url,
            api_key=os.environ.get(API_KEY_VARIABLE),
            concurrency=server.concurrency,
            patience=Patience(timeout_s=server.timeout_s),
        )
        with OpenAIBackend(base, endpoint, model=server.model, names=server.names) as remote:
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
