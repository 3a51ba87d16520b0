"""Read a PEFT LoRA folder, and say at the door what is wrong with it.

PEFT itself loads renamed tensors, all-zero or NaN weights without a word; each of these gets its
sentence here.
"""

import fnmatch
import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from adapt_lora.errors import AdapterError
from adapt_lora.model.lora_features import (
    EMBEDDING_TENSOR,
    LoraFeatures,
    is_adapters_own,
    module_of,
    read_features,
)
from adapt_lora.registry.adapter_files import CONFIG_FILE, WEIGHTS_FILE, find_weights, read_config
from adapt_lora.registry.adapter_tensors import foreign_name, stray_name

FINGERPRINT_FILE = "adapt.json"

ALLOWED_FILES = (
    CONFIG_FILE,
    WEIGHTS_FILE,
    "README.md",
    "chat_template.jinja",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    FINGERPRINT_FILE,
)
"""Patterns of the files that are copied on register, push and pull; all else stays behind.

Trainers drop pickles (training_args.bin) and optimizer states into the same folder.
"""

# Config fields that change what the weights do, and what PEFT takes when they are missing.
_EFFECT_FIELDS: Mapping[str, Any] = {
    "r": None,
    "lora_alpha": 8,
    "target_modules": None,
    "exclude_modules": None,
    "target_parameters": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "use_rslora": False,
    "use_dora": False,
    "fan_in_fan_out": False,
    "bias": "none",
    "lora_bias": False,
    "layers_to_transform": None,
    "layers_pattern": None,
    "layer_replication": None,
    "modules_to_save": None,
    "trainable_token_indices": None,
    "alora_invocation_tokens": None,
    "use_qalora": False,
    "qalora_group_size": 16,
    "use_bdlora": None,
}
_UNORDERED_FIELDS = ("target_modules", "exclude_modules", "modules_to_save", "target_parameters")
# These initialisations change the base's weights too, so the two matrices alone are not the
# adapter.
_BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq")

_LORA_KEY = re.compile(
    r"^base_model\.model\.(?P<module>.+)\.(?P<side>lora_A|lora_B|lora_embedding_A|lora_embedding_B)"
    r"(?P<tail>(\.weight)?)$"
)

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*$")
# What trainers' guides call the folder that models lie in. The Hub has no owners of most of these
# names, and a base model that is really there can still be named with --base-model.
_FOLDERS = re.compile(
    r"(base_?models?|cache|checkpoints?|ckpts?|content|data|datasets|downloads|hf_models|home|input|"
    r"kaggle|llms?|local_?models?|merged|mnt|models?|outputs?|pretrained(_?models?)?|results|root|"
    r"runs|saves|spaces|tmp|weights|workspace)/",
    re.IGNORECASE,
)

_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The two factors that sit on one module: ΔW = scaling · B A."""

    module: str
    """Module name inside the base model, e.g. "model.layers.0.self_attn.q_proj"."""
    a_key: str
    """Tensor name of the factor that reads the input, (rank, d_in)."""
    b_key: str
    """Tensor name of the factor that writes the output, (d_out, rank)."""
    rank: int
    """Inner dimension."""
    scaling: float
    """What PEFT multiplies BA by: lora_alpha / r, or / √r with use_rslora."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA folder that passed every check which needs no base model."""

    adapter_id: str
    """sha256 (hex) of the weights and of the config fields that change what they do."""
    folder: Path
    """Where the files are."""
    config: Mapping[str, Any]
    """adapter_config.json, with `base_model_name_or_path` set to `base_name`."""
    rank: int
    """Largest rank of any module."""
    base_name: str
    """Hub id of the base model."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of each tensor, by name."""
    pairs: tuple[LoraPair, ...]
    """The factors, in order of their names."""
    warnings: tuple[str, ...] = ()
    """Sentences to show beside the adapter."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Findings to search by, e.g. "vllm": "unsupported: use_dora"."""
    refusal: str | None = None
    """Why it can't be scored, led by the field's name; None for all that can."""

    @cached_property
    def params(self) -> dict[str, str]:
        """The LoRA settings under the names that people search in MLflow."""
        targets = sorted({pair.module.rsplit(".", 1)[-1] for pair in self.pairs})
        return {
            "lora/r": str(self.rank),
            "lora/alpha": f"{self.config.get('lora_alpha', 8):g}",
            "lora/target_modules": ", ".join(targets),
            "lora/modules": str(len(self.pairs)),
            "lora/parameters": str(sum(math.prod(shape) for shape in self.shapes.values())),
            "lora/use_rslora": str(bool(self.config.get("use_rslora", False))).lower(),
            "base_model": self.base_name,
        }


