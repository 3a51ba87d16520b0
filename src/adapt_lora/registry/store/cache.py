"""Local copy of what the registry holds, so that a ranking does not fetch every artifact again.

MLflow keeps no time of change for a run, but runs can be searched by their end and by a metric. So
a sync asks only for runs that ended, or were changed, after the last such time seen.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from adapt_lora.registry.layout import SCHEMA, StoredCell
from adapt_lora.registry.records import AdapterRecord, TaskRecord
from adapt_lora.registry.stored import from_json, record_form

MARGIN_MS = 300_000
"""How far back each sync looks, for writers whose clocks lag or who were slow to finish."""

Kind = Literal["adapter", "task", "cells"]
"""What the runs of a snapshot are about."""

_T = TypeVar("_T")


class Entry(NamedTuple, Generic[_T]):
    """One run as it was when last read."""

    end_ms: int
    """End time of the run, or of its last change after that, milliseconds since 1970."""
    content: _T
    """What was read from it: a record, or several."""


@dataclass
class Snapshot(Generic[_T]):
    """All entries of one kind from one experiment, as they were when last read."""

    entries: dict[str, Entry[_T]] = field(default_factory=dict)
    """What is there, by run id."""
    unread: dict[str, int] = field(default_factory=dict)
    """End times of the runs that could not be read, by run id; each sync tries them again."""
    last_known: dict[str, Entry[_T]] = field(default_factory=dict)
    """What those held when they could be read last, by run id; for a repair."""

    def remembered(self, run_id: str) -> _T | None:
        """What a run held when it could be read last; None where it never was."""
        entry = self.last_known.get(run_id) or self.entries.get(run_id)
        return None if entry is None else entry.content

    def watermark_ms(self, now_ms: int) -> int:
        """What ended or changed after this may be new; clocks ahead must not hide the others."""
        latest = max((entry.end_ms for entry in self.entries.values()), default=0)
        first_unread = min(self.unread.values(), default=now_ms)
        return max(0, min(min(latest, now_ms) - MARGIN_MS, first_unread - 1))

    def is_current(self, run_id: str, end_ms: int) -> bool:
        """Whether this very state of the run was read before."""
        entry = self.entries.get(run_id)
        return entry is not None and entry.end_ms == end_ms


@dataclass(frozen=True)
class _File(Generic[_T]):
    """A snapshot on disk, and what it must be of to be believed."""

    header: Mapping[str, str]
    entries: dict[str, Entry[_T]]
    unread: dict[str, int] = field(default_factory=dict)
    last_known: dict[str, Entry[_T]] = field(default_factory=dict)


_FILES: Mapping[Kind, Any] = {
    "adapter": _File[AdapterRecord],
    "task": _File[TaskRecord],
    "cells": _File[list[StoredCell]],
}


class SnapshotCache:
    """Snapshots on disk, one JSON file each; a damaged file is an empty one that fills again."""

    def __init__(self, folder: Path, tracking_uri: str) -> None:
        digest = hashlib.sha256(tracking_uri.encode()).hexdigest()[:16]
        self._folder = Path(folder) / "registry" / digest
        self._tracking_uri = tracking_uri

    def load(self, experiment_id: str, kind: Kind) -> Snapshot[Any]:
        """A snapshot as it was last saved; empty when there is none, or none that can be read."""
        try:
            file = from_json(_FILES[kind], self.path(experiment_id, kind).read_bytes())
        except (OSError, ValueError):
            return Snapshot()
        if file.header != self._header(experiment_id, kind):
            return Snapshot()
        return Snapshot(file.entries, file.unread, file.last_known)

    def save(self, experiment_id: str, kind: Kind, snapshot: Snapshot[Any]) -> None:
        """Replace a file in one step; a cache that can't be written is only slower next time."""
        path = self.path(experiment_id, kind)
        header = self._header(experiment_id, kind)
        file = _File(header, snapshot.entries, snapshot.unread, snapshot.last_known)
        content = record_form(_FILES[kind]).dump_json(file, by_alias=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            part.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()

    def path(self, experiment_id: str, kind: Kind) -> Path:
        """File of a snapshot."""
        return self._folder / f"{re.sub(r'[^0-9A-Za-z_-]', '_', experiment_id)}-{kind}.json"

    def _header(self, experiment_id: str, kind: Kind) -> Mapping[str, str]:
        return {
            "schema": SCHEMA,
            "tracking_uri": self._tracking_uri,
            "experiment": experiment_id,
            "kind": kind,
        }
