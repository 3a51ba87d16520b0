"""Records become arrays; what was not measured becomes NaN here alone."""

from dataclasses import replace

import numpy as np
import pytest

from adapt_lora.recommender.table import consensus, table_from_matrix
from adapt_lora.registry.records import (
    BASE_ROW,
    MAJORITY_ROW,
    Cell,
    DatasetRecord,
    MatrixRow,
    TransferMatrix,
)
from tests.recommender.conftest import MakeMatrix, MakeTable


def test_gains_are_scores_minus_base_with_own_cells_left_out(make_matrix: MakeMatrix) -> None:
    matrix = make_matrix(3, 4)  # adapters 0 and 1 were trained on the groups of tasks 0 and 1
    table = table_from_matrix(matrix, unit="points")
    assert table.own.sum() == 2
    assert np.isnan(table.gains[0, 0])
    cell, base = matrix.cell(MatrixRow("id-a2"), "t3"), matrix.cell(BASE_ROW, "t3")
    assert cell is not None
    assert base is not None
    assert table.gains[2, 3] == pytest.approx(cell.score - base.score)


def test_a_mixture_is_no_candidate_where_it_has_seen_the_group(make_matrix: MakeMatrix) -> None:
    matrix = make_matrix(n_adapters=4, n_tasks=3)
    data = DatasetRecord("mixture", "d", "mixture", 60, parts=("g1", "g2"))
    mixture = replace(matrix.adapters[3], dataset=data, group="mixture")
    table = table_from_matrix(
        replace(matrix, adapters=(*matrix.adapters[:3], mixture)), unit="points"
    )
    assert table.own[3].tolist() == [False, True, True]


def test_reliability_is_the_share_of_the_spread_that_is_not_noise(make_table: MakeTable) -> None:
    scores = np.column_stack([[0.2, 0.4, 0.6], [0.2, 0.4, 0.6], [0.2, 0.4, 0.6], [0.5, 0.5, 0.5]])
    errors = np.column_stack([[0.1, 0.1, 0.1], [0.3, 0.3, 0.3], [np.nan] * 3, [0.1] * 3])
    table = replace(make_table(scores), errors=errors)
    # The scores' variance is .04; of the second column the noise alone would be more.
    np.testing.assert_allclose(table.reliability, [0.75, 0.0, 1.0, 0.0])


def test_an_unmeasured_cell_is_nan(make_matrix: MakeMatrix) -> None:
    matrix = make_matrix(4, 4)
    cells = tuple(c for c in matrix.cells if (c.row.id, c.task) != ("id-a3", "t2"))
    table = table_from_matrix(replace(matrix, cells=cells), unit="points")
    assert np.isnan(table.gains[3, 2])
    assert np.isfinite(table.gains[2, 2])


def test_the_majority_row_is_no_candidate(make_matrix: MakeMatrix) -> None:
    matrix = make_matrix(3, 3)
    majority = Cell(MAJORITY_ROW, "t0", "balanced_accuracy", 0.5, 0.0, 100, "p")
    table = table_from_matrix(replace(matrix, cells=(*matrix.cells, majority)), unit="points")
    assert table.sources == ("id-a0", "id-a1", "id-a2")


def test_a_score_that_came_without_error_is_used_and_its_error_is_nan(
    make_matrix: MakeMatrix,
) -> None:
    matrix = make_matrix(3, 3)
    cells = tuple(replace(c, se=None, n=None) for c in matrix.cells)
    table = table_from_matrix(replace(matrix, cells=cells), unit="points")
    assert np.isnan(table.errors).all()
    np.testing.assert_array_equal(table.scores, table_from_matrix(matrix, unit="points").scores)


def test_points_and_nats_are_never_pooled(make_matrix: MakeMatrix) -> None:
    points, nats = make_matrix(3, 3), make_matrix(3, 2, metric="answer_log_likelihood")
    renamed = {"t0": "u0", "t1": "u1"}
    both = TransferMatrix(
        points.base,
        points.adapters,
        (*points.tasks, *(replace(t, name=renamed[t.name]) for t in nats.tasks)),
        (*points.cells, *(replace(c, task=renamed[c.task]) for c in nats.cells)),
    )
    assert table_from_matrix(both, unit="points").targets == ("t0", "t1", "t2")
    assert table_from_matrix(both, unit="nats").targets == ("u0", "u1")


def test_a_cell_of_another_protocol_than_the_bases_is_left_out_aloud(
    make_matrix: MakeMatrix,
) -> None:
    matrix = make_matrix(3, 3)
    cells = tuple(
        replace(c, protocol="other") if (c.row.id, c.task) == ("id-a2", "t1") else c
        for c in matrix.cells
    )
    table = table_from_matrix(replace(matrix, cells=cells), unit="points")
    assert np.isnan(table.scores[2, 1])
    assert "1 cell(s) of t1" in table.warnings[0]


def test_a_held_out_group_takes_all_its_columns_and_leaves_no_score(make_table: MakeTable) -> None:
    table = make_table(np.arange(12.0).reshape(3, 4), groups=("a", "b", "a", "c"))
    fold = table.hold_out(["a"])
    assert fold.table.targets == ("t1", "t3")
    assert fold.held == (0, 2)
    assert not any("score" in name or "gain" in name for name in vars(fold.queries[0]))


def test_the_consensus_is_the_mean_standing_under_other_bases(make_table: MakeTable) -> None:
    own = make_table(np.zeros((4, 4)))
    other = make_table(np.array([[1.0, 5, 1, 1], [2, 5, 2, 2], [3, 5, 3, 3], [4, 5, 4, np.nan]]))
    shuffled = replace(other, sources=("s3", "s2", "s1", "s0"), targets=("t0", "t1", "t2", "new"))
    found = consensus(own, {"b": other, "c": shuffled})
    assert found is not None
    assert found.targets == own.targets
    assert found.groups == own.groups
    assert found.lenders == ("b", "c")
    np.testing.assert_allclose(found.scores[:, 0], 0.0, atol=1e-12)  # two opposite orders
    assert (np.diff(found.scores[:3, 3]) > 0).all()
    assert np.isnan(found.scores[3, 3])


def test_an_own_cell_is_out_of_the_consensus_too(make_table: MakeTable) -> None:
    own = make_table(np.zeros((5, 3)))
    own.own[1, 2] = True
    found = consensus(own, {"b": make_table(np.random.default_rng(0).random((5, 3)))})
    assert found is not None
    assert np.isnan(found.scores[1, 2])
    assert np.isfinite(found.scores).sum() == 14


@pytest.mark.parametrize("change", ["regime", "sources", "targets"])
def test_tables_with_little_in_common_are_no_prior(make_table: MakeTable, change: str) -> None:
    table = make_table(np.random.default_rng(0).random((4, 4)))
    strangers = tuple(f"{change}{i}" for i in range(4))
    other = replace(table, **{change: "language" if change == "regime" else strangers})
    assert consensus(table, {"b": other}) is None
