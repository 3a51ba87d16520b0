"""The method that ranks, and the folds that choose it."""

import numpy as np

from adapt_lora.recommender.choice import ALTERNATIVES, choose_method, group_folds, house_default
from adapt_lora.recommender.features import registry_table
from adapt_lora.recommender.training_set import TrainingSet
from tests.recommender.conftest import MakeMatrix, MakeTable


def test_the_house_default_stays_below_twelve_groups(make_matrix: MakeMatrix) -> None:
    train = TrainingSet(registry_table(make_matrix(8, 11), unit="points"))
    assert choose_method(train).method == house_default(11) == "mix"
    assert house_default(9) == "stack"


def test_a_clear_winner_replaces_the_house_default(make_table: MakeTable) -> None:
    """The middle of a feature is best, which the half of mix that is linear can only blur."""
    rng = np.random.default_rng(0)
    size = rng.standard_normal((12, 18))
    scores = 0.05 * rng.standard_normal((12, 18)) - size**2
    choice = choose_method(TrainingSet(make_table(scores, pair_features={"size": size})), n_seeds=1)
    assert set(choice.scores) == {"mix", *ALTERNATIVES}
    assert choice.method == "lightgbm"


def test_folds_share_out_whole_groups_and_repeat_themselves() -> None:
    groups = ["a", "b", "a", "c", "d", "e"]
    folds = group_folds(groups, 2, seed=3)
    assert sorted(name for fold in folds for name in fold) == ["a", "b", "c", "d", "e"]
    assert folds == group_folds(groups, 2, seed=3)
    assert group_folds(groups, None, seed=0) == [("a",), ("b",), ("c",), ("d",), ("e",)]
