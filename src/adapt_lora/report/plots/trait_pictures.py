"""Traits: loadings of the tasks as a heat map, and each adapter's profile."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt_lora.errors import MatrixError
from adapt_lora.registry.records import BASE_ID
from adapt_lora.report.plots.style import (
    BLUE,
    INK,
    QUIET,
    VERMILION,
    draw_colour_bar,
    draw_plain_frame,
    hide_ticks,
    new_figure,
    plain_label,
    save_figure,
    write_cells,
)
from adapt_lora.report.wording import MINUS, share_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import Container

    from adapt_lora.recommender.traits import Traits

_INTERVAL_LOOK: dict[str, Any] = {"fmt": "none", "ecolor": INK, "capsize": 3, "linewidth": 1.2}

_NORMAL_90 = 1.2816  # 80 % of a normal distribution lie within this many standard errors


def plot_traits(traits: "Traits", path: str | Path) -> Path:
    """Draw task loadings as a heat map and the variance each trait explains as bars.

    Under each trait stand the tasks at its poles.

    Raises:
        MatrixError: There are no loadings.
    """
    ratios = traits.explained_variance_ratio
    if not traits.loadings or not ratios:
        raise MatrixError("There are no trait loadings to draw.")
    heads = ["\n".join((*head, *below)) for head, below in _trait_heads(traits, limit=16)]
    n_lines, n_tasks = max(head.count("\n") + 1 for head in heads), len(traits.loadings)
    figure = new_figure(3.4 + 1.3 * len(heads), 2.3 + 0.14 * n_lines + 0.34 * n_tasks)
    bars, heat = figure.subplots(2, 1, sharex=True, height_ratios=(1.6, 0.6 + 0.34 * n_tasks))
    _draw_variance(bars, ratios)
    table = np.array(list(traits.loadings.values()), dtype=float)  # (n_tasks, n_traits)
    limit = float(np.nanmax(np.abs(table))) or 1.0
    image = heat.imshow(table, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    # Adding 0 takes the sign off a zero.
    words = [[f"{round(v, 2) + 0.0:+.2f}".replace("-", MINUS) for v in row] for row in table]
    write_cells(heat, table, words, limit)
    heat.set_yticks(range(n_tasks), [plain_label(task, 28) for task in traits.loadings])
    heat.set_xticks(range(len(heads)), heads, fontsize=7.5)
    hide_ticks(heat)
    heat.tick_params(axis="x", labelsize=7.5)
    draw_colour_bar(image, heat, "loading", table=table, limit=limit)
    return save_figure(figure, path)


def _draw_variance(axes: "Axes", ratios: Sequence[float]) -> None:
    axes.bar(range(len(ratios)), [100 * ratio for ratio in ratios], color=BLUE, width=0.6)
    for place, ratio in enumerate(ratios):
        axes.annotate(
            f"{ratio:.1%}",
            (place, 100 * ratio),
            (0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set_ylim(0, 118 * max(ratios))
    axes.set_ylabel("variance (%)")
    axes.set_title("Latent traits", loc="left", fontweight="bold")
    draw_plain_frame(axes)
    axes.tick_params(axis="x", length=0)


def plot_trait_profiles(
    traits: "Traits",
    folder: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Path]:
    """Draw one page per adapter: its score on each trait between the two poles, with intervals.

    All pages have one scale; ticks show where the other adapters are, a diamond the bare base.

    Args:
        traits: The fit.
        folder: Where the PNGs go; the files are called after the adapters.
        progress: Told (pages done, in all).

    Returns:
        Adapter → its PNG, the base among them.

    Raises:
        MatrixError: There are no scores.
    """
    if not traits.scores:
        raise MatrixError("There are no trait scores to draw.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = new_figure(8.2, 1.35 + 0.95 * len(traits.keys), layout=None)
    axes = figure.subplots()
    _draw_profile_frame(axes, traits)
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib says no types for its methods
    canvas.draw()
    # One frame under all pages: drawing it anew would take nearly all of the time.
    frame = canvas.copy_from_bbox(figure.bbox)
    names = _file_names(traits.scores)
    paths = {}
    for number, adapter in enumerate(traits.scores, start=1):
        canvas.restore_region(frame)
        _draw_profile(axes, traits, adapter)
        paths[adapter] = _saved_pixels(canvas, Path(folder) / f"{names[adapter]}.png")
        if progress is not None:
            progress(number, len(traits.scores))
    return paths


def _trait_heads(traits: "Traits", *, limit: int) -> list[tuple[list[str], list[str]]]:
    """Per trait its key and name, and the tasks at its poles, as lines of `limit` characters."""
    heads = []
    for key, name, pole in zip(traits.keys, traits.names, traits.poles, strict=True):
        # A name that nobody gave says the poles once more.
        own = [] if name.startswith(f"{key} ") or name == key else [plain_label(name, limit)]
        signs = (("+", pole.high), (MINUS, pole.low))
        below = [f"{sign} {plain_label(task, limit)}" for sign, tasks in signs for task in tasks]
        heads.append(([plain_label(key, limit), *own], below))
    return heads


def _draw_profile_frame(axes: "Axes", traits: "Traits") -> None:
    """What all profiles share: poles on either side, traits between, one scale, everybody."""
    scores = np.array(list(traits.scores.values()), dtype=float)  # (n_adapters, n_traits)
    heads = _trait_heads(traits, limit=50)
    n = len(heads)
    height = 1.35 + 0.95 * n
    axes.figure.subplots_adjust(left=0.21, right=0.79, top=1 - 0.45 / height, bottom=0.75 / height)
    known = traits.standard_errors
    errors = np.array([known.get(adapter, [0.0] * n) for adapter in traits.scores], dtype=float)
    limit = 1.05 * float((np.abs(scores) + _NORMAL_90 * errors).max()) or 1.0
    axes.set(xlim=(-limit, limit), ylim=(n - 0.4, -0.6))
    axes.axvline(0, color=QUIET, linewidth=0.8)
    for row, ((head, _), pole) in enumerate(zip(heads, traits.poles, strict=True)):
        share = share_text(traits.explained_variance_ratio[row])
        words = f"{' '.join(head)}, {share} of the variance"
        axes.text(-limit, row - 0.32, words, fontsize=8, fontweight="bold")
        axes.plot(scores[:, row], np.full(len(scores), row + 0.3), "|", color=QUIET, markersize=5)
        for tasks, place, align in ((pole.low, -0.02, "right"), (pole.high, 1.02, "left")):
            axes.text(
                place,
                row,
                "\n".join(plain_label(task, 20) for task in tasks),
                transform=axes.get_yaxis_transform(),
                ha=align,
                va="center",
                fontsize=8,
            )
    base = traits.scores.get(BASE_ID)
    if base is not None:
        look: dict[str, Any] = {"color": INK, "markerfacecolor": "white", "markersize": 5}
        axes.plot(base, np.arange(n) + 0.3, "D", label="base model", zorder=4, **look)
    axes.plot([], [], "|", color=QUIET, label="all rows")
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
    draw_plain_frame(axes)
    axes.spines["left"].set_visible(False)


def _draw_profile(axes: "Axes", traits: "Traits", adapter: str) -> None:
    """One adapter's name, bars and intervals onto what is drawn already."""
    scores = np.array(traits.scores[adapter], dtype=float)
    places = np.arange(len(scores))
    colours = [BLUE if score >= 0 else VERMILION for score in scores]
    drawn: list[Container] = [axes.barh(places, scores, 0.26, color=colours)]
    errors = traits.standard_errors.get(adapter)
    if errors is not None:
        reach = _NORMAL_90 * np.array(errors, dtype=float)
        drawn.append(axes.errorbar(scores, places, xerr=reach, **_INTERVAL_LOOK))
    name = "the base model" if adapter == BASE_ID else plain_label(adapter, 60)
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


def _saved_pixels(canvas: Any, path: Path) -> Path:
    """Write what the canvas shows now, without drawing the figure again."""
    from matplotlib.image import imsave

    path.parent.mkdir(parents=True, exist_ok=True)
    # Packing harder takes longer than all the drawing and saves an eighth of the size.
    imsave(path, canvas.buffer_rgba(), format="png", pil_kwargs={"compress_level": 1})
    return path
