"""What the registry holds, as plain frozen records: the nouns that every room above speaks."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import hypot
from typing import TYPE_CHECKING, Any, Literal

from adapt_lora.data import Echo, SkipReason, clipped, counted, short_repr
from adapt_lora.model.base import BaseIdentity

if TYPE_CHECKING:
    import pandas as pd

BASE_ID = "base"
"""Id of the bare base model in cells and matrices."""

MAJORITY_ID = "majority label"
"""Id of the constant guess of the commonest gold label."""

NOT_DONE, FAILED = "not done: ", "failed: "
"""How the tag "effect_check" begins, before the reason, where it is not "passed"."""

_SHOTS = re.compile(r"(?P<model>.+)\+(?P<shots>\d+)shot(?:-seed(?P<seed>\d+))?")

Unit = Literal["points", "nats"]
Regime = Literal["zeroshot", "intermediate"]

PUBLISHED_METRIC = "published_score"
"""A benchmark's own measure as others published it, as a share of its scale; not measured here."""

METRIC_UNITS: Mapping[str, Unit] = {
    "balanced_accuracy": "points",
    "accuracy": "points",
    "macro_f1": "points",
    "exact_match": "points",
    "numeric_match": "points",
    "token_f1": "points",
    "rouge_l": "points",
    "pass_at_1": "points",
    "judge_accuracy": "points",
    "answer_log_likelihood": "nats",
    PUBLISHED_METRIC: "points",
}
"""Metrics that rule a cell, and what a gain in them is counted in; the two are never pooled."""


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """What stands in a row of the transfer matrix: a model, as it is or shown examples.

    Two rows are the same when model, shots and seed are; the name is for people.
    """

    model: str
    """Id of the adapter that is on; BASE_ID for the bare base; MAJORITY_ID for the constant guess,
    which is no model."""
    shots: int = 0
    """Examples in each prompt."""
    seed: int = 0
    """Decided which examples; 0 without any."""
    name: str = field(default="", compare=False)
    """What people call the model; "" where only its id is known."""

    @classmethod
    def parse(cls, row_id: str) -> "MatrixRow":
        """The row that an id stands for; the inverse of `id`, names aside."""
        found = _SHOTS.fullmatch(row_id)
        if found is None:
            return cls(row_id)
        return cls(found["model"], int(found["shots"]), int(found["seed"] or 0))

    @property
    def id(self) -> str:
        """What names it in stored cells, e.g. "base", "base+3shot" or "base+3shot-seed1"."""
        if not self.shots:
            return self.model
        drawn = f"-seed{self.seed}" if self.seed else ""
        return f"{self.model}+{self.shots}shot{drawn}"

    @property
    def label(self) -> str:
        """What people call it: "sst2", "base", "sst2, 3 shots, seed 1"."""
        model = self.name or self.model
        return f"{model}, {self.words}" if self.shots else model

    @property
    def words(self) -> str:
        """What follows the model's name: "3 shots, seed 1"; "" for a model as it is."""
        if not self.shots:
            return ""
        drawn = f", seed {self.seed}" if self.seed else ""
        return f"{self.shots} shot{'' if self.shots == 1 else 's'}{drawn}"

    @property
    def is_candidate(self) -> bool:
        """Whether it is an adapter as it is: what a recommendation may name."""
        return not self.is_reference and not self.shots

    @property
    def is_reference(self) -> bool:
        """Whether it is the bare base or the majority label: what adapters are compared with."""
        return not self.shots and self.model in (BASE_ID, MAJORITY_ID)

    def of(self, name: str) -> "MatrixRow":
        """The same row with its model's name."""
        return replace(self, name=name)

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> Any:
        """Stored records hold a row by its id."""
        from pydantic_core import core_schema as schema

        return schema.no_info_after_validator_function(
            cls.parse,
            schema.str_schema(),
            serialization=schema.plain_serializer_function_ser_schema(lambda row: row.id),
        )


