"""Pictures of fingerprints, training, transfer and predictions, each one PNG file.

Figures are built without pyplot: no global state, no display, safe in threads. Colours are Okabe
and Ito's, which people with any common colour blindness tell apart.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from adapt_lora.errors import DatasetError, MatrixError, RecommendError, TrainingError
from adapt_lora.recommender.calibration import OutOfFold, Share, calibrate
from adapt_lora.registry.records import (
    BASE_ROW,
    Fingerprint,
    Histogram,
    MatrixRow,
    TaskRecord,
    TransferMatrix,
    Unit,
)
from adapt_lora.report.gains import (
    MatrixValues,
    cells_by_place,
    figure_of,
    gain_rows,
    is_own_cell,
)
from adapt_lora.report.outcomes import CellOutcomes
from adapt_lora.report.wording import (
    MINUS,
    UNIT_WORDS,
    gain_text,
    number_text,
    one_line,
    score_text,
    share_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import Container
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

FloatArray = NDArray[np.float64]

_BLUE, _ORANGE, _GREEN, _VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
_PURPLE, _SKY, _INK, _QUIET = "#CC79A7", "#56B4E9", "#222222", "#8A8A8A"
_SERIES = (_BLUE, _VERMILION, _GREEN, _PURPLE, _ORANGE, _SKY)
_MARKERS = ("o", "s", "^", "D", "v", "P")
_GAP_LOOK: dict[str, Any] = {
    "facecolor": "#EEEEEE",
    "edgecolor": "#C4C4C4",
    "hatch": "////",
    "linewidth": 0,
}
_ALONG_DIAGONAL: dict[str, Any] = {
    "ha": "right",
    "va": "bottom",
    "rotation": 45,
    "rotation_mode": "anchor",
}
_ABOVE_RIGHT: dict[str, Any] = {
    "loc": "lower right",
    "bbox_to_anchor": (1, 1),
    "ncols": 2,
    "borderpad": 0,
}
_INTERVAL_LOOK: dict[str, Any] = {"fmt": "none", "ecolor": _INK, "capsize": 3, "linewidth": 1.2}
_DPI = 150
_BASE_ROW = "base"
_NORMAL_90 = 1.2816  # 80 % of a normal distribution lie within this many standard errors
# Labels of a confusion matrix beyond this many, the rarest, are left out.
_MAX_CONFUSED = 12
_OUTCOME_COLOURS: Mapping[str, str] = {
    **{"TP": _BLUE, "FP": _VERMILION, "TN": _SKY, "FN": _ORANGE},
    **{"right": _BLUE, "wrong": _VERMILION, "all": _INK},
}
_OUTCOME_LINES: Mapping[str, str] = {
    **{"TP": "-", "FP": "-", "TN": "--", "FN": "--"},
    **{"right": "-", "wrong": "-", "all": "-"},
}
# Above this many cells the numbers in them are too small to read and only cost time.
_MAX_WRITTEN_CELLS = 600
# Above this many points their names lie on top of each other.
_MAX_NAMED_POINTS = 12
# More colours than this can't be told apart.
_MAX_NAMED_GROUPS = 8
_INTERVAL_SHADE = "#E3E8EE"

_HISTOGRAM_TITLES: Mapping[str, tuple[str, str]] = {
    "prompt_tokens": ("Prompt length", "tokens"),
    "response_tokens": ("Response length", "tokens"),
    "total_tokens": ("Prompt and response length", "tokens"),
    "response_nll": ("How surprising responses are", "nats per token"),
    "prompt_nll": ("How surprising prompts are", "nats per token"),
}


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


@dataclass(frozen=True, slots=True)
class PredictedMeasured:
    """A predicted gain and what was measured later."""

    adapter: str
    """Name of the adapter."""
    target: str
    """Name of the target task."""
    predicted: float
    """Predicted gain."""
    measured: float
    """Measured gain, same unit."""
    interval: tuple[float, float] | None = None
    """Interval of the prediction; None where none was given."""
    measured_se: float | None = None
    """Standard error of the measured gain; None when unknown."""
    unit: Unit = "points"
    """What both gains are counted in."""


def plot_histograms(fingerprint: Fingerprint, path: str | Path) -> Path:
    """Draw a dataset's lengths, surprise and label shares; returns the PNG's path.

    Raises:
        DatasetError: The fingerprint holds no distribution at all.
    """
    drawn = {name: h for name, h in fingerprint.histograms.items() if sum(h.counts) > 0}
    n_panels = len(drawn) + bool(fingerprint.label_shares)
    if not n_panels:
        raise DatasetError("This fingerprint holds no histogram and no label shares to draw.")
    n_columns = 1 if n_panels == 1 else 2
    n_rows = -(-n_panels // n_columns)
    figure = _figure(5.2 * n_columns, 3.3 * n_rows)
    panels = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for axes, (name, histogram) in zip(panels, drawn.items(), strict=False):
        title, unit = _HISTOGRAM_TITLES.get(name, (name.replace("_", " "), ""))
        # The exact median where it is known: bins only give one to within their width.
        median = fingerprint.values.get(f"{name}_q50")
        _draw_histogram(axes, histogram, title=title, unit=unit, median=median)
    if fingerprint.label_shares:
        _draw_label_shares(panels[n_panels - 1], fingerprint)
    for axes in panels[n_panels:]:
        axes.set_visible(False)
    return _saved(figure, path)


def plot_loss(history: Sequence[LossRecord], path: str | Path) -> Path:
    """Draw the training loss and the learning rate over steps; returns the PNG's path.

    Raises:
        TrainingError: The history is empty.
    """
    if not history:
        raise TrainingError("There is no training history to draw: no step was recorded.")
    steps = [record.step for record in history]
    losses = np.array([record.loss for record in history])
    figure = _figure(7.2, 4.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    one: dict[str, Any] = {"marker": "o"} if len(steps) == 1 else {}
    smooth = _smoothed(losses)
    upper.plot(
        steps, losses, color=_SKY, linewidth=1, alpha=0.8 if len(smooth) else 1, label="loss", **one
    )
    if len(smooth):
        upper.plot(steps, smooth, color=_BLUE, linewidth=2, label="smoothed")
        upper.legend(frameon=False, loc="upper right")
    upper.set_ylabel("loss (nats per token)")
    upper.set_title("Training loss", loc="left", fontweight="bold")
    rates = [record.learning_rate for record in history]
    lower.plot(steps, rates, color=_VERMILION, linewidth=1.5, **one)
    lower.set_ylabel("learning\nrate")
    lower.set_ylim(bottom=0)
    lower.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    lower.set_xlabel("optimiser step")
    figure.align_ylabels([upper, lower])
    for axes in (upper, lower):
        _plain_frame(axes)
    return _saved(figure, path)


def plot_matrix(
    matrix: TransferMatrix,
    path: str | Path,
    *,
    values: MatrixValues = "gain",
    clustered: bool = True,
) -> Path:
    """Draw the transfer matrix as a heat map; returns the PNG's path.

    Rows are adapters and few-shot rows, columns tasks with the base's score under the name. Gaps
    are hatched, own cells framed. Tasks in points and tasks in nats stand apart, each with a scale
    of its own.

    Args:
        matrix: What to draw.
        path: Where the PNG goes.
        values: Gains over the base, or scores.
        clustered: Put rows that do alike beside each other, and columns that are done alike, with
            the trees that say how alike; else the order of the matrix.

    Raises:
        MatrixError: The matrix has no rows with gains or no tasks.
    """
    rows = gain_rows(matrix)
    if not rows or not matrix.tasks:
        raise MatrixError(
            "The transfer matrix has nothing to draw: it needs at least one adapter and one task."
        )
    blocks: list[tuple[Unit, list[TaskRecord]]] = []
    for unit in UNIT_WORDS:
        tasks = [task for task in matrix.tasks if task.unit == unit]
        if tasks:
            blocks.append((unit, tasks))
    trees = _trees(matrix, rows, blocks, values=values) if clustered else _Trees()
    rows = tuple(rows[i] for i in trees.row_order) if trees.row_order else rows
    widths = [0.72 * len(tasks) + 1.3 for _, tasks in blocks]
    heights = [0.6, 0.42 * len(rows) + 1.4]
    figure = _figure(3.6 + sum(widths), 2.0 + sum(heights))
    grid = figure.add_gridspec(
        2, 1 + len(blocks), width_ratios=[0.7, *widths], height_ratios=heights, hspace=0, wspace=0
    )
    beside = figure.add_subplot(grid[1, 0])
    _draw_tree(beside, trees.rows, upright=False)
    for number, (unit, tasks) in enumerate(blocks):
        above = figure.add_subplot(grid[0, 1 + number])
        _draw_tree(above, trees.columns.get(unit), upright=True)
        order = trees.column_order.get(unit) or range(len(tasks))
        axes = figure.add_subplot(grid[1, 1 + number])
        _draw_block(
            axes,
            matrix,
            rows,
            [tasks[i] for i in order],
            unit=unit,
            values=values,
            named_rows=number == 0,
        )
    title = "Gain over the base model" if values == "gain" else "Score"
    figure.suptitle(f"{title}, {_safe(matrix.base.name, 60)}", x=0.01, ha="left", fontweight="bold")
    _legend_below(figure)
    return _saved(figure, path)


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
        sheet = _Sheet(len(confused), f"Answers of {_safe(title, 50)}", width=3.6, height=3.3)
        for number, one in enumerate(confused):
            _draw_confusion(sheet, number, one)
        drawn["confusion.png"] = sheet.save(Path(folder) / "confusion.png")
    long = [one for one in outcomes if one.lengths]
    if long:
        head = f"Lengths by outcome, {_safe(title, 50)}"
        sheet = _Sheet(len(long), head, width=3.6, height=2.6)
        for number, one in enumerate(long):
            _draw_lengths(sheet, number, one)
        drawn["lengths.png"] = sheet.save(Path(folder) / "lengths.png")
    return drawn


def plot_traits(traits: Mapping[str, Any], path: str | Path) -> Path:
    """Draw task loadings as a heat map and the variance each trait explains as bars.

    Under each trait stand the tasks at its poles.

    Args:
        traits: What `traits --json` prints: "explained_variance_ratio", "loadings" by task,
            "names" of the traits; "keys" and "poles" where there are any.
        path: Where the PNG goes.

    Raises:
        MatrixError: There are no loadings.
    """
    loadings: Mapping[str, Sequence[float]] = traits.get("loadings") or {}
    ratios: Sequence[float] = traits.get("explained_variance_ratio") or ()
    if not loadings or not ratios:
        raise MatrixError("There are no trait loadings to draw.")
    heads = [
        "\n".join((*head, *below)) for head, below in _trait_heads(traits, len(ratios), limit=16)
    ]
    table = np.array([list(row) for row in loadings.values()], dtype=float)  # (n_tasks, n_traits)
    n_lines = max(head.count("\n") + 1 for head in heads)
    height = 2.3 + 0.14 * n_lines + 0.34 * len(loadings)
    figure = _figure(3.4 + 1.3 * len(heads), height)
    bars, heat = figure.subplots(2, 1, sharex=True, height_ratios=(1.6, 0.6 + 0.34 * len(loadings)))
    places = np.arange(len(heads))
    bars.bar(places, [100 * ratio for ratio in ratios], color=_BLUE, width=0.6)
    for place, ratio in zip(places, ratios, strict=True):
        bars.annotate(
            f"{ratio:.1%}",
            (place, 100 * ratio),
            (0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    bars.set_ylim(0, 118 * max(ratios))
    bars.set_ylabel("variance (%)")
    bars.set_title("Latent traits", loc="left", fontweight="bold")
    _plain_frame(bars)
    bars.tick_params(axis="x", length=0)
    limit = float(np.nanmax(np.abs(table))) or 1.0
    image = heat.imshow(table, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    # Adding 0 takes the sign off a zero.
    words = [[f"{round(v, 2) + 0.0:+.2f}".replace("-", MINUS) for v in row] for row in table]
    _write_cells(heat, table, words, limit)
    heat.set_yticks(range(len(loadings)), [_safe(task, 28) for task in loadings])
    heat.set_xticks(places, heads, fontsize=7.5)
    _no_ticks(heat)
    heat.tick_params(axis="x", labelsize=7.5)
    _colour_bar(image, heat, "loading", table=table, limit=limit)
    return _saved(figure, path)


def plot_trait_profiles(
    traits: Mapping[str, Any],
    folder: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Path]:
    """Draw one page per adapter: its score on each trait between the two poles, with intervals.

    All pages have one scale; ticks show where the other adapters are, a diamond the bare base.

    Args:
        traits: What `traits --json` prints, "scores" and "names" at least.
        folder: Where the PNGs go; the files are called after the adapters.
        progress: Told (pages done, in all).

    Returns:
        Adapter → its PNG, the base among them.

    Raises:
        MatrixError: There are no scores.
    """
    scores: Mapping[str, Sequence[float]] = traits.get("scores") or {}
    if not scores:
        raise MatrixError("There are no trait scores to draw.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    heads = _trait_heads(traits, len(next(iter(scores.values()))), limit=50)
    figure = _figure(8.2, 1.35 + 0.95 * len(heads), layout=None)
    axes = figure.subplots()
    _draw_profile_frame(axes, traits, heads)
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib says no types for its methods
    canvas.draw()
    # One frame under all pages: drawing it anew would take nearly all of the time.
    frame = canvas.copy_from_bbox(figure.bbox)
    names = _file_names(scores)
    paths = {}
    for number, adapter in enumerate(scores, start=1):
        canvas.restore_region(frame)
        _draw_profile(axes, traits, adapter)
        paths[adapter] = _saved_pixels(canvas, Path(folder) / f"{names[adapter]}.png")
        if progress is not None:
            progress(number, len(scores))
    return paths


def plot_predicted_vs_measured(points: Sequence[PredictedMeasured], path: str | Path) -> Path:
    """Draw predicted gains against measured ones, one colour per target; returns the PNG's path.

    Raises:
        RecommendError: There are no points, or they mix points and nats.
    """
    if not points:
        raise RecommendError("There is no predicted and measured gain to draw.")
    units = {point.unit for point in points}
    if len(units) > 1:
        raise RecommendError(
            "Gains in points and in nats can't share one picture: draw each alone."
        )
    (unit,) = units
    scale = 100 if unit == "points" else 1
    figure = _figure(6.2, 5.8)
    axes = figure.subplots()
    targets = list(dict.fromkeys(point.target for point in points))
    for number, target in enumerate(targets):
        _draw_target(
            axes,
            [point for point in points if point.target == target],
            label=_safe(target, 32),
            colour=_SERIES[number % len(_SERIES)],
            marker=_MARKERS[number // len(_SERIES) % len(_MARKERS)],
            scale=scale,
            named=len(points) <= _MAX_NAMED_POINTS,
        )
    low, high = _shared_limits(points, scale)
    axes.plot([low, high], [low, high], color=_QUIET, linewidth=1, linestyle="--", zorder=1)
    axes.text(high, high, "as predicted ", color=_QUIET, fontsize=8, **_ALONG_DIAGONAL)
    # Where the advice was wrong in kind: help was promised and harm came, or the other way round.
    axes.fill_between([0, high], low, 0, color=_VERMILION, alpha=0.07, linewidth=0, zorder=0)
    axes.fill_between([low, 0], 0, high, color=_ORANGE, alpha=0.07, linewidth=0, zorder=0)
    axes.axhline(0, color=_QUIET, linewidth=0.8, zorder=1)
    axes.axvline(0, color=_QUIET, linewidth=0.8, zorder=1)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_xlabel(f"predicted gain ({UNIT_WORDS[unit]})")
    axes.set_ylabel(f"measured gain ({UNIT_WORDS[unit]})")
    axes.set_title(
        f"Predicted and measured, {len(points)} adapter-target pairs", loc="left", fontweight="bold"
    )
    if len(targets) <= 6:
        axes.legend(frameon=False, loc="upper left", fontsize=8)
    else:
        figure.legend(frameon=False, loc="outside right upper", fontsize=8)
    _plain_frame(axes)
    return _saved(figure, path)


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
    figure = _figure(9.0, 5.4)
    spots = figure.add_gridspec(2, 2, width_ratios=(1.5, 1.0))
    left = figure.add_subplot(spots[:, 0])
    _draw_out_of_fold(left, cells, unit)
    found = calibrate(cells)
    _draw_shares(
        figure.add_subplot(spots[0, 1]),
        found.harm,
        "Probability of harm",
        ("predicted P(gain < 0)", "share that lost"),
        colour=_VERMILION,
    )
    _draw_shares(
        figure.add_subplot(spots[1, 1]),
        found.coverage,
        "Intervals",
        ("nominal level", "share inside"),
        colour=_BLUE,
    )
    figure.suptitle(
        _safe(title, 90) if title else "", fontsize=11, fontweight="bold", x=0.01, ha="left"
    )
    return _saved(figure, path)


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
        self.figure = _figure(wide, high, layout=None)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, wide), ylim=(high, 0))
        self.write(0.12, 0.25, title, fontsize=11, fontweight="bold")

    def corner(self, number: int) -> tuple[float, float]:
        """Left and top of a panel."""
        row, column = divmod(number, self.columns)
        return column * self.width, 0.45 + row * self.height

    def write(self, x: float, y: float, words: str, **look: Any) -> None:
        self.axes.text(x, y, words, **{"fontsize": 8, "va": "center", "color": _INK, **look})

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
    sheet.write(left + 1.0, top + 0.14, f"{_safe(one.task, 26)}{rest}", fontsize=9)
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
                    color="white" if share > 0.5 else _INK,
                )
    depth = shares[:, shown].reshape(-1, 1)  # (n_boxes, 1)
    shades = 1 - depth * (1 - np.array([0.03, 0.35, 0.63]))  # from white to blue
    rim: dict[str, Any] = {"facecolors": shades, "edgecolors": "#DDDDDD", "linewidths": 0.5}
    sheet.axes.add_collection(PolyCollection(boxes, **rim), autolim=False)
    for place, label in enumerate(shown):
        name = _safe(one.labels[label], 14)
        y = top + (place + 0.5) * side_y
        sheet.write(left - 0.06, y, name, ha="right", fontsize=size)
        x, below = left + (place + 0.5) * side_x, top + 2.12
        slant: dict[str, Any] = {"rotation": 30, "rotation_mode": "anchor", "ha": "right"}
        look: dict[str, Any] = slant if len(shown) > 2 else {"ha": "center"}
        sheet.write(x, below, name, va="top", fontsize=size, **look)
    sheet.write(left - 0.06, top - 0.08, "gold ↓  answered →", ha="right", fontsize=6, color=_QUIET)


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
    about = f", P = {_safe(one.positive, 12)}" if one.positive else ""
    sheet.write(left + 0.5, top + 0.14, f"{_safe(one.task, 26)}{about}{cut}", fontsize=9)
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
    rim: dict[str, Any] = {"colors": _INK, "linewidths": 0.8}
    sheet.axes.add_collection(LineCollection(frame, **rim), autolim=False)
    sheet.write(left - 0.05, top, f"{100 * tallest:.0f} %", ha="right", fontsize=7)
    sheet.write(left - 0.05, below, "0", ha="right", fontsize=7)
    sheet.write(left, below + 0.12, f"{edges[0]:.0f}", fontsize=7)
    sheet.write(left + wide, below + 0.12, f"{edges[-1]:.0f}", ha="right", fontsize=7)
    middle = left + wide / 2
    sheet.write(middle, below + 0.14, f"tokens of the {one.length_of}", ha="center", fontsize=7.5)


def _trait_heads(
    traits: Mapping[str, Any], n: int, *, limit: int
) -> list[tuple[list[str], list[str]]]:
    """Per trait its key and name, and the tasks at its poles, as lines of `limit` characters."""
    names: Sequence[str] = traits.get("names") or [f"trait {i + 1}" for i in range(n)]
    keys: Sequence[str] = traits.get("keys") or names
    poles: Sequence[Mapping[str, Sequence[str]]] = traits.get("poles") or [{}] * n
    heads = []
    for key, name, pole in zip(keys, names, poles, strict=True):
        # A name that nobody gave says the poles once more.
        own = [] if name == key or (pole and name.startswith(f"{key} ")) else [_safe(name, limit)]
        high, low = (
            [_safe(task, limit) for task in pole.get(side, ())] for side in ("high", "low")
        )
        below = [*(f"+ {task}" for task in high), *(f"{MINUS} {task}" for task in low)]
        heads.append(([_safe(key, limit), *own], below))
    return heads


def _draw_profile_frame(
    axes: "Axes", traits: Mapping[str, Any], heads: Sequence[tuple[list[str], list[str]]]
) -> None:
    """What all profiles share: poles on either side, traits between, one scale, everybody."""
    scores = np.array(list(traits["scores"].values()), dtype=float)  # (n_adapters, n_traits)
    n = len(heads)
    height = 1.35 + 0.95 * n
    axes.figure.subplots_adjust(left=0.21, right=0.79, top=1 - 0.45 / height, bottom=0.75 / height)
    known = traits.get("standard_errors") or {}
    errors = np.array([known.get(adapter, [0.0] * n) for adapter in traits["scores"]], dtype=float)
    limit = 1.05 * float((np.abs(scores) + _NORMAL_90 * errors).max()) or 1.0
    axes.set(xlim=(-limit, limit), ylim=(n - 0.4, -0.6))
    axes.axvline(0, color=_QUIET, linewidth=0.8)
    poles: Sequence[Mapping[str, Sequence[str]]] = traits.get("poles") or [{}] * n
    ratios: Sequence[float] = traits.get("explained_variance_ratio") or ()
    for row, ((head, _), pole) in enumerate(zip(heads, poles, strict=True)):
        share = f", {share_text(ratios[row])} of the variance" if ratios else ""
        axes.text(-limit, row - 0.32, f"{' '.join(head)}{share}", fontsize=8, fontweight="bold")
        axes.plot(scores[:, row], np.full(len(scores), row + 0.3), "|", color=_QUIET, markersize=5)
        for side, place, align in (("low", -0.02, "right"), ("high", 1.02, "left")):
            axes.text(
                place,
                row,
                "\n".join(_safe(task, 20) for task in pole.get(side, ())),
                transform=axes.get_yaxis_transform(),
                ha=align,
                va="center",
                fontsize=8,
            )
    base = traits["scores"].get(_BASE_ROW)
    if base is not None:
        look: dict[str, Any] = {"color": _INK, "markerfacecolor": "white", "markersize": 5}
        axes.plot(base, np.arange(n) + 0.3, "D", label="base model", zorder=4, **look)
    axes.plot([], [], "|", color=_QUIET, label="all rows")
    if known:
        axes.errorbar([np.nan], [0.0], xerr=[0.0], label="interval", **_INTERVAL_LOOK)
    axes.legend(
        frameon=False,
        fontsize=8,
        ncols=3,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.38 / n),
    )
    axes.set_yticks([])
    axes.set_xlabel(
        "← better at the tasks on the left      score      better at those on the right →",
        fontsize=8,
    )
    _plain_frame(axes)
    axes.spines["left"].set_visible(False)


def _draw_profile(axes: "Axes", traits: Mapping[str, Any], adapter: str) -> None:
    """One adapter's name, bars and intervals onto what is drawn already."""
    scores = np.array(traits["scores"][adapter], dtype=float)
    places = np.arange(len(scores))
    colours = [_BLUE if score >= 0 else _VERMILION for score in scores]
    drawn: list[Container] = [axes.barh(places, scores, 0.26, color=colours)]
    errors = (traits.get("standard_errors") or {}).get(adapter)
    if errors is not None:
        reach = _NORMAL_90 * np.array(errors, dtype=float)
        drawn.append(axes.errorbar(scores, places, xerr=reach, **_INTERVAL_LOOK))
    name = "the base model" if adapter == _BASE_ROW else _safe(adapter, 60)
    axes.draw_artist(axes.set_title(f"Traits of {name}", loc="left", fontweight="bold"))
    for container in drawn:
        for mark in container.get_children():
            axes.draw_artist(mark)
        container.remove()


