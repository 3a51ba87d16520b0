"""What an adapter asks of whoever runs it: the one rule for this process, for vLLM and for servers.

What an adapter is, PEFT's `from_pretrained` says. A plain LoRA can be run in other ways and gives
the same; for all else PEFT's own modules stay in the model, and what other engines make of it is
something else. Some adapters are not run at all: no way of scoring them here would be right.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

TENSOR_PREFIX = "base_model.model."
"""What the name of every tensor of a PEFT file begins with."""

EMBEDDING_TENSOR = re.compile(r"\.(embed_tokens|lm_head|wte|embed_in|embed_out|word_embeddings)\.")
"""Found in the name of a tensor that sits on the embeddings or on the head."""

PLAIN_FIELDS = frozenset(
    {
        # About the file, not about what it does.
        "peft_type",
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "runtime_config",
        # Where the factors sit, their rank and their scale: the product of the two is all there is.
        "r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        # PEFT puts it right by the layer that it finds.
        "fan_in_fan_out",
        # Dropout acts in training alone, and so do the settings of an initialisation.
        "lora_dropout",
        "init_lora_weights",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "qalora_group_size",
        "megatron_core",
    }
)
"""Fields of PEFT's LoraConfig that leave an adapter a plain LoRA, or are read by value below."""

PEFT_ONLY_FIELDS = frozenset(
    {
        "use_dora",
        "bias",
        "lora_bias",
        "modules_to_save",
        "trainable_token_indices",
        "target_parameters",
        "ensure_weight_tying",
        "velora_config",
        "monteclora_config",
    }
)
"""Fields that, when set, leave the adapter to PEFT's own modules."""

REFUSED_FIELDS: Mapping[str, str] = {
    "alora_invocation_tokens": (
        "it is an Activated LoRA, which acts only after its invocation tokens, and the prompts "
        "that are scored here do not hold them"
    ),
    "arrow_config": (
        "it is a router over other adapters, which are not part of it: register those instead"
    ),
    "layer_replication": "it stacks the base's layers anew, so it sits on another model",
    "use_qalora": "it is made for a base quantised by GPTQ, and bases are held unquantised here",
    "use_bdlora": "its block-diagonal factors are not read here",
    "kasa_config": "it cuts singular values out of the base's weights",
    "megatron_config": "it is made for Megatron's parallel layers",
    # Names that releases before PEFT's own Activated LoRA used.
    "alora_invocation_string": "it is an Activated LoRA, which acts only after its invocation text",
    "invocation_string": "it is an Activated LoRA, which acts only after its invocation text",
}
"""Fields that, when set, make an adapter one that is not scored, and why."""

KNOWN_FIELDS = PLAIN_FIELDS | PEFT_ONLY_FIELDS | frozenset(REFUSED_FIELDS)

_NEEDED_SETTINGS = (
    (re.compile(r"\.trainable_tokens_"), "trainable_token_indices"),
    (re.compile(r"\.lora_magnitude_vector\b"), "use_dora"),
    (re.compile(r"\.lora_(embedding_)?B(\.default)?\.bias$"), "lora_bias"),
    (re.compile(r"\.lora_velora_"), "velora_config"),
    (re.compile(r"\.lora_monteclora_"), "monteclora_config"),
)

_TASKS = {
    "SEQ_CLS": "it classifies by a head of its own",
    "TOKEN_CLS": "it classifies tokens by a head of its own",
    "QUESTION_ANS": "it marks spans of a text by a head of its own",
    "FEATURE_EXTRACTION": "it makes embeddings, with a decoder that has no head",
    "SEQ_2_SEQ_LM": "it sits on an encoder-decoder model",
}
_CONVERT = (
    "save it once more with save_pretrained(…, path_initial_model_for_weight_conversion=…), "
    "which makes it a plain LoRA"
)
_INITS = {
    "pissa_niter": f"PEFT takes it apart by chance anew at each loading; {_CONVERT}",
    "corda": f"the data that it was made from is needed to load it; {_CONVERT}",
    "loftq": "it sits on a base quantised by LoftQ, and bases are held unquantised here",
}
# PEFT takes these factors off the base's weights when it loads them.
_BASE_CHANGING_INITS = ("pissa", "olora")


@dataclass(frozen=True, slots=True)
class LoraFeatures:
    """What in a config and in the names of its tensors decides how an adapter is run."""

    refusal: str | None
    """Why it is not scored, led by the field's name; None for all that is."""
    peft_only: tuple[str, ...]
    """Fields and tensors that only PEFT's own modules compute; empty for a plain LoRA."""
    unknown: Mapping[str, Any]
    """Settings of the config, not empty, that no PEFT known here has."""

    @property
    def rewrites_base(self) -> bool:
        """Whether PEFT changes the weights under the factors on loading."""
        return any(name.startswith("init_lora_weights=") for name in self.peft_only)


def read_features(config: Mapping[str, Any], tensors: Collection[str]) -> LoraFeatures:
    """Sort what an adapter asks for.

    Args:
        config: adapter_config.json.
        tensors: Names of the tensors in its weights file.
    """
    init = str(config.get("init_lora_weights") or "").lower()
    kinds = [kind for kind in _INITS if init.startswith(kind)]
    task = str(config.get("task_type") or "")
    refusals = [
        *(f"{name}: {reason}" for name, reason in REFUSED_FIELDS.items() if config.get(name)),
        *(f"task_type {task}: {reason}" for name, reason in _TASKS.items() if name == task),
        *(f"init_lora_weights={init}: {_INITS[kind]}" for kind in kinds),
    ]
    peft_only = [
        f"bias={config['bias']}" if name == "bias" else name
        for name in sorted(PEFT_ONLY_FIELDS | set(REFUSED_FIELDS))
        if config.get(name) and config[name] != "none"
    ]
    if init.startswith((*_BASE_CHANGING_INITS, *_INITS)):
        peft_only.append(f"init_lora_weights={config['init_lora_weights']}")
    if not config.get("modules_to_save") and any(
        EMBEDDING_TENSOR.search(name) and not is_adapters_own(name) for name in tensors
    ):
        peft_only.append("embedding weights")
    return LoraFeatures(
        refusal=refusals[0] if refusals else None,
        peft_only=tuple(peft_only),
        unknown={
            name: value for name, value in config.items() if value and name not in KNOWN_FIELDS
        },
    )


def is_adapters_own(tensor: str) -> bool:
    """Whether a tensor is the adapter's own, rather than standing for a weight of the base."""
    return ".lora_" in tensor or ".trainable_tokens_" in tensor


def missing_setting(tensor: str, config: Mapping[str, Any]) -> str | None:
    """Which setting gives a tensor its place, where the config lacks it; None where it does not."""
    for pattern, name in _NEEDED_SETTINGS:
        if pattern.search(tensor) and not config.get(name):
            return f"the config does not set {name}, which this tensor needs"
    return None


def module_of(tensor: str) -> str:
    """The base's module that a tensor sits on, e.g. "model.layers.0.self_attn.q_proj"."""
    name = tensor.removeprefix(TENSOR_PREFIX)
    module, *own = re.split(r"\.(?:lora_|token_adapter\.)", name, maxsplit=1)
    return (module if own else name.rpartition(".")[0]).replace(".base_layer", "")
