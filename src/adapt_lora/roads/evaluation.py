"""Adapters × tasks: what would be measured, and measuring it."""

import functools
import shutil
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from adapt_lora.errors import AdapterError, NotFoundError, RegistryError, failure_reason
from adapt_lora.model.base import BaseIdentity, cache_dir, load_base_model
from adapt_lora.registry import Registry
from adapt_lora.registry.adapter_files import WEIGHTS_FILE, read_config
from adapt_lora.registry.records import (
    BASE_ID,
    BASE_ROW,
    MAJORITY_ROW,
    AdapterRecord,
    Fingerprint,
    MatrixRow,
    Prediction,
    TransferMatrix,
    row_labels,
)
from adapt_lora.results import Evaluation, EvaluationPlan, PlannedCell
from adapt_lora.roads.progress import Progress, of_step

if TYPE_CHECKING:
    from adapt_lora.data import DataSource
    from adapt_lora.evaluator import (
        CellFailure,
        CellResult,
        EvaluationRequest,
        MatrixPlan,
        MatrixReport,
        Measuring,
        Protocol,
        ReadTask,
        ReadTasks,
        Task,
    )
    from adapt_lora.model.base import BaseModel
    from adapt_lora.model.scoring import Steps
    from adapt_lora.report.confusion import CellOutcomes


def plan_evaluation(
    request: "EvaluationRequest | DataSource | Sequence[DataSource]",
    *,
    registry: Registry,
    say: Callable[[str], None] | None = None,
) -> EvaluationPlan:
    """What `evaluate` would measure and how long it would take; writes nothing.

    Arguments as for `evaluate`, and its errors; `say` is told what was read. The backend is opened,
    since what is measured already and how fast the rest goes depend on it.
    """
    from adapt_lora.evaluator import EvaluationRequest

    request = EvaluationRequest.of(request)
    with _prepared(request, registry, meet_base=registry.base_warning, say=say) as ready:
        plan = _describe_plan(ready)
    failures = (*ready.read.failures, *_losses(ready.plan, ready.lost))
    return replace(plan, failures=failures, read=ready.read.echoes, warnings=tuple(ready.warnings))


