import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.cluster.hierarchy import leaves_list

from adapt_lora.errors import DatasetError, MatrixError, RecommendError, TrainingError
from adapt_lora.recommender.calibration import OutOfFold
from adapt_lora.registry.records import (
    BASE_ID,
    DatasetRecord,
    Fingerprint,
    Prediction,
    TaskRecord,
)
from adapt_lora.report import plots
from adapt_lora.report.outcomes import cell_outcomes
from adapt_lora.report.plots import (
    PredictedMeasured,
    plot_calibration,
    plot_histograms,
    plot_loss,
    plot_matrix,
    plot_outcomes,
    plot_predicted_vs_measured,
    plot_trait_profiles,
    plot_traits,
)


@dataclass
class Step:
    step: int
    loss: float
    learning_rate: float


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_histograms_and_labels_are_drawn(fingerprint, tmp_path):
    assert_picture(plot_histograms(fingerprint, tmp_path / "new" / "folder" / "a.png"))


def test_one_histogram_alone_is_drawn(fingerprint, tmp_path):
    lengths = {"prompt_tokens": fingerprint.histograms["prompt_tokens"]}
    assert_picture(plot_histograms(Fingerprint(histograms=lengths), tmp_path / "a.png"))


def test_a_fingerprint_without_distributions_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no histogram"):
        plot_histograms(Fingerprint(), tmp_path / "a.png")


@pytest.mark.parametrize("n_steps", [1, 2, 60])
def test_loss_is_drawn_for_short_and_long_runs(n_steps, tmp_path):
    history = [Step(i + 1, 3 / (i + 1), 1e-4) for i in range(n_steps)]
    assert_picture(plot_loss(history, tmp_path / "a.png"))


def test_a_run_without_steps_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="no step"):
        plot_loss([], tmp_path / "a.png")


@pytest.mark.parametrize("values", ["gain", "score"])
def test_the_matrix_is_drawn_with_gaps_and_hostile_names(matrix, values, tmp_path):
    assert_picture(plot_matrix(matrix, tmp_path / "a.png", values=values))


def test_a_harmful_adapter_is_red_and_a_helpful_one_blue(matrix, tmp_path):
    picture = pixels(plot_matrix(matrix, tmp_path / "a.png"))
    helped = (picture[..., 2] > picture[..., 0] + 0.3).sum()
    harmed = (picture[..., 0] > picture[..., 2] + 0.3).sum()
    assert helped > 1000
    assert harmed > 1000
    only_help = replace(
        matrix,
        cells=tuple(
            replace(cell, score=cell.score + 2.0) if cell.row.id != BASE_ID else cell
            for cell in matrix.cells
        ),
    )
    picture = pixels(plot_matrix(only_help, tmp_path / "b.png"))
    # What red is left is in the colour bars.
    assert (picture[..., 0] > picture[..., 2] + 0.3).sum() < harmed / 2


def test_a_matrix_without_any_measured_gain_is_all_gaps(matrix, tmp_path):
    base_only = tuple(cell for cell in matrix.cells if cell.row.id == BASE_ID)
    assert_picture(plot_matrix(replace(matrix, cells=base_only), tmp_path / "a.png"))
    assert_picture(plot_matrix(replace(matrix, cells=()), tmp_path / "b.png", values="score"))


def test_rows_and_columns_that_are_alike_stand_together():
    twins = [[9.0, -9.0, 8.0, np.nan], [1.0, 1.0, np.nan, -7.0], [9.0, -9.0, np.nan, np.nan]]
    opposite = [-9.0, 9.0, -8.0, 3.0]
    order = leaves_list(plots._linkage(np.array([twins[0], opposite, twins[1], twins[2]]))).tolist()
    assert abs(order.index(0) - order.index(3)) == 1
    assert abs(order.index(0) - order.index(1)) > 1