def read_adapter(folder: Path, *, base_model: str | None = None) -> Adapter:
    """Read and check a PEFT LoRA folder; no base model and no torch are needed.

    Args:
        folder: Holds adapter_config.json and adapter_model.safetensors.
        base_model: Hub id of the base, where the config names none or a path on somebody's disk.

    Raises:
        AdapterError: Something is missing, broken, unsafe, or would load as a silent no-op.
    """
    folder = Path(folder)
    config = read_config(folder)
    weights = find_weights(folder)
    base_name, warnings = _base_name(config, base_model, folder=folder)
    tensors = read_tensors(weights)
    features = read_features(config, tensors)
    try:
        pairs = _pair_up(tensors, config, path=weights)
    except AdapterError as error:
        if features.refusal is None:
            raise
        raise _not_scored(folder, features.refusal) from error
    _check_values(tensors, pairs, path=weights)
    if any("lm_head" in pair.module for pair in pairs):
        warnings.append(
            "It adapts lm_head: vLLM leaves that part out when it scores prompts, so scores from "
            "vLLM may differ from those of transformers."
        )
    if features.unknown:
        warnings.append(_unknown_settings(features, config))
    unsupported = [*features.peft_only, *_uneven_scale(pairs, config)]
    return Adapter(
        adapter_id=_adapter_id(tensors, config),
        folder=folder,
        config={**config, "base_model_name_or_path": base_name},
        rank=max(pair.rank for pair in pairs),
        base_name=base_name,
        shapes={name: tensor.shape for name, tensor in sorted(tensors.items())},
        pairs=pairs,
        warnings=tuple(warnings),
        tags={"vllm": f"unsupported: {', '.join(unsupported)}" if unsupported else "supported"},
        refusal=features.refusal,
    )


def check_scorable(adapter: Adapter) -> None:
    """Make sure that the adapter is of a kind whose scores would be its own.

    Raises:
        AdapterError: It is not; the sentence names the setting that makes it so.
    """
    if adapter.refusal is not None:
        raise _not_scored(adapter.folder, adapter.refusal)


def _not_scored(folder: Path, reason: str) -> AdapterError:
    return AdapterError(
        f"{folder / CONFIG_FILE}: {reason}. Adapt scores the answers of a causal language model "
        "with a LoRA that is on for every token, so this one is left out; measure it with PEFT."
    )


def check_fits(adapter: Adapter, base_folder: Path) -> None:
    """Compare the adapter's modules and dimensions with the base's weight files.

    Args:
        adapter: As read.
        base_folder: A transformers folder with safetensors weights; only the headers are read.

    Raises:
        AdapterError: A module does not exist in the base, or has other dimensions.
    """
    shapes = base_shapes(base_folder)
    _check_vocabulary(adapter, shapes, base_folder)
    # The names of what is adapted inside a module (its parameters) are known to PEFT alone.
    pairs = () if adapter.config.get("target_parameters") else adapter.pairs
    for pair in pairs:
        shape = base_weight_shape(shapes, pair.module)
        if shape is None:
            raise AdapterError(
                f"{adapter.folder}: module {pair.module} is not in the base model at {base_folder} "
                f"({adapter.base_name}); the adapter was made for another model."
            )
        if f"{pair.module}.weight" not in shapes and f"model.{pair.module}.weight" in shapes:
            raise AdapterError(
                f"{adapter.folder}: module {pair.module} is model.{pair.module} in the base model; "
                "the adapter was trained on the decoder without its head (AutoModel), so PEFT "
                "would skip it in silence. Train it on AutoModelForCausalLM."
            )
        a, b = adapter.shapes[pair.a_key], adapter.shapes[pair.b_key]
        wanted = _weight_shape(a, b, embedding="embedding" in pair.a_key)
        # Layers that hold their weight transposed (Conv1D) are told by PEFT, whatever the config
        # says of fan_in_fan_out.
        if tuple(shape[:2]) not in (wanted, wanted[::-1]):
            raise AdapterError(
                f"{adapter.folder}: {pair.module} is made for a weight of {_times(wanted)}, the "
                f"base model at {base_folder} has {_times(shape[:2])}; the adapter was made for "
                "another model or another size of it."
            )


