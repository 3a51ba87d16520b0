"""Components of tables with gaps: filling, choosing how many, scoring sparse rows."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest

from adapt_lora.recommender.columns import Scale
from adapt_lora.recommender.components import choose_rank, impute, principal_components, score_rows


def low_rank(n=40, t=12, *, rank=2, noise=0.3, gaps=0.0, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, t))
    values += noise * rng.standard_normal((n, t))
    values[rng.random((n, t)) < gaps] = np.nan
    return values


def test_a_scale_is_undone_and_leaves_constant_columns_at_zero():
    values = np.array([[1.0, 5.0, np.nan], [3.0, 5.0, 2.0], [np.nan, 5.0, 4.0]])
    scale = Scale.of(values)
    standard = scale.apply(values)
    np.testing.assert_array_equal(standard[:, 1], 0.0)
    np.testing.assert_array_equal(standard[:2, 0], [-1.0, 1.0])
    np.testing.assert_allclose(scale.undo(standard), values)


def test_gaps_are_filled_close_to_what_was_there():
    whole = low_rank(20, 10, noise=0.0)
    standard = (whole - whole.mean(axis=0)) / whole.std(axis=0)
    gaps = standard.copy()
    gaps[[2, 5, 11], [3, 0, 7]] = np.nan
    filled = impute(gaps, n_components=2)
    error = np.abs(filled - standard)[[2, 5, 11], [3, 0, 7]]
    assert error.max() < 0.1
    known = np.isfinite(gaps)
    np.testing.assert_array_equal(filled[known], standard[known])


def test_wide_and_tall_tables_are_filled_alike():
    wide = Scale.of(low_rank(8, 30, gaps=0.2)).apply(low_rank(8, 30, gaps=0.2))
    filled = impute(wide, n_components=2)
    # The same iteration by the full decomposition.
    gaps, slow = np.isnan(wide), np.where(np.isnan(wide), 0.0, wide)
    for _ in range(500):
        mean = slow.mean(axis=0)
        u, s, vt = np.linalg.svd(slow - mean, full_matrices=False)
        kept = np.maximum(s[:2] ** 2 - (s[2:] ** 2).mean(), 0.0) / s[:2]
        slow = np.where(gaps, mean + (u[:, :2] * kept) @ vt[:2], slow)
    np.testing.assert_allclose(filled, slow, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 2, 4])
def test_cross_validation_finds_the_rank_that_is_there(rank):
    chosen = choose_rank(low_rank(80, 25, rank=rank, noise=1.0, gaps=0.3))
    assert chosen.n_components == rank
    assert min(chosen.errors) == chosen.errors[rank]


def test_benchmarks_that_were_taken_out_of_a_real_table_are_filled_well(shared_data: Path):
    path = shared_data / "golden" / "obsscaling_base_llm_benchmark_eval.csv"
    if not path.exists():
        pytest.skip("the golden tables are not in the folder of shared data")
    models = list(csv.reader(path.open(encoding="utf-8")))[1:]
    scores = np.array([[float(v) if v else np.nan for v in row[5:]] for row in models])
    assert scores.shape == (148, 8)
    taken = np.isfinite(scores) & (np.random.default_rng(0).random(scores.shape) < 0.3)
    rest = np.where(taken, np.nan, scores)
    scale = Scale.of(rest)
    rank = choose_rank(rest)
    assert rank.n_components == 2
    errors = {
        k: (impute(scale.apply(rest), n_components=k) - scale.apply(scores))[taken].std()
        for k in (0, 2, 4)
    }
    assert errors[2] < 0.5 * errors[0]
    assert errors[2] < errors[4]


def test_a_tiny_table_is_filled_by_means():
    assert choose_rank(np.array([[1.0, 2.0], [2.0, np.nan]])).n_components == 0


def test_complete_rows_have_the_components_own_coordinates_and_equal_errors():
    whole = low_rank()
    standard = Scale.of(whole).apply(whole)
    parts = principal_components(standard, n_components=2)
    rows = score_rows(standard, parts)
    np.testing.assert_allclose(rows.scores, parts.scores, atol=1e-9)
    assert rows.errors is not None
    np.testing.assert_allclose(rows.errors, rows.errors[0, 0])


def test_errors_widen_as_tasks_go_and_end_at_the_spread_of_the_trait():
    whole = low_rank(60, 12)
    standard = Scale.of(whole).apply(whole)
    parts = principal_components(standard, n_components=2)
    widths = []
    for n_left in (12, 6, 3, 1, 0):
        sparse = standard.copy()
        sparse[0, n_left:] = np.nan
        rows = score_rows(sparse, parts)
        assert rows.errors is not None
        widths.append(rows.errors[0])
    assert all((wider >= narrower - 1e-9).all() for narrower, wider in itertools.pairwise(widths))
    np.testing.assert_allclose(widths[-1], parts.scores.std(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(rows.scores[0], 0.0)


def test_scores_of_sparse_rows_are_as_far_off_as_their_errors_say():
    rng = np.random.default_rng(3)
    loadings = np.linalg.qr(rng.standard_normal((20, 2)))[0]
    truth = rng.standard_normal((400, 2)) * [4.0, 3.0]
    standard = truth @ loadings.T + rng.standard_normal((400, 20))
    parts = principal_components(standard, n_components=2)
    sparse = standard.copy()
    sparse[200:, 5:] = np.nan
    rows = score_rows(sparse - standard.mean(axis=0), parts)
    assert rows.errors is not None
    turn = parts.loadings.T @ loadings  # the fitted axes in terms of the true ones
    off = (rows.scores - (truth - truth.mean(axis=0)) @ turn.T) / rows.errors
    for part in (off[:200], off[200:]):
        assert 0.8 < np.sqrt((part**2).mean()) < 1.2


def test_no_error_is_claimed_where_nothing_is_left_over():
    whole = low_rank(4, 3)
    parts = principal_components(whole - whole.mean(axis=0), n_components=3)
    assert score_rows(whole - whole.mean(axis=0), parts).errors is None
