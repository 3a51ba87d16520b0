"""Where data lies: a file, a folder with a file for each split, or a Hub dataset."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from adapt_lora.data.files import SUFFIXES, is_saved_dataset, read_saved_splits
from adapt_lora.data.folders import SplitFiles, find_split_files, shard_count, stem_of
from adapt_lora.data.hub import HubId, parse_hub_id
from adapt_lora.data.splits import SPLIT_NAMES, choose_split, refuse_split
from adapt_lora.errors import DatasetError

_STEMS_WITHOUT_NAME = (*SPLIT_NAMES, "data", "dataset")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the rows of a source lie, and how to speak of it."""

    at: Path | HubId | None
    """The file that holds them (of shards the first), the folder that `datasets` saved them to, or
    the Hub dataset; None where Python holds them itself."""
    name: str
    """What people call it, unless they say otherwise."""
    source: str
    """For the record: the file's name (never a path) or the Hub id."""
    shown: str
    """For messages: as people can open it."""
    note: str = ""
    """What a person should know of the split that was chosen, a sentence; "" for nothing."""
    files: tuple[Path, ...] = ()
    """The file, or all shards of it, in their order; none for a folder or a Hub dataset."""


def find_place(source: str | Path, split: str) -> Place:
    """What a path or Hub id leads to.

    Raises:
        DatasetError: There is nothing, or a folder without the split.
    """
    if not str(source).strip():
        raise DatasetError("No file is named where one was expected: the path is empty.")
    path = Path(source).expanduser()
    # A `Path`, or the name of a file, is never meant for a Hub id.
    is_name = isinstance(source, Path) or source.lower().endswith((*SUFFIXES, ".gz"))
    hub = None if is_name or path.exists() else parse_hub_id(str(source))
    if hub is not None:
        return Place(hub, hub.name, str(source), str(source))
    note = ""
    saved = read_saved_splits(path)
    if saved:
        choice = choose_split(split, saved)
        if choice is None:
            raise DatasetError(
                f"{path}: {refuse_split(split, saved)}. Pass the folder of the one that you mean."
            )
        if not (path / choice.name).is_dir():
            raise DatasetError(
                f"{path}: the folder of its split {choice.name!r} is missing. Copy it again, whole."
            )
        path, note = path / choice.name, choice.note
    files: tuple[Path, ...] = (path,)
    if not is_saved_dataset(path):
        found = _data_files(path, split)
        files, note = found.paths, note or found.note
    at = files[0]
    n_shards = shard_count(at)
    if len(files) == 1 and n_shards > 1:
        note = f"this is one of {n_shards:,} shards, and only its rows are read"
    return Place(at, _name_of(at, path), _source_of(files), str(path), note, files)


def _name_of(file: Path, path: Path) -> str:
    """The file's name, or that of the folder where it only says which split it is."""
    stem = stem_of(file, whole=True)
    if stem and not is_bare_split(file):
        return stem
    folder = (path if path.is_dir() else path.parent).resolve()
    while folder.name.lower() in _STEMS_WITHOUT_NAME:
        folder = folder.parent
    return folder.name or stem_of(file)


def _source_of(files: Sequence[Path]) -> str:
    if len(files) == 1:
        return files[0].name
    return f"{stem_of(files[0], whole=True) or files[0].parent.name} in {len(files):,} shards"


def _data_files(path: Path, split: str) -> SplitFiles:
    """The file itself, or the split's files inside a folder."""
    if path.is_file():
        return SplitFiles((path,))
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
    found = find_split_files(path, split)
    if found is None:
        there = ", ".join(sorted(entry.name for entry in islice(path.iterdir(), 8))) or "nothing"
        raise DatasetError(
            f"{path} is a folder without {split}.jsonl (found: {there}). "
            "Pass the data file itself, or name it so."
        )
    return found


def is_bare_split(path: Path) -> bool:
    """Whether a file's name only says which split it is: train.jsonl, but not sst2_train.jsonl."""
    return stem_of(path, whole=True).lower() in _STEMS_WITHOUT_NAME


def group_of(name: str) -> str:
    """The name without a split at its end, so that "sst2_train" and "sst2-test" are twins."""
    return re.sub(rf"(?i)[-_. ]({'|'.join(SPLIT_NAMES)})$", "", name) or name
