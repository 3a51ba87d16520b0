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
from collections.abc import Callable
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from adapt_lora.recommender.backtest import MIN_CANDIDATES, chosen_scores
from adapt_lora.recommender.features import TrainingSet
from adapt_lora.recommender.gains import GainModel, measurement_update
from adapt_lora.recommender.models import make_ranker, unit_scores
from adapt_lora.recommender.table import TransferTable, read_matrices
from adapt_lora.recommender.verification import Shelf, expected_choice, halving_choice

Way = Callable[[Shelf, int, np.random.Generator], float]


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
            shelves = unseen_targets(table)
            bias += [winner_bias(s, arguments.rows, np.random.default_rng(t))
                     for t, s in enumerate(shelves)]  # fmt: skip
            best = sum(max(float(s.gains.max()), 0.0) for s in shelves)
            for way, spend in WAYS.items():
                won = sum(
                    spend(shelf, arguments.rows, np.random.default_rng(t))
                    for t, shelf in enumerate(shelves)
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


def unseen_targets(table: TransferTable) -> list[Shelf]:
    """Each judged target with what a recommendation would predict for it, had nobody seen it."""
    found = []
    for group in table.group_names:
        fold = table.hold_out([group])
        train = TrainingSet(fold.table)
        chosen = chosen_scores(train)
        scores = np.nan_to_num(chosen.scores)
        model = GainModel().fit(
            scores, fold.table.gains, fold.table.groups, base_hints=train.base_hints
        )
        ranker = make_ranker(chosen.method).fit(train)
        for t, query in zip(fold.held, fold.queries, strict=True):
            kept = np.isfinite(table.gains[:, t])
            if kept.sum() < MIN_CANDIDATES or model.n_groups_ == 0:
                continue
            score = unit_scores(ranker.predict(query))
            found.append(
                Shelf(
                    gains=table.gains[kept, t],
                    scores=table.transfer_scores[kept, t],
                    base_score=float(table.base_scores[t]),
                    predicted=model.predict(score, base_hint=query.base_hint).median[kept],
                    model=model,
                )
            )
    return found


def winner_bias(shelf: Shelf, rows: int, rng: np.random.Generator) -> tuple[float, float]:
    """(measured − true, combined − true) of the best of three, mean over draws."""
    top = np.argsort(-shelf.predicted, kind="stable")[:3]
    errors = shelf.noise(rows)
    raw, combined = [], []
    for _ in range(200):
        seen = shelf.gains[top] + errors[top] * rng.standard_normal(len(top))
        measured = {int(s): (float(g), float(errors[s])) for s, g in zip(top, seen, strict=True)}
        moved = shelf.predicted + measurement_update(shelf.model, shelf.predicted, measured).shift
        by_raw, by_both = int(top[seen.argmax()]), int(top[moved[top].argmax()])
        raw.append(float(seen.max() - shelf.gains[by_raw]))
        combined.append(float(moved[by_both] - shelf.gains[by_both]))
    return float(np.mean(raw)), float(np.mean(combined))


def first_unmeasured(shelf: Shelf, rows: int, rng: np.random.Generator) -> float:
    """Trust the prediction; spend nothing."""
    best = int(shelf.predicted.argmax())
    return float(shelf.gains[best]) if shelf.predicted[best] > 0 else 0.0


def top_three(shelf: Shelf, rows: int, rng: np.random.Generator) -> float:
    """Each of the three best predicted on all rows."""
    top = np.argsort(-shelf.predicted, kind="stable")[:3]
    return expected_choice(shelf, top.tolist(), n_rows=rows, rng=rng)


def three_at_random(shelf: Shelf, rows: int, rng: np.random.Generator) -> float:
    """Three random candidates on all rows, mean over 20 picks."""
    n = len(shelf.gains)
    picks = [rng.choice(n, min(3, n), replace=False).tolist() for _ in range(20)]
    won = [expected_choice(shelf, p, n_rows=rows, rng=rng, n_draws=20) for p in picks]
    return float(np.mean(won))


def thin_on_all(shelf: Shelf, rows: int, rng: np.random.Generator) -> float:
    """Every candidate on an equal share of the rows."""
    n = len(shelf.gains)
    return expected_choice(shelf, range(n), n_rows=max(1, 3 * rows // n), rng=rng)


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
