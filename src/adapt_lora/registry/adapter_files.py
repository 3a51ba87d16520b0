"""The files of an adapter's folder: which there are, and what else the folder may be."""

import json
import math
import re
from pathlib import Path
from typing import Any

from adapt_lora.data.files.content import find_pointer
from adapt_lora.errors import AdapterError
from adapt_lora.registry.adapter_settings import check_settings

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_SHARD = re.compile(r"adapter_model-\d+-of-\d+\.(safetensors|bin)$|^__\d+_\d+\.distcp$")


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json, once its values are such as PEFT writes.

    Raises:
        AdapterError: There is none, or it is not that of a LoRA.
    """
    if not folder.exists():
        raise AdapterError(f"{folder}: no such folder.")
    if not folder.is_dir():
        raise AdapterError(f"{folder}: this is a file; give the adapter's folder.")
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise AdapterError(
            f"{folder}: no {CONFIG_FILE}; this is not a PEFT adapter.{_instead(folder)}"
        )
    config = _read_object(path)
    if "peft_type" not in config and ("lora_parameters" in config or "fine_tune_type" in config):
        raise AdapterError(
            f"{path}: this is an adapter of MLX (mlx_lm), which PEFT can't load. Train it with "
            "PEFT, or convert its tensors to PEFT's names and save it with an adapter_config.json "
            "of PEFT."
        )
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{path}: peft_type is {kind!r}; only LORA adapters are registered.")
    rank = config.get("r")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank <= 0:
        raise AdapterError(f"{path}: r is {rank!r}; a LoRA needs a whole rank above zero.")
    alpha = config.get("lora_alpha", 8)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise AdapterError(f"{path}: lora_alpha is {alpha!r}; it must be a number.")
    check_settings(config, path)
    return config


def find_weights(folder: Path) -> Path:
    """The weights file, once it can be one.

    Raises:
        AdapterError: There is none, or something that only stands for it.
    """
    path = folder / WEIGHTS_FILE
    if path.is_file():
        with path.open("rb") as stream:
            pointer = find_pointer(stream.read(1024))
        if pointer is not None:
            raise AdapterError(f"{path} is {pointer.describe('the weights')}")
        return path
    if path.is_symlink():
        raise AdapterError(
            f"{path} points to a file that is not there ({path.readlink()}). Fetch it again."
        )
    names = sorted(child.name for child in folder.rglob("*") if child.is_file())
    if any(_SHARD.search(name) for name in names):
        raise AdapterError(
            f"{folder}: the weights lie in several shards, as FSDP or DeepSpeed leaves them, and "
            f"PEFT loads one file. Gather them and save the adapter once more with "
            f"save_pretrained, which writes {WEIGHTS_FILE}."
        )
    if "adapter_model.bin" in names:
        raise AdapterError(
            f"{folder}: the weights are a pickle (adapter_model.bin), which can run code when "
            "loaded. Load it with PEFT where you trust it and save it again with save_pretrained, "
            f"which writes {WEIGHTS_FILE}."
        )
    others = [name for name in names if name.endswith((".safetensors", ".gguf", ".npz"))]
    found = f" (found: {', '.join(others[:3])})" if others else ""
    raise AdapterError(f"{folder}: no {WEIGHTS_FILE}{found}; this is not a complete PEFT adapter.")


def _read_object(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    pointer = find_pointer(content)
    if pointer is not None:
        raise AdapterError(f"{path} is {pointer.describe('the settings')}")
    try:
        config = json.loads(content.decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AdapterError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{path}: holds a {type(config).__name__}, not an object.")
    return config


def _instead(folder: Path) -> str:
    """What the folder seems to be, or where the adapter may lie."""
    inner = sorted(child.parent.name for child in folder.glob(f"*/{CONFIG_FILE}"))
    if inner:
        return f" There is one in {', '.join(inner[:3])}: give that folder."
    names = {child.name for child in folder.iterdir()}
    if names & {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"}:
        return (
            " It holds a whole model, perhaps one that an adapter was merged into: register the "
            "adapter itself."
        )
    if any(name.endswith(".gguf") for name in names):
        return " It holds GGUF files: register the PEFT folder that they were converted from."
    if "pytorch_lora_weights.safetensors" in names:
        return " It holds a LoRA of diffusers, for an image model."
    return ""
