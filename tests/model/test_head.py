"""The head against what transformers itself makes of the same hidden states."""

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from adapt_lora.model.head import Head

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MODELS = {
    "plain": lambda: GraniteForCausalLM(GraniteConfig(**SIZES)),
    "divided": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=8.0)),
    "multiplied": lambda: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.0625)),
    "soft cap": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.5)
    ),
}


def build(kind):
    torch.manual_seed(0)
    return MODELS[kind]().eval()


@pytest.mark.parametrize("exact", [False, True], ids=["layer", "copy"])
@pytest.mark.parametrize("kind", MODELS)
def test_logits_are_those_of_the_whole_model(kind, exact):
    model, ids = build(kind), torch.tensor([[5, 7, 11, 13]])
    with torch.no_grad():
        states = model.get_decoder()(input_ids=ids).last_hidden_state[0]
        logits = Head(model, exact=exact).logits(states)
        expected = model(input_ids=ids).logits[0]
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=1e-5)


def test_a_soft_cap_bounds_the_logits_and_a_frozen_line_has_none():
    model = build("soft cap").requires_grad_(False)
    head = Head(model)
    states = 100 * torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    assert float(head.logits(states).abs().max()) == pytest.approx(0.5)
    assert not head.is_frozen_linear


@pytest.mark.parametrize("kind", ["plain", "divided"])
def test_a_head_is_a_frozen_line_until_it_is_trained(kind):
    model = build(kind)
    assert not Head(model).is_frozen_linear
    model.requires_grad_(False)
    assert Head(model).is_frozen_linear


def test_a_half_precision_head_is_exact_on_request_alone():
    model = build("plain").requires_grad_(False).to(torch.bfloat16)
    states = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    rounded, exact = Head(model).logits(states), Head(model, exact=True).logits(states)
    assert rounded.dtype == exact.dtype == torch.float32
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert torch.equal(exact, states.float() @ model.lm_head.weight.float().T)


@pytest.mark.parametrize("kind", ["divided", "soft cap"])
def test_gradients_flow_through_what_follows_the_layer(kind):
    model = build(kind)
    states = torch.randn(
        2, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True
    )
    with torch.no_grad():
        by_scale = Head(model).logits(states)
    logits = Head(model).logits(states)
    torch.testing.assert_close(logits.detach(), by_scale)
    (gradient,) = torch.autograd.grad(logits.sum(), states)
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        rise = Head(model).logits(states + step).sum() - Head(model).logits(states - step).sum()
    assert float(rise) == pytest.approx(2e-2 * float(gradient.norm()), rel=1e-2)
