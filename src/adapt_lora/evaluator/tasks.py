"""Tasks: rows to score on and the metric that rules, with the choice of metric in one place."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from adapt_lora.data import Dataset, Row, sample_rows
from adapt_lora.errors import TaskError
from adapt_lora.evaluator.metrics import is_exact_match, is_numeric_match, rouge_l, token_f1
from adapt_lora.registry.records import (
    METRIC_UNITS,
    PUBLISHED_METRIC,
    DatasetRecord,
    ReadingRecord,
    TaskRecord,
)

LABEL_METRICS = frozenset({"balanced_accuracy", "accuracy", "macro_f1"})
"""Metrics of a choice from a label set."""

TEXT_METRICS: Mapping[str, Callable[[str, str], float]] = {
    "exact_match": is_exact_match,
    "numeric_match": is_numeric_match,
    "token_f1": token_f1,
    "rouge_l": rouge_l,
}
"""Metrics that grade a written answer by its reference alone, each grade in [0, 1]."""

GRADED_METRICS = frozenset({"pass_at_1", "judge_accuracy"})
"""Metrics of a written answer that need a `Grader`: tests to be run, or a judging model."""

GENERATION_METRICS = frozenset({*TEXT_METRICS, *GRADED_METRICS})
"""Metrics of a generated text; the model writes, greedily."""

_METRIC_ALIASES = {"pass@1": "pass_at_1"}


@dataclass(frozen=True, slots=True)
class Task:
    """A task together with the rows that are scored."""

    record: TaskRecord
    """What is kept of it."""
    rows: tuple[Row, ...]
    """The rows, in order."""

    @property
    def is_label_task(self) -> bool:
        """Whether answers are chosen from a label set."""
        return self.record.metric in LABEL_METRICS

    @property
    def is_generated(self) -> bool:
        """Whether the model writes answers."""
        return self.record.metric in GENERATION_METRICS

    @property
    def gold(self) -> list[int]:
        """Index of each row's label in the label set; only for label tasks."""
        index = {label: i for i, label in enumerate(self.record.labels)}
        return [index[row.label] for row in self.rows if row.label is not None]


def make_task(
    dataset: Dataset, *, metric: str = "auto", max_rows: int | None = None, seed: int = 0
) -> Task:
    """A task over a dataset, or over a sample of its rows.

    Args:
        dataset: Rows with gold labels or responses.
        metric: One of METRIC_UNITS but the published one, or "auto": the dataset's own metric where
            it names one, else `choose_metric`.
        max_rows: Draw this many rows with the seed; None for all.
        seed: Decides the draw.

    Raises:
        TaskError: The metric is unknown, or the rows lack what it needs.
    """
    known = [name for name in METRIC_UNITS if name != PUBLISHED_METRIC]
    metric = metric_key(metric)
    if metric not in ("auto", *known):
        raise TaskError(
            f"{dataset.name}: there is no metric '{metric}'. Choose auto, {', '.join(known)}."
        )
    if not dataset.rows:
        raise TaskError(f"{dataset.name}: no rows, so there is nothing to score on.")
    if max_rows is not None and max_rows < 1:
        raise TaskError(f"{dataset.name}: max_rows is {max_rows}, but must be at least 1.")
    chosen = (dataset.metric or choose_metric(dataset)) if metric == "auto" else metric
    _check_rows(dataset, chosen)
    used = dataset
    if max_rows is not None and max_rows < len(dataset.rows):
        used = replace(dataset, rows=sample_rows(dataset.rows, max_rows, seed=seed))
    labels = tuple(dataset.labels) if chosen in LABEL_METRICS else ()
    record = TaskRecord(
        name=dataset.name,
        group=dataset.group,
        metric=chosen,
        dataset=DatasetRecord(
            name=dataset.name,
            digest=used.digest,
            group=dataset.group,
            n_rows=len(used.rows),
            source=dataset.source,
            read=ReadingRecord.of(dataset.echo),
        ),
        labels=labels,
        family=dataset.family,
    )
    return Task(record, tuple(used.rows))


def metric_key(name: str) -> str:
    """A metric's key in METRIC_UNITS, from the name that people use ("pass@1")."""
    return _METRIC_ALIASES.get(name, name)


def choose_metric(dataset: Dataset) -> str:
    """The metric that suits the rows.

    pass@1 where every row has unit tests. Balanced accuracy where every row has a label. Where
    nearly all (95 %) responses are a bare number, `numeric_match`; where nearly all are at most
    five words on one line, `exact_match`; else the answers are too free to be matched, and their
    mean log-likelihood rules.
    """
    if all(row.tests for row in dataset.rows):
        return "pass_at_1"
    if dataset.is_labelled and len(dataset.labels) > 1:
        return "balanced_accuracy"
    responses = [row.response for row in dataset.rows if row.response]
    if responses and _share(_is_number(text) for text in responses) >= 0.95:
        return "numeric_match"
    if responses and _share(_is_short(text) for text in responses) >= 0.95:
        return "exact_match"
    return "answer_log_likelihood"


def _check_rows(dataset: Dataset, metric: str) -> None:
    if metric in LABEL_METRICS:
        unlabelled = [row for row in dataset.rows if row.label is None]
        if unlabelled or len(dataset.labels) < 2:
            what = (
                f"{len(unlabelled)} of {len(dataset.rows)} rows have no label"
                if unlabelled
                else f"there is only one label ({dataset.labels[0]!r})"
            )
            raise TaskError(
                f"{dataset.name}: {metric} needs a label on every row and at least two labels, but "
                f"{what}. Name the field with --map label=FIELD, or choose another metric."
            )
        return
    if metric == "pass_at_1":
        untested = [row.line for row in dataset.rows if not row.tests]
        if untested:
            raise TaskError(
                f"{dataset.name}: pass@1 runs each row's unit tests, but {len(untested)} of "
                f"{len(dataset.rows)} rows have none (first: line {untested[0]}). Give each row a "
                "list 'tests' of Python statements that raise where the answer is wrong."
            )
        return
    unanswered = [row.line for row in dataset.rows if not row.response]
    if unanswered:
        raise TaskError(
            f"{dataset.name}: {metric} compares with a reference response, but "
            f"{len(unanswered)} of {len(dataset.rows)} rows have none (first: line "
            f"{unanswered[0]}). Name the field with --map response=FIELD, or take those rows out."
        )


def _is_number(text: str) -> bool:
    try:
        float(text.strip().strip("$€£%").replace(",", ""))
    except ValueError:
        return False
    return True


def _is_short(text: str) -> bool:
    return len(text.split()) <= 5 and "\n" not in text.strip()


def _share(flags: Iterable[bool]) -> float:
    values = list(flags)
    return sum(values) / len(values)