def _check_vocabulary(
    adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], base_folder: Path
) -> None:
    """Refuse embeddings of more or fewer tokens than the base has."""
    whole: dict[str, tuple[int, ...]] = {
        module_of(name): shape
        for name, shape in adapter.shapes.items()
        if EMBEDDING_TENSOR.search(name) and not is_adapters_own(name) and len(shape) == 2
    }
    for pair in adapter.pairs:
        if EMBEDDING_TENSOR.search(f".{pair.module}."):
            a, b = adapter.shapes[pair.a_key], adapter.shapes[pair.b_key]
            whole[pair.module] = _weight_shape(a, b, embedding="embedding" in pair.a_key)
    for module, made_for in whole.items():
        here = base_weight_shape(shapes, module)
        if here is not None and here != made_for and here[1:] == made_for[1:]:
            raise AdapterError(
                f"{adapter.folder}: its {module} has {made_for[0]:,} tokens, the base model at "
                f"{base_folder} has {here[0]:,}; the vocabulary was resized before training. Merge "
                "the adapter into a base resized in the same way, or train it without new tokens."
            )


def copy_adapter(adapter: Adapter, dest: Path) -> Path:
    """Copy the allowed files into a new folder, with the base's Hub id in the config.

    Returns:
        `dest`.
    """
    dest = Path(dest)
    dest.mkdir(parents=True, exist_ok=True)
    given = read_config(adapter.folder).get("base_model_name_or_path")
    for path in sorted(adapter.folder.iterdir()):
        if path.is_file() and is_allowed_file(path.name) and path.name != CONFIG_FILE:
            if path.name == "README.md" and _mentions(path, given, adapter.base_name):
                continue
            shutil.copyfile(path, dest / path.name)
    (dest / CONFIG_FILE).write_text(
        json.dumps(adapter.config, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    return dest


def copy_allowed(folder: Path, dest: Path) -> None:
    """Copy the files that may travel with an adapter, as they are."""
    dest.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        if path.is_file() and is_allowed_file(path.name):
            shutil.copyfile(path, dest / path.name)


def is_allowed_file(name: str) -> bool:
    """Whether a file of this name may travel with an adapter."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in ALLOWED_FILES)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a safetensors file, mapped from disk."""

    dtype: str
    """The format's own name, e.g. "BF16"."""
    shape: tuple[int, ...]
    """Dimensions."""
    raw: np.ndarray
    """The stored bytes, (n_bytes,) uint8; read when touched."""

    @property
    def is_float(self) -> bool:
        """Whether `values` can be read."""
        return self.dtype in _FLOATS

    def values(self) -> np.ndarray:
        """The numbers, as float32 (float64 stays as it is)."""
        stored = self.raw.view(_FLOATS[self.dtype])
        if self.dtype == "BF16":
            # bfloat16 is the upper half of a float32; numpy has no such type of its own.
            stored = (stored.astype("<u4") << 16).view("<f4")
        wide = stored if self.dtype == "F64" else stored.astype(np.float32, copy=False)
        return wide.reshape(self.shape)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Open a safetensors file without reading its numbers.

    Raises:
        AdapterError: Not a readable safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        # The library checks that header, offsets and size agree; after that the header can be
        # trusted.
        with safe_open(path, framework="np") as opened:
            names = list(opened.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterError(
            f"{path}: not a readable safetensors file ({error}); it may be cut off. Fetch or "
            f"save it again."
        ) from error
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    start = 8 + size
    content = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    tensors = {}
    for name in names:
        entry = header[name]
        begin, end = entry["data_offsets"]
        tensors[name] = Tensor(
            entry["dtype"], tuple(entry["shape"]), content[start + begin : start + end]
        )
    return tensors


def base_shapes(base_folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of each weight of a base model, from the headers of its safetensors files.

    Raises:
        AdapterError: No such files there, or they can't be read.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in base_files(base_folder):
        shapes.update({name: tensor.shape for name, tensor in read_tensors(path).items()})
    return shapes


def base_files(base_folder: Path) -> list[Path]:
    """The weight files of a base model.

    Raises:
        AdapterError: The folder has none.
    """
    files = sorted(Path(base_folder).glob("*.safetensors"))
    if not files:
        raise AdapterError(
            f"{base_folder}: no .safetensors files; can't compare dimensions with it."
        )
    return files


def base_weight_shape(shapes: Mapping[str, tuple[int, ...]], module: str) -> tuple[int, ...] | None:
    """Shape of a module's weight in the base, or None if the base has no such module."""
    name = base_weight_name(shapes, module)
    return None if name is None else shapes[name]


def base_weight_name(names: Mapping[str, Any], module: str) -> str | None:
    """Name under which the base's files hold the weight of a module, or None."""
    # Files of the bare decoder carry no "model." or "transformer."; tied heads are stored once.
    plain = re.sub(r"^(model|transformer)\.", "", module)
    candidates = [f"{module}.weight", f"{plain}.weight", f"model.{module}.weight"]
    if module.endswith("lm_head"):
        candidates += ["model.embed_tokens.weight", "embed_tokens.weight", "transformer.wte.weight"]
    return next((name for name in candidates if name in names), None)


def _base_name(
    config: Mapping[str, Any], given: str | None, *, folder: Path
) -> tuple[str, list[str]]:
    stored = _stored_base(config, folder)
    if given is not None and is_local_path(given):
        raise AdapterError(
            f"--base-model {given} is a path; an adapter's base is recorded by its Hub id, such as "
            "HuggingFaceTB/SmolLM2-135M-Instruct, so that others can load it."
        )
    if given is not None:
        if stored is None or is_local_path(stored) or stored == given:
            return given, []
        return given, [f"Its config names {stored} as the base; it is registered under {given}."]
    if stored is None:
        raise AdapterError(
            f"{folder / CONFIG_FILE}: base_model_name_or_path is not set; say which model it "
            f"sits on "
            "with --base-model."
        )
    if is_local_path(stored):
        raise AdapterError(
            f"{folder / CONFIG_FILE}: base_model_name_or_path is a path on a disk ({stored}); "
            f"say the "
            "base's Hub id with --base-model."
        )
    return stored, []


def stored_base(folder: Path) -> str | None:
    """What an adapter's config calls its base model; None where it says nothing.

    Raises:
        AdapterError: There is no config, or one that is no LoRA's.
    """
    return _stored_base(read_config(folder), folder)


def _stored_base(config: Mapping[str, Any], folder: Path) -> str | None:
    stored = config.get("base_model_name_or_path") or None
    if stored is not None and not isinstance(stored, str):
        raise AdapterError(
            f"{folder / CONFIG_FILE}: base_model_name_or_path is {stored!r}, not a name; say the "
            "base's Hub id with --base-model."
        )
    return None if stored is None else stored.strip() or None


def is_hub_id(name: str) -> bool:
    """Whether a name in somebody's config reads as org/name on the Hub, not as a folder."""
    return not is_local_path(name) and bool(_HUB_ID.match(name)) and not _FOLDERS.match(name)


def is_local_path(name: str) -> bool:
    """Whether a base model's name is a place on a disk or in a store rather than a Hub id."""
    looks_local = name.startswith(("/", ".", "~", "$")) or "\\" in name or name.count("/") > 1
    if looks_local or re.match(r"[A-Za-z]:|\w+://|models--", name):
        return True
    return name.endswith((".gguf", ".safetensors", ".bin", "/"))


def _pair_up(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, path: Path
) -> tuple[LoraPair, ...]:
    halves: dict[str, dict[str, str]] = {}
    for key in sorted(tensors):
        match = _LORA_KEY.match(key)
        reason = foreign_name(key) or (None if match else stray_name(key, config))
        if reason is not None:
            raise AdapterError(f"{path}: tensor {key!r} is not understood: {reason}.")
        if match:
            side = "a" if match["side"].endswith("A") else "b"
            halves.setdefault(match["module"], {})[side] = key
    if not halves:
        raise AdapterError(f"{path}: no lora_A or lora_B tensors; this is not a LoRA.")
    pairs = []
    for module, sides in halves.items():
        if len(sides) == 1:
            there, missing = ("lora_A", "lora_B") if "a" in sides else ("lora_B", "lora_A")
            raise AdapterError(f"{path}: {module} has a {there} but no {missing}.")
        pairs.append(_pair(module, sides["a"], sides["b"], tensors, config, path=path))
    return tuple(pairs)


def _pair(
    module: str,
    a_key: str,
    b_key: str,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    path: Path,
) -> LoraPair:
    a, b = tensors[a_key].shape, tensors[b_key].shape
    if len(a) < 2 or len(b) < 2:
        raise AdapterError(f"{path}: {module} has factors of shape {_times(a)} and {_times(b)}.")
    rank = _setting(module, config.get("rank_pattern"), config["r"])
    # Adapters of fused expert weights stack one factor per expert.
    fits = a[0] % rank == 0 if config.get("target_parameters") else a[0] == rank
    if not fits:
        raise AdapterError(
            f"{path}: {a_key} has {a[0]} rows, but {CONFIG_FILE} says r = {rank} for {module}; "
            "the two files belong to different adapters."
        )
    if b[1] != a[0]:
        raise AdapterError(
            f"{path}: {module} has factors {_times(a)} and {_times(b)} that can't be multiplied."
        )
    alpha = _setting(module, config.get("alpha_pattern"), config.get("lora_alpha", 8))
    scaling = _pair_scaling(rank, alpha, config)
    return LoraPair(module, a_key, b_key, int(a[0]), scaling)


def _pair_scaling(rank: float, alpha: float, config: Mapping[str, Any]) -> float:
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _setting(module: str, pattern: Mapping[str, Any] | None, default: Any) -> Any:
    """Value for one module, by PEFT's rule: a key matches the end of the module's name."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _check_values(
    tensors: Mapping[str, Tensor], pairs: tuple[LoraPair, ...], *, path: Path
) -> None:
    for key, tensor in tensors.items():
        if not tensor.is_float:
            raise AdapterError(
                f"{path}: tensor {key} is stored as {tensor.dtype}; only {', '.join(_FLOATS)} are "
                "read. Save the adapter in one of these."
            )
        values = tensor.values()
        bad = values.size - int(np.isfinite(values).sum())
        if bad:
            raise AdapterError(
                f"{path}: {key} has {bad} numbers that are NaN or infinite; the training diverged."
            )
    for pair in pairs:
        if tensors[pair.b_key].values().any() and tensors[pair.a_key].values().any():
            return
    raise AdapterError(
        f"{path}: every lora_B is zero, so the adapter changes nothing; was it saved before "
        f"training?"
    )


def _unknown_settings(features: LoraFeatures, config: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{name}={value!r}"[:80] for name, value in features.unknown.items())
    version = config.get("peft_version")
    saved_by = f" (it was saved by PEFT {version})" if version else ""
    return (
        f"Its config has settings that PEFT does not know here{saved_by}, so they have no effect: "
        f"{settings}."
    )


def _uneven_scale(pairs: tuple[LoraPair, ...], config: Mapping[str, Any]) -> list[str]:
    """The patterns that give a module a scale of its own: vLLM knows one for all."""
    whole = _pair_scaling(config["r"], config.get("lora_alpha", 8), config)
    if all(math.isclose(pair.scaling, whole) for pair in pairs):
        return []
    return [name for name in ("alpha_pattern", "rank_pattern") if config.get(name)]


def _adapter_id(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(_effect(config), sort_keys=True).encode())
    for key, tensor in sorted(tensors.items()):
        digest.update(f"\n{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.raw.data)
    return digest.hexdigest()


def _effect(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config fields that change what the weights do, defaults filled in."""
    effect = {}
    for name, default in _EFFECT_FIELDS.items():
        value = config.get(name)
        value = default if value is None else value
        if name in _UNORDERED_FIELDS and isinstance(value, list):
            value = sorted(value)
        effect[name] = value
    init = config.get("init_lora_weights")
    changes_base = isinstance(init, str) and init.lower().startswith(_BASE_CHANGING_INITS)
    effect["init_lora_weights"] = init if changes_base else None
    return effect


def _weight_shape(a: tuple[int, ...], b: tuple[int, ...], *, embedding: bool) -> tuple[int, ...]:
    """Shape of the weight that two factors change: (d_out, d_in), an embedding (n_tokens, d)."""
    return (a[1], b[0]) if embedding else (b[0], a[1])


def _mentions(path: Path, given: object, base_name: str) -> bool:
    """Whether a card written by PEFT names a private path as its base."""
    if not given or given == base_name:
        return False
    return str(given) in path.read_text(encoding="utf-8", errors="replace")


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(str(size) for size in shape)


def iter_factors(adapter: Adapter) -> Iterator[tuple[LoraPair, np.ndarray, np.ndarray]]:
    """Each pair with its factors, A as (rank, d_in) and B as (d_out, rank), float64."""
    tensors = read_tensors(adapter.folder / WEIGHTS_FILE)
    for pair in adapter.pairs:
        a = tensors[pair.a_key].values().astype(np.float64)
        b = tensors[pair.b_key].values().astype(np.float64)
        yield pair, a.reshape(a.shape[0], -1), _second_axis_last(b)


def _second_axis_last(b: np.ndarray) -> np.ndarray:
    """A convolution's B is (d_out, rank, 1, 1)."""
    return b.reshape(b.shape[0], b.shape[1], -1)[:, :, 0] if b.ndim > 2 else b
