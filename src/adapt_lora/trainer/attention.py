"""Causal attention in which every row sees itself alone: of a padded batch, or of a packed one.

Of a packed sequence only the attention knows where rows begin and end; all else in a decoder works
token by token. Short rows of a bfloat16 model on a CPU get matrix products of their own, since
torch's fused kernel spends more time on them than the rest of a layer.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

_NAME = "adapt_rows"
# Scores of a row are held whole below this length: 9 heads × 512² × 2 bytes are 5 MB.
_SHORT = 512


@contextlib.contextmanager
def row_attention(model: Any) -> Iterator[bool]:
    """Let the decoder attend row by row, for the duration of a `with` block.

    Yields:
        Whether it does: a model whose attention can't be exchanged stays as it is, and can't read
        packed rows.
    """
    config = model.config.get_text_config()
    own = config._attn_implementation
    fits = own == "sdpa" and getattr(model, "_supports_attention_backend", False)
    if fits:
        config._attn_implementation_internal = _NAME
    try:
        yield fits
    finally:
        config._attn_implementation_internal = own


def _attend_rows(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    row_lengths: Sequence[int] | None = None,
    n_shared: int = 0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: query (n, heads, t, d), key and value (n, key heads, t, d).

    Args:
        module: The attention layer.
        query: Of a batch of rows, or of one row that holds several.
        key: As `query`.
        value: As `query`.
        attention_mask: Never given: padding stands on the right, behind the causal mask.
        scaling: Factor of the scores; 1/√d if absent.
        dropout: Share of the attention weights that is dropped.
        sliding_window: Tokens that a token sees at most, itself among them; all if absent.
        row_lengths: Tokens of each packed row; absent for a padded batch.
        n_shared: Tokens in front of the packed rows with which each of them begins.

    Returns:
        The states, (n, t, heads, d), and no weights.
    """
    assert attention_mask is None
    scaling = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    if row_lengths is None:
        states = _attend(query, key, value, scaling, dropout, sliding_window)
    else:
        sizes = [n_shared, *row_lengths]
        front, *queries = query.split(sizes, dim=2)
        first_key, *keys = key.split(sizes, dim=2)
        first_value, *values = value.split(sizes, dim=2)
        if n_shared:
            queries = [front, *queries]
            keys = [first_key, *(torch.cat([first_key, row], dim=2) for row in keys)]
            values = [first_value, *(torch.cat([first_value, row], dim=2) for row in values)]
        rows = zip(queries, keys, values, strict=True)
        states = torch.cat(
            [_attend(q, k, v, scaling, dropout, sliding_window) for q, k, v in rows], dim=2
        )
    return states.transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _attend_rows)


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    dropout: float,
    window: int | None,
) -> torch.Tensor:
    """Causal attention of the last t of a row's tokens, (n, heads, t, d)."""
    length, in_all = query.shape[2], key.shape[2]
    narrow = window is not None and window < in_all
    by_products = query.device.type == "cpu" and query.dtype == torch.bfloat16
    if by_products and in_all <= _SHORT and not dropout:
        states: torch.Tensor = _ShortAttention.apply(  # type: ignore[no-untyped-call]
            query, key, value, scaling, window if narrow else None
        )
        return states
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    plain = length == in_all and not narrow
    mask = None if plain else ~_hidden(length, in_all, window if narrow else None, query.device)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
    )


def _hidden(length: int, in_all: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Which tokens (columns) each of the last `length` (rows) does not see, (length, in_all)."""
    everywhere = torch.ones(in_all, in_all, dtype=torch.bool, device=device)
    later = everywhere.triu(1)
    unseen = later if window is None else later | everywhere.tril(-window)
    return unseen[in_all - length :]


class _ShortAttention(torch.autograd.Function):
    """Attention by plain matrix products; query heads that share a key head go through as one."""

    @staticmethod
    def forward(
        context: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        n, heads, length, d = query.shape
        key_heads = key.shape[1]
        query = query.reshape(n, key_heads, -1, d)  # (n, key heads, group · t, d)
        key, value = key.contiguous(), value.contiguous()
        in_all = key.shape[2]
        scores = (query * scaling) @ key.transpose(-1, -2)  # (n, key heads, group · t, in all)
        scores.view(n, heads, length, in_all).masked_fill_(
            _hidden(length, in_all, window, query.device), -torch.inf
        )
        weights = scores.softmax(-1)
        context.save_for_backward(query, key, value, weights)
        context.scaling = scaling
        return (weights @ value).view(n, heads, length, d)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        query, key, value, weights = context.saved_tensors
        (gradient,) = gradients
        n, heads, length, d = gradient.shape
        gradient = gradient.reshape(query.shape)
        of_value = weights.transpose(-1, -2) @ gradient
        of_weights = gradient @ value.transpose(-1, -2)
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        of_scores.mul_(context.scaling)
        of_query = (of_scores @ key).view(n, heads, length, d)
        return of_query, of_scores.transpose(-1, -2) @ query, of_value, None, None
