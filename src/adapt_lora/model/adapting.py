"""Put a PEFT adapter on a model as PEFT's own loader does, and take it off without a trace."""

import contextlib
import copy
import dataclasses
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import Linear
from peft.tuners.lora.variants import DoraLinearVariant
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors import SafetensorError, safe_open
from transformers.pytorch_utils import Conv1D

from adapt_lora.errors import AdapterError
from adapt_lora.model.lora_features import (
    KNOWN_FIELDS,
    LoraFeatures,
    is_adapters_own,
    missing_setting,
    module_of,
    read_features,
)

# What these leave in a factor that no file fills is drawn by chance, and not zero.
_RANDOM_INITS = (None, False, "orthogonal")


@contextlib.contextmanager
def peft_adapter_on(
    model: Any, folder: Path, *, model_name: str, device: str
) -> Iterator[tuple[str, ...]]:
    """Have an adapter on a model for the duration of a `with` block.

    It is loaded as `PeftModel.from_pretrained` loads it. Then a plain LoRA is merged into float32
    weights, which gives the same and costs what the bare base costs. All else is left to PEFT's own
    modules. On leaving, the original modules and weights are
    back, bit for bit.

    Args:
        model: A transformers causal language model, frozen.
        folder: Holds adapter_config.json and adapter_model.safetensors.
        model_name: Names the model in messages.
        device: Where its weights are.

    Yields:
        Modules that the config targets and the file has no tensors for: they do nothing.

    Raises:
        AdapterError: The adapter is of a kind that is not scored, or PEFT can't load it.
    """
    children = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent._modules.items()
    ]
    parameters = [(module, dict(module._parameters)) for module in model.modules()]
    try:
        yield _load(model, folder, model_name=model_name, device=device)
    finally:
        for parent, name, child in children:
            parent._modules[name] = child
        for module, own in parameters:
            module._parameters.update(own)
        for attribute in ("peft_config", "active_adapter"):
            if attribute in model.__dict__:
                delattr(model, attribute)
        model.requires_grad_(False)


def read_peft_config(folder: Path) -> PeftConfig:
    """adapter_config.json as PEFT takes it; no base model is needed.

    Raises:
        AdapterError: It can't be loaded; the sentence names the fields that are to blame.
    """
    path = folder / "adapter_config.json"
    try:
        written = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path}: can't be read as JSON ({_reason(error)[:200]}).") from error
    make: Any = PeftConfig.from_peft_type
    reason = _refusal(make, written)
    if reason is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config: PeftConfig = make(**written)
        return config
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    for name in written.keys() & fields:
        blamed = _refusal(LoraConfig, {name: written[name]})
        if blamed is not None:
            reason = f"{name}: {blamed}"
            break
    raise AdapterError(
        f"{path}: PEFT can't load this ({reason[:250]}). Mend it, or upgrade PEFT if a newer one "
        "saved it."
    )


