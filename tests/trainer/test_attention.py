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


@pytest.mark.parametrize("window", [None, 5], ids=["all", "sliding window"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fused", "products"])
def test_rows_that_share_a_beginning_attend_as_if_each_had_it_in_front(dtype, window):
    generator = torch.Generator().manual_seed(0)
    n_shared, lengths = 7, [5, 1, 9]
    shapes = [(1, heads, n_shared + sum(lengths), 8) for heads in (6, 3, 3)]
    together = [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]
    apart = [tensor.detach().clone().requires_grad_() for tensor in together]
    states, _ = attention._attend_rows(
        None,
        *together,
        None,
        scaling=0.3,
        sliding_window=window,
        row_lengths=lengths,
        n_shared=n_shared,
    )  # (1, tokens, heads, d)
    states[:, n_shared:].float().square().sum().backward()
    ends, start = [], n_shared
    for length in lengths:
        row = [
            torch.cat([tensor[:, :, :n_shared], tensor[:, :, start : start + length]], dim=2)
            for tensor in apart
        ]
        whole, _ = attention._attend_rows(None, *row, None, scaling=0.3, sliding_window=window)
        ends.append(whole[:, n_shared:])
        start += length
    expected = torch.cat(ends, dim=1)
    expected.float().square().sum().backward()
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    assert torch.allclose(states[:, n_shared:].float(), expected.float(), atol=tolerance)
    for found, wanted in zip(together, apart, strict=True):
        error = (found.grad.float() - wanted.grad.float()).norm() / wanted.grad.float().norm()
        assert error < tolerance
