"""Ways to spend the same number of rows on a target, tried on published matrices.

    python benchmarks/verification.py --matrices DIR [--rows 100]

Every target is unseen: its group leaves the matrix before anything is fitted. All ways may spend
3 × ROWS adapter-rows (the base's rows come free, since it is scored for the answer anyway). True
scores are the published ones; a measured score has binomial noise, independent from adapter to
adapter, although scores on the same rows are more alike than that: what is won here is a floor.
Shares are of the gain of the best candidate (the base, with its gain of 0, among them).
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from adapt_lora.recommender.choice import chosen_scores
from adapt_lora.recommender.columns import standardise
from adapt_lora.recommender.joint import measurement_update
from adapt_lora.recommender.metrics import MIN_CANDIDATES
from adapt_lora.recommender.models import make_ranker
from adapt_lora.recommender.pivots import read_matrices
from adapt_lora.recommender.table import TransferTable
from adapt_lora.recommender.training_set import TrainingSet
from adapt_lora.recommender.verification import Batch, Trial, expected_choice, verify_by_halving
from adapt_lora.registry.records import Measurement

Way = Callable[[Trial, int, np.random.Generator], float]


def main() -> None:
    """Print a table per family and one RESULT line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--matrices", type=Path, required=True)
    options.add_argument("--rows", type=int, default=100)
    arguments = options.parse_args()
    shares: dict[str, dict[str, list[float]]] = {}
    bias: list[tuple[float, float]] = []
    with threadpool_limits(limits=1):
        for name, table in read_matrices(arguments.matrices).items():
            if table.unit != "points" or not np.isfinite(table.gains).any():
                continue
            trials = unseen_targets(table)
            bias += [winner_bias(s, arguments.rows, np.random.default_rng(t))
                     for t, s in enumerate(trials)]  # fmt: skip
            best = sum(max(float(s.gains.max()), 0.0) for s in trials)
            for way, spend in WAYS.items():
                won = sum(
                    spend(trial, arguments.rows, np.random.default_rng(t))
                    for t, trial in enumerate(trials)
                )
                family = name.split("/")[0]
                shares.setdefault(family, {}).setdefault(way, []).append(won / best)
    print(f"share of the best candidate's gain, {arguments.rows} rows for each of three adapters")
    print(f"{'':32}" + "".join(f"{way:>22}" for way in WAYS))
    for family, found in shares.items():
        row = "".join(f"{np.mean(found[way]):22.2f}" for way in WAYS)
        print(f"{family:32}{row}")
    result = {
        f"{way.replace(' ', '_')}": round(
            float(np.mean([np.mean(found[way]) for found in shares.values()])), 3
        )
        for way in WAYS
    }
    raw, combined = np.mean(bias, axis=0)
    result |= {
        "winner_measured_minus_true_points": round(100 * float(raw), 2),
        "winner_combined_minus_true_points": round(100 * float(combined), 2),
    }
    print(f"RESULT {json.dumps(result)}")


def unseen_targets(table: TransferTable) -> list[Trial]:
    """Each judged target with what a recommendation would predict for it, had nobody seen it."""
    found = []
    for group in table.group_names:
        fold = table.hold_out([group])
        train = TrainingSet(fold.table)
        chosen = chosen_scores(train)
        model = train.gain_model(np.nan_to_num(chosen.scores))
        ranker = make_ranker(chosen.method).fit(train)
        for t, query in zip(fold.held, fold.queries, strict=True):
            kept = np.isfinite(table.gains[:, t])
            if kept.sum() < MIN_CANDIDATES or model.n_groups_ == 0:
                continue
            predicted = model.predict(
                standardise(ranker.predict(query)),
                base_hint=query.base_hint,
                level_features=query.level_features,
            )
            found.append(
                Trial(
                    gains=table.gains[kept, t],
                    scores=table.transfer_scores[kept, t],
                    base_score=float(table.base_scores[t]),
                    predicted=predicted.median[kept],
                    spread=model.joint(predicted.spread).of(np.flatnonzero(kept)),
                )
            )
    return found


