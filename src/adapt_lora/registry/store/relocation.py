"""A SQLite store whose folder was moved or copied: the addresses in it made to follow."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

from adapt_lora.registry import layout

ARTIFACTS = "artifacts"
"""Folder beside the store that holds the files of our experiments."""

_OF_EXPERIMENT = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
)
_OF_VERSION = ("source", "storage_location")


def local_folder(address: str) -> Path | None:
    """The folder on this disk that an artifact address leads to; None for any other place."""
    parts = urlparse(address)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None


def follow_move(store: Path) -> Path | None:
    """Point a store to the files that lie beside it now.

    MLflow keeps the full address of everything. The files of our experiments are made beside the
    store, so an address that leads elsewhere is of the folder's earlier place. It is left alone
    where no such files came along.

    Args:
        store: A SQLite file that MLflow made.

    Returns:
        The folder that the store was in; None where every address was right.
    """
    came_from = None
    with contextlib.closing(sqlite3.connect(store)) as connection, connection:
        for experiment_id, address, there in _experiments(connection):
            here = (store.parent / ARTIFACTS / there.name).resolve()
            if here != there and _came_along(connection, experiment_id, there, here):
                _readdress(connection, experiment_id, address, here.as_uri())
                came_from = there.parent.parent
    return came_from


def _experiments(connection: sqlite3.Connection) -> Iterator[tuple[int, str, Path]]:
    """Id, address and folder of each experiment of ours that keeps its files on a disk."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if not {"experiments", "experiment_tags", "model_versions", "logged_models"} <= tables:
        return  # empty, or of a version of MLflow that did not know logged models
    own = (
        "SELECT e.experiment_id, e.artifact_location FROM experiments e JOIN experiment_tags t "
        "ON t.experiment_id = e.experiment_id WHERE t.key = ? AND e.artifact_location IS NOT NULL"
    )
    for experiment_id, address in connection.execute(own, (layout.KIND,)).fetchall():
        folder = local_folder(address)
        if folder is not None and folder.parent.name == ARTIFACTS:
            yield experiment_id, address, folder


def _came_along(
    connection: sqlite3.Connection, experiment_id: int, there: Path, here: Path
) -> bool:
    """Whether `here` holds this experiment's files, rather than those of another store's."""
    if not here.is_dir():
        return False
    runs = connection.execute("SELECT run_uuid FROM runs WHERE experiment_id = ?", (experiment_id,))
    return not there.is_dir() or any((here / run_id).is_dir() for (run_id,) in runs)


def _readdress(connection: sqlite3.Connection, experiment_id: int, old: str, new: str) -> None:
    for table, column in _OF_EXPERIMENT:
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE experiment_id = ? "
            f"AND ({column} = ? OR substr({column}, 1, ?) = ?)",
            (new, len(old) + 1, experiment_id, old, len(old) + 1, f"{old}/"),
        )
    for column in _OF_VERSION:
        connection.execute(
            f"UPDATE model_versions SET {column} = ? || substr({column}, ?) "
            f"WHERE substr({column}, 1, ?) = ?",
            (new, len(old) + 1, len(old) + 1, f"{old}/"),
        )
