"""How all pictures look: colours, frames, labels, and how they become files.

Figures are built without pyplot: no global state, no display, safe in threads. Colours are Okabe
and Ito's, which people with any common colour blindness tell apart.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from adapt_lora.report.wording import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

FloatArray = NDArray[np.float64]

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, INK, QUIET = "#CC79A7", "#56B4E9", "#222222", "#8A8A8A"
SERIES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")

_DPI = 150


def new_figure(
    width: float, height: float, *, layout: Literal["constrained"] | None = "constrained"
) -> "Figure":
    """A figure of `width` × `height` inches, at most 40 wide and high."""
    from matplotlib.figure import Figure

    return Figure(figsize=(min(width, 40), min(height, 40)), dpi=_DPI, layout=layout)


def save_figure(figure: "Figure", path: str | Path) -> Path:
    """Write the figure and return where; a Figure without pyplot renders with Agg."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", facecolor="white")
    return path


def draw_plain_frame(axes: "Axes") -> None:
    """Lines on the left and below alone."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def hide_ticks(axes: "Axes") -> None:
    """Labels without ticks and without a frame."""
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)


def plain_label(text: str, limit: int) -> str:
    """A user's name as a label: one line, cut, and no dollar sign read as a formula."""
    return one_line(text, limit=limit).replace("$", r"\$")


def write_cells(
    axes: "Axes", table: np.ndarray, words: Sequence[Sequence[str]], limit: float | None
) -> None:
    """Write each finite cell's words in black or white, whichever its colour lets one read."""
    finite = table[np.isfinite(table)]
    if not finite.size:
        return
    low, high = float(finite.min()), float(finite.max())
    for (row, column), value in np.ndenumerate(table):
        if not np.isfinite(value):
            continue
        # Diverging maps are dark at both ends, the sequential one at the low end.
        reach = low + 0.5 * (high - low)
        dark = value < reach if limit is None else abs(value) > 0.62 * limit
        axes.text(
            column,
            row,
            words[row][column],
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if dark else INK,
        )


def draw_colour_bar(
    image: "AxesImage", axes: "Axes", label: str, *, table: np.ndarray, limit: float | None
) -> None:
    """A bar for the image's colours; arrows where values lie beyond ±`limit`."""
    figure = axes.get_figure()
    if figure is None:
        return
    above = limit is not None and bool(np.nanmax(table, initial=0) > limit)
    below = limit is not None and bool(np.nanmin(table, initial=0) < -limit)
    ends = {(True, True): "both", (True, False): "max", (False, True): "min"}
    bar = figure.colorbar(
        image,
        ax=axes,
        shrink=0.8,
        pad=0.03,
        aspect=max(20, len(table)),
        extend=ends.get((above, below), "neither"),
    )
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
