"""Adapters ranked for a target: predicted, and the best of them measured on its rows."""

import functools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from adapt_lora.data import Dataset, DataSource, check_source, read_dataset, request_repr
from adapt_lora.errors import AdaptError, ConfigError, DatasetError, RecommendError
from adapt_lora.model.base import cache_dir, open_base_model
from adapt_lora.registry import Registry
from adapt_lora.registry.records import (
    BASE_ID,
    BASE_ROW,
    Cell,
    Fingerprint,
    MatrixRow,
    Measurement,
    TransferMatrix,
)
from adapt_lora.results import RankingKind, TargetRanking, VerificationReport
from adapt_lora.roads.bases import other_matrices
from adapt_lora.roads.evaluation import fetch_weights, recall_rows
from adapt_lora.roads.kinds import check_kind, metrics_of
from adapt_lora.roads.progress import Progress, of_step

if TYPE_CHECKING:
    from adapt_lora.evaluator import Grading, TargetMeter
    from adapt_lora.model.base import BaseModel
    from adapt_lora.recommender import Recommendation
    from adapt_lora.recommender.answer import LabelBias
    from adapt_lora.recommender.ranking import FittedRanking

TARGET_TOKENS = 8_000
"""Tokens of a target that are read for its fingerprint."""

DEFAULT_VERIFY = 3
"""Adapters that are measured where nobody says how many."""

_LEAST_ROWS = 40
"""Fewer rows per adapter decide nothing: an error of 8 points on a score of one half."""


@dataclass(frozen=True, slots=True)
class RecommendRequest:
    """What is asked of `recommend`."""

    target: DataSource
    """The unseen dataset: file, folder (test.jsonl), Hub id, or rows as for `read_dataset`; labels
    and responses are optional."""
    base_model: str | None = None
    """As for `load_base_model`."""
    metric: str = "auto"
    """What the gain is counted in; "auto" takes what suits the rows."""
    mapping: Mapping[str, str] | None = None
    """Field names, as for `read_dataset`."""
    allow_skips: bool = False
    """Go on where many rows, or all of a class, can't be used; as for `read_dataset`."""
    group: str | None = None
    """What the target shares with its twins; cells of this group are never learned from."""
    method: str = "default"
    """A ranking method by name; "default" chooses by back-test."""
    verify: int | None = None
    """Measure this many of the top adapters on the target's own rows; 0 for none. None measures
    three where the target has answers and they fit the budget, on fewer rows if need be."""
    budget_s: float = 60.0
    """Seconds that a verification which nobody asked for may take."""
    max_rows: int = 100
    """Rows per measured adapter, on average; the last ones left get more."""
    keep_as_task: bool = False
    """Let what is measured on the target enter the transfer matrix, as on any benchmark task;
    else it answers for this target alone."""
    seed: int = 0
    """Decides every draw."""
    grading: "Grading | None" = None
    """How verification turns answers into scores; None as `Grading()` does."""
    kind: RankingKind | None = None
    """Rank for answers that are labels, or for text that is written; None takes what the rows have.
    Where they have no answers both rankings are given."""
    name: str | None = None
    """What the target is called; None for its own name."""

    def __repr__(self) -> str:
        return request_repr(self, "target")

    def __post_init__(self) -> None:
        check_source(self.target, "The target")
        for name in ("verify", "max_rows", "seed"):
            given = getattr(self, name)
            if given is not None and not isinstance(given, int):
                raise ConfigError(f"{name} is {given!r}, but must be a whole number.")
        if self.verify is not None and self.verify < 0:
            raise ConfigError(f"{self.verify} adapters can't be measured; --verify is 0 or more.")
        if self.budget_s < 0:
            raise ConfigError(f"A budget of {self.budget_s:g} s is none; --budget is 0 or more.")
        if self.max_rows < 2:
            raise ConfigError(f"{self.max_rows} row(s) decide nothing; --max-rows is 2 or more.")
        if (self.metric, self.method) != ("auto", "default"):
            from adapt_lora.evaluator import metric_key
            from adapt_lora.recommender.ranking import check_names

            metric = "accuracy" if self.metric == "auto" else metric_key(self.metric)
            check_names(metric=metric, method=self.method)
        check_kind(self.kind, self.metric)


