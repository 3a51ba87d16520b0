"""Likeness of tasks, and the agreement about adapters that it foretells."""

import numpy as np
import pytest

from adapt_lora.recommender.backtest import backtest
from adapt_lora.recommender.likeness import Agreement, task_likeness
from tests.recommender.conftest import MakeTable


def described(rng: np.random.Generator, n_sources: int, n_targets: int) -> dict[str, object]:
    size = np.tile(rng.random(n_targets), (n_sources, 1))
    vectors = rng.standard_normal((n_targets, 5))
    return {
        "similarity": vectors @ vectors.T,
        "pair_features": {"size": size, "overlap": rng.random((n_sources, n_targets))},
        "target_features": {"length": rng.random(n_targets) + 1},
        "target_vectors": {"hidden": vectors},
    }


def test_a_column_that_only_rounding_moves_is_like_no_other() -> None:
    values = np.column_stack([np.full(3, 0.1), [1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    assert values[:, 0].mean() != 0.1  # what would be blown up to a spread of 1
    (alike,) = task_likeness(
        similarity=None, pair_features={"x": values}, target_features={}, target_vectors={}
    ).values()
    np.testing.assert_array_equal(alike[0], np.zeros(3))
    assert alike[1, 1] == pytest.approx(3.0)


def test_what_two_tasks_share_depends_on_no_third() -> None:
    features = described(np.random.default_rng(0), 6, 7)
    whole = task_likeness(**features)
    part = task_likeness(
        similarity=features["similarity"][:5, :5],
        pair_features={name: x[:, :5] for name, x in features["pair_features"].items()},
        target_features={name: x[:5] for name, x in features["target_features"].items()},
        target_vectors={name: x[:5] for name, x in features["target_vectors"].items()},
    )
    assert set(whole) == set(part)
    assert {"similarity", "size", "log/size", "length", "inner/overlap", "inner/hidden"} < set(
        whole
    )
    for name, x in whole.items():
        np.testing.assert_allclose(x[:5, :5], part[name], atol=1e-12)


def test_inner_products_become_correlations_around_the_measured_tasks() -> None:
    vectors = np.random.default_rng(1).standard_normal((8, 5)) + 3.0
    known, target = vectors[:7], vectors[7]
    inner = {"inner/hidden": known @ known.T}
    standard = np.random.default_rng(2).standard_normal((9, 7))
    model = Agreement().fit(standard, [f"g{t}" for t in range(7)], inner)
    centre = known.mean(axis=0)
    unit = (known - centre) / np.linalg.norm(known - centre, axis=1, keepdims=True)
    np.testing.assert_allclose(
        model.centres_["inner/hidden"].among(inner["inner/hidden"]), unit @ unit.T, atol=1e-9
    )
    seen = np.append(known @ target, target @ target)
    expected = unit @ (target - centre) / np.linalg.norm(target - centre)
    np.testing.assert_allclose(model.centres_["inner/hidden"].to_target(seen), expected, atol=1e-9)


def test_the_likeness_that_matters_is_learned(make_table: MakeTable) -> None:
    """Small and large tasks want different adapters; the given similarity says nothing."""
    rng = np.random.default_rng(0)
    size = np.linspace(0.0, 1.0, 24)
    small, large = rng.standard_normal((2, 30, 1))
    scores = small * (1 - size) + large * size + 0.3 * rng.standard_normal((30, 24))
    given = rng.random((24, 24))
    table = make_table(
        scores, similarity=given + given.T, target_features={"size": size, "noise": rng.random(24)}
    )
    fold = table.hold_out(["g0"])
    standard = (fold.table.scores - fold.table.scores.mean(0)) / fold.table.scores.std(0)
    model = Agreement().fit(standard, fold.table.groups, fold.table.likeness or {})
    weights = dict(zip(["", *model.scales_], model.weights_, strict=True))
    assert weights["size"] + weights["log/size"] > 0.15
    assert weights["similarity"] + weights["noise"] + weights["log/noise"] < 0.08
    expected = model.expected(fold.queries[0].likeness)
    assert expected[:5].min() > expected[-5:].max()
    found = backtest(table, methods=("stack", "popularity"), judge_gains=False, n_seeds=1)
    rho = {name: row["spearman_rho"] for name, row in found.methods.items()}
    assert rho["stack"] > rho["popularity"] + 0.05


def test_twins_share_one_weight() -> None:
    rng = np.random.default_rng(0)
    columns = rng.standard_normal((40, 1)) + rng.standard_normal((40, 3))
    repeated = columns[:, [0, 0, 0, 0, 1, 2]]
    standard = (repeated - repeated.mean(0)) / repeated.std(0)
    model = Agreement().fit(standard, ["a", "a", "a", "a", "b", "c"], {})
    predicted = model.predict({})
    pull = [np.corrcoef(predicted, column)[0, 1] for column in columns.T]
    assert pull[0] == pytest.approx(np.mean(pull[1:]), abs=0.1)
    assert np.corrcoef(standard.mean(axis=1), columns[:, 0])[0, 1] > pull[0] + 0.1


@pytest.mark.parametrize("n_groups", [1, 2])
def test_one_or_two_tasks_are_averaged(n_groups: int) -> None:
    standard = np.array([[1.0, 0.5], [0.0, 0.0], [-1.0, -0.5]])[:, :n_groups]
    predicted = Agreement().fit(standard, ["a", "b"][:n_groups], {}).predict({})
    assert (np.diff(predicted) < 0).all()
