"""A dataset's distributions: lengths, surprise and label shares."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt_lora.errors import DatasetError
from adapt_lora.registry.records import Fingerprint, Histogram
from adapt_lora.report.plots.style import (
    BLUE,
    ORANGE,
    VERMILION,
    draw_plain_frame,
    new_figure,
    plain_label,
    save_figure,
)
from adapt_lora.report.wording import number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HISTOGRAM_TITLES: Mapping[str, tuple[str, str]] = {
    "prompt_tokens": ("Prompt length", "tokens"),
    "response_tokens": ("Response length", "tokens"),
    "total_tokens": ("Prompt and response length", "tokens"),
    "response_nll": ("How surprising responses are", "nats per token"),
    "prompt_nll": ("How surprising prompts are", "nats per token"),
}

_ABOVE_RIGHT: dict[str, Any] = {
    "loc": "lower right",
    "bbox_to_anchor": (1, 1),
    "ncols": 2,
    "borderpad": 0,
}


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
    figure = new_figure(5.2 * n_columns, 3.3 * n_rows)
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
    return save_figure(figure, path)


def _draw_histogram(
    axes: "Axes", histogram: Histogram, *, title: str, unit: str, median: float | None
) -> None:
    edges, counts = np.array(histogram.edges), np.array(histogram.counts)
    axes.bar(
        edges[:-1],
        counts,
        width=np.diff(edges),
        align="edge",
        color=BLUE,
        edgecolor="white",
        linewidth=0.5,
    )
    if median is None:
        median = _median(edges, counts)
    axes.axvline(median, color=VERMILION, linewidth=1.5)
    # On the side with room, or the words would run over the picture's edge.
    left = median > (edges[0] + edges[-1]) / 2
    axes.annotate(
        f"median {number_text(median)}",
        (median, 1),
        (-4 if left else 4, -9),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color=VERMILION,
        fontsize=8,
        ha="right" if left else "left",
    )
    axes.set_ylim(0, 1.15 * counts.max())
    axes.set_title(plain_label(title, 40), loc="left", fontweight="bold")
    axes.set_xlabel(unit)
    axes.set_ylabel("count")
    draw_plain_frame(axes)


def _draw_label_shares(axes: "Axes", fingerprint: Fingerprint) -> None:
    shown = sorted(fingerprint.label_shares.items(), key=lambda item: -item[1])[:12]
    places = np.arange(len(shown))
    base = fingerprint.base_label_shares
    height = 0.38 if base else 0.7
    gold = [100 * share for _, share in shown]
    axes.barh(places - (height / 2 if base else 0), gold, height, color=BLUE, label="gold")
    if base:
        guessed = [100 * base.get(label, 0.0) for label, _ in shown]
        axes.barh(places + height / 2, guessed, height, color=ORANGE, label="base model's choice")
        axes.legend(frameon=False, fontsize=8, **_ABOVE_RIGHT)
    axes.set_yticks(places, [plain_label(label, 22) for label, _ in shown])
    axes.invert_yaxis()
    axes.set_xlabel("share of rows (%)")
    left_out = len(fingerprint.label_shares) - len(shown)
    rest = f" (the {len(shown)} commonest of {len(shown) + left_out})" if left_out else ""
    axes.set_title(f"Labels{rest}", loc="left", fontweight="bold")
    draw_plain_frame(axes)
    axes.tick_params(axis="y", length=0)


def _median(edges: np.ndarray, counts: np.ndarray) -> float:
    """Median of binned values, linear inside the bin that holds it."""
    total = np.concatenate([[0.0], np.cumsum(counts)])
    return float(np.interp(total[-1] / 2, total, edges))