def _file_names(adapters: Iterable[str]) -> dict[str, str]:
    """A file name without suffix for each adapter, none twice."""
    names: dict[str, str] = {}
    for adapter in adapters:
        stem = re.sub(r"[^\w.-]+", "-", adapter).strip("-.") or "adapter"
        again = sum(name == stem or name.startswith(f"{stem}~") for name in names.values())
        names[adapter] = f"{stem}~{again + 1}" if again else stem
    return names


def _draw_histogram(
    axes: "Axes", histogram: Histogram, *, title: str, unit: str, median: float | None
) -> None:
    edges, counts = np.array(histogram.edges), np.array(histogram.counts)
    axes.bar(
        edges[:-1],
        counts,
        width=np.diff(edges),
        align="edge",
        color=_BLUE,
        edgecolor="white",
        linewidth=0.5,
    )
    if median is None:
        median = _median(edges, counts)
    axes.axvline(median, color=_VERMILION, linewidth=1.5)
    # On the side with room, or the words would run over the picture's edge.
    left = median > (edges[0] + edges[-1]) / 2
    axes.annotate(
        f"median {number_text(median)}",
        (median, 1),
        (-4 if left else 4, -9),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color=_VERMILION,
        fontsize=8,
        ha="right" if left else "left",
    )
    axes.set_ylim(0, 1.15 * counts.max())
    axes.set_title(_safe(title, 40), loc="left", fontweight="bold")
    axes.set_xlabel(unit)
    axes.set_ylabel("count")
    _plain_frame(axes)