def recommend(
    request: RecommendRequest | DataSource,
    *,
    registry: Registry,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> TargetRanking:
    """Rank the registry's adapters for an unseen dataset.

    Args:
        request: What is asked; a dataset alone stands for a request with all defaults.
        registry: Where the adapters and measured cells are.
        progress: Told about each step.
        say: Told what a person should know before it happens.

    Raises:
        RecommendError: There is no adapter to rank.
        DatasetError: `verify` was asked for, but the target has no answers.
    """
    ask = request if isinstance(request, RecommendRequest) else RecommendRequest(request)
    clock = _Clock()
    rows, has_answers = _read(ask)
    clock.lap("read_data")
    metric, *others = metrics_of(rows, kind=ask.kind, metric=ask.metric)
    base = open_base_model(ask.base_model)
    from adapt_lora.registry.fingerprint import known_fingerprint

    clock.lap("load_base")
    fingerprint = known_fingerprint(
        rows,
        base=base,
        max_tokens=TARGET_TOKENS,
        seed=ask.seed,
        progress=of_step(progress, "read the target"),
    )
    clock.lap("fingerprint")
    matrix = registry.transfer_matrix(base.identity)
    if not matrix.adapters:
        raise RecommendError(
            f"The registry holds no adapter for {base.identity.name}, so there is nothing to rank. "
            "Add some with `adapt register` or `adapt train`, then measure them with "
            "`adapt evaluate`."
        )
    clock.lap("registry")
    target = _Target(ask, rows, fingerprint, metric, base, registry)
    fitted = _fit(target, matrix)
    clock.lap("rank")
    warning = registry.base_warning(base.identity)
    warnings = [warning] if warning else []
    answers = _Answers(target, matrix)
    if has_answers:
        try:
            answers.meter = _meter(target, progress, say or warnings.append)
        # A prediction is still an answer; why it stands alone is part of it.
        except AdaptError as error:
            warnings.append(f"Nothing could be measured on the target, this is prediction: {error}")
        clock.lap("recall")
    if ask.verify != 0 and answers.meter is not None:
        try:
            _verify(target, fitted, answers, say=say)
        except AdaptError as error:
            warnings.append(f"The best could not be measured on the target: {error}")
        clock.lap("verify")
    answer = TargetRanking(
        recommendation=answers.ranked_by(fitted),
        target=rows,
        fingerprint=fingerprint,
        base=base.identity,
        metric=target.metric,
        timing_s=clock.laps,
        warnings=tuple(warnings),
        verification=answers.report,
        figures_only=frozenset(a.adapter_id for a in matrix.adapters if not a.has_weights),
    )
    for other in others:
        second = _fit(replace(target, metric=other), matrix).answer()
        answer = replace(answer, other=replace(answer, recommendation=second, metric=other))
    return answer


def _read(ask: RecommendRequest) -> tuple[Dataset, bool]:
    """The target's rows, and whether they have answers to measure with."""
    rows = read_dataset(
        ask.target,
        mapping=ask.mapping,
        group=ask.group,
        name=ask.name,
        allow_skips=ask.allow_skips,
    )
    has_answers = rows.is_labelled or rows.has_responses
    if ask.verify and not has_answers:
        raise DatasetError(
            f"{rows.source}: --verify measures adapters on the target's own answers, but its "
            "rows have none. Add a response or label to each row, or use --verify 0."
        )
    return rows, has_answers


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


@dataclass(frozen=True, slots=True)
class _Target:
    """A request with all that was read for it."""

    ask: RecommendRequest
    rows: Dataset
    fingerprint: Fingerprint
    metric: str
    base: "BaseModel"
    registry: Registry

    @property
    def knows_labels(self) -> bool:
        """Whether gains are counted in answers chosen from labels."""
        from adapt_lora.evaluator.tasks import LABEL_METRICS

        return self.metric in LABEL_METRICS

    @property
    def base_score(self) -> tuple[float, float] | None:
        """The base's score from the target's pass, which knows balanced accuracy alone."""
        values = self.fingerprint.values
        if self.metric != "balanced_accuracy" or not {"base_score", "base_score_se"} <= set(values):
            return None
        return values["base_score"], values["base_score_se"]


def _fit(target: _Target, matrix: TransferMatrix) -> "FittedRanking":
    from adapt_lora.recommender.model_cache import ModelCache
    from adapt_lora.recommender.ranking import fit_ranking

    return fit_ranking(
        matrix,
        target.fingerprint,
        metric=target.metric,
        group=target.rows.group,
        others=other_matrices(target.registry, matrix.base),
        method=target.ask.method,
        seed=target.ask.seed,
        cache=ModelCache(cache_dir() / "models"),
    )


@dataclass
class _Answers:
    """What is known of the target's own rows; grows while adapters are measured."""

    target: _Target
    matrix: TransferMatrix
    meter: "TargetMeter | None" = None
    """None where nothing can be measured."""
    failures: dict[str, str] = field(default_factory=dict)
    """Adapter id to why it could not be measured."""
    report: VerificationReport | None = None

    @property
    def measured(self) -> dict[str, Measurement]:
        """What every adapter gained on all of the target's rows that it was ever asked."""
        if self.meter is None:
            return {}
        found: dict[str, Measurement] = {}
        for bare, cells in self._cells:
            for cell in cells:
                error = cell.gain_se(bare)
                if cell.row.is_candidate and error is not None:
                    gain = Measurement(cell.score - bare.score, error, cell.n or 0)
                    found[cell.row.model] = gain
        by_rows = self.meter.gains([adapter.adapter_id for adapter in self.matrix.adapters])
        return found | {name: Measurement(g.gain, g.se, g.n) for name, g in by_rows.items()}

    def ranked_by(self, fitted: "FittedRanking") -> "Recommendation":
        """The answer with all of it."""
        score = self.target.base_score
        cell = None if self.meter is None else self.meter.base_cell
        n_read = self.target.fingerprint.values.get("n_rows_sampled", 0.0)
        if cell is not None and (score is None or (cell.n or 0) >= n_read):
            score = cell.score, cell.se or 0.0
        measured = self.measured
        return fitted.answer(
            base_score=score,
            measured=measured,
            failures=self.failures,
            unbiased=self._unbiased(measured) if self.target.knows_labels else {},
            few_shot={
                shown.row.label: shown.score
                for _, cells in self._cells
                for shown in cells
                if shown.row.model == BASE_ID and shown.row.shots
            },
        )

    def _unbiased(self, measured: Collection[str]) -> "dict[str, LabelBias]":
        """Models without their label bias, by adapter id, the base by BASE_ID."""
        from adapt_lora.recommender.label_bias import bias_of_base, label_bias

        found: dict[str, LabelBias] = {}
        shares = self.target.fingerprint.label_shares
        for row in (BASE_ROW, *map(MatrixRow, measured)):
            known = None if self.meter is None else self.meter.unbiased(row)
            if known is not None:
                gain = Measurement(known.gain.gain, known.gain.se, known.gain.n)
                found[row.model] = label_bias(gain, known.offsets, shares)
        of_pass = bias_of_base(self.target.fingerprint)
        return found if of_pass is None else {BASE_ID: of_pass, **found}

    @functools.cached_property
    def _cells(self) -> "list[tuple[Cell, list[Cell]]]":
        """The base's and all cells of each column of the matrix that is of rows of the target.

        Of all, or of a sample of them: cells from elsewhere have no answers row by row beside them.
        """
        from adapt_lora.evaluator import make_task

        rows, metric = self.target.rows, self.target.metric
        if self.meter is None:
            return []

        @functools.cache
        def digest(n_rows: int | None) -> str:
            return make_task(rows, metric=metric, max_rows=n_rows).record.dataset.digest

        found = []
        for task in self.matrix.tasks:
            bare, n_rows = self.matrix.cell(BASE_ROW, task.name), task.dataset.n_rows
            if bare is None or task.metric != metric or (n_rows or 0) > len(rows.rows):
                continue
            if digest(n_rows) == task.dataset.digest:
                cells = [cell for cell in self.matrix.cells if cell.task == task.name]
                found.append((bare, cells))
        return found


def _meter(target: _Target, progress: Progress | None, say: Callable[[str], None]) -> "TargetMeter":
    """Measures adapters on the target's rows and files the cells."""
    from adapt_lora.evaluator import (
        Grading,
        Measuring,
        TargetMeter,
        TransformersBackend,
        make_graders,
        make_task,
    )

    registry, identity = target.registry, target.base.identity
    grading = target.ask.grading or Grading()
    task = make_task(target.rows, metric=target.metric)
    record = replace(
        task.record, fingerprint=target.fingerprint, is_target=not target.ask.keep_as_task
    )
    task = replace(task, record=record)
    by_id = {record.adapter_id: record for record in registry.adapters(identity)}
    measuring = Measuring(
        TransformersBackend(target.base),
        decision=grading.decision,
        graders=make_graders(grading, [task]),
        recall=recall_rows(registry, identity, warn=say),
    )
    return TargetMeter(
        measuring,
        target.rows,
        task,
        folder_of=lambda adapter_id: fetch_weights(registry, by_id[adapter_id]),
        save_cell=lambda result, batch: registry.add_cells(
            identity,
            by_id.get(result.cell.row.model, result.cell.row),
            batch.record,
            [result.cell],
            result.predictions,
        ),
        seed=target.ask.seed,
        progress=of_step(progress, "measure the best"),
    )


def _verify(
    target: _Target,
    fitted: "FittedRanking",
    answers: _Answers,
    *,
    say: Callable[[str], None] | None,
) -> None:
    """Measure the best on the target; nothing is done where the budget does not allow it."""
    from adapt_lora.recommender.verification import Batch, plan_rounds, verify_by_halving

    ask, n_rows, say = target.ask, len(target.rows.rows), say or (lambda _: None)
    meter = answers.meter
    assert meter is not None
    has_files = {a.adapter_id for a in fitted.matrix.adapters if a.has_weights}
    known = answers.measured
    expected = fitted.expected_gains(known)
    ranked = sorted(has_files, key=lambda name: -expected[name])
    candidates = ranked[: DEFAULT_VERIFY if ask.verify is None else ask.verify]
    if not candidates:
        return

    def cost(rows_each: int) -> float:
        rounds = plan_rounds(len(candidates), max_rows=rows_each, n_rows=n_rows)
        return meter.estimated_s([(candidates[: r.n_candidates], r.rows) for r in rounds])

    rows_each = ask.max_rows
    seconds = cost(rows_each)
    if ask.verify is None and seconds > ask.budget_s:
        rows_each = int(min(rows_each, n_rows) * ask.budget_s / seconds)
        if rows_each < _LEAST_ROWS:
            say(
                f"Not measured on the target: the best {len(candidates)} would take about "
                f"{seconds:.0f} s, over the budget of {ask.budget_s:.0f} s (--budget). "
                f"--verify {len(candidates)} measures them whatever it takes."
            )
            return
        seconds = cost(rows_each)
    rounds = plan_rounds(len(candidates), max_rows=rows_each, n_rows=n_rows)
    if seconds:
        say(
            f"Measuring the best {len(candidates)} on up to {rounds[-1].rows.stop} of the target's "
            f"rows: about {max(seconds, 1):.0f} s (--verify 0 for prediction only)."
        )

    def measure(adapter_ids: Sequence[str], rows: range) -> Batch:
        batch = meter.measure(adapter_ids, rows)
        gains = {name: Measurement(g.gain, g.se, g.n) for name, g in batch.gains.items()}
        return Batch(gains, batch.failures)

    started = time.perf_counter()
    done = verify_by_halving(
        candidates,
        measure=measure,
        judge=lambda measured: fitted.expected_gains({**known, **measured}),
        max_rows=rows_each,
        n_rows=n_rows,
    )
    answers.failures |= done.failures
    answers.report = VerificationReport(
        rounds=tuple((r.n_candidates, r.rows.stop) for r in done.rounds),
        n_rows=max((m.n for m in done.measured.values()), default=0),
        estimated_s=seconds,
        seconds=time.perf_counter() - started,
    )


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.laps[step] = now - self._last
        self._last = now
