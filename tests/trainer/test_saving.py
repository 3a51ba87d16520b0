"""The folders that a training writes."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from adapt_lora.model import scoring
from adapt_lora.trainer import saving, train_adapter
from adapt_lora.trainer.tuning import tuned
from tests.trainer.conftest import ADAPTER_FILES, fails, weights_of


def test_the_folder_names_the_hub_id_and_holds_no_pickle(trained, tiny_base):
    assert sorted(p.name for p in trained.folder.iterdir()) == list(ADAPTER_FILES)
    config = json.loads((trained.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == tiny_base.identity.name == "tiny/llama"
    assert config["inference_mode"] is True
    assert str(tiny_base.folder) not in (trained.folder / "README.md").read_text()


def test_peft_itself_loads_the_folder_and_gets_the_same_loss(
    trained, tiny_base_dir, tiny_base, sentiment_rows
):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    encoded = scoring.encode_rows(tiny_base, sentiment_rows[:6])
    with tiny_base.adapted(trained.folder):
        merged = scoring.read_pass(tiny_base, encoded, hidden=False).response_nll
    plain = AutoModelForCausalLM.from_pretrained(tiny_base_dir)
    wrapped = PeftModel.from_pretrained(plain, trained.folder).eval()
    for row, expected in zip(encoded, merged, strict=True):
        ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
        with torch.no_grad():
            logits = wrapped(input_ids=ids).logits[0].log_softmax(-1)
        at = torch.arange(len(row.prompt_ids), ids.shape[1])
        nll = -logits[at - 1, ids[0, at]]
        assert nll.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_update_is_stored_in_the_type_that_the_recipe_names(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    for kept in ("float32", "bfloat16"):
        recipe = replace(fast_recipe, adapter_dtype=kept)
        train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / kept)
    whole = load_file(tmp_path / "float32" / "adapter_model.safetensors")
    half = load_file(tmp_path / "bfloat16" / "adapter_model.safetensors")
    assert all(torch.equal(half[key], value.bfloat16()) for key, value in whole.items())


def test_an_existing_folder_is_never_overwritten(tiny_base, sentiment_rows, fast_recipe, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    fails(tiny_base, sentiment_rows, fast_recipe, tmp_path, "exists already")
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_every_epoch_can_be_kept(tiny_base, sentiment_rows, fast_recipe, tmp_path):
    recipe = replace(fast_recipe, epochs=3, keep_epochs=True)
    out = tmp_path / "adapter"
    result = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=out)
    assert [epoch.folder for epoch in result.epochs] == [
        tmp_path / "adapter-epoch-1",
        tmp_path / "adapter-epoch-2",
        None,
    ]
    losses = [epoch.held_out_loss for epoch in result.epochs]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == result.held_out_loss
    fails(tiny_base, sentiment_rows, recipe, tmp_path / "adapter", "exists already")


def test_a_crash_while_saving_leaves_nothing_behind(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, monkeypatch
):
    def disk_is_full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "save_file", disk_is_full)
    recipe = replace(fast_recipe, epochs=1)
    fails(tiny_base, sentiment_rows, recipe, tmp_path / "a", "No space left on device")
    assert not any(tmp_path.iterdir())


def test_a_disk_that_fills_up_while_weights_are_written_is_a_sentence(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, monkeypatch
):
    from safetensors import SafetensorError

    def disk_is_full(*_args, **_kwargs):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(saving, "save_file", disk_is_full)
    recipe = replace(fast_recipe, epochs=1)
    fails(tiny_base, sentiment_rows, recipe, tmp_path / "a", "can't be written.*No space left")


def test_full_fine_tuning_is_kept_as_a_low_rank_adapter_and_said(
    tiny_base, sentiment_rows, full_recipe, tmp_path
):
    before = weights_of(tiny_base)
    result = train_adapter(tiny_base, sentiment_rows, recipe=full_recipe, out=tmp_path / "full")
    assert all(torch.equal(before[name], value) for name, value in weights_of(tiny_base).items())
    assert not any(p.requires_grad or p.grad is not None for p in tiny_base.model.parameters())
    assert result.held_out_loss < result.held_out_loss_base
    (note,) = result.notes
    assert "best rank-8 part of the change" in note
    encoded = scoring.encode_rows(tiny_base, sentiment_rows[:4])
    with tiny_base.adapted(result.folder):
        merged = scoring.read_pass(tiny_base, encoded, hidden=False).response_nll
    plain = scoring.read_pass(tiny_base, encoded, hidden=False).response_nll
    assert sum(row.sum() for row in merged) < sum(row.sum() for row in plain)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_an_extraction_of_full_rank_is_the_change_itself(tiny_base, full_recipe, use_rslora):
    recipe = replace(
        full_recipe, r=40, lora_alpha=20, use_rslora=use_rslora, target_modules=("q_proj",)
    )
    scaling = 20 / 40**0.5 if use_rslora else 20 / 40
    with tuned(tiny_base, recipe) as learning:
        layer = tiny_base.layers[0].self_attn.q_proj
        change = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            layer.weight += change
        tensors = saving.extract_low_rank(learning)
        assert saving.extracted_share(learning) == pytest.approx(1.0, abs=1e-4)
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    a, b = tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"]
    assert (a.shape, b.shape) == ((40, 32), (32, 40))  # wider than the layer: zeros fill it up
    assert torch.allclose(scaling * b @ a, change, atol=1e-4)
