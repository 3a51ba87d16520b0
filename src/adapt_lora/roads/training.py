"""Adapters into the registry: registered as they are, or trained first."""

import hashlib
import json
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from adapt_lora.data import Dataset, read_dataset
from adapt_lora.errors import BaseModelError, ConfigError, TrainingError
from adapt_lora.model.base import BaseIdentity, cache_dir, find_base_model, load_base_model
from adapt_lora.registry import Registry
from adapt_lora.registry.layout import registered_name
from adapt_lora.registry.records import AdapterRecord, DatasetRecord, Fingerprint, StepRecord
from adapt_lora.roads.progress import Progress, of_step

if TYPE_CHECKING:
    from adapt_lora.model.base import BaseModel
    from adapt_lora.registry.adapter import Adapter
    from adapt_lora.trainer import EpochRecord, Processes, Recipe, StepMetrics, TrainingResult


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
    legal_name = registered_name(name or entry_name(str(source)))
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
        progress=of_step(progress, f"train {name}"),
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


def _fetch(source: str, registry: Registry, scratch: Path) -> Path:
    if source.startswith(("models:/", "runs:/")):
        return registry.fetch(source, scratch)
    path = Path(source).expanduser()
    if path.exists() or source.count("/") != 1 or source.startswith((".", "~")):
        return path
    from adapt_lora.registry.exchange.hub import fetch_adapter

    return fetch_adapter(source, scratch)


def entry_name(source: str) -> str:
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
            progress=of_step(progress, f"fingerprint {dataset.name}"),
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
