"""Predict the gains of a registry's adapters on targets it has not learned from, then measure them.

For each target: `recommend` (the target's group, measured or not, is left out of everything), then
`evaluate` of every adapter on the same task, and the two side by side.

    .venv/bin/python benchmarks/held_out.py --target FOLDER [--target FOLDER] [--max-rows 100]
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from adapt_lora import EvaluationRequest, roads
from adapt_lora.registry import Registry
from adapt_lora.registry.records import BASE_ID, TransferMatrix
from adapt_lora.report.plots import PredictedMeasured, plot_predicted_vs_measured


def main() -> None:
    """Print a table per target and one RESULT line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--target", action="append", required=True)
    options.add_argument("--max-rows", type=int, default=100)
    options.add_argument("--base-model")
    options.add_argument("--plot", type=Path)
    arguments = options.parse_args()
    registry = Registry()
    points: list[PredictedMeasured] = []
    result: dict[str, float] = {"n_targets": len(arguments.target)}
    for target in arguments.target:
        answer = roads.recommend(target, registry=registry, base_model=arguments.base_model)
        matrix = roads.evaluate(
            EvaluationRequest(
                [target], base_model=arguments.base_model, max_rows=arguments.max_rows
            ),
            registry=registry,
        ).matrix
        found = compare(answer, matrix)
        show(answer, matrix, found)
        result |= {f"{answer.target.name}_{key}": value for key, value in judge(found).items()}
        points += found
    inside = [low <= point.measured <= high for point in points for low, high in [point.interval]]
    result["mae_points"] = round(
        100 * float(np.mean([abs(p.predicted - p.measured) for p in points])), 1
    )
    result["mae_of_zero_points"] = round(100 * float(np.mean([abs(p.measured) for p in points])), 1)
    result["coverage"] = round(float(np.mean(inside)), 2)
    if arguments.plot is not None:
        plot_predicted_vs_measured(points, arguments.plot)
    print("RESULT " + json.dumps(result))


def compare(answer: roads.TargetRanking, matrix: TransferMatrix) -> list[PredictedMeasured]:
    """One point per adapter, in the predicted order."""
    task = answer.target.name
    cells = {cell.row.id: cell for cell in matrix.cells if cell.task == task}
    base = cells[BASE_ID]
    return [
        PredictedMeasured(
            adapter=entry.adapter,
            target=task,
            predicted=entry.predicted_gain,
            interval=(entry.interval.low, entry.interval.high),
            measured=cells[entry.adapter_id].score - base.score,
        )
        for entry in answer.recommendation.ranking
    ]


def show(
    answer: roads.TargetRanking, matrix: TransferMatrix, found: list[PredictedMeasured]
) -> None:
    """Print a markdown table of predicted against measured gains."""
    task = answer.target.name
    cells = {cell.row.id: cell for cell in matrix.cells if cell.task == task}
    base = cells[BASE_ID]
    print(f"\n{task}: base model {100 * base.score:.1f} ± {100 * base.se:.1f}, {base.n} rows")
    print("| adapter | predicted gain | interval | P(harm) | measured gain | ± |")
    print("|---|---|---|---|---|---|")
    for entry, point in zip(answer.recommendation.ranking, found, strict=True):
        se = np.hypot(cells[entry.adapter_id].se, base.se)
        low, high = (100 * end for end in point.interval)
        print(
            f"| {point.adapter} | {100 * point.predicted:+.1f} | {low:+.1f} to {high:+.1f} "
            f"| {entry.p_harm:.0%} | {100 * point.measured:+.1f} | {100 * se:.1f} |"
        )


def judge(found: list[PredictedMeasured]) -> dict[str, float]:
    """Rank correlation, regret of the first choice, and the gain that it brought."""
    predicted = np.array([point.predicted for point in found])
    measured = np.array([point.measured for point in found])
    spread = float(measured.max() - measured.min()) or 1.0
    return {
        "spearman": round(float(spearmanr(predicted, measured).statistic), 2),
        "regret_at_1_spread": round(float(measured.max() - measured[0]) / spread, 2),
        "regret_at_3_spread": round(float(measured.max() - measured[:3].max()) / spread, 2),
        "first_gain_points": round(100 * float(measured[0]), 1),
        "best_gain_points": round(100 * float(measured.max()), 1),
    }


if __name__ == "__main__":
    main()