def _draw_label_shares(axes: "Axes", fingerprint: Fingerprint) -> None:
    shown = sorted(fingerprint.label_shares.items(), key=lambda item: -item[1])[:12]
    places = np.arange(len(shown))
    base = fingerprint.base_label_shares
    height = 0.38 if base else 0.7
    gold = [100 * share for _, share in shown]
    axes.barh(places - (height / 2 if base else 0), gold, height, color=_BLUE, label="gold")
    if base:
        guessed = [100 * base.get(label, 0.0) for label, _ in shown]
        axes.barh(places + height / 2, guessed, height, color=_ORANGE, label="base model's choice")
        axes.legend(frameon=False, fontsize=8, **_ABOVE_RIGHT)
    axes.set_yticks(places, [_safe(label, 22) for label, _ in shown])
    axes.invert_yaxis()
    axes.set_xlabel("share of rows (%)")
    left_out = len(fingerprint.label_shares) - len(shown)
    rest = f" (the {len(shown)} commonest of {len(shown) + left_out})" if left_out else ""
    axes.set_title(f"Labels{rest}", loc="left", fontweight="bold")
    _plain_frame(axes)
    axes.tick_params(axis="y", length=0)


@dataclass(frozen=True, slots=True)
class _Trees:
    """What is beside what, as scipy's linkages; empty where there is nothing to be clustered."""

    rows: FloatArray | None = None
    row_order: tuple[int, ...] = ()
    columns: Mapping[Unit, FloatArray] = field(default_factory=dict)
    column_order: Mapping[Unit, tuple[int, ...]] = field(default_factory=dict)


