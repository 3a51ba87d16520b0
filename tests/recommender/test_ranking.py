"""A ranking of a registry's adapters: what it learns from, and what it leaves out."""

import json
from dataclasses import replace

import pytest

from adapt_lora.errors import RecommendError
from adapt_lora.recommender.ranking import without_selected_columns
from adapt_lora.registry.records import Fingerprint
from adapt_lora.report.plain import ranking_json
from tests.recommender.conftest import MakeMatrix, rank


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


def test_an_unlabelled_target_is_ranked_without_a_base_score(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    bare = Fingerprint(vectors=target.vectors)
    found = ranking_json(rank(make_matrix(8, 8), bare, base_score=None))
    assert set(found["base"]) == {"p_best", "recommended"}
    assert len(found["ranking"]) == 8
    counted = rank(make_matrix(8, 8), bare, base_score=None, metric="accuracy")
    assert counted.base.majority is None


def test_chance_is_that_of_the_labels_that_occur(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    never = replace(target, label_shares={"yes": 0.7, "no": 0.3, "perhaps": 0.0})
    found = rank(make_matrix(8, 8), never)
    assert found.verdict.chance == 0.5
    assert found.base.majority == 0.5
    assert rank(make_matrix(8, 8), never, metric="accuracy").base.majority == 0.7


def test_log_likelihood_targets_learn_from_log_likelihood_alone(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    found = rank(make_matrix(6, 6), target, metric="answer_log_likelihood")
    assert found.model.n_cells == 0
    nats = make_matrix(6, 6, metric="answer_log_likelihood")
    found = rank(nats, target, metric="answer_log_likelihood")
    assert found.model.unit == "nats"
    assert found.model.n_groups == 6


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


def test_a_matrix_full_of_gaps_is_still_ranked(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    found = ranking_json(rank(make_matrix(10, 12, gap_share=0.6), target))
    assert json.dumps(found, allow_nan=False)
    assert len(found["ranking"]) == 10


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