def row_labels(adapters: Sequence["AdapterRecord"]) -> dict[str, str]:
    """What people call these adapters, by id: name/version where several share a name."""
    uses = Counter([BASE_ID, *(record.name for record in adapters)])
    return {
        record.adapter_id: f"{record.name}/{record.version}"
        if uses[record.name] > 1
        else record.name
        for record in adapters
    }


BASE_ROW = MatrixRow(BASE_ID)
"""The bare base model."""

MAJORITY_ROW = MatrixRow(MAJORITY_ID)
"""The constant guess of the commonest gold label."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Statistics of one dataset, some of them relative to a base model."""

    values: Mapping[str, float] = field(default_factory=dict)
    """Flat statistics by key (docs/science.md lists them); what was not computed is absent."""
    vectors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Embeddings by name: "hidden_mid_mean", "hidden_last_mean", "minilm_mean", …"""
    histograms: Mapping[str, "Histogram"] = field(default_factory=dict)
    """Distributions to draw: "prompt_tokens", "response_tokens", "response_nll"."""
    label_shares: Mapping[str, float] = field(default_factory=dict)
    """Share of each gold label, in [0, 1]; empty where rows are unlabelled."""
    base_label_shares: Mapping[str, float] = field(default_factory=dict)
    """Share of rows for which the base picks each label; empty without a base or a label set."""
    base_label_offsets: Mapping[str, float] = field(default_factory=dict)
    """The base's label bias: mean log-likelihood of each label over the rows, less that of all
    labels, nats; empty without a base or a label set."""
    row_sketches: tuple[int, ...] = ()
    """64-bit hashes of normalised prompts (at most 4,096 smallest), for leak checks."""
    base: BaseIdentity | None = None
    """The base model of the relative statistics; None when none was used."""
    notes: tuple[str, ...] = ()
    """What could not be computed and why, one sentence each."""

    def __repr__(self) -> str:
        shown = ("n_rows", "n_labels", "response_ppl", "base_score")
        return short_repr(
            self,
            *(f"{key}={self.values[key]:.4g}" for key in shown if key in self.values),
            counted(len(self.values), "value"),
            counted(len(self.vectors), "vector"),
            f"base {self.base.name}" if self.base else "",
        )


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts over bins, ready to be drawn."""

    edges: tuple[float, ...]
    """Bin edges, ascending, one more than counts."""
    counts: tuple[int, ...]
    """Rows (or tokens) in each bin."""


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """Which data something was trained or scored on; never the rows themselves."""

    name: str
    """The name people use, e.g. "sst2"."""
    digest: str
    """sha256 (hex) of the normalised rows."""
    group: str
    """What twins share: train and test of one benchmark, a balanced copy and its parent."""
    n_rows: int | None
    """Rows used; None where nobody says."""
    source: str = ""
    """Where it came from: a file name or Hub id; never an absolute path."""
    parent: str = ""
    """What it was made from and how, names and digests, where it is a changed copy; else ""."""
    parts: tuple[str, ...] = ()
    """Groups of the datasets that a mixture was made of; empty for all others."""
    read: "ReadingRecord | None" = None
    """How its source was read; None where nobody knows, as in older entries."""


