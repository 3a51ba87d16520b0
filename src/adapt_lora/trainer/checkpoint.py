"""Checkpoints: a training as it stood after a step, so that a killed run can go on.

A checkpoint is a folder of two files, safetensors and JSON, beside the cache and never inside an
adapter. It is written whole under another name first, so a crash while writing costs the newest.
"""

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that a run needs to go on as if it had never stopped."""

    key: str
    """Digest of recipe, rows and base model; another training can't go on from it."""
    step: int
    """Optimiser steps done."""
    tensors: Mapping[str, torch.Tensor]
    """Weights, optimiser state and random state, by name."""
    figures: Mapping[str, Any]
    """What JSON can hold: loss curve, schedule, counters."""


def write_checkpoint(home: Path, checkpoint: Checkpoint) -> None:
    """Write `home/step-N`, then remove the older ones.

    Raises:
        OSError: No room, or no permission; what was there before is still there.
    """
    home.mkdir(parents=True, exist_ok=True)
    scratch = home / f".{uuid.uuid4().hex[:8]}.partial"
    text = {"key": checkpoint.key, "step": checkpoint.step, "figures": checkpoint.figures}
    try:
        scratch.mkdir()
        save_file(dict(checkpoint.tensors), str(scratch / "state.safetensors"))
        (scratch / "state.json").write_text(json.dumps(text), encoding="utf-8")
        place = home / f"step-{checkpoint.step:08d}"
        shutil.rmtree(place, ignore_errors=True)
        scratch.replace(place)
    # safetensors reports a full disk by an error of its own, which is not an OSError.
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for old in home.glob("step-*"):
        if old != place:
            shutil.rmtree(old, ignore_errors=True)


def read_checkpoint(home: Path, key: str) -> Checkpoint | None:
    """The newest checkpoint of this training that can be read; None where there is none."""
    for folder in sorted(home.glob("step-*"), reverse=True):
        try:
            text = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            with safe_open(folder / "state.safetensors", "pt") as stored:
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        # A half-lost file only means an earlier start.
        except (OSError, ValueError, SafetensorError):
            continue
        if text["key"] == key:
            return Checkpoint(key, int(text["step"]), tensors, text["figures"])
    return None


def remove_folder(folder: Path) -> None:
    """Remove a folder of checkpoints or half-done work; no error where there is none."""
    shutil.rmtree(folder, ignore_errors=True)
