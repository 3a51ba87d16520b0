"""The bench over a folder of matrices."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapt_lora.errors import MatrixError
from adapt_lora.recommender.backtest import backtest
from adapt_lora.recommender.bench import (
    _paired,
    bench_folder,
    bench_registry,
    bench_tables,
    noise_ceiling,
)
from adapt_lora.recommender.pivots import read_matrices, read_matrix
from adapt_lora.report.plain import bench_json
from tests.recommender.conftest import MakeMatrix, MakeTable

METHODS = ("random", "majority", "popularity_trimmed", "stack")


def write_matrix(folder: Path, name: str, *, n_sources: int = 8, n_targets: int = 7) -> None:
    rng = np.random.default_rng(0)
    quality = 0.1 * rng.standard_normal(n_sources)
    rows = [["base", *np.full(n_targets, 0.5)]]
    for s in range(n_sources):
        rows.append([f"s{s}", *(0.5 + quality[s] + 0.05 * rng.standard_normal(n_targets))])
    lines = [",".join(["source", *(f"t{t}" for t in range(n_targets))])]
    lines += [",".join(str(value) for value in row) for row in rows]
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_the_report_has_the_documented_form(tmp_path: Path) -> None:
    write_matrix(tmp_path, "one")
    write_matrix(tmp_path, "two", n_targets=5)
    seen: list[tuple[str, int, int]] = []
    report = bench_folder(tmp_path, methods=METHODS, progress=lambda *told: seen.append(told))
    found = bench_json(report)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert {name.split(":")[0] for name, _, _ in seen} == {"one", "two"}
    assert [(done, n) for _, done, n in seen] == [(i, 12) for i in range(1, 13)]
    assert set(found["matrices"]) == {"one", "two"}
    one = found["matrices"]["one"]
    assert (one["n_targets"], one["n_groups"], one["regime"]) == (7, 7, "zeroshot")
    assert one["chosen"] == "stack"
    assert set(one["methods"]) == {*METHODS, "default"}
    wanted = {
        "spearman_rho", "weighted_kendall_tau", "ndcg_at_3", "ndcg_at_3_langrank", "ndcg_taskshop",
        "regret_at_1", "regret_at_3", "regret_at_1_spread", "regret_at_3_spread",
        "top5_regret_taskshop", "sign_accuracy", "coverage_80", "width_80", "brier",
        "brier_skill", "verified_share",
    }  # fmt: skip
    assert wanted <= set(one["methods"]["default"])
    assert one["methods"]["default"]["spearman_rho"] > 0.5
    assert one["methods"]["default"] == one["methods"]["stack"]


def test_the_same_seed_gives_the_same_report(tmp_path: Path) -> None:
    write_matrix(tmp_path, "one")
    one, two = (bench_folder(tmp_path, methods=METHODS) for _ in range(2))
    assert one == two


def test_two_workers_give_the_report_of_one(tmp_path: Path) -> None:
    write_matrix(tmp_path, "one")
    write_matrix(tmp_path, "two", n_targets=5)
    alone, together = (bench_folder(tmp_path, methods=METHODS, n_workers=n) for n in (1, 2))
    assert alone == together


def test_intervals_are_paired_and_against_the_best_baseline(tmp_path: Path) -> None:
    write_matrix(tmp_path, "one")
    found = bench_json(bench_folder(tmp_path, methods=METHODS))["matrices"]["one"]
    for metric, entry in found["paired"]["default"].items():
        own = found["methods"]["default"][metric]
        rivals = {b: found["methods"][b] for b in ("random", "majority", "popularity_trimmed")}
        best = max if metric not in ("mae", "brier") and "regret" not in metric else min
        assert rivals[entry["baseline"]][metric] == best(
            row[metric] for row in rivals.values() if metric in row
        )
        assert entry["difference"] == pytest.approx(own - rivals[entry["baseline"]][metric])
        assert entry["interval"][0] <= entry["interval"][1]
    assert {"spearman_rho", "verified_share", "brier_skill"} <= set(found["paired"]["default"])
    assert "coverage_80" not in found["paired"]["default"]
    against = found["paired_popularity"]["default"]["spearman_rho"]
    assert against["baseline"] == "popularity_trimmed"
    same = found["paired_popularity"]["stack"]["spearman_rho"]  # default used the stack throughout
    assert same == against


def test_a_method_against_itself_differs_by_nothing(make_table: MakeTable) -> None:
    table = make_table(0.5 + 0.1 * np.random.default_rng(0).standard_normal((6, 5)), base=0.5)
    tested = backtest(table, methods=("popularity", "popularity_trimmed"))
    twin = replace(
        tested,
        per_target={**tested.per_target, "default": tested.per_target["popularity"]},
        methods={**tested.methods, "default": tested.methods["popularity"]},
    )
    row = _paired(table, twin, ["popularity"], seed=0)["default"]
    assert all(entry.low == entry.high == entry.difference == 0 for entry in row.values())


def test_the_ceiling_falls_with_the_noise(make_table: MakeTable) -> None:
    rng = np.random.default_rng(0)
    scores = 0.5 + 0.1 * rng.standard_normal((10, 6))
    ceilings = [
        noise_ceiling(replace(make_table(scores), errors=np.full(scores.shape, error)))
        for error in (1e-4, 0.05, 0.2)
    ]
    rho = [found["spearman_rho"] for found in ceilings]
    assert rho[0] > 0.99
    assert rho[0] > rho[1] > rho[2]
    assert noise_ceiling(make_table(scores)) == {}


def test_repeated_runs_beside_a_pivot_give_the_ceiling(tmp_path: Path) -> None:
    write_matrix(tmp_path, "one")
    rows = ["source,target,seed,score"]
    rows += [f"s{s},t{t},{k},{0.5 + 0.02 * k}" for s in range(8) for t in range(7) for k in (0, 1)]
    (tmp_path / "one_seeds.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    table = read_matrix(tmp_path / "one.csv")
    assert table.errors == pytest.approx(np.full((8, 7), 0.01))
    assert 0.5 < noise_ceiling(table)["spearman_rho"] < 1
    assert set(read_matrices(tmp_path)) == {"one"}


def test_a_registry_is_benched_with_its_fingerprints(make_matrix: MakeMatrix) -> None:
    report = bench_registry(make_matrix(8, 7), methods=(*METHODS, "semantic", "perplexity"))
    found = bench_json(report)["matrices"]["registry"]
    assert found["methods"]["semantic"]["spearman_rho"] > 0.3
    assert "perplexity" in found["methods"]


def test_two_units_in_one_file_are_judged_apart_and_a_lone_column_is_named(tmp_path: Path) -> None:
    write_matrix(tmp_path, "one", n_targets=6)
    path = tmp_path / "one.csv"
    rng = np.random.default_rng(1)
    lines = path.read_text(encoding="utf-8").splitlines()
    for n_nats, name in ((3, "both"), (1, "lone")):
        nats = [
            [f"nll{i}" for i in range(n_nats)],
            *(-1.5 + 0.1 * rng.standard_normal((9, n_nats))),
        ]
        wide = [",".join([line, *map(str, more)]) for line, more in zip(lines, nats, strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join(wide) + "\n", encoding="utf-8")
    path.unlink()
    found = bench_json(bench_folder(tmp_path, methods=METHODS))["matrices"]
    assert {name: one["n_targets"] for name, one in found.items()} == {
        "both": 6, "both (nats)": 3, "lone": 6,
    }  # fmt: skip
    assert "regret_at_1" in found["both"]["methods"]["default"]
    assert "regret_at_1" not in found["both (nats)"]["methods"]["default"]
    assert "nll0" in found["lone"]["warnings"][0]
    assert not found["both"].keys() & {"warnings"} | found["both (nats)"].keys() & {"warnings"}


def test_a_matrix_too_small_to_test_is_named(tmp_path: Path) -> None:
    write_matrix(tmp_path, "tiny", n_targets=1)
    with pytest.raises(MatrixError, match="tiny: a back-test needs at least two task groups"):
        bench_folder(tmp_path)


def test_public_figures_are_reached(shared_data: Path) -> None:
    """Floor under the small public matrices, a little below what was measured in the docs."""

    path = shared_data / "matrices" / "krishna2025_llama32_3b_lora.csv"
    if not path.exists():
        pytest.skip("the public matrices are not in the folder of shared data")
    found = bench_tables({"": read_matrix(path)}, methods=METHODS).matrices[""].methods
    assert found["default"]["spearman_rho"] > 0.47
    assert found["default"]["spearman_rho"] > found["popularity_trimmed"]["spearman_rho"]
    assert abs(found["majority"]["spearman_rho"]) < 1e-9
