"""Gains and odds of a target, measurements included."""

from dataclasses import replace

import pytest

from adapt_lora.registry.records import Fingerprint, Measurement
from adapt_lora.report.plain import ranking_json
from tests.recommender.conftest import MakeMatrix, rank


def test_gains_stay_inside_what_the_score_can_still_gain(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    found = rank(make_matrix(8, 8), target, base_score=(0.99, 0.01))
    assert all(e.interval is not None and e.interval.high <= 0.0100001 for e in found.ranking)


def test_harmful_adapters_leave_the_base_as_the_recommendation(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    matrix = make_matrix(6, 8)
    worse = tuple(
        c if c.row.id == "base" else replace(c, score=c.score - 0.4) for c in matrix.cells
    )
    found = rank(replace(matrix, cells=worse), target)
    assert found.base.recommended
    assert found.base.p_best is not None
    assert found.base.p_best > 0.9
    assert all(e.p_harm is not None and e.p_harm > 0.7 for e in found.ranking)


def test_a_measurement_moves_its_adapter_and_a_little_the_others(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    matrix = make_matrix(8, 8)
    before = {e.adapter: e for e in rank(matrix, target).ranking}
    seen = rank(matrix, target, measured={"id-a7": Measurement(0.4, 0.03, 100)})
    after = {e.adapter: e for e in seen.ranking}
    assert after["a7"].measured is not None
    assert after["a7"].measured.gain == pytest.approx(0.4)
    assert after["a7"].reasons[0].feature == "measured"
    mine, was = after["a7"].predicted_gain, before["a7"].predicted_gain
    assert mine is not None
    assert was is not None
    assert was < mine < 0.4  # shrunken toward the prediction
    assert width(after["a7"]) < width(before["a7"])
    assert after["a7"].predicted_alone == pytest.approx(was)
    shifts = {after[n].predicted_gain - before[n].predicted_gain for n in after if n != "a7"}
    assert all(abs(shift) < mine - was for shift in shifts)
    assert sum(shifts) > 0  # what they share, whatever each of them missed before
    assert "measured" not in ranking_json(seen)["ranking"][-1]


def width(entry: object) -> float:
    interval = entry.interval  # type: ignore[attr-defined]
    return float(interval.high - interval.low)
