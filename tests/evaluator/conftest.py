"""Tiny datasets and tasks made of them."""

from collections.abc import Callable

import pytest

from adapt_lora.data import Dataset, Row
from adapt_lora.evaluator import Task, make_task
from tests.evaluator.scripted import Shelf

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


@pytest.fixture
def shelf() -> Shelf:
    """An empty one."""
    return Shelf()


@pytest.fixture
def reviews(make_dataset) -> Task:
    """A label task of twelve rows, every third "negative"."""
    return make_task(make_dataset())


@pytest.fixture
def sums(make_dataset) -> Task:
    """A task whose answers are numbers."""
    return make_task(make_dataset("sums", ["12", "7"], labels=()))


@pytest.fixture
def model_tasks(make_dataset) -> list[Task]:
    """A label task, one of matched answers and one of free ones."""
    return [
        make_task(make_dataset()),
        make_task(make_dataset("capitals", ["city", "a city"], labels=(), n=4)),
        make_task(make_dataset("essays", ["the film was good and the food was bad"], labels=())),
    ]
