"""Adapters into the registry: checked, fingerprinted, filed."""

import functools
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapt_lora.data import Dataset, DataSource, read_dataset
from adapt_lora.errors import AdapterError, AdaptError, BaseModelError
from adapt_lora.model.base import cache_dir, load_base_model
from adapt_lora.registry import Registry
from adapt_lora.registry.identity import LACKS_DIGEST
from adapt_lora.registry.layout import registered_name
from adapt_lora.registry.records import (
    FAILED,
    NOT_DONE,
    AdapterRecord,
    DatasetRecord,
    Fingerprint,
    ReadingRecord,
    StepRecord,
)
from adapt_lora.roads.bases import settle_base
from adapt_lora.roads.evaluation import weights_place
from adapt_lora.roads.progress import Progress, of_step

if TYPE_CHECKING:
    from adapt_lora.model.base import BaseModel
    from adapt_lora.registry.adapter import Adapter
    from adapt_lora.trainer import StepMetrics


# Folders that trainers make inside a run's folder, whatever the run is about: Trainer and Axolotl
# (checkpoint-40), Unsloth (lora_model, outputs), LLaMA-Factory (lora/sft), PEFT (default).
_NO_NAME = re.compile(
    r"((last|best|final|global)?[-_.]?(checkpoint|ckpt|epoch|step|iter)s?[-_.]?"
    r"(\d+|last|best|final|latest)*|last|best|final|latest|default|\d+|"
    r"(final|best|trained|merged|saved)?[-_]?(lora|peft|adapter|model|adapters|models)"
    r"([-_](lora|peft|adapter|model|weights|final|best|checkpoint|adapters|output))*|"
    r"outputs?|out|results?|saves?|runs?|sft|dpo|kto|orpo|pt|artifacts|weights|snapshots)",
    re.IGNORECASE,
)
_HOME_FOLDERS = frozenset({"tmp", "home", "root", "content", "workspace", "mnt", "data", "kaggle"})
"""Folders of a machine or a notebook, not of a run."""


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
    is_named: bool = False
    """Whether somebody chose the name."""


@dataclass(frozen=True, slots=True)
class LateCheck:
    """What came of checking an adapter that was registered without its base model."""

    record: AdapterRecord
    """The adapter as it is registered now."""
    failure: str | None = None
    """Why it is still not checked, or what is wrong with it; None where it passed."""


