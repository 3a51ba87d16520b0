"""The output head: next-token logits of some last hidden states, in float32.

Scores and training losses are both read off these logits. What a model's own forward pass does
after its last linear layer, a scale or a soft cap, stands here and nowhere else.
"""

import copy
from typing import Any

import torch

POSITIONS_AT_ONCE = 512
"""Positions whose logits are held together: 512 × 49,152 tokens × 4 bytes is 100 MB."""

# Up to this size a float32 copy of the head is kept: bf16 logits of size 20 are rounded to 1/8 nat.
_COPY_BYTES = 512 * 2**20


class Head:
    """The output head of a causal language model.

    Attributes:
        layer: The model's own, an adapter on it included.
        scale: What the layer's output is multiplied by; 1 for most models.
        softcap: Size that no logit exceeds, by a tanh; None for most models.
    """

    def __init__(self, model: Any, *, exact: bool = False) -> None:
        """Take a model's head as it is now.

        Args:
            model: A transformers causal language model.
            exact: Keep a float32 copy of a small half-precision head on a CPU. The weights must
                stay as they are for as long as this object is used.
        """
        config = model.config.get_text_config()
        self.layer = model.get_output_embeddings()
        self.scale = float(
            (getattr(config, "logit_scale", None) or 1.0)
            / (getattr(config, "logits_scaling", None) or 1.0)
        )
        self.softcap = getattr(config, "final_logit_softcapping", None)
        weight = self.layer.weight
        small = weight.numel() * 4 <= _COPY_BYTES and weight.device.type == "cpu"
        # The whole layer, for PEFT may have put its own in place of a linear one.
        widened = exact and small and weight.dtype != torch.float32
        self._read = copy.deepcopy(self.layer).float() if widened else self.layer

    @property
    def is_frozen_linear(self) -> bool:
        """Whether it is a linear layer that is not trained itself, and no soft cap after it."""
        return (
            type(self.layer) is torch.nn.Linear
            and not self.layer.weight.requires_grad
            and self.softcap is None
        )

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Next-token logits of hidden states (n, d) as (n, vocabulary), float32."""
        logits: torch.Tensor = self._read(states.to(self._read.weight.dtype)).float()
        # In place, unless a gradient needs it whole: a copy of the largest tensor there is.
        if self.scale != 1:
            logits = logits * self.scale if logits.requires_grad else logits.mul_(self.scale)
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits
