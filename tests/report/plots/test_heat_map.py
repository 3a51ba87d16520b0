from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from scipy.cluster.hierarchy import leaves_list

from adapt_lora.errors import MatrixError
from adapt_lora.registry.records import BASE_ID
from adapt_lora.report.plots import plot_matrix
from adapt_lora.report.plots.heat_map import _linkage
from tests.report.plots.conftest import pixels, texts


def blocks(figure):
    """The heat maps of a figure: one for tasks in points, one for tasks in nats."""
    return [axes for axes in figure.axes if axes.images]


def gaps(axes):
    return [patch for patch in axes.patches if patch.get_hatch()]


def test_every_measured_gain_stands_in_its_cell_and_gaps_are_hatched(matrix, drawn, tmp_path):
    pixels(plot_matrix(matrix, tmp_path / "new" / "a.png", clustered=False))
    points, nats = blocks(drawn[0])
    assert [label.get_text() for label in points.get_yticklabels()][:2] == [
        "sentiment-lora",
        "nli-lora",
    ]
    assert [label.get_text().split("\n") for label in points.get_xticklabels()] == [
        ["sst2-test", "base 51.2"],
        ["snli", "base 33.4"],
        ["trec-coarse", "base 21.0"],
        ["goat", "base 5.0"],
    ]
    written = {tuple(map(int, text.get_position())): text.get_text() for text in points.texts}
    assert len(written) == 18
    assert written[(0, 1)] == "+9.2"  # nli-lora on sst2-test
    assert written[(1, 1)] == "+36.8"
    assert len(gaps(points)) == 2
    assert (len(nats.texts), len(gaps(nats))) == (9, 1)
    assert "−0.200" in texts(nats)
    assert len(points.patches) == 2 + 2 * 3  # an own cell has a white and a black frame
    assert {"gain (points)", "gain (nats per token)"} <= set(texts(drawn[0]))
    assert "Gain over the base model, org/tiny-135M" in texts(drawn[0])
    assert {"own training data", "not measured"} <= set(texts(drawn[0]))


def test_scores_are_drawn_when_asked_for(matrix, drawn, tmp_path):
    plot_matrix(matrix, tmp_path / "a.png", values="score")
    points, _ = blocks(drawn[0])
    assert "88.3" in texts(points)
    assert not any("+" in words for words in texts(points))
    assert "Score, org/tiny-135M" in texts(drawn[0])


def test_a_harmful_adapter_is_red_and_a_helpful_one_blue(matrix, drawn, tmp_path):
    plot_matrix(matrix, tmp_path / "a.png", clustered=False)
    points, _ = blocks(drawn[0])
    image = points.images[0]
    colours = image.to_rgba(image.get_array())  # (n_rows, n_tasks, 4)
    helped, harmed = colours[1, 0], colours[4, 0]  # nli-lora +9.2, the hostile one −11.2
    assert helped[2] > helped[0], to_hex(helped)
    assert harmed[0] > harmed[2], to_hex(harmed)
    assert image.norm.vmin == -image.norm.vmax


def test_a_matrix_without_any_measured_gain_is_all_gaps(matrix, drawn, tmp_path):
    base_only = tuple(cell for cell in matrix.cells if cell.row.id == BASE_ID)
    plot_matrix(replace(matrix, cells=base_only), tmp_path / "a.png", clustered=False)
    plot_matrix(replace(matrix, cells=()), tmp_path / "b.png", values="score")
    for figure in drawn:
        points, nats = blocks(figure)
        assert (len(gaps(points)), len(points.texts)) == (5 * 4, 0)
        assert (len(gaps(nats)), len(nats.texts)) == (5 * 2, 0)
    assert "base 51.2" in blocks(drawn[0])[0].get_xticklabels()[0].get_text()
    assert "no base score" in blocks(drawn[1])[0].get_xticklabels()[0].get_text()


def test_rows_and_columns_that_are_alike_stand_together():
    twins = [[9.0, -9.0, 8.0, np.nan], [1.0, 1.0, np.nan, -7.0], [9.0, -9.0, np.nan, np.nan]]
    opposite = [-9.0, 9.0, -8.0, 3.0]
    order = leaves_list(_linkage(np.array([twins[0], opposite, twins[1], twins[2]]))).tolist()
    assert abs(order.index(0) - order.index(3)) == 1
    assert abs(order.index(0) - order.index(1)) > 1


def test_rows_that_share_no_column_are_far_apart_not_an_error():
    table = np.array([[1.0, np.nan], [np.nan, 1.0], [1.0, 1.0], [np.nan, np.nan]])
    assert np.isfinite(_linkage(table)).all()
    assert _linkage(table[:2]) is None


def test_an_empty_matrix_is_refused(matrix, tmp_path):
    with pytest.raises(MatrixError, match="at least one adapter"):
        plot_matrix(replace(matrix, adapters=()), tmp_path / "a.png")
