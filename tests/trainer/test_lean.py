"""The lean layers against the plain ones that they stand for."""

import contextlib
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from adapt_lora.errors import TrainingError
from adapt_lora.model.head import Head
from adapt_lora.model.lora_linear import _LoraLinear
from adapt_lora.model.scoring import encode_rows
from adapt_lora.trainer import attention, loop, train_adapter


def gradients(base, rows, recipe, *, packed=False):
    """Loss and gradients of one batch, the update's B away from zero."""
    rows = encode_rows(base, rows)
    tuned = loop._lora_on if recipe.method == "lora" else loop._every_weight_on
    with loop._seeded(0), tuned(base, recipe) as model:
        base.model.train()
        named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        for name, parameter in named.items():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        nll = loop._response_nll(base, rows, packed=packed)
        nll.mean().backward()
        found = {name: p.grad.clone() for name, p in named.items()}
        for parameter in named.values():
            parameter.grad = None
        return nll.detach(), found


def plain_gradients(base, rows, recipe, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "speed_up_lora", lambda _: None)
        patch.setattr(loop, "row_attention", lambda _: contextlib.nullcontext(True))
        patch.setattr(Head, "is_frozen_linear", False)
        return gradients(base, rows, recipe)


def assert_near(found, expected, tolerance):
    assert found[0].tolist() == pytest.approx(expected[0].tolist(), abs=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in found[1].items():
        scale = float(expected[1][name].abs().max())
        assert torch.allclose(gradient, expected[1][name], atol=tolerance * scale + 1e-7), name


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},  # keeps PEFT's layer
        {"gradient_checkpointing": True},
        {"method": "full"},  # its head is trained, so it is no frozen one
    ],
    ids=["lora", "rslora", "dora", "checkpointing", "full"],
)
def test_losses_and_gradients_are_those_of_the_plain_layers(
    tiny_base, sentiment_rows, fast_recipe, monkeypatch, changes, packed
):
    recipe = replace(fast_recipe, **changes)
    expected = plain_gradients(tiny_base, sentiment_rows[:7], recipe, monkeypatch)
    found = gradients(tiny_base, sentiment_rows[:7], replace(recipe, packing=packed), packed=packed)
    assert_near(found, expected, 1e-4)


def test_long_answers_go_through_the_frozen_head_in_pieces(
    tiny_base, sentiment_rows, fast_recipe, monkeypatch
):
    expected = gradients(tiny_base, sentiment_rows[:7], fast_recipe)
    monkeypatch.setattr(loop, "POSITIONS_AT_ONCE", 3)
    assert_near(gradients(tiny_base, sentiment_rows[:7], fast_recipe), expected, 1e-5)


def test_packed_training_ends_as_unpacked_training_does(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    apart = train_adapter(tiny_base, sentiment_rows, recipe=fast_recipe, out=tmp_path / "apart")
    recipe = replace(fast_recipe, packing=True)
    packed = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "packed")
    assert [step.loss for step in packed.history] == pytest.approx(
        [step.loss for step in apart.history], rel=1e-3
    )
    assert packed.held_out_loss == pytest.approx(apart.held_out_loss, rel=1e-3)
    assert packed.recipe.params["recipe/packing"] == "true"
    assert "| packing | true | set by the user |" in (packed.folder / "README.md").read_text()


def test_padded_batches_come_in_few_widths_within_what_the_base_reads(
    tiny_base, sentiment_rows, monkeypatch
):
    rows, widths = encode_rows(tiny_base, sentiment_rows), []
    watch = tiny_base.model.get_decoder().register_forward_pre_hook(
        lambda _module, _args, given: widths.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    lengths = [loop._length(row) for row in rows]
    try:
        for row in rows:
            loop._response_nll(tiny_base, [row])
        longest = rows[lengths.index(max(lengths))]
        monkeypatch.setattr(tiny_base.model.config, "max_position_embeddings", max(lengths))
        loop._response_nll(tiny_base, [longest])
    finally:
        watch.remove()
    assert len(set(widths[:-1])) < len(set(lengths))
    assert all(width % 8 == 0 for width in widths[:-1])
    assert all(0 <= width - n < 8 for width, n in zip(widths, lengths, strict=False))
    assert widths[-1] == max(lengths)


def test_a_model_whose_attention_cannot_be_exchanged_is_not_packed(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(tiny_base.model.config, "_attn_implementation_internal", "eager")
    recipe = replace(fast_recipe, packing=True)
    with pytest.raises(TrainingError, match=r"can't keep packed rows apart\. Set packing=false"):
        train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "a")
    assert not any(p.requires_grad for p in tiny_base.model.parameters())


def test_the_attention_of_the_base_is_put_back(tiny_base, sentiment_rows, fast_recipe, tmp_path):
    train_adapter(tiny_base, sentiment_rows, recipe=fast_recipe, out=tmp_path / "adapter")
    assert tiny_base.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("window", [None, 5], ids=["all", "sliding window"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fused", "products"])
def test_attention_and_its_gradients_are_right_for_shared_keys(dtype, window):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 6, 12, 8), (2, 3, 12, 8), (2, 3, 12, 8)]
    inputs = [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]
    states = attention._attend(*inputs, 0.3, 0.0, window)
    states.float().square().sum().backward()

    exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
    query, key, value = exact[0], *(tensor.repeat_interleave(2, 1) for tensor in exact[1:])
    at = torch.arange(12)
    distance = at[:, None] - at[None, :]
    mask = (distance >= 0) & (distance < (window or 99))
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)
    expected.square().sum().backward()
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    assert torch.allclose(states.float(), expected, atol=tolerance)
    for found, wanted in zip(inputs, exact, strict=True):
        error = (found.grad.float() - wanted.grad).norm() / wanted.grad.norm()
        assert error < tolerance


def test_the_lora_layer_passes_torch_s_own_check_of_gradients():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weight, bias = draw(5, 4), draw(5)
    trained = [draw(2, 3, 4), draw(2, 4), draw(5, 2)]
    for tensor in trained:
        tensor.requires_grad_()

    def layer(states, a, b):
        return _LoraLinear.apply(states, weight, bias, a, b, 1.7)

    assert torch.autograd.gradcheck(layer, trained)
    states, a, b = trained
    assert torch.allclose(layer(*trained), states @ weight.T + bias + 1.7 * states @ a.T @ b.T)
