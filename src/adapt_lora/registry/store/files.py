"""PEFT files on their way into a store and out of it."""

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapt_lora.errors import AdapterError, NotFoundError, RegistryError, reason_of
from adapt_lora.registry.adapter import copy_adapter, copy_allowed, read_adapter
from adapt_lora.registry.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from adapt_lora.registry.adapter_settings import changed_settings
from adapt_lora.registry.records import AdapterRecord
from adapt_lora.registry.store.client import ABSENT, UNFIT, Client
from adapt_lora.registry.store.relocation import local_folder


def upload(client: Client, record: AdapterRecord, folder: Path, model_id: str) -> None:
    """Put an adapter's allowed files beside its logged model.

    Raises:
        AdapterError: They are not the files that the record is about.
    """
    adapter = read_adapter(folder, base_model=record.base.name)
    if adapter.adapter_id != record.adapter_id:
        raise AdapterError(f"{folder} changed while it was being registered; try again.")
    with tempfile.TemporaryDirectory(prefix="adapt-register-") as scratch:
        client.mlflow.log_model_artifacts(model_id, str(copy_adapter(adapter, Path(scratch))))


def pull(client: Client, record: AdapterRecord, dest: Path) -> Path:
    """Copy an adapter's files into a folder; see `Registry.pull`."""
    dest = Path(dest)
    if not record.has_weights:
        raise RegistryError(
            f"{record.name} is known by its figures only, so there is nothing to pull. `adapt "
            "list` says which adapters have their weights here."
        )
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        if _holds(dest, record):
            return dest
        raise RegistryError(f"{dest} is not an empty folder; give a new one.")
    place = lost(client, record)
    if place is not None:
        raise RegistryError(
            f"The files of {record.name} are not in {place} any more. Register the adapter again "
            "to put them back; without them, `adapt doctor --repair` keeps its figures."
        )
    with _folder_beside(dest) as scratch:
        fetched = client.download(f"models:/{record.model_id}", Path(scratch))
        try:
            found = read_adapter(fetched, base_model=record.base.name).adapter_id
        except AdapterError as error:
            what = str(error).replace(f"{fetched}/", "").replace(str(fetched), "its folder")
            raise RegistryError(
                f"The files of {record.name} in {client.uri} can't be used: {what} Register the "
                "mended adapter to renew them."
            ) from error
        if found != record.adapter_id:
            raise RegistryError(
                f"The files of {record.name} in {client.uri} are not the ones that were "
                "registered; remove it and register it again."
            )
        # In one step: whoever finds the folder finds it whole.
        ready = Path(scratch) / "ready"
        copy_allowed(fetched, ready)
        ready.replace(dest)
    return dest


@contextlib.contextmanager
def _folder_beside(dest: Path) -> Iterator[str]:
    """A new folder on the disk of `dest`, gone afterwards.

    Raises:
        RegistryError: None can be made there.
    """
    in_the_way = next((parent for parent in dest.parents if parent.is_file()), None)
    if in_the_way is not None:
        raise RegistryError(f"{dest}: {in_the_way} is a file, not a folder. Give another place.")
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=dest.parent, prefix=".adapt-pull-")
    except OSError as error:
        raise RegistryError(
            f"{dest}: no folder can be made there ({error.strerror or error}). Check the "
            "permissions, or give another place."
        ) from error
    with scratch as name:
        yield name


def lost(client: Client, record: AdapterRecord) -> str | None:
    """Where an adapter's files should be and are not; None where they are there."""
    model = client.mlflow.get_logged_model(record.model_id)
    folder = local_folder(model.artifact_location)
    if folder is not None:
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    else:
        there = {item.path for item in client.mlflow.list_logged_model_artifacts(model.model_id)}
    return None if {CONFIG_FILE, WEIGHTS_FILE} <= there else str(folder or model.artifact_location)


def changed_config(client: Client, record: AdapterRecord, config: Mapping[str, Any]) -> list[str]:
    """Fields in which a registered adapter's config differs from another one of its content."""
    if not record.has_weights:
        return []
    place = client.mlflow.get_logged_model(record.model_id).artifact_location
    with tempfile.TemporaryDirectory(prefix="adapt-read-") as scratch:
        path = client.download(f"{place}/{CONFIG_FILE}", Path(scratch))
        stored = json.loads(path.read_text(encoding="utf-8"))
    return changed_settings(stored, config)


def fetch(client: Client, source: str, dest: Path) -> Path:
    """Copy the adapter files of an MLflow source; see `Registry.fetch`."""
    from mlflow.exceptions import MlflowException

    if not source.startswith(("models:/", "runs:/")):
        raise RegistryError(
            f"{source!r} is not an MLflow source: it starts with models:/ or runs:/."
        )
    dest = Path(dest)
    dest.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest, prefix=".adapt-fetch-") as scratch:
        try:
            fetched = client.download(source, Path(scratch))
        except MlflowException as error:
            if error.error_code not in (ABSENT, UNFIT):
                raise
            raise NotFoundError(
                f"{source}: nothing to fetch in {client.uri} ({reason_of(error, limit=200)})."
            ) from error
        # The folder itself, or the only one below it that holds an adapter.
        holding = [path.parent for path in fetched.rglob("adapter_config.json")]
        if len(holding) == 1:
            fetched = holding[0]
        target = dest / re.sub(r"\W+", "-", source).strip("-")
        shutil.rmtree(target, ignore_errors=True)
        copy_allowed(fetched, target)
    return target


def _holds(folder: Path, record: AdapterRecord) -> bool:
    try:
        return read_adapter(folder, base_model=record.base.name).adapter_id == record.adapter_id
    except AdapterError:
        return False
