import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from adapt_lora.trainer import attention


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
