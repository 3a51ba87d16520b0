"""Datasets of the Hub, through the `datasets` library where people have installed it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module

from adapt_lora.data.memory import dataset_table
from adapt_lora.data.splits import SplitChoice, choose_split, refuse_split
from adapt_lora.data.table import Table
from adapt_lora.errors import DatasetError, reason_of

_HUB_ID = re.compile(
    r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<config>[\w.+-]+))?(@(?P<revision>[\w./-]+))?"
    r"(#(?P<split>[\w.-]+))?"
)


@dataclass(frozen=True, slots=True)
class HubId:
    """`org/name[:config][@revision][#split]` in its parts."""

    repo: str
    """The dataset: "org/name"."""
    config: str | None
    """Which of its configurations."""
    revision: str | None
    """Branch, tag or commit."""
    split: str | None
    """The split that is asked for by name."""

    @property
    def name(self) -> str:
        """Short name for people."""
        repo = self.repo.partition("/")[2]
        return f"{repo}-{self.config}" if self.config else repo


def parse_hub_id(text: str) -> HubId | None:
    """The parts of a Hub id; None where the text is none."""
    match = _HUB_ID.fullmatch(text)
    return HubId(**match.groupdict()) if match else None


def read_hub(hub: HubId, split: str) -> Table:
    """Rows of a Hub dataset.

    Args:
        hub: What to load.
        split: The split to take where the id names none; for a task the nearest to it will do.

    Raises:
        DatasetError: The library is missing, the dataset can't be loaded, or has no rows.
    """
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise DatasetError(
            f"{hub.repo} is not an existing path; as a Hub dataset id it needs the `datasets` "
            "library. Run `pip install datasets`, or download the file and pass its path."
        ) from error
    where = {"path": hub.repo, "revision": hub.revision}
    try:
        chosen = SplitChoice(hub.split or "")
        if not hub.split:
            there = datasets.get_dataset_split_names(config_name=hub.config, **where)
            chosen = _chosen_split(split, there)
        loaded = datasets.load_dataset(name=hub.config, split=chosen.name, **where)
    # The library lets through what its own libraries raise, and wraps it in its own errors.
    except Exception as error:
        raise DatasetError(
            f"{hub.repo} is not an existing path, and the Hub dataset can't be loaded: "
            f"{reason_of(error).rstrip('.')}. Check the id "
            "org/name[:config][@revision][#split] and the network, or pass a file."
        ) from error
    table = dataset_table(loaded, "Hub")
    if not table.n_read:
        raise DatasetError(f"{hub.repo}: split {chosen.name!r} has no rows. Name another: #train.")
    return replace(table, notes=(chosen.note,) if chosen.note else ())


def _chosen_split(wanted: str, there: Sequence[str]) -> SplitChoice:
    choice = choose_split(wanted, there)
    if choice is None:
        raise ValueError(f"{refuse_split(wanted, there)}.")
    return choice
