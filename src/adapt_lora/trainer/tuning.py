"""A base model in training: a fresh LoRA or every weight, and back to what it was, bit for bit."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from adapt_lora.errors import TrainingError, reason_of
from adapt_lora.model.base import BaseModel
from adapt_lora.model.lora_linear import speed_up_lora
from adapt_lora.trainer.attention import row_attention
from adapt_lora.trainer.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Tuning:
    """A base model with something on it that learns."""

    base: BaseModel
    """The model that is trained on."""
    recipe: Recipe
    """How it learns."""
    model: Any
    """PEFT's wrapper around it; the model itself where every weight learns."""
    before: Mapping[str, torch.Tensor] | None = None
    """Every weight as it was, by name; None where they are frozen under a LoRA."""
    by_rows: bool = False
    """Whether the model's attention can keep rows of one sequence apart."""

    @property
    def shares_beginnings(self) -> bool:
        """Whether what rows begin with is read once for all rows of a step.

        The gradients are the same, but for dropout, which would be drawn once too. On a GPU rows
        side by side keep it busier.
        """
        return self.by_rows and not self.recipe.lora_dropout and self.base.device == "cpu"

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What learns, by name; shared weights once."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def changes(self) -> dict[str, torch.Tensor]:
        """How far the weight of each target module has come, (n_out, n_in); none under a LoRA."""
        if self.before is None:
            return {}
        return {
            name: module.weight.detach() - self.before[f"{name}.weight"]
            for name, module in self.model.named_modules()
            if isinstance(module, torch.nn.Linear)
            and name.rpartition(".")[2] in self.recipe.target_modules
        }


def check_dtype(base: BaseModel, recipe: Recipe) -> None:
    """Make sure that the base's weights are of the type that the recipe needs.

    Raises:
        TrainingError: They are not.
    """
    held = str(base.dtype).removeprefix("torch.")
    if recipe.method == "full" and base.dtype != torch.float32:
        raise TrainingError(
            f"Full fine-tuning needs float32 weights, since small steps are lost in {held}. "
            f"Load {base.identity.name} in float32: set dtype=float32."
        )
    if recipe.dtype not in ("auto", held):
        raise TrainingError(
            f"Recipe '{recipe.name}' asks for {recipe.dtype}, but {base.identity.name} is loaded "
            f"in {held}. Load it in {recipe.dtype}, or set the recipe's dtype to 'auto'."
        )


def lora_config(recipe: Recipe) -> LoraConfig:
    """The recipe's update in PEFT's words."""
    return LoraConfig(
        r=recipe.r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
        target_modules=list(recipe.target_modules),
        task_type="CAUSAL_LM",
    )


@contextlib.contextmanager
def tuned(base: BaseModel, recipe: Recipe) -> Iterator[Tuning]:
    """The base model as the recipe trains it, for the duration of a `with` block.

    Raises:
        TrainingError: An adapter is on, no layer bears a name of target_modules, or rows are to be
            packed and the model can't keep them apart.
    """
    if base.adapter_digest is not None:
        raise TrainingError("An adapter is on the base model; leave its block before training.")
    model = base.model
    needed_grad = {name: p.requires_grad for name, p in model.named_parameters()}
    put_on = _lora_on if recipe.method == "lora" else _every_weight_on
    try:
        with put_on(base, recipe) as tuning, row_attention(model) as by_rows:
            if recipe.packing and not by_rows:
                raise TrainingError(
                    f"The attention of {base.identity.name} can't keep packed rows apart. Set "
                    "packing=false."
                )
            if recipe.gradient_checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            yield replace(tuning, by_rows=by_rows)
    finally:
        if recipe.gradient_checkpointing:
            model.gradient_checkpointing_disable()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(needed_grad[name])
        model.eval()


@contextlib.contextmanager
def _lora_on(base: BaseModel, recipe: Recipe) -> Iterator[Tuning]:
    try:
        # PEFT holds the new weights in float32 even where the frozen ones are bfloat16.
        wrapped = get_peft_model(base.model, lora_config(recipe))
    except ValueError as error:
        raise TrainingError(
            f"{base.identity.name} can't take a LoRA on {', '.join(recipe.target_modules)}: "
            f"{reason_of(error)}"
        ) from error
    try:
        speed_up_lora(wrapped)
        yield Tuning(base, recipe, wrapped)
    finally:
        wrapped.unload()


@contextlib.contextmanager
def _every_weight_on(base: BaseModel, recipe: Recipe) -> Iterator[Tuning]:
    parameters = dict(base.model.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    tuning = Tuning(base, recipe, base.model, before)
    if not tuning.changes():
        raise TrainingError(
            f"{base.identity.name} has no linear layer called {', '.join(recipe.target_modules)}, "
            "so nothing of a full fine-tuning could be kept. Set target_modules."
        )
    try:
        base.model.requires_grad_(True)
        yield tuning
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(before[name])
                parameter.grad = None
