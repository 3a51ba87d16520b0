"""Results: what the roads give back, to be shown or kept.

Nothing here is heavy to import: what a result holds is imported by the room that makes it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from adapt_lora.data import clipped, counted, short_repr

if TYPE_CHECKING:
    import pandas as pd

    from adapt_lora.data import Dataset, Echo
    from adapt_lora.evaluator import CellFailure, MatrixReport
    from adapt_lora.model.base import BaseIdentity
    from adapt_lora.recommender import Recommendation
    from adapt_lora.registry.records import (
        AdapterRecord,
        Fingerprint,
        MatrixRow,
        TransferMatrix,
    )
    from adapt_lora.trainer import TrainingResult, TrainRequest

RunStatus = Literal["to train", "registered", "trained", "failed"]

RankingKind = Literal["labels", "generation"]
"""What answers a ranking is about: a choice from a label set, or written text."""


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """How the top adapters were measured on the target."""

    rounds: tuple[tuple[int, int], ...]
    """(adapters, rows that each of them was measured on) per round of successive halving."""
    n_rows: int
    """Rows that the longest measured adapter was measured on."""
    estimated_s: float
    """Seconds that it was expected to take."""
    seconds: float
    """Seconds that it took."""


@dataclass(frozen=True, slots=True)
class TargetRanking:
    """The answer of `recommend`."""

    recommendation: "Recommendation"
    """The ranking, with the base model competing."""
    target: "Dataset"
    """The rows that were read."""
    fingerprint: "Fingerprint"
    """Of the target."""
    base: "BaseIdentity"
    """The base model all of it is about."""
    metric: str
    """What gains are counted in."""
    timing_s: Mapping[str, float]
    """Seconds per step."""
    warnings: tuple[str, ...] = ()
    """Sentences about the registry or the base that are not about one adapter."""
    verification: VerificationReport | None = None
    """What was measured on the target; None where nothing was."""
    figures_only: frozenset[str] = frozenset()
    """Ids of ranked adapters whose weights the registry does not have."""
    other: "TargetRanking | None" = None
    """The ranking for the other kind of answers, where the rows have none and nobody said which
    kind is meant; this one is then about labels. None everywhere else."""

    def __repr__(self) -> str:
        two = "" if self.other is None else "and a ranking for written text"
        return short_repr(self, clipped(self.target.name, 30), self.recommendation.summary, two)

    @property
    def kind(self) -> RankingKind:
        """What answers it is about."""
        from adapt_lora.evaluator import LABEL_METRICS

        return "labels" if self.metric in LABEL_METRICS else "generation"

    @property
    def rankings(self) -> "tuple[TargetRanking, ...]":
        """Each ranking as an answer of its own: two where there is another."""
        if self.other is None:
            return (self,)
        return (replace(self, other=None), self.other)

    @property
    def heading(self) -> str:
        """Which answers it is about, in words, to stand above one of two rankings."""
        answers = "labels" if self.kind == "labels" else "written text"
        unit = self.recommendation.model.unit
        return f"If the answers are {answers} ({self.metric.replace('_', ' ')}, {unit})"

    def top(self, k: int) -> "TargetRanking":
        """The same answer with the first k adapters, and those that were measured on the target."""
        ranking = self.recommendation.ranking
        shown = tuple(entry for entry in ranking if entry.rank <= k or entry.measured is not None)
        first = replace(self.recommendation, ranking=shown)
        other = None if self.other is None else self.other.top(k)
        return replace(self, recommendation=first, other=other)

    def to_pandas(self) -> "pd.DataFrame":
        """One row per adapter, best first; of two rankings one below the other, each by name."""
        if self.other is None:
            return self.recommendation.to_pandas()
        import pandas as pd

        frames = {each.kind: each.recommendation.to_pandas() for each in self.rankings}
        return pd.concat(frames, names=["answers"]).reset_index(level=0).reset_index(drop=True)

    def _repr_html_(self) -> str:
        """The ranking as a notebook shows it."""
        if self.other is None:
            return self.recommendation._repr_html_()
        return "".join(
            f"<h4>{each.heading}</h4>{each.recommendation._repr_html_()}" for each in self.rankings
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` did."""

    report: "MatrixReport"
    """Cells measured, skipped and failed."""
    matrix: "TransferMatrix"
    """The transfer matrix as it stands now."""
    warnings: tuple[str, ...] = ()
    """Sentences about the base's weights, and about what was measured otherwise than asked."""
    code_protection: str | None = None
    """What stood between this machine and the code that was run on it; None where none was."""
    names: "Mapping[MatrixRow, str]" = field(default_factory=dict)
    """What people call the rows of cells and failures."""
    read: "Mapping[str, Echo]" = field(default_factory=dict)
    """What the reader made of each task's source, by task."""

    def __repr__(self) -> str:
        failed = counted(len(self.report.failures), "failure")
        there = counted(self.report.n_skipped, "there already", "there already")
        return short_repr(self, f"{len(self.report.cells):,} measured", there, failed)


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A cell that would be measured."""

    adapter: str
    """What people call the row."""
    task: str
    """Name of the task."""
    n_tokens: int
    """Tokens that the model reads or writes for it."""
    estimated_s: float
    """Seconds it should take."""
    range_s: tuple[float, float] | None = None
    """Seconds that it takes where answers are as short as their references, and at most; None where
    nobody asked."""


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """What `evaluate` is going to do."""

    base: str
    """The base model."""
    cells: tuple[PlannedCell, ...]
    """Cells to be measured, in order."""
    n_cells: int
    """Cells asked for, those among them that are measured already included."""
    estimated_s: float
    """Seconds the model should work."""
    tokens_per_s: float | None
    """Tokens a second that the bare base reads here; None where nothing is left to measure."""
    failures: "tuple[CellFailure, ...]" = ()
    """Tasks that can't be scored as asked."""
    read: "Mapping[str, Echo]" = field(default_factory=dict)
    """What the reader made of each task's source, by task."""
    warnings: tuple[str, ...] = ()
    """Sentences about the base model's weights."""
    range_s: tuple[float, float] | None = None
    """Seconds that it works where answers are as short as their references, and where all of them
    run to their limit; None where nobody asked."""

    def describe(self) -> str:
        """The plan in one line."""
        rows = len(dict.fromkeys(cell.adapter for cell in self.cells))
        tasks = len(dict.fromkeys(cell.task for cell in self.cells))
        there = self.n_cells - len(self.cells)
        if not self.cells:
            return f"Plan: all {there:,} cells are measured already."
        if self.tokens_per_s is None:
            time = "all their rows were answered before."
        else:
            time = _time_text(self.estimated_s, self.range_s)
            time += f" at {self.tokens_per_s:,.0f} tokens/s."
        return (
            f"Plan: {len(self.cells):,} cells ({_counted(rows, 'row')}, "
            f"{_counted(tasks, 'task')}) to measure, {there:,} there already; {time}"
        )


