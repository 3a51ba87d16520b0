"""Tiny datasets to make tasks of."""

from collections.abc import Callable

import pytest

from adapt_lora.data import Dataset, Row

TEXTS = ["the film was good", "the food was bad", "I like the city", "what is the film"]


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Dataset]:
    def make(
        name: str = "reviews",
        responses: list[str | None] | None = None,
        *,
        labels: tuple[str, ...] = ("positive", "negative"),
        metric: str | None = None,
        n: int = 12,
    ) -> Dataset:
        rows = []
        for i in range(n):
            label = labels[0 if i % 3 else -1] if labels else None
            response = responses[i % len(responses)] if responses else label
            rows.append(Row(f"{TEXTS[i % 4]} {i}", response, label, i + 1))
        return Dataset(
            name=name,
            rows=tuple(rows),
            group=name,
            source=f"{name}.jsonl",
            shape="prompt/response",
            mapping={},
            n_read=n,
            skipped=(),
            labels=labels,
            metric=metric,
            family="sentiment",
        )

    return make