def evaluate(
    request: "EvaluationRequest | DataSource | Sequence[DataSource]",
    *,
    registry: Registry,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Evaluation:
    """Measure adapters × tasks, cell by cell, leaving out what is measured already.

    A task or an adapter that can't be used is named among the report's failures; the others go on.

    Args:
        request: What is measured, and how; plain tasks stand for a request with defaults.
        registry: Where the adapters are and the cells go.
        progress: Told (“evaluate: ADAPTER on TASK”, tokens done, in all).
        say: Told which backend measures, the plan before it starts, and every cell as it is done.

    Raises:
        AdaptError: None of the tasks can be scored as asked; nothing has been measured then.
        NotFoundError: There is no adapter of that name.
        CodeExecutionError: Code can't be run here behind enough protection.
        ServerError: The server can't be used.
    """
    from adapt_lora.evaluator import EvaluationRequest, code_protection

    request = EvaluationRequest.of(request)
    with _prepared(request, registry, meet_base=registry.ensure_base, say=say) as ready:
        if say is not None:
            say(_describe_plan(ready).describe())
            for failure in ready.read.failures:
                say(f"Left out: {failure.task}: {failure.reason}")
        report = _measure(ready, progress, say)
    identity = ready.base.identity
    matrix = registry.transfer_matrix(identity)
    registry.update_scores(identity)
    _renew_cards(registry, matrix, {cell.row.model for cell in report.cells})
    registry.ensure_views(identity)
    return Evaluation(
        report,
        matrix,
        tuple(ready.warnings),
        names=ready.names,
        read=ready.read.echoes,
        code_protection=code_protection(ready.measuring.graders),
    )


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Everything that is chosen, read and opened before the first cell is measured."""

    request: "EvaluationRequest"
    """What is asked for."""
    registry: Registry
    """Where the adapters are and the cells go."""
    base: "BaseModel"
    """Loaded."""
    adapters: Sequence[AdapterRecord]
    """Those that are asked for."""
    read: "ReadTasks"
    """What became of the tasks' sources."""
    measuring: "Measuring"
    """With the backend open."""
    plan: "MatrixPlan"
    """The cells that are not measured yet."""
    lost: Mapping[Path, "CellFailure"]
    """By folder, adapters whose files the backend needed at once and that can't be had."""
    warnings: list[str]
    """Grows while cells are measured."""
    labels: Mapping[str, str]
    """What people call each adapter of this base model, by id."""

    @property
    def names(self) -> dict[MatrixRow, str]:
        """What people call the rows of the plan."""
        labels = {BASE_ID: "base model", **self.labels}
        rows = (BASE_ROW, MAJORITY_ROW, *(record.row for record in self.adapters))
        planned = (unit.row for unit in self.plan.units)
        return {row: row.of(labels.get(row.model, row.name)).label for row in (*rows, *planned)}


@contextmanager
def _prepared(
    request: "EvaluationRequest",
    registry: Registry,
    *,
    meet_base: Callable[[BaseIdentity], str | None],
    say: Callable[[str], None] | None = None,
) -> Iterator[_Prepared]:
    """What there is to measure, with its backend open for the duration of a `with` block.

    `meet_base` says what is odd about the base's weights.
    """
    from adapt_lora.evaluator import Measuring, make_graders, open_backend, read_tasks

    read = read_tasks(request, say=say)
    graders = make_graders(request.grading, read.tasks)
    base = load_base_model(request.base_model)
    warning = meet_base(base.identity)
    warnings = [*([warning] if warning else []), *_idle_options(request, read.tasks)]
    adapters = _choose_adapters(request, registry, base.identity)
    # An engine is made for the adapters it will have.
    early = request.backend in ("vllm", "openai") or base.device.startswith("cuda")
    lost = _fetch_all(registry, adapters) if early else {}
    measured = registry.measured(base.identity)
    folders = {weights_place(record.adapter_id): record.name for record in adapters}
    with open_backend(request, base, folders, say=say, warn=warnings.append) as backend:
        if say is not None:
            for dataset in (*(task.dataset for task in read.usable), *read.pools):
                say(dataset.describe())
        measuring = Measuring(
            backend,
            decision=request.grading.decision,
            graders=graders,
            keep_text=request.keep_text,
            base_predictions=base_predictions(registry, base.identity, warn=warnings.append),
            recall=recall_rows(registry, base.identity, warn=warnings.append),
        )
        plan = measuring.plan(
            [(record.row, weights_place(record.adapter_id)) for record in adapters],
            read.tasks,
            measured=measured,
            shots=read.shots,
        )
        labels = row_labels(registry.adapters(base.identity))
        yield _Prepared(
            request, registry, base, adapters, read, measuring, plan, lost, warnings, labels
        )


def _idle_options(request: "EvaluationRequest", tasks: "Sequence[Task]") -> list[str]:
    """Options that can't have an effect on any of these tasks, a sentence each."""
    grading, metrics = request.grading, {task.record.metric for task in tasks}
    written = any(task.is_generated for task in tasks)
    idle = {
        f"--decision {grading.decision}": (
            grading.decision != "sum" and not any(task.is_label_task for task in tasks),
            "no task has labels",
        ),
        "--keep-text": (request.keep_text and not written, "no task has written answers"),
        "--allow-code-execution": (
            grading.allow_code_execution and "pass_at_1" not in metrics,
            "no task is scored by pass@1",
        ),
        "--judge-url": (
            grading.judge_url is not None and "judge_accuracy" not in metrics,
            "no task is scored by judge_accuracy",
        ),
    }
    return [f"{option} had no effect: {why}." for option, (is_idle, why) in idle.items() if is_idle]


def _choose_adapters(
    request: "EvaluationRequest", registry: Registry, identity: BaseIdentity
) -> list[AdapterRecord]:
    """The adapters to be measured: with examples in the prompt only those that are named."""
    if request.adapters is None and request.shots is not None:
        return []
    known = [record for record in registry.adapters(identity) if record.has_weights]
    if request.adapters is None:
        return known
    chosen: dict[str, AdapterRecord] = {}
    for name in request.adapters:
        try:
            record = registry.adapter(name, identity)
        except NotFoundError as error:
            there = ", ".join(sorted({record.name for record in known})) or "none"
            raise NotFoundError(
                f"No adapter named {name!r} with weights for {identity.name} in the registry "
                f"(there are: {there}). `adapt list` shows them.{_elsewhere(registry, name)}"
            ) from error
        if not record.has_weights:
            raise NotFoundError(
                f"{record.name} version {record.version} is known by its figures only, so it can't "
                "be measured. Register it with its weights first."
            )
        chosen[record.adapter_id] = record
    return list(chosen.values())


def _elsewhere(registry: Registry, name: str) -> str:
    """Under which other base models an adapter of this name is filed; "" where under none."""
    bases = {record.base.name for record in registry.adapters() if record.name == name}
    if not bases:
        return ""
    return (
        f" One is filed under {', '.join(sorted(bases))}: name that base with --base-model, or "
        "register the adapter again with the right one."
    )


def _describe_plan(ready: _Prepared) -> EvaluationPlan:
    from adapt_lora.evaluator import Pace, measure_pace

    pace = measure_pace(ready.measuring.backend, ready.plan)
    rate, names = pace or Pace(1.0), ready.names
    cells = []
    for unit in ready.plan.units:
        time = rate.span(unit)
        cells.append(
            PlannedCell(
                adapter=names[unit.row],
                task=unit.task.record.name,
                n_tokens=unit.n_tokens,
                estimated_s=time.likely_s,
                range_s=(time.least_s, time.most_s),
            )
        )
    whole = ready.plan.span(rate)
    return EvaluationPlan(
        base=ready.base.identity.name,
        cells=tuple(cells),
        n_cells=ready.plan.n_cells,
        estimated_s=whole.likely_s,
        tokens_per_s=None if pace is None else pace.read_tokens_per_s,
        range_s=(whole.least_s, whole.most_s),
    )


def _measure(
    ready: _Prepared, progress: Progress | None, say: Callable[[str], None] | None
) -> "MatrixReport":
    """Measure what is planned and file each cell at once; names all that could not be measured."""
    from adapt_lora.evaluator import measure_on_cluster

    plan, undescribed = _describe_tasks(ready, progress)
    pending = {unit.folder for unit in plan.units} - ready.lost.keys()
    wanted = [record for record in ready.adapters if weights_place(record.adapter_id) in pending]
    lost = {**ready.lost, **_fetch_all(ready.registry, wanted)}
    losses = _losses(plan, lost)
    plan = replace(plan, units=tuple(unit for unit in plan.units if unit.folder not in lost))
    elsewhere = None
    if ready.request.ray_address is not None:
        elsewhere = measure_on_cluster(
            plan.units,
            address=ready.request.ray_address,
            request=ready.request,
            dtype=str(ready.base.dtype).removeprefix("torch."),
            graders=ready.measuring.graders,
        )
    filing = _Filing(ready, plan, say)
    report = ready.measuring.run(
        plan,
        filing.save,
        progress=None if progress is None else _of_cells(progress, plan, ready.names),
        elsewhere=elsewhere,
    )
    filing.draw_rest()
    failures = (*ready.read.failures, *undescribed, *losses, *report.failures)
    n_failed = len(ready.plan.units) - len(report.cells) + len(ready.read.failures)
    return replace(report, failures=failures, n_failed=n_failed)


def _describe_tasks(
    ready: _Prepared, progress: Progress | None
) -> "tuple[MatrixPlan, list[CellFailure]]":
    """The plan with the fingerprints of its tasks, each kept at once; without broken tasks."""
    from adapt_lora.evaluator import EVERY_ROW, CellFailure

    base, registry = ready.base, ready.registry
    filed = registry.tasks(base.identity)
    # A task whose entry was lost is filed again, even if all its cells are there.
    pending = {unit.task.record.name for unit in ready.plan.units}
    pending |= {read.task.record.name for read in ready.read.usable} - {t.name for t in filed}
    known = {
        task.dataset.digest: task.fingerprint for task in reversed(filed) if task.fingerprint.values
    }
    described: dict[str, Task] = {}
    failures: list[CellFailure] = []
    for read in ready.read.usable:
        record = read.task.record
        if record.name not in pending:
            continue
        try:
            fingerprint = known.get(record.dataset.digest) or _fingerprint(read, base, progress)
            known[record.dataset.digest] = fingerprint
        except Exception as error:  # whatever one task brings down, the others go on
            failures.append(CellFailure(EVERY_ROW, record.name, failure_reason(error)))
            continue
        record = replace(record, fingerprint=fingerprint)
        described[record.name] = replace(read.task, record=record)
        registry.add_tasks(base.identity, [record])
    units = tuple(
        replace(unit, task=described[unit.task.record.name])
        for unit in ready.plan.units
        if unit.task.record.name in described
    )
    return replace(ready.plan, units=units), failures


def _fingerprint(read: "ReadTask", base: "BaseModel", progress: Progress | None) -> Fingerprint:
    """Of the rows that are scored."""
    from adapt_lora.registry.fingerprint import fingerprint_dataset

    return fingerprint_dataset(
        replace(read.dataset, rows=read.task.rows),
        base=base,
        progress=of_step(progress, f"fingerprint {read.task.record.name}"),
    )


def weights_place(adapter_id: str) -> Path:
    """Where an adapter's files are kept on this disk."""
    return cache_dir() / "adapters" / adapter_id[:32]


def fetch_weights(registry: Registry, record: AdapterRecord) -> Path:
    """The adapter's files on this disk; content never changes under an adapter's id."""
    folder = weights_place(record.adapter_id)
    if not _is_whole(folder):
        # What a cleaner left of the copy is no copy, and one that can't be loaded may be mended.
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        registry.pull(record, folder)
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        read_config(folder)
    except AdapterError:
        return False
    return (folder / WEIGHTS_FILE).is_file()


def _fetch_all(registry: Registry, adapters: Sequence[AdapterRecord]) -> "dict[Path, CellFailure]":
    """Have the files of all adapters on this disk; of those that can't be had, why, by folder."""
    from adapt_lora.evaluator import EVERY, CellFailure

    lost: dict[Path, CellFailure] = {}
    for record in adapters:
        try:
            fetch_weights(registry, record)
        except Exception as error:  # of fifty adapters one may have lost its files
            reason = failure_reason(error)
            lost[weights_place(record.adapter_id)] = CellFailure(record.row, EVERY, reason)
    return lost


def _losses(plan: "MatrixPlan", lost: "Mapping[Path, CellFailure]") -> "list[CellFailure]":
    """Why adapters of the plan have no files here."""
    folders = dict.fromkeys(unit.folder for unit in plan.units if unit.folder is not None)
    return [lost[folder] for folder in folders if folder in lost]


class _Filing:
    """Files cells as they come, and pictures of a row once the row is through."""

    def __init__(
        self, ready: _Prepared, plan: "MatrixPlan", say: Callable[[str], None] | None
    ) -> None:
        self.identity, self.registry, self.say = ready.base.identity, ready.registry, say
        self.names = ready.names
        self.by_id = {record.adapter_id: record for record in ready.adapters}
        self.tasks = {unit.task.record.name: unit.task.record for unit in plan.units}
        self.left = Counter(unit.row for unit in plan.units)
        self.rows: dict[MatrixRow, list[CellOutcomes]] = {}

    def save(self, result: "CellResult") -> None:
        """File a cell, and say so."""
        from adapt_lora.report.confusion import cell_outcomes

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

    def draw_rest(self) -> None:
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


def _of_cells(progress: Progress, plan: "MatrixPlan", names: Mapping[MatrixRow, str]) -> "Steps":
    """Progress in tokens, under the name of the cell in hand."""
    places = [f"{names[unit.row]} on {unit.task.record.name}" for unit in plan.units]
    ends = list(accumulate(unit.n_tokens for unit in plan.units))

    def update(done: int, total: int) -> None:
        number = min(bisect_right(ends, done), len(places) - 1)
        progress(f"evaluate: {places[number]}", done, total)

    return update


def base_predictions(
    registry: Registry, identity: BaseIdentity, *, warn: Callable[[str], None]
) -> Callable[[str, str], Sequence[Prediction]]:
    """Finds what the bare base answered in an earlier run; warns where that can't be read."""

    @functools.cache  # every adapter asks for the same
    def find(task: str, protocol: str) -> Sequence[Prediction]:
        try:
            return registry.predictions(identity, BASE_ROW, task, protocol=protocol)
        except NotFoundError:
            return ()
        except RegistryError as error:
            warn(
                f"What the base answered on {task} can't be read, so gains over it are not "
                f"tested row by row there: {error}"
            )
            return ()

    return find


def recall_rows(
    registry: Registry, identity: BaseIdentity, *, warn: Callable[[str], None]
) -> "Callable[[MatrixRow, Protocol], Mapping[str, Prediction]]":
    """Finds what was answered before; warns where that can't be read, and it is run again."""
    known = registry.recall(identity)

    def recall(row: MatrixRow, protocol: "Protocol") -> Mapping[str, Prediction]:
        try:
            return known.find(row, lambda rows: replace(protocol, rows=rows).digest)
        except RegistryError as error:
            warn(f"What {row.label} answered before can't be read, so it is run again: {error}")
            return {}

    return recall


def _renew_cards(registry: Registry, matrix: TransferMatrix, adapter_ids: Collection[str]) -> None:
    """Put the measured gains on the cards of these adapters."""
    from adapt_lora.report.card import adapter_card_html, adapter_card_markdown
    from adapt_lora.report.transfer import adapter_gains

    for record in matrix.adapters:
        if record.adapter_id in adapter_ids:
            gains = adapter_gains(matrix, record)
            registry.set_card(
                record,
                markdown=adapter_card_markdown(record, gains),
                html=adapter_card_html(record, gains),
            )
