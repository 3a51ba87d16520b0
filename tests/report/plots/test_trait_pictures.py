from dataclasses import replace

import pytest

from adapt_lora.errors import MatrixError
from adapt_lora.recommender.traits import Poles
from adapt_lora.report.plots import plot_trait_profiles, plot_traits
from tests.report.plots.conftest import pixels, texts


def test_loadings_stand_in_their_cells_under_the_variance_of_each_trait(traits, drawn, tmp_path):
    pixels(plot_traits(traits, tmp_path / "a.png"))
    bars, heat, *_ = drawn[0].axes
    assert [bar.get_height() for bar in bars.patches] == pytest.approx(
        [100 * ratio for ratio in traits.explained_variance_ratio]
    )
    assert bars.get_ylabel() == "variance (%)"
    assert [label.get_text() for label in heat.get_yticklabels()] == [
        task.replace("\n", " ").replace("$", r"\$") for task in traits.loadings
    ]
    assert heat.images[0].get_array().shape == (5, 2)
    assert len(heat.texts) == 5 * 2
    first, _ = traits.loadings["snli"]
    assert f"{first:+.2f}".replace("-", "−") in texts(heat)
    assert "loading" in texts(drawn[0])


def test_names_and_poles_stand_under_the_traits(traits, drawn, tmp_path):
    poles = (Poles(("snli",), ()), Poles(("a$b$",), ("x\ny",)))
    told = replace(traits, names=("rea$on", "T2 a-b"), poles=poles)
    plot_traits(told, tmp_path / "a.png")
    heads = [label.get_text().split("\n") for label in drawn[0].axes[1].get_xticklabels()]
    assert heads == [["T1", r"rea\$on", "+ snli"], ["T2", r"+ a\$b\$", "− x y"]]


def test_every_adapter_gets_a_profile_of_its_own(traits, drawn, tmp_path):
    told = []
    paths = plot_trait_profiles(
        traits, tmp_path / "profiles", progress=lambda done, n: told.append((done, n))
    )
    assert list(paths) == list(traits.scores)
    assert told == [(i, 7) for i in range(1, 8)]
    for path in paths.values():
        pixels(path)
    assert len({path.read_bytes() for path in paths.values()}) == 7
    assert {"base.png", "a-b.png", "a-b~2.png"} <= {path.name for path in paths.values()}
    (frame,) = drawn  # drawn once, for all pages
    assert {"base model", "all rows", "interval"} <= set(texts(frame))
    share = traits.explained_variance_ratio[0]
    assert rf"T1 rea\$on, {share:.0%} of the variance".replace("%", " %") in texts(frame)
    (axes,) = frame.axes
    ticks = [line for line in axes.lines if line.get_marker() == "|" and len(line.get_xdata()) > 1]
    assert [len(line.get_xdata()) for line in ticks] == [7, 7]


def test_profiles_need_no_errors_and_no_base(traits, drawn, tmp_path):
    alone = replace(traits, scores={"a": (1.0, 0.2)}, standard_errors={})
    (path,) = plot_trait_profiles(alone, tmp_path).values()
    pixels(path)
    assert not {"base model", "interval"} & set(texts(drawn[0]))


def test_a_page_is_the_same_whatever_was_drawn_before_it(traits, tmp_path):
    together = plot_trait_profiles(traits, tmp_path / "all")["a b"]
    turned = replace(traits, scores=dict(reversed(traits.scores.items())))
    first = plot_trait_profiles(turned, tmp_path / "turned")["a b"]
    assert together.read_bytes() == first.read_bytes()


def test_profiles_without_scores_are_refused(traits, tmp_path):
    with pytest.raises(MatrixError, match="no trait scores"):
        plot_trait_profiles(replace(traits, scores={}), tmp_path)


def test_traits_without_loadings_are_refused(traits, tmp_path):
    with pytest.raises(MatrixError, match="no trait loadings"):
        plot_traits(replace(traits, loadings={}), tmp_path / "a.png")
