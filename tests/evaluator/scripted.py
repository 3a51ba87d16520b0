"""A backend that answers by a script, and a shelf that keeps cells: measuring without a model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from adapt_lora.errors import AdapterError
from adapt_lora.evaluator import Backend, CellResult, MatrixReport, Measuring, Task
from adapt_lora.model.scoring import LabelScores, Steps
from adapt_lora.registry.records import MatrixRow

A, B = Path("a"), Path("b")


class Shelf:
    """Keeps cells as a registry would."""

    def __init__(self) -> None:
        self.results: list[CellResult] = []

    @property
    def measured(self) -> set[tuple[MatrixRow, str, str]]:
        return {(r.cell.row, r.cell.task, r.cell.protocol) for r in self.results}

    def save(self, result: CellResult) -> None:
        self.results.append(result)

    def cell(self, adapter_id: str, task: str):
        return next(
            r.cell for r in self.results if (r.cell.row.id, r.cell.task) == (adapter_id, task)
        )


class ScriptedBackend:
    """Obeys the interface with scripted answers; each adapter has its own favourite label."""

    family = "scripted"
    template = "plain:0"

    def __init__(self, favourites: dict[Path | None, int], answers: list[str] | None = None):
        self.favourites = favourites
        self.answers = answers or []
        self.on: Path | None = None
        self.calls: list[tuple[Path | None, str, int]] = []

    @contextmanager
    def adapted(self, folder: Path | None) -> Iterator[None]:
        if folder is not None and folder not in self.favourites:
            raise AdapterError(f"{folder}: broken")
        self.on = folder
        yield
        self.on = None

    def count_tokens(self, texts):
        return [len(text.split()) for text in texts]

    def score_labels(self, prompts, labels, *, progress=None):
        self.calls.append((self.on, "labels", len(prompts)))
        values = np.zeros((len(prompts), len(labels)), dtype=np.float32)
        values[:, self.favourites[self.on]] = 1.0
        greedy = np.full(len(prompts), 1 - self.favourites[self.on], dtype=np.int64)
        return LabelScores(values, np.ones(len(labels), dtype=np.int64), greedy)

    def answer_nll(self, rows, *, progress=None):
        self.calls.append((self.on, "nll", len(rows)))
        return [np.full(2, 1.0 + self.favourites[self.on], dtype=np.float32) for _ in rows]

    def generate(self, prompts, *, max_new_tokens, progress=None):
        self.calls.append((self.on, "generate", max_new_tokens))
        return [self.answers[i % len(self.answers)] for i in range(len(prompts))]


class HalfGrader:
    """Grades answers by their first digit; can't grade those that have none."""

    def protocol_key(self, rows):
        return "half"

    def grade(self, rows, answers, *, progress=None):
        return [float(a[0]) if a[:1].isdigit() else None for a in answers]


def measure(
    backend: Backend,
    adapters: Sequence[tuple[str, Path]],
    tasks: Sequence[Task],
    shelf: Shelf,
    *,
    shots=None,
    save: Callable[[CellResult], None] | None = None,
    progress: Steps | None = None,
    **how,
) -> MatrixReport:
    """Measure what the shelf lacks; `how` is Measuring's."""
    measuring = Measuring(backend, **how)
    rows = [(MatrixRow(name), folder) for name, folder in adapters]
    plan = measuring.plan(rows, tasks, measured=shelf.measured, shots=shots)
    return measuring.run(plan, save or shelf.save, progress=progress)