def test_rows_that_share_no_column_are_far_apart_not_an_error():
    table = np.array([[1.0, np.nan], [np.nan, 1.0], [1.0, 1.0], [np.nan, np.nan]])
    assert np.isfinite(plots._linkage(table)).all()
    assert plots._linkage(table[:2]) is None


def test_a_row_of_outcomes_is_drawn_with_many_labels_and_hostile_names(tmp_path):
    labels = [f"label $number$ {i}" for i in range(30)]
    many = [
        Prediction("d", i % 3 > 0, labels[i % 7], (), None, labels[i % 30], None, i)
        for i in range(60)
    ]
    two = [
        Prediction("d", i % 2 == 0, "yes", (), None, ("yes", "no")[i % 2], None, 5)
        for i in range(8)
    ]
    written = [Prediction("d", None, None, (), 3, None, None, 4, 9, "length") for _ in range(5)]
    row = [
        cell_outcomes(_task("many", "g", labels), many),
        cell_outcomes(_task("$two_{$", "g", ["no", "yes"]), two),
        cell_outcomes(_task("written", "g", ()), written),
    ]
    drawn = plot_outcomes(row, tmp_path, title="<b>$x_{")
    assert set(drawn) == {"confusion.png", "lengths.png"}
    for path in drawn.values():
        assert_picture(path)
    assert set(plot_outcomes(row[2:], tmp_path, title="one")) == {"lengths.png"}
    assert plot_outcomes([], tmp_path, title="none") == {}


def test_outcomes_fall_into_true_and_false_positives():
    task = _task("two", "g", ["no", "yes"])
    pairs = [("yes", "yes"), ("no", "yes"), ("no", "no"), ("yes", "no"), ("yes", "no")]
    predictions = [
        Prediction("d", gold == answer, answer, (), None, gold, None, 10 + i)
        for i, (gold, answer) in enumerate(pairs)
    ]
    outcomes = cell_outcomes(task, predictions)
    assert outcomes.lengths == {"TP": (10,), "FP": (11,), "TN": (12,), "FN": (13, 14)}
    assert outcomes.confusion.tolist() == [[1, 1], [2, 1]]
    assert outcomes.positive == "yes"
    turned = cell_outcomes(_task("two", "g", ["yes", "no"]), predictions)
    assert (turned.positive, turned.lengths) == ("yes", outcomes.lengths)
    assert cell_outcomes(task, ()) is None


def _task(name, group, labels):
    metric = "balanced_accuracy" if labels else "answer_log_likelihood"
    return TaskRecord(name, group, metric, DatasetRecord(name, "d", group, 9), tuple(labels))


def test_an_empty_matrix_is_refused(matrix, tmp_path):
    with pytest.raises(MatrixError, match="at least one adapter"):
        plot_matrix(replace(matrix, adapters=()), tmp_path / "a.png")


def test_traits_are_drawn(tmp_path):
    traits = {
        "explained_variance_ratio": [0.6, 0.3],
        "loadings": {"snli": [0.7, -0.1], "a$b$": [0.0, 0.9]},
        "names": ["PC1", "PC2"],
    }
    assert_picture(plot_traits(traits, tmp_path / "a.png"))


TRAITS = {
    "explained_variance_ratio": [0.6, 0.3],
    "loadings": {"snli": [0.7, -0.001], "a$b$": [0.0, 0.9]},
    "scores": {"base": [0.2, -0.1], "a/b": [1.5, -0.4], "a b": [0.0, 0.0]},
    "standard_errors": {"base": [0.1, 0.1], "a/b": [0.1, 0.1], "a b": [0.6, 0.4]},
    "keys": ["T1", "T2"],
    "names": ["rea$on", "T2 a-b"],
    "poles": [{"high": ["snli"], "low": []}, {"high": ["a$b$"], "low": ["x\ny"]}],
}


def test_traits_are_drawn_with_names_and_poles(tmp_path):
    assert_picture(plot_traits(TRAITS, tmp_path / "a.png"))


