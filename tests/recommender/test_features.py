"""Features: what each number is, and that a fold computes it from what is left."""

import numpy as np
import pytest

from adapt_lora.recommender.features import (
    FEATURES,
    TrainingSet,
    label_overlap,
    neighbour_weights,
    registry_table,
    shrunken_popularity,
    similarity_name,
    standardise,
    table_for_target,
    total_variation,
    trimmed_mean,
)
from adapt_lora.registry.records import Fingerprint
from tests.recommender.conftest import MakeMatrix, MakeTable


def test_trimming_cuts_a_fifth_from_each_end_of_what_is_known() -> None:
    values = np.array([[9.0, 1.0, 2.0, 3.0, -50.0], [4.0, np.nan, 2.0, np.nan, np.nan]])
    np.testing.assert_allclose(trimmed_mean(values), [2.0, 3.0])


def test_popularity_shrinks_with_few_measurements() -> None:
    z = np.array([[1.0, 1.0, 1.0], [1.0, np.nan, np.nan], [np.nan, np.nan, np.nan]])
    found = shrunken_popularity(z, 0.2)
    np.testing.assert_allclose(found[:2], [0.75, 0.5])
    assert np.isnan(found[2])


def test_standardising_ignores_what_is_masked_and_flattens_constants() -> None:
    values = np.array([[1.0, 5.0], [3.0, 5.0], [99.0, 5.0]])
    mask = np.array([[True, True], [True, True], [False, True]])
    z = standardise(values, mask)
    np.testing.assert_allclose(z[:2, 0], [-1.0, 1.0])
    assert np.isnan(z[2, 0])
    np.testing.assert_array_equal(z[:, 1], np.zeros(3))


def test_one_near_twin_is_capped_at_twenty_medians() -> None:
    similarity = np.array([1.0, *([0.0] * 40)])
    weights = neighbour_weights(similarity)
    assert weights.max() == pytest.approx(20 * np.median(weights))


def test_the_registrys_own_parts_are_never_taken_for_the_similarity() -> None:
    assert similarity_name(["label_match/overlap", "x"]) is None
    assert similarity_name(["genetic", "roe_minilm"]) == "roe_minilm"
    assert similarity_name(["overlap_word", "similarity"]) == "similarity"


def test_label_likeness_by_hand() -> None:
    a = Fingerprint(label_shares={"yes": 0.8, "no": 0.2})
    b = Fingerprint(label_shares={"yes": 0.5, "no": 0.3, "maybe": 0.2})
    assert label_overlap(a, b) == pytest.approx(2 / 3)
    assert total_variation(a.label_shares, b.label_shares) == pytest.approx(0.3)
    assert np.isnan(label_overlap(a, Fingerprint()))


def test_length_match_is_highest_for_equal_lengths(make_matrix: MakeMatrix) -> None:
    table = registry_table(make_matrix(4, 4), unit="points")  # lengths 1..4 on both sides
    match = table.pair_features["length_match/prompt_tokens_mean"]
    np.testing.assert_allclose(np.diag(match), 0.0)
    assert match[0, 3] == pytest.approx(-np.log(4))


def test_every_feature_of_the_registry_is_in_the_table_of_features(
    make_matrix: MakeMatrix,
) -> None:
    table = registry_table(make_matrix(6, 6), unit="points")
    fold = table.hold_out(["g3"])
    described = TrainingSet(fold.table).describe(fold.queries[0])
    assert set(described) <= set(FEATURES)
    assert {"popularity", "similarity", "neighbours", "length_match"} <= set(described)


def test_features_survive_adapters_and_targets_without_fingerprints(
    make_matrix: MakeMatrix,
) -> None:
    table = table_for_target(
        make_matrix(5, 5), Fingerprint(), metric="accuracy", unit="points", group="new"
    )
    fold = table.hold_out(["new"])
    described = TrainingSet(fold.table).describe(fold.queries[0])
    assert all(np.isfinite(values).all() for values in described.values())
    assert "similarity" not in described


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
