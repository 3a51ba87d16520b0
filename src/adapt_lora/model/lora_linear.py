"""A LoRA layer that keeps its input once, in the base's own type, and makes no copies of it.

PEFT's layer turns its input into float32 for the update, three times where queries, keys and values
share it, and autograd keeps each copy: most of a training's memory, and a third of its time.
"""

import functools
from typing import Any

import torch
from peft.tuners.lora import Linear


def speed_up_lora(peft_model: Any) -> None:
    """Let every plain LoRA layer of the model compute by `_LoraLinear`; others stay as they are.

    Variants of LoRA, dropout on the update, and layers that are not linear keep PEFT's own way.
    """
    for module in peft_model.modules():
        if type(module) is Linear and _is_plain(module):
            # On the object, so that PEFT's class is left alone; it goes when the layer goes.
            module.__dict__["forward"] = functools.partial(_lora_forward, module)


def _is_plain(module: Any) -> bool:
    return (
        type(module.base_layer) is torch.nn.Linear
        and not module.merged
        and module.active_adapters == ["default"]
        and "default" not in module.lora_variant
        and not module.lora_bias.get("default", False)
        and isinstance(module.lora_dropout["default"], torch.nn.Identity)
    )


def _lora_forward(module: Any, states: torch.Tensor) -> torch.Tensor:
    layer = module.base_layer
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    output: torch.Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
        states, layer.weight, layer.bias, a, b, float(module.scaling["default"])
    )
    return output


class _LoraLinear(torch.autograd.Function):
    """x ↦ x Wᵀ + bias + scaling · x Aᵀ Bᵀ, with gradients of x, A and B; W is frozen."""

    @staticmethod
    def forward(
        context: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        x = states.reshape(-1, states.shape[-1])  # (n_tokens, n_in)
        a, b = a.to(x.dtype), b.to(x.dtype)
        inner = x @ a.T  # (n_tokens, r)
        output = torch.nn.functional.linear(x, weight, bias)
        output.addmm_(inner, b.T, alpha=scaling)
        context.save_for_backward(x, weight, a, b, inner)
        context.scaling = scaling
        return output.view(*states.shape[:-1], -1)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        x, weight, a, b, inner = context.saved_tensors
        shape = gradients[0].shape
        gradient = gradients[0].reshape(-1, shape[-1])  # (n_tokens, n_out)
        of_inner = (gradient @ b).mul_(context.scaling)  # (n_tokens, r)
        of_a = of_b = of_states = None
        if context.needs_input_grad[0]:
            of_states = (gradient @ weight).addmm_(of_inner, a).view(*shape[:-1], -1)
        if context.needs_input_grad[3]:
            of_a = of_inner.T @ x
        if context.needs_input_grad[4]:
            of_b = (gradient.T @ inner).mul_(context.scaling)
        # Autograd turns these into the parameters' own float32 where the base is narrower.
        return of_states, None, None, of_a, of_b, None
