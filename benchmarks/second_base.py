"""How well does one base model's registry rank adapters on another base?

Reads two exports, `starter/` and `starter/second_base/`. Every task of the second base is a target
once, with its group left out of both matrices, and the adapters of the second base are ranked for
it: by what the first base's registry alone says, by the second base's own cells, and by both.

    .venv/bin/python benchmarks/second_base.py
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from adapt_lora.recommender import rank_adapters
from adapt_lora.recommender.bench import noise_ceiling
from adapt_lora.recommender.borrowing import translate
from adapt_lora.recommender.columns import Array, standardise, trimmed_mean
from adapt_lora.recommender.table import TransferTable, table_from_matrix
from adapt_lora.registry.exchange.portable import read_export
from adapt_lora.registry.records import TaskRecord, TransferMatrix, Unit

ROOT = Path(__file__).parents[1]
N_RESAMPLES = 10_000
UNITS: tuple[Unit, ...] = ("points", "nats")

Scores = Callable[[TransferMatrix, TransferMatrix, TaskRecord], Mapping[str, float]]
"""Scores of the second base's adapters for one of its tasks, by adapter id."""


def main() -> None:
    """Print ρ per target and way of ranking, their means with intervals, and a RESULT line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--first", type=Path, default=ROOT / "starter")
    options.add_argument("--second", type=Path, default=ROOT / "starter" / "second_base")
    arguments = options.parse_args()
    first = read_export(arguments.first).matrix
    second = read_export(arguments.second).matrix
    print(f"first base {first.base.name}, second base {second.base.name}")
    ways: dict[str, Scores] = {
        "own_popularity": own_popularity,
        "first_popularity": first_popularity,
        "first_default": first_ranking,
        "own_default": own_ranking,
        "both_default": both_ranking,
        "first_same_task": same_task,
    }
    tables = {unit: table_from_matrix(second, unit=unit) for unit in UNITS}
    targets = [(task, tables[task.unit]) for task in second.tasks]
    found = {
        name: np.array([judge(table, task, way(first, second, task)) for task, table in targets])
        for name, way in ways.items()
    }
    show(targets, found)
    result: dict[str, float] = {"n_targets": len(targets), "n_adapters": len(second.adapters)}
    print("\n| ranked by | ρ | 90 % | minus own_popularity | 90 % |\n|---|---|---|---|---|")
    for name, rho in found.items():
        mean, low, high = summary(rho)
        less, lowest, highest = summary(rho - found["own_popularity"])
        print(
            f"| {name} | {mean:+.2f} | {low:+.2f} to {high:+.2f} "
            f"| {less:+.2f} | {lowest:+.2f} to {highest:+.2f} |"
        )
        result[f"rho_{name}"] = round(mean, 3)
    ceiling = noise_ceiling(tables["points"])["spearman_rho"]
    print(f"\nOn label tasks even a perfect ranking would reach ρ {ceiling:.2f}.\n")
    print("RESULT " + json.dumps(result))


def first_popularity(
    first: TransferMatrix, second: TransferMatrix, task: TaskRecord
) -> dict[str, float]:
    """Trimmed mean standing of the same training data under the first base."""
    others = first.without_groups([task.group])
    tables = translate(second, [others], unit=task.unit).tables
    return _popularity(tables[first.base.name])


def first_ranking(
    first: TransferMatrix, second: TransferMatrix, task: TaskRecord
) -> dict[str, float]:
    """What `recommend` says on a fresh base: nothing was measured under it."""
    return _ranked(_unmeasured(second), [first], task)


def own_popularity(
    first: TransferMatrix, second: TransferMatrix, task: TaskRecord
) -> dict[str, float]:
    """Trimmed mean standing under the second base itself, on its other tasks."""
    return _popularity(table_from_matrix(second.without_groups([task.group]), unit=task.unit))


def own_ranking(
    first: TransferMatrix, second: TransferMatrix, task: TaskRecord
) -> dict[str, float]:
    """What `recommend` says from the second base's cells alone."""
    return _ranked(second.without_groups([task.group]), [], task)


def both_ranking(
    first: TransferMatrix, second: TransferMatrix, task: TaskRecord
) -> dict[str, float]:
    """What `recommend` says where both bases are in one registry."""
    return _ranked(second.without_groups([task.group]), [first], task)


def same_task(first: TransferMatrix, second: TransferMatrix, task: TaskRecord) -> dict[str, float]:
    """The first base's cells of the target itself: how far two bases agree at all."""
    table = translate(second, [first], unit=task.unit).tables[first.base.name]
    column = table.transfer_scores[:, table.targets.index(task.name)]
    return dict(zip(table.sources, column.tolist(), strict=True))


def judge(table: TransferTable, task: TaskRecord, scores: Mapping[str, float]) -> float:
    """Spearman's ρ with the measured gains over foreign adapters; NaN where it has no meaning."""
    true = table.gains[:, table.targets.index(task.name)]
    said = np.array([scores.get(source, np.nan) for source in table.sources])
    known = np.isfinite(true) & np.isfinite(said)
    if known.sum() < 3 or np.ptp(true[known]) == 0:
        return float("nan")
    if np.ptp(said[known]) == 0:
        return 0.0
    return float(spearmanr(true[known], said[known]).statistic)


def show(targets: list[tuple[TaskRecord, TransferTable]], found: Mapping[str, Array]) -> None:
    """Print a markdown table: a line per target, a column per way of ranking."""
    print("| target | " + " | ".join(found) + " |")
    print("|---" * (1 + len(found)) + "|")
    for t, (task, _) in enumerate(targets):
        print(f"| {task.name} | " + " | ".join(f"{rho[t]:+.2f}" for rho in found.values()) + " |")


def summary(rho: Array) -> tuple[float, float, float]:
    """Mean over the targets and its 90 % interval, targets drawn anew."""
    known = rho[np.isfinite(rho)]
    draws = np.random.default_rng(0).choice(known, size=(N_RESAMPLES, known.size)).mean(axis=1)
    low, high = np.quantile(draws, [0.05, 0.95])
    return float(known.mean()), float(low), float(high)


def _popularity(table: TransferTable) -> dict[str, float]:
    scores = table.transfer_scores
    means = trimmed_mean(standardise(scores, np.isfinite(scores)))
    return dict(zip(table.sources, means.tolist(), strict=True))


def _ranked(
    matrix: TransferMatrix, others: list[TransferMatrix], task: TaskRecord
) -> dict[str, float]:
    answer = rank_adapters(
        matrix, task.fingerprint, metric=task.metric, group=task.group, others=others
    )
    return {entry.adapter_id: -float(entry.rank) for entry in answer.ranking}


def _unmeasured(matrix: TransferMatrix) -> TransferMatrix:
    return TransferMatrix(matrix.base, matrix.adapters, (), (), matrix.regime)


if __name__ == "__main__":
    main()
