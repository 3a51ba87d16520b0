"""What a training leaves behind: figures of each step and each epoch, and of the whole."""

from dataclasses import dataclass
from pathlib import Path

from adapt_lora.trainer.recipe import Recipe


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """What one optimiser step looked like."""

    step: int
    """Number of the step, from 1."""
    loss: float
    """Mean negative log-likelihood over the step's response tokens, before the update, nats."""
    learning_rate: float
    """Learning rate of the update."""
    grad_norm: float
    """Norm of the gradient before it was clipped."""
    tokens_per_s: float
    """Real tokens (padding not counted), prompt and response, through this step per second."""
    peak_memory_mib: float | None
    """Most memory held so far: of the process on a CPU, of the allocator on a GPU; None where the
    system does not count it."""


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """How the training stood at the end of an epoch."""

    epoch: int
    """Number of the epoch, from 1."""
    train_loss: float
    """Mean loss per response token over the epoch, each batch before its update, nats."""
    held_out_loss: float | None = None
    """Mean loss per held-out response token after it; None where it was not measured."""
    folder: Path | None = None
    """The adapter as it was then; None unless the recipe keeps epochs, and for the last one."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A finished training."""

    folder: Path
    """The adapter: adapter_config.json, adapter_model.safetensors, README.md."""
    recipe: Recipe
    """The settings it was trained with."""
    history: tuple[StepMetrics, ...]
    """One record per optimiser step."""
    train_loss: float
    """Mean loss per response token over the last epoch, each batch before its update, nats."""
    held_out_loss: float | None
    """Mean loss per response token on rows kept aside; None when the data were too few."""
    held_out_loss_base: float | None
    """The same rows and tokens before training: what the base model alone gets."""
    n_rows: int
    """Rows trained on."""
    n_held_out: int
    """Rows kept aside."""
    n_too_long: int
    """Rows left out for having more tokens than the recipe's max_length."""
    n_without_response: int
    """Rows left out for having nothing to learn."""
    n_tokens: int
    """Real tokens trained on, over all epochs."""
    train_seconds: float
    """Wall time of the optimiser steps alone."""
    seconds: float
    """Wall time, from the first encoding to the finished folder; what an interrupted run spent on
    steps is counted in."""
    epochs: tuple[EpochRecord, ...] = ()
    """One record per epoch."""
    resumed_at: int = 0
    """Steps that an interrupted run had done already; 0 for a run in one piece."""
    notes: tuple[str, ...] = ()
    """What a person should know about the run, one sentence each."""

    @property
    def tokens_per_s(self) -> float:
        """Real tokens per second over all steps, without encoding and held-out passes."""
        return self.n_tokens / self.train_seconds

    @property
    def peak_memory_mib(self) -> float | None:
        """Most memory held in training, where the system counts it."""
        return self.history[-1].peak_memory_mib