def test_every_adapter_gets_a_profile_of_its_own(tmp_path):
    told = []
    paths = plot_trait_profiles(
        TRAITS, tmp_path / "profiles", progress=lambda done, n: told.append((done, n))
    )
    assert list(paths) == ["base", "a/b", "a b"]
    assert told == [(1, 3), (2, 3), (3, 3)]
    for path in paths.values():
        assert_picture(path)
    assert len({path.read_bytes() for path in paths.values()}) == 3
    assert {path.name for path in paths.values()} == {"base.png", "a-b.png", "a-b~2.png"}


def test_profiles_need_no_errors_no_poles_and_no_base(tmp_path):
    (path,) = plot_trait_profiles({"scores": {"a": [1.0]}, "names": ["T1"]}, tmp_path).values()
    assert_picture(path)


def test_a_page_is_the_same_whatever_was_drawn_before_it(tmp_path):
    together = plot_trait_profiles(TRAITS, tmp_path / "all")["a b"]
    order = dict(reversed(TRAITS["scores"].items()))
    first = plot_trait_profiles({**TRAITS, "scores": order}, tmp_path / "turned")["a b"]
    assert together.read_bytes() == first.read_bytes()


def test_profiles_without_scores_are_refused(tmp_path):
    with pytest.raises(MatrixError, match="no trait scores"):
        plot_trait_profiles({"loadings": {}}, tmp_path)


def test_traits_without_loadings_are_refused(tmp_path):
    with pytest.raises(MatrixError, match="no trait loadings"):
        plot_traits({"explained_variance_ratio": [1.0]}, tmp_path / "a.png")


@pytest.mark.parametrize("n_targets", [1, 9])
def test_predictions_are_drawn_with_and_without_intervals(n_targets, tmp_path):
    points = [
        point
        for i in range(n_targets)
        for point in (
            PredictedMeasured("a", f"task-{i}", 0.05, 0.02 * i, (-0.01, 9.0), 0.02),
            PredictedMeasured("b", f"task-{i}", -0.02, 0.01),
        )
    ]
    assert_picture(plot_predicted_vs_measured(points, tmp_path / "a.png"))


def test_points_and_nats_never_share_a_picture(tmp_path):
    points = [
        PredictedMeasured("a", "x", 0.1, 0.1),
        PredictedMeasured("a", "y", 0.1, 0.1, unit="nats"),
    ]
    with pytest.raises(RecommendError, match="points and in nats"):
        plot_predicted_vs_measured(points, tmp_path / "a.png")


def assert_picture(path: Path) -> None:
    picture = pixels(path)
    assert min(picture.shape[:2]) > 300
    assert picture[..., :3].std() > 0.01, "the picture is blank"


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return np.asarray(imread(path))


def out_of_fold(n_groups: int) -> list[OutOfFold]:
    return [
        OutOfFold(
            f"a{i}",
            f"t{g}",
            f"group_{g}$",
            0.01 * i - 0.02,
            0.02 * g - 0.01 * i,
            (-0.1, 0.2 + 0.01 * i),
            0.1 * i,
            0.1 * ((i + g) % 10),
        )
        for g in range(n_groups)
        for i in range(8)
    ]


@pytest.mark.parametrize("n_groups", [1, 8, 30])
def test_a_backtests_gains_odds_and_intervals_are_drawn(tmp_path, n_groups):
    picture = plot_calibration(out_of_fold(n_groups), tmp_path / "a.png", title="a registry")
    assert_picture(picture)


def test_gains_without_odds_or_intervals_are_drawn_alone(tmp_path):
    bare = [OutOfFold("a", "t", "g", 0.1 * i, -0.1 * i) for i in range(3)]
    assert_picture(plot_calibration(bare, tmp_path / "a.png", unit="nats"))


def test_a_backtest_without_gains_says_what_it_needs(tmp_path):
    with pytest.raises(RecommendError, match="base scores on at least three task groups"):
        plot_calibration([], tmp_path / "a.png")
