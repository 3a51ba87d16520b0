"""The roads of Adapt as plain functions: register, train, evaluate, fit traits, recommend.

The command line and Python callers walk the same roads. Here, and only here, the rooms meet: what
is trained gets registered, what is registered gets measured, what is measured ranks the next task.
"""

import functools
import hashlib
import json
import os
import platform
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from adapt_lora.base_model import BaseIdentity, cache_dir, find_base_model, load_base_model
from adapt_lora.data import Dataset, read_dataset
from adapt_lora.errors import (
    AdaptError,
    BaseModelError,
    ConfigError,
    DatasetError,
    MatrixError,
    NotFoundError,
    RecommendError,
    TrainingError,
)
from adapt_lora.registry import Registry
from adapt_lora.registry.layout import registered_name
from adapt_lora.registry.records import (
    BASE_ID,
    MAJORITY_ID,
    AdapterRecord,
    DatasetRecord,
    Fingerprint,
    Prediction,
    StepRecord,
    TransferMatrix,
    few_shot_row,
)

if TYPE_CHECKING:
    import pandas as pd

    from adapt_lora.base_model import BaseModel
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
        TargetMeter,
        Task,
    )
    from adapt_lora.recommender import Recommendation
    from adapt_lora.recommender.ranking import FittedRanking
    from adapt_lora.recommender.traits import Traits
    from adapt_lora.registry.adapter import Adapter
    from adapt_lora.registry.lm_eval import HarnessCell, HarnessResults
    from adapt_lora.report.outcomes import CellOutcomes
    from adapt_lora.trainer import EpochRecord, Processes, Recipe, StepMetrics, TrainingResult

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, in all); the unit is the step's own."""

STARTER = "starter"
"""What `import_results` takes for the registry that comes with Adapt."""

EVERY = "*"
"""In a failure: every row of the matrix, or every task."""

TARGET_TOKENS = 8_000
"""Tokens of a target that are read for its fingerprint."""


@dataclass(frozen=True, slots=True)
class Training:
    """What `train` leaves behind."""

    folder: Path | None
    """The PEFT folder; None when an equal adapter was registered before and nothing was trained."""
    record: AdapterRecord | None
    """The registered adapter; None with `registry=None`."""
    result: "TrainingResult | None"
    """Loss curve and figures; None when nothing was trained."""
    dataset: Dataset
    """The rows that were read."""
    epochs: tuple[AdapterRecord, ...] = ()
    """Earlier epochs that were registered as versions of their own, where the recipe keeps them."""


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
    names: Mapping[str, str] = field(default_factory=dict)
    """What people call the rows, by their ids in cells and failures."""


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

    def to_json(self) -> dict[str, Any]:
        """The `verification` object of `recommend --json`."""
        return {
            "rounds": [{"n_adapters": n, "n_rows": rows} for n, rows in self.rounds],
            "n_rows": self.n_rows,
            "estimated_s": round(self.estimated_s, 1),
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True, slots=True)
class TargetRanking:
    """The answer of `recommend`."""

    recommendation: "Recommendation"
    """The ranking, with the base model competing."""
    target: Dataset
    """The rows that were read."""
    fingerprint: Fingerprint
    """Of the target."""
    base: BaseIdentity
    """The base model all of it is about."""
    metric: str
    """What gains are counted in."""
    timing_s: Mapping[str, float]
    """Seconds per step."""
    warnings: tuple[str, ...] = ()
    """Sentences about the registry or the base that are not about one adapter."""
    verification: "VerificationReport | None" = None
    """What was measured on the target; None where nothing was."""
    figures_only: frozenset[str] = frozenset()
    """Ids of ranked adapters whose weights the registry does not have."""

    def to_pandas(self) -> "pd.DataFrame":
        """One row per adapter, best first."""
        return self.recommendation.to_pandas()

    def _repr_html_(self) -> str:
        """The ranking as a notebook shows it."""
        return self.recommendation._repr_html_()

    def to_json(self) -> dict[str, Any]:
        """The object that `adapt recommend --json` prints."""
        content = self.recommendation.to_json()
        for entry in content["ranking"]:
            entry["has_weights"] = entry["adapter_id"] not in self.figures_only
        target = {
            "name": self.target.name,
            "n_rows": len(self.target.rows),
            "shape": self.target.shape,
            "labelled": self.target.is_labelled,
            "metric": self.metric,
            "fingerprint": dict(self.fingerprint.values),
        }
        answer: dict[str, Any] = {"schema_version": 1, "target": target}
        answer["base_model"] = self.base.name
        answer |= {key: value for key, value in content.items() if key not in answer}
        if self.verification is not None:
            answer["verification"] = self.verification.to_json()
        answer["timing_s"] = {key: round(value, 3) for key, value in self.timing_s.items()}
        if self.warnings:
            answer["warnings"] = [*answer.get("warnings", []), *self.warnings]
        return answer


