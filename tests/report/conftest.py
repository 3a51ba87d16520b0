"""A matrix written by hand (five adapters, six tasks, gaps, an own cell), and what is made of one.

Recommendations and traits are made by the code that makes the real ones.
"""

from dataclasses import replace

import numpy as np
import pytest

from adapt_lora.data import read_dataset
from adapt_lora.model.base import BaseIdentity
from adapt_lora.recommender import Recommendation, rank_adapters
from adapt_lora.recommender.traits import Traits, fit_traits
from adapt_lora.registry.records import (
    BASE_ID,
    MAJORITY_ID,
    AdapterRecord,
    Cell,
    DatasetRecord,
    Fingerprint,
    Histogram,
    MatrixRow,
    Measurement,
    TaskRecord,
    TransferMatrix,
)
from adapt_lora.results import TargetRanking, VerificationReport
from tests.recommender.conftest import make_matrix, target

__all__ = ["make_matrix", "target"]  # fixtures of the recommender's

BASE = BaseIdentity("org/tiny-135M", "arch", "weights")
HOSTILE = "<script>alert('x')</script>|$\\frac{$`*_[a](b)\n# end"
TAG = "<img src=x onerror=alert(1)>"
BRACKETS = "[/red] [bold]x[/bold]"


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


@pytest.fixture(scope="session")
def ranked(make_matrix, target) -> Recommendation:
    """A real ranking: three adapters, one measured, one whose name tries to break pages."""
    matrix = make_matrix(3, 8)
    names = ("sentiment-lora", HOSTILE, "arithmetic-lora")
    adapters = tuple(
        replace(adapter, name=name) for adapter, name in zip(matrix.adapters, names, strict=True)
    )
    # Tasks stand in reasons and evidence.
    tasks = (replace(matrix.tasks[0], name=TAG), *matrix.tasks[1:])
    cells = tuple(replace(c, task=TAG) if c.task == "t0" else c for c in matrix.cells)
    return rank_adapters(
        replace(matrix, adapters=adapters, tasks=tasks, cells=cells),
        target,
        metric="balanced_accuracy",
        group="g1",
        base_score=(0.43, 0.04),
        measured={adapters[0].adapter_id: Measurement(0.37, 0.03, 50)},
    )


@pytest.fixture(scope="session")
def answer(ranked, target, tmp_path_factory) -> TargetRanking:
    """The ranking with the dataset that was asked about."""
    path = tmp_path_factory.mktemp("asked") / "mydata.jsonl"
    path.write_text('{"prompt": "was it good", "label": "yes"}\n' * 4)
    return TargetRanking(
        recommendation=ranked,
        target=read_dataset(path),
        fingerprint=target,
        base=BASE,
        metric="balanced_accuracy",
        timing_s={"fingerprint": 6.1, "rank": 1.2345},
        warnings=("The base's weights are others.",),
        verification=VerificationReport(((1, 50),), n_rows=50, estimated_s=2.0, seconds=1.5),
        figures_only=frozenset({ranked.ranking[1].adapter_id}),
    )


@pytest.fixture(scope="session")
def bare_answer(answer, make_matrix, target) -> TargetRanking:
    """A ranking where nothing is measured, so that no gain can be predicted."""
    matrix = make_matrix(3, 0)
    ranking = rank_adapters(matrix, target, metric="balanced_accuracy")
    return replace(answer, recommendation=ranking, figures_only=frozenset(), verification=None)


@pytest.fixture(scope="session")
def traits() -> Traits:
    """A real fit of two traits, with names that need care."""
    rng = np.random.default_rng(3)
    scores = rng.standard_normal((7, 2)) @ rng.standard_normal((2, 5))
    scores += 0.2 * rng.standard_normal(scores.shape)
    return fit_traits(
        scores,
        n_components=2,
        adapters=("base", "a/b", "a b", "one", "two", "three", BRACKETS),
        tasks=("snli", "a$b$", "x\ny|z <img>", "GSM8K", "IMDB"),
        names={"T1": "rea$on"},
    )


def _task(name: str, group: str, metric: str) -> TaskRecord:
    return TaskRecord(name, group, metric, DatasetRecord(name, "0" * 64, group, 100))
