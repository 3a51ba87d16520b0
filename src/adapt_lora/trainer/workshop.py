"""Where a training works: a folder in the cache that a killed run finds again."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from adapt_lora.data import Row
from adapt_lora.errors import TrainingError
from adapt_lora.model.base import BaseModel, cache_dir
from adapt_lora.trainer.checkpoint import read_checkpoint, remove_folder
from adapt_lora.trainer.loop import training_key
from adapt_lora.trainer.request import TrainRequest


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where a training puts its things."""

    folder: Path
    """The adapter to be."""
    checkpoint: Path
    """What a killed run goes on from."""


@contextmanager
def open_workshop(
    request: TrainRequest, rows: Sequence[Row], base: BaseModel
) -> Iterator[Workshop]:
    """A place in the cache that is the same for the same training; it is removed on success.

    Raises:
        TrainingError: Another process is in it, or the cache can't be written to.
    """
    key = training_key(base, rows, request.recipe)
    output = request.output
    place = json.dumps([key, request.name, str(output and output.resolve())])
    home = cache_dir() / "trainings" / hashlib.sha256(place.encode()).hexdigest()[:32]
    lock = FileLock(home.with_suffix(".lock"))
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise TrainingError(
            f"Another process is training {request.name} on these rows right now. Wait for it, or "
            "choose another name."
        ) from error
    except OSError as error:
        raise TrainingError(
            f"{home}: checkpoints can't be kept there ({error.strerror or error}). Make room, or "
            "set ADAPT_CACHE_DIR to another folder."
        ) from error
    shop = Workshop(output or home / "adapter", home / "checkpoint")
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
