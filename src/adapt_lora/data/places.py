"""Where data lies: a file, a folder with a file for each split, or a Hub dataset."""

import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from adapt_lora.data.files import SUFFIXES, is_saved_dataset, read_saved_splits
from adapt_lora.data.hub import HubId, parse_hub_id
from adapt_lora.data.splits import SPLIT_NAMES, choose_split
from adapt_lora.errors import DatasetError

_SHARD = re.compile(r".*-\d{5}-of-(\d{5})")
_STEMS_WITHOUT_NAME = (*SPLIT_NAMES, "data", "dataset")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the rows of a source lie, and how to speak of it."""

    at: Path | HubId | None
    """The file that holds them, the folder that `datasets` saved them to, or the Hub dataset; None
    where Python holds them itself."""
    name: str
    """What people call it, unless they say otherwise."""
    source: str
    """For the record: the file's name (never a path) or the Hub id."""
    shown: str
    """For messages: as people can open it."""
    note: str = ""
    """What a person should know of the split that was chosen, a sentence; "" for nothing."""


def find_place(source: str | Path, split: str) -> Place:
    """What a path or Hub id leads to.

    Raises:
        DatasetError: There is nothing, or a folder without the split.
    """
    path = Path(source).expanduser()
    # A `Path`, or the name of a file, is never meant for a Hub id.
    is_name = isinstance(source, Path) or source.endswith((*SUFFIXES, ".gz"))
    hub = None if is_name or path.exists() else parse_hub_id(str(source))
    if hub is not None:
        return Place(hub, hub.name, str(source), str(source))
    note = ""
    saved = read_saved_splits(path)
    if saved:
        choice = choose_split(split, saved)
        if choice is None:
            raise DatasetError(
                f"{path}: there is no split {split!r} (found: {', '.join(saved)}). "
                "Pass the folder of the one that you mean."
            )
        if not (path / choice.name).is_dir():
            raise DatasetError(
                f"{path}: the folder of its split {choice.name!r} is missing. Copy it again, whole."
            )
        path, note = path / choice.name, choice.note
    if not is_saved_dataset(path):
        path = _data_file(path, split)
    shard = _SHARD.fullmatch(_stem(path))
    if shard and int(shard[1]) > 1:
        note = f"this is one of {int(shard[1]):,} shards, and only its rows are read"
    name = path.resolve().parent.name if is_bare_split(path) else ""
    return Place(path, name or _stem(path), path.name, str(path), note)


def _data_file(path: Path, split: str) -> Path:
    """The file itself, or the split's file inside a folder."""
    if path.is_file():
        return path
    if path.is_symlink() and not path.exists():
        raise DatasetError(
            f"{path} is a link to {path.readlink()}, which is not there. Fetch that file first "
            "(in a git-annex repository `git annex get`)."
        )
    if not path.exists():
        raise DatasetError(
            f"{path} does not exist. Check the path; a Hub dataset is written org/name[#split]."
        )
    if not path.is_dir():
        raise DatasetError(f"{path} is neither a file nor a folder; save the data to a file first.")
    names = [f"{split}{suffix}{gz}" for suffix in SUFFIXES for gz in ("", ".gz")]
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        there = ", ".join(sorted(entry.name for entry in islice(path.iterdir(), 8))) or "nothing"
        raise DatasetError(
            f"{path} is a folder without {split}.jsonl (found: {there}). "
            "Pass the data file itself, or name it so."
        )
    return found


def is_bare_split(path: Path) -> bool:
    """Whether a file's name only says which split it is: train.jsonl, but not sst2_train.jsonl."""
    return _stem(path).lower() in _STEMS_WITHOUT_NAME


def group_of(name: str) -> str:
    """The name without a split at its end, so that "sst2_train" and "sst2-test" are twins."""
    return re.sub(rf"(?i)[-_. ]({'|'.join(SPLIT_NAMES)})$", "", name) or name


def _stem(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).stem
