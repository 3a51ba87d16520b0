"""What is put on the base model to learn, and that it all comes off."""

import json
from dataclasses import replace

import pytest
import torch

from adapt_lora.errors import TrainingError
from adapt_lora.model import scoring
from adapt_lora.trainer import train_adapter
from tests.trainer.conftest import fails, weights_of


def test_the_base_is_left_bit_for_bit_as_it_was(tiny_base, sentiment_rows, fast_recipe, tmp_path):
    before, modules = weights_of(tiny_base), [type(m) for m in tiny_base.model.modules()]
    train_adapter(tiny_base, sentiment_rows, recipe=fast_recipe, out=tmp_path / "adapter")
    after = weights_of(tiny_base)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [type(m) for m in tiny_base.model.modules()] == modules
    assert not tiny_base.model.training
    assert not any(p.requires_grad for p in tiny_base.model.parameters())
    assert "peft_config" not in vars(tiny_base.model)


@pytest.mark.parametrize("field", ["use_rslora", "use_dora", "gradient_checkpointing"])
def test_variants_of_lora_train_and_load_and_leave_the_base_alone(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, field
):
    before = weights_of(tiny_base)
    recipe = replace(fast_recipe, **{field: True})
    result = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / field)
    assert result.held_out_loss < 0.8 * result.held_out_loss_base
    config = json.loads((result.folder / "adapter_config.json").read_text())
    if field.startswith("use_"):
        assert config[field] is True
    encoded = scoring.encode_rows(tiny_base, sentiment_rows[:4])
    with tiny_base.adapted(result.folder):
        merged = scoring.read_pass(tiny_base, encoded, hidden=False).response_nll
    plain = scoring.read_pass(tiny_base, encoded, hidden=False).response_nll
    assert sum(row.sum() for row in merged) < sum(row.sum() for row in plain)
    assert all(torch.equal(before[name], value) for name, value in weights_of(tiny_base).items())
    assert not tiny_base.model.is_gradient_checkpointing


def test_lora_weights_are_trained_in_float32_on_a_bfloat16_base(
    tiny_base_dir, sentiment_rows, fast_recipe, tmp_path
):
    from safetensors import safe_open

    from adapt_lora.model.base import load_base_model

    base = load_base_model(tiny_base_dir, dtype="bfloat16", device="cpu")
    before = weights_of(base)
    recipe = replace(fast_recipe, epochs=1)
    result = train_adapter(base, sentiment_rows, recipe=recipe, out=tmp_path / "adapter")
    assert result.history[-1].loss < 0.7 * result.history[0].loss
    with safe_open(result.folder / "adapter_model.safetensors", "pt") as tensors:
        kinds = {tensors.get_tensor(key).dtype for key in tensors.keys()}  # noqa: SIM118
    assert kinds == {torch.float32}
    assert all(torch.equal(before[k], v) for k, v in weights_of(base).items())


def test_the_attention_of_the_base_is_put_back(tiny_base, sentiment_rows, fast_recipe, tmp_path):
    train_adapter(tiny_base, sentiment_rows, recipe=fast_recipe, out=tmp_path / "adapter")
    assert tiny_base.model.config._attn_implementation == "sdpa"


def test_a_model_whose_attention_cannot_be_exchanged_is_not_packed(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(tiny_base.model.config, "_attn_implementation_internal", "eager")
    recipe = replace(fast_recipe, packing=True)
    with pytest.raises(TrainingError, match=r"can't keep packed rows apart\. Set packing=false"):
        train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "a")
    assert not any(p.requires_grad for p in tiny_base.model.parameters())


def test_layer_names_that_the_base_lacks_are_an_error(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    recipe = replace(fast_recipe, target_modules=("query_key_value",))
    fails(tiny_base, sentiment_rows, recipe, tmp_path / "a", "LoRA on query_key_value")
    assert not any(p.requires_grad for p in tiny_base.model.parameters())


def test_a_dtype_that_the_base_does_not_have_is_an_error(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    recipe = replace(fast_recipe, dtype="bfloat16")
    fails(tiny_base, sentiment_rows, recipe, tmp_path / "a", "asks for bfloat16.*in float32")


def test_full_fine_tuning_of_a_bfloat16_base_is_refused(
    tiny_base_dir, sentiment_rows, full_recipe, tmp_path
):
    from adapt_lora.model.base import load_base_model

    base = load_base_model(tiny_base_dir, dtype="bfloat16", device="cpu")
    fails(base, sentiment_rows, full_recipe, tmp_path / "a", "needs float32.*set dtype=float32")
