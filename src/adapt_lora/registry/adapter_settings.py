"""What each field of adapter_config.json may hold, so that PEFT can load it."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adapt_lora.errors import AdapterError

_TASKS = (
    *("CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS"),
    "FEATURE_EXTRACTION",
)
_BIASES = ("none", "all", "lora_only")
_ABOUT_THE_FILE = frozenset(
    {
        *("base_model_name_or_path", "revision", "peft_version", "inference_mode", "auto_mapping"),
        *("lora_dropout", "runtime_config"),
    }
)
# What PEFT takes for these where they are missing; null is something else to it, or an error.
_NEVER_NULL: Mapping[str, Any] = {
    "bias": "none",
    "init_lora_weights": True,
    "rank_pattern": {},
    "alpha_pattern": {},
}
# PEFT asks for some of these in lower case, and takes others in any.
_INIT = re.compile(
    r"pissa(_niter_\d+)?|corda.*|eva|loftq|orthogonal|lora_ga|(?i:gaussian|olora|mica|true|false)"
)


def check_settings(config: Mapping[str, Any], path: Path) -> None:
    """Look at the values of the fields that are there.

    PEFT takes most values as they are, and fails on them later, or reads something else from them.

    Raises:
        AdapterError: One is of another kind than PEFT reads; the sentence names the field.
    """
    for name, (fits, wanted) in _FIELDS.items():
        if name in config and not fits(config[name]):
            value = json.dumps(config[name], ensure_ascii=False)
            shown = value if len(value) <= 80 else f"{value[:79]}…"
            raise AdapterError(f"{path}: {name} is {shown}; it must be {wanted}.")


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Fields that two configs of one adapter give other values, by name.

    What says nothing about how it is loaded is left out, and so is what only one of them has and
    leaves as PEFT has it.
    """
    names = sorted((old.keys() | new.keys()) - _ABOUT_THE_FILE)
    return [name for name in names if _setting(old, name) != _setting(new, name)]


def _setting(config: Mapping[str, Any], name: str) -> Any:
    if name in _NEVER_NULL:
        return config.get(name, _NEVER_NULL[name])
    value = config.get(name) or None
    return sorted(value, key=str) if isinstance(value, list) else value


def _is_flag(value: object) -> bool:
    return value is None or isinstance(value, bool) or value in (0, 1)


def _is_regex(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except re.error:
        return False


def _are_names(value: object) -> bool:
    return value is None or (
        isinstance(value, list) and all(isinstance(name, str) for name in value)
    )


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_whole, value))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_targets(value: object) -> bool:
    return _are_names(value) or value == "all-linear" or _is_regex(value)


def _are_layers(value: object) -> bool:
    return value is None or _is_whole(value) or _are_numbers(value)


def _are_patterns(value: object) -> bool:
    names = [value] if isinstance(value, str) else value
    return names is None or (isinstance(names, list) and all(map(_is_regex, names)))


def _are_saved(value: object) -> bool:
    # PEFT puts each of them into a regular expression.
    return value is None or (isinstance(value, list) and all(map(_is_regex, value)))


def _are_tokens(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(map(_are_numbers, value.values()))
    return value is None or _are_numbers(value)


def _is_object(value: object) -> bool:
    return value is None or isinstance(value, Mapping)


def _is_share(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= 1


def _is_init(value: object) -> bool:
    if isinstance(value, str):
        return _INIT.fullmatch(value) is not None
    return value is None or isinstance(value, bool)


def _scale_pattern_fits(value: object) -> bool:
    """Whether keys are regular expressions that end a module's name, and values numbers."""
    return isinstance(value, Mapping) and all(
        _is_regex(key)
        and isinstance(number, int | float)
        and not isinstance(number, bool)
        and number > 0
        for key, number in value.items()
    )


_FLAG = (_is_flag, "true or false")
_TARGETS = (_are_targets, "a list of module names, or a regular expression that they match")
_OBJECT = (_is_object, "an object with settings, or null")
_SCALES = (
    _scale_pattern_fits,
    "an object that maps module names to numbers above zero; {} where there are none",
)
_FIELDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "task_type": (
        lambda value: value is None or value in _TASKS,
        f"null or one of {', '.join(_TASKS)}",
    ),
    "bias": (lambda value: value in _BIASES, f"one of {', '.join(_BIASES)}"),
    "init_lora_weights": (_is_init, "true, false, or the name of an initialisation that PEFT has"),
    "target_modules": _TARGETS,
    "exclude_modules": _TARGETS,
    "modules_to_save": (_are_saved, "a list of module names, or null"),
    "target_parameters": (_are_names, "a list of names of parameters, or null"),
    "layers_to_transform": (_are_layers, "the number of a layer, or a list of them, or null"),
    "layers_pattern": (_are_patterns, "the name of the list of layers, or null"),
    "trainable_token_indices": (
        _are_tokens,
        "a list of token ids, or an object that maps module names to such lists, or null",
    ),
    "rank_pattern": _SCALES,
    "alpha_pattern": _SCALES,
    "lora_dropout": (_is_share, "a number from 0 to 1"),
    **dict.fromkeys(
        (
            *("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out", "ensure_weight_tying"),
            *("use_qalora", "inference_mode"),
        ),
        _FLAG,
    ),
    **dict.fromkeys(
        (
            *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config"),
            *("monteclora_config", "kasa_config", "arrow_config", "runtime_config"),
            *("megatron_config", "use_bdlora"),
        ),
        _OBJECT,
    ),
}
