"""Adapters trained on a dataset, and then into the registry."""

import platform
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from adapt_lora.data import Dataset, read_dataset
from adapt_lora.errors import ConfigError
from adapt_lora.model.base import find_base_model, load_base_model
from adapt_lora.registry import Registry
from adapt_lora.registry.layout import registered_name
from adapt_lora.registry.records import AdapterRecord
from adapt_lora.results import Training
from adapt_lora.roads.progress import Progress, of_step
from adapt_lora.roads.registration import Origin, file_adapter

if TYPE_CHECKING:
    from adapt_lora.model.base import BaseModel
    from adapt_lora.trainer import EpochRecord, Recipe, TrainingResult, TrainRequest


def train(
    request: "TrainRequest",
    *,
    registry: Registry | None,
    base: "BaseModel | None" = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Training:
    """Train a LoRA adapter on a dataset and register it.

    An adapter of this name, trained on the same rows by the same recipe, is not trained again. A
    call that was killed goes on from its last checkpoint when it is made again. Where `torchrun` or
    `accelerate launch` started several processes, all train together; the first alone writes,
    registers and speaks, and the others get a `Training` without folder and record.

    Args:
        request: On what, by which recipe, under which name.
        registry: Where the adapter goes; None leaves a plain PEFT folder in `request.output`.
        base: The base model that the request names, where it is loaded already.
        progress: Told (“train NAME”, steps done, in all), then about the fingerprint.
        say: Told what a person should know, as it arises.

    Raises:
        TrainingError: Training can't start or had to stop.
    """
    from adapt_lora.trainer import join_processes, open_workshop, train_adapter

    if registry is not None:
        request = replace(request, name=registered_name(request.name))
    with join_processes() as processes:
        rows = read_dataset(
            request.dataset,
            mapping=request.mapping,
            group=request.group,
            split="train",
            allow_skips=request.allow_skips,
        )
        known = None
        if registry is not None and processes.is_first:
            known = find_training(request, rows, registry=registry)
            if known is not None and request.output is not None and not request.output.exists():
                registry.pull(known, request.output)
        if processes.tell_all(known is not None):
            return Training(request.output if known else None, known, None, rows)
        if base is None:
            base = load_base_model(request.base_model, dtype=request.recipe.dtype)
        if not processes.is_first:
            nowhere = Path(request.name)  # only the first process writes
            train_adapter(base, rows.rows, recipe=request.recipe, out=nowhere, processes=processes)
            return Training(None, None, None, rows)
        with open_workshop(request, rows.rows, base) as shop:
            result = train_adapter(
                base,
                rows.rows,
                recipe=request.recipe,
                out=shop.folder,
                labels=rows.labels,
                checkpoint=shop.checkpoint,
                processes=processes,
                progress=of_step(progress, f"train {request.name}"),
                say=say,
            )
            if registry is None:
                return Training(shop.folder, None, result, rows)
            records = _file_epochs(
                result,
                rows,
                name=request.name,
                base=base,
                registry=registry,
                progress=progress,
                say=say,
            )
        return Training(request.output, records[-1], result, rows, tuple(records[:-1]))


def find_training(
    request: "TrainRequest", rows: Dataset, *, registry: Registry
) -> AdapterRecord | None:
    """The adapter of that name, trained to the end on these rows by that recipe, or None."""
    from adapt_lora.trainer import recipe_from_params

    name = registered_name(request.name)
    for record in registry.adapters(find_base_model(request.base_model)):
        if record.name != name or record.dataset is None or record.dataset.digest != rows.digest:
            continue
        # A setting without a param was off, or did not exist yet: both mean its default.
        try:
            same_recipe = recipe_from_params(record.params) == request.recipe
        except ConfigError:  # registered, not trained here
            continue
        last_epoch = str(request.recipe.epochs)
        if same_recipe and record.params.get("train/epoch", last_epoch) == last_epoch:
            return record
    return None


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


def _file_epochs(
    result: "TrainingResult",
    rows: Dataset,
    *,
    name: str,
    base: "BaseModel",
    registry: Registry,
    progress: Progress | None,
    say: Callable[[str], None] | None,
) -> list[AdapterRecord]:
    """An entry for each epoch that was kept, the last one last."""
    recipe = result.recipe
    records: list[AdapterRecord] = []
    # The last epoch goes last: it is what "trained already" is told by.
    for epoch in result.epochs:
        is_last = epoch.epoch == recipe.epochs
        if epoch.folder is None and not is_last:
            continue
        kept = epoch if recipe.keep_epochs else None
        origin = Origin(
            name,
            rows,
            params=_params(recipe, kept, base),
            metrics=_metrics(result, kept),
            history=result.history if is_last else (),
        )
        if records:
            origin = replace(origin, fingerprint=records[0].fingerprint)
        records.append(
            file_adapter(
                epoch.folder or result.folder,
                origin,
                base=base,
                registry=registry,
                progress=progress,
                warn=say or (lambda _: None),
            )
        )
    return records


def _params(recipe: "Recipe", epoch: "EpochRecord | None", base: "BaseModel") -> dict[str, str]:
    """The recipe, and what the training ran on: versions that decide its numbers."""
    libraries = ("adapt-lora", "torch", "transformers", "peft")
    return {
        **recipe.params,
        **({} if epoch is None else {"train/epoch": str(epoch.epoch)}),
        **{f"environment/{name}": version(name) for name in libraries},
        "environment/python": platform.python_version(),
        "environment/machine": f"{platform.system()} {platform.machine()}",
        "environment/device": base.device,
        "environment/dtype": str(base.dtype).removeprefix("torch."),
    }


def _metrics(result: "TrainingResult", epoch: "EpochRecord | None") -> dict[str, float]:
    """The training's figures, as they were after that epoch; None for the end."""
    share = epoch.epoch / result.recipe.epochs if epoch else 1
    figures = {
        "train/final_loss": epoch.train_loss if epoch else result.train_loss,
        "train/held_out_loss": epoch.held_out_loss if epoch else result.held_out_loss,
        "train/held_out_loss_base": result.held_out_loss_base,
        "train/n_rows": float(result.n_rows),
        "train/n_rows_too_long": float(result.n_too_long),
        "train/n_rows_without_response": float(result.n_without_response),
        "train/n_tokens": float(share * result.n_tokens),
        "train/seconds": share * result.seconds,
    }
    return {key: value for key, value in figures.items() if value is not None}
