"""One thing to do, from all that an answer holds."""

import pytest

from adapt_lora.recommender.answer import BaseChoice, Interval, LabelBias, RankedAdapter
from adapt_lora.recommender.own_training import OwnTraining
from adapt_lora.recommender.verdict import decide
from adapt_lora.registry.records import Measurement


def entry(name: str, gain: float | None, **more: object) -> RankedAdapter:
    fields: dict[str, object] = {
        "rank": 1,
        "adapter": name,
        "adapter_id": f"id-{name}",
        "predicted_gain": gain,
        "interval": None if gain is None else Interval(gain - 0.1, gain + 0.1),
        "p_harm": None if gain is None else (0.2 if gain > 0 else 0.8),
        "p_best": None,
        "reasons": (),
        "evidence": (),
        "warnings": (),
    }
    return RankedAdapter(**{**fields, **more})  # type: ignore[arg-type]


def base(**more: object) -> BaseChoice:
    fields: dict[str, object] = {"score": 0.5, "se": 0.03, "p_best": 0.2, "recommended": False}
    return BaseChoice(**{**fields, **more})  # type: ignore[arg-type]


def bias(gain: float, *, caution: str | None = None) -> LabelBias:
    return LabelBias(Measurement(gain, 0.03, 100), {"a": 1.0, "b": -1.0}, caution)


def test_the_best_adapter_is_used_in_absolute_terms() -> None:
    found = decide([entry("a", 0.2), entry("b", 0.1)], base(), chance=0.5)
    assert (found.use, found.adapter_id) == ("adapter", "id-a")
    assert found.score == pytest.approx(0.7)
    assert found.n_measured is None
    assert found.chance == 0.5


def test_an_adapter_that_is_likelier_to_harm_is_not_used() -> None:
    assert decide([entry("a", 0.02, p_harm=0.6)], base()).use == "base"
    assert decide([entry("a", -0.02)], base()).use == "base"
    assert decide([], base()).use == "base"


def test_a_removed_bias_wins_where_it_is_worth_more_and_can_be_trusted() -> None:
    assert decide([entry("a", 0.05)], base(unbiased=bias(0.1))).use == "base_unbiased"
    assert decide([entry("a", 0.2)], base(unbiased=bias(0.1))).use == "adapter"
    assert decide([entry("a", 0.05)], base(unbiased=bias(0.1, caution="few"))).use == "adapter"
    assert decide([entry("a", -0.05)], base(unbiased=bias(0.02))).use == "base"  # within its error


def test_what_a_removed_bias_wins_is_added_to_what_is_expected_of_an_adapter() -> None:
    lucky = entry("a", 0.15, measured=Measurement(0.2, 0.04, 80), unbiased=bias(0.26))
    found = decide([lucky], base())
    assert found.use == "adapter_unbiased"
    assert found.gain == pytest.approx(0.15 + 0.06)  # not .26: the measured gain was lucky
    assert found.n_measured == 80


def test_training_is_the_verdict_only_where_its_low_end_beats_all() -> None:
    sure = OwnTraining(0.4, (0.3, 0.5), 12, 400, 60.0)
    vague = OwnTraining(0.4, (0.05, 0.5), 12, 400, 60.0)
    shelf = [entry("a", 0.1)]
    assert decide(shelf, base(), own=sure).use == "train"
    assert decide(shelf, base(), own=vague).use == "adapter"


def test_without_gains_there_is_only_something_to_try() -> None:
    assert decide([entry("a", None), entry("b", None)], base()).use == "try"


def test_ties_are_called_ties() -> None:
    seen = [
        entry("a", 0.20, measured=Measurement(0.21, 0.04, 100)),
        entry("b", 0.18, measured=Measurement(0.18, 0.04, 100)),
        entry("c", 0.02, measured=Measurement(0.02, 0.04, 100)),
        entry("d", 0.1999),
    ]
    assert decide(seen, base()).ties == ("b",)
    assert decide([entry("a", 0.1001), entry("b", 0.1), entry("c", 0.05)], base()).ties == ("b",)
