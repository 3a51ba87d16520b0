"""Names of tensors that have no place in a PEFT file, and why."""

import re
from collections.abc import Mapping
from typing import Any

from adapt_lora.model.lora_features import (
    EMBEDDING_TENSOR,
    TENSOR_PREFIX,
    missing_setting,
    module_of,
)

_NAMED_LORA_KEY = re.compile(r"\.lora_(embedding_)?[AB]\.(?!weight$|bias$)\w+(\.weight)?$")
_SIDE_KEY = re.compile(
    r"\.(lora_magnitude_vector(\.weight)?|lora_B\.bias|lora_velora_embed|"
    r"lora_monteclora_sampler\..+)$"
)
# Names that other tools put in, and what to do about each.
_FOREIGN_KEYS = (
    (
        re.compile(r"(^|\.)_orig_mod\."),
        "it carries _orig_mod, as torch.compile leaves it, so PEFT would skip it in silence; save "
        "the adapter from the model that was compiled, or take _orig_mod. out of the names",
    ),
    (
        re.compile(
            r"(^|\.)(_fsdp_wrapped_module|_checkpoint_wrapped_module)\.|"
            r"^(base_model\.model\.)?module\."
        ),
        "it carries the name of a wrapper (FSDP, DeepSpeed, DataParallel), so PEFT would skip it "
        "in silence; save the adapter from the model inside",
    ),
    (
        re.compile(r"(^|\.)(score|classifier|qa_outputs|v_head)(\.|$)"),
        "it is the head of a classifier or a reward model, which a causal language model lacks; "
        "what is scored here is the answers of one",
    ),
    (
        re.compile(r"\.lora_[ab]$"),
        "it is named as MLX names them, so PEFT would skip it in silence; convert it to PEFT's "
        "names and shapes",
    ),
    (
        re.compile(r"(^lora_(unet|te)|\.lora_(up|down)\.)"),
        "it is named as tools for image models name them; PEFT would skip it in silence",
    ),
)


def foreign_name(key: str) -> str | None:
    """Which other tool gave a tensor its name, and what to do about it; None where none did."""
    return next((reason for pattern, reason in _FOREIGN_KEYS if pattern.search(key)), None)


def stray_name(key: str, config: Mapping[str, Any]) -> str | None:
    """Why a tensor that is no LoRA factor has no place in a PEFT file; None where it has one."""
    if _NAMED_LORA_KEY.search(key):
        return (
            "it carries the adapter's name inside, so PEFT would skip it in silence; "
            "save the adapter with save_pretrained"
        )
    if not key.startswith(TENSOR_PREFIX):
        return (
            f"names start with {TENSOR_PREFIX!r} in a PEFT file, so PEFT would skip it in silence"
        )
    missing = missing_setting(key, config)
    if missing is not None:
        return f"{missing}, so PEFT would skip it in silence"
    if _SIDE_KEY.search(key) or EMBEDDING_TENSOR.search(key):
        return None
    if config.get("bias", "none") != "none" and key.endswith(".bias"):
        return None
    # PEFT's rule: a name of modules_to_save is the end of a module's name.
    parts = module_of(key).split(".")
    modules = [".".join(parts[: n + 1]) for n in range(len(parts))]
    saved = config.get("modules_to_save") or ()
    if any(module.endswith(name) for module in modules for name in saved):
        return None
    if key.endswith(".bias"):
        return "it is a bias, and the config's bias is neither all nor lora_only"
    return "it is neither a LoRA factor nor of a module that modules_to_save names"
