"""Predict the gains of a registry's adapters on targets it has not learned from, then measure them.

For each target: `recommend` (the target's group, measured or not, is left out of everything), then
`evaluate` of every adapter on the same task, and the two side by side.

    .venv/bin/python benchmarks/held_out.py --target FOLDER [--target FOLDER] [--max-rows 100]
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from adapt_lora import EvaluationRequest, roads
from adapt_lora.registry import Registry
from adapt_lora.registry.records import BASE_ROW, MatrixRow, TransferMatrix


@dataclass(frozen=True)
class PredictedMeasured:
    """A predicted gain and what was measured later."""

    adapter: str
    """Name of the adapter."""
    target: str
    """Name of the target task."""
    predicted: float
    """Predicted gain."""
    interval: tuple[float, float]
    """Its interval."""
    measured: float
    """Measured gain, same unit."""


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
        request = roads.RecommendRequest(target, base_model=arguments.base_model)
        answer = roads.recommend(request, registry=registry)
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
        plot(points, arguments.plot)
    print("RESULT " + json.dumps(result))


def compare(answer: roads.TargetRanking, matrix: TransferMatrix) -> list[PredictedMeasured]:
    """One point per adapter, in the predicted order."""
    task = answer.target.name
    cells = {cell.row: cell for cell in matrix.cells if cell.task == task}
    base = cells[BASE_ROW]
    return [
        PredictedMeasured(
            adapter=entry.adapter,
            target=task,
            predicted=entry.predicted_gain,
            interval=(entry.interval.low, entry.interval.high),
            measured=cells[MatrixRow(entry.adapter_id)].score - base.score,
        )
        for entry in answer.recommendation.ranking
    ]


def show(
    answer: roads.TargetRanking, matrix: TransferMatrix, found: list[PredictedMeasured]
) -> None:
    """Print a markdown table of predicted against measured gains."""
    task = answer.target.name
    cells = {cell.row: cell for cell in matrix.cells if cell.task == task}
    base = cells[BASE_ROW]
    print(f"\n{task}: base model {100 * base.score:.1f} ± {100 * base.se:.1f}, {base.n} rows")
    print("| adapter | predicted gain | interval | P(harm) | measured gain | ± |")
    print("|---|---|---|---|---|---|")
    for entry, point in zip(answer.recommendation.ranking, found, strict=True):
        se = np.hypot(cells[MatrixRow(entry.adapter_id)].se, base.se)
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


def plot(points: Sequence[PredictedMeasured], path: Path) -> None:
    """Draw predicted gains against measured ones in points, one colour per target."""
    figure = Figure(figsize=(6.2, 5.8), dpi=150, layout="constrained")
    axes = figure.subplots()
    for target in dict.fromkeys(point.target for point in points):
        mine = [point for point in points if point.target == target]
        x = 100 * np.array([point.predicted for point in mine])
        y = 100 * np.array([point.measured for point in mine])
        low, high = 100 * np.array([point.interval for point in mine]).T
        (dots,) = axes.plot(x, y, "o", markeredgecolor="white", zorder=3, label=target)
        axes.hlines(y, low, high, color=dots.get_color(), linewidth=1, alpha=0.35)
    spots = [100 * gain for point in points for gain in (point.predicted, point.measured, 0.0)]
    low, high = min(spots) - 2, max(spots) + 2
    axes.plot([low, high], [low, high], color="#8A8A8A", linewidth=1, linestyle="--", zorder=1)
    # Where the advice was wrong in kind: help was promised and harm came, or the other way round.
    axes.fill_between([0, high], low, 0, color="#D55E00", alpha=0.07, linewidth=0, zorder=0)
    axes.fill_between([low, 0], 0, high, color="#E69F00", alpha=0.07, linewidth=0, zorder=0)
    axes.axhline(0, color="#8A8A8A", linewidth=0.8, zorder=1)
    axes.axvline(0, color="#8A8A8A", linewidth=0.8, zorder=1)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set(xlabel="predicted gain (points)", ylabel="measured gain (points)")
    axes.set_title(f"Predicted and measured, {len(points)} adapter-target pairs", loc="left")
    axes.legend(frameon=False, loc="upper left", fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    main()
