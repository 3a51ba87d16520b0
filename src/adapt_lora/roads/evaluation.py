"""Adapters × tasks: what would be measured, and measuring it."""

import functools
import os
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from adapt_lora.data import Dataset, read_dataset
from adapt_lora.errors import AdaptError, ConfigError, NotFoundError
from adapt_lora.model.base import BaseIdentity, cache_dir, load_base_model
from adapt_lora.registry import Registry
from adapt_lora.registry.records import (
    BASE_ID,
    BASE_ROW,
    MAJORITY_ID,
    MAJORITY_ROW,
    AdapterRecord,
    MatrixRow,
    Prediction,
    TransferMatrix,
)
from adapt_lora.roads.progress import Progress, of_step

if TYPE_CHECKING:
    from adapt_lora.evaluator import (
        Backend,
        BackendName,
        CellFailure,
        CellResult,
        CellUnit,
        Grader,
        LabelDecision,
        MatrixPlan,
        MatrixReport,
        MeasureElsewhere,
        ServerOptions,
        Shots,
        Task,
    )
    from adapt_lora.model.base import BaseModel
    from adapt_lora.report.outcomes import CellOutcomes

EVERY = "*"
"""In a failure: every task."""

EVERY_ROW = MatrixRow("*")
"""In a failure: every row of the matrix."""