@dataclass(frozen=True, slots=True)
class Training:
    """What `train` leaves behind."""

    folder: Path | None
    """The PEFT folder; None when an equal adapter was registered before and nothing was trained."""
    record: "AdapterRecord | None"
    """The registered adapter; None with `registry=None`."""
    result: "TrainingResult | None"
    """Loss curve and figures; None when nothing was trained."""
    dataset: "Dataset"
    """The rows that were read."""
    epochs: "tuple[AdapterRecord, ...]" = ()
    """Earlier epochs that were registered as versions of their own, where the recipe keeps them."""

    def __repr__(self) -> str:
        what = "nothing was trained" if self.result is None else "trained"
        adapter = "" if self.record is None else f"as {clipped(self.record.name, 30)}"
        return short_repr(self, f"{what} {adapter}", f"on {clipped(self.dataset.name, 30)}")


@dataclass(frozen=True, slots=True)
class Run:
    """One training of a sweep."""

    request: "TrainRequest"
    """What is to be trained; its recipe's seed is the run's."""
    status: RunStatus = "to train"
    """Where it stands."""
    n_tokens: int = 0
    """Tokens to train on over all epochs, estimated from the length of the rows."""
    estimated_s: float | None = None
    """Seconds it should take; None before anything was ever trained on this base model."""
    seconds: float | None = None
    """Seconds it took; None when nothing was trained."""
    held_out_loss: float | None = None
    """Loss on the rows kept aside, nats per token; None where there are none."""
    version: int | None = None
    """Version of the registered adapter; None without one."""
    reason: str | None = None
    """Why it failed; None when it did not."""
    read: "Echo | None" = None
    """What the reader made of its dataset; None where that can't be read."""

    @property
    def name(self) -> str:
        """Name of the adapter to be."""
        return self.request.name


@dataclass(frozen=True, slots=True)
class Sweep:
    """All runs of a manifest, planned or done."""

    runs: tuple[Run, ...]
    """In the order of the manifest: base, dataset, recipe, seed."""
    seconds: float = 0.0
    """Wall time spent on them."""

    @property
    def n_failed(self) -> int:
        """Runs that can't be, or could not be, trained."""
        return sum(run.status == "failed" for run in self.runs)

    @property
    def remaining_s(self) -> float | None:
        """Seconds that the runs to train should take; None while one of them has no estimate."""
        estimates = [run.estimated_s for run in self.runs if run.status == "to train"]
        known = [seconds for seconds in estimates if seconds is not None]
        return sum(known) if len(known) == len(estimates) else None

    def describe(self) -> str:
        """A line for people: how many runs of each kind, and the time left."""
        counts = Counter(run.status for run in self.runs)
        parts = [f"{count} {status}" for status, count in counts.items()]
        left = self.remaining_s
        if "to train" in counts:
            parts.append(
                "how long is known after the first" if left is None else f"about {_duration(left)}"
            )
        return f"{len(self.runs)} run{'' if len(self.runs) == 1 else 's'}: {', '.join(parts)}."


@dataclass(frozen=True, slots=True)
class Import:
    """What `import_results` did."""

    source: str
    """Whose results they are, e.g. "massive-sft"."""
    bases: tuple[str, ...]
    """Base models of the file."""
    n_adapters: int
    """Adapters that were new."""
    n_cells: int
    """Cells that were new."""
    n_known_adapters: int
    """Adapters that were there already."""
    warnings: tuple[str, ...]
    """What looks wrong in the file, one sentence each; nothing of it was changed."""
    seconds: float
    """Wall-clock time."""


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _time_text(seconds: float, span: tuple[float, float] | None) -> str:
    """How long it should take; between what, where that is wide enough to be seen."""
    said = f"about {_duration(seconds)}"
    if span is None or span[1] <= 1.1 * span[0]:
        return said
    return f"{said} ({_duration(span[0])} to {_duration(span[1])})"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
