"""Adapters as an inference server knows them: by a name of their content, or refused."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapt_lora.errors import AdapterError
from adapt_lora.registry.adapter import Adapter, read_adapter

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that an engine can be started for (vllm.config.lora, 0.32)."""

# vLLM leaves an adapter's part of the head and of the embeddings out of prompt log-probabilities,
# so these adapters would be scored as something they are not.
_EDGE_MODULES = frozenset({"lm_head", "embed_tokens", "wte", "embed_in", "embed_out"})


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """One adapter under the name that an engine or a server keeps it by."""

    name: str
    """"<slug>-<first 8 hex digits of its content>": other content never has the same name."""
    folder: Path
    """Where its files are; never written to while it is served."""
    rank: int
    """Largest rank of any module."""
    modules: frozenset[str]
    """Last parts of the names of the modules that it changes, e.g. "q_proj"."""
    refusal: str | None
    """Why vLLM can't put it on, or None."""


def describe_served(folder: Path) -> ServedAdapter:
    """Read an adapter's files and say how vLLM takes them.

    Raises:
        AdapterError: The files are broken or unsafe.
    """
    adapter = read_adapter(folder)
    return ServedAdapter(
        name=served_name(folder.name, adapter.adapter_id),
        folder=folder.resolve(),
        rank=adapter.rank,
        modules=_modules(adapter),
        refusal=_refusal(adapter),
    )


def served_name(label: str, adapter_id: str) -> str:
    """Name for an engine or server, which tells adapters apart by name alone.

    Args:
        label: A name for people; what is not a letter, digit or dash becomes a dash.
        adapter_id: sha256 (hex) of the content.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", label.lower())[:32].strip("-") or "adapter"
    return f"{slug}-{adapter_id[:8]}"


def round_rank(rank: int) -> int:
    """The smallest rank that vLLM can be started for and that holds this one.

    Raises:
        AdapterError: vLLM takes none so large.
    """
    for accepted in VLLM_RANKS:
        if rank <= accepted:
            return accepted
    raise AdapterError(f"Rank {rank} is above {VLLM_RANKS[-1]}, the largest that vLLM takes.")


def lora_modules(adapters: Iterable[ServedAdapter]) -> list[str]:
    """Modules that at least one of the adapters changes, sorted."""
    return sorted({module for adapter in adapters for module in adapter.modules})


def servable(adapters: Sequence[ServedAdapter]) -> list[ServedAdapter]:
    """Those of the adapters that vLLM takes."""
    return [adapter for adapter in adapters if adapter.refusal is None]


def _modules(adapter: Adapter) -> frozenset[str]:
    return frozenset(pair.module.rsplit(".", 1)[-1] for pair in adapter.pairs)


def _refusal(adapter: Adapter) -> str | None:
    verdict = adapter.tags["vllm"]
    if verdict != "supported":
        return verdict.removeprefix("unsupported: ")
    if adapter.rank > VLLM_RANKS[-1]:
        return f"rank {adapter.rank}, and {VLLM_RANKS[-1]} is the largest that it takes"
    edges = sorted(_modules(adapter) & _EDGE_MODULES)
    return f"a part on {', '.join(edges)}" if edges else None