def winner_bias(trial: Trial, rows: int, rng: np.random.Generator) -> tuple[float, float]:
    """(measured − true, combined − true) of the best of three, mean over draws."""
    top = np.argsort(-trial.predicted, kind="stable")[:3]
    errors = trial.noise(rows)
    raw, combined = [], []
    for _ in range(200):
        gains = trial.gains[top] + errors[top] * rng.standard_normal(len(top))
        measured = {
            int(s): Measurement(float(gain), float(errors[s]), rows)
            for s, gain in zip(top, gains, strict=True)
        }
        moved = trial.predicted + measurement_update(trial.spread, trial.predicted, measured).shift
        by_raw, by_both = int(top[gains.argmax()]), int(top[moved[top].argmax()])
        raw.append(float(gains.max() - trial.gains[by_raw]))
        combined.append(float(moved[by_both] - trial.gains[by_both]))
    return float(np.mean(raw)), float(np.mean(combined))


def first_unmeasured(trial: Trial, rows: int, rng: np.random.Generator) -> float:
    """Trust the prediction; spend nothing."""
    best = int(trial.predicted.argmax())
    return float(trial.gains[best]) if trial.predicted[best] > 0 else 0.0


def top_three(trial: Trial, rows: int, rng: np.random.Generator) -> float:
    """Each of the three best predicted on all rows."""
    top = np.argsort(-trial.predicted, kind="stable")[:3]
    return expected_choice(trial, top.tolist(), n_rows=rows, rng=rng)


def three_at_random(trial: Trial, rows: int, rng: np.random.Generator) -> float:
    """Three random candidates on all rows, mean over 20 picks."""
    n = len(trial.gains)
    picks = [rng.choice(n, min(3, n), replace=False).tolist() for _ in range(20)]
    won = [expected_choice(trial, p, n_rows=rows, rng=rng, n_draws=20) for p in picks]
    return float(np.mean(won))


def thin_on_all(trial: Trial, rows: int, rng: np.random.Generator) -> float:
    """Every candidate on an equal share of the rows."""
    n = len(trial.gains)
    return expected_choice(trial, range(n), n_rows=max(1, 3 * rows // n), rng=rng)


def halving_choice(
    trial: Trial, k: int, *, max_rows: int, rng: np.random.Generator, n_draws: int = 100
) -> float:
    """Mean true gain of what is chosen by halving the k best predicted, on endless rows."""
    order = np.argsort(-trial.predicted, kind="stable")[:k]
    p = np.clip(trial.scores, 0.0, 1.0)
    q = min(max(trial.base_score, 0.0), 1.0)
    sums: dict[int, tuple[float, int]] = {}

    def measure(names: Sequence[str], rows: range) -> Batch:
        n = len(rows)
        off = sqrt(q * (1 - q) / n) * rng.standard_normal()
        found = {}
        for name in names:
            s = int(name)
            gain = trial.gains[s] + off + sqrt(p[s] * (1 - p[s]) / n) * rng.standard_normal()
            before, n_before = sums.get(s, (0.0, 0))
            total, n_all = before + n * float(gain), n_before + n
            sums[s] = total, n_all
            found[name] = Measurement(total / n_all, float(trial.noise(n_all)[s]), n_all)
        return Batch(found)

    def judge(measured: Mapping[str, Measurement]) -> Mapping[str, float]:
        of_source = {int(name): one for name, one in measured.items()}
        moved = trial.predicted + measurement_update(trial.spread, trial.predicted, of_source).shift
        return {str(s): float(gain) for s, gain in enumerate(moved)}

    won = []
    for _ in range(n_draws):
        sums.clear()
        found = verify_by_halving(
            [str(s) for s in order],
            measure=measure,
            judge=judge,
            max_rows=max_rows,
            n_rows=len(order) * max_rows,
        )
        expected = judge(found.measured)
        best = max(expected, key=lambda name: expected[name])
        won.append(float(trial.gains[int(best)]) if expected[best] > 0 else 0.0)
    return float(np.mean(won))


WAYS: dict[str, Way] = {
    "prediction alone": first_unmeasured,
    "3 at random": three_at_random,
    "thinly on all": thin_on_all,
    "top 3 alike": top_three,
    "top 3 by halving": lambda s, rows, rng: halving_choice(s, 3, max_rows=rows, rng=rng),
    "top 6 by halving": lambda s, rows, rng: halving_choice(s, 6, max_rows=rows // 2, rng=rng),
}


if __name__ == "__main__":
    main()
