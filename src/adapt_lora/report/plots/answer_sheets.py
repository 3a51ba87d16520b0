"""What came out of the cells of one row: confusion of labels, lengths per outcome."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapt_lora.report.confusion import CellOutcomes
from adapt_lora.report.plots.style import (
    BLUE,
    INK,
    ORANGE,
    QUIET,
    SKY,
    VERMILION,
    new_figure,
    plain_label,
)

# Labels of a confusion matrix beyond this many, the rarest, are left out.
_MAX_CONFUSED = 12

_OUTCOME_COLOURS: Mapping[str, str] = {
    **{"TP": BLUE, "FP": VERMILION, "TN": SKY, "FN": ORANGE},
    **{"right": BLUE, "wrong": VERMILION, "all": INK},
}

_OUTCOME_LINES: Mapping[str, str] = {
    **{"TP": "-", "FP": "-", "TN": "--", "FN": "--"},
    **{"right": "-", "wrong": "-", "all": "-"},
}


def plot_outcomes(
    outcomes: Sequence[CellOutcomes], folder: str | Path, *, title: str
) -> dict[str, Path]:
    """Draw one row of the matrix, a panel per task: confusion of labels, lengths per outcome.

    Args:
        outcomes: Of one model on several tasks.
        folder: Where the PNGs go.
        title: What the model is called.

    Returns:
        "confusion.png" and "lengths.png" with their paths; what there is nothing of is absent.
    """
    drawn: dict[str, Path] = {}
    confused = [one for one in outcomes if one.confusion is not None and one.confusion.any()]
    if confused:
        sheet = _Sheet(len(confused), f"Answers of {plain_label(title, 50)}", width=3.6, height=3.3)
        for number, one in enumerate(confused):
            _draw_confusion(sheet, number, one)
        drawn["confusion.png"] = sheet.save(Path(folder) / "confusion.png")
    long = [one for one in outcomes if one.lengths]
    if long:
        head = f"Lengths by outcome, {plain_label(title, 50)}"
        sheet = _Sheet(len(long), head, width=3.6, height=2.6)
        for number, one in enumerate(long):
            _draw_lengths(sheet, number, one)
        drawn["lengths.png"] = sheet.save(Path(folder) / "lengths.png")
    return drawn


class _Sheet:
    """Panels side by side, four in a line, all in one frame of inches, y downward.

    A frame of matplotlib's per panel takes ten times as long, most of it for ticks, and these
    sheets are drawn for every row that is measured.
    """

    def __init__(self, n: int, title: str, *, width: float, height: float) -> None:
        self.columns = min(n, 4)
        self.width, self.height = width, height
        wide = max(width * self.columns + 0.1, 4.6)
        high = height * -(-n // self.columns) + 0.45
        self.figure = new_figure(wide, high, layout=None)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, wide), ylim=(high, 0))
        self.write(0.12, 0.25, title, fontsize=11, fontweight="bold")

    def corner(self, number: int) -> tuple[float, float]:
        """Left and top of a panel."""
        row, column = divmod(number, self.columns)
        return column * self.width, 0.45 + row * self.height

    def write(self, x: float, y: float, words: str, **look: Any) -> None:
        self.axes.text(x, y, words, **{"fontsize": 8, "va": "center", "color": INK, **look})

    def save(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Packing harder takes as long as the drawing.
        packing: dict[str, Any] = {"pil_kwargs": {"compress_level": 1}}
        self.figure.savefig(path, format="png", dpi=110, facecolor="white", **packing)
        return path


def _draw_confusion(sheet: _Sheet, number: int, one: CellOutcomes) -> None:
    """Counts as numbers, shares of each gold label as shades."""
    from matplotlib.collections import PolyCollection

    counts = one.confusion
    if counts is None:
        return
    # Labels that neither occur nor are answered say nothing; beyond a dozen nobody reads them.
    used = [i for i in range(len(counts)) if counts[i].any() or counts[:, i].any()]
    shown = sorted(sorted(used, key=lambda i: -int(counts[i].sum()))[:_MAX_CONFUSED])
    shares = counts[shown] / np.maximum(counts[shown].sum(axis=1, keepdims=True), 1)
    left, top = sheet.corner(number)
    rest = f" ({len(shown)} of {len(used)} labels)" if len(shown) < len(used) else ""
    sheet.write(left + 1.0, top + 0.14, f"{plain_label(one.task, 26)}{rest}", fontsize=9)
    left, top = left + 1.0, top + 0.3
    side_x, side_y = 2.45 / len(shown), 2.05 / len(shown)
    size = 8 if len(shown) <= 6 else 6
    boxes = []
    for row, gold in enumerate(shown):
        for column, answered in enumerate(shown):
            share = shares[row, answered]
            x, y = left + column * side_x, top + row * side_y
            ends = (x + side_x, y + side_y)
            boxes.append([(x, y), (ends[0], y), ends, (x, ends[1])])
            if counts[gold, answered]:
                sheet.write(
                    x + side_x / 2,
                    y + side_y / 2,
                    str(counts[gold, answered]),
                    ha="center",
                    fontsize=size,
                    color="white" if share > 0.5 else INK,
                )
    depth = shares[:, shown].reshape(-1, 1)  # (n_boxes, 1)
    shades = 1 - depth * (1 - np.array([0.03, 0.35, 0.63]))  # from white to blue
    rim: dict[str, Any] = {"facecolors": shades, "edgecolors": "#DDDDDD", "linewidths": 0.5}
    sheet.axes.add_collection(PolyCollection(boxes, **rim), autolim=False)
    for place, label in enumerate(shown):
        name = plain_label(one.labels[label], 14)
        y = top + (place + 0.5) * side_y
        sheet.write(left - 0.06, y, name, ha="right", fontsize=size)
        x, below = left + (place + 0.5) * side_x, top + 2.12
        slant: dict[str, Any] = {"rotation": 30, "rotation_mode": "anchor", "ha": "right"}
        look: dict[str, Any] = slant if len(shown) > 2 else {"ha": "center"}
        sheet.write(x, below, name, va="top", fontsize=size, **look)
    sheet.write(left - 0.06, top - 0.08, "gold ↓  answered →", ha="right", fontsize=6, color=QUIET)


def _draw_lengths(sheet: _Sheet, number: int, one: CellOutcomes) -> None:
    """One outlined histogram per outcome on shared bins, as shares of the outcome's rows."""
    from matplotlib.collections import LineCollection

    shortest = min(min(values) for values in one.lengths.values())
    longest = max(max(values) for values in one.lengths.values())
    n_bins = min(max(longest - shortest, 1), 16)
    edges = np.linspace(shortest, max(longest, shortest + 1), n_bins + 1)
    bars = {
        name: np.histogram(values, bins=edges)[0] / len(values)
        for name, values in one.lengths.items()
    }
    tallest = max(float(shares.max()) for shares in bars.values())
    left, top = sheet.corner(number)
    n_cut, n_ended = one.finishes.get("length", 0), sum(one.finishes.values())
    cut = f", {n_cut} of {n_ended} cut" if n_ended else ""
    about = f", P = {plain_label(one.positive, 12)}" if one.positive else ""
    sheet.write(left + 0.5, top + 0.14, f"{plain_label(one.task, 26)}{about}{cut}", fontsize=9)
    left, top, wide, high = left + 0.5, top + 0.5, 2.9, 1.45
    for place, (name, values) in enumerate(one.lengths.items()):
        colour = _OUTCOME_COLOURS[name]
        words = f"{name} ({len(values)})"
        sheet.write(left + place * 0.74, top - 0.12, words, color=colour, fontweight="bold")
    xs = left + wide * np.repeat((edges - edges[0]) / (edges[-1] - edges[0]), 2)
    lines = []
    for shares in bars.values():
        ys = top + high * (1 - np.concatenate([[0], np.repeat(shares, 2), [0]]) / tallest)
        lines.append(np.column_stack([xs, ys]))
    look: dict[str, Any] = {
        "colors": [_OUTCOME_COLOURS[name] for name in bars],
        "linestyles": [_OUTCOME_LINES[name] for name in bars],
        "linewidths": 1.5,
    }
    sheet.axes.add_collection(LineCollection(lines, **look), autolim=False)
    below = top + high
    frame = [[(left, top), (left, below), (left + wide, below)]]
    rim: dict[str, Any] = {"colors": INK, "linewidths": 0.8}
    sheet.axes.add_collection(LineCollection(frame, **rim), autolim=False)
    sheet.write(left - 0.05, top, f"{100 * tallest:.0f} %", ha="right", fontsize=7)
    sheet.write(left - 0.05, below, "0", ha="right", fontsize=7)
    sheet.write(left, below + 0.12, f"{edges[0]:.0f}", fontsize=7)
    sheet.write(left + wide, below + 0.12, f"{edges[-1]:.0f}", ha="right", fontsize=7)
    middle = left + wide / 2
    sheet.write(middle, below + 0.14, f"tokens of the {one.length_of}", ha="center", fontsize=7.5)
