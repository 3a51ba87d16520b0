"""What is to be ranked for: answers that are labels, answers that are written, or both."""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from adapt_lora.data import Dataset
from adapt_lora.errors import ConfigError, DatasetError
from adapt_lora.results import RankingKind


def check_kind(kind: str | None, metric: str) -> None:
    """Nothing where there is such a kind of ranking, and the metric is one of it.

    Raises:
        ConfigError: There is not, or it is not.
    """
    if kind is None:
        return
    if kind not in get_args(RankingKind):
        raise ConfigError(f"There is no ranking for {kind!r}; --as is labels or generation.")
    if metric != "auto" and _kind_of(metric) != kind:
        raise ConfigError(
            f"--as {kind} and --metric {metric} do not go together: leave one of them out."
        )


def metrics_of(rows: Dataset, *, kind: RankingKind | None, metric: str) -> Sequence[str]:
    """The metrics to rank in: one where rows or request say which, else one for each kind.

    Args:
        rows: The target.
        kind: What is asked for; None where nobody says.
        metric: The metric that is asked for; "auto" for what suits the rows.

    Raises:
        DatasetError: Labels are asked for, and the rows' answers are free text.
    """
    from adapt_lora.evaluator import choose_metric, metric_key

    if metric != "auto":
        return (metric_key(metric),)
    if rows.metric is not None and kind in (None, _kind_of(rows.metric)):
        return (rows.metric,)
    has_answers = rows.is_labelled or rows.has_responses or all(row.tests for row in rows.rows)
    if not has_answers:
        by_kind = {"labels": "balanced_accuracy", "generation": "answer_log_likelihood"}
        return tuple(by_kind.values()) if kind is None else (by_kind[kind],)
    if kind == "labels" and len(rows.labels) < 2:
        found = f"only {rows.labels[0]!r}" if rows.labels else "free text"
        raise DatasetError(
            f"{rows.source}: --as labels ranks for answers of a closed set, but its answers are "
            f"{found}. Name the field of the labels with --map label=FIELD, or leave --as out."
        )
    # Without its labels a row is one with a response.
    return (choose_metric(replace(rows, labels=()) if kind == "generation" else rows),)


def _kind_of(metric: str) -> RankingKind:
    from adapt_lora.evaluator import LABEL_METRICS, metric_key

    return "labels" if metric_key(metric) in LABEL_METRICS else "generation"
