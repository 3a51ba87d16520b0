"""The local copy of a registry, brought up to date at each reading."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from adapt_lora.errors import NotFoundError, RegistryError
from adapt_lora.registry import layout
from adapt_lora.registry.layout import RunItems, StoredCell
from adapt_lora.registry.records import AdapterRecord, DamagedEntry, TaskRecord
from adapt_lora.registry.store.cache import Entry, Kind, Snapshot, SnapshotCache
from adapt_lora.registry.store.client import Client, now_ms
from adapt_lora.registry.store.homes import Home

if TYPE_CHECKING:
    from mlflow.entities import Run

_KINDS: tuple[Kind, ...] = ("adapter", "task", "cells")


class Sync:
    """What a store holds, as records; each question first asks MLflow for what is new.

    An entry that can't be read is left out and named once; see `damaged`.
    """

    def __init__(self, client: Client, cache: SnapshotCache) -> None:
        self._client = client
        self._cache = cache
        self._snapshots: dict[tuple[str, Kind], Snapshot[Any]] = {}
        self._damaged: dict[tuple[str, Kind], dict[str, DamagedEntry]] = {}
        self._named: set[str] = set()

    def adapters(self, home: Home) -> list[AdapterRecord]:
        """The registered adapters in order of registration; without a version, one is gone."""
        place, snapshot = self._current(home, "adapter")
        versions = {version.run_id for version in self._client.versions()}
        gone = [run_id for run_id in snapshot.entries if run_id not in versions]
        for run_id in gone:
            del snapshot.entries[run_id]
        if gone:
            self._cache.save(place, "adapter", snapshot)
        records: list[AdapterRecord] = [entry.content for entry in snapshot.entries.values()]
        return sorted(records, key=lambda record: (record.created_ms, record.name))

    def tasks(self, home: Home) -> list[TaskRecord]:
        """The tasks in the order in which they were written."""
        _, snapshot = self._current(home, "task")
        ordered = sorted(snapshot.entries.values(), key=lambda entry: entry.end_ms)
        return [entry.content for entry in ordered]

    def cells(self, home: Home) -> Mapping[str, Sequence[StoredCell]]:
        """Every measurement, by the run that holds it."""
        _, snapshot = self._current(home, "cells")
        return {run_id: entry.content for run_id, entry in snapshot.entries.items()}

    def damaged(self, home: Home, kinds: Iterable[Kind] = _KINDS) -> list[DamagedEntry]:
        """The entries of these kinds that can't be read, looked for anew."""
        found: list[DamagedEntry] = []
        for kind in kinds:
            place, _ = self._current(home, kind)
            found += self._damaged[place, kind].values()
        return sorted(found, key=lambda entry: (entry.kind, entry.name, entry.version))

    def name(self, damaged: Iterable[DamagedEntry]) -> None:
        """Say which entries are left out, each once."""
        fresh = [entry for entry in damaged if entry.run_id not in self._named]
        fresh.sort(key=lambda entry: (entry.kind, entry.name, entry.version))
        self._named |= {entry.run_id for entry in fresh}
        if len(fresh) > 1:
            names = ", ".join(entry.label for entry in fresh[:8])
            more = f" and {len(fresh) - 8} more" if len(fresh) > 8 else ""
            self._client.warn(
                f"{len(fresh)} entries can't be read and are left out: {names}{more} (the first: "
                f"{fresh[0].reason}). `adapt doctor --repair` mends what can be mended."
            )
        for entry in fresh if len(fresh) == 1 else ():
            removal = "`adapt remove` takes it out, " if entry.kind == "adapter" else ""
            self._client.warn(
                f"{entry.label} can't be read and is left out: {entry.reason}. {removal}"
                "`adapt doctor --repair` mends what can be mended."
            )

    def _current(self, home: Home, kind: Kind) -> tuple[str, Snapshot[Any]]:
        """One kind's snapshot, brought up to date, and its place in the cache."""
        experiment_id, place = experiment_of(home, kind)
        snapshot = self._snapshots.get((place, kind))
        if snapshot is None:
            snapshot = self._cache.load(place, kind)
            self._snapshots[place, kind] = snapshot
        own = f"tags.`{layout.KIND}` = '{kind}' and tags.`{layout.STATUS}` = '{layout.READY}'"
        since = snapshot.watermark_ms(now_ms())
        recent = [f"{own} and attributes.end_time > {since}"]
        if kind == "adapter":  # what alone is changed after its end
            recent.append(f"{own} and metrics.`{layout.CHANGED}` > {since}")
        changed = False
        damaged: dict[str, DamagedEntry] = {}
        unread: dict[str, int] = {}
        for run in chain.from_iterable(self._client.search(experiment_id, f) for f in recent):
            # What the older versions changed has a later end.
            run_id = run.info.run_id
            changed_ms = int(max(run.info.end_time, run.data.metrics.get(layout.CHANGED, 0)))
            if snapshot.is_current(run_id, changed_ms) and run_id not in snapshot.unread:
                continue
            content, fault = self._read(run, kind, home)
            before = snapshot.entries.pop(run_id, None)
            if fault is not None:
                damaged[run_id], unread[run_id] = fault, changed_ms
                if before is not None:
                    snapshot.last_known.setdefault(run_id, before)
            else:
                snapshot.last_known.pop(run_id, None)
            if content is not None:
                snapshot.entries[run_id] = Entry(changed_ms, content)
            changed = True
        for run in self._client.search(experiment_id, own, deleted=True):
            snapshot.last_known.pop(run.info.run_id, None)
            changed |= snapshot.entries.pop(run.info.run_id, None) is not None
        self._damaged[place, kind] = damaged
        if changed or unread != snapshot.unread:
            snapshot.unread = unread
            self._cache.save(place, kind, snapshot)
        self.name(damaged.values())
        return place, snapshot

    def _read(
        self, run: "Run", kind: Kind, home: Home
    ) -> tuple[AdapterRecord | TaskRecord | list[StoredCell] | None, DamagedEntry | None]:
        """What a run holds, and what of it can't be read."""
        if kind == "cells":
            found = layout.cells_of(run.data.tags)
            if not found.broken:
                return found.cells, None
            reason = f"{len(found.broken)} of its tags hold no measurement any more"
            return found.cells, damaged_entry(run, kind, home, reason, broken=found.broken)
        try:
            items = RunItems(
                name=run.info.run_name,
                tags=run.data.tags,
                artifacts={
                    name: self._client.read_text(run, name)
                    for name in (layout.RECORD_FILE, layout.FINGERPRINT_FILE)
                },
                run_id=run.info.run_id,
                created_ms=run.info.start_time,
            )
            read = layout.adapter_record if kind == "adapter" else layout.task_record
            return read(items), None
        except (RegistryError, KeyError, ValueError, TypeError) as error:
            return None, damaged_entry(run, kind, home, error)