@dataclass(frozen=True, slots=True)
class ReadingRecord:
    """How many rows of a source were used when it was read, and why others were not."""

    n_rows: int
    """Rows that can be used, those that were not drawn included."""
    n_skipped: int
    """Rows that can't."""
    encoding: str
    """What its text was read as."""
    reasons: tuple[SkipReason, ...] = ()
    """Why rows were skipped, the most frequent reason first."""

    @classmethod
    def of(cls, echo: Echo) -> "ReadingRecord":
        """What is kept of a reader's echo."""
        return cls(echo.n_rows, echo.n_skipped, echo.encoding, echo.reasons)


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """One registered adapter and all that is known about it."""

    adapter_id: str
    """sha256 (hex) of the weights and of the config fields that change what they do."""
    name: str
    """Name of the registered model."""
    base: BaseIdentity
    """The base model it sits on."""
    version: int = 0
    """Version of the registered model; 0 before registration."""
    run_id: str = ""
    """MLflow run that holds the record; "" before registration."""
    model_id: str = ""
    """MLflow logged model with the files; "" before registration or for figures only."""
    created_ms: int = 0
    """Registration time, milliseconds since 1970 (UTC)."""
    dataset: DatasetRecord | None = None
    """Training data; None when nobody knows it."""
    group: str | None = None
    """Group of the training data; an adapter and a task of one group make an own cell."""
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    """Of the training data; empty when unknown, never invented."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Fingerprint of the weights (flat keys)."""
    behaviour: Mapping[str, float] = field(default_factory=dict)
    """Fingerprint of the behaviour on the probe prompts (flat keys)."""
    behaviour_vector: tuple[float, ...] = ()
    """Mean shift of the last hidden state on the probe prompts ("delta activations")."""
    behaviour_vector_mid: tuple[float, ...] = ()
    """The same at relative depth 0.6."""
    traits: Mapping[str, float] = field(default_factory=dict)
    """Trait scores of the last fit, by trait name."""
    params: Mapping[str, str] = field(default_factory=dict)
    """Recipe and LoRA settings, as people search them: "lora/r", "recipe/name", …"""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Other figures: "train/loss", "train/held_out_loss", "train/tokens_per_s", …"""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Findings of the checks, e.g. "vllm": "unsupported: use_dora"."""
    warnings: tuple[str, ...] = ()
    """Sentences to show beside the adapter."""
    has_weights: bool = True
    """Whether the files can be pulled; False for records of figures only."""

    def __repr__(self) -> str:
        version = f" version {self.version}" if self.version else ""
        data = "" if self.dataset is None else f"trained on {clipped(self.dataset.name, 24)}"
        return short_repr(
            self,
            f"{clipped(self.name, 30)}{version}",
            f"id {self.adapter_id[:8]}",
            f"base {self.base.name}",
            data,
        )

    @property
    def row(self) -> MatrixRow:
        """Its row of the transfer matrix."""
        return MatrixRow(self.adapter_id, name=self.name)

    def has_seen(self, group: str) -> bool:
        """Whether it learned from rows of that group; False where nobody knows."""
        parts = () if self.dataset is None else self.dataset.parts
        return group == self.group or group in parts

    @property
    def unchecked(self) -> str | None:
        """Why its effect on the base model was never seen, or does not fit; None where it was."""
        found = self.tags.get("effect_check", "")
        return found if found.startswith((NOT_DONE, FAILED)) else None

    @property
    def kind(self) -> str:
        """What it is, in words: published results hold full fine-tunes too."""
        return "Full fine-tune" if self.params.get("method") == "full" else "LoRA adapter"


