from dataclasses import dataclass

import pytest

from adapt_lora.errors import TrainingError
from adapt_lora.report.plots import plot_loss
from tests.report.plots.conftest import pixels


@dataclass
class Step:
    step: int
    loss: float
    learning_rate: float


@pytest.mark.parametrize(("n_steps", "n_lines"), [(1, 1), (2, 1), (60, 2)])
def test_loss_and_rate_stand_over_steps_and_long_runs_are_smoothed(
    n_steps, n_lines, drawn, tmp_path
):
    history = [Step(i + 1, 3 / (i + 1), 1e-4) for i in range(n_steps)]
    pixels(plot_loss(history, tmp_path / "a.png"))
    upper, lower = drawn[0].axes
    assert len(upper.lines) == n_lines
    assert list(upper.lines[0].get_xdata()) == [step.step for step in history]
    assert list(upper.lines[0].get_ydata()) == [step.loss for step in history]
    assert upper.get_ylabel() == "loss (nats per token)"
    assert list(lower.lines[0].get_ydata()) == [1e-4] * n_steps
    assert lower.get_xlabel() == "optimiser step"


def test_the_smoothed_loss_is_a_running_mean(drawn, tmp_path):
    plot_loss([Step(i, float(i % 2), 1e-4) for i in range(40)], tmp_path / "a.png")
    smooth = drawn[0].axes[0].lines[1].get_ydata()
    assert smooth[4:-4] == pytest.approx(0.5)


def test_a_run_without_steps_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="no step"):
        plot_loss([], tmp_path / "a.png")
