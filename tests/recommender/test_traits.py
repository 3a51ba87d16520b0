"""Traits: principal components with gaps, signs and names."""

import csv
from pathlib import Path

import numpy as np
import pytest

from adapt_lora.errors import MatrixError
from adapt_lora.recommender.traits import fit_traits, impute


def test_the_published_rows_give_the_published_shares(shared_data: Path) -> None:
    path = shared_data / "golden" / "krishna2025_pca_rows.csv"
    if not path.exists():
        pytest.skip("the golden tables are not in the folder of shared data")
    rows = list(csv.reader(path.open(encoding="utf-8")))
    scores = np.array([[float(v) for v in row[1:]] for row in rows[1:]])
    traits = fit_traits(scores, adapters=[row[0] for row in rows[1:]], tasks=rows[0][1:])
    shares = traits.explained_variance_ratio
    assert [round(share, 3) for share in shares] == [0.297, 0.201, 0.136, 0.114]
    assert round(sum(shares), 3) == 0.748


def rank_two(n: int = 12, t: int = 7, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 2)) @ rng.standard_normal((2, t))


def names(scores: np.ndarray) -> dict[str, list[str]]:
    n, t = scores.shape
    return {"adapters": [f"a{i}" for i in range(n)], "tasks": [f"t{j}" for j in range(t)]}


def test_two_components_explain_a_matrix_of_rank_two() -> None:
    scores = rank_two()
    traits = fit_traits(scores, n_components=4, **names(scores))
    assert sum(traits.explained_variance_ratio[:2]) == pytest.approx(1.0)


def test_scores_times_loadings_rebuild_the_standardised_matrix() -> None:
    scores = rank_two()
    traits = fit_traits(scores, n_components=2, **names(scores))
    rebuilt = np.array(list(traits.scores.values())) @ np.array(list(traits.loadings.values())).T
    standard = (scores - scores.mean(axis=0)) / scores.std(axis=0)
    np.testing.assert_allclose(rebuilt, standard, atol=1e-9)


def test_signs_do_not_depend_on_the_order_of_adapters() -> None:
    scores = rank_two()
    order = np.random.default_rng(1).permutation(len(scores))
    one, two = fit_traits(scores, **names(scores)), fit_traits(scores[order], **names(scores))
    np.testing.assert_allclose(
        np.array(list(one.loadings.values()))[:, :2],
        np.array(list(two.loadings.values()))[:, :2],
        atol=1e-9,
    )
    assert one.names[:2] == two.names[:2]


def test_gaps_are_filled_close_to_what_was_there() -> None:
    scores = rank_two(20, 10)
    standard = (scores - scores.mean(axis=0)) / scores.std(axis=0)
    gaps = standard.copy()
    gaps[[2, 5, 11], [3, 0, 7]] = np.nan
    filled = impute(gaps, n_components=2)
    error = np.abs(filled - standard)[[2, 5, 11], [3, 0, 7]]
    assert error.max() < 0.1
    known = np.isfinite(gaps)
    np.testing.assert_array_equal(filled[known], standard[known])


def test_a_constant_task_has_no_loading() -> None:
    scores = rank_two()
    scores[:, 3] = 0.5
    traits = fit_traits(scores, **names(scores))
    assert traits.loadings["t3"] == pytest.approx((0.0,) * 4)


def test_names_say_the_poles_in_letters_that_storage_allows() -> None:
    line = np.linspace(-1, 1, 8)[:, None]
    noise = 0.01 * np.random.default_rng(0).standard_normal((8, 2))
    scores = np.hstack([line, -line]) + noise
    adapters = [f"a{i}" for i in range(8)]
    traits = fit_traits(scores, n_components=1, adapters=adapters, tasks=["MNLI (E)", "IMDB"])
    assert traits.names[0] in {"T1 MNLI-E vs IMDB", "T1 IMDB vs MNLI-E"}


def test_the_json_form_has_the_documented_keys_and_plain_numbers() -> None:
    scores = rank_two()
    found = fit_traits(scores, n_components=2, **names(scores)).to_json()
    assert set(found) == {"explained_variance_ratio", "loadings", "scores", "names"}
    assert len(found["loadings"]["t0"]) == len(found["scores"]["a0"]) == len(found["names"]) == 2
    assert all(type(value) is float for value in found["scores"]["a0"])


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (np.ones((1, 3)), "at least two rows and two tasks"),
        (np.array([[1.0, np.nan], [2.0, np.nan]]), "No score at all for t1"),
        (np.array([[np.nan, np.nan], [2.0, 1.0]]), "No score at all for a0"),
    ],
)
def test_too_little_is_said_in_words(scores: np.ndarray, words: str) -> None:
    with pytest.raises(MatrixError, match=words):
        fit_traits(scores, **names(scores))
