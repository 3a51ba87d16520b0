"""An adapter that nobody measured is ranked by what it is, not by what is hidden."""

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.new_adapters import by_family, unseen_scores

from adapt_lora.recommender.features import registry_table
from adapt_lora.recommender.metrics import judge_scores
from tests.recommender.conftest import MakeMatrix, MakeTable


@pytest.mark.parametrize("new_tasks", [False, True])
def test_an_adapter_nobody_measured_is_ranked_by_what_it_is(
    make_matrix: MakeMatrix, new_tasks: bool
) -> None:
    table = registry_table(make_matrix(16, 10, noise=0.01), unit="points")
    rho = {}
    for method in ("stack", "majority"):
        scores = unseen_scores(table, method, new_tasks=new_tasks, n_folds=4, n_seeds=1)
        assert np.isfinite(scores).all()
        rho[method] = judge_scores(table, scores)["spearman_rho"]
    assert rho["stack"] > 0.25
    assert rho["majority"] == 0.0


def test_a_new_adapters_own_scores_have_no_say(make_matrix: MakeMatrix) -> None:
    table = registry_table(make_matrix(6, 5), unit="points")
    table = replace(table, elsewhere=table)
    scores = table.scores.copy()
    scores[2] = np.random.default_rng(0).random(5)
    changed = replace(table, scores=scores)
    changed = replace(changed, elsewhere=changed)
    one, two = (unseen_scores(t, "stack", n_folds=None, n_seeds=1) for t in (table, changed))
    np.testing.assert_array_equal(one[2], two[2])
    assert not np.array_equal(one, two)


def test_families_join_groups_that_are_alike(make_table: MakeTable) -> None:
    similarity = np.array([[1, 0.9, 0.1, 0], [0.9, 1, 0, 0], [0.1, 0, 1, 0.2], [0, 0, 0.2, 1]])
    table = make_table(np.zeros((3, 4)), similarity=similarity)
    assert by_family(table).groups == ("g0", "g0", "g2", "g3")
    assert by_family(table, {"g3": "g2"}).groups == ("g0", "g1", "g2", "g2")
    assert by_family(make_table(np.zeros((3, 2)))).groups == ("g0", "g1")
