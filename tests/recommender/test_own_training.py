"""What training on the target's own rows might give."""

from dataclasses import replace

import numpy as np
import pytest

from adapt_lora.recommender.own_training import estimate_own_training
from adapt_lora.registry.records import (
    BASE_ROW,
    AdapterRecord,
    Cell,
    DatasetRecord,
    Fingerprint,
    TaskRecord,
    TransferMatrix,
)
from tests.recommender.conftest import BASE

METRIC = "balanced_accuracy"


def shelf(n: int = 12, *, seed: int = 0) -> TransferMatrix:
    """Adapters that gain on their own task what a probe reads there, and a little noise."""
    rng = np.random.default_rng(seed)
    adapters, tasks, cells = [], [], []
    for i in range(n):
        margin = float(rng.uniform(0, 0.5))
        print_ = Fingerprint(values={"probe_score": 0.4 + margin, "base_score": 0.4})
        data = DatasetRecord(f"t{i}", f"train-{i}", f"g{i}", 400)
        tasks.append(
            TaskRecord(f"t{i}", f"g{i}", METRIC, replace(data, digest=f"test-{i}"), (), print_)
        )
        metrics = {"train/n_tokens": 10_000.0, "train/seconds": 100.0, "train/n_rows": 300.0}
        adapters.append(
            AdapterRecord(f"id-{i}", f"a{i}", BASE, dataset=data, group=f"g{i}", metrics=metrics)
        )
        cells.append(Cell(BASE_ROW, f"t{i}", METRIC, 0.4, 0.03, 100, "p"))
        score = 0.4 + margin + 0.02 * float(rng.standard_normal())
        cells.append(Cell(adapters[-1].row, f"t{i}", METRIC, score, 0.03, 100, "p"))
    return TransferMatrix(BASE, tuple(adapters), tuple(tasks), tuple(cells))


def asked(probe: float) -> Fingerprint:
    return Fingerprint(
        values={
            "probe_score": probe,
            "base_score": 0.4,
            "prompt_tokens_mean": 40.0,
            "response_tokens_mean": 10.0,
        }
    )


def test_what_a_probe_reads_is_what_a_training_may_reach() -> None:
    low, high = (
        estimate_own_training(shelf(), asked(probe), metric=METRIC, base_score=0.4)
        for probe in (0.42, 0.88)
    )
    assert low is not None
    assert high is not None
    assert high.gain - low.gain > 0.25
    for found in (low, high):
        assert found.interval[0] <= found.gain <= found.interval[1]
        assert found.n_trainings == 12
        assert found.n_rows == 300
        assert found.seconds == pytest.approx(300 * 50 / 100)


def test_a_gain_stays_within_what_the_score_has_left() -> None:
    found = estimate_own_training(shelf(), asked(0.9), metric=METRIC, base_score=0.9)
    assert found is not None
    assert found.interval[1] <= 0.1 + 1e-12


def test_altered_copies_foreign_cells_and_few_trainings_do_not_count() -> None:
    assert estimate_own_training(shelf(4), asked(0.5), metric=METRIC, base_score=0.4) is None
    assert estimate_own_training(shelf(), asked(0.5), metric="accuracy", base_score=0.4) is None
    whole = shelf()
    altered = tuple(
        replace(a, dataset=replace(a.dataset, parent="x: balanced"))  # type: ignore[type-var]
        for a in whole.adapters[:8]
    )
    fewer = replace(whole, adapters=(*altered, *whole.adapters[8:]))
    assert estimate_own_training(fewer, asked(0.5), metric=METRIC, base_score=0.4) is None
