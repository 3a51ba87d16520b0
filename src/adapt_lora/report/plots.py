"""Pictures of fingerprints, training, transfer and predictions, each one PNG file.

Figures are built without pyplot: no global state, no display, safe in threads. Colours are Okabe
and Ito's, which people with any common colour blindness tell apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from adapt_lora.errors import DatasetError, MatrixError, RecommendError, TrainingError
from adapt_lora.registry.records import (
    BASE_ID,
    Fingerprint,
    Histogram,
    TaskRecord,
    TransferMatrix,
    Unit,
)
from adapt_lora.report.gains import cells_by_place, gain_of, is_own_cell
from adapt_lora.report.wording import (
    MINUS,
    UNIT_WORDS,
    gain_text,
    number_text,
    one_line,
    score_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

MatrixValues = Literal["gain", "score"]

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
_DPI = 150
# Above this many cells the numbers in them are too small to read and only cost time.
_MAX_WRITTEN_CELLS = 600
# Above this many points their names lie on top of each other.
_MAX_NAMED_POINTS = 12

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


def plot_matrix(matrix: TransferMatrix, path: str | Path, *, values: MatrixValues = "gain") -> Path:
    """Draw the transfer matrix as a heat map; returns the PNG's path.

    Rows are adapters, columns tasks with the base's score under the name. Gaps are hatched, own
    cells framed. Tasks in points and tasks in nats stand apart, each with a scale of its own.

    Raises:
        MatrixError: The matrix has no adapters or no tasks.
    """
    if not matrix.adapters or not matrix.tasks:
        raise MatrixError(
            "The transfer matrix has nothing to draw: it needs at least one adapter and one task."
        )
    blocks: list[tuple[Unit, list[TaskRecord]]] = []
    for unit in UNIT_WORDS:
        tasks = [task for task in matrix.tasks if task.unit == unit]
        if tasks:
            blocks.append((unit, tasks))
    widths = [0.72 * len(tasks) + 1.3 for _, tasks in blocks]
    figure = _figure(2.8 + sum(widths), 2.6 + 0.42 * len(matrix.adapters))
    panels = figure.subplots(1, len(blocks), squeeze=False, width_ratios=widths)[0]
    for number, (axes, (unit, tasks)) in enumerate(zip(panels, blocks, strict=True)):
        _draw_block(axes, matrix, tasks, unit=unit, values=values, named_rows=number == 0)
    title = "Gain over the base model" if values == "gain" else "Score"
    figure.suptitle(f"{title}, {_safe(matrix.base.name, 60)}", x=0.01, ha="left", fontweight="bold")
    _legend_below(figure)
    return _saved(figure, path)


def plot_traits(traits: Mapping[str, Any], path: str | Path) -> Path:
    """Draw task loadings as a heat map and the variance each trait explains as bars.

    Args:
        traits: What `traits --json` prints: "explained_variance_ratio", "loadings" by task,
            "names" of the traits.
        path: Where the PNG goes.

    Raises:
        MatrixError: There are no loadings.
    """
    loadings: Mapping[str, Sequence[float]] = traits.get("loadings") or {}
    ratios: Sequence[float] = traits.get("explained_variance_ratio") or ()
    if not loadings or not ratios:
        raise MatrixError("There are no trait loadings to draw.")
    given: Sequence[str] = traits.get("names") or ()
    names = list(given) or [f"trait {i + 1}" for i in range(len(ratios))]
    table = np.array([list(row) for row in loadings.values()], dtype=float)  # (n_tasks, n_traits)
    figure = _figure(2.6 + 1.15 * len(names), 3.0 + 0.34 * len(loadings))
    bars, heat = figure.subplots(2, 1, sharex=True, height_ratios=(1.6, 0.6 + 0.34 * len(loadings)))
    places = np.arange(len(names))
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
    limit = float(np.nanmax(np.abs(table))) or 1.0
    image = heat.imshow(table, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    words = [[f"{value:+.2f}".replace("-", MINUS) for value in row] for row in table]
    _write_cells(heat, table, words, limit)
    heat.set_yticks(range(len(loadings)), [_safe(task, 28) for task in loadings])
    heat.set_xticks(places, [_safe(name, 18) for name in names], rotation=25, ha="right")
    _no_ticks(heat)
    _colour_bar(image, heat, "loading", table=table, limit=limit)
    return _saved(figure, path)


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


def _draw_block(
    axes: "Axes",
    matrix: TransferMatrix,
    tasks: Sequence[TaskRecord],
    *,
    unit: Unit,
    values: MatrixValues,
    named_rows: bool,
) -> None:
    table = _cell_values(matrix, tasks, unit=unit, values=values)
    own = np.array([[is_own_cell(a, task) for task in tasks] for a in matrix.adapters])
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
        base = cells.get((BASE_ID, task.name))
        below = f"base {score_text(base.score, unit)}" if base else "no base score"
        heads.append(f"{_safe(task.name, 20)}\n{below}")
    axes.set_xticks(range(len(tasks)), heads, rotation=45, ha="right", rotation_mode="anchor")
    names = [_safe(adapter.name, 28) for adapter in matrix.adapters] if named_rows else []
    axes.set_yticks(range(len(names)), names)
    _no_ticks(axes)
    _colour_bar(image, axes, f"{values} ({UNIT_WORDS[unit]})", table=table, limit=limit)


def _cell_values(
    matrix: TransferMatrix, tasks: Sequence[TaskRecord], *, unit: Unit, values: MatrixValues
) -> np.ndarray:
    """Gains or scores as shown, points of 100; NaN is a gap: (n_adapters, n_tasks)."""
    cells = cells_by_place(matrix)
    table = np.full((len(matrix.adapters), len(tasks)), np.nan)
    for row, adapter in enumerate(matrix.adapters):
        for column, task in enumerate(tasks):
            cell = cells.get((adapter.adapter_id, task.name))
            gain = gain_of(cells, adapter.adapter_id, task)
            if values == "gain" and gain is not None:
                table[row, column] = gain.gain
            elif values == "score" and cell is not None:
                table[row, column] = cell.score
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
        image, ax=axes, shrink=0.8, pad=0.03, extend=ends.get((above, below), "neither")
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


def _figure(width: float, height: float) -> "Figure":
    """A figure of `width` × `height` inches at most 40 wide and high, laid out by constraints."""
    from matplotlib.figure import Figure

    return Figure(figsize=(min(width, 40), min(height, 40)), dpi=_DPI, layout="constrained")


def _saved(figure: "Figure", path: str | Path) -> Path:
    """Write the figure and return where; a Figure without pyplot renders with Agg."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", facecolor="white")
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