def _trees(
    matrix: TransferMatrix,
    rows: Sequence[MatrixRow],
    blocks: Sequence[tuple[Unit, Sequence[TaskRecord]]],
    *,
    values: MatrixValues,
) -> _Trees:
    """Average linkage of rows over all tasks, and of the tasks of each unit over all rows.

    Columns are standardised first, so that a task with large gains does not decide alone.
    """
    from scipy.cluster.hierarchy import leaves_list

    tables = {
        unit: _cell_values(matrix, rows, tasks, unit=unit, values=values) for unit, tasks in blocks
    }
    standard = {unit: _standardised(table) for unit, table in tables.items()}
    row_tree = _linkage(np.hstack(list(standard.values())))
    columns: dict[Unit, FloatArray] = {}
    for unit, table in standard.items():
        tree = _linkage(table.T)
        if tree is not None:
            columns[unit] = tree
    return _Trees(
        rows=row_tree,
        row_order=() if row_tree is None else tuple(leaves_list(row_tree).tolist()),
        columns=columns,
        column_order={unit: tuple(leaves_list(tree).tolist()) for unit, tree in columns.items()},
    )


def _standardised(table: FloatArray) -> FloatArray:
    """Columns with mean 0 and spread 1 over what was measured; NaN stays a gap."""
    measured = np.isfinite(table)
    n = np.maximum(measured.sum(axis=0), 1)
    centred = table - np.where(measured, table, 0).sum(axis=0) / n
    spread = np.sqrt((np.where(measured, centred, 0) ** 2).sum(axis=0) / n)
    return np.asarray(centred / np.where(spread > 0, spread, 1))


