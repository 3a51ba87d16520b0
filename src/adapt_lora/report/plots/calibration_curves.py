"""A back-test's predictions against what was measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt_lora.errors import RecommendError
from adapt_lora.recommender.calibration import OutOfFold, Share, calibrate
from adapt_lora.registry.records import Unit
from adapt_lora.report.plots.style import (
    BLUE,
    INK,
    MARKERS,
    QUIET,
    SERIES,
    VERMILION,
    draw_plain_frame,
    new_figure,
    plain_label,
    save_figure,
)
from adapt_lora.report.wording import UNIT_WORDS, share_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More colours than this can't be told apart.
_MAX_NAMED_GROUPS = 8

_INTERVAL_SHADE = "#E3E8EE"


def plot_calibration(
    cells: Sequence[OutOfFold], path: str | Path, *, unit: Unit = "points", title: str = ""
) -> Path:
    """Draw a back-test's gains, odds and intervals against what was measured; the PNG's path.

    Left: each predicted gain against the measured one, bars for the intervals. Right: predicted
    probability of harm against its share, and nominal against observed coverage.

    Args:
        cells: Predictions made without their task's group.
        path: Where to write.
        unit: What gains are counted in.
        title: Stands above the picture.

    Raises:
        RecommendError: No gain was predicted.
    """
    if not cells:
        raise RecommendError(
            "No gain was predicted in the back-test, so there is nothing to draw: it needs base "
            "scores on at least three task groups."
        )
    figure = new_figure(9.0, 5.4)
    spots = figure.add_gridspec(2, 2, width_ratios=(1.5, 1.0))
    left = figure.add_subplot(spots[:, 0])
    _draw_out_of_fold(left, cells, unit)
    found = calibrate(cells)
    _draw_shares(
        figure.add_subplot(spots[0, 1]),
        found.harm,
        "Probability of harm",
        ("predicted P(gain < 0)", "share that lost"),
        colour=VERMILION,
    )
    _draw_shares(
        figure.add_subplot(spots[1, 1]),
        found.coverage,
        "Intervals",
        ("nominal level", "share inside"),
        colour=BLUE,
    )
    figure.suptitle(
        plain_label(title, 90) if title else "", fontsize=11, fontweight="bold", x=0.01, ha="left"
    )
    return save_figure(figure, path)


def _draw_out_of_fold(axes: "Axes", cells: Sequence[OutOfFold], unit: Unit) -> None:
    scale = 100 if unit == "points" else 1
    x = scale * np.array([cell.predicted for cell in cells])
    y = scale * np.array([cell.measured for cell in cells])
    spans = [(cell.predicted, cell.interval) for cell in cells if cell.interval is not None]
    if spans:
        axes.vlines(
            [scale * predicted for predicted, _ in spans],
            [scale * low for _, (low, _) in spans],
            [scale * high for _, (_, high) in spans],
            color=_INTERVAL_SHADE,
            linewidth=3,
            zorder=0,
            label="interval",
        )
    groups = np.array([cell.group for cell in cells])
    # The groups that reach farthest are the ones that a reader asks about.
    reach = {name: float(np.abs(y[groups == name]).max()) for name in dict.fromkeys(groups)}
    named = sorted(reach, key=lambda name: -reach[name])[:_MAX_NAMED_GROUPS]
    rest = ~np.isin(groups, named)
    look: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.5, "zorder": 3}
    if rest.any():
        n_rest = len(reach) - len(named)
        axes.scatter(x[rest], y[rest], s=16, color=QUIET, label=f"{n_rest} more groups", **look)
    for number, name in enumerate(named):
        mine = groups == name
        axes.scatter(
            x[mine],
            y[mine],
            s=30,
            color=SERIES[number % len(SERIES)],
            marker=MARKERS[number // len(SERIES)],
            label=plain_label(str(name), 22),
            **look,
        )
    axes.axhline(0, color=QUIET, linewidth=0.8, zorder=1)
    axes.axvline(0, color=QUIET, linewidth=0.8, zorder=1)
    margin = 0.05 * (np.ptp(x) or 1.0)
    ends = (float(x.min() - margin), float(x.max() + margin))
    axes.plot(ends, ends, color=INK, linewidth=1, linestyle="--", zorder=2, label="as predicted")
    axes.set(xlim=ends, ylim=_measured_limits(y, cells, scale))
    axes.set_xlabel(f"predicted gain ({UNIT_WORDS[unit]})", fontsize=9)
    axes.set_ylabel(f"measured gain ({UNIT_WORDS[unit]})", fontsize=9)
    right = float(((x > 0) == (y > 0)).mean())
    axes.set_title(
        f"{len(cells):,} gains, each task unseen: {share_text(right)} of the signs right",
        loc="left",
        fontsize=10,
    )
    axes.legend(
        frameon=False, fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4
    )
    draw_plain_frame(axes)


def _measured_limits(
    y: np.ndarray, cells: Sequence[OutOfFold], scale: float
) -> tuple[float, float]:
    """Limits that hold every measured gain, and intervals as far as dots stay readable."""
    low, high = min(float(y.min()), 0.0), max(float(y.max()), 0.0)
    room = (high - low) or 1.0
    ends = [scale * end for cell in cells if cell.interval for end in cell.interval]
    low = max(min([low, *ends]), low - 0.15 * room)
    high = min(max([high, *ends]), high + 0.15 * room)
    return low - 0.03 * room, high + 0.03 * room


def _draw_shares(
    axes: "Axes", shares: Sequence[Share], title: str, names: tuple[str, str], *, colour: str
) -> None:
    """Observed shares against predicted ones, with 95 % intervals and the line of truth."""
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle="--", zorder=1)
    if shares:
        x = np.array([share.predicted for share in shares])
        y = np.array([share.observed for share in shares])
        off = np.array(
            [[max(0.0, s.observed - s.low), max(0.0, s.high - s.observed)] for s in shares]
        )
        axes.errorbar(
            x, y, off.T, color=colour, marker="o", markersize=5, linewidth=1.2, capsize=3, zorder=3
        )
        total = (
            max(share.n for share in shares)
            if names[0] == "nominal level"
            else sum(share.n for share in shares)
        )
        axes.set_title(f"{title} ({total:,} cells)", loc="left", fontsize=10)
    else:
        axes.set_title(f"{title}: too few task groups", loc="left", fontsize=10)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    ticks = [0, 0.25, 0.5, 0.75, 1]
    words = [f"{tick:.0%}".replace("%", " %") for tick in ticks]
    axes.set_xticks(ticks, words)
    axes.set_yticks(ticks, words)
    axes.set_xlabel(names[0], fontsize=9)
    axes.set_ylabel(names[1], fontsize=9)
    draw_plain_frame(axes)
