"""Successive halving pays, as the benchmark that measures it says."""

import numpy as np
from benchmarks.verification import halving_choice

from adapt_lora.recommender.verification import expected_choice
from tests.recommender.test_verification import trials


def test_halving_beats_random_adapters_and_the_prediction_alone() -> None:
    found: dict[str, list[float]] = {"random": [], "halving": [], "no": []}
    for t, trial in enumerate(trials()):
        rng = np.random.default_rng(t)
        best = int(np.argmax(trial.predicted))
        some = rng.choice(12, 3, replace=False).tolist()
        found["random"].append(expected_choice(trial, some, n_rows=100, rng=rng))
        found["halving"].append(halving_choice(trial, 3, max_rows=100, rng=rng, n_draws=20))
        found["no"].append(float(trial.gains[best]))
    mean = {name: float(np.mean(values)) for name, values in found.items()}
    assert mean["halving"] > max(mean["random"], mean["no"])
