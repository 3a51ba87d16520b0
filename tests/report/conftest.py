"""Hand-written records: five adapters, six tasks, gaps, an own cell, points and nats."""

from dataclasses import replace

import pytest

from adapt_lora.model.base import BaseIdentity
from adapt_lora.registry.records import (
    BASE_ID,
    MAJORITY_ID,
    AdapterRecord,
    Cell,
    DatasetRecord,
    Fingerprint,
    Histogram,
    MatrixRow,
    TaskRecord,
    TransferMatrix,
)

BASE = BaseIdentity("org/tiny-135M", "arch", "weights")
HOSTILE = "<script>alert('x')</script>|$\\frac{$`*_[a](b)\n# end"


@pytest.fixture
def fingerprint() -> Fingerprint:
    return Fingerprint(
        values={
            "n_rows": 200.0,
            "response_ppl": 12.4,
            "response_ppl_se": 0.6,
            "response_tokens_mean": 3.2,
            "label_entropy": 0.58,
            "base_score": 0.512,
        },
        histograms={
            "prompt_tokens": Histogram((0, 10, 20, 30, 40, 80), (4, 60, 90, 40, 6)),
            "response_tokens": Histogram((1, 2, 3, 4, 5), (20, 120, 40, 20)),
            "response_nll": Histogram((0, 1, 2, 4, 8), (300, 200, 90, 10)),
        },
        label_shares={"positive": 0.81, "neutral": 0.05, "negative": 0.14},
        base_label_shares={"positive": 0.97, "negative": 0.03},
        base=BASE,
    )


@pytest.fixture
def record(fingerprint) -> AdapterRecord:
    return AdapterRecord(
        adapter_id="a" * 64,
        name="sentiment-lora",
        base=BASE,
        version=2,
        run_id="run",
        created_ms=1_760_000_000_000,
        dataset=DatasetRecord("sst2", "d" * 64, "sst2", 1200, "train.jsonl"),
        group="sst2",
        fingerprint=fingerprint,
        weights={"norm_relative": 0.0131, "norm_share_middle": 0.41},
        behaviour={"shift_norm": 2.25},
        traits={"PC1": 1.2, "PC2": -0.4},
        params={"lora/r": "8", "recipe/name": "quick"},
        warnings=("Trained on 1,200 rows only.",),
    )


@pytest.fixture
def matrix(record) -> TransferMatrix:
    adapters = (
        record,
        replace(record, adapter_id="b" * 64, name="nli-lora", group="snli"),
        replace(record, adapter_id="c" * 64, name="arithmetic-lora", group="goat"),
        replace(record, adapter_id="d" * 64, name="unknown-data", group=None, dataset=None),
        replace(record, adapter_id="e" * 64, name=HOSTILE, group="x"),
    )
    tasks = (
        _task("sst2-test", "sst2", "balanced_accuracy"),
        _task("snli", "snli", "balanced_accuracy"),
        _task("trec-coarse", "trec", "balanced_accuracy"),
        _task("goat", "goat", "numeric_match"),
        _task("stories", "stories", "answer_log_likelihood"),
        _task("legal-abstracts", "legal", "answer_log_likelihood"),
    )
    # Scores by adapter in the order of `tasks`; None is a gap.
    scores: dict[str, list[float | None]] = {
        BASE_ID: [0.512, 0.334, 0.21, 0.05, -3.1, -2.6],
        MAJORITY_ID: [0.5, 0.333, 0.167, None, None, None],
        "a" * 64: [0.883, 0.341, 0.25, 0.04, -3.05, -2.7],
        "b" * 64: [0.604, 0.702, 0.2, 0.05, -3.3, None],
        "c" * 64: [0.495, None, 0.19, 0.41, -3.2, -2.61],
        "d" * 64: [0.55, 0.36, 0.384, None, -2.81, -2.3],
        "e" * 64: [0.4, 0.3, 0.1, 0.0, -3.9, -3.0],
    }
    cells = tuple(
        Cell(MatrixRow(adapter_id), task.name, task.metric, score, 0.03, 100, "protocol")
        for adapter_id, row in scores.items()
        for task, score in zip(tasks, row, strict=True)
        if score is not None
    )
    return TransferMatrix(BASE, adapters, tasks, cells)


@pytest.fixture
def recommendation() -> dict:
    """The JSON form of a recommendation, with a name that tries to break pages."""
    return {
        "schema_version": 1,
        "target": {
            "name": "mydata",
            "metric": "balanced_accuracy",
            "fingerprint": {"n_rows": 180, "response_ppl": 14.2, "label_entropy": 1.08},
        },
        "base_model": "org/tiny-135M",
        "base": {"score": 0.43, "se": 0.04, "p_best": 0.07, "recommended": False},
        "model": {
            "name": "stack",
            "regime": "zeroshot",
            "backtest": {"spearman": 0.41, "regret_at_1": 0.12, "coverage_80": 0.79},
        },
        "ranking": [
            {
                "rank": 1,
                "adapter": "sentiment-lora",
                "adapter_id": "a" * 64,
                "predicted_gain": 0.082,
                "interval": [0.01, 0.16],
                "interval_level": 0.8,
                "p_harm": 0.07,
                "p_best": 0.55,
                "measured": {"gain": 0.07, "se": 0.03, "n": 50},
                "reasons": [
                    {"feature": "popularity", "contribution": 0.6, "text": "helps most tasks"}
                ],
                "evidence": [{"task": "sst2-test", "gain": 0.37, "similarity": 0.8}],
                "warnings": [],
            },
            {
                "rank": 2,
                "adapter": HOSTILE,
                "adapter_id": "e" * 64,
                "predicted_gain": -0.031,
                "interval": [-0.12, 0.05],
                "interval_level": 0.8,
                "p_harm": 0.71,
                "p_best": 0.02,
                "reasons": [
                    {"feature": "x", "contribution": -0.2, "text": "<img src=x onerror=alert(1)>"}
                ],
                "evidence": [],
                "warnings": ["Shares 12 rows with the target."],
            },
        ],
        "timing_s": {"base_pass": 6.1, "ranking": 1.2},
    }


def _task(name: str, group: str, metric: str) -> TaskRecord:
    return TaskRecord(name, group, metric, DatasetRecord(name, "0" * 64, group, 100))
