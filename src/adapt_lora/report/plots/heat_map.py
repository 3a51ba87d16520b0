"""The transfer matrix as a heat map, likes beside likes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt_lora.errors import MatrixError
from adapt_lora.registry.records import BASE_ROW, MatrixRow, TaskRecord, TransferMatrix, Unit
from adapt_lora.report.plots.style import (
    INK,
    QUIET,
    FloatArray,
    draw_colour_bar,
    hide_ticks,
    new_figure,
    plain_label,
    save_figure,
    write_cells,
)
from adapt_lora.report.transfer import (
    MatrixValues,
    cells_by_place,
    figure_of,
    gain_rows,
    is_own_cell,
)
from adapt_lora.report.wording import UNIT_WORDS, gain_text, score_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GAP_LOOK: dict[str, Any] = {
    "facecolor": "#EEEEEE",
    "edgecolor": "#C4C4C4",
    "hatch": "////",
    "linewidth": 0,
}

# Above this many cells the numbers in them are too small to read and only cost time.
_MAX_WRITTEN_CELLS = 600


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
    figure = new_figure(3.6 + sum(widths), 2.0 + sum(heights))
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
    figure.suptitle(
        f"{title}, {plain_label(matrix.base.name, 60)}", x=0.01, ha="left", fontweight="bold"
    )
    _legend_below(figure)
    return save_figure(figure, path)


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

    Shared columns speak for the gaps; two rows that share none are as far apart as the farthest
    that do.
    """
    from scipy.cluster.hierarchy import linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform
    from sklearn.metrics.pairwise import nan_euclidean_distances

    if len(table) < 3:
        return None
    distance = nan_euclidean_distances(table)  # (n, n), NaN where two rows share no column
    farthest = float(np.nanmax(distance, initial=0.0)) or 1.0
    distance[np.isnan(distance)] = farthest
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
    look: dict[str, Any] = {"colors": QUIET, "linewidths": 0.9}
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
        write_cells(axes, table, words, limit)
    cells = cells_by_place(matrix)
    heads = []
    for task in tasks:
        base = cells.get((BASE_ROW, task.name))
        below = f"base {score_text(base.score, unit)}" if base else "no base score"
        heads.append(f"{plain_label(task.name, 20)}\n{below}")
    axes.set_xticks(range(len(tasks)), heads, rotation=45, ha="right", rotation_mode="anchor")
    names = [plain_label(row.label, 28) for row in rows] if named_rows else []
    axes.set_yticks(range(len(names)), names)
    hide_ticks(axes)
    draw_colour_bar(image, axes, f"{values} ({UNIT_WORDS[unit]})", table=table, limit=limit)


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
        for colour, width in (("white", 3.6), (INK, 1.6)):
            corner = (column - 0.44, row - 0.44)
            frame = Rectangle(corner, 0.88, 0.88, fill=False, edgecolor=colour, linewidth=width)
            axes.add_patch(frame)


def _legend_below(figure: "Figure") -> None:
    from matplotlib.patches import Patch

    own = Patch(facecolor="white", edgecolor=INK, linewidth=1.8, label="own training data")
    gap = Patch(label="not measured", **_GAP_LOOK)
    figure.legend(handles=[own, gap], loc="outside lower left", ncols=2, frameon=False, fontsize=8)
