"""Measuring with a backend that answers for many adapters at once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapt_lora.errors import AdapterError
from adapt_lora.evaluator import TransformersBackend, make_task
from adapt_lora.evaluator.backends import MixingBackend
from adapt_lora.registry.records import BASE_ID, MAJORITY_ID
from tests.evaluator.scripted import Shelf, measure


class Mixer(TransformersBackend):
    """Transformers that note who was announced, and who was on when a question came."""

    def __init__(self, base) -> None:
        super().__init__(base)
        self.announced: list[list[Path | None]] = []
        self.asked: list[tuple[int, Path | None]] = []
        self.broken: Path | None = None
        self._on: Path | None = None

    @contextmanager
    def adapted(self, folder: Path | None) -> Iterator[None]:
        if folder is not None and folder == self.broken:
            raise AdapterError(f"{folder}: not active")
        with super().adapted(folder):
            self._on = folder
            yield

    @contextmanager
    def together(self, folders: Sequence[Path | None]) -> Iterator[None]:
        self.announced.append(list(folders))
        yield
        self.announced.append([])

    def score_labels(self, prompts, labels, *, progress=None):
        self.asked.append((len(self.announced), self._on))
        return super().score_labels(prompts, labels, progress=progress)


@pytest.fixture
def tasks(make_dataset):
    return [
        make_task(make_dataset("reviews")),
        make_task(make_dataset("moods", labels=("yes", "no"), n=6)),
    ]


def _run(backend, adapters, tasks, cells):
    return measure(backend, adapters, tasks, Shelf(), save=lambda result: cells.append(result.cell))


def test_a_backend_that_mixes_gets_all_adapters_of_a_task_at_once(tiny_base, tiny_adapter, tasks):
    a, b = tiny_adapter("a"), tiny_adapter("b", seed=1)
    backend, cells = Mixer(tiny_base), []
    assert isinstance(backend, MixingBackend)
    report = _run(backend, [("a", a), ("b", b)], tasks, cells)
    assert report.failures == ()
    # The majority label's row has no adapter either; what is announced twice is computed once.
    assert backend.announced == [[None, None, a, b], [], [None, None, a, b], []]
    # Task by task, each question inside its own block; no extra probing of adapters by the runner.
    assert backend.asked == [(1, None), (1, a), (1, b), (3, None), (3, a), (3, b)]
    assert [(c.row.id, c.task) for c in cells] == [
        (row, task) for task in ("reviews", "moods") for row in (BASE_ID, MAJORITY_ID, "a", "b")
    ]


def test_the_cells_are_those_of_a_backend_that_does_not_mix(tiny_base, tiny_adapter, tasks):
    adapters = [("a", tiny_adapter("a")), ("b", tiny_adapter("b", seed=1))]
    mixed, plain = [], []
    _run(Mixer(tiny_base), adapters, tasks, mixed)
    _run(TransformersBackend(tiny_base), adapters, tasks, plain)

    def measured(cells):
        return {(c.row.id, c.task, c.protocol): (c.score, c.se, c.n) for c in cells}

    assert len(mixed) == len(plain) == 8
    assert measured(mixed) == measured(plain)


def test_an_adapter_that_fails_is_named_on_every_task_and_the_others_go_on(
    tiny_base, tiny_adapter, tasks
):
    a, b = tiny_adapter("a"), tiny_adapter("b", seed=1)
    backend, cells = Mixer(tiny_base), []
    backend.broken = a
    report = _run(backend, [("a", a), ("b", b)], tasks, cells)
    assert [(f.row.id, f.task) for f in report.failures] == [("a", "reviews"), ("a", "moods")]
    assert [c.task for c in cells if c.row.id == "b"] == ["reviews", "moods"]