def _linkage(table: FloatArray) -> FloatArray | None:
    """Average linkage of rows (n, d) with gaps; None for fewer than three rows.

    The distance of two rows is the root of their mean squared difference over the columns that
    both have, as if the shared ones spoke for the rest; two rows that share none are as far apart
    as the farthest that do.
    """
    from scipy.cluster.hierarchy import linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    if len(table) < 3:
        return None
    known = np.isfinite(table)
    filled = np.where(known, table, 0.0)
    weights = known.astype(float)
    shared = weights @ weights.T  # (n, n)
    squares = (filled**2) @ weights.T
    total = squares + squares.T - 2 * filled @ filled.T
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = np.sqrt(np.maximum(total, 0) / shared)
    farthest = float(np.nanmax(distance, initial=0.0)) or 1.0
    distance = np.where(shared > 0, distance, farthest)
    np.fill_diagonal(distance, 0)
    condensed = squareform((distance + distance.T) / 2, checks=False)
    return np.asarray(optimal_leaf_ordering(linkage(condensed, "average"), condensed))


def _draw_tree(axes: "Axes", tree: FloatArray | None, *, upright: bool) -> None:
    """A linkage as a tree whose leaves meet the heat map's rows or columns."""
    from matplotlib.collections import LineCollection
    from scipy.cluster.hierarchy import dendrogram

    axes.set_axis_off()
    if tree is None:
        return
    drawn = dendrogram(tree, no_plot=True)
    # scipy puts leaves at 5, 15, 25, …
    places, heights = (np.array(drawn["icoord"]) - 5) / 10, np.array(drawn["dcoord"])
    n_leaves, top = len(tree) + 1, 1.05 * float(heights.max()) or 1.0
    across, along = (places, heights) if upright else (heights, places)
    look: dict[str, Any] = {"colors": _QUIET, "linewidths": 0.9}
    axes.add_collection(LineCollection(list(np.stack([across, along], axis=-1)), **look))
    if upright:
        axes.set(xlim=(-0.5, n_leaves - 0.5), ylim=(0, top))
    else:
        axes.set(xlim=(top, 0), ylim=(n_leaves - 0.5, -0.5))


