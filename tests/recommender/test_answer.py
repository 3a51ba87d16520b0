"""The answer's forms: JSON and a frame."""

import json

import pytest

from adapt_lora.registry.records import Fingerprint
from adapt_lora.report.plain import ranking_json
from tests.recommender.conftest import MakeMatrix, rank


def test_the_json_form_is_the_documented_one(make_matrix: MakeMatrix, target: Fingerprint) -> None:
    found = ranking_json(rank(make_matrix(8, 8), target))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found["base"]) == {"score", "se", "p_best", "recommended", "majority"}
    assert found["verdict"]["use"] == "adapter"
    assert {"name", "regime", "backtest"} <= set(found["model"])
    assert [entry["rank"] for entry in found["ranking"]] == list(range(1, 9))
    for entry in found["ranking"]:
        low, high = entry["interval"]
        assert low <= entry["predicted_gain"] <= high
        assert entry["interval_level"] == 0.8
        assert 0 <= entry["p_harm"] <= 1
        assert entry["reasons"]
        assert all(reason["text"] for reason in entry["reasons"])
        assert "measured" not in entry
    gains = [entry["predicted_gain"] for entry in found["ranking"]]
    assert gains == sorted(gains, reverse=True)
    chances = [entry["p_best"] for entry in found["ranking"]]
    assert sum(chances) + found["base"]["p_best"] == pytest.approx(1.0)


def test_the_frame_keeps_the_order(make_matrix: MakeMatrix, target: Fingerprint) -> None:
    found = rank(make_matrix(6, 8), target)
    frame = found.to_pandas()
    assert frame["adapter"].tolist() == [e.adapter for e in found.ranking]
    assert frame["rank"].tolist() == list(range(1, 7))
