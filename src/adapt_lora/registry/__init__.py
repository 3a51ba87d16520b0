"""The registry: adapters, their fingerprints and their measured cells, kept in MLflow."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapt_lora.registry.adapter import Adapter, check_fits, copy_adapter, read_adapter
    from adapt_lora.registry.exchange.hub import fetch_adapter, push_adapter
    from adapt_lora.registry.fingerprint.weights import fingerprint_weights
    from adapt_lora.registry.identity import compare_bases
    from adapt_lora.registry.records import (
        AdapterRecord,
        Cell,
        DatasetRecord,
        Fingerprint,
        StepRecord,
        TaskRecord,
        TransferMatrix,
    )
    from adapt_lora.registry.store import Registry
    from adapt_lora.registry.ui import serve_ui

# Resolved on first use: what only reads records pays for no reader of weights and no store.
_HOMES = {
    "Adapter": "adapter",
    "AdapterRecord": "records",
    "Cell": "records",
    "DatasetRecord": "records",
    "Fingerprint": "records",
    "Registry": "store",
    "StepRecord": "records",
    "TaskRecord": "records",
    "TransferMatrix": "records",
    "check_fits": "adapter",
    "compare_bases": "identity",
    "copy_adapter": "adapter",
    "fetch_adapter": "exchange.hub",
    "fingerprint_weights": "fingerprint.weights",
    "push_adapter": "exchange.hub",
    "read_adapter": "adapter",
    "serve_ui": "ui",
}

__all__ = [
    "Adapter",
    "AdapterRecord",
    "Cell",
    "DatasetRecord",
    "Fingerprint",
    "Registry",
    "StepRecord",
    "TaskRecord",
    "TransferMatrix",
    "check_fits",
    "compare_bases",
    "copy_adapter",
    "fetch_adapter",
    "fingerprint_weights",
    "push_adapter",
    "read_adapter",
    "serve_ui",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
