"""Adapters ranked for a target: predicted, and the best of them measured on its rows."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapt_lora.data import Dataset, read_dataset
from adapt_lora.errors import AdaptError, DatasetError, RecommendError
from adapt_lora.model.base import BaseIdentity, cache_dir, load_base_model
from adapt_lora.registry import Registry
from adapt_lora.registry.records import Fingerprint, TransferMatrix
from adapt_lora.results import TargetRanking, VerificationReport
from adapt_lora.roads.bases import other_matrices
from adapt_lora.roads.evaluation import base_predictions, fetch_weights
from adapt_lora.roads.progress import Progress, of_step

if TYPE_CHECKING:
    from adapt_lora.evaluator import Grading, TargetMeter
    from adapt_lora.model.base import BaseModel
    from adapt_lora.recommender import Recommendation
    from adapt_lora.recommender.ranking import FittedRanking

TARGET_TOKENS = 8_000
"""Tokens of a target that are read for its fingerprint."""


def recommend(
    target: str | Path,
    *,
    registry: Registry,
    base_model: str | None = None,
    metric: str = "auto",
    mapping: Mapping[str, str] | None = None,
    group: str | None = None,
    method: str = "default",
    verify: int | None = None,
    budget_s: float = 60.0,
    max_rows: int = 100,
    seed: int = 0,
    grading: "Grading | None" = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> TargetRanking:
    """Rank the registry's adapters for an unseen dataset.

    Args:
        target: File, folder (test.jsonl) or Hub id; labels and responses are optional.
        registry: Where the adapters and measured cells are.
        base_model: As for `load_base_model`.
        metric: What the gain is counted in; "auto" takes what suits the rows.
        mapping: Field names, as for `read_dataset`.
        group: What the target shares with its twins; cells of this group are never learned from.
        method: A ranking method by name; "default" chooses by back-test.
        verify: Measure this many of the top adapters on the target's own rows; 0 for none. None
            measures three where the target has answers and they fit the budget, on fewer rows if
            need be.
        budget_s: Seconds that a verification which nobody asked for may take.
        max_rows: Rows per measured adapter, on average; the last ones left get more.
        seed: Decides every draw.
        grading: As for `evaluate`; used by verification.
        progress: Told about each step.
        say: Told what a person should know before it happens.

    Raises:
        RecommendError: There is no adapter to rank.
        DatasetError: `verify` was asked for, but the target has no answers.
    """
    clock = _Clock()
    rows = read_dataset(target, mapping=mapping, group=group)
    clock.lap("read_data")
    if verify and not _has_answers(rows):
        raise DatasetError(
            f"{rows.source}: --verify measures adapters on the target's own answers, but its "
            "rows have none. Add a response or label to each row, or use --verify 0."
        )
    base = load_base_model(base_model)
    from adapt_lora.evaluator import Grading
    from adapt_lora.registry.fingerprint import fingerprint_dataset

    clock.lap("load_base")
    fingerprint = fingerprint_dataset(
        rows,
        base=base,
        max_tokens=TARGET_TOKENS,
        seed=seed,
        progress=of_step(progress, "read the target"),
    )
    clock.lap("fingerprint")
    matrix = registry.transfer_matrix(base.identity)
    _check_adapters(matrix, base.identity)
    clock.lap("registry")
    from adapt_lora.recommender.model_cache import ModelCache
    from adapt_lora.recommender.ranking import fit_ranking

    chosen_metric = _target_metric(rows, metric)
    fitted = fit_ranking(
        matrix,
        fingerprint,
        metric=chosen_metric,
        group=rows.group,
        others=other_matrices(registry, matrix.base),
        method=method,
        seed=seed,
        cache=ModelCache(cache_dir() / "models"),
    )
    base_score = _base_score(fingerprint, chosen_metric)
    ranking = fitted.answer(base_score=base_score)
    clock.lap("rank")
    warning = registry.base_warning(base.identity)
    warnings = [warning] if warning else []
    verification = None
    if verify != 0 and _has_answers(rows):
        job = _VerificationJob(
            rows, fingerprint, chosen_metric, base, registry, seed, grading or Grading(), progress
        )
        try:
            checked = _verify(
                job,
                fitted,
                ranking,
                k=verify,
                budget_s=budget_s,
                max_rows=max_rows,
                say=say or (lambda _: None),
            )
        # A prediction is still an answer; why it stands alone is part of it.
        except AdaptError as error:
            warnings.append(f"Nothing could be measured on the target, this is prediction: {error}")
        else:
            if checked is not None:
                ranking, verification = checked
        clock.lap("verify")
    return TargetRanking(
        recommendation=ranking,
        target=rows,
        fingerprint=fingerprint,
        base=base.identity,
        metric=chosen_metric,
        timing_s=clock.laps,
        warnings=tuple(warnings),
        verification=verification,
        figures_only=frozenset(r.adapter_id for r in matrix.adapters if not r.has_weights),
    )


def keep_recommendation(answer: TargetRanking, *, registry: Registry) -> str:
    """Store a recommendation as a run of the registry; gives the run's id.

    What is kept: the figures and names that are printed as JSON, and the digest of the target's
    rows. The rows themselves are not.
    """
    from adapt_lora.report.plain import recommendation_json, versioned

    content = versioned(recommendation_json(answer))
    return registry.add_recommendation(
        answer.base, content, digest=answer.target.digest, group=answer.target.group
    )


DEFAULT_VERIFY = 3
"""Adapters that are measured where nobody says how many."""


_LEAST_ROWS = 40
"""Fewer rows per adapter decide nothing: an error of 8 points on a score of one half."""


@dataclass(frozen=True, slots=True)
class _VerificationJob:
    """What is to be measured on, and where the cells go."""

    rows: Dataset
    fingerprint: Fingerprint
    metric: str
    base: "BaseModel"
    registry: Registry
    seed: int
    grading: "Grading"
    progress: Progress | None

    def meter(self, say: Callable[[str], None]) -> "TargetMeter":
        """Measures adapters on the target's rows and files the cells."""
        from adapt_lora.evaluator import (
            Measuring,
            TargetMeter,
            TransformersBackend,
            make_graders,
            make_task,
        )

        task = make_task(self.rows, metric=self.metric)
        task = replace(task, record=replace(task.record, fingerprint=self.fingerprint))
        identity, registry, name = self.base.identity, self.registry, task.record.name
        by_id = {record.adapter_id: record for record in registry.adapters(identity)}
        measuring = Measuring(
            TransformersBackend(self.base),
            decision=self.grading.decision,
            graders=make_graders(self.grading, [task]),
            base_predictions=base_predictions(registry, identity, warn=say),
        )
        return TargetMeter(
            measuring,
            self.rows,
            task,
            folder_of=lambda adapter_id: fetch_weights(registry, by_id[adapter_id]),
            measured=registry.measured(identity),
            find_cell=lambda row, protocol: registry.cell(identity, row, name, protocol),
            save_cell=lambda result, batch: registry.add_cells(
                identity,
                by_id.get(result.cell.row.model, result.cell.row),
                batch.record,
                [result.cell],
                result.predictions,
            ),
            seed=self.seed,
            progress=of_step(self.progress, "measure the best"),
        )