@dataclass(frozen=True, slots=True)
class Grading:
    """How answers become scores, where the task leaves a choice."""

    decision: "LabelDecision" = "sum"
    """How a label is chosen."""
    allow_code_execution: bool = False
    """Whether pass@1 may run code that a model wrote."""
    accept_weak_sandbox: bool = False
    """Whether that code is run even where network or files can't be shielded from it."""
    judge_url: str | None = None
    """Server of the judging model, OpenAI-compatible; None without a judge."""
    judge_model: str | None = None
    """The judging model, as its server names it."""

    def __post_init__(self) -> None:
        from adapt_lora.evaluator.metrics import LabelDecision

        if self.decision not in get_args(LabelDecision):
            raise ConfigError(
                f"There is no decision {self.decision!r}. Choose "
                f"{', '.join(get_args(LabelDecision))}."
            )
        if (self.judge_url is None) != (self.judge_model is None):
            raise ConfigError("A judge needs both --judge-url and --judge-model; give the other.")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` did."""

    report: "MatrixReport"
    """Cells measured, skipped and failed."""
    matrix: TransferMatrix
    """The transfer matrix as it stands now."""
    warnings: tuple[str, ...] = ()
    """Sentences about the base's weights, and about what was measured otherwise than asked."""
    code_protection: str | None = None
    """What stood between this machine and the code that was run on it; None where none was."""
    names: Mapping[MatrixRow, str] = field(default_factory=dict)
    """What people call the rows of cells and failures."""


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
    """Seconds it takes at most."""


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
    """Seconds the model works at most: answers may end before their limit."""
    tokens_per_s: float | None
    """Tokens a second that the bare base reads here; None where nothing is left to measure."""
    failures: "tuple[CellFailure, ...]" = ()
    """Tasks that can't be scored as asked."""
    warnings: tuple[str, ...] = ()
    """Sentences about the base model's weights."""

    def describe(self) -> str:
        """The plan in one line."""
        rows = len(dict.fromkeys(cell.adapter for cell in self.cells))
        tasks = len(dict.fromkeys(cell.task for cell in self.cells))
        there = self.n_cells - len(self.cells)
        if not self.cells:
            return f"Plan: all {there:,} cells are measured already."
        return (
            f"Plan: {len(self.cells):,} cells ({_counted(rows, 'row')}, "
            f"{_counted(tasks, 'task')}) to measure, {there:,} there already; "
            f"at most about {_duration(self.estimated_s)} at {self.tokens_per_s:,.0f} tokens/s."
        )

    def to_json(self) -> dict[str, Any]:
        """The object that `adapt evaluate --dry-run --json` prints."""
        content: dict[str, Any] = {
            "base_model": self.base,
            "cells": [asdict(cell) for cell in self.cells],
            "n_cells": self.n_cells,
            "n_to_measure": len(self.cells),
            "n_skipped": self.n_cells - len(self.cells),
            "estimated_s": self.estimated_s,
        }
        if self.tokens_per_s is not None:
            content["tokens_per_s"] = self.tokens_per_s
        content["failed"] = [asdict(failure) for failure in self.failures]
        return content


def plan_evaluation(
    tasks: Sequence[str | Path],
    *,
    registry: Registry,
    adapters: Sequence[str] | None = None,
    base_model: str | None = None,
    metric: str = "auto",
    max_rows: int | None = None,
    seed: int = 0,
    mapping: Mapping[str, str] | None = None,
    shots: int | None = None,
    shots_from: Sequence[str | Path] = (),
    grading: Grading | None = None,
    backend: "BackendName" = "auto",
    server: "ServerOptions | None" = None,
    ray_address: str | None = None,
) -> "EvaluationPlan":
    """What `evaluate` would measure and how long it would take; writes nothing.

    Arguments as for `evaluate`, and its errors. The backend is opened, since what is measured
    already and how fast the rest goes depend on it.
    """
    with _prepared(
        tasks,
        registry=registry,
        meet_base=registry.base_warning,
        adapters=adapters,
        base_model=base_model,
        metric=metric,
        max_rows=max_rows,
        seed=seed,
        mapping=mapping,
        shots=shots,
        shots_from=shots_from,
        grading=grading or Grading(),
        backend=backend,
        server=server,
        ray_address=ray_address,
    ) as ready:
        plan = _describe_plan(ready.work, ready.base, ready.chosen)
    return replace(plan, failures=ready.failures, warnings=tuple(ready.warnings))


def evaluate(
    tasks: Sequence[str | Path],
    *,
    registry: Registry,
    adapters: Sequence[str] | None = None,
    base_model: str | None = None,
    metric: str = "auto",
    max_rows: int | None = None,
    seed: int = 0,
    mapping: Mapping[str, str] | None = None,
    shots: int | None = None,
    shots_from: Sequence[str | Path] = (),
    keep_text: bool = False,
    grading: Grading | None = None,
    backend: "BackendName" = "auto",
    server: "ServerOptions | None" = None,
    ray_address: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Evaluation:
    """Measure adapters × tasks, cell by cell, leaving out what is measured already.

    A task or an adapter that can't be used is named among the report's failures; the others go on.

    Args:
        tasks: Files or folders (test.jsonl); each becomes a column.
        registry: Where the adapters are and the cells go.
        adapters: Names; None for all adapters of the base that have their weights here.
        base_model: As for `load_base_model`.
        metric: One metric for all tasks, or "auto".
        max_rows: Rows per task, drawn by `seed`; None for all.
        seed: Decides every draw.
        mapping: Field names, as for `read_dataset`.
        shots: Show this many examples in each prompt, as a row of its own of the named adapters, or
            of the base where none is named; None for rows without examples.
        shots_from: Answered rows to show, one source per task that is a file, in their order;
            folders and Hub datasets bring their own training split.
        keep_text: Keep written answers beside the row digests.
        grading: How labels are chosen, and what may be run or asked to grade answers.
        backend: What scores and writes; "auto" takes vLLM where it and a GPU are there.
        server: Where the server is, for the backend "openai".
        ray_address: HOST:PORT of a Ray cluster whose workers measure, each with the base model of
            its own; they need the adapters' files, so the cache folder must be theirs too.
        progress: Told (“evaluate: ADAPTER on TASK”, tokens done, in all).
        say: Told which backend measures, the plan before it starts, and every cell as it is done.

    Raises:
        AdaptError: None of the tasks can be scored as asked; nothing has been measured then.
        NotFoundError: There is no adapter of that name.
        CodeExecutionError: Code can't be run here behind enough protection.
        ServerError: The server can't be used.
    """
    with _prepared(
        tasks,
        registry=registry,
        meet_base=registry.ensure_base,
        adapters=adapters,
        base_model=base_model,
        metric=metric,
        max_rows=max_rows,
        seed=seed,
        mapping=mapping,
        shots=shots,
        shots_from=shots_from,
        grading=grading or Grading(),
        backend=backend,
        server=server,
        ray_address=ray_address,
        say=say,
    ) as ready:
        base, chosen, graders = ready.base, ready.chosen, ready.work.graders
        if say is not None:
            say(_describe_plan(ready.work, base, chosen).describe())
            for failure in ready.failures:
                say(f"Left out: {failure.task}: {failure.reason}")
        work, failed = _describe_tasks(ready.work, ready.tasks, registry, base, progress)
        elsewhere = None
        if ray_address is not None:
            elsewhere = functools.partial(
                _on_cluster,
                address=ray_address,
                base_model=base_model,
                dtype=str(base.dtype).removeprefix("torch."),
                graders=graders,
                keep_text=keep_text,
            )
        report = _run(
            work,
            base,
            registry,
            chosen,
            progress,
            say=say,
            keep_text=keep_text,
            elsewhere=elsewhere,
        )
        report = replace(report, failures=(*ready.failures, *failed, *report.failures))
    matrix = registry.transfer_matrix(base.identity)
    registry.update_scores(base.identity)
    _renew_cards(registry, matrix, {cell.row.model for cell in report.cells})
    registry.ensure_views(base.identity)
    return Evaluation(
        report,
        matrix,
        tuple(ready.warnings),
        names=_row_names(chosen, work),
        code_protection=_protection(graders),
    )


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Everything that is chosen, read and opened before the first cell is measured."""

    base: "BaseModel"
    chosen: Sequence[AdapterRecord]
    tasks: "Sequence[_ReadTask]"
    work: "_Work"
    failures: "tuple[CellFailure, ...]"
    """Tasks that can't be scored as asked."""
    warnings: list[str]
    """Grows while the backend is in use."""


@contextmanager
def _prepared(
    tasks: Sequence[str | Path],
    *,
    registry: Registry,
    meet_base: Callable[[BaseIdentity], str | None],
    adapters: Sequence[str] | None,
    base_model: str | None,
    metric: str,
    max_rows: int | None,
    seed: int,
    mapping: Mapping[str, str] | None,
    shots: int | None,
    shots_from: Sequence[str | Path],
    grading: Grading,
    backend: "BackendName",
    server: "ServerOptions | None",
    ray_address: str | None,
    say: Callable[[str], None] | None = None,
) -> "Iterator[_Prepared]":
    """What there is to measure, with its backend open for the duration of a `with` block.

    Arguments as for `evaluate`; `meet_base` says what is odd about the base's weights.
    """
    from adapt_lora.evaluator import open_backend, plan_matrix

    if ray_address is not None and backend not in ("auto", "transformers"):
        raise ConfigError(
            f"--ray spreads what transformers measures; leave out --backend {backend}, which "
            "measures many adapters at once by itself."
        )
    made = _make_tasks(tasks, metric=metric, max_rows=max_rows, seed=seed, mapping=mapping)
    made, graders = _graded_tasks(made, grading)
    base = load_base_model(base_model)
    warning = meet_base(base.identity)
    examples, lost = _draw_examples(made.usable, shots, shots_from, seed=seed, mapping=mapping)
    chosen = _choose_rows(registry, base.identity, adapters, shots)
    warnings = [warning] if warning else []
    if backend in ("vllm", "openai") or base.device.startswith("cuda"):
        for record in chosen:
            # An engine is made for the adapters it will have; one that is lost is named later.
            with suppress(Exception):
                fetch_weights(registry, record)
    if server is not None:
        # An adapter that the server has under its registered name is used as it is there.
        server = replace(server, names={_weights_place(r): r.name for r in chosen})
    measured = registry.measured(base.identity)
    with open_backend(
        "transformers" if ray_address is not None else backend,
        base,
        [_weights_place(record) for record in chosen],
        server=server,
        say=say,
        warn=warnings.append,
    ) as scorer:
        plan = plan_matrix(
            base,
            [(record.row, _weights_place(record)) for record in chosen],
            made.tasks,
            has_cell=lambda *cell: cell in measured,
            backend=scorer,
            decision=grading.decision,
            shots=examples,
            graders=graders,
        )
        work = _Work(scorer, plan, graders)
        yield _Prepared(base, chosen, made.usable, work, (*made.failures, *lost), warnings)


def _choose_adapters(
    registry: Registry, identity: BaseIdentity, names: Sequence[str] | None
) -> list[AdapterRecord]:
    known = [record for record in registry.adapters(identity) if record.has_weights]
    if names is None:
        return known
    by_name = {record.name: record for record in known}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise NotFoundError(
            f"No adapter named {missing[0]!r} with weights for {identity.name} in the registry "
            f"(there are: {', '.join(sorted(by_name)) or 'none'}). `adapt list` shows them."
        )
    return [by_name[name] for name in dict.fromkeys(names)]


def _describe_task(
    task: "Task",
    dataset: Dataset,
    registry: Registry,
    base: "BaseModel",
    progress: Progress | None,
) -> "Task":
    """The task with the fingerprint of its rows, from the registry where it has one."""
    from adapt_lora.registry.fingerprint import fingerprint_dataset

    record = task.record
    for known in registry.tasks(base.identity):
        if known.dataset.digest == record.dataset.digest and known.fingerprint.values:
            return replace(task, record=replace(record, fingerprint=known.fingerprint))
    rows = replace(dataset, rows=task.rows)
    fingerprint = fingerprint_dataset(
        rows, base=base, progress=of_step(progress, f"fingerprint {record.name}")
    )
    return replace(task, record=replace(record, fingerprint=fingerprint))


@dataclass(frozen=True, slots=True)
class _ReadTask:
    """A task that can be scored."""

    source: str | Path
    rows: Dataset
    task: "Task"


@dataclass(frozen=True, slots=True)
class _MadeTasks:
    usable: tuple[_ReadTask, ...]
    failures: "tuple[CellFailure, ...]"

    @property
    def tasks(self) -> "list[Task]":
        return [read.task for read in self.usable]


def _make_tasks(
    sources: Sequence[str | Path],
    *,
    metric: str,
    max_rows: int | None,
    seed: int,
    mapping: Mapping[str, str] | None,
) -> _MadeTasks:
    """Tasks of all sources that can be scored, and why the others can't."""
    from adapt_lora.evaluator import CellFailure, make_task

    usable: list[_ReadTask] = []
    failures: list[CellFailure] = []
    for source in sources:
        try:
            rows = read_dataset(source, mapping=mapping)
            task = make_task(rows, metric=metric, max_rows=max_rows, seed=seed)
            usable.append(_ReadTask(source, rows, task))
        except AdaptError as error:
            if len(sources) == 1:
                raise
            failures.append(CellFailure(EVERY_ROW, Path(source).name, str(error)))
            last = error
    if not usable:
        raise last
    return _MadeTasks(tuple(usable), tuple(failures))


def _draw_examples(
    tasks: Sequence[_ReadTask],
    shots: int | None,
    sources: Sequence[str | Path],
    *,
    seed: int,
    mapping: Mapping[str, str] | None,
) -> "tuple[dict[str, Shots] | None, list[CellFailure]]":
    """Examples by task, and the tasks that have none to show; None without shots."""
    from adapt_lora.evaluator import CellFailure, draw_shots

    if shots is None:
        if sources:
            raise ConfigError("--shots-from says where examples come from; say how many: --shots.")
        return None, []
    files = [read for read in tasks if Path(read.source).is_file()]
    if len(sources) != len(files):
        raise ConfigError(
            f"--shots needs one --shots-from for each task that is a file "
            f"({', '.join(Path(read.source).name for read in files) or 'none is'}), in their "
            f"order, but {len(sources)} are given. Folders bring their own train.jsonl."
        )
    given = dict(zip((read.source for read in files), sources, strict=True))
    examples: dict[str, Shots] = {}
    failures: list[CellFailure] = []
    for read in tasks:
        name, taken = read.task.record.name, {row.digest for row in read.rows.rows}
        try:
            pool = read_dataset(given.get(read.source, read.source), mapping=mapping, split="train")
            examples[name] = draw_shots(pool.rows, read.task, shots, seed=seed, taken=taken)
        except AdaptError as error:
            if len(tasks) == 1:
                raise
            failures.append(CellFailure(EVERY_ROW, name, str(error)))
    return examples, failures


def _choose_rows(
    registry: Registry, identity: BaseIdentity, names: Sequence[str] | None, shots: int | None
) -> list[AdapterRecord]:
    """The adapters to be measured: with examples in the prompt only those that are named."""
    if shots is not None and names is None:
        return []
    return _choose_adapters(registry, identity, names)


@dataclass(frozen=True, slots=True)
class _Work:
    """A plan and what measures it."""

    backend: "Backend"
    plan: "MatrixPlan"
    graders: "Mapping[str, Grader]"


def _describe_plan(
    work: _Work, base: "BaseModel", adapters: Sequence[AdapterRecord]
) -> EvaluationPlan:
    from adapt_lora.evaluator import Pace, measure_pace, unit_seconds

    pace = measure_pace(work.backend, work.plan)
    names = _row_names(adapters, work)
    rate = pace or Pace(1.0)
    return EvaluationPlan(
        base=base.identity.name,
        cells=tuple(
            PlannedCell(
                adapter=names[unit.row],
                task=unit.task.record.name,
                n_tokens=unit.n_tokens,
                estimated_s=unit_seconds(unit, rate),
            )
            for unit in work.plan.units
        ),
        n_cells=work.plan.n_cells,
        estimated_s=work.plan.estimated_s(rate),
        tokens_per_s=None if pace is None else pace.read_tokens_per_s,
    )


def _row_names(adapters: Sequence[AdapterRecord], work: _Work) -> dict[MatrixRow, str]:
    """What people call the rows of a plan."""
    models = {BASE_ID: "base model", MAJORITY_ID: MAJORITY_ID}
    models |= {record.adapter_id: record.name for record in adapters}
    rows = (BASE_ROW, MAJORITY_ROW, *(record.row for record in adapters))
    planned = (unit.row for unit in work.plan.units)
    return {row: row.of(models[row.model]).label for row in (*rows, *planned)}


def _describe_tasks(
    work: _Work,
    tasks: Sequence[_ReadTask],
    registry: Registry,
    base: "BaseModel",
    progress: Progress | None,
) -> "tuple[_Work, list[CellFailure]]":
    """The work with the fingerprints of its tasks, each kept at once; without broken tasks."""
    from adapt_lora.evaluator import CellFailure, failure_reason

    pending = {unit.task.record.name for unit in work.plan.units}
    described: dict[str, Task] = {}
    failures: list[CellFailure] = []
    for read in tasks:
        name = read.task.record.name
        if name not in pending:
            continue
        try:
            described[name] = _describe_task(read.task, read.rows, registry, base, progress)
        except Exception as error:  # whatever one task brings down, the others go on
            failures.append(CellFailure(EVERY_ROW, name, failure_reason(error)))
            continue
        registry.add_tasks(base.identity, [described[name].record])
    units = tuple(
        replace(unit, task=described[unit.task.record.name])
        for unit in work.plan.units
        if unit.task.record.name in described
    )
    return replace(work, plan=replace(work.plan, units=units)), failures


def _run(
    work: _Work,
    base: "BaseModel",
    registry: Registry,
    adapters: Sequence[AdapterRecord],
    progress: Progress | None,
    *,
    say: Callable[[str], None] | None = None,
    keep_text: bool = False,
    elsewhere: "MeasureElsewhere | None" = None,
) -> "MatrixReport":
    from adapt_lora.evaluator import run_plan

    names = _row_names(adapters, work)
    work, failures = _with_weights(work, registry, adapters)
    keeper = _CellKeeper(base.identity, registry, adapters, names, work.plan.units, say)
    report = run_plan(
        work.backend,
        work.plan,
        save_cell=keeper.save,
        progress=keeper.named(progress),
        keep_text=keep_text,
        graders=work.graders,
        base_predictions=base_predictions(registry, base.identity),
        elsewhere=elsewhere,
    )
    keeper.close()
    return replace(report, failures=(*failures, *report.failures))


def _on_cluster(
    units: "Sequence[CellUnit]",
    *,
    address: str,
    base_model: str | None,
    dtype: str,
    graders: "Mapping[str, Grader]",
    keep_text: bool,
) -> "Iterator[tuple[CellUnit, CellResult | CellFailure]]":
    """Units measured one by one by the workers of a Ray cluster, adapter by adapter."""
    from adapt_lora.cluster import spread
    from adapt_lora.evaluator import CellFailure

    make = functools.partial(_cell_worker, base_model, dtype, dict(graders), keep_text=keep_text)
    for end in spread(units, make, address=address, key=lambda unit: unit.folder):
        unit = units[end.index]
        lost = CellFailure(unit.row, unit.task.record.name, end.reason or "")
        yield unit, end.result or lost


def _cell_worker(
    base_model: str | None, dtype: str, graders: "Mapping[str, Grader]", *, keep_text: bool
) -> "Callable[[CellUnit], CellResult | CellFailure]":
    """What measures units in a worker of a cluster."""
    from adapt_lora.evaluator import TransformersBackend, measure_units

    backend = TransformersBackend(load_base_model(base_model, dtype=dtype))

    def measure(unit: "CellUnit") -> "CellResult | CellFailure":
        (outcome,) = measure_units(backend, [unit], graders=graders, keep_text=keep_text)
        return outcome

    return measure


def _with_weights(
    work: _Work, registry: Registry, adapters: Sequence[AdapterRecord]
) -> "tuple[_Work, list[CellFailure]]":
    """The work of adapters whose files are on this disk now, and why the others' are not."""
    from adapt_lora.evaluator import CellFailure, failure_reason

    pending = {unit.folder for unit in work.plan.units}
    lost: dict[Path, CellFailure] = {}
    for record in adapters:
        place = _weights_place(record)
        if place in pending:
            try:
                fetch_weights(registry, record)
            except Exception as error:  # of fifty adapters one may have lost its files
                lost[place] = CellFailure(record.row, EVERY, failure_reason(error))
    units = tuple(unit for unit in work.plan.units if unit.folder not in lost)
    return replace(work, plan=replace(work.plan, units=units)), list(lost.values())


class _CellKeeper:
    """Files cells as they come, and pictures of a row once the row is through."""

    def __init__(
        self,
        identity: BaseIdentity,
        registry: Registry,
        adapters: Sequence[AdapterRecord],
        names: Mapping[MatrixRow, str],
        units: "Sequence[CellUnit]",
        say: Callable[[str], None] | None,
    ) -> None:
        self.identity, self.registry, self.names, self.say = identity, registry, names, say
        self.by_id = {record.adapter_id: record for record in adapters}
        self.tasks = {unit.task.record.name: unit.task.record for unit in units}
        self.places = [f"{names[unit.row]} on {unit.task.record.name}" for unit in units]
        self.ends = list(accumulate(unit.n_tokens for unit in units))
        self.left = Counter(unit.row for unit in units)
        self.rows: dict[MatrixRow, list[CellOutcomes]] = {}

    def save(self, result: "CellResult") -> None:
        """File a cell, and say so."""
        from adapt_lora.report.outcomes import cell_outcomes

        cell = result.cell
        task = self.tasks[cell.task]
        model = self.by_id.get(cell.row.model, MatrixRow(cell.row.model))
        self.registry.add_cells(self.identity, model, task, [cell], result.predictions)
        outcomes = cell_outcomes(task, result.predictions)
        if outcomes is not None:
            self.rows.setdefault(cell.row, []).append(outcomes)
        self.left[cell.row] -= 1
        if not self.left[cell.row]:
            self._draw(cell.row)
        if self.say is not None:
            error = "" if cell.se is None else f" ± {cell.se:.3f}"
            self.say(
                f"{self.names[cell.row]} on {cell.task}: {cell.metric} {cell.score:.3f}"
                f"{error}, {result.seconds:.1f} s"
            )

    def close(self) -> None:
        """Draw the rows that lack a cell that failed."""
        for row in list(self.rows):
            self._draw(row)

    def _draw(self, row: MatrixRow) -> None:
        from adapt_lora.report.plots import plot_outcomes

        outcomes = self.rows.pop(row, [])
        if outcomes:
            with tempfile.TemporaryDirectory(prefix="adapt-plots-") as scratch:
                plots = plot_outcomes(outcomes, Path(scratch), title=self.names[row])
                self.registry.add_evaluation_plots(self.identity, row, plots)

    def named(self, progress: Progress | None) -> Callable[[int, int], None] | None:
        """Progress in tokens, under the name of the cell in hand."""
        if progress is None:
            return None

        def update(done: int, total: int) -> None:
            number = min(bisect_right(self.ends, done), len(self.places) - 1)
            progress(f"evaluate: {self.places[number]}", done, total)

        return update


def base_predictions(
    registry: Registry, identity: BaseIdentity
) -> "Callable[[str, str], Sequence[Prediction]]":
    """Finds what the bare base answered in an earlier run."""

    @functools.cache  # every adapter asks for the same
    def find(task: str, protocol: str) -> Sequence[Prediction]:
        try:
            return registry.predictions(identity, BASE_ROW, task, protocol=protocol)
        except NotFoundError:
            return ()

    return find


def _graded_tasks(made: _MadeTasks, grading: Grading) -> "tuple[_MadeTasks, dict[str, Grader]]":
    """The tasks whose answers can be graded as `grading` allows, and what grades them."""
    from adapt_lora.evaluator import CellFailure, needed_grader

    graders = make_graders(grading, made.tasks)
    usable: list[_ReadTask] = []
    failures = list(made.failures)
    for read in made.usable:
        try:
            needed_grader(read.task, graders)
            usable.append(read)
        except AdaptError as error:
            if len(made.usable) + len(made.failures) == 1:
                raise
            failures.append(CellFailure(EVERY_ROW, read.task.record.name, str(error)))
            last = error
    if not usable:
        raise last
    return _MadeTasks(tuple(usable), tuple(failures)), graders


def _protection(graders: "Mapping[str, Grader]") -> str | None:
    """What stands between this machine and code that a model wrote; None where none is run."""
    from adapt_lora.evaluator import CodeRunner

    runner = graders.get("pass_at_1")
    return runner.protection.describe() if isinstance(runner, CodeRunner) else None


def _weights_place(record: AdapterRecord) -> Path:
    """Where the adapter's files are kept on this disk."""
    return cache_dir() / "adapters" / record.adapter_id[:32]


def make_graders(grading: Grading, tasks: Sequence["Task"]) -> "dict[str, Grader]":
    """What grades answers by more than their reference, where one of the tasks needs it.

    Raises:
        CodeExecutionError: Code can't be run here behind enough protection.
    """
    from adapt_lora.evaluator import Judge, open_runner

    metrics = {task.record.metric for task in tasks}
    graders: dict[str, Grader] = {}
    if grading.judge_url is not None and grading.judge_model is not None:
        graders["judge_accuracy"] = Judge(
            grading.judge_url,
            grading.judge_model,
            cache_dir() / "judge" / "verdicts.sqlite",
            api_key=os.environ.get("ADAPT_JUDGE_API_KEY") or os.environ.get("OPENAI_API_KEY"),
        )
    if grading.allow_code_execution and "pass_at_1" in metrics:
        graders["pass_at_1"] = open_runner(accept_weak=grading.accept_weak_sandbox)
    return {metric: grader for metric, grader in graders.items() if metric in metrics}


def fetch_weights(registry: Registry, record: AdapterRecord) -> Path:
    """The adapter's files on this disk; content never changes under an adapter's id."""
    folder = _weights_place(record)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        registry.pull(f"{record.name}/{record.version}", folder, record.base)
    return folder


def _renew_cards(registry: Registry, matrix: TransferMatrix, adapter_ids: Collection[str]) -> None:
    """Put the measured gains on the cards of these adapters."""
    from adapt_lora.report.card import adapter_card_html, adapter_card_markdown
    from adapt_lora.report.gains import adapter_gains

    for record in matrix.adapters:
        if record.adapter_id in adapter_ids:
            gains = adapter_gains(matrix, record)
            registry.set_card(
                record,
                markdown=adapter_card_markdown(record, gains),
                html=adapter_card_html(record, gains),
            )


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
