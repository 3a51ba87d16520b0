"""Every ranking method by name."""

import numpy as np
import pytest
from sklearn.base import clone

from adapt_lora.recommender.features import registry_table
from adapt_lora.recommender.models import METHODS, make_ranker
from adapt_lora.recommender.training_set import TrainingSet
from tests.recommender.conftest import MakeMatrix


@pytest.mark.parametrize("method", METHODS)
def test_every_method_fits_predicts_and_repeats_itself(
    make_matrix: MakeMatrix, method: str
) -> None:
    table = registry_table(make_matrix(8, 12), unit="points")
    fold = table.hold_out(["g5"])
    ranker = make_ranker(method, n_seeds=2)
    assert clone(ranker).get_params() == ranker.get_params()
    assert ranker.fit(TrainingSet(fold.table)) is ranker
    first = ranker.predict(fold.queries[0])
    assert first.shape == (8,)
    assert np.isfinite(first).all()
    again = make_ranker(method, n_seeds=2).fit(TrainingSet(fold.table)).predict(fold.queries[0])
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("method", ["stack", "mix", "popularity_trimmed", "semantic"])
def test_contributions_sum_to_the_prediction(make_matrix: MakeMatrix, method: str) -> None:
    table = registry_table(make_matrix(10, 14), unit="points")
    fold = table.hold_out(["g5"])
    ranker = make_ranker(method, n_seeds=2).fit(TrainingSet(fold.table))
    total = np.sum(list(ranker.explain(fold.queries[0]).values()), axis=0)
    predicted = ranker.predict(fold.queries[0])
    np.testing.assert_allclose(total - total.mean(), predicted - predicted.mean(), atol=1e-6)


def test_lightgbm_contributions_sum_to_the_prediction(make_matrix: MakeMatrix) -> None:
    table = registry_table(make_matrix(10, 14), unit="points")
    fold = table.hold_out(["g5"])
    ranker = make_ranker("lightgbm", n_seeds=2).fit(TrainingSet(fold.table))
    total = np.sum(list(ranker.explain(fold.queries[0]).values()), axis=0)
    predicted = ranker.predict(fold.queries[0])
    np.testing.assert_allclose(total - total.mean(), predicted - predicted.mean(), atol=1e-6)


def test_trees_wait_for_ten_task_groups_and_count_more_with_more_rows(
    make_matrix: MakeMatrix,
) -> None:
    small = TrainingSet(registry_table(make_matrix(8, 9), unit="points"))
    large = TrainingSet(registry_table(make_matrix(8, 10), unit="points"))
    larger = TrainingSet(registry_table(make_matrix(20, 10), unit="points"))
    assert make_ranker("mix", n_seeds=1).fit(small).boost_ is None
    assert make_ranker("mix", n_seeds=1).fit(large).tree_weight_ == pytest.approx(78 / 1078)
    assert make_ranker("mix", n_seeds=1).fit(larger).tree_weight_ == pytest.approx(198 / 1198)