def register(
    source: str | Path,
    *,
    registry: Registry,
    dataset: DataSource | None = None,
    group: str | None = None,
    name: str | None = None,
    base_model: str | None = None,
    mapping: Mapping[str, str] | None = None,
    allow_skips: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> AdapterRecord:
    """Check an adapter and file it in the registry, with fingerprints of all that is known.

    Registering the same content again returns the entry that is there.

    Args:
        source: Folder, Hub id, `models:/…` or `runs:/…`.
        registry: Where it goes.
        dataset: Its training data, if known; else the dataset part stays empty.
        group: What twins of the training data share; the dataset's own group otherwise.
        name: Name of the entry; that of the run's folder or of the source's last part otherwise.
        base_model: The base it sits on, where its own configuration does not say.
        mapping: Field names of the dataset, as for `read_dataset`.
        allow_skips: As for `read_dataset`.
        progress: Told about each step.
        say: Told what was read of the dataset.
        warn: Told which entry is given back, mended or replaced, and which option had no effect;
            None for Python's own warnings.

    Raises:
        AdapterError: A check failed; nothing was written.
    """
    _refuse_web_address(str(source))
    legal_name = registered_name(name or entry_name(str(source)))
    rows = None
    if dataset is None and (mapping or allow_skips):
        idle = "--map" if mapping else "--allow-skips"
        (warn or warnings.warn)(f"{idle} had no effect: it is about --dataset, which is not given.")
    if dataset is not None:
        rows = read_dataset(
            dataset, mapping=mapping, group=group, split="train", allow_skips=allow_skips
        )
        if say is not None:
            say(rows.describe())
    with tempfile.TemporaryDirectory(prefix="adapt-register-") as scratch:
        return file_adapter(
            _fetch(str(source), registry, Path(scratch)),
            Origin(legal_name, rows, group, is_named=name is not None),
            base=None if base_model is None else load_base_model(base_model),
            registry=registry,
            progress=progress,
            warn=warn,
        )


def entry_name(source: str) -> str:
    """The name that a source suggests: of the run's folder, the Hub repository, the model.

    A folder that any run could have, such as checkpoint-40, lends its run's name.
    """
    if source.startswith("models:/"):
        return source.removeprefix("models:/").lstrip("/").split("/")[0].split("@")[0]
    path = Path(source).expanduser()
    is_mlflow = source.startswith("runs:/")
    parts = (source.removeprefix("runs:/") if is_mlflow else str(path)).split("/")
    if path.is_dir():
        parts = list(path.resolve().parts[1:])
    parts = [part for part in parts if part]
    own = next((part for part in reversed(parts) if not _NO_NAME.fullmatch(part)), None)
    if own is None or own in _HOME_FOLDERS:
        after = parts[parts.index(own) + 1 :] if own in parts else parts
        return "-".join(after) or source
    return f"run-{own[:8]}" if is_mlflow and re.fullmatch("[0-9a-f]{32}", own) else own


def file_adapter(
    folder: Path,
    origin: Origin,
    *,
    base: "BaseModel | None",
    registry: Registry,
    progress: Progress | None,
    warn: Callable[[str], None] | None = None,
) -> AdapterRecord:
    """Checks, fingerprints, one entry: the second half of `register` and of `train`.

    Args:
        folder: The PEFT files.
        origin: What else is known of it.
        base: Its base model; None to load the one that the files name, if it is here.
        registry: Where it goes.
        progress: Told about the fingerprint.
        warn: As for `register`.
    """
    from adapt_lora.model.adapting import read_peft_config
    from adapt_lora.registry.adapter import check_fits, check_scorable, read_adapter
    from adapt_lora.report.card import adapter_card_html

    settled = settle_base(folder, base, registry)
    base, tell = settled.model, warn or warnings.warn
    adapter = read_adapter(folder, base_model=settled.identity.name)
    check_scorable(adapter)
    read_peft_config(folder)
    # Under the base that is meant; where that is not here, any base will do that it was seen on.
    elsewhere = []
    for known in registry.adapters():
        if known.adapter_id == adapter.adapter_id:
            if registry.is_same_base(known.base, settled.identity):
                return _filed_before(known, adapter, origin, base, registry, progress, tell)
            if base is None and not known.unchecked:
                tell(
                    f"The same content is filed under {known.base.name}, and {adapter.base_name} "
                    "is not here to be compared: nothing was written."
                )
                return known
            elsewhere.append(known)
    tags = dict(adapter.tags)
    if settled.reason is not None:
        tags["effect_check"] = f"{NOT_DONE}{settled.reason}"
    warning = registry.base_warning(base.identity) if base else None
    record = AdapterRecord(
        adapter_id=adapter.adapter_id,
        name=origin.name,
        base=settled.identity,
        dataset=_dataset_record(origin.dataset) if origin.dataset else None,
        group=origin.dataset.group if origin.dataset else origin.group,
        fingerprint=origin.fingerprint,
        params={**adapter.params, **origin.params},
        metrics=origin.metrics,
        tags=tags,
        warnings=(*adapter.warnings, *([warning] if warning else [])),
    )
    unseen = [known for known in elsewhere if known.unchecked]
    if unseen and record.dataset is None:
        known = unseen[-1]
        group = record.group or known.group
        record = replace(record, dataset=known.dataset, group=group, fingerprint=known.fingerprint)
    answers: Sequence[Mapping[str, str]] = ()
    if base is not None:
        check_fits(adapter, base.folder)
        record, answers = _fingerprinted(record, adapter, base, origin.dataset, progress)
    with tempfile.TemporaryDirectory(prefix="adapt-plots-") as scratch:
        added = registry.add_adapter(
            record,
            folder,
            card_html=adapter_card_html(record),
            plots=_draw(record, origin, Path(scratch)),
            probes=answers,
            history=[StepRecord(step.step, _step_metrics(step)) for step in origin.history],
        )
    for known in elsewhere:
        _settle_elsewhere(known, registry, tell)
    return added


def _settle_elsewhere(
    known: AdapterRecord, registry: Registry, tell: Callable[[str], None]
) -> None:
    """Take out the entry of the same content under a base name that has been mended."""
    cells = registry.transfer_matrix(known.base).cells
    if known.unchecked and not any(cell.row.model == known.adapter_id for cell in cells):
        registry.remove(known)
        tell(f"It replaces the entry of the same content under {known.base.name}, never checked.")
    else:
        tell(f"The same content stays filed under {known.base.name}, as {_reference(known)}.")


def _filed_before(
    known: AdapterRecord,
    adapter: "Adapter",
    origin: Origin,
    base: "BaseModel | None",
    registry: Registry,
    progress: Progress | None,
    tell: Callable[[str], None],
) -> AdapterRecord:
    """The entry that is there, with its lost or mended files, checked where it never was."""
    mended = False
    if registry.lost_files(known):
        registry.restore_files(known, adapter.folder)
        tell(f"The files of {_reference(known)} were lost and are put back.")
    elif changed := ", ".join(registry.changed_config(known, adapter.config)):
        mended = base is not None or known.unchecked is not None
        if mended:
            _renew_files(known, adapter, base, registry)
            tell(f"The config of {_reference(known)} is renewed: it differed in {changed}.")
        else:
            tell(
                f"This config differs in {changed} from the one of {_reference(known)}, which is "
                f"kept: {known.base.name} is not here to check the other with."
            )
    if base is not None and (mended or known.unchecked):
        known = check_adapter(known, adapter, base, registry=registry, progress=progress)
    idle = []
    if origin.is_named and origin.name != known.name:
        idle.append(f"--name {origin.name}")
    if origin.dataset and (known.dataset is None or known.dataset.digest != origin.dataset.digest):
        idle.append("--dataset")
    if origin.group is not None and origin.group != known.group:
        idle.append(f"--group {origin.group}")
    if idle or origin.name != known.name:
        tell(
            f"The same content is registered already, as {_reference(known)}"
            + (
                f", so {' and '.join(idle)} had no effect; `adapt remove {_reference(known)}` "
                "makes room to register it anew."
                if idle
                else "."
            )
        )
    return known


def _renew_files(
    known: AdapterRecord, adapter: "Adapter", base: "BaseModel | None", registry: Registry
) -> None:
    """Put other files of the same content in place of the registered ones, once they can be run."""
    from adapt_lora.registry.adapter import check_fits

    if base is not None:
        check_fits(adapter, base.folder)
        with base.adapted(adapter.folder):
            pass
    registry.restore_files(known, adapter.folder)
    shutil.rmtree(weights_place(known.adapter_id), ignore_errors=True)


def read_anew(folder: Path, remains: AdapterRecord, *, registry: Registry) -> AdapterRecord:
    """Make a registered adapter's record once more, from its files and what its run says.

    Args:
        folder: Its PEFT files.
        remains: What its run says.
        registry: Where it is.

    Raises:
        AdapterError: The files are not those of the entry, or do not fit.
    """
    from adapt_lora.registry.adapter import check_fits, read_adapter

    adapter = read_adapter(folder, base_model=remains.base.name)
    if adapter.adapter_id != remains.adapter_id:
        raise AdapterError(f"{folder}: these are not the files of {_reference(remains)}.")
    settled = settle_base(folder, None, registry)
    params = {**adapter.params, **remains.params}
    tags = {**adapter.tags, **remains.tags}
    record = replace(remains, params=params, tags=tags, warnings=adapter.warnings)
    answers: Sequence[Mapping[str, str]] = ()
    if settled.model is not None:
        check_fits(adapter, settled.model.folder)
        record, answers = _fingerprinted(record, adapter, settled.model, None, None)
    return registry.renew_adapter(record, answers)


def check_adapter(
    record: AdapterRecord,
    adapter: "Adapter",
    base: "BaseModel",
    *,
    registry: Registry,
    progress: Progress | None = None,
) -> AdapterRecord:
    """See a registered adapter's effect on its base at last, and write down what is seen.

    Raises:
        AdapterError: It does not fit, or does nothing; the entry says so from then on.
    """
    from adapt_lora.registry.adapter import check_fits

    identity = replace(base.identity, name=record.base.name)
    said = [warning for warning in record.warnings if LACKS_DIGEST not in warning]
    record = replace(
        record,
        base=identity,
        tags={**record.tags, **adapter.tags},
        warnings=tuple(dict.fromkeys((*said, *adapter.warnings))),
    )
    try:
        check_fits(adapter, base.folder)
        filled, answers = _fingerprinted(record, adapter, base, None, progress)
    except AdapterError as error:
        tags = {**record.tags, "effect_check": f"{FAILED}{error}"}
        registry.renew_adapter(replace(record, tags=tags))
        raise
    return registry.renew_adapter(filled, answers)


def check_registered(
    names: Sequence[str],
    *,
    registry: Registry,
    base_model: str | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
) -> list[LateCheck]:
    """Check adapters that were registered while their base model was not at hand.

    Args:
        names: Which; all that were never checked where none are named.
        registry: Where they are.
        base_model: The base they sit on, where its name was wrong or it lies at another place;
            where no adapter is named, it is taken for those alone that are filed under it.
        progress: Told about each step.
        warn: As for `register`.

    Raises:
        NotFoundError: There is no adapter of that name.
    """
    from adapt_lora.registry.adapter import read_adapter

    records = [registry.adapter(name) for name in names] or [
        record for record in registry.adapters() if record.unchecked
    ]
    given = None if base_model is None else load_base_model(base_model)
    load = functools.cache(load_base_model)
    done = []
    for record in records:
        try:
            is_meant = given and (names or registry.is_same_base(record.base, given.identity))
            base = given if given and is_meant else load(record.base.name)
        except BaseModelError as error:
            done.append(LateCheck(record, f"not checked: {error}"))
            continue
        with tempfile.TemporaryDirectory(prefix="adapt-check-") as scratch:
            try:
                folder = registry.pull(record, Path(scratch) / "adapter")
                if registry.is_same_base(record.base, base.identity):
                    adapter = read_adapter(folder, base_model=record.base.name)
                    checked = check_adapter(
                        record, adapter, base, registry=registry, progress=progress
                    )
                else:
                    origin = Origin(record.name, group=record.group, params=record.params)
                    checked = file_adapter(
                        folder, origin, base=base, registry=registry, progress=progress, warn=warn
                    )
            except AdaptError as error:  # of many adapters one may not fit
                done.append(LateCheck(record, f"does not pass: {error}"))
            else:
                done.append(LateCheck(checked))
    return done


def _reference(record: AdapterRecord) -> str:
    return f"{record.name}/{record.version}"


def _refuse_web_address(source: str) -> None:
    if not re.match(r"https?://|(www\.)?(huggingface\.co|hf\.co)/", source):
        return
    of_hub = re.match(
        r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)", source
    )
    meant = f"Write {of_hub[1]}" if of_hub else "Give a folder or a Hub id (org/name)"
    raise AdapterError(f"{source} is the address of a page, not an adapter. {meant}.")


def _fetch(source: str, registry: Registry, scratch: Path) -> Path:
    if source.startswith(("models:/", "runs:/")):
        return registry.fetch(source, scratch)
    path = Path(source).expanduser()
    if path.exists() or source.count("/") != 1 or source.startswith((".", "~")):
        return path
    from adapt_lora.registry.exchange.hub import fetch_adapter

    return fetch_adapter(source, scratch)


def _dataset_record(dataset: Dataset) -> DatasetRecord:
    return DatasetRecord(
        name=dataset.name,
        digest=dataset.digest,
        group=dataset.group,
        n_rows=len(dataset.rows),
        source=dataset.source,
        parent=dataset.parent,
        parts=dataset.parts,
        read=ReadingRecord.of(dataset.echo),
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
        warnings=tuple(dict.fromkeys((*record.warnings, *behaviour.warnings))),
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
