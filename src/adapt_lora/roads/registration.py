"""Adapters into the registry: checked, fingerprinted, filed."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapt_lora.data import Dataset, read_dataset
from adapt_lora.errors import BaseModelError
from adapt_lora.model.base import BaseIdentity, cache_dir, load_base_model
from adapt_lora.registry import Registry
from adapt_lora.registry.layout import registered_name
from adapt_lora.registry.records import AdapterRecord, DatasetRecord, Fingerprint, StepRecord
from adapt_lora.roads.progress import Progress, of_step

if TYPE_CHECKING:
    from adapt_lora.model.base import BaseModel
    from adapt_lora.registry.adapter import Adapter
    from adapt_lora.trainer import StepMetrics


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of an adapter beside its files."""

    name: str
    """Name of the entry, as the registry takes it."""
    dataset: Dataset | None = None
    """What it was trained on; None when nobody knows."""
    group: str | None = None
    """What twins of that dataset share, where the rows are not known."""
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    """Of the dataset, where it has been made already."""
    params: Mapping[str, str] = field(default_factory=dict)
    """Recipe and environment of a training of ours."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Figures of a training of ours."""
    history: "Sequence[StepMetrics]" = ()
    """Its steps, for the curves."""


def register(
    source: str | Path,
    *,
    registry: Registry,
    dataset: str | Path | None = None,
    group: str | None = None,
    name: str | None = None,
    base_model: str | None = None,
    mapping: Mapping[str, str] | None = None,
    allow_skips: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
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
        allow_skips: As for `read_dataset`.
        progress: Told about each step.
        say: Told what was read of the dataset.

    Raises:
        AdapterError: A check failed; nothing was written.
    """
    legal_name = registered_name(name or entry_name(str(source)))
    rows = None
    if dataset is not None:
        rows = read_dataset(
            dataset, mapping=mapping, group=group, split="train", allow_skips=allow_skips
        )
        if say is not None:
            say(rows.describe())
    with tempfile.TemporaryDirectory(prefix="adapt-register-") as scratch:
        return file_adapter(
            _fetch(str(source), registry, Path(scratch)),
            Origin(legal_name, rows, group),
            base=None if base_model is None else load_base_model(base_model),
            registry=registry,
            progress=progress,
        )


def entry_name(source: str) -> str:
    """The name that a source suggests: of the folder, the Hub repository, the registered model."""
    if source.startswith("models:/"):
        return source.removeprefix("models:/").lstrip("/").split("/")[0].split("@")[0]
    path = Path(source).expanduser()
    return path.resolve().name if path.is_dir() else source.rstrip("/").rsplit("/", 1)[-1]


def file_adapter(
    folder: Path,
    origin: Origin,
    *,
    base: "BaseModel | None",
    registry: Registry,
    progress: Progress | None,
) -> AdapterRecord:
    """Checks, fingerprints, one entry: the second half of `register` and of `train`.

    Args:
        folder: The PEFT files.
        origin: What else is known of it.
        base: Its base model; None to load the one that the files name, if it is here.
        registry: Where it goes.
        progress: Told about the fingerprint.
    """
    from adapt_lora.registry.adapter import check_fits, check_scorable, read_adapter
    from adapt_lora.report.card import adapter_card_html

    adapter = read_adapter(folder, base_model=base.identity.name if base else None)
    check_scorable(adapter)
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
    warning = registry.base_warning(base.identity) if base else None
    record = AdapterRecord(
        adapter_id=adapter.adapter_id,
        name=origin.name,
        base=base.identity if base else _unseen_base(registry, adapter.base_name),
        dataset=_dataset_record(origin.dataset) if origin.dataset else None,
        group=origin.dataset.group if origin.dataset else origin.group,
        fingerprint=origin.fingerprint,
        params={**adapter.params, **origin.params},
        metrics=origin.metrics,
        tags=tags,
        warnings=(*adapter.warnings, *([warning] if warning else [])),
    )
    answers: Sequence[Mapping[str, str]] = ()
    if base is not None:
        check_fits(adapter, base.folder)
        record, answers = _fingerprinted(record, adapter, base, origin.dataset, progress)
    with tempfile.TemporaryDirectory(prefix="adapt-plots-") as scratch:
        return registry.add_adapter(
            record,
            folder,
            card_html=adapter_card_html(record),
            plots=_draw(record, origin, Path(scratch)),
            probes=answers,
            history=[StepRecord(step.step, _step_metrics(step)) for step in origin.history],
        )


def _fetch(source: str, registry: Registry, scratch: Path) -> Path:
    if source.startswith(("models:/", "runs:/")):
        return registry.fetch(source, scratch)
    path = Path(source).expanduser()
    if path.exists() or source.count("/") != 1 or source.startswith((".", "~")):
        return path
    from adapt_lora.registry.exchange.hub import fetch_adapter

    return fetch_adapter(source, scratch)


def _unseen_base(registry: Registry, name: str) -> BaseIdentity:
    """What is known of a base model that is not here: what others of its adapters said of it."""
    known = (identity for identity in registry.bases() if identity.name == name)
    return next(known, BaseIdentity(name, "", ""))


def _dataset_record(dataset: Dataset) -> DatasetRecord:
    return DatasetRecord(
        name=dataset.name,
        digest=dataset.digest,
        group=dataset.group,
        n_rows=len(dataset.rows),
        source=dataset.source,
        parent=dataset.parent,
        parts=dataset.parts,
    )


def _fingerprinted(
    record: AdapterRecord,
    adapter: "Adapter",
    base: "BaseModel",
    dataset: Dataset | None,
    progress: Progress | None,
) -> tuple[AdapterRecord, Sequence[Mapping[str, str]]]:
    """The record with all that the base model tells, and the answers to the probes."""
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
        warnings=(*record.warnings, *behaviour.warnings),
    )
    return filled, behaviour.answers


def _draw(record: AdapterRecord, origin: Origin, scratch: Path) -> dict[str, Path]:
    """The entry's pictures, by file name."""
    from adapt_lora.report.plots import plot_histograms, plot_loss

    plots: dict[str, Path] = {}
    if origin.history:
        plots["loss.png"] = plot_loss(origin.history, scratch / "loss.png")
    if record.fingerprint.histograms:
        plots["fingerprint.png"] = plot_histograms(record.fingerprint, scratch / "fingerprint.png")
    return plots


def _step_metrics(step: "StepMetrics") -> dict[str, float]:
    figures = {
        "train/loss": step.loss,
        "train/learning_rate": step.learning_rate,
        "train/grad_norm": step.grad_norm,
        "train/tokens_per_s": step.tokens_per_s,
        "train/peak_memory_mib": step.peak_memory_mib,
    }
    return {key: value for key, value in figures.items() if value is not None}
