"""Real but tiny: a two-layer Llama with a trained tokenizer, and adapters for it, built in code."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Tests never phone home, and never touch the user's own cache or registry.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "1"
os.environ.pop("MLFLOW_TRACKING_URI", None)
# One thread each: two workers on two cores would otherwise wait for each other's threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = (
    "the film was good and the food was bad but I like what is the capital of a city add two and "
    "three positive negative neutral yes no answer question sentiment of this review one 1 2 3 4 5 "
    "6 7 8 9 0"
)


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["ADAPT_CACHE_DIR"] = str(tmp_path_factory.mktemp("adapt-cache"))
    os.environ["ADAPT_DATA_DIR"] = str(tmp_path_factory.mktemp("adapt-data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of shared datasets and matrices, which the repository does not carry."""
    folder = Path(os.environ.get("ADAPT_SHARED_DATA", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip("the folder of shared data is not here (set ADAPT_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain transformers folder: Llama, 2 layers, width 32, a BPE tokenizer of 320 tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-base") / "tiny-llama"
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([WORDS] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "adapt_base.json").write_text('{"name": "tiny/llama"}')
    return folder


@pytest.fixture(scope="session")
def tiny_base(tiny_base_dir: Path):
    """The tiny Llama, loaded once; tests must leave its weights as they found them."""
    from adapt_lora.model.base import load_base_model

    return load_base_model(tiny_base_dir, dtype="float32", device="cpu")


@pytest.fixture
def tiny_adapter(tiny_base_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a LoRA folder for the tiny Llama: `tiny_adapter(name, seed=0, r=2, scale=0.5)`."""

    def make(name: str = "adapter", *, seed: int = 0, r: int = 2, scale: float = 0.5) -> Path:
        return write_tiny_adapter(tmp_path / name, seed=seed, r=r, scale=scale)

    return make


def write_tiny_adapter(folder: Path, *, seed: int = 0, r: int = 2, scale: float = 0.5) -> Path:
    """A LoRA folder for the tiny Llama, where a test has no `tmp_path` of its own."""
    import json

    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir()
    rng = np.random.default_rng(seed)
    shapes = {"q_proj": (32, 32), "v_proj": (32, 16)}
    tensors = {}
    for layer in range(2):
        for module, (n_in, n_out) in shapes.items():
            stem = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{stem}.lora_A.weight"] = rng.normal(size=(r, n_in)).astype(np.float32)
            tensors[f"{stem}.lora_B.weight"] = (scale * rng.normal(size=(n_out, r))).astype(
                np.float32
            )
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny/llama",
        "r": r,
        "lora_alpha": 2 * r,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh SQLite store; making its tables takes seconds, copying it does not."""
    import sqlite3

    from adapt_lora.registry import Registry

    folder = tmp_path_factory.mktemp("migrated")
    Registry(folder, cache_folder=folder / "cache").bases()
    with sqlite3.connect(folder / "mlflow.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder / "mlflow.db"


@pytest.fixture
def fresh_store(tmp_path: Path, migrated_store: Path) -> Path:
    """The folder of an empty registry of the test's own, its tables made."""
    import shutil

    folder = tmp_path / "registry"
    folder.mkdir()
    shutil.copyfile(migrated_store, folder / "mlflow.db")
    return folder
