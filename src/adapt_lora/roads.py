"""The roads of Adapt as plain functions: register, train, evaluate, fit traits, recommend.

The command line and Python callers walk the same roads. Here, and only here, the rooms meet: what
is trained gets registered, what is registered gets measured, what is measured ranks the next task.
"""

import functools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt_lora.base_model import BaseIdentity, cache_dir, find_base_model, load_base_model
from adapt_lora.data import Dataset, read_dataset
from adapt_lora.errors import BaseModelError, DatasetError, NotFoundError, RecommendError
from adapt_lora.registry import Registry
from adapt_lora.registry.records import (
    BASE_ID,
    AdapterRecord,
    Cell,
    DatasetRecord,
    Fingerprint,
    StepRecord,
    TransferMatrix,
)

if TYPE_CHECKING:
    from adapt_lora.base_model import BaseModel
    from adapt_lora.evaluator import MatrixReport, Task
    from adapt_lora.recommender import Recommendation
    from adapt_lora.recommender.traits import Traits
    from adapt_lora.registry.adapter import Adapter
    from adapt_lora.trainer import Recipe, StepMetrics, TrainingResult

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, in all); the unit is the step's own."""

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


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` did."""

    report: "MatrixReport"
    """Cells measured, skipped and failed."""
    matrix: TransferMatrix
    """The transfer matrix as it stands now."""


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

    def to_json(self) -> dict[str, Any]:
        """The object that `adapt recommend --json` prints."""
        content = self.recommendation.to_json()
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
            name=name or _entry_name(str(source)),
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
    output: Path | None = None,
    mapping: Mapping[str, str] | None = None,
    group: str | None = None,
    progress: Progress | None = None,
) -> Training:
    """Train a LoRA adapter on a dataset and register it.

    An adapter of this name, trained on the same rows by the same recipe, is not trained again.

    Args:
        dataset: File, folder with train.jsonl, or Hub id.
        name: Name of the adapter.
        registry: Where it goes; None leaves a plain PEFT folder in `output`.
        recipe: How to train.
        base_model: As for `load_base_model`.
        output: Folder for the PEFT files; needed without a registry.
        mapping: Field names, as for `read_dataset`.
        group: What twins of the dataset share.
        progress: Told (“train”, tokens or rows done, in all).

    Raises:
        TrainingError: Training can't start or had to stop.
    """
    from adapt_lora.trainer import train_adapter

    rows = read_dataset(dataset, mapping=mapping, group=group, split="train")
    if registry is not None:
        known = _same_training(registry, name, rows, recipe, base_model)
        if known is not None:
            return Training(None, known, None, rows)
    base = load_base_model(base_model)
    with _workshop(output) as folder:
        result = train_adapter(
            base, rows.rows, recipe=recipe, out=folder, progress=_named(progress, f"train {name}")
        )
        if registry is None:
            return Training(folder, None, result, rows)
        record = _file_adapter(
            folder,
            registry=registry,
            dataset=rows,
            group=group,
            name=name,
            base=base,
            recipe=recipe,
            training=result,
            progress=progress,
        )
        return Training(folder if output is not None else None, record, result, rows)


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
    progress: Progress | None = None,
) -> Evaluation:
    """Measure adapters × tasks, cell by cell, leaving out what is measured already.

    Args:
        tasks: Files or folders (test.jsonl); each becomes a column.
        registry: Where the adapters are and the cells go.
        adapters: Names; None for all adapters of the base that have their weights here.
        base_model: As for `load_base_model`.
        metric: One metric for all tasks, or "auto".
        max_rows: Rows per task, drawn by `seed`; None for all.
        seed: Decides the draw.
        mapping: Field names, as for `read_dataset`.
        progress: Told (“evaluate”, tokens done, in all).

    Raises:
        TaskError: A task can't be scored as asked; nothing has been measured then.
    """
    from adapt_lora.evaluator import make_task

    datasets = [read_dataset(task, mapping=mapping) for task in tasks]
    made = [make_task(rows, metric=metric, max_rows=max_rows, seed=seed) for rows in datasets]
    base = load_base_model(base_model)
    registry.ensure_base(base.identity)
    chosen = _choose_adapters(registry, base.identity, adapters)
    described = [
        _describe_task(task, rows, registry, base, progress)
        for task, rows in zip(made, datasets, strict=True)
    ]
    report = _measure(base, registry, chosen, described, progress)
    matrix = registry.transfer_matrix(base.identity)
    registry.update_scores(base.identity)
    registry.ensure_views(base.identity)
    return Evaluation(report, matrix)


def fit_traits(
    *, registry: Registry, base_model: str | None = None, n_components: int = 4
) -> "Traits":
    """Fit traits on the registry's transfer matrix and write each adapter's scores back.

    Raises:
        MatrixError: Fewer than two rows or two tasks are measured.
    """
    from adapt_lora.recommender.scores import measured_scores, unique_names
    from adapt_lora.recommender.traits import fit_traits as fit

    identity = find_base_model(base_model)
    matrix = registry.transfer_matrix(identity)
    table = measured_scores(matrix)
    traits = fit(table.values, n_components=n_components, adapters=table.rows, tasks=table.tasks)
    # MLflow can't take a metric away, so keys must not change with the names of a later fit.
    keys = [f"T{number}" for number in range(1, len(traits.names) + 1)]
    names = unique_names(matrix.adapters)
    scores = {
        adapter_id: dict(zip(keys, traits.scores[name], strict=True))
        for adapter_id, name in names.items()
        if name in traits.scores
    }
    registry.set_traits(identity, scores)
    registry.ensure_views(identity)
    return traits


def recommend(
    target: str | Path,
    *,
    registry: Registry,
    base_model: str | None = None,
    metric: str = "auto",
    mapping: Mapping[str, str] | None = None,
    group: str | None = None,
    method: str = "default",
    verify: int = 0,
    max_rows: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
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
        verify: Measure this many of the top adapters on the target's own rows; 0 for none.
        max_rows: Rows used for that.
        seed: Decides every draw.
        progress: Told about each step.

    Raises:
        RecommendError: There is no adapter to rank.
    """
    from adapt_lora.recommender import rank_adapters
    from adapt_lora.registry.fingerprint import fingerprint_dataset

    clock = _Clock()
    rows = read_dataset(target, mapping=mapping, group=group)
    clock.lap("read_data")
    base = load_base_model(base_model)
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
    chosen_metric = _target_metric(rows, metric)
    rank = functools.partial(
        rank_adapters,
        matrix,
        fingerprint,
        metric=chosen_metric,
        group=rows.group,
        method=method,
        seed=seed,
    )
    ranking = rank(base_score=_base_score(fingerprint))
    clock.lap("rank")
    if verify > 0:
        checked = _verify(rows, ranking, verify, base, registry, chosen_metric, max_rows, progress)
        ranking = rank(base_score=checked.base_score, measured=checked.cells)
        clock.lap("verify")
    warning = registry.base_warning(base.identity)
    return TargetRanking(
        recommendation=ranking,
        target=rows,
        fingerprint=fingerprint,
        base=base.identity,
        metric=chosen_metric,
        timing_s=clock.laps,
        warnings=(warning,) if warning else (),
    )


@dataclass(frozen=True, slots=True)
class _Verified:
    base_score: tuple[float, float]
    """Score and standard error of the bare base on the target."""
    cells: Mapping[str, Cell]
    """Of the adapters that were measured, by id."""


def _verify(
    rows: Dataset,
    ranking: "Recommendation",
    k: int,
    base: "BaseModel",
    registry: Registry,
    metric: str,
    max_rows: int,
    progress: Progress | None,
) -> _Verified:
    """Measure the base and the top k on the target's own rows."""
    from adapt_lora.evaluator import make_task

    if not (rows.is_labelled or rows.has_responses):
        raise DatasetError(
            f"{rows.source}: --verify measures adapters on the target's own answers, but its rows "
            "have none. Add a response or label to each row, or use --verify 0."
        )
    top = [item.adapter_id for item in ranking.top(k).ranking]
    records = [r for r in registry.adapters(base.identity) if r.adapter_id in top and r.has_weights]
    task = make_task(rows, metric=metric, max_rows=max_rows)
    _measure(base, registry, records, [task], progress, selected=True)
    matrix = registry.transfer_matrix(base.identity)
    cells = {cell.adapter_id: cell for cell in matrix.cells if cell.task == task.record.name}
    bare = cells[BASE_ID]
    measured = {r.adapter_id: cells[r.adapter_id] for r in records if r.adapter_id in cells}
    return _Verified((bare.score, bare.se), measured)


def _fetch(source: str, registry: Registry, scratch: Path) -> Path:
    if source.startswith(("models:/", "runs:/")):
        return registry.fetch(source, scratch)
    path = Path(source).expanduser()
    if path.exists() or source.count("/") != 1 or source.startswith((".", "~")):
        return path
    from adapt_lora.registry.hub import fetch_adapter

    return fetch_adapter(source, scratch)


def _entry_name(source: str) -> str:
    return source.rstrip("/").rsplit("/", 1)[-1].split("@")[0]


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
    progress: Progress | None = None,
) -> AdapterRecord:
    """Checks, fingerprints, one entry: the second half of `register` and of `train`."""
    from adapt_lora.registry.adapter import check_fits, read_adapter

    if base is None and base_model is not None:
        base = load_base_model(base_model)
    adapter = read_adapter(folder, base_model=base.identity.name if base else None)
    known = registry.find(adapter.adapter_id)
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
        params=_params(adapter.config, recipe),
        metrics=_training_metrics(training),
        tags=tags,
        warnings=adapter.warnings,
    )
    answers: Sequence[Mapping[str, str]] = ()
    if base is not None:
        check_fits(adapter, base.folder)
        record, answers = _fingerprinted(record, adapter, base, dataset, progress)
    from adapt_lora.report.card import adapter_card_html

    return _add(registry, record, folder, adapter_card_html(record), answers, training)


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
    if dataset is not None:
        fingerprint = fingerprint_dataset(
            dataset, base=base, progress=_named(progress, f"fingerprint {dataset.name}")
        )
    filled = replace(
        record,
        fingerprint=fingerprint,
        weights=fingerprint_weights(adapter, base.folder, cache_dir()),
        behaviour=behaviour.values,
        behaviour_vector=behaviour.vector,
        tags={**record.tags, "effect_check": "passed"},
    )
    return filled, behaviour.answers


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
    )


def _params(config: Mapping[str, Any], recipe: "Recipe | None") -> dict[str, str]:
    modules = config.get("target_modules") or []
    params = {
        "lora/r": str(config.get("r")),
        "lora/alpha": str(config.get("lora_alpha")),
        "lora/target_modules": modules if isinstance(modules, str) else ",".join(sorted(modules)),
    }
    if recipe is not None:
        params |= recipe.params
    return params


def _training_metrics(training: "TrainingResult | None") -> dict[str, float]:
    if training is None:
        return {}
    figures = {
        "train/final_loss": training.train_loss,
        "train/held_out_loss": training.held_out_loss,
        "train/n_tokens": float(training.n_tokens),
        "train/seconds": training.seconds,
    }
    return {key: value for key, value in figures.items() if value is not None}


def _same_training(
    registry: Registry, name: str, rows: Dataset, recipe: "Recipe", base_model: str | None
) -> AdapterRecord | None:
    identity = find_base_model(base_model)
    wanted = recipe.params
    for record in registry.adapters(identity):
        same_rows = record.dataset is not None and record.dataset.digest == rows.digest
        same_recipe = all(record.params.get(key) == value for key, value in wanted.items())
        if record.name == name and same_rows and same_recipe:
            return record
    return None


@contextmanager
def _workshop(output: Path | None) -> Iterator[Path]:
    if output is not None:
        yield Path(output)
        return
    scratch = Path(tempfile.mkdtemp(prefix="adapt-train-"))
    try:
        yield scratch / "adapter"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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


def _measure(
    base: "BaseModel",
    registry: Registry,
    adapters: Sequence[AdapterRecord],
    tasks: Sequence["Task"],
    progress: Progress | None,
    *,
    selected: bool = False,
) -> "MatrixReport":
    from adapt_lora.evaluator import evaluate_matrix

    by_id = {record.adapter_id: record for record in adapters}
    records = {task.record.name: task.record for task in tasks}
    measured = registry.measured(base.identity)
    return evaluate_matrix(
        base,
        [(record.adapter_id, _weights(registry, record)) for record in adapters],
        tasks,
        has_cell=lambda adapter_id, task, protocol: (adapter_id, task, protocol) in measured,
        save_cell=lambda result: registry.add_cells(
            base.identity,
            by_id.get(result.cell.adapter_id, result.cell.adapter_id),
            records[result.cell.task],
            [result.cell],
        ),
        progress=_named(progress, "evaluate"),
        selected=selected,
    )


def _weights(registry: Registry, record: AdapterRecord) -> Path:
    """The adapter's files on this disk; content never changes under an adapter's id."""
    folder = cache_dir() / "adapters" / record.adapter_id[:32]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        registry.pull(f"{record.name}/{record.version}", folder, record.base)
    return folder


def _check_adapters(matrix: TransferMatrix, identity: BaseIdentity) -> None:
    if not matrix.adapters:
        raise RecommendError(
            f"The registry holds no adapter for {identity.name}, so there is nothing to rank. "
            "Add some with `adapt register` or `adapt train`, then measure them with "
            "`adapt evaluate`."
        )


def _target_metric(rows: Dataset, metric: str) -> str:
    from adapt_lora.evaluator import choose_metric

    if metric != "auto":
        return metric
    if rows.metric is not None:
        return rows.metric
    if rows.is_labelled or rows.has_responses:
        return choose_metric(rows)
    return "balanced_accuracy"


def _base_score(fingerprint: Fingerprint) -> tuple[float, float] | None:
    values = fingerprint.values
    if "base_score" not in values or "base_score_se" not in values:
        return None
    return values["base_score"], values["base_score_se"]


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
    "Progress",
    "TargetRanking",
    "Training",
    "evaluate",
    "fit_traits",
    "recommend",
    "register",
    "train",
]
