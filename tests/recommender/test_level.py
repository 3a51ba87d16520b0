"""From scores to gains: levels, quantiles, odds, and what a measurement adds."""

import numpy as np
import pytest

from adapt_lora.recommender.joint import measurement_update
from adapt_lora.recommender.level import GainModel
from adapt_lora.registry.records import Measurement


def shelf(n_groups: int = 10, n_sources: int = 20, *, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((n_sources, n_groups))
    level = 0.05 * rng.standard_normal(n_groups)
    gains = 0.02 + 0.1 * scores + level + 0.03 * rng.standard_normal(scores.shape)
    return scores, gains


def fitted(n_groups: int = 10, **more: int) -> GainModel:
    scores, gains = shelf(n_groups, **more)
    return GainModel().fit(scores, gains, [f"g{t}" for t in range(n_groups)])


def test_level_and_slope_are_found() -> None:
    model = fitted(40)
    assert model.slope_ == pytest.approx(0.1, abs=0.01)
    assert model.level_ == pytest.approx(0.02, abs=0.02)


@pytest.mark.parametrize(
    ("n_groups", "level"), [(2, None), (3, 0.5), (4, 0.6), (5, 0.8), (30, 0.8)]
)
def test_the_level_is_what_the_number_of_groups_can_carry(
    n_groups: int, level: float | None
) -> None:
    assert fitted(n_groups).interval_level == level


def test_the_tail_at_eighty_per_cent_is_the_published_one() -> None:
    assert fitted(9).tail == pytest.approx(0.10 - 0.25 / 10)


def test_intervals_cover_new_targets_about_as_often_as_they_say() -> None:
    inside = []
    for seed in range(30):
        scores, gains = shelf(13, seed=seed)
        model = GainModel().fit(scores[:, :12], gains[:, :12], [f"g{t}" for t in range(12)])
        predicted = model.predict(scores[:, 12])
        assert predicted.low is not None
        assert predicted.high is not None
        assert (predicted.low <= predicted.median).all()
        assert (predicted.median <= predicted.high).all()
        hit = (gains[:, 12] >= predicted.low) & (gains[:, 12] <= predicted.high)
        inside.append(hit.mean())
    assert 0.7 < np.mean(inside) < 0.92


def test_every_group_weighs_the_same_however_many_columns_it_has() -> None:
    scores, gains = shelf(6)
    groups = ["a", "a", "a", "b", "c", "d"]
    model = GainModel().fit(scores, gains, groups)
    for group in "abcd":
        mine = [i for i, name in enumerate(groups) if name == group]
        weight = sum(model.weights_[model.column_ == i].sum() for i in mine)
        assert weight == pytest.approx(0.25)


def test_harm_is_likelier_at_the_bottom() -> None:
    model = fitted(12)
    predicted = model.predict(np.linspace(-2, 2, 20))
    assert predicted.p_harm is not None
    assert predicted.p_harm[0] > 0.8
    assert predicted.p_harm[-1] < 0.2


def test_an_exact_measurement_is_believed_and_a_vague_one_ignored() -> None:
    model = fitted(12)
    predicted = model.predict(np.zeros(20)).median
    exact = measurement_update(model.joint(), predicted, {3: Measurement(0.5, 1e-9, 100)})
    assert predicted[3] + exact.shift[3] == pytest.approx(0.5, abs=1e-4)
    assert exact.scale[3] == pytest.approx(0.0, abs=1e-2)
    vague = measurement_update(model.joint(), predicted, {3: Measurement(0.5, 100.0, 1)})
    np.testing.assert_allclose(vague.shift, 0.0, atol=1e-4)


def test_one_outlier_moves_the_others_little_and_an_agreement_moves_them_all() -> None:
    model = fitted(30)
    predicted = model.predict(np.zeros(20)).median
    own = float(np.sqrt(model.joint().variance[0]))

    def moved(*sources: int, by: float) -> float:
        seen = {s: Measurement(float(predicted[s]) + by, 0.01, 100) for s in sources}
        return float(measurement_update(model.joint(), predicted, seen).shift[19])

    small, large = moved(0, by=0.5 * own), moved(0, by=6 * own)
    assert small > 0
    assert large < own  # six times as far off, and still less than one standard deviation
    assert moved(0, 1, 2, 3, by=6 * own) > 4 * own


def test_sources_that_missed_alike_follow_each_other() -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((20, 40))
    families = np.repeat(rng.standard_normal((2, 40)), 10, axis=0)  # ten that are alike, twice
    gains = 0.05 * families + 0.02 * rng.standard_normal(scores.shape)
    model = GainModel().fit(scores * 0, gains, [f"g{t}" for t in range(40)])
    predicted = model.predict(np.zeros(20)).median
    seen = {0: Measurement(float(predicted[0]) + 0.08, 0.01, 100)}
    shift = measurement_update(model.joint(), predicted, seen).shift
    assert shift[1:10].min() > 2 * np.abs(shift[10:]).max()
    draws = model.draw(4_000, rng)
    assert np.corrcoef(draws[:, 0], draws[:, 1])[0, 1] > 0.4
    assert np.corrcoef(draws[:, 0], draws[:, 12])[0, 1] < 0.2


def told_shelf(n_groups: int = 30, *, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Gains whose level and spread follow a statistic of the target."""
    rng = np.random.default_rng(seed)
    statistic = rng.random(n_groups)
    scores = rng.standard_normal((15, n_groups))
    spread = 0.01 + 0.1 * statistic
    gains = 0.3 * statistic + spread * (scores + 0.3 * rng.standard_normal(scores.shape))
    return scores, gains, statistic


def test_a_targets_own_statistic_tells_its_level_and_its_spread() -> None:
    scores, gains, statistic = told_shelf()
    groups = [f"g{t}" for t in range(30)]
    model = GainModel().fit(scores, gains, groups, level_features={"probe": statistic})
    low, high = (
        model.predict(scores[:, 0], level_features={"probe": value}) for value in (0.05, 0.95)
    )
    assert float(np.median(high.median - low.median)) > 0.1
    assert low.low is not None
    assert low.high is not None
    assert high.low is not None
    assert high.high is not None
    assert float((high.high - high.low).mean()) > 2 * float((low.high - low.low).mean())
    blind = GainModel().fit(scores, gains, groups)
    misses = [
        np.abs(
            gains[:, t] - m.predict(scores[:, t], level_features={"probe": statistic[t]}).median
        ).mean()
        for m in (model, blind)
        for t in range(30)
    ]
    assert np.mean(misses[:30]) < 0.8 * np.mean(misses[30:])


def test_a_statistic_that_tells_nothing_and_one_that_is_unknown_change_little() -> None:
    scores, gains = shelf(24)
    groups = [f"g{t}" for t in range(24)]
    blind = GainModel().fit(scores, gains, groups)
    noise = np.random.default_rng(3).random(24)
    told = GainModel().fit(scores, gains, groups, level_features={"probe": noise})
    one, two = blind.predict(scores[:, 0]), told.predict(scores[:, 0])
    np.testing.assert_allclose(two.median, one.median, atol=0.02)
    absent = GainModel().fit(scores, gains, groups, level_features={"probe": noise * np.nan})
    np.testing.assert_array_equal(absent.predict(scores[:, 0]).median, one.median)


def test_a_level_that_is_not_told_from_none_is_none() -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((10, 8))
    gains = np.where(np.arange(8) % 2, 0.1, -0.1) + 0.01 * rng.standard_normal(scores.shape)
    assert GainModel().fit(scores, gains, [f"g{t}" for t in range(8)]).level_ == 0.0
    assert fitted(40).level_ > 0.0


def test_columns_of_noise_do_not_flatten_the_slope() -> None:
    scores, gains = shelf(10)
    flat = np.random.default_rng(5).normal(0, 0.005, (20, 6))
    both_scores = np.hstack([scores, np.random.default_rng(6).standard_normal((20, 6))])
    groups = [f"g{t}" for t in range(16)]
    certain = np.r_[np.ones(10), np.zeros(6)]
    model = GainModel().fit(both_scores, np.hstack([gains, flat]), groups, reliability=certain)
    assert model.slope_ == pytest.approx(fitted(10).slope_, rel=0.1)


def test_what_the_base_leaves_to_lose_moves_the_odds_of_harm() -> None:
    rng = np.random.default_rng(0)
    scores, _ = shelf(24)
    base = rng.random(24)
    gains = 0.02 * scores + 0.2 * (0.5 - base) + 0.05 * rng.standard_normal(scores.shape)
    groups = [f"g{t}" for t in range(24)]
    model = GainModel().fit(scores, gains, groups, base_hints=base)
    low, middle, high = (model.predict(scores[:, 0], base_hint=b).p_harm for b in (0.1, None, 0.9))
    assert low is not None
    assert middle is not None
    assert high is not None
    assert (low < middle).all()
    assert (middle < high).all()
    blind = GainModel().fit(scores, gains, groups).predict(scores[:, 0], base_hint=0.9).p_harm
    assert blind is not None
    assert high.mean() - blind.mean() > 0.1


def test_a_base_score_that_is_nowhere_known_changes_nothing() -> None:
    scores, gains = shelf(8)
    groups = [f"g{t}" for t in range(8)]
    blank = GainModel().fit(scores, gains, groups, base_hints=np.full(8, np.nan))
    one, two = (m.predict(scores[:, 0]).p_harm for m in (blank, fitted(8)))
    np.testing.assert_array_equal(one, two)