def _draw_block(
    axes: "Axes",
    matrix: TransferMatrix,
    rows: Sequence[MatrixRow],
    tasks: Sequence[TaskRecord],
    *,
    unit: Unit,
    values: MatrixValues,
    named_rows: bool,
) -> None:
    table = _cell_values(matrix, rows, tasks, unit=unit, values=values)
    groups = {adapter.row: adapter for adapter in matrix.adapters}
    own = np.array(
        [[row in groups and is_own_cell(groups[row], task) for task in tasks] for row in rows]
    )
    limit = _colour_limit(table, own) if values == "gain" else None
    if limit is None:
        image = axes.imshow(table, cmap="cividis", aspect="auto")
    else:
        image = axes.imshow(table, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    _mark_gaps_and_own_cells(axes, table, own)
    if table.size <= _MAX_WRITTEN_CELLS:
        write = score_text if limit is None else gain_text
        scale = 0.01 if unit == "points" else 1.0
        words = [[write(scale * value, unit) for value in row] for row in table]
        _write_cells(axes, table, words, limit)
    cells = cells_by_place(matrix)
    heads = []
    for task in tasks:
        base = cells.get((BASE_ROW, task.name))
        below = f"base {score_text(base.score, unit)}" if base else "no base score"
        heads.append(f"{_safe(task.name, 20)}\n{below}")
    axes.set_xticks(range(len(tasks)), heads, rotation=45, ha="right", rotation_mode="anchor")
    names = [_safe(row.label, 28) for row in rows] if named_rows else []
    axes.set_yticks(range(len(names)), names)
    _no_ticks(axes)
    _colour_bar(image, axes, f"{values} ({UNIT_WORDS[unit]})", table=table, limit=limit)


def _cell_values(
    matrix: TransferMatrix,
    rows: Sequence[MatrixRow],
    tasks: Sequence[TaskRecord],
    *,
    unit: Unit,
    values: MatrixValues,
) -> FloatArray:
    """Gains or scores as shown, points of 100; NaN is a gap: (n_rows, n_tasks)."""
    cells = cells_by_place(matrix)
    table = np.full((len(rows), len(tasks)), np.nan)
    for number, row in enumerate(rows):
        for column, task in enumerate(tasks):
            figure = figure_of(cells, row, task, values=values)
            if figure is not None:
                table[number, column] = figure.value
    return 100 * table if unit == "points" else table


def _colour_limit(table: np.ndarray, own: np.ndarray) -> float:
    """The largest gain either way outside own cells, which would wash all transfer out."""
    measured = np.isfinite(table)
    for chosen in (measured & ~own, measured):
        if np.any(table[chosen]):
            return float(np.abs(table[chosen]).max())
    return 1.0


def _mark_gaps_and_own_cells(axes: "Axes", table: np.ndarray, own: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    for row, column in np.argwhere(~np.isfinite(table)):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **_GAP_LOOK))
    for row, column in np.argwhere(own):
        # White under black, so that the frame shows on dark cells too.
        for colour, width in (("white", 3.6), (_INK, 1.6)):
            corner = (column - 0.44, row - 0.44)
            frame = Rectangle(corner, 0.88, 0.88, fill=False, edgecolor=colour, linewidth=width)
            axes.add_patch(frame)


