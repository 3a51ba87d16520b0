"""A matrix written by hand, in which lower perplexity and nearer lengths do help."""

import pytest

from adapt_lora.model.base import BaseIdentity
from adapt_lora.registry.records import (
    BASE_ROW,
    AdapterRecord,
    Cell,
    DatasetRecord,
    Fingerprint,
    TaskRecord,
    TransferMatrix,
)

BASE = BaseIdentity("org/tiny", "arch", "weights")

# name, group, perplexity, response tokens, label shares
ADAPTERS = (
    ("sentiment", "sst2", 4.0, 2.0, {"positive": 0.5, "negative": 0.5}),
    ("imbalanced", "flipkart", 6.0, 2.0, {"positive": 0.8, "negative": 0.2}),
    ("nli", "snli", 8.0, 3.0, {"yes": 0.4, "maybe": 0.3, "no": 0.3}),
    ("code", "magicoder", 11.0, 120.0, {}),
    ("math", "goat", 16.0, 40.0, {}),
    ("stories", "stories", 23.0, 300.0, {}),
)

# name, group, family, metric, response tokens, label shares
TASKS = (
    (
        "sst2-test",
        "sst2",
        "sentiment",
        "balanced_accuracy",
        2.0,
        {"Positive": 0.5, "negative": 0.5},
    ),
    ("rotten", "rotten", "sentiment", "balanced_accuracy", 2.0, {"positive": 0.5, "negative": 0.5}),
    ("rte", "rte", "nli", "balanced_accuracy", 3.0, {"yes": 0.5, "no": 0.5}),
    ("snli-test", "snli", "nli", "balanced_accuracy", 3.0, {"yes": 0.4, "maybe": 0.3, "no": 0.3}),
    ("gsm8k", "gsm8k", "math", "numeric_match", 100.0, {}),
)

# Gains of ADAPTERS on TASKS, points as shares; None is a gap. The diagonal of own cells is large.
GAINS = (
    (0.40, 0.30, 0.10, 0.09, 0.05),
    (0.25, 0.22, 0.06, 0.06, 0.04),
    (0.10, 0.05, 0.09, 0.35, 0.02),
    (0.01, -0.01, 0.00, -0.01, 0.09),
    (-0.12, -0.17, -0.05, None, 0.03),
    (-0.20, -0.22, -0.10, -0.12, -0.03),
)


@pytest.fixture
def matrix() -> TransferMatrix:
    adapters = tuple(
        AdapterRecord(
            adapter_id=name,
            name=name,
            base=BASE,
            group=group,
            dataset=DatasetRecord(name, name, group, 500),
            fingerprint=_fingerprint(tokens, shares, perplexity),
            weights={"delta_norm_relative_at_06": 1 / perplexity, "rank_used_share": 0.5},
        )
        for name, group, perplexity, tokens, shares in ADAPTERS
    )
    tasks = tuple(
        TaskRecord(
            name,
            group,
            metric,
            DatasetRecord(name, name, group, 100),
            fingerprint=_fingerprint(tokens, shares, 9.0),
            family=family,
        )
        for name, group, family, metric, tokens, shares in TASKS
    )
    cells = [Cell(BASE_ROW, task.name, task.metric, 0.4, 0.02, 100, "p") for task in tasks]
    cells += [
        Cell(adapter.row, task.name, task.metric, 0.4 + gain, 0.02, 100, "p")
        for adapter, row in zip(adapters, GAINS, strict=True)
        for task, gain in zip(tasks, row, strict=True)
        if gain is not None
    ]
    return TransferMatrix(BASE, adapters, tasks, tuple(cells))


def _fingerprint(tokens: float, shares: dict[str, float], perplexity: float) -> Fingerprint:
    values = {"response_tokens_mean": tokens, "response_ppl": perplexity}
    return Fingerprint(values=values, label_shares=shares, base=BASE)
