"""Folders that are no PEFT adapter, and files that only stand for one: each its own sentence."""

import json

import pytest

from adapt_lora.errors import AdapterError
from adapt_lora.registry.adapter import read_adapter

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        pytest.param({"model.safetensors": ""}, "It holds a whole model", id="merged"),
        pytest.param({"adapter.gguf": ""}, "It holds GGUF files", id="llama.cpp"),
        pytest.param({"pytorch_lora_weights.safetensors": ""}, "diffusers", id="image model"),
        pytest.param(
            {
                "adapter_config.json": {"fine_tune_type": "lora", "lora_parameters": {"rank": 8}},
                "adapters.safetensors": "",
            },
            "an adapter of MLX",
            id="MLX",
        ),
        pytest.param({"adapter_config.json": POINTER}, "Git LFS pointer", id="config by LFS"),
        pytest.param(
            {"adapter_config.json": {"peft_type": "LOHA", "r": 2}}, "'LOHA'", id="other method"
        ),
    ],
)
def test_a_folder_that_is_something_else_is_said_to_be_it(tmp_path, files, words):
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text)
    with pytest.raises(AdapterError, match=words):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["adapter_model-00001-of-00002.safetensors"], "in several shards"),
        (["pytorch_model_fsdp_0/__0_0.distcp"], "in several shards"),
        (["adapter_model.bin"], "can run code"),
        (["adapters.safetensors"], r"\(found: adapters\.safetensors\)"),
    ],
)
def test_weights_that_lie_elsewhere_are_named(adapter_folder, names, words):
    folder = adapter_folder()
    (folder / "adapter_model.safetensors").unlink()
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    with pytest.raises(AdapterError, match=words):
        read_adapter(folder)


def test_a_pointer_of_git_lfs_and_a_broken_link_are_not_called_cut_off(adapter_folder):
    folder = adapter_folder()
    weights = folder / "adapter_model.safetensors"
    weights.write_text(POINTER)
    with pytest.raises(AdapterError, match="Git LFS pointer, not the weights"):
        read_adapter(folder)
    weights.unlink()
    weights.symlink_to(folder / "blob")
    with pytest.raises(AdapterError, match="points to a file that is not there"):
        read_adapter(folder)


def test_a_config_with_a_byte_order_mark_is_read(adapter_folder):
    folder = adapter_folder()
    config = folder / "adapter_config.json"
    config.write_text(config.read_text(), encoding="utf-8-sig")
    assert read_adapter(folder).rank == 2
