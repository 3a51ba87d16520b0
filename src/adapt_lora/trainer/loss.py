"""Loss of response tokens: the head runs at answer positions alone, a piece at a time."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from adapt_lora.errors import TrainingError
from adapt_lora.model.base import BaseModel
from adapt_lora.model.head import POSITIONS_AT_ONCE, Head
from adapt_lora.model.scoring import Encoded, shared_beginning

# Widths of padded batches are multiples of this: a CPU's library compiles and keeps code for each
# width it meets, half a megabyte for each of a dozen products: 0.8 GB over 200 widths.
_WIDTH_STEP = 8


def response_nll(
    base: BaseModel,
    rows: Sequence[Encoded],
    *,
    packed: bool = False,
    share_beginning: bool = False,
) -> torch.Tensor:
    """Negative log-likelihood of every response token of a batch, (n_response_tokens,), float32.

    Args:
        base: The model with what is trained on it.
        rows: The batch.
        packed: One row after another instead of side by side.
        share_beginning: Read what all prompts begin with (the template, a task's instruction) once,
            as the beginning of every row; the rows are packed then.
    """
    prompts = [row.prompt_ids for row in rows]
    n_shared = shared_beginning(prompts) if share_beginning and len(rows) > 1 else 0
    packed = packed or n_shared > 0
    hidden = _packed_states(base, rows, n_shared) if packed else _padded_states(base, rows)
    lengths = [row.n_tokens for row in rows]
    width = len(hidden) // len(rows)
    # Where a row would start if all of it stood there.
    if packed:
        starts = np.cumsum([0, *(length - n_shared for length in lengths[:-1])])
    else:
        starts = width * np.arange(len(rows))
    # A state predicts the token after it.
    before = [
        int(start) + at - 1
        for start, row, length in zip(starts, rows, lengths, strict=True)
        for at in range(len(row.prompt_ids), length)
    ]
    states = hidden[torch.tensor(before, device=base.device)]  # (n_response_tokens, hidden)
    answers = [token for row in rows for token in row.response_ids]
    targets = torch.tensor(answers, device=base.device)
    head = Head(base.model)
    if head.is_frozen_linear:
        nll: torch.Tensor = _FrozenNll.apply(states, targets, head)  # type: ignore[no-untyped-call]
        return nll
    if len(states) <= POSITIONS_AT_ONCE:
        return _nll(head, states, targets)
    pieces = zip(states.split(POSITIONS_AT_ONCE), targets.split(POSITIONS_AT_ONCE), strict=True)
    return torch.cat([checkpoint(_nll, head, s, t, use_reentrant=False) for s, t in pieces])


@torch.no_grad()
def mean_loss(base: BaseModel, rows: Sequence[Encoded], batch_size: int) -> float | None:
    """Mean loss per response token with whatever is on the model now; None without rows.

    Where memory does not hold `batch_size` rows, fewer go through at once.
    """
    if not rows:
        return None
    base.model.eval()
    by_length = sorted(rows, key=lambda row: row.n_tokens)
    while True:
        try:
            parts = [
                response_nll(base, by_length[i : i + batch_size])
                for i in range(0, len(by_length), batch_size)
            ]
            return float(torch.cat(parts).mean())
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise no_room("on the held-out rows", by_length) from error
        torch.cuda.empty_cache()
        batch_size = (batch_size + 1) // 2


def no_room(where: str, rows: Sequence[Encoded]) -> TrainingError:
    """The error of memory that does not hold one row; `where` says when, e.g. "at step 3"."""
    longest = max(row.n_tokens for row in rows)
    return TrainingError(
        f"Out of memory {where} with one row at a time (of {longest} tokens). "
        "Set gradient_checkpointing=true, lower max_length or r, or take a smaller base model."
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether fewer rows at a time might have gone through."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        # Torch's CPU allocator has no error of its own.
        "can't allocate memory" in str(error)
    )


def _padded_states(base: BaseModel, rows: Sequence[Encoded]) -> torch.Tensor:
    """Last hidden states of rows side by side, (rows · width, hidden)."""
    longest = max(row.n_tokens for row in rows)
    width = math.ceil(longest / _WIDTH_STEP) * _WIDTH_STEP
    width = max(longest, min(width, base.context_length or width))
    pad = int(base.tokenizer.pad_token_id or 0)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : row.n_tokens] = torch.tensor([*row.prompt_ids, *row.response_ids])
    # Padding stands on the right, where the causal mask already hides it from every real token;
    # without a mask of its own the attention kernel takes its faster path.
    states = base.model.get_decoder()(input_ids=ids.to(base.device), use_cache=False)
    hidden: torch.Tensor = states.last_hidden_state
    return hidden.flatten(0, 1)


def _packed_states(base: BaseModel, rows: Sequence[Encoded], n_shared: int) -> torch.Tensor:
    """Last hidden states of rows one after another, (tokens, hidden); none sees another.

    The tokens that all rows begin with stand once, in front.
    """
    lengths = [row.n_tokens - n_shared for row in rows]
    ids = list(rows[0].prompt_ids[:n_shared])
    ids += [token for row in rows for token in (*row.prompt_ids[n_shared:], *row.response_ids)]
    positions = list(range(n_shared))
    positions += [at for length in lengths for at in range(n_shared, n_shared + length)]
    states = base.model.get_decoder()(
        input_ids=torch.tensor([ids], device=base.device),
        position_ids=torch.tensor([positions], device=base.device),
        use_cache=False,
        row_lengths=lengths,
        n_shared=n_shared,
    )
    hidden: torch.Tensor = states.last_hidden_state
    return hidden[0]


def _nll(head: Head, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(head.logits(states), targets, reduction="none")


class _FrozenNll(torch.autograd.Function):
    """Loss of each state under a frozen head; its gradient is made while the logits are at hand.

    So one piece's logits are held, in one copy, and no product with the head is made twice.
    """

    @staticmethod
    def forward(
        context: Any, states: torch.Tensor, targets: torch.Tensor, head: Head
    ) -> torch.Tensor:
        losses, gradients = [], []
        pieces = zip(states.split(POSITIONS_AT_ONCE), targets.split(POSITIONS_AT_ONCE), strict=True)
        for piece, wanted in pieces:
            logits = head.logits(piece)  # (n, vocabulary)
            total = logits.logsumexp(1, keepdim=True)
            losses.append((total - logits.gather(1, wanted[:, None]))[:, 0])
            if context.needs_input_grad[0]:
                # d loss / d logits: the probabilities, less one at the target.
                slope = logits.sub_(total).exp_()
                slope[torch.arange(len(wanted), device=wanted.device), wanted] -= 1
                gradients.append((slope.to(piece.dtype) @ head.layer.weight).mul_(head.scale))
        if gradients:
            context.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        (of_states,) = context.saved_tensors
        return (of_states * gradients[0][:, None]).to(of_states.dtype), None, None
