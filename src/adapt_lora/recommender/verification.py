"""Verification: which adapters to measure on the target's own rows, on how many, and what it says.

Numbers only. Whoever can run a model hands in `measure`; here it is decided who is measured next.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt

import numpy as np

from adapt_lora.recommender.columns import Array
from adapt_lora.recommender.joint import JointSpread, measurement_update
from adapt_lora.registry.records import Measurement


@dataclass(frozen=True, slots=True)
class Round:
    """One round of successive halving."""

    n_candidates: int
    """Adapters that are measured in it, the best of the round before."""
    rows: range
    """Rows that are added for each of them, by place in the shuffled target."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was measured, in which rounds."""

    measured: Mapping[str, Measurement]
    """By adapter id, after the last round."""
    rounds: tuple[Round, ...] = ()
    """Rounds that were run."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Adapter id → why it could not be measured."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What `measure` hands back for one round."""

    measured: Mapping[str, Measurement]
    """By adapter id, on all of the target's rows that it has answered by now."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Adapter id → why it could not be measured."""


Measure = Callable[[Sequence[str], range], Batch]
"""Measures these adapters and the base on these rows."""

Judge = Callable[[Mapping[str, Measurement]], Mapping[str, float]]
"""Expected gain of each adapter, given what was measured so far."""


def plan_rounds(k: int, *, max_rows: int, n_rows: int) -> tuple[Round, ...]:
    """Rounds of successive halving that cost about k × max_rows adapter-rows in all.

    Every round may spend the same; half of the adapters (rounded up, at least two) go on, so the
    last ones are measured on more than `max_rows` rows (Karnin et al. 2013, "Almost optimal
    exploration in multi-armed bandits").

    Args:
        k: Adapters in the first round, at least 1.
        max_rows: Rows per adapter if all were measured alike.
        n_rows: Rows that there are; the rounds stop there.
    """
    sizes = [k]
    while sizes[-1] > 2:
        sizes.append(ceil(sizes[-1] / 2))
    share = k * max_rows / len(sizes)
    rounds, start = [], 0
    for size in sizes:
        stop = min(start + max(1, int(share / size)), n_rows)
        if stop > start:
            rounds.append(Round(size, range(start, stop)))
        start = stop
    return tuple(rounds)


def verify_by_halving(
    candidates: Sequence[str], *, measure: Measure, judge: Judge, max_rows: int, n_rows: int
) -> Verification:
    """Measure the candidates round by round, each round the better half of those before.

    "Better" is `judge`'s word, which sees predictions and measurements together: a lucky
    batch of a poor candidate does not throw out a good one.

    Args:
        candidates: Adapter ids, best prediction first.
        measure: Runs the adapters; what it can't measure drops out and is named.
        judge: Combines prediction and measurement.
        max_rows: As for `plan_rounds`.
        n_rows: Rows of the target.
    """
    measured: dict[str, Measurement] = {}
    failures: dict[str, str] = {}
    done: list[Round] = []
    alive = list(candidates)
    for planned in plan_rounds(len(alive), max_rows=max_rows, n_rows=n_rows) if alive else ():
        if done:
            expected = judge(measured)
            alive = sorted(alive, key=lambda name: -expected[name])
        alive = alive[: planned.n_candidates]
        batch = measure(alive, planned.rows)
        failures |= batch.failures
        measured |= batch.measured
        alive = [name for name in alive if name in batch.measured]
        done.append(Round(len(batch.measured), planned.rows))
        if not alive:
            break
    return Verification(measured, tuple(done), failures)


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One target with its truth, to try ways of spending a budget of rows on."""

    gains: Array
    """(n,): true gains of the candidates."""
    scores: Array
    """(n,): true scores, in [0, 1]: they decide the sampling noise."""
    base_score: float
    """The base's true score."""
    predicted: Array
    """(n,): predicted gains, made without the target."""
    spread: JointSpread
    """How far predictions are off; known without the target."""

    def noise(self, rows: int) -> Array:
        """Standard error of each gain on so many rows, √(p(1 − p)/n) of adapter and base."""
        p = np.clip(self.scores, 0.0, 1.0)
        q = min(max(self.base_score, 0.0), 1.0)
        found: Array = np.sqrt((p * (1 - p) + q * (1 - q)) / rows + 1e-12)
        return found


def expected_choice(
    trial: Trial,
    picked: Sequence[int],
    *,
    n_rows: int,
    rng: np.random.Generator,
    n_draws: int = 200,
) -> float:
    """Mean true gain of what is chosen after measuring these candidates on `n_rows` rows each.

    The measurement has binomial noise, independent for adapters and shared for the base; it
    is combined with the prediction, and the best of all candidates and the base (gain 0) is taken
    and judged by its true gain, that is, on endless fresh rows.
    """
    index = np.asarray(picked, dtype=np.intp)
    p = np.clip(trial.scores[index], 0.0, 1.0)
    measured = trial.gains[index] + np.sqrt(p * (1 - p) / n_rows) * rng.standard_normal(
        (n_draws, len(index))
    )
    q = min(max(trial.base_score, 0.0), 1.0)
    measured += sqrt(q * (1 - q) / n_rows) * rng.standard_normal((n_draws, 1))
    errors = trial.noise(n_rows)
    # Outliers apart the update is linear in what was measured, so one matrix serves all draws.
    once = {int(i): Measurement(float(trial.gains[i]), float(errors[i]), n_rows) for i in index}
    pull = measurement_update(trial.spread, trial.predicted, once).pull
    expected = trial.predicted + (measured - trial.predicted[index]) @ pull.T  # (n_draws, n)
    best = expected.argmax(axis=1)
    won = np.where(expected.max(axis=1) > 0, trial.gains[best], 0.0)
    return float(won.mean())
