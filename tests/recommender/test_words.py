"""What is said about a ranking, and that nothing is invented."""

import numpy as np
import pytest

from adapt_lora.registry.records import Fingerprint
from adapt_lora.report.plain import ranking_json
from tests.recommender.conftest import MakeMatrix, rank


@pytest.mark.parametrize("n_tasks", [1, 2])
def test_too_few_task_groups_fall_back_to_the_prior_aloud(
    make_matrix: MakeMatrix, target: Fingerprint, n_tasks: int
) -> None:
    found = ranking_json(rank(make_matrix(6, n_tasks), target))
    assert any("the ranking is the prior" in said for said in found["warnings"])
    for entry in found["ranking"]:
        assert not {"interval", "p_harm", "p_best"} & set(entry)
        assert entry["reasons"]


def test_with_nothing_measured_only_likeness_orders_and_no_gain_is_invented(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    matrix = make_matrix(5, 0)
    found = rank(matrix, target)
    assert any("gains can't be predicted" in said for said in found.warnings)
    assert all(entry.predicted_gain is None for entry in found.ranking)
    assert not found.base.recommended
    assert found.model.backtest == {}
    direction = np.array(target.vectors["hidden_mid_mean"])
    likeness = {
        a.name: float(np.dot(v := np.array(a.fingerprint.vectors["hidden_mid_mean"]), direction))
        / float(np.linalg.norm(v))
        for a in matrix.adapters
    }
    assert [e.adapter for e in found.ranking] == sorted(likeness, key=lambda a: -likeness[a])


def test_with_nothing_known_at_all_the_order_is_said_to_mean_nothing(
    make_matrix: MakeMatrix,
) -> None:
    found = rank(make_matrix(4, 0), Fingerprint())
    assert any("the order says nothing" in said for said in found.warnings)
    assert [entry.adapter for entry in found.ranking] == ["a0", "a1", "a2", "a3"]
    assert found.ranking[0].reasons[0].feature == "nothing"


def test_evidence_shows_the_nearest_tasks_first(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    for entry in rank(make_matrix(6, 8), target).ranking:
        near = [item.similarity for item in entry.evidence]
        assert len(near) == 3
        assert near == sorted(near, reverse=True)
