"""Synthetic shelves of adapters, whose truth is known."""

from collections.abc import Callable

import numpy as np
import pytest

from adapt_lora.model.base import BaseIdentity
from adapt_lora.recommender import Recommendation, rank_adapters
from adapt_lora.recommender.table import TransferTable
from adapt_lora.registry.records import (
    BASE_ROW,
    AdapterRecord,
    Cell,
    DatasetRecord,
    Fingerprint,
    MatrixRow,
    TaskRecord,
    TransferMatrix,
)

BASE = BaseIdentity("tiny/base", "arch", "weights")

MakeMatrix = Callable[..., TransferMatrix]


def fingerprint(rng: np.random.Generator, direction: np.ndarray, *, length: float) -> Fingerprint:
    vector = direction + 0.1 * rng.standard_normal(len(direction))
    return Fingerprint(
        values={
            "prompt_tokens_mean": float(20 * length),
            "response_tokens_mean": float(4 * length),
            "response_ppl": float(np.exp(1 + rng.random())),
            "is_classification": 1.0,
            "n_labels": 2.0,
        },
        vectors={"hidden_mid_mean": tuple(float(v) for v in vector)},
        label_shares={"yes": 0.5, "no": 0.5},
        base=BASE,
    )


def adapter(name: str, group: str | None, print_: Fingerprint) -> AdapterRecord:
    data = DatasetRecord(name, f"digest-{name}", group, 200) if group else None
    return AdapterRecord(f"id-{name}", name, BASE, dataset=data, group=group, fingerprint=print_)


def task(name: str, group: str, print_: Fingerprint, metric: str) -> TaskRecord:
    data = DatasetRecord(name, f"digest-{name}", group, 100)
    return TaskRecord(name, group, metric, data, ("yes", "no"), print_)


@pytest.fixture(scope="session")
def make_matrix() -> MakeMatrix:
    """Adapters × tasks whose gain = 0.1 × quality + 0.1 × likeness of data + noise."""

    def make(
        n_adapters: int = 8,
        n_tasks: int = 8,
        *,
        seed: int = 0,
        noise: float = 0.02,
        metric: str = "balanced_accuracy",
        gap_share: float = 0.0,
    ) -> TransferMatrix:
        rng = np.random.default_rng(seed)
        quality = rng.standard_normal(n_adapters)
        a, b = rng.standard_normal((n_adapters, 12)), rng.standard_normal((n_tasks, 12))
        adapters = tuple(
            adapter(f"a{i}", f"g{i}" if i < 2 else f"s{i}", fingerprint(rng, a[i], length=1 + i))
            for i in range(n_adapters)
        )
        tasks = tuple(
            task(f"t{j}", f"g{j}", fingerprint(rng, b[j], length=1 + j), metric)
            for j in range(n_tasks)
        )
        likeness = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
        gain = 0.05 * quality[:, None] + 0.1 * likeness
        gain += noise * rng.standard_normal(gain.shape)
        cells = []
        for j in range(n_tasks):
            start = 0.4 + 0.2 * rng.random()
            cells.append(Cell(BASE_ROW, f"t{j}", metric, start, 0.03, 100, "p"))
            for i in range(n_adapters):
                if rng.random() >= gap_share:
                    score = start + gain[i, j]
                    cells.append(
                        Cell(MatrixRow(f"id-a{i}"), f"t{j}", metric, score, 0.03, 100, "p")
                    )
        return TransferMatrix(BASE, adapters, tasks, tuple(cells))

    return make


@pytest.fixture(scope="session")
def target() -> Fingerprint:
    rng = np.random.default_rng(99)
    return fingerprint(rng, rng.standard_normal(12), length=3)


def rank(matrix: TransferMatrix, target: Fingerprint, **more: object) -> Recommendation:
    settings: dict[str, object] = {"metric": "balanced_accuracy", "base_score": (0.5, 0.03)}
    return rank_adapters(matrix, target, **{**settings, **more})  # type: ignore[arg-type]


MakeTable = Callable[..., TransferTable]


@pytest.fixture(scope="session")
def make_table() -> MakeTable:
    """A table of numbers alone: given scores, one group per column unless said."""

    def make(
        scores: np.ndarray,
        *,
        groups: tuple[str, ...] | None = None,
        base: float = 0.0,
        **more: object,
    ) -> TransferTable:
        n_sources, n_targets = scores.shape
        return TransferTable(
            sources=tuple(f"s{i}" for i in range(n_sources)),
            targets=tuple(f"t{j}" for j in range(n_targets)),
            groups=groups or tuple(f"g{j}" for j in range(n_targets)),
            scores=scores,
            base_scores=np.full(n_targets, base),
            own=np.zeros(scores.shape, dtype=bool),
            errors=np.full(scores.shape, np.nan),
            **more,
        )

    return make
