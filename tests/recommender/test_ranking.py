"""The answer: what it says, what it leaves out, and that it never invents."""

import json
from dataclasses import replace

import numpy as np
import pytest

from adapt_lora.errors import RecommendError
from adapt_lora.recommender import Recommendation, rank_adapters
from adapt_lora.recommender.ranking import without_selected_columns
from adapt_lora.registry.records import Fingerprint, Measurement, TransferMatrix
from adapt_lora.report.plain import ranking_json
from tests.recommender.conftest import MakeMatrix

METRIC = "balanced_accuracy"


def rank(matrix: TransferMatrix, target: Fingerprint, **more: object) -> Recommendation:
    settings: dict[str, object] = {"metric": METRIC, "base_score": (0.5, 0.03)}
    return rank_adapters(matrix, target, **{**settings, **more})  # type: ignore[arg-type]


def test_the_json_form_is_the_documented_one(make_matrix: MakeMatrix, target: Fingerprint) -> None:
    found = ranking_json(rank(make_matrix(8, 8), target))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["schema_version"] == 1
    assert set(found["base"]) == {"score", "se", "p_best", "recommended"}
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


def test_the_same_seed_gives_the_same_answer(make_matrix: MakeMatrix, target: Fingerprint) -> None:
    matrix = make_matrix(6, 10)
    assert rank(matrix, target, seed=3) == rank(matrix, target, seed=3)


def test_the_targets_own_group_has_no_say(make_matrix: MakeMatrix, target: Fingerprint) -> None:
    matrix = make_matrix(8, 9)
    changed = tuple(replace(c, score=1 - c.score) if c.task == "t3" else c for c in matrix.cells)
    one = rank(matrix, target, group="g3")
    assert one == rank(replace(matrix, cells=changed), target, group="g3")
    assert one == rank(matrix.without_groups(["g3"]), target, group="g3")
    assert one != rank(replace(matrix, cells=changed), target)


def test_the_backtest_and_its_baseline_travel_along(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    tested = rank(make_matrix(8, 8), target).model.backtest
    assert tested["n_groups"] == 8
    assert tested["chosen"] == "stack"
    assert -1 <= tested["spearman_rho"] <= 1
    assert set(tested["against"]["popularity_trimmed"]) >= {"spearman_rho", "regret_at_1"}


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


def test_an_unlabelled_target_is_ranked_without_a_base_score(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    bare = Fingerprint(vectors=target.vectors)
    found = ranking_json(rank(make_matrix(8, 8), bare, base_score=None))
    assert set(found["base"]) == {"p_best", "recommended"}
    assert len(found["ranking"]) == 8


def test_log_likelihood_targets_learn_from_log_likelihood_alone(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    found = rank(make_matrix(6, 6), target, metric="answer_log_likelihood")
    assert found.model.n_cells == 0
    nats = make_matrix(6, 6, metric="answer_log_likelihood")
    found = rank(nats, target, metric="answer_log_likelihood")
    assert found.model.unit == "nats"
    assert found.model.n_groups == 6


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
    assert all(0 <= shift < mine - was for shift in shifts)
    assert "measured" not in ranking_json(seen)["ranking"][-1]


def width(entry: object) -> float:
    interval = entry.interval  # type: ignore[attr-defined]
    return float(interval.high - interval.low)


def test_an_in_domain_adapter_stays_with_a_warning(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    found = rank(make_matrix(6, 8), target, group="g1")
    mine = next(e for e in found.ranking if e.adapter == "a1")
    assert any("own group (g1)" in said for said in mine.warnings)


def test_overlapping_rows_and_missing_measurements_are_said(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    matrix = make_matrix(6, 8)
    trained = replace(matrix.adapters[2].fingerprint, row_sketches=tuple(range(100)))
    adapters = (*matrix.adapters[:2], replace(matrix.adapters[2], fingerprint=trained))
    adapters = (
        *adapters,
        *matrix.adapters[3:],
        replace(matrix.adapters[5], adapter_id="new", name="new"),
    )
    leaking = replace(target, row_sketches=tuple(range(0, 200, 2)))
    found = {e.adapter: e for e in rank(replace(matrix, adapters=adapters), leaking).ranking}
    assert any("of the target's prompts" in said for said in found["a2"].warnings)
    assert any("Never measured" in said for said in found["new"].warnings)
    assert not any("prompts" in said for said in found["a3"].warnings)


def test_columns_that_verification_alone_filled_do_not_teach_standing(
    make_matrix: MakeMatrix,
) -> None:
    matrix = make_matrix(8, 3)
    chosen = {"id-a0", "id-a1", "id-a2"}
    cells = tuple(
        replace(c, selected=c.row.id in chosen)
        for c in matrix.cells
        if c.task != "t2" or c.row.id in {*chosen, "base"}
    )
    left = without_selected_columns(replace(matrix, cells=cells))
    assert [task.name for task in left.tasks] == ["t0", "t1"]
    assert {c.task for c in left.cells} == {"t0", "t1"}
    half = tuple(replace(c, selected=True) for c in matrix.cells)
    assert without_selected_columns(replace(matrix, cells=half)).tasks == matrix.tasks


def test_evidence_shows_the_nearest_tasks_first(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    for entry in rank(make_matrix(6, 8), target).ranking:
        near = [item.similarity for item in entry.evidence]
        assert len(near) == 3
        assert near == sorted(near, reverse=True)


def test_a_matrix_full_of_gaps_is_still_ranked(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    found = ranking_json(rank(make_matrix(10, 12, gap_share=0.6), target))
    assert json.dumps(found, allow_nan=False)
    assert len(found["ranking"]) == 10


def test_the_frame_keeps_the_order(make_matrix: MakeMatrix, target: Fingerprint) -> None:
    found = rank(make_matrix(6, 8), target)
    frame = found.to_pandas()
    assert frame["adapter"].tolist() == [e.adapter for e in found.ranking]
    assert frame["rank"].tolist() == list(range(1, 7))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"metric": "rouge"}, "Unknown metric 'rouge'"),
        ({"method": "magic"}, "Unknown method 'magic'"),
    ],
)
def test_wrong_questions_are_answered_in_words(
    make_matrix: MakeMatrix, target: Fingerprint, more: dict[str, object], words: str
) -> None:
    with pytest.raises(RecommendError, match=words):
        rank(make_matrix(3, 3), target, **more)


def test_an_empty_shelf_says_how_to_fill_it(make_matrix: MakeMatrix, target: Fingerprint) -> None:
    with pytest.raises(RecommendError, match="adapt register"):
        rank(replace(make_matrix(3, 3), adapters=()), target)


@pytest.mark.parametrize("method", ["random", "majority", "nearest_task", "trait_regression"])
def test_any_method_can_be_asked_for(
    make_matrix: MakeMatrix, target: Fingerprint, method: str
) -> None:
    found = rank(make_matrix(6, 6), target, method=method)
    assert found.model.name == method
    assert found.model.backtest["method"] == method
    assert all(entry.reasons for entry in found.ranking)
