"""Verification: how rows are spent, and that spending them this way pays."""

import numpy as np
import pytest

from adapt_lora.recommender.level import GainModel
from adapt_lora.recommender.verification import (
    Batch,
    Trial,
    expected_choice,
    plan_rounds,
    verify_by_halving,
)
from adapt_lora.registry.records import Measurement


@pytest.mark.parametrize(
    ("k", "max_rows", "n_rows", "sizes", "stops"),
    [
        (1, 100, 400, [1], [100]),
        (2, 100, 400, [2], [100]),
        (3, 100, 400, [3, 2], [50, 125]),
        (8, 100, 400, [8, 4, 2], [33, 99, 232]),
        (3, 100, 60, [3, 2], [50, 60]),  # the target's rows run out
        (3, 100, 40, [3], [40]),
    ],
)
def test_rounds_halve_and_cost_what_was_allowed(
    k: int, max_rows: int, n_rows: int, sizes: list[int], stops: list[int]
) -> None:
    rounds = plan_rounds(k, max_rows=max_rows, n_rows=n_rows)
    assert [r.n_candidates for r in rounds] == sizes
    assert [r.rows.stop for r in rounds] == stops
    assert sum(r.n_candidates * len(r.rows) for r in rounds) <= k * max_rows


def test_the_worst_drops_out_and_the_rest_is_measured_on() -> None:
    gains = {"a": 0.1, "b": 0.3, "c": 0.2}
    asked: list[tuple[tuple[str, ...], int]] = []

    def measure(names: object, rows: range) -> Batch:
        asked.append((tuple(names), len(rows)))  # type: ignore[arg-type]
        return Batch({n: Measurement(gains[n], 0.01, rows.stop) for n in names})  # type: ignore

    found = verify_by_halving(
        ["a", "b", "c"],
        measure=measure,
        judge=lambda seen: {name: seen[name].gain if name in seen else 0.0 for name in gains},
        max_rows=100,
        n_rows=400,
    )
    assert asked == [(("a", "b", "c"), 50), (("b", "c"), 75)]
    assert [found.measured[name].n for name in "abc"] == [50, 125, 125]
    assert found.measured["b"].gain == pytest.approx(0.3)
    assert [r.n_candidates for r in found.rounds] == [3, 2]


def test_an_adapter_that_fails_is_named_and_the_others_go_on() -> None:
    def measure(names: object, rows: range) -> Batch:
        good = {n: Measurement(0.1, 0.05, len(rows)) for n in names if n != "b"}  # type: ignore
        return Batch(good, {"b": "its file is gone"})

    found = verify_by_halving(
        ["a", "b", "c"],
        measure=measure,
        judge=lambda seen: dict.fromkeys("abc", 0.0),
        max_rows=10,
        n_rows=100,
    )
    assert found.failures == {"b": "its file is gone"}
    assert set(found.measured) == {"a", "c"}


def trials(n: int = 60) -> list[Trial]:
    """Targets whose gains are half known: the prediction has correlation .7 with the truth."""
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((12, n))
    gains = 0.02 + 0.07 * scores + 0.07 * rng.standard_normal((12, n))
    model = GainModel().fit(scores, gains, [f"g{t}" for t in range(n)])
    return [
        Trial(
            gains[:, t], 0.5 + gains[:, t], 0.5, model.predict(scores[:, t]).median, model.joint()
        )
        for t in range(n)
    ]


def test_measuring_the_top_beats_random_adapters_and_thin_spreading() -> None:
    found: dict[str, list[float]] = {"top": [], "random": [], "thin": [], "no": []}
    for t, trial in enumerate(trials()):
        rng = np.random.default_rng(t)
        top = np.argsort(-trial.predicted)[:3].tolist()
        some = rng.choice(12, 3, replace=False).tolist()
        found["top"].append(expected_choice(trial, top, n_rows=100, rng=rng))
        found["random"].append(expected_choice(trial, some, n_rows=100, rng=rng))
        found["thin"].append(expected_choice(trial, range(12), n_rows=25, rng=rng))
        found["no"].append(float(trial.gains[top[0]]))
    mean = {name: float(np.mean(values)) for name, values in found.items()}
    assert mean["top"] > max(mean["random"], mean["no"])


def test_harmful_adapters_leave_the_base() -> None:
    trial = trials(20)[0]
    harmful = Trial(trial.gains - 1, trial.scores, 0.5, trial.predicted - 1, trial.spread)
    rng = np.random.default_rng(0)
    assert expected_choice(harmful, [0, 1, 2], n_rows=100, rng=rng) == 0.0
