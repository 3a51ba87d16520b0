"""The bench over a folder of matrices."""

import json
from pathlib import Path

import numpy as np
import pytest

from adapt_lora.errors import MatrixError
from adapt_lora.recommender.bench import bench_folder, bench_registry
from tests.recommender.conftest import MakeMatrix

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
    seen: list[str] = []
    report = bench_folder(tmp_path, methods=METHODS, progress=lambda name, i, n: seen.append(name))
    found = report.to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert seen == ["one", "two"]
    assert set(found["matrices"]) == {"one", "two"}
    one = found["matrices"]["one"]
    assert (one["n_targets"], one["n_groups"], one["regime"]) == (7, 7, "zeroshot")
    assert one["chosen"] == "stack"
    assert set(one["methods"]) == {*METHODS, "default"}
    wanted = {
        "spearman_rho", "weighted_kendall_tau", "ndcg_at_3", "ndcg_taskshop", "regret_at_1",
        "regret_at_3", "regret_at_1_spread", "regret_at_3_spread", "top5_regret_taskshop",
        "sign_accuracy", "coverage_80", "width_80", "brier", "brier_skill", "verified_share",
    }  # fmt: skip
    assert wanted <= set(one["methods"]["default"])
    assert one["methods"]["default"]["spearman_rho"] > 0.5
    assert one["methods"]["default"] == one["methods"]["stack"]


def test_the_same_seed_gives_the_same_report(tmp_path: Path) -> None:
    write_matrix(tmp_path, "one")
    one, two = (bench_folder(tmp_path, methods=METHODS).to_json() for _ in range(2))
    assert one == two


def test_a_registry_is_benched_with_its_fingerprints(make_matrix: MakeMatrix) -> None:
    report = bench_registry(make_matrix(8, 7), methods=(*METHODS, "semantic", "perplexity"))
    found = report.to_json()["matrices"]["registry"]
    assert found["methods"]["semantic"]["spearman_rho"] > 0.3
    assert "perplexity" in found["methods"]


def test_a_matrix_too_small_to_test_is_named(tmp_path: Path) -> None:
    write_matrix(tmp_path, "tiny", n_targets=1)
    with pytest.raises(MatrixError, match="tiny: A back-test needs at least two task groups"):
        bench_folder(tmp_path)


def test_public_figures_are_reached(shared_data: Path) -> None:
    """Floor under the small public matrices, a little below what was measured in the docs."""
    from adapt_lora.recommender.bench import bench_matrix
    from adapt_lora.recommender.table import read_matrix

    path = shared_data / "matrices" / "krishna2025_llama32_3b_lora.csv"
    if not path.exists():
        pytest.skip("the public matrices are not in the folder of shared data")
    found = bench_matrix(read_matrix(path), methods=METHODS).methods
    assert found["default"]["spearman_rho"] > 0.47
    assert found["default"]["spearman_rho"] > found["popularity_trimmed"]["spearman_rho"]
    assert abs(found["majority"]["spearman_rho"]) < 1e-9
