import pytest
from matplotlib.collections import LineCollection, PathCollection

from adapt_lora.errors import RecommendError
from adapt_lora.recommender.calibration import LEVELS, OutOfFold
from adapt_lora.report.plots import plot_calibration
from tests.report.plots.conftest import panel, pixels, texts


def out_of_fold(n_groups: int) -> list[OutOfFold]:
    return [
        OutOfFold(
            f"a{i}",
            f"t{g}",
            f"group_{g}$",
            0.01 * i - 0.02,
            0.02 * g - 0.01 * i,
            (-0.1, 0.2 + 0.01 * i),
            0.1 * i,
            0.1 * ((i + g) % 10),
        )
        for g in range(n_groups)
        for i in range(8)
    ]


@pytest.mark.parametrize("n_groups", [1, 8, 30])
def test_a_backtests_gains_odds_and_intervals_are_drawn(n_groups, drawn, tmp_path):
    pixels(plot_calibration(out_of_fold(n_groups), tmp_path / "a.png", title="a registry"))
    assert "a registry" in texts(drawn[0])
    gains = panel(drawn[0], f"{8 * n_groups} gains, each task unseen")
    dots = [one for one in gains.collections if isinstance(one, PathCollection)]
    assert sum(len(one.get_offsets()) for one in dots) == 8 * n_groups
    (spans,) = [one for one in gains.collections if isinstance(one, LineCollection)]
    assert len(spans.get_segments()) == 8 * n_groups
    assert gains.get_xlabel() == "predicted gain (points)"
    assert gains.get_ylabel() == "measured gain (points)"
    named = [words for words in texts(gains) if words.startswith("group_")]
    assert len(named) == min(n_groups, 8)  # more colours can't be told apart
    assert ("22 more groups" in texts(gains)) == (n_groups == 30)
    harm = panel(drawn[0], f"Probability of harm ({8 * n_groups} cells)")
    assert harm.get_xlabel() == "predicted P(gain < 0)"
    levels = panel(drawn[0], f"Intervals ({8 * n_groups} cells)")
    assert list(levels.lines[1].get_xdata()) == pytest.approx(list(LEVELS))


def test_gains_without_odds_or_intervals_are_drawn_alone(drawn, tmp_path):
    bare = [OutOfFold("a", "t", "g", 0.1 * i, -0.1 * i) for i in range(3)]
    pixels(plot_calibration(bare, tmp_path / "a.png", unit="nats"))
    gains = panel(drawn[0], "3 gains")
    assert gains.get_xlabel() == "predicted gain (nats per token)"
    assert not [one for one in gains.collections if isinstance(one, LineCollection)]
    for title in ("Probability of harm", "Intervals"):
        assert len(panel(drawn[0], f"{title}: too few task groups").lines) == 1


def test_a_backtest_without_gains_says_what_it_needs(tmp_path):
    with pytest.raises(RecommendError, match="base scores on at least three task groups"):
        plot_calibration([], tmp_path / "a.png")
