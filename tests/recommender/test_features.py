"""Features of a registry: what each number is."""

from dataclasses import replace

import numpy as np
import pytest

from adapt_lora.recommender.catalogue import FEATURES, TARGET_FEATURES
from adapt_lora.recommender.features import (
    label_overlap,
    registry_table,
    table_for_target,
    total_variation,
)
from adapt_lora.recommender.training_set import TrainingSet
from adapt_lora.registry.records import Fingerprint, TransferMatrix
from tests.recommender.conftest import MakeMatrix


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


def with_habits(matrix: TransferMatrix) -> TransferMatrix:
    """The matrix with what the base model answers on tasks and on training data."""

    def habits(print_: Fingerprint, score: float) -> Fingerprint:
        said = {"base_score": score, "base_label_share_max": 0.9, "base_label_tv": 0.4}
        return replace(
            print_, values={**print_.values, **said}, base_label_shares={"yes": 0.9, "no": 0.1}
        )

    adapters = tuple(
        replace(
            a,
            fingerprint=habits(a.fingerprint, 0.1 * (i + 1)),
            behaviour={"label_prior_tv": 0.1 * i},
        )
        for i, a in enumerate(matrix.adapters)
    )
    tasks = tuple(replace(t, fingerprint=habits(t.fingerprint, 0.5)) for t in matrix.tasks)
    return replace(matrix, adapters=adapters, tasks=tasks)


def test_the_bases_score_on_a_task_comes_from_other_rows_than_its_gains(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    matrix = with_habits(make_matrix(6, 4))  # a0 and a1 were trained on groups g0 and g1
    altered = replace(matrix.adapters[1].dataset, parent="g1, labels exchanged")
    adapters = (matrix.adapters[0], replace(matrix.adapters[1], dataset=altered))
    known = replace(target, values={**target.values, "base_score": 0.7})
    table = table_for_target(
        replace(matrix, adapters=(*adapters, *matrix.adapters[2:])),
        known,
        metric="accuracy",
        unit="points",
        group="new",
    )
    hints = table.target_features["base_score"]
    np.testing.assert_allclose(hints, [0.1, np.nan, np.nan, np.nan, 0.7])


def test_the_same_rows_are_no_other_split(make_matrix: MakeMatrix) -> None:
    matrix = with_habits(make_matrix(3, 3))
    same = replace(matrix.adapters[0].dataset, digest=matrix.tasks[0].dataset.digest)
    adapters = (replace(matrix.adapters[0], dataset=same), *matrix.adapters[1:])
    table = registry_table(replace(matrix, adapters=adapters), unit="points")
    np.testing.assert_allclose(table.target_features["base_score"], [np.nan, 0.2, np.nan])


def test_moving_label_shares_counts_by_how_one_sided_the_base_is(make_matrix: MakeMatrix) -> None:
    fold = registry_table(with_habits(make_matrix(6, 5)), unit="points").hold_out(["g4"])
    described = TrainingSet(fold.table).describe(fold.queries[0])
    # 90 % of two labels: (.9 − .5)/(1 − .5)
    np.testing.assert_allclose(described["prior_shift_on_habit"], 0.8 * described["prior_shift"])
    assert (np.diff(described["prior_shift"]) > 0).all()
    bare = replace(fold.queries[0], target_features={})
    assert not TrainingSet(fold.table).describe(bare)["prior_shift_on_habit"].any()


def test_the_pull_of_training_labels_is_from_the_bases_picks(make_matrix: MakeMatrix) -> None:
    table = registry_table(with_habits(make_matrix(4, 3)), unit="points")
    # 50:50 was learned, 90:10 is what the base answers.
    np.testing.assert_allclose(table.pair_features["habit_pull"], 0.4)


def test_every_feature_of_a_registrys_table_is_a_known_one(make_matrix: MakeMatrix) -> None:
    table = registry_table(with_habits(make_matrix(6, 6)), unit="points")
    assert set(table.target_features) == set(TARGET_FEATURES)
    assert {name.split("/")[0] for name in table.pair_features} <= set(FEATURES)
    assert set(table.source_features) <= set(FEATURES)
    assert all(f.side == "target" for f in TARGET_FEATURES.values())
    assert all(f.high and f.low for f in FEATURES.values())


class Forward(str):
    def __hash__(self) -> int:
        return int(self)


class Backward(str):
    def __hash__(self) -> int:
        return 63 - int(self)


def test_the_order_of_labels_in_a_set_has_no_say() -> None:
    """It is another one in each process, and sums round."""
    found = {
        total_variation(
            {kind(n): share for n, share in enumerate((0.11, 0.22, 0.67))},
            {kind(n): share for n, share in enumerate((0.35, 0.31, 0.34))},
        )
        for kind in (Forward, Backward)
    }
    assert len(found) == 1
