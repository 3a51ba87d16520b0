"""How a training went: loss and learning rate over its steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from adapt_lora.errors import TrainingError
from adapt_lora.report.plots.style import (
    BLUE,
    SKY,
    VERMILION,
    draw_plain_frame,
    new_figure,
    save_figure,
)


class LossRecord(Protocol):
    """One step of a training history."""

    @property
    def step(self) -> int:
        """Optimiser steps so far."""

    @property
    def loss(self) -> float:
        """Mean training loss of the step, nats per response token."""

    @property
    def learning_rate(self) -> float:
        """Learning rate of the step."""


def plot_loss(history: Sequence[LossRecord], path: str | Path) -> Path:
    """Draw the training loss and the learning rate over steps; returns the PNG's path.

    Raises:
        TrainingError: The history is empty.
    """
    if not history:
        raise TrainingError("There is no training history to draw: no step was recorded.")
    steps = [record.step for record in history]
    losses = np.array([record.loss for record in history])
    figure = new_figure(7.2, 4.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    one: dict[str, Any] = {"marker": "o"} if len(steps) == 1 else {}
    smooth = _smoothed(losses)
    upper.plot(
        steps, losses, color=SKY, linewidth=1, alpha=0.8 if len(smooth) else 1, label="loss", **one
    )
    if len(smooth):
        upper.plot(steps, smooth, color=BLUE, linewidth=2, label="smoothed")
        upper.legend(frameon=False, loc="upper right")
    upper.set_ylabel("loss (nats per token)")
    upper.set_title("Training loss", loc="left", fontweight="bold")
    rates = [record.learning_rate for record in history]
    lower.plot(steps, rates, color=VERMILION, linewidth=1.5, **one)
    lower.set_ylabel("learning\nrate")
    lower.set_ylim(bottom=0)
    lower.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    lower.set_xlabel("optimiser step")
    figure.align_ylabels([upper, lower])
    for axes in (upper, lower):
        draw_plain_frame(axes)
    return save_figure(figure, path)


def _smoothed(losses: np.ndarray) -> np.ndarray:
    """Running mean over a tenth of the steps, shorter at both ends; empty for short histories."""
    window = len(losses) // 10
    if window < 2:
        return np.empty(0)
    kernel = np.ones(window)
    return np.asarray(
        np.convolve(losses, kernel, "same") / np.convolve(np.ones_like(losses), kernel, "same")
    )