def _verify(
    job: _VerificationJob,
    fitted: "FittedRanking",
    ranking: "Recommendation",
    *,
    k: int | None,
    budget_s: float,
    max_rows: int,
    say: Callable[[str], None],
) -> "tuple[Recommendation, VerificationReport] | None":
    """Measure the top k on the target and rank again; None where the budget does not allow it."""
    from adapt_lora.recommender.verification import (
        Batch,
        Measurement,
        plan_rounds,
        verify_by_halving,
    )

    records = {record.adapter_id: record for record in job.registry.adapters(job.base.identity)}
    with_files = [e.adapter_id for e in ranking.ranking if records[e.adapter_id].has_weights]
    candidates = with_files[: DEFAULT_VERIFY if k is None else k]
    if not candidates:
        return None
    meter, n_rows = job.meter(say), len(job.rows.rows)

    def cost(rows_each: int) -> float:
        rounds = plan_rounds(len(candidates), max_rows=rows_each, n_rows=n_rows)
        return meter.estimated_s([(candidates[: r.n_candidates], r.rows) for r in rounds])

    rows_each = max_rows
    expected = cost(rows_each)
    if k is None and expected > budget_s:
        rows_each = int(min(max_rows, n_rows) * budget_s / expected)
        if rows_each < _LEAST_ROWS:
            say(
                f"Not measured on the target: the best {len(candidates)} would take about "
                f"{expected:.0f} s, over the budget of {budget_s:.0f} s (--budget). This is "
                f"prediction only; --verify {len(candidates)} measures them whatever it takes."
            )
            return None
        expected = cost(rows_each)
    rounds = plan_rounds(len(candidates), max_rows=rows_each, n_rows=n_rows)
    say(
        f"Measuring the best {len(candidates)} on up to {rounds[-1].rows.stop} of the target's "
        f"rows: about {max(expected, 1):.0f} s (--verify 0 for prediction only)."
    )

    def measure(adapter_ids: Sequence[str], rows: range) -> Batch:
        found = meter.measure(adapter_ids, rows)
        gains = {name: Measurement(g.gain, g.se, g.n) for name, g in found.gains.items()}
        return Batch(gains, found.failures)

    started = time.perf_counter()
    done = verify_by_halving(
        candidates,
        measure=measure,
        judge=fitted.expected_gains,
        max_rows=rows_each,
        n_rows=n_rows,
    )
    report = VerificationReport(
        rounds=tuple((r.n_candidates, r.rows.stop) for r in done.rounds),
        n_rows=max((m.n for m in done.measured.values()), default=0),
        estimated_s=expected,
        seconds=time.perf_counter() - started,
    )
    answer = fitted.answer(
        base_score=meter.base_score, measured=done.measured, failures=done.failures
    )
    return answer, report


def _has_answers(rows: Dataset) -> bool:
    return rows.is_labelled or rows.has_responses


def _check_adapters(matrix: TransferMatrix, identity: BaseIdentity) -> None:
    if not matrix.adapters:
        raise RecommendError(
            f"The registry holds no adapter for {identity.name}, so there is nothing to rank. "
            "Add some with `adapt register` or `adapt train`, then measure them with "
            "`adapt evaluate`."
        )


def _target_metric(rows: Dataset, metric: str) -> str:
    from adapt_lora.evaluator import choose_metric, metric_key

    if metric != "auto":
        return metric_key(metric)
    if rows.metric is not None:
        return rows.metric
    if rows.is_labelled or rows.has_responses:
        return choose_metric(rows)
    return "balanced_accuracy"


def _base_score(fingerprint: Fingerprint, metric: str) -> tuple[float, float] | None:
    """The base's score from the target's pass, which knows balanced accuracy alone."""
    values = fingerprint.values
    if metric != "balanced_accuracy" or not {"base_score", "base_score_se"} <= values.keys():
        return None
    return values["base_score"], values["base_score_se"]


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.laps[step] = now - self._last
        self._last = now
