"""How long the ranking itself takes: 200 adapters × 50 tasks, and 100,000 candidates.

    python benchmarks/recommender_speed.py

The rival is what one would write in an afternoon: scikit-learn's HistGradientBoosting on the same
features, cross-validated over the same five folds of task groups for its back-test. Ours chooses
among five methods, back-tests, fits gains and intervals, and writes reasons besides.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from adapt_lora.model.base import BaseIdentity
from adapt_lora.recommender import rank_adapters
from adapt_lora.recommender.choice import group_folds
from adapt_lora.recommender.columns import standardise
from adapt_lora.recommender.features import table_for_target
from adapt_lora.recommender.level import GainModel
from adapt_lora.recommender.model_cache import ModelCache
from adapt_lora.recommender.models import make_ranker
from adapt_lora.recommender.table import TransferTable
from adapt_lora.recommender.training_set import TrainingSet
from adapt_lora.registry.records import (
    BASE_ROW,
    AdapterRecord,
    Cell,
    DatasetRecord,
    Fingerprint,
    TaskRecord,
    TransferMatrix,
)

METRIC = "balanced_accuracy"
BASE = BaseIdentity("synthetic/base", "architecture", "weights")


def main() -> None:
    """Print the figures and one RESULT line."""
    matrix, target = shelf(200, 50)
    rank_adapters(*shelf(6, 12), metric=METRIC)  # imports and first calls are not what is timed
    started = time.process_time()
    cold = seconds(lambda: rank_adapters(matrix, target, metric=METRIC), repeats=3)
    cpu = (time.process_time() - started) / 3
    with tempfile.TemporaryDirectory() as folder:
        cache = ModelCache(Path(folder))
        rank_adapters(matrix, target, metric=METRIC, cache=cache)
        warm = seconds(lambda: rank_adapters(matrix, target, metric=METRIC, cache=cache), repeats=3)
    started = time.process_time()
    with threadpool_limits(limits=1):  # on busy cores its threads wait for each other
        rival = seconds(lambda: rival_pipeline(matrix, target), repeats=1)
    rival_cpu = time.process_time() - started
    many = score_many(100_000)
    print(
        f"lightgbm {version('lightgbm')}, scikit-learn {version('scikit-learn')}, numpy "
        f"{version('numpy')}, {os.cpu_count()} cores"
    )
    print(
        f"200 × 50, fitted, back-tested, ranked: {cold:.2f} s; model from the cache: {warm:.2f} s"
    )
    print(f"200 × 50, HistGradientBoosting, same folds: {rival:.2f} s")
    print(f"100,000 candidates, gains, intervals, P(harm): {many:.2f} s after the fit")
    result = {
        "fit_predict_s": round(cold, 2),
        "fit_predict_cpu_s": round(cpu, 2),
        "cached_s": round(warm, 2),
        "rival_s": round(rival, 2),
        "rival_cpu_s": round(rival_cpu, 2),
        "ratio_vs_sklearn": round(rival / cold, 1),
        "ratio_cached": round(cold / warm, 1),
        "score_100k_s": round(many, 2),
    }
    print(f"RESULT {json.dumps(result)}")


def seconds(work: Callable[[], object], *, repeats: int) -> float:
    """Best wall time of several runs."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def shelf(n_adapters: int, n_tasks: int) -> tuple[TransferMatrix, Fingerprint]:
    """Adapters × tasks whose gain is quality plus likeness of data plus noise."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((n_adapters, 64)), rng.standard_normal((n_tasks + 1, 64))
    quality = 0.05 * rng.standard_normal(n_adapters)
    likeness = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    gain = quality[:, None] + 0.1 * likeness + 0.02 * rng.standard_normal(likeness.shape)
    adapters = tuple(
        AdapterRecord(
            f"id-{i}",
            f"a{i}",
            BASE,
            dataset=DatasetRecord(f"d{i}", f"digest-{i}", f"s{i}", 200),
            group=f"s{i}",
            fingerprint=fingerprint(rng, a[i]),
        )
        for i in range(n_adapters)
    )
    tasks = tuple(
        TaskRecord(
            f"t{j}",
            f"g{j}",
            METRIC,
            DatasetRecord(f"t{j}", f"digest-t{j}", f"g{j}", 100),
            ("yes", "no"),
            fingerprint(rng, b[j]),
        )
        for j in range(n_tasks)
    )
    cells = [Cell(BASE_ROW, task.name, METRIC, 0.5, 0.03, 100, "p") for task in tasks]
    for j, task in enumerate(tasks):
        cells += [
            Cell(record.row, task.name, METRIC, 0.5 + gain[i, j], 0.03, 100, "p")
            for i, record in enumerate(adapters)
        ]
    return TransferMatrix(BASE, adapters, tasks, tuple(cells)), fingerprint(rng, b[-1])


def fingerprint(rng: np.random.Generator, direction: np.ndarray) -> Fingerprint:
    """Lengths, perplexity and an embedding."""
    return Fingerprint(
        values={
            "prompt_tokens_mean": float(20 * np.exp(rng.standard_normal())),
            "response_tokens_mean": float(4 * np.exp(rng.standard_normal())),
            "response_ppl": float(np.exp(1 + rng.random())),
        },
        vectors={"hidden_mid_mean": tuple((direction + 0.1 * rng.standard_normal(64)).tolist())},
        base=BASE,
    )


def rival_pipeline(matrix: TransferMatrix, target: Fingerprint) -> np.ndarray:
    """Fit, back-test over five folds, predict, with scikit-learn's boosted trees."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    table = table_for_target(matrix, target, metric=METRIC, unit="points", group="-")
    fold = table.hold_out(["-"])
    for held in group_folds(fold.table.groups, 5, seed=0):
        part = fold.table.hold_out(held)
        train = TrainingSet(part.table)
        model = HistGradientBoostingRegressor(max_iter=200, max_leaf_nodes=16)
        model.fit(train.cells.x, train.cells.y, sample_weight=train.cells.weight)
        for query in part.queries:
            described = train.describe(query)
            model.predict(np.column_stack([described[name] for name in train.cells.names]))
    train = TrainingSet(fold.table)
    model = HistGradientBoostingRegressor(max_iter=200, max_leaf_nodes=16)
    model.fit(train.cells.x, train.cells.y, sample_weight=train.cells.weight)
    described = train.describe(fold.queries[0])
    found: np.ndarray = model.predict(
        np.column_stack([described[name] for name in train.cells.names])
    )
    return found