@dataclass(frozen=True, slots=True)
class DamagedEntry:
    """An entry that can't be read, and what its tags still say of it."""

    kind: Literal["adapter", "task", "cells", "recommendation"]
    """What it is an entry of."""
    name: str
    """Name of the adapter, the task, or the row of cells."""
    base: BaseIdentity
    """The base model it is filed under."""
    run_id: str
    """MLflow run that holds it."""
    reason: str
    """Why it can't be read, without a full stop."""
    adapter_id: str = ""
    """Of an adapter: its content id."""
    version: int = 0
    """Of an adapter: version of the registered model; 0 where even that is gone."""
    model_id: str = ""
    """Of an adapter: MLflow logged model with the files."""
    tags: tuple[str, ...] = ()
    """Of cells: the tags that can't be read; the run's other cells are fine."""
    remains: AdapterRecord | None = None
    """Of an adapter: what its run still says; None where it lacks name, version or identity."""
    is_lost: bool = True
    """Whether it is lost for good; False where its files are there but can't be read now."""

    @property
    def label(self) -> str:
        """What people call it: "sst2 version 1", "task boolq"."""
        if self.kind == "adapter":
            return f"{self.name} version {self.version}" if self.version else self.name
        return f"{self.kind} {'of ' if self.kind == 'cells' else ''}{self.name}"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """Figures of one training step, for the curves."""

    step: int
    """Optimiser step, from 1."""
    metrics: Mapping[str, float]
    """By metric name, e.g. "train/loss", "train/learning_rate"."""


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A dataset to score on, plus a metric."""

    name: str
    """Unique per registry and base, e.g. "boolq"."""
    group: str
    """Twins share it; see `DatasetRecord.group`."""
    metric: str
    """The metric that rules its cells; one of METRIC_UNITS."""
    dataset: DatasetRecord
    """The rows that are scored."""
    labels: tuple[str, ...] = ()
    """The label set, in its given order; empty for generation tasks."""
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    """Of the scored rows."""
    family: str = ""
    """Coarser than group: "nli", "sentiment"; "" when unknown."""
    is_target: bool = False
    """Whether somebody asked which adapter suits these rows, and nothing more: its cells answer
    that question again, but are no part of the transfer matrix."""

    def __repr__(self) -> str:
        rows, labels = counted(self.dataset.n_rows or 0, "row"), counted(len(self.labels), "label")
        return short_repr(self, clipped(self.name), self.metric, rows, labels)

    @property
    def unit(self) -> Unit:
        """What gains on this task are counted in."""
        return METRIC_UNITS[self.metric]


@dataclass(frozen=True, slots=True)
class Cell:
    """How one adapter (or the base, or the majority label) did on one task."""

    row: MatrixRow = field(metadata={"alias": "adapter_id"})
    """What was scored; stored under the key that registries have always had."""
    task: str
    """Name of the task."""
    metric: str
    """The metric that `score` is in."""
    score: float
    """The metric; higher is better. In [0, 1] for points, nats per token for log-likelihood."""
    se: float | None
    """Standard error of `score`, same unit; None for published scores, which come without."""
    n: int | None
    """Rows scored; None where nobody says."""
    protocol: str
    """Digest of all else that decides the score."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Every metric computed beside the ruling one, e.g. accuracy, macro_f1, label_cross_entropy."""
    predicted_shares: Mapping[str, float] = field(default_factory=dict)
    """Share of rows per predicted label; empty for generation tasks."""
    selected: bool = False
    """True when the cell was measured because a ranking had chosen it (verification)."""
    zero_shot: str | None = None
    """Digest of the same protocol without the examples that the prompts showed; None where they
    showed none."""

    def __repr__(self) -> str:
        error = "" if self.se is None else f" ± {self.se:.4f}"
        row = self.row.label if self.row.name else self.row.id[:24]
        where = f"{row} on {self.task}"
        return short_repr(
            self, where, f"{self.metric} {self.score:.4f}{error}", counted(self.n or 0, "row")
        )

    @property
    def column(self) -> str:
        """Protocol digest that all cells of one column share, few-shot rows among them."""
        return self.zero_shot or self.protocol

    def gain_se(self, base: "Cell") -> float | None:
        """Standard error of the gain over the base's cell.

        Of the differences row by row where both were at hand, else as if the two were independent,
        which is too large: most of the spread between rows is common to both.
        """
        if "gain_vs_base_se" in self.metrics:
            return self.metrics["gain_vs_base_se"]
        return None if self.se is None or base.se is None else hypot(self.se, base.se)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What came out for one row of a task."""

    row: str
    """Digest of the row; its text is not kept."""
    right: bool | None
    """Whether the answer is right; None where it is graded in degrees, or not at all."""
    answer: str | None
    """Chosen label; a written answer only where text is kept."""
    log_likelihood: tuple[float, ...]
    """Of each label in order, or of the reference response alone, nats; empty without one."""
    n_tokens: int | None
    """Tokens of the reference response; None for label tasks and rows without one."""
    gold: str | None = None
    """The row's label; None for tasks without a label set."""
    grade: float | None = None
    """What the written answer is worth in the ruling metric, in [0, 1]; None for label tasks, where
    nothing is written, and where no grade could be had."""
    prompt_tokens: int | None = None
    """Tokens of the row's prompt, without template and examples."""
    answer_tokens: int | None = None
    """Tokens of the written answer; None where nothing is written."""
    finish: Literal["stop", "length"] | None = None
    """How the written answer ended; None where nothing is written or the backend does not say."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What an adapter gained over its base on the same rows of a target."""

    gain: float
    """Score minus the base's score, in the target's unit."""
    se: float
    """Standard error of the gain."""
    n: int
    """Rows."""


