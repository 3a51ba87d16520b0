"""What a model is fitted on holds nothing of the group that a row belongs to."""

from dataclasses import replace

import numpy as np

from adapt_lora.recommender.training_set import TrainingSet
from tests.recommender.conftest import MakeTable


def test_a_training_row_is_described_without_its_own_group(make_table: MakeTable) -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((6, 5))
    groups = ("a", "a", "b", "c", "d")
    changed = scores.copy()
    changed[:, :2] = rng.standard_normal((6, 2))  # both columns of group a
    one = TrainingSet(make_table(scores, groups=groups)).cells
    two = TrainingSet(make_table(changed, groups=groups)).cells
    of_a = one.column < 2
    np.testing.assert_array_equal(one.x[of_a], two.x[of_a])
    assert not np.array_equal(one.x[~of_a], two.x[~of_a])


def test_every_task_group_weighs_the_same(make_table: MakeTable) -> None:
    scores = np.random.default_rng(0).standard_normal((6, 4))
    scores[3:, 0] = np.nan
    cells = TrainingSet(make_table(scores, groups=("a", "a", "b", "c"))).cells
    totals = [cells.weight[cells.column == t].sum() for t in range(4)]
    np.testing.assert_allclose(totals, [0.5, 0.5, 1.0, 1.0])


def test_a_noisy_column_weighs_less_and_one_of_mere_noise_is_not_learned_from(
    make_table: MakeTable,
) -> None:
    scores = np.random.default_rng(0).standard_normal((6, 4))
    spread = scores.std(axis=0, ddof=1)
    errors = np.tile(spread * np.array([0.0, 0.5**0.5, 2.0, np.nan]), (6, 1))
    cells = TrainingSet(replace(make_table(scores), errors=errors)).cells
    weights = [cells.weight[cells.column == t].sum() for t in range(4)]
    np.testing.assert_allclose(weights, [1.0, 0.5, 0.0, 1.0])
    assert 2.0 not in cells.column
