"""Calibration: shares by hand, intervals that know that cells of one task are kin."""

import numpy as np
import pytest

from adapt_lora.recommender.backtest import backtest
from adapt_lora.recommender.bench import bench_registry
from adapt_lora.recommender.calibration import LEVELS, Calibration, OutOfFold, calibrate
from adapt_lora.recommender.choice import DEFAULT
from adapt_lora.recommender.features import registry_table
from adapt_lora.recommender.level import GainModel
from adapt_lora.report.plain import bench_json
from tests.recommender.conftest import MakeMatrix


def cells(p_harm: float, n: int, losses: int, *, n_groups: int, clustered: bool) -> list[OutOfFold]:
    """Cells of one predicted probability; the losses in the first groups, or spread over all."""
    measured = np.where(np.arange(n) < losses, -0.1, 0.1)
    if not clustered:
        measured = np.random.default_rng(0).permutation(measured)
    of = np.arange(n) * n_groups // n
    return [
        OutOfFold(f"a{i}", f"t{of[i]}", f"g{of[i]}", 0.0, float(measured[i]), p_harm=p_harm)
        for i in range(n)
    ]


def test_probabilities_are_counted_in_bins_of_equal_size() -> None:
    low = cells(0.1, 30, 3, n_groups=10, clustered=False)
    high = cells(0.7, 30, 21, n_groups=10, clustered=False)
    harm = calibrate([*high, *low]).harm
    assert [share.n for share in harm] == [15, 15, 15, 15]
    assert [share.predicted for share in harm] == pytest.approx([0.1, 0.1, 0.7, 0.7])
    assert sum(share.observed for share in harm[:2]) / 2 == pytest.approx(0.1)
    assert sum(share.observed for share in harm[2:]) / 2 == pytest.approx(0.7)
    assert all(share.low <= share.observed <= share.high for share in harm)


def test_a_share_of_kin_cells_is_less_sure_than_one_of_strangers() -> None:
    kin = calibrate(cells(0.5, 28, 14, n_groups=4, clustered=True)).harm[0]
    strangers = calibrate(cells(0.5, 28, 14, n_groups=28, clustered=True)).harm[0]
    assert (kin.observed, kin.n_groups, strangers.n_groups) == (0.5, 4, 28)
    assert kin.high - kin.low > 1.5 * (strangers.high - strangers.low)
    # Wilson's interval of 14 of 28, by hand: .5 ± 1.96/(1 + 3.8416/28)·√(.25/28 + 3.8416/3136)
    assert strangers.low <= 0.3264
    assert calibrate(cells(0.5, 28, 14, n_groups=1, clustered=True)).harm[0].low == pytest.approx(
        0.3264, abs=1e-3
    )


def test_nothing_predicted_is_nothing_counted() -> None:
    bare = [OutOfFold("a", "t", "g", 0.1, 0.2)]
    assert calibrate(bare) == Calibration((), ())
    assert calibrate([]) == Calibration((), ())


def test_the_needed_level_is_the_one_whose_interval_holds_the_gain() -> None:
    rng = np.random.default_rng(1)
    scores, gains = rng.standard_normal((6, 9)), 0.1 * rng.standard_normal((6, 9))
    model = GainModel().fit(scores, gains, [f"g{t}" for t in range(9)])
    residuals = rng.standard_normal(200) * 0.15
    needed = model.needed_level(residuals)
    low, high = model.quantile(model.tail), model.quantile(1 - model.tail)
    inside = (residuals >= low) & (residuals <= high)
    np.testing.assert_array_equal(needed <= 0.8, inside)
    assert needed.min() >= 0
    assert needed.max() == 1


def test_a_backtest_keeps_what_default_said_of_every_gain(make_matrix: MakeMatrix) -> None:
    table = registry_table(make_matrix(6, 7), unit="points")
    tested = backtest(table, methods=("stack",), n_seeds=1)
    assert len(tested.cells) == int(np.isfinite(table.gains).sum())
    row = {name: s for s, name in enumerate(table.sources)}
    column = {name: t for t, name in enumerate(table.targets)}
    for cell in tested.cells:
        gain = table.gains[row[cell.adapter], column[cell.target]]
        assert cell.measured == pytest.approx(gain)
        assert cell.interval is not None
        assert cell.needed_level is not None
        low, high = cell.interval
        assert (low <= cell.measured <= high) == (cell.needed_level <= 0.8)
    found = tested.methods[DEFAULT]
    by_target: dict[str, list[float]] = {}
    for cell in tested.cells:
        by_target.setdefault(cell.target, []).append(abs(cell.predicted - cell.measured))
    assert np.mean([np.mean(v) for v in by_target.values()]) == pytest.approx(found["mae"])


def test_bench_reports_the_calibration(make_matrix: MakeMatrix) -> None:
    bench = bench_registry(make_matrix(6, 7), methods=("stack",))
    report = bench.matrices["registry"]
    content = bench_json(bench)["matrices"]["registry"]["calibration"]
    assert [entry["predicted"] for entry in content["coverage"]] == list(LEVELS)
    assert sum(entry["n"] for entry in content["harm"]) == len(report.cells)
