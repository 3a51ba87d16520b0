"""What stands on a picture, read from the figure that was rendered."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # What other tests of the process left open may be collected here.
        warnings.simplefilter("ignore", ResourceWarning)
        yield


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that were rendered, each once, in order."""
    figures: list[Figure] = []
    render = FigureCanvasAgg.draw

    def watched(canvas):
        if canvas.figure not in figures:
            figures.append(canvas.figure)
        return render(canvas)

    monkeypatch.setattr(FigureCanvasAgg, "draw", watched)
    return figures


def texts(part: Figure | Axes) -> list[str]:
    """All words on a figure or a panel that can be seen."""
    found = part.findobj(lambda one: isinstance(one, Text) and one.get_visible())
    return [text.get_text() for text in found if text.get_text()]


def panel(figure: Figure, title: str) -> Axes:
    """The panel with this title on its left, or at its beginning."""
    (found,) = [axes for axes in figure.axes if axes.get_title(loc="left").startswith(title)]
    return found


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    picture = np.asarray(imread(path))
    assert min(picture.shape[:2]) > 300
    assert picture[..., :3].std() > 0.01, "the picture is blank"
    return picture
