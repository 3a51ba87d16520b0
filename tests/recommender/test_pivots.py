"""Pivot files and their companions become tables; what is broken is named with its line."""

import json
from pathlib import Path

import numpy as np
import pytest

from adapt_lora.errors import MatrixError
from adapt_lora.recommender.pivots import read_matrices, read_matrix


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


def write_scores(folder: Path, scores: dict[str, list[float]]) -> Path:
    """A pivot with these columns, the base's row first."""
    path = folder / "m.csv"
    rows = zip(*scores.values(), strict=True)
    names = ["base", *(f"s{i}" for i in range(20))]
    lines = [f"{name},{','.join(map(str, row))}" for name, row in zip(names, rows, strict=False)]
    path.write_text("\n".join([f"source,{','.join(scores)}", *lines]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("column", "unit", "gain"),
    [
        pytest.param([0.4, -0.0023, 0.6], "points", -0.4023, id="one Pearson below zero"),
        pytest.param([0.0, 0.0, -0.02], "points", 0.0, id="Matthews of a constant answer"),
        pytest.param([-0.9, 1.0, 0.3], "points", 1.9, id="the whole range of a correlation"),
        pytest.param([-0.4, -0.3, -0.9], "nats", 0.1, id="log-likelihoods of likely answers"),
        pytest.param([-3.5, -2.5, -3.0], "nats", 1.0, id="log-likelihoods"),
        pytest.param([-3.5, 0.5, 0.2], "nats", 4.0, id="further down than a correlation goes"),
    ],
)
def test_a_column_decides_its_unit_by_its_scores(
    tmp_path: Path, column: list[float], unit: str, gain: float
) -> None:
    table = read_matrix(write_scores(tmp_path, {"t": column}))
    assert table.unit == unit
    assert table.gains[0, 0] == pytest.approx(gain)


def test_a_correlation_in_percent_may_fall_below_zero(tmp_path: Path) -> None:
    table = read_matrix(write_scores(tmp_path, {"cola": [-5.2, 40.0, 0.0], "sst2": [50, 90, 70]}))
    assert table.unit == "points"
    np.testing.assert_allclose(table.scores, [[0.4, 0.9], [0.0, 0.7]])
    np.testing.assert_allclose(table.base_scores, [-0.052, 0.5])


MIXED = {
    "a": [0.5, 0.6, 0.4, 0.7],
    "nll_b": [-2.0, -1.0, -1.5, -3.0],
    "c": [0.5, -0.0023, 0.4, 0.7],
    "nll_d": [-0.9, -0.5, -0.7, -0.2],
    "e": [0.1, 0.2, 0.3, 0.4],
}


def test_columns_of_two_units_are_never_in_one_table(tmp_path: Path) -> None:
    path = write_scores(tmp_path, MIXED)
    (tmp_path / "m_targets.csv").write_text(
        "target," + ",".join(MIXED) + "\n" + "".join(f"{t},1,2,3,4,5\n" for t in MIXED),
        encoding="utf-8",
    )
    tables = read_matrices(tmp_path)
    assert {name: (one.unit, one.targets) for name, one in tables.items()} == {
        "m": ("points", ("a", "c", "e")),
        "m (nats)": ("nats", ("nll_b", "nll_d")),
    }
    np.testing.assert_allclose(tables["m (nats)"].gains[:, 0], [1.0, 0.5, -1.0])
    assert tables["m (nats)"].similarity is not None
    np.testing.assert_array_equal(tables["m (nats)"].similarity, [[2, 4], [2, 4]])
    assert list(tables["m"].target_features) == ["base_score"]
    assert not tables["m (nats)"].target_features
    alone = read_matrix(path)
    assert (alone.unit, alone.targets) == ("points", ("a", "c", "e"))
    assert "nll_b, nll_d" in alone.warnings[0]


def test_a_unit_with_too_little_to_judge_is_named_and_left_out(tmp_path: Path) -> None:
    write_scores(tmp_path, {name: x for name, x in MIXED.items() if name != "nll_d"})
    tables = read_matrices(tmp_path)
    assert list(tables) == ["m"]
    assert "nll_b" in tables["m"].warnings[0]


def test_a_meta_file_may_say_the_unit(tmp_path: Path) -> None:
    path = write_scores(tmp_path, {"a": [-0.1, -0.02, -0.03], "b": [0.5, 0.6, 0.7]})
    meta = tmp_path / "m_meta.json"
    meta.write_text('{"units": {"a": "points"}}', encoding="utf-8")
    assert read_matrix(path).targets == ("a", "b")
    meta.write_text('{"units": {"a": "percent"}}', encoding="utf-8")
    with pytest.raises(MatrixError, match='"points" or "nats"'):
        read_matrix(path)


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
