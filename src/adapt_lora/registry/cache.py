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
from typing import Any

from adapt_lora.registry.layout import SCHEMA

MARGIN_MS = 300_000
"""How far back each sync looks, for writers whose clocks lag or who were slow to finish."""


@dataclass
class Entry:
    """One run as it was when last read."""

    end_ms: int
    """End time of the run, milliseconds since 1970."""
    content: Any
    """What was read from it, as plain JSON."""


@dataclass
class Shelf:
    """Entries of one kind from one experiment, by run id."""

    entries: dict[str, Entry] = field(default_factory=dict)
    """What is there."""

    def watermark_ms(self, now_ms: int) -> int:
        """Runs that ended after this may be new; clocks that are ahead must not hide the others."""
        latest = max((entry.end_ms for entry in self.entries.values()), default=0)
        return max(0, min(latest, now_ms) - MARGIN_MS)

    def is_current(self, run_id: str, end_ms: int) -> bool:
        """Whether this very state of the run was read before."""
        entry = self.entries.get(run_id)
        return entry is not None and entry.end_ms == end_ms


class SnapshotCache:
    """Shelves on disk, one JSON file each; a damaged file is an empty shelf that fills again."""

    def __init__(self, folder: Path, tracking_uri: str) -> None:
        digest = hashlib.sha256(tracking_uri.encode()).hexdigest()[:16]
        self._folder = Path(folder) / "registry" / digest
        self._tracking_uri = tracking_uri

    def load(self, experiment_id: str, kind: str) -> Shelf:
        """A shelf as it was last saved; empty when there is none, or none that can be read."""
        try:
            stored = json.loads(self.path(experiment_id, kind).read_text(encoding="utf-8"))
            if self._header(experiment_id, kind) != stored["header"]:
                return Shelf()
            return Shelf(
                {
                    run_id: Entry(int(end), content)
                    for run_id, (end, content) in stored["entries"].items()
                }
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Shelf()

    def save(self, experiment_id: str, kind: str, shelf: Shelf) -> None:
        """Replace a shelf in one step; a cache that can't be written is only slower next time."""
        path = self.path(experiment_id, kind)
        stored = {
            "header": self._header(experiment_id, kind),
            "entries": {
                run_id: [entry.end_ms, entry.content] for run_id, entry in shelf.entries.items()
            },
        }
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(stored, separators=(",", ":")), encoding="utf-8")
            part.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()

    def path(self, experiment_id: str, kind: str) -> Path:
        """File of a shelf."""
        return self._folder / f"{re.sub(r'[^0-9A-Za-z_-]', '_', experiment_id)}-{kind}.json"

    def _header(self, experiment_id: str, kind: str) -> Mapping[str, str]:
        return {
            "schema": SCHEMA,
            "tracking_uri": self._tracking_uri,
            "experiment": experiment_id,
            "kind": kind,
        }