def score_many(n: int) -> float:
    """Seconds to score n candidates, 200 of them measured on 50 tasks, once the model is fitted."""
    rng = np.random.default_rng(0)
    n_measured, n_tasks = 200, 50
    scores = np.full((n, n_tasks + 1), np.nan)
    scores[:n_measured, :n_tasks] = 0.5 + 0.1 * rng.standard_normal((n_measured, n_tasks))
    groups = tuple(f"g{t}" for t in range(n_tasks + 1))
    table = TransferTable(
        sources=tuple(str(s) for s in range(n)),
        targets=tuple(f"t{t}" for t in range(n_tasks + 1)),
        groups=groups,
        scores=scores,
        base_scores=np.full(n_tasks + 1, 0.5),
        own=np.zeros(scores.shape, dtype=bool),
        errors=np.full(scores.shape, np.nan),
        pair_features={"similarity": rng.random(scores.shape), "length": rng.random(scores.shape)},
    )
    fold = table.hold_out([groups[-1]])
    small = rows_of(fold.table, n_measured)
    fitted = make_ranker("mix").fit(TrainingSet(small))
    gains = GainModel().fit(rng.standard_normal(small.scores.shape), small.gains, small.groups)
    gains.harm_rate_ = np.resize(gains.harm_rate_, n)
    train = TrainingSet(fold.table)
    for ranker in (fitted, fitted.stack_, fitted.boost_):  # one model, all candidates
        ranker.train_ = train

    def score() -> None:
        unseen = replace(fold.queries[0])  # what is known of a target is described once
        gains.predict(standardise(fitted.predict(unseen)))

    return seconds(score, repeats=3)


def rows_of(table: TransferTable, n: int) -> TransferTable:
    """The first n sources alone."""
    return replace(
        table,
        sources=table.sources[:n],
        scores=table.scores[:n],
        own=table.own[:n],
        errors=table.errors[:n],
        pair_features={name: x[:n] for name, x in table.pair_features.items()},
    )


if __name__ == "__main__":
    main()
