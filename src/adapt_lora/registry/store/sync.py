"""The local copy of a registry, brought up to date at each reading."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapt_lora.errors import RegistryError
from adapt_lora.registry import layout
from adapt_lora.registry.layout import RunItems, StoredCell
from adapt_lora.registry.records import AdapterRecord, TaskRecord
from adapt_lora.registry.store.cache import Entry, Kind, Snapshot, SnapshotCache
from adapt_lora.registry.store.client import Client, now_ms
from adapt_lora.registry.store.homes import Home

if TYPE_CHECKING:
    from mlflow.entities import Run


class Sync:
    """What a store holds, as records; each question first asks MLflow for what is new."""

    def __init__(self, client: Client, cache: SnapshotCache) -> None:
        self._client = client
        self._cache = cache
        self._snapshots: dict[tuple[str, Kind], Snapshot[Any]] = {}

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

    def _current(self, home: Home, kind: Kind) -> tuple[str, Snapshot[Any]]:
        """One kind's snapshot, brought up to date, and its place in the cache."""
        if kind == "adapter":
            experiment_id, born_ms = home.adapters_id, home.adapters_born_ms
        else:
            experiment_id, born_ms = home.evaluations_id, home.evaluations_born_ms
        # The birth tells an experiment from one of the same number in a deleted database.
        place = f"{experiment_id}-{born_ms}"
        snapshot = self._snapshots.get((place, kind))
        if snapshot is None:
            snapshot = self._cache.load(place, kind)
            self._snapshots[place, kind] = snapshot
        own = f"tags.`{layout.KIND}` = '{kind}' and tags.`{layout.STATUS}` = '{layout.READY}'"
        recent = f"{own} and attributes.end_time > {snapshot.watermark_ms(now_ms())}"
        changed = False
        for run in self._client.search(experiment_id, recent):
            if not snapshot.is_current(run.info.run_id, run.info.end_time):
                entry = Entry(run.info.end_time, self._read(run, kind))
                snapshot.entries[run.info.run_id] = entry
                changed = True
        for run in self._client.search(experiment_id, own, deleted=True):
            changed |= snapshot.entries.pop(run.info.run_id, None) is not None
        if changed:
            self._cache.save(place, kind, snapshot)
        return place, snapshot

    def _read(self, run: "Run", kind: Kind) -> AdapterRecord | TaskRecord | list[StoredCell]:
        if kind == "cells":
            return layout.cells_of(run.data.tags)
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
        try:
            return layout.adapter_record(items) if kind == "adapter" else layout.task_record(items)
        except (KeyError, ValueError, TypeError) as error:
            raise RegistryError(
                f"The entry {run.info.run_name!r} (run {run.info.run_id}) in {self._client.uri} is "
                f"damaged ({error}); delete that run in MLflow and register again."
            ) from error
