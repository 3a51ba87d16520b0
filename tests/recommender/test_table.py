"""Records and pivot files become arrays; what was not measured becomes NaN here alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapt_lora.errors import MatrixError
from adapt_lora.recommender.table import (
    consensus,
    read_matrices,
    read_matrix,
    table_from_matrix,
)
from adapt_lora.registry.records import (
    BASE_ROW,
    MAJORITY_ROW,
    Cell,
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


def write_pivot(folder: Path, name: str = "m") -> Path:
    path = folder / f"{name}.csv"
    path.write_text("source,t0,t1\nbase,50,40\na,60,\nb,45,80\n", encoding="utf-8")
    return path


def test_a_pivot_in_percent_becomes_fractions_with_gaps_and_base(tmp_path: Path) -> None:
    table = read_matrix(write_pivot(tmp_path))
    assert table.sources == ("a", "b")
    np.testing.assert_allclose(table.gains, [[0.1, np.nan], [-0.05, 0.4]])
    assert table.regime == "zeroshot"


def test_companions_bring_features_similarity_groups_own_and_rivals(tmp_path: Path) -> None:
    path = write_pivot(tmp_path)
    (tmp_path / "m_pairs.csv").write_text(
        "source,target,likeness,other\na,t0,0.5,1\nb,t1,0.2,2\nc,t1,9,9\n", encoding="utf-8"
    )
    (tmp_path / "m_targets.csv").write_text("target,t0,t1\nt0,1,0.3\nt1,0.3,1\n", encoding="utf-8")
    meta = {
        "regime": "intermediate",
        "groups": {"t0": "g", "t1": "g"},
        "own": [["b", "t*"]],
        "rivals": ["other"],
    }
    (tmp_path / "m_meta.json").write_text(json.dumps(meta), encoding="utf-8")
    table = read_matrix(path)
    assert table.regime == "intermediate"
    assert table.groups == ("g", "g")
    np.testing.assert_array_equal(table.own, [[False, False], [True, True]])
    assert list(table.pair_features) == ["likeness"]
    assert list(table.rivals) == ["other"]
    assert table.pair_features["likeness"][0, 0] == 0.5
    assert np.isnan(table.pair_features["likeness"][0, 1])
    assert table.similarity is not None
    assert table.similarity[0, 1] == 0.3


def test_negative_scores_are_nats_and_keep_their_scale(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("source,t0\nbase,-3.5\na,-2.5\nb,-3\n", encoding="utf-8")
    table = read_matrix(path)
    assert table.unit == "nats"
    np.testing.assert_allclose(table.gains[:, 0], [1.0, 0.5])


def test_a_results_file_becomes_one_matrix_per_base_and_kind(tmp_path: Path) -> None:
    head = ",model_name,data_name,gsm8k,mtbench-total,LongBench-v2,lora,epoch,data_size,lr_strategy"
    rows = [
        "0,M,pretrain,40,2,1,,0,0,",
        "1,M,math,60,4,1,true,10,1000,cosine",
        "2,M,code,30,3,1,true,10,1000,cosine",
        "3,M,all,50,6,1,true,10,10000,cosine",
        "4,M,all,99,9,1,true,10,1000,cosine",  # `all` counts at 10k only
        "5,M,math,99,9,1,true,5,1000,cosine",  # an earlier epoch
        "6,M,math,99,9,1,true,10,1000,constant",
        "7,M,math,99,9,1,false,10,1000,cosine",  # a single full run is no matrix
    ]
    path = tmp_path / "big_evaluation_result.csv"
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    tables = read_matrices(tmp_path)
    assert list(tables) == ["big_lora/M"]
    table = tables["big_lora/M"]
    assert table.targets == ("gsm8k", "mtbench-total")
    assert table.sources == ("math", "code", "all")
    np.testing.assert_allclose(table.gains, [[0.2, 0.2], [-0.1, 0.1], [0.1, 0.4]])


def test_a_base_marked_unreliable_gives_no_gains(tmp_path: Path) -> None:
    head = ",model_name,data_name,gsm8k,lora,epoch,data_size,lr_strategy"
    rows = ["0,M,pretrain,40,,0,0,", "1,M,a,60,true,10,1000,cosine", "2,M,b,30,true,10,1000,cosine"]
    path = tmp_path / "big_evaluation_result.csv"
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    (tmp_path / "big_meta.json").write_text('{"base_unreliable": ["M"]}', encoding="utf-8")
    table = read_matrices(tmp_path)["big_lora/M"]
    assert np.isnan(table.gains).all()
    assert np.isfinite(table.transfer_scores).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,t0\na,1\n", "line 1: the first column must be 'source'"),
        ("source,t0\n", "at least one row"),
        ("source,t0\na,1\nb,high\n", "line 3"),
        ("source,t0\na,1\na,2\n", "stands there twice"),
    ],
)
def test_a_broken_pivot_is_said_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MatrixError, match=words):
        read_matrix(path)


def test_a_folder_without_a_matrix_says_what_a_matrix_is(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match="first column is 'source'"):
        read_matrices(tmp_path)


def test_the_public_matrices_have_their_stated_shapes(shared_data: Path) -> None:
    if not (shared_data / "matrices").is_dir():
        pytest.skip("the public matrices are not in the folder of shared data")
    tables = read_matrices(shared_data / "matrices")
    assert tables["krishna2025_llama32_3b_lora"].scores.shape == (9, 10)
    assert tables["langrank_mt"].scores.shape == (54, 54)
    lora = [name for name in tables if name.startswith("massive_sft_lora/")]
    assert len(lora) == 11
    assert "taskshop_llm" in tables["taskweb_t5l"].rivals
    assert "taskshop_llm" not in tables["taskweb_t5l"].pair_features


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


def test_pivots_of_one_folder_are_each_others_prior(tmp_path: Path) -> None:
    rows = "source,a,b,c\nx,1,2,3\ny,2,1,5\nz,3,4,4\n"
    for name in ("one", "two"):
        (tmp_path / f"{name}.csv").write_text(rows, encoding="utf-8")
    tables = read_matrices(tmp_path)
    elsewhere = tables["one"].elsewhere
    assert elsewhere is not None
    assert elsewhere.targets == ("a", "b", "c")
    fold = tables["one"].hold_out(["b"])
    assert fold.table.elsewhere is not None
    assert fold.table.elsewhere.targets == ("a", "c")


def test_the_base_score_as_a_feature_is_not_the_zero_point_of_the_gains(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("source,a,b\nbase,0.5,0.9\nx,0.6,0.8\ny,0.4,0.7\n", encoding="utf-8")
    table = read_matrix(path)
    hints = table.target_features["base_score"]
    assert np.abs(hints - table.base_scores).min() > 0
    assert np.abs(hints - table.base_scores).max() < 0.2  # binomial noise of 100 rows
    np.testing.assert_array_equal(hints, read_matrix(path).target_features["base_score"])


def test_families_join_groups_that_are_alike(make_table: MakeTable) -> None:
    similarity = np.array([[1, 0.9, 0.1, 0], [0.9, 1, 0, 0], [0.1, 0, 1, 0.2], [0, 0, 0.2, 1]])
    table = make_table(np.zeros((3, 4)), similarity=similarity)
    assert table.by_family().groups == ("g0", "g0", "g2", "g3")
    assert table.by_family({"g3": "g2"}).groups == ("g0", "g1", "g2", "g2")
    assert make_table(np.zeros((3, 2))).by_family().groups == ("g0", "g1")