def _colour_bar(
    image: "AxesImage", axes: "Axes", label: str, *, table: np.ndarray, limit: float | None
) -> None:
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


def _write_cells(
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
            color="white" if dark else _INK,
        )


def _draw_target(
    axes: "Axes",
    points: Sequence[PredictedMeasured],
    *,
    label: str,
    colour: str,
    marker: str,
    scale: float,
    named: bool,
) -> None:
    for point in points:
        x, y = scale * point.predicted, scale * point.measured
        if point.interval is not None:
            low, high = point.interval
            axes.plot([scale * low, scale * high], [y, y], color=colour, linewidth=1, alpha=0.35)
        if point.measured_se is not None:
            reach = scale * point.measured_se
            axes.plot([x, x], [y - reach, y + reach], color=colour, linewidth=1, alpha=0.35)
    axes.scatter(
        [scale * point.predicted for point in points],
        [scale * point.measured for point in points],
        s=36,
        color=colour,
        marker=marker,
        edgecolor="white",
        linewidth=0.6,
        zorder=3,
        label=label,
    )
    if named:
        for point in points:
            spot = (scale * point.predicted, scale * point.measured)
            axes.annotate(
                _safe(point.adapter, 18),
                spot,
                (4, 4),
                textcoords="offset points",
                fontsize=6.5,
                color=_INK,
            )


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
        axes.scatter(x[rest], y[rest], s=16, color=_QUIET, label=f"{n_rest} more groups", **look)
    for number, name in enumerate(named):
        mine = groups == name
        axes.scatter(
            x[mine],
            y[mine],
            s=30,
            color=_SERIES[number % len(_SERIES)],
            marker=_MARKERS[number // len(_SERIES)],
            label=_safe(str(name), 22),
            **look,
        )
    axes.axhline(0, color=_QUIET, linewidth=0.8, zorder=1)
    axes.axvline(0, color=_QUIET, linewidth=0.8, zorder=1)
    margin = 0.05 * (np.ptp(x) or 1.0)
    ends = (float(x.min() - margin), float(x.max() + margin))
    axes.plot(ends, ends, color=_INK, linewidth=1, linestyle="--", zorder=2, label="as predicted")
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
    _plain_frame(axes)


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
    axes.plot([0, 1], [0, 1], color=_QUIET, linewidth=1, linestyle="--", zorder=1)
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
    _plain_frame(axes)


def _shared_limits(points: Sequence[PredictedMeasured], scale: float) -> tuple[float, float]:
    """Limits that hold every point; of intervals only as much as leaves the points readable."""
    spots = [v for point in points for v in (point.predicted, point.measured, 0.0)]
    low, high = min(spots), max(spots)
    room = (high - low) or 1 / scale
    ends = [end for point in points if point.interval for end in point.interval]
    low = max(min([low, *ends]), low - 0.6 * room)
    high = min(max([high, *ends]), high + 0.6 * room)
    margin = 0.06 * (high - low)
    return scale * (low - margin), scale * (high + margin)


def _median(edges: np.ndarray, counts: np.ndarray) -> float:
    """Median of binned values, linear inside the bin that holds it."""
    total = np.concatenate([[0.0], np.cumsum(counts)])
    return float(np.interp(total[-1] / 2, total, edges))


def _smoothed(losses: np.ndarray) -> np.ndarray:
    """Running mean over a tenth of the steps, shorter at both ends; empty for short histories."""
    window = len(losses) // 10
    if window < 2:
        return np.empty(0)
    kernel = np.ones(window)
    return np.asarray(
        np.convolve(losses, kernel, "same") / np.convolve(np.ones_like(losses), kernel, "same")
    )


def _figure(
    width: float, height: float, *, layout: Literal["constrained"] | None = "constrained"
) -> "Figure":
    """A figure of `width` × `height` inches, at most 40 wide and high."""
    from matplotlib.figure import Figure

    return Figure(figsize=(min(width, 40), min(height, 40)), dpi=_DPI, layout=layout)


def _saved(figure: "Figure", path: str | Path) -> Path:
    """Write the figure and return where; a Figure without pyplot renders with Agg."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", facecolor="white")
    return path


def _saved_pixels(canvas: Any, path: Path) -> Path:
    """Write what the canvas shows now, without drawing the figure again."""
    from matplotlib.image import imsave

    path.parent.mkdir(parents=True, exist_ok=True)
    # Packing harder takes longer than all the drawing and saves an eighth of the size.
    imsave(path, canvas.buffer_rgba(), format="png", pil_kwargs={"compress_level": 1})
    return path


def _plain_frame(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _no_ticks(axes: "Axes") -> None:
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)


def _legend_below(figure: "Figure") -> None:
    from matplotlib.patches import Patch

    own = Patch(facecolor="white", edgecolor=_INK, linewidth=1.8, label="own training data")
    gap = Patch(label="not measured", **_GAP_LOOK)
    figure.legend(handles=[own, gap], loc="outside lower left", ncols=2, frameon=False, fontsize=8)


def _safe(text: str, limit: int) -> str:
    """A user's name as a label: one line, cut, and no dollar sign read as a formula."""
    return one_line(text, limit=limit).replace("$", r"\$")