def experiment_of(home: Home, kind: Kind) -> tuple[str, str]:
    """The experiment that holds a kind of entry, and its place in a cache."""
    if kind == "adapter":
        experiment_id, born_ms = home.adapters_id, home.adapters_born_ms
    else:
        experiment_id, born_ms = home.evaluations_id, home.evaluations_born_ms
    # The birth tells an experiment from one of the same number in a deleted database.
    return experiment_id, f"{experiment_id}-{born_ms}"


def damaged_entry(
    run: "Run",
    kind: Literal[Kind, "recommendation"],
    home: Home,
    fault: Exception | str,
    *,
    broken: tuple[str, ...] = (),
) -> DamagedEntry:
    """What is still known of an entry that can't be read."""
    if isinstance(fault, KeyError):
        fault = f"its record lacks {fault}"
    elif isinstance(fault, Exception) and not isinstance(fault, RegistryError):
        fault = f"its record is damaged ({fault})"
    tags = run.data.tags
    version = tags.get(layout.VERSION, "")
    return DamagedEntry(
        kind=kind,
        name=run.info.run_name,
        base=home.base,
        run_id=run.info.run_id,
        reason=str(fault).rstrip("."),
        adapter_id=tags.get(layout.ADAPTER_ID, ""),
        version=int(version) if version.isdecimal() else 0,
        model_id=tags.get(layout.MODEL_ID, ""),
        tags=broken,
        remains=_remains(run) if kind == "adapter" else None,
        is_lost=not isinstance(fault, RegistryError) or isinstance(fault, NotFoundError),
    )


def _remains(run: "Run") -> AdapterRecord | None:
    """What the run of an adapter says beside its files; None where it lacks too much."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    try:
        return layout.adapter_remains(
            RunItems(
                name=run.info.run_name,
                tags=run.data.tags,
                params=run.data.params,
                metrics=run.data.metrics,
                run_id=run.info.run_id,
                created_ms=run.info.start_time,
            ),
            json.loads(inputs[0].dataset.profile or "{}") if inputs else {},
        )
    except (KeyError, ValueError, TypeError):
        return None