@dataclass(frozen=True, slots=True)
class KeptRecommendation:
    """A recommendation that was kept, to be compared with what was measured later."""

    run_id: str
    """MLflow run that holds it."""
    made_ms: int
    """When it was made, milliseconds since 1970 (UTC)."""
    digest: str
    """Digest of the target's rows."""
    group: str
    """The target's group."""
    content: Mapping[str, Any]
    """What `recommend --json` printed."""

    def __repr__(self) -> str:
        target = str(self.content.get("target", {}).get("name", ""))
        return short_repr(self, f"of {clipped(target)}", f"run {self.run_id}")


@dataclass(frozen=True, slots=True)
class TransferMatrix:
    """Adapters × tasks under one base model, as records: what `recommender` learns from."""

    base: BaseIdentity
    """The base model all cells share."""
    adapters: tuple[AdapterRecord, ...]
    """Rows, in order of registration."""
    tasks: tuple[TaskRecord, ...]
    """Columns, in order of first measurement."""
    cells: tuple[Cell, ...]
    """Measured cells, base and majority rows among them, one per (row, task)."""
    regime: Regime = "zeroshot"
    """How the adapters were used."""

    def __repr__(self) -> str:
        size = f"{len(self.adapters):,} adapters × {len(self.tasks):,} tasks"
        cells = counted(len(self.cells), "cell")
        return short_repr(self, size, cells, self.regime, f"base {self.base.name}")

    def cell(self, row: MatrixRow, task: str) -> Cell | None:
        """The measured cell, or None."""
        return next((c for c in self.cells if c.row == row and c.task == task), None)

    @property
    def rows(self) -> tuple[MatrixRow, ...]:
        """Every row with its name.

        Base and majority label where they are measured, few-shot rows as they were measured, then
        the adapters.
        """
        names = {BASE_ID: BASE_ID, **row_labels(self.adapters)}
        measured = tuple(dict.fromkeys(cell.row for cell in self.cells))
        shown = [row for row in measured if row.shots and row.model in names]
        return (
            *(row for row in (BASE_ROW, MAJORITY_ROW) if row in measured),
            *(row.of(names[row.model]) for row in shown),
            *(adapter.row.of(names[adapter.adapter_id]) for adapter in self.adapters),
        )

    def to_pandas(self) -> "pd.DataFrame":
        """Scores, one row per adapter (base and majority label first), one column per task."""
        import pandas as pd

        labels = row_labels(self.adapters)
        adapters = (adapter.row.of(labels[adapter.adapter_id]) for adapter in self.adapters)
        shown = (BASE_ROW, MAJORITY_ROW, *adapters)
        scores: dict[MatrixRow, dict[str, float]] = {row: {} for row in shown}
        for cell in self.cells:
            if cell.row in scores:
                scores[cell.row][cell.task] = cell.score
        columns = [task.name for task in self.tasks]
        index = pd.Index([row.label for row in shown], name="adapter")
        return pd.DataFrame(list(scores.values()), index=index, columns=columns)

    def _repr_html_(self) -> str:
        """The scores as a notebook shows them; · is not measured."""
        table: str = self.to_pandas().to_html(float_format=lambda x: f"{x:.3f}", na_rep="·")
        return table

    def without_groups(self, groups: Sequence[str]) -> "TransferMatrix":
        """A copy that has never seen any task of these groups."""
        left = tuple(task for task in self.tasks if task.group not in groups)
        names = {task.name for task in left}
        cells = tuple(cell for cell in self.cells if cell.task in names)
        return TransferMatrix(self.base, self.adapters, left, cells, self.regime)