def _refusal(make: Callable[..., PeftConfig], settings: Mapping[str, Any]) -> str | None:
    """What PEFT says against settings; None where it takes them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make(**settings)
    # Its classes raise TypeError, ValueError, KeyError, ImportError, and recurse without an end.
    except Exception as error:
        return _reason(error)
    return None


def _load(model: Any, folder: Path, *, model_name: str, device: str) -> tuple[str, ...]:
    names = dict(model.named_modules())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config: Any = read_peft_config(folder)
            tensors = _tensor_names(folder)
            written = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8-sig"))
            features = read_features(written, tensors)
            _check_scorable(config, features, folder)
            config.inference_mode = True
            _copy_what_is_written(names, tensors, features)
            wrapped = PeftModel(model, config)
            loaded = wrapped.load_adapter(
                str(folder),
                "default",
                torch_device=device,
                key_mapping=getattr(model, "_checkpoint_conversion_mapping", {}),
            )
    except AdapterError:
        raise
    # PEFT raises KeyError, RuntimeError, ValueError, OSError and safetensors' own error here.
    except Exception as error:
        raise AdapterError(
            f"{folder}: PEFT can't put this adapter on {model_name}: {_reason(error)[:300]}"
        ) from error
    stray = loaded.unexpected_keys
    if stray:
        raise AdapterError(
            f"{folder}: {len(stray)} tensor names do not fit {model_name} (first: {stray[0]}), and "
            f"PEFT would skip them in silence: {_why_stray(stray, config, names)}."
        )
    idle = tuple(dict.fromkeys(module_of(name) for name in loaded.missing_keys))
    if idle and config.init_lora_weights in _RANDOM_INITS:
        raise AdapterError(
            f"{folder}: target_modules names modules without tensors (first: "
            f"{idle[0]}), and init_lora_weights="
            f"{config.init_lora_weights} fills them by chance. Take them out of target_modules."
        )
    wrapped.eval()
    _merge_plain(wrapped)
    # PEFT puts on together what can't run together, and tells at the first pass.
    try:
        with torch.inference_mode():
            model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device))
    except Exception as error:
        raise AdapterError(
            f"{folder}: PEFT puts this adapter on {model_name}, but can't run it: "
            f"{_reason(error)[:300]}"
        ) from error
    return idle


def _why_stray(stray: list[str], config: LoraConfig, names: Mapping[str, Any]) -> str:
    """What in the config or in the base leaves tensors without a place."""
    tensor, module = stray[0], module_of(stray[0])
    if config.bias != "none" and all(name.endswith(".bias") for name in stray):
        return f"bias={config.bias}, and these layers have no bias here"
    if module not in names:
        return "the adapter was made for another model"
    missing = missing_setting(tensor, vars(config))
    if missing is not None:
        return missing
    if ".trainable_tokens_" in tensor:
        return f"trainable_token_indices does not name {module}"
    if not is_adapters_own(tensor):
        return f"modules_to_save does not name {module}"
    for field in ("exclude_modules", "modules_to_save", "layers_to_transform"):
        without = copy.copy(config)
        setattr(without, field, None)
        if config.target_modules is not None and check_target_module_exists(without, module):
            return f"{field} leaves {module} out"
    return f"target_modules does not name {module}"


def _tensor_names(folder: Path) -> list[str]:
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as opened:
            return list(opened.keys())
    except SafetensorError as error:
        raise AdapterError(f"{folder}: adapter_model.safetensors can't be read: {error}") from error


def _check_scorable(config: PeftConfig, features: LoraFeatures, folder: Path) -> None:
    if features.refusal is not None:
        raise AdapterError(f"{folder}: {features.refusal}.")
    if not isinstance(config, LoraConfig):
        raise AdapterError(f"{folder}: peft_type is {config.peft_type}; only LORA is scored.")
    default = LoraConfig()
    for field in dataclasses.fields(config):
        if field.name not in KNOWN_FIELDS and getattr(config, field.name) != getattr(
            default, field.name
        ):
            raise AdapterError(
                f"{folder}: {field.name} is a setting of a PEFT newer than this version of Adapt, "
                "which can't tell how to score it. Upgrade adapt-lora."
            )


def _copy_what_is_written(
    names: Mapping[str, Any], tensors: list[str], features: LoraFeatures
) -> None:
    """Put copies where PEFT writes into the base's own weights: in place, so tied ones go along."""
    if features.rewrites_base:
        # It does so in every module that it targets, with tensors in the file or without.
        written = set(names)
    else:
        written = {module_of(tensor) for tensor in tensors if not is_adapters_own(tensor)}
    copies: dict[int, torch.nn.Parameter] = {}
    for name in written & names.keys():
        for parameter in names[name]._parameters.values():
            if parameter is not None and id(parameter) not in copies:
                copies[id(parameter)] = _copy_of(parameter)
    for module in names.values():
        for name, parameter in module._parameters.items():
            if id(parameter) in copies:
                module._parameters[name] = copies[id(parameter)]


def _merge_plain(wrapped: PeftModel) -> None:
    # bfloat16 steps by 1/256 of a weight, and most of an update is smaller than that: merged, it
    # would be rounded away in part, which moved label scores by up to 1.2 nats.
    module: Any
    for module in wrapped.modules():
        if _can_merge(module):
            # Into a copy: the base's own tensors are never written, and a head that shares its
            # matrix with the embeddings does not drag them along.
            layer = module.base_layer
            layer._parameters["weight"] = _copy_of(layer.weight)
            module.merge()


def _can_merge(module: Any) -> bool:
    """Whether the layer is a LoRA whose whole effect is another weight, and one of float32."""
    # Between a LoRA and its layer may stand another part of PEFT, for new tokens of a head.
    if type(module) is not Linear or not isinstance(module.base_layer, torch.nn.Linear | Conv1D):
        return False
    variant = module.lora_variant.get("default")
    return (
        module.base_layer.weight.dtype.itemsize >= 4
        and not module.lora_bias.get("default", False)
        and (variant is None or type(variant) is DoraLinearVariant)
    )


def _copy_of(parameter: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(parameter.detach().clone(), requires_grad=False)


def _reason(error: Exception) -> str:
    """The line that says what went wrong; torch's first one only says where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return repr(error)
    return lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0]