def register(
    source: str | Path,
    *,
    registry: Registry,
    dataset: str | Path | None = None,
    group: str | None = None,
    name: str | None = None,
    base_model: str | None = None,
    mapping: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> AdapterRecord:
    """Check an adapter and file it in the registry, with fingerprints of all that is known.

    Registering the same content again returns the entry that is there.

    Args:
        source: Folder, Hub id, `models:/…` or `runs:/…`.
        registry: Where it goes.
        dataset: Its training data, if known; else the dataset part stays empty.
        group: What twins of the training data share; the dataset's own group otherwise.
        name: Name of the entry; the source's last part otherwise.
        base_model: The base it sits on, where its own configuration does not say.
        mapping: Field names of the dataset, as for `read_dataset`.
        progress: Told about each step.

    Raises:
        AdapterError: A check failed; nothing was written.
    """
    legal_name = registered_name(name or _entry_name(str(source)))
    rows = None
    if dataset is not None:
        rows = read_dataset(dataset, mapping=mapping, group=group, split="train")
    with tempfile.TemporaryDirectory(prefix="adapt-register-") as scratch:
        folder = _fetch(str(source), registry, Path(scratch))
        return _file_adapter(
            folder,
            registry=registry,
            dataset=rows,
            group=group,
            name=legal_name,
            base_model=base_model,
            progress=progress,
        )


def train(
    dataset: str | Path,
    *,
    name: str,
    registry: Registry | None,
    recipe: "Recipe",
    base_model: str | None = None,
    base: "BaseModel | None" = None,
    output: Path | None = None,
    mapping: Mapping[str, str] | None = None,
    group: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Training:
    """Train a LoRA adapter on a dataset and register it.

    An adapter of this name, trained on the same rows by the same recipe, is not trained again. A
    call that was killed goes on from its last checkpoint when it is made again. Where `torchrun` or
    `accelerate launch` started several processes, all train together; the first alone writes,
    registers and speaks, and the others get a `Training` without folder and record.

    Args:
        dataset: File, folder with train.jsonl, or Hub id.
        name: Name of the adapter.
        registry: Where it goes; None leaves a plain PEFT folder in `output`.
        recipe: How to train.
        base_model: As for `load_base_model`.
        base: That model, where it is loaded already.
        output: Folder for the PEFT files; needed without a registry.
        mapping: Field names, as for `read_dataset`.
        group: What twins of the dataset share.
        progress: Told (“train NAME”, steps done, in all), then about the fingerprint.
        say: Told what a person should know, as it arises.

    Raises:
        TrainingError: Training can't start or had to stop.
    """
    from adapt_lora.trainer import join_processes

    if registry is not None:
        name = registered_name(name)
    with join_processes() as processes:
        rows = read_dataset(dataset, mapping=mapping, group=group, split="train")
        if not processes.is_first:
            return _help_to_train(rows, name, recipe, base_model, base, processes)
        if registry is not None:
            known = find_training(registry, name, rows, recipe, base_model=base_model)
            if processes.tell_all(known is not None) and known is not None:
                if output is not None and not output.exists():
                    registry.pull(f"{known.name}/{known.version}", output, known.base)
                return Training(output, known, None, rows)
        else:
            processes.tell_all(False)
        if base is None:
            base = load_base_model(base_model, dtype=recipe.dtype)
        with _workshop(name, rows, recipe, base, output) as shop:
            return _train_here(
                rows,
                name=name,
                registry=registry,
                recipe=recipe,
                base=base,
                shop=shop,
                keep_folder=output is not None,
                group=group,
                processes=processes,
                progress=progress,
                say=say,
            )


def _help_to_train(
    rows: Dataset,
    name: str,
    recipe: "Recipe",
    base_model: str | None,
    base: "BaseModel | None",
    processes: "Processes",
) -> Training:
    """The part of a process that is not the first: its share of each step, and nothing else."""
    from adapt_lora.trainer import train_adapter

    if processes.tell_all(False):  # the first one's word counts: it is registered already
        return Training(None, None, None, rows)
    if base is None:
        base = load_base_model(base_model, dtype=recipe.dtype)
    nowhere = Path(name)  # only the first process writes
    train_adapter(base, rows.rows, recipe=recipe, out=nowhere, processes=processes)
    return Training(None, None, None, rows)


def _train_here(
    rows: Dataset,
    *,
    name: str,
    registry: Registry | None,
    recipe: "Recipe",
    base: "BaseModel",
    shop: "_Workshop",
    keep_folder: bool,
    group: str | None,
    processes: "Processes",
    progress: Progress | None,
    say: Callable[[str], None] | None,
) -> Training:
    from adapt_lora.trainer import train_adapter

    result = train_adapter(
        base,
        rows.rows,
        recipe=recipe,
        out=shop.folder,
        labels=rows.labels,
        checkpoint=shop.checkpoint,
        processes=processes,
        progress=_named(progress, f"train {name}"),
        say=say,
    )
    if registry is None:
        return Training(shop.folder, None, result, rows)
    records: list[AdapterRecord] = []
    # The last epoch goes last: it is what "trained already" is told by.
    for epoch in result.epochs:
        if epoch.folder is None and epoch.epoch < recipe.epochs:
            continue
        records.append(
            _file_adapter(
                epoch.folder or shop.folder,
                registry=registry,
                dataset=rows,
                group=group,
                name=name,
                base=base,
                recipe=recipe,
                training=result,
                epoch=epoch if recipe.keep_epochs else None,
                fingerprint=records[0].fingerprint if records else None,
                progress=progress,
            )
        )
    folder = shop.folder if keep_folder else None
    return Training(folder, records[-1], result, rows, tuple(records[:-1]))


def stored_recipe(name: str, registry: Registry, base_model: str | None = None) -> "Recipe":
    """The recipe that a registered adapter was trained by.

    Raises:
        NotFoundError: There is no such adapter.
        ConfigError: It was registered, not trained here.
    """
    from adapt_lora.trainer import recipe_from_params

    identity = None if base_model is None else find_base_model(base_model)
    record = registry.adapter(name, identity)
    try:
        return recipe_from_params(record.params)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


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
) -> "EvaluationPlan":
    """What `evaluate` would measure and how long it would take; writes nothing.

    Arguments as for `evaluate`.
    """
    grading = grading or Grading()
    made = _make_tasks(tasks, metric=metric, max_rows=max_rows, seed=seed, mapping=mapping)
    made, graders = _graded_tasks(made, grading)
    base = load_base_model(base_model)
    warning = registry.base_warning(base.identity)
    examples, lost = _draw_examples(made.usable, shots, shots_from, seed=seed, mapping=mapping)
    chosen = _choose_rows(registry, base.identity, adapters, shots)
    work = _lay_out(
        base,
        registry,
        chosen,
        made.tasks,
        shots=examples,
        decision=grading.decision,
        graders=graders,
    )
    return replace(
        _describe_plan(work, base, chosen),
        failures=(*made.failures, *lost),
        warnings=(warning,) if warning else (),
    )


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
    from adapt_lora.evaluator import open_backend

    if ray_address is not None and backend not in ("auto", "transformers"):
        raise ConfigError(
            f"--ray spreads what transformers measures; leave out --backend {backend}, which "
            "measures many adapters at once by itself."
        )
    grading = grading or Grading()
    made = _make_tasks(tasks, metric=metric, max_rows=max_rows, seed=seed, mapping=mapping)
    made, graders = _graded_tasks(made, grading)
    base = load_base_model(base_model)
    warning = registry.ensure_base(base.identity)
    examples, lost = _draw_examples(made.usable, shots, shots_from, seed=seed, mapping=mapping)
    chosen = _choose_rows(registry, base.identity, adapters, shots)
    warnings = [warning] if warning else []
    if backend in ("vllm", "openai") or base.device.startswith("cuda"):
        for record in chosen:
            # An engine is made for the adapters it will have; one that is lost is named below.
            with suppress(Exception):
                _weights(registry, record)
    if server is not None:
        # An adapter that the server has under its registered name is used as it is there.
        server = replace(server, names={_weights_place(r): r.name for r in chosen})
    with open_backend(
        "transformers" if ray_address is not None else backend,
        base,
        [_weights_place(record) for record in chosen],
        server=server,
        say=say,
        warn=warnings.append,
    ) as scorer:
        work = _lay_out(
            base,
            registry,
            chosen,
            made.tasks,
            shots=examples,
            decision=grading.decision,
            graders=graders,
            backend=scorer,
        )
        early = [*made.failures, *lost]
        if say is not None:
            say(_describe_plan(work, base, chosen).describe())
            for failure in early:
                say(f"Left out: {failure.task}: {failure.reason}")
        work, failed = _describe_tasks(work, made.usable, registry, base, progress)
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
        report = replace(report, failures=(*early, *failed, *report.failures))
    matrix = registry.transfer_matrix(base.identity)
    registry.update_scores(base.identity)
    _renew_cards(registry, matrix, {cell.adapter_id for cell in report.cells})
    registry.ensure_views(base.identity)
    return Evaluation(
        report,
        matrix,
        tuple(warnings),
        names=_row_names(chosen, work),
        code_protection=_protection(graders),
    )


def import_results(
    path: str | Path,
    *,
    registry: Registry,
    adapter: str | None = None,
    base_model: str | None = None,
    pool: bool = False,
    progress: Progress | None = None,
) -> Import:
    """File results that others measured: published runs, or files of lm-evaluation-harness.

    A table of published runs becomes adapters whose weights live elsewhere, with their scores. A
    harness file becomes cells of a registered adapter, or of the bare base. What the registry has
    already is left as it is, so an import that was cut off can be repeated.

    Args:
        path: A CSV as `read_published` describes it, a results file of the harness, a folder with
            such files, a folder that `export_registry` wrote, or "starter" for the one that comes
            with Adapt.
        registry: Where it goes; each base model of a table gets a matrix of its own.
        adapter: Whose harness results they are; None asks the file: the adapter that its `peft=`
            leads to, else the bare base.
        base_model: Base model of harness results, where the registry does not know it by the
            file's `pretrained=`.
        pool: Put harness cells into the registry's own columns of the same tasks and metrics: you
            vouch for equal rows and prompts.
        progress: Told (“import BASE”, adapters written, in all) per base model.

    Raises:
        MatrixError: The file can't be read; nothing was written.
        NotFoundError: The harness measured an adapter that is not registered.
    """
    from adapt_lora.registry.lm_eval import lm_eval_files
    from adapt_lora.registry.portable import EXPORT_FILE
    from adapt_lora.registry.published import read_published

    started = time.perf_counter()
    folder = Path(path)
    if str(path) == STARTER or (folder / EXPORT_FILE).is_file():
        home = starter_folder() if str(path) == STARTER else folder
        return _import_export(home, registry, progress, started)
    if not folder.exists():
        raise MatrixError(
            f"{path}: no such file or folder. Give a CSV of published runs, results of "
            "lm-evaluation-harness, a folder that `adapt export` made, or the word starter."
        )
    files = lm_eval_files(path)
    if files:
        return _import_harness(files, registry, adapter, base_model, pool=pool)
    if Path(path).is_dir():
        raise MatrixError(f"{path}: no results_*.json of lm-evaluation-harness in this folder.")
    if adapter is not None or pool:
        raise ConfigError(
            f"--adapter and --pool are about results of lm-evaluation-harness; {path} is not such "
            "a file."
        )
    published = read_published(path)
    added = []
    for matrix in published.matrices:
        added.append(
            registry.add_matrix(matrix, progress=_named(progress, f"import {matrix.base.name}"))
        )
        registry.ensure_views(matrix.base)
    n_new = sum(addition.n_adapters for addition in added)
    return Import(
        source=published.source,
        bases=tuple(matrix.base.name for matrix in published.matrices),
        n_adapters=n_new,
        n_cells=sum(addition.n_cells for addition in added),
        n_known_adapters=sum(len(matrix.adapters) for matrix in published.matrices) - n_new,
        warnings=published.warnings,
        seconds=time.perf_counter() - started,
    )


def starter_folder() -> Path:
    """Where the starter registry lies: in the installed package, or in a checkout of Adapt.

    Raises:
        NotFoundError: This installation came without it.
    """
    package = Path(__file__).resolve().parent
    for folder in (package.parents[1] / STARTER, package / STARTER):
        if (folder / "registry.json").is_file():
            return folder
    raise NotFoundError(
        "This installation came without a starter registry. `make starter` in a checkout of Adapt "
        "builds one; its folder `starter` can be imported from anywhere."
    )


def _import_export(
    folder: Path, registry: Registry, progress: Progress | None, started: float
) -> Import:
    from adapt_lora.registry.portable import read_export

    export = read_export(folder)
    base = export.matrix.base
    warning = registry.ensure_base(base)
    added = registry.add_matrix(
        export.matrix,
        folders=export.folders,
        progress=_named(progress, f"import {base.name}"),
    )
    if export.trait_fit is not None and registry.trait_fit(base) is None:
        note = f"Traits as they came with {folder.name}; `adapt traits` fits them anew."
        registry.set_trait_fit(base, export.trait_fit, note=note, plots={})
    registry.ensure_views(base)
    return Import(
        source=folder.name,
        bases=(base.name,),
        n_adapters=added.n_adapters,
        n_cells=added.n_cells,
        n_known_adapters=len(export.matrix.adapters) - added.n_adapters,
        warnings=(warning,) if warning else (),
        seconds=time.perf_counter() - started,
    )


def export_registry(
    dest: Path, *, registry: Registry, base_model: str | None = None, with_weights: bool = True
) -> TransferMatrix:
    """Write a base model's adapters, tasks and cells into a folder that `adapt import` reads.

    Figures and, where the registry has them, PEFT files; never rows of anybody's data.

    Args:
        dest: The folder; an export in it is replaced.
        registry: What to export.
        base_model: As for `which_base`.
        with_weights: Whether adapters' files go along.

    Returns:
        What was written.

    Raises:
        NotFoundError: The registry holds nothing of that base.
        RegistryError: The folder can't be written.
    """
    from adapt_lora.registry.portable import Export, write_export

    base = which_base(registry, base_model)
    matrix = registry.transfer_matrix(base)
    if not matrix.adapters and not matrix.cells:
        raise NotFoundError(f"The registry holds nothing of {base.name}, so there is no export.")
    folders = {
        record.adapter_id: _weights(registry, record)
        for record in matrix.adapters
        if with_weights and record.has_weights
    }
    write_export(Export(matrix, folders, registry.trait_fit(base)), dest)
    return matrix


def _import_harness(
    files: Sequence[Path],
    registry: Registry,
    adapter: str | None,
    base_model: str | None,
    *,
    pool: bool,
) -> Import:
    from adapt_lora.registry.lm_eval import read_lm_eval

    started = time.perf_counter()
    read = [read_lm_eval(file) for file in files]
    rows = [_harness_row(results, registry, adapter, base_model) for results in read]
    cells = [
        _pooled(registry, identity, results) if pool else results.cells
        for results, (identity, _) in zip(read, rows, strict=True)
    ]
    n_new = 0
    for (identity, row), found in zip(rows, cells, strict=True):
        registry.ensure_base(identity)
        row_id = row.adapter_id if isinstance(row, AdapterRecord) else row
        measured = registry.measured(identity)
        for one in found:
            if (row_id, one.cell.task, one.cell.protocol) not in measured:
                cell = replace(one.cell, adapter_id=row_id)
                registry.add_cells(identity, row, one.task, [cell], one.predictions)
                n_new += 1
    bases = {identity.name: identity for identity, _ in rows}
    for identity in bases.values():
        registry.update_scores(identity)
        registry.ensure_views(identity)
    known = {row.adapter_id for _, row in rows if isinstance(row, AdapterRecord)}
    return Import(
        source="lm-evaluation-harness",
        bases=tuple(bases),
        n_adapters=0,
        n_cells=n_new,
        n_known_adapters=len(known),
        warnings=tuple(warning for results in read for warning in results.warnings),
        seconds=time.perf_counter() - started,
    )


def _harness_row(
    results: "HarnessResults", registry: Registry, adapter: str | None, base_model: str | None
) -> tuple[BaseIdentity, AdapterRecord | str]:
    """Whose results they are: a registered adapter, or the bare base."""
    identity = which_base(registry, base_model) if base_model else None
    if adapter is not None:
        record = registry.adapter(adapter, identity)
        return record.base, record
    if not results.peft:
        found = identity or which_base(registry, results.pretrained or None)
        return found, BASE_ID
    records = registry.adapters(identity)
    try:
        from adapt_lora.registry.adapter import read_adapter

        digest = read_adapter(Path(results.peft), base_model=results.pretrained).adapter_id
        fitting = [record for record in records if record.adapter_id == digest]
    except AdaptError:  # the path is another machine's, or a Hub id: the name must do
        name = _entry_name(results.peft)
        fitting = [record for record in records if record.name == name]
    if len({record.adapter_id for record in fitting}) != 1:
        raise NotFoundError(
            f"{results.source} was measured with the adapter {results.peft}, which is not "
            "registered by its content or name. Register it first (adapt register), or say which "
            "registered one it is: --adapter NAME."
        )
    return fitting[0].base, fitting[0]


def _pooled(
    registry: Registry, identity: BaseIdentity, results: "HarnessResults"
) -> "list[HarnessCell]":
    """The cells as if they had been measured in the registry's own columns of these tasks."""
    matrix = registry.transfer_matrix(identity)
    own = {task.name: task for task in matrix.tasks}
    columns = {cell.task: cell.column for cell in matrix.cells}
    pooled = []
    for one in results.cells:
        name = one.task.dataset.name
        task = own.get(name)
        if task is None or task.metric != one.cell.metric:
            metric = "no such column" if task is None else f"one in {task.metric}"
            raise MatrixError(
                f"{results.source}: {name} in {one.cell.metric} can't be pooled, since the "
                f"registry has {metric}. Import without --pool, or measure that column first."
            )
        cell = replace(one.cell, task=name, protocol=columns[name])
        pooled.append(replace(one, task=task, cell=cell))
    return pooled


def which_base(registry: Registry, base_model: str | None) -> BaseIdentity:
    """The registered base model that a name means, so that figures can be shown without weights.

    Without a name: the only one there is; else the one on this disk.

    Raises:
        BaseModelError: Neither registered nor on this disk.
    """
    known = registry.bases()
    if base_model is None and len(known) == 1:
        return known[0]
    for identity in known:
        if identity.name == base_model:
            return identity
    return find_base_model(base_model)


def fit_traits(
    *,
    registry: Registry,
    base_model: str | None = None,
    n_components: int = 4,
    names: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> "Traits":
    """Fit traits on the registry's transfer matrix and write each adapter's scores back.

    The fit is kept on the bare base's run, with a picture of the loadings, and the next one is
    matched to it; every adapter's run gets its scores, their errors and a picture of its profile.

    Args:
        registry: Where the matrix is.
        base_model: As for `load_base_model`.
        n_components: How many traits.
        names: Key ("T1", …) → name; remembered. An empty name goes back to the automatic one.
        progress: Told (“draw traits”, pictures done, in all).

    Raises:
        MatrixError: Fewer than two rows or two tasks are measured.
        ConfigError: A name is for a trait that there is not.
    """
    from adapt_lora.recommender.scores import measured_scores
    from adapt_lora.recommender.traits import TraitMemory
    from adapt_lora.recommender.traits import fit_traits as fit

    identity = which_base(registry, base_model)
    matrix = registry.transfer_matrix(identity)
    table = measured_scores(matrix)
    kept = registry.trait_fit(identity)
    traits = fit(
        table.values,
        n_components=n_components,
        adapters=table.rows,
        tasks=table.tasks,
        last=None if kept is None else TraitMemory.from_json(kept["memory"]),
        names=names,
    )
    _keep_traits(registry, matrix, traits, progress)
    registry.ensure_views(identity)
    return traits


def _keep_traits(
    registry: Registry, matrix: TransferMatrix, traits: "Traits", progress: Progress | None
) -> None:
    from adapt_lora.recommender.scores import BASE_ROW, unique_names
    from adapt_lora.report.plots import plot_trait_profiles, plot_traits
    from adapt_lora.report.traits_page import traits_markdown

    content = traits.to_json()
    rows = {BASE_ID: BASE_ROW, **unique_names(matrix.adapters)}
    rows = {adapter_id: name for adapter_id, name in rows.items() if name in traits.scores}
    scores = {adapter_id: _trait_figures(traits, name) for adapter_id, name in rows.items()}
    with tempfile.TemporaryDirectory(prefix="adapt-traits-") as scratch:
        drawn = _named(progress, "draw traits")
        profiles = plot_trait_profiles(content, Path(scratch) / "profiles", progress=drawn)
        heat_map = plot_traits(content, Path(scratch) / "loadings.png")
        plots = {adapter_id: profiles[name] for adapter_id, name in rows.items()}
        registry.set_traits(matrix.base, scores, plots=plots)
        # The fit goes last: a later one must be matched to what the adapters' runs say.
        registry.set_trait_fit(
            matrix.base,
            {**content, "memory": traits.memory.to_json()},
            note=traits_markdown(content),
            plots={"trait_loadings.png": heat_map},
        )


def _trait_figures(traits: "Traits", row: str) -> dict[str, float]:
    """Scores and errors by key: MLflow can't take a metric away, so keys never bear a name."""
    figures = dict(zip(traits.keys, traits.scores[row], strict=True))
    errors = zip(traits.keys, traits.standard_errors.get(row, ()), strict=False)
    return figures | {f"{key}_se": error for key, error in errors}


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
    grading: Grading | None = None,
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
    from adapt_lora.registry.fingerprint import fingerprint_dataset

    clock.lap("load_base")
    fingerprint = fingerprint_dataset(
        rows,
        base=base,
        max_tokens=TARGET_TOKENS,
        seed=seed,
        progress=_named(progress, "read the target"),
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


def other_matrices(registry: Registry, base: BaseIdentity) -> list[TransferMatrix]:
    """What was measured under the registry's other base models; a fresh base starts from it."""
    found = (registry.transfer_matrix(other) for other in registry.bases() if other != base)
    return [matrix for matrix in found if matrix.cells]


def keep_recommendation(answer: TargetRanking, *, registry: Registry) -> str:
    """Store a recommendation as a run of the registry; gives the run's id.

    What is kept: the figures and names of `to_json`, and the digest of the target's rows. The rows
    themselves are not.
    """
    return registry.add_recommendation(
        answer.base, answer.to_json(), digest=answer.target.digest, group=answer.target.group
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
    grading: Grading
    progress: Progress | None

    def meter(self) -> "TargetMeter":
        """Measures adapters on the target's rows and files the cells."""
        from adapt_lora.evaluator import TargetMeter, make_task

        task = make_task(self.rows, metric=self.metric)
        task = replace(task, record=replace(task.record, fingerprint=self.fingerprint))
        identity, registry, name = self.base.identity, self.registry, task.record.name
        by_id = {record.adapter_id: record for record in registry.adapters(identity)}
        measured = registry.measured(identity)
        return TargetMeter(
            self.base,
            self.rows,
            task,
            folder_of=lambda adapter_id: _weights(registry, by_id[adapter_id]),
            has_cell=lambda adapter_id, task, protocol: (adapter_id, task, protocol) in measured,
            find_cell=lambda adapter_id, protocol: registry.cell(
                identity, adapter_id, name, protocol
            ),
            save_cell=lambda result, batch: registry.add_cells(
                identity,
                by_id.get(result.cell.adapter_id, result.cell.adapter_id),
                batch.record,
                [result.cell],
                result.predictions,
            ),
            seed=self.seed,
            decision=self.grading.decision,
            graders=_graders(self.grading, [task]),
            base_predictions=_base_predictions(registry, identity),
            progress=_named(self.progress, "measure the best"),
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
    meter, n_rows = job.meter(), len(job.rows.rows)

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


def _fetch(source: str, registry: Registry, scratch: Path) -> Path:
    if source.startswith(("models:/", "runs:/")):
        return registry.fetch(source, scratch)
    path = Path(source).expanduser()
    if path.exists() or source.count("/") != 1 or source.startswith((".", "~")):
        return path
    from adapt_lora.registry.hub import fetch_adapter

    return fetch_adapter(source, scratch)


def _entry_name(source: str) -> str:
    """The name that a source suggests: of the folder, the Hub repository, the registered model."""
    if source.startswith("models:/"):
        return source.removeprefix("models:/").lstrip("/").split("/")[0].split("@")[0]
    path = Path(source).expanduser()
    return path.resolve().name if path.is_dir() else source.rstrip("/").rsplit("/", 1)[-1]


def _file_adapter(
    folder: Path,
    *,
    registry: Registry,
    dataset: Dataset | None,
    group: str | None,
    name: str,
    base_model: str | None = None,
    base: "BaseModel | None" = None,
    recipe: "Recipe | None" = None,
    training: "TrainingResult | None" = None,
    epoch: "EpochRecord | None" = None,
    fingerprint: Fingerprint | None = None,
    progress: Progress | None = None,
) -> AdapterRecord:
    """Checks, fingerprints, one entry: the second half of `register` and of `train`."""
    from adapt_lora.registry.adapter import check_fits, read_adapter

    if base is None and base_model is not None:
        base = load_base_model(base_model)
    adapter = read_adapter(folder, base_model=base.identity.name if base else None)
    known = registry.find(adapter.adapter_id, base.identity if base else None)
    if known is not None:
        return known
    tags = dict(adapter.tags)
    if base is None:
        try:
            base = load_base_model(adapter.base_name)
        # Figures of the weights need no base; those that do are left out, and it is said.
        except BaseModelError as error:
            tags["effect_check"] = f"not done: {error}"
    record = AdapterRecord(
        adapter_id=adapter.adapter_id,
        name=name,
        base=base.identity if base else _unseen_base(registry, adapter.base_name),
        dataset=_dataset_record(dataset) if dataset else None,
        group=dataset.group if dataset else group,
        fingerprint=fingerprint or Fingerprint(),
        params=_params(adapter, recipe, epoch)
        | (_environment(base) if training is not None and base is not None else {}),
        metrics=_training_metrics(training, epoch),
        tags=tags,
        warnings=(*adapter.warnings, *_base_warnings(registry, base)),
    )
    answers: Sequence[Mapping[str, str]] = ()
    if base is not None:
        check_fits(adapter, base.folder)
        record, answers = _fingerprinted(record, adapter, base, dataset, progress)
    from adapt_lora.report.card import adapter_card_html

    is_last = epoch is None or recipe is None or epoch.epoch == recipe.epochs
    curves = training if is_last else None
    return _add(registry, record, folder, adapter_card_html(record), answers, curves)


def _add(
    registry: Registry,
    record: AdapterRecord,
    folder: Path,
    card: str,
    answers: Sequence[Mapping[str, str]],
    training: "TrainingResult | None",
) -> AdapterRecord:
    from adapt_lora.report.plots import plot_histograms, plot_loss

    with tempfile.TemporaryDirectory(prefix="adapt-plots-") as scratch:
        plots: dict[str, Path] = {}
        if training is not None and training.history:
            plots["loss.png"] = Path(scratch) / "loss.png"
            plot_loss(training.history, plots["loss.png"])
        if record.fingerprint.histograms:
            plots["fingerprint.png"] = Path(scratch) / "fingerprint.png"
            plot_histograms(record.fingerprint, plots["fingerprint.png"])
        return registry.add_adapter(
            record,
            folder,
            card_html=card,
            plots=plots,
            probes=answers,
            history=[StepRecord(step.step, _step_metrics(step)) for step in training.history]
            if training is not None
            else (),
        )


def _step_metrics(step: "StepMetrics") -> dict[str, float]:
    figures = {
        "train/loss": step.loss,
        "train/learning_rate": step.learning_rate,
        "train/grad_norm": step.grad_norm,
        "train/tokens_per_s": step.tokens_per_s,
        "train/peak_memory_mib": step.peak_memory_mib,
    }
    return {key: value for key, value in figures.items() if value is not None}


def _fingerprinted(
    record: AdapterRecord,
    adapter: "Adapter",
    base: "BaseModel",
    dataset: Dataset | None,
    progress: Progress | None,
) -> tuple[AdapterRecord, Sequence[Mapping[str, str]]]:
    from adapt_lora.registry.fingerprint import fingerprint_dataset
    from adapt_lora.registry.fingerprint.behaviour import fingerprint_behaviour
    from adapt_lora.registry.fingerprint.weights import fingerprint_weights

    behaviour = fingerprint_behaviour(base, adapter.folder)
    fingerprint = record.fingerprint
    if dataset is not None and not fingerprint.values:
        fingerprint = fingerprint_dataset(
            dataset,
            base=base,
            linguistics="auto",
            progress=_named(progress, f"fingerprint {dataset.name}"),
        )
    filled = replace(
        record,
        fingerprint=fingerprint,
        weights=fingerprint_weights(adapter, base.folder, cache_dir()),
        behaviour=behaviour.values,
        behaviour_vector=behaviour.vector,
        behaviour_vector_mid=behaviour.vector_mid,
        tags={**record.tags, "effect_check": "passed"},
    )
    return filled, behaviour.answers


def _base_warnings(registry: Registry, base: "BaseModel | None") -> tuple[str, ...]:
    warning = registry.base_warning(base.identity) if base is not None else None
    return (warning,) if warning else ()


def _unseen_base(registry: Registry, name: str) -> BaseIdentity:
    for identity in registry.bases():
        if identity.name == name:
            return identity
    return BaseIdentity(name, "", "")


def _dataset_record(dataset: Dataset) -> DatasetRecord:
    return DatasetRecord(
        name=dataset.name,
        digest=dataset.digest,
        group=dataset.group,
        n_rows=len(dataset.rows),
        source=dataset.source,
        parent=dataset.parent,
    )


def _params(
    adapter: "Adapter", recipe: "Recipe | None", epoch: "EpochRecord | None"
) -> dict[str, str]:
    params = dict(adapter.params)
    if recipe is not None:
        params |= recipe.params
    if epoch is not None:
        params["train/epoch"] = str(epoch.epoch)
    return params


def _environment(base: "BaseModel") -> dict[str, str]:
    """What a training ran on: versions that decide its numbers."""
    libraries = ("adapt-lora", "torch", "transformers", "peft")
    found = {f"environment/{name}": version(name) for name in libraries}
    return found | {
        "environment/python": platform.python_version(),
        "environment/machine": f"{platform.system()} {platform.machine()}",
        "environment/device": base.device,
        "environment/dtype": str(base.dtype).removeprefix("torch."),
    }


def _training_metrics(
    training: "TrainingResult | None", epoch: "EpochRecord | None"
) -> dict[str, float]:
    if training is None:
        return {}
    figures = {
        "train/final_loss": epoch.train_loss if epoch else training.train_loss,
        "train/held_out_loss": epoch.held_out_loss if epoch else training.held_out_loss,
        "train/held_out_loss_base": training.held_out_loss_base,
        "train/n_rows": float(training.n_rows),
        "train/n_rows_too_long": float(training.n_too_long),
        "train/n_rows_without_response": float(training.n_without_response),
        "train/n_tokens": float(training.n_tokens),
        "train/seconds": training.seconds,
    }
    if epoch is not None:
        share = epoch.epoch / training.recipe.epochs
        figures["train/n_tokens"] = share * training.n_tokens
        figures["train/seconds"] = share * training.seconds
    return {key: value for key, value in figures.items() if value is not None}


def find_training(
    registry: Registry,
    name: str,
    rows: Dataset,
    recipe: "Recipe",
    *,
    base_model: str | None = None,
) -> AdapterRecord | None:
    """The adapter of that name, trained to the end on these rows by this recipe, or None."""
    from adapt_lora.trainer import recipe_from_params

    identity = find_base_model(base_model)
    for record in registry.adapters(identity):
        same_rows = record.dataset is not None and record.dataset.digest == rows.digest
        # A setting without a param was off, or did not exist yet: both mean its default.
        try:
            same_recipe = recipe_from_params(record.params) == recipe
        except ConfigError:  # registered, not trained here
            continue
        finished = record.params.get("train/epoch") in (None, str(recipe.epochs))
        if record.name == registered_name(name) and same_rows and same_recipe and finished:
            return record
    return None


@dataclass(frozen=True, slots=True)
class _Workshop:
    """Where a training puts its things."""

    folder: Path
    """The adapter to be."""
    checkpoint: Path
    """What a killed run goes on from."""


@contextmanager
def _workshop(
    name: str, rows: Dataset, recipe: "Recipe", base: "BaseModel", output: Path | None
) -> Iterator[_Workshop]:
    """A place in the cache that is the same for the same training; it is removed on success."""
    from filelock import FileLock, Timeout

    from adapt_lora.trainer import read_checkpoint, remove_folder, training_key

    key = training_key(base, rows.rows, recipe)
    place = hashlib.sha256(json.dumps([key, name, str(output and output.resolve())]).encode())
    home = cache_dir() / "trainings" / place.hexdigest()[:32]
    lock = FileLock(home.with_suffix(".lock"))
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise TrainingError(
            f"Another process is training {name} on these rows right now. Wait for it, or choose "
            "another name."
        ) from error
    except OSError as error:
        raise TrainingError(
            f"{home}: checkpoints can't be kept there ({error.strerror or error}). Make room, or "
            "set ADAPT_CACHE_DIR to another folder."
        ) from error
    shop = _Workshop(output or home / "adapter", home / "checkpoint")
    try:
        if read_checkpoint(shop.checkpoint, key) is None:
            remove_folder(home)  # kept epochs of a run that was killed before its checkpoint
        elif output is None:
            remove_folder(shop.folder)  # of a run that was killed while it registered
        yield shop
        remove_folder(home)
    finally:
        # A training that could not start leaves nothing; one that stopped leaves its checkpoint.
        with suppress(OSError):
            home.rmdir()
        lock.release()


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
        rows, base=base, progress=_named(progress, f"fingerprint {record.name}")
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
            failures.append(CellFailure(EVERY, Path(source).name, str(error)))
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
            failures.append(CellFailure(EVERY, name, str(error)))
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


def _lay_out(
    base: "BaseModel",
    registry: Registry,
    adapters: Sequence[AdapterRecord],
    tasks: "Sequence[Task]",
    *,
    decision: "LabelDecision",
    graders: "Mapping[str, Grader]",
    shots: "Mapping[str, Shots] | None" = None,
    backend: "Backend | None" = None,
) -> _Work:
    from adapt_lora.evaluator import TransformersBackend, plan_matrix

    measured = registry.measured(base.identity)
    backend = backend or TransformersBackend(base)
    plan = plan_matrix(
        base,
        [(record.adapter_id, _weights_place(record)) for record in adapters],
        tasks,
        has_cell=lambda adapter_id, task, protocol: (adapter_id, task, protocol) in measured,
        backend=backend,
        decision=decision,
        shots=shots,
        graders=graders,
    )
    return _Work(backend, plan, graders)


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
                adapter=names[unit.adapter_id],
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


def _row_names(adapters: Sequence[AdapterRecord], work: _Work) -> dict[str, str]:
    """What people call the rows of a plan, by id."""
    names = {BASE_ID: "base model", MAJORITY_ID: MAJORITY_ID}
    names |= {record.adapter_id: record.name for record in adapters}
    for unit in work.plan.units:
        shown = few_shot_row(unit.adapter_id)
        if shown is not None:
            names[unit.adapter_id] = f"{names[shown.adapter_id]}, {shown.words}"
    return names


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
            failures.append(CellFailure(EVERY, name, failure_reason(error)))
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
        base_predictions=_base_predictions(registry, base.identity),
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
        lost = CellFailure(unit.adapter_id, unit.task.record.name, end.reason or "")
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
                _weights(registry, record)
            except Exception as error:  # of fifty adapters one may have lost its files
                lost[place] = CellFailure(record.adapter_id, EVERY, failure_reason(error))
    units = tuple(unit for unit in work.plan.units if unit.folder not in lost)
    return replace(work, plan=replace(work.plan, units=units)), list(lost.values())


class _CellKeeper:
    """Files cells as they come, and pictures of a row once the row is through."""

    def __init__(
        self,
        identity: BaseIdentity,
        registry: Registry,
        adapters: Sequence[AdapterRecord],
        names: Mapping[str, str],
        units: "Sequence[CellUnit]",
        say: Callable[[str], None] | None,
    ) -> None:
        self.identity, self.registry, self.names, self.say = identity, registry, names, say
        self.by_id = {record.adapter_id: record for record in adapters}
        self.tasks = {unit.task.record.name: unit.task.record for unit in units}
        self.places = [f"{names[unit.adapter_id]} on {unit.task.record.name}" for unit in units]
        self.ends = list(accumulate(unit.n_tokens for unit in units))
        self.left = Counter(unit.adapter_id for unit in units)
        self.rows: dict[str, list[CellOutcomes]] = {}

    def save(self, result: "CellResult") -> None:
        """File a cell, and say so."""
        from adapt_lora.report.outcomes import cell_outcomes

        cell = result.cell
        shown = few_shot_row(cell.adapter_id)
        model = cell.adapter_id if shown is None else shown.adapter_id
        task = self.tasks[cell.task]
        self.registry.add_cells(
            self.identity, self.by_id.get(model, model), task, [cell], result.predictions
        )
        outcomes = cell_outcomes(task, result.predictions)
        if outcomes is not None:
            self.rows.setdefault(cell.adapter_id, []).append(outcomes)
        self.left[cell.adapter_id] -= 1
        if not self.left[cell.adapter_id]:
            self._draw(cell.adapter_id)
        if self.say is not None:
            error = "" if cell.se is None else f" ± {cell.se:.3f}"
            self.say(
                f"{self.names[cell.adapter_id]} on {cell.task}: {cell.metric} {cell.score:.3f}"
                f"{error}, {result.seconds:.1f} s"
            )

    def close(self) -> None:
        """Draw the rows that lack a cell that failed."""
        for row_id in list(self.rows):
            self._draw(row_id)

    def _draw(self, row_id: str) -> None:
        from adapt_lora.report.plots import plot_outcomes

        outcomes = self.rows.pop(row_id, [])
        if outcomes:
            with tempfile.TemporaryDirectory(prefix="adapt-plots-") as scratch:
                plots = plot_outcomes(outcomes, Path(scratch), title=self.names[row_id])
                self.registry.add_evaluation_plots(self.identity, row_id, plots)

    def named(self, progress: Progress | None) -> Callable[[int, int], None] | None:
        """Progress in tokens, under the name of the cell in hand."""
        if progress is None:
            return None

        def update(done: int, total: int) -> None:
            number = min(bisect_right(self.ends, done), len(self.places) - 1)
            progress(f"evaluate: {self.places[number]}", done, total)

        return update


def _base_predictions(
    registry: Registry, identity: BaseIdentity
) -> "Callable[[str, str], Sequence[Prediction]]":
    """Finds what the bare base answered in an earlier run."""

    @functools.cache  # every adapter asks for the same
    def find(task: str, protocol: str) -> Sequence[Prediction]:
        try:
            return registry.predictions(identity, BASE_ID, task, protocol=protocol)
        except NotFoundError:
            return ()

    return find


def _graded_tasks(made: _MadeTasks, grading: Grading) -> "tuple[_MadeTasks, dict[str, Grader]]":
    """The tasks whose answers can be graded as `grading` allows, and what grades them."""
    from adapt_lora.evaluator import CellFailure, needed_grader

    graders = _graders(grading, made.tasks)
    usable: list[_ReadTask] = []
    failures = list(made.failures)
    for read in made.usable:
        try:
            needed_grader(read.task, graders)
            usable.append(read)
        except AdaptError as error:
            if len(made.usable) + len(made.failures) == 1:
                raise
            failures.append(CellFailure(EVERY, read.task.record.name, str(error)))
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


def _graders(grading: Grading, tasks: Sequence["Task"]) -> "dict[str, Grader]":
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


def _weights(registry: Registry, record: AdapterRecord) -> Path:
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


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _named(progress: Progress | None, step: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(step, done, total)


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.laps[step] = now - self._last
        self._last = now


__all__ = [
    "Evaluation",
    "EvaluationPlan",
    "Grading",
    "Import",
    "PlannedCell",
    "Progress",
    "TargetRanking",
    "Training",
    "evaluate",
    "export_registry",
    "find_training",
    "fit_traits",
    "import_results",
    "keep_recommendation",
    "other_matrices",
    "plan_evaluation",
    "recommend",
    "register",
    "stored_recipe",
    "train",
    "which_base",
]
