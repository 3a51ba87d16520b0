"""Local copy of what the registry holds, so that a ranking does not fetch every artifact again.

MLflow keeps no time of change for a run, but its end time can be set again after each change, and
runs can be searched by it. So a sync asks only for runs that ended after the last one seen.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from adapt_lora.registry.layout import SCHEMA, StoredCell
from adapt_lora.registry.records import AdapterRecord, TaskRecord
from adapt_lora.registry.stored import record_form

MARGIN_MS = 300_000
"""How far back each sync looks, for writers whose clocks lag or who were slow to finish."""

Kind = Literal["adapter", "task", "cells"]
"""What the runs of a snapshot are about."""

_T = TypeVar("_T")


class Entry(NamedTuple, Generic[_T]):
    """One run as it was when last read."""

    end_ms: int
    """End time of the run, milliseconds since 1970."""
    content: _T
    """What was read from it: a record, or several."""


_ENTRIES: Mapping[Kind, Any] = {
    "adapter": dict[str, Entry[AdapterRecord]],
    "task": dict[str, Entry[TaskRecord]],
    "cells": dict[str, Entry[list[StoredCell]]],
}


@dataclass
class Snapshot(Generic[_T]):
    """All entries of one kind from one experiment, as they were when last read."""

    entries: dict[str, Entry[_T]] = field(default_factory=dict)
    """What is there, by run id."""

    def watermark_ms(self, now_ms: int) -> int:
        """Runs that ended after this may be new; clocks that are ahead must not hide the others."""
        latest = max((entry.end_ms for entry in self.entries.values()), default=0)
        return max(0, min(latest, now_ms) - MARGIN_MS)

    def is_current(self, run_id: str, end_ms: int) -> bool:
        """Whether this very state of the run was read before."""
        entry = self.entries.get(run_id)
        return entry is not None and entry.end_ms == end_ms


class SnapshotCache:
    """Snapshots on disk, one JSON file each; a damaged file is an empty one that fills again."""

    def __init__(self, folder: Path, tracking_uri: str) -> None:
        digest = hashlib.sha256(tracking_uri.encode()).hexdigest()[:16]
        self._folder = Path(folder) / "registry" / digest
        self._tracking_uri = tracking_uri

    def load(self, experiment_id: str, kind: Kind) -> Snapshot[Any]:
        """A snapshot as it was last saved; empty when there is none, or none that can be read."""
        try:
            stored = json.loads(self.path(experiment_id, kind).read_bytes())
            if self._header(experiment_id, kind) != stored["header"]:
                return Snapshot()
            return Snapshot(record_form(_ENTRIES[kind]).validate_python(stored["entries"]))
        except (OSError, ValueError, KeyError, TypeError):
            return Snapshot()

    def save(self, experiment_id: str, kind: Kind, snapshot: Snapshot[Any]) -> None:
        """Replace a file in one step; a cache that can't be written is only slower next time."""
        path = self.path(experiment_id, kind)
        entries = record_form(_ENTRIES[kind]).dump_json(snapshot.entries, by_alias=True)
        header = json.dumps(self._header(experiment_id, kind)).encode()
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(b'{"header":%b,"entries":%b}' % (header, entries))
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
