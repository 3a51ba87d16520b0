"""Which files of a folder hold a split, where their names say it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adapt_lora.data.files import SUFFIXES, suffix_of
from adapt_lora.data.files import stem_of as file_stem
from adapt_lora.data.splits import choose_split, is_ambiguous, kind_of_split, refuse_split
from adapt_lora.data.values import listed
from adapt_lora.errors import DatasetError

# "train-00000-of-00003", and as the Hub once wrote it "train-00000-of-00003-0a1b2c".
_SHARD = re.compile(r"(?P<whole>.*?)[-_.]?(?P<number>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]+)?")
# Where the Hub's datasets keep their files, and its conversion to Parquet.
_INNER = ("data", "default")
_ABOUT_DATA = ("meta", "state", "dataset_info", "dataset_infos", "dataset_dict")
# What Spark and the Hub's conversion to Parquet call the pieces of a folder: "part-00000-0a1b",
# "0000".
_PIECE = re.compile(r"(?:part-)?\d{4,5}(?:[-_.].*)?")


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """The files that hold the split that is read."""

    paths: tuple[Path, ...]
    """The file, or all its shards in their order."""
    note: str = ""
    """What a person should know of the choice, a sentence; "" for nothing."""


def find_split_files(folder: Path, split: str) -> SplitFiles | None:
    """The files of a split inside a folder: `train.jsonl`, `train-00000-of-00003.parquet`, ….

    None where no name in it says a split.

    Raises:
        DatasetError: A shard is missing, or which of several files is meant can't be told.
    """
    splits = _splits_inside(folder)
    plain = [name for name in splits if kind_of_split(name)]
    # "eval_results.json" beside "train.jsonl" is no split.
    named = plain or [name for name in splits if kind_of_split(name, qualified=True)]
    if not named:
        whole = [name for name in splits if not kind_of_split(name, qualified=True)]
        pieces = splits[whole[0]] if len(whole) == 1 else []
        is_one = pieces and (_SHARD.fullmatch(stem_of(pieces[0])) or whole[0] == "")
        return SplitFiles(_whole(folder, pieces)) if is_one else None
    choice = choose_split(split, named)
    if choice is None and is_ambiguous(split, named):
        raise DatasetError(f"{folder}: {refuse_split(split, named)}. Pass the data file itself.")
    kind = kind_of_split(split)
    # Only the split to score on, which nobody asked for by name, has others that will do.
    if choice is None or kind not in ("test", kind_of_split(choice.name, qualified=True)):
        return None
    note = "" if choice.name == split else choice.note
    return SplitFiles(_whole(folder, splits[choice.name]), note)


def shard_count(path: Path) -> int:
    """How many shards there are of what a file is one of, as its name says; 1 for a whole file."""
    match = _SHARD.fullmatch(stem_of(path))
    return int(match["count"]) if match else 1


def stem_of(path: Path, *, whole: bool = False) -> str:
    """A file's name without its suffix, `.gz` aside.

    Args:
        path: The file.
        whole: Whether to drop the number of its shard too: "train" for "train-00000-of-00003".
    """
    stem = file_stem(path)
    match = _SHARD.fullmatch(stem) if whole else None
    return match["whole"] if match else stem


def _splits_inside(folder: Path) -> dict[str, list[Path]]:
    """The data files by the split that they belong to, in `data/` or a folder per split too."""
    splits: dict[str, list[Path]] = {}
    for path in _data_files(folder):
        is_piece = _PIECE.fullmatch(path.name) and not _SHARD.fullmatch(stem_of(path))
        splits.setdefault("" if is_piece else stem_of(path, whole=True), []).append(path)
    if splits:
        return {name: _of_one_format(paths) for name, paths in splits.items()}
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = _data_files(inner) if kind_of_split(inner.name) else []
        if files:
            splits[inner.name] = _of_one_format(files)
    inside = next((folder / name for name in _INNER if (folder / name).is_dir()), None)
    return splits if splits or inside is None else _splits_inside(inside)


def _data_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and not path.name.startswith((".", "_"))
        and suffix_of(path) in SUFFIXES
        and stem_of(path) not in _ABOUT_DATA
    )


def _of_one_format(paths: Iterable[Path]) -> list[Path]:
    """Where a split is there in several formats, those of the first that we read."""
    kinds = {
        path: (SUFFIXES.index(suffix_of(path)), path.suffix.lower() == ".gz") for path in paths
    }
    return [path for path, kind in kinds.items() if kind == min(kinds.values())]


def _whole(folder: Path, paths: list[Path]) -> tuple[Path, ...]:
    """All shards, of which none may be missing; one file where they are no shards.

    Raises:
        DatasetError: One is missing, or several files would do.
    """
    shards = [_SHARD.fullmatch(stem_of(path)) for path in paths]
    counts = {int(shard["count"]) for shard in shards if shard}
    numbers = [int(shard["number"]) for shard in shards if shard]
    if len(numbers) < len(paths):
        if len(paths) > 1 and not all(_PIECE.fullmatch(path.name) for path in paths):
            raise DatasetError(
                f"{folder}: which of {listed(path.name for path in paths)} is meant can't be told. "
                "Pass the data file itself."
            )
    elif len(counts) > 1 or sorted(numbers) != list(range(max(counts))):
        raise DatasetError(
            f"{folder}: {len(paths)} shards are there ({listed(path.name for path in paths)}), not "
            f"each of {max(counts)} once. Copy the folder again, whole."
        )
    return tuple(paths)
