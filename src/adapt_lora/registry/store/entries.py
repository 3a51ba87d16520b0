"""Adapters, tasks, traits and recommendations: each an entry of its own, written and read."""

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adapt_lora.errors import ConfigError, NotFoundError, RegistryError
from adapt_lora.registry import layout
from adapt_lora.registry.layout import RunItems
from adapt_lora.registry.records import (
    BASE_ID,
    BASE_ROW,
    AdapterRecord,
    DamagedEntry,
    KeptRecommendation,
    MatrixRow,
    StepRecord,
    TaskRecord,
    TransferMatrix,
)
from adapt_lora.registry.store.cache import SnapshotCache
from adapt_lora.registry.store.client import ABSENT, TAKEN, UNFIT, Client, expecting, now_ms
from adapt_lora.registry.store.files import upload
from adapt_lora.registry.store.homes import Home, Homes
from adapt_lora.registry.store.sync import Sync, damaged_entry, experiment_of

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

_CHAMPION = "champion"
"""Alias that a name's first version gets; people may move it."""


_Named = TypeVar("_Named", AdapterRecord, DamagedEntry, "AdapterRecord | DamagedEntry")


class Entries:
    """Writes entries, and reads those that no sync keeps."""

    def __init__(self, client: Client, homes: Homes, sync: Sync) -> None:
        self._client = client
        self._homes = homes
        self._sync = sync
        self._ensured_tasks: set[tuple[str, str, bool]] = set()

    # --- adapters
    # ----------------------------------------------------------------------------------------

    def add_adapter(
        self,
        record: AdapterRecord,
        folder: Path | None,
        *,
        files: Mapping[str, str | Path],
        probes: Sequence[Mapping[str, str]] | None,
        history: Sequence[StepRecord],
    ) -> AdapterRecord:
        """Write an adapter and what stands beside it, or give back what is there already."""
        record = replace(record, name=layout.registered_name(record.name))
        with self._client.writing():
            home = self._homes.ensure(record.base)
            for known in self._sync.adapters(home):
                if known.adapter_id == record.adapter_id:
                    return known
            self.sweep(home, record.adapter_id)
            stored = self._write(home, record, folder)
            self._client.log_files(stored.run_id, files)
            self._log_probes(stored.run_id, probes or ())
            self._log_curves(stored.run_id, history)
            self._finish(stored.run_id)
        return stored

    def write_adapter(
        self, home: Home, record: AdapterRecord, folder: Path | None, summary: Mapping[str, float]
    ) -> AdapterRecord:
        """Write a new adapter, with figures for its run that its model's page goes without."""
        record = replace(record, name=layout.registered_name(record.name))
        stored = self._write(home, record, folder, summary)
        self._finish(stored.run_id)
        return stored

    def resolve(self, reference: str, records: Sequence[_Named]) -> _Named:
        """The one of these entries that "name", "name@alias" or "name/version" stands for."""
        name, version = self._name_and_version(reference)
        found = [record for record in records if (record.name, record.version) == (name, version)]
        if not found:
            try:
                name = layout.registered_name(reference)
            except ConfigError:
                name = ""
            found = [record for record in records if record.name == name]
        if not found:
            raise NotFoundError(_no_such_adapter(reference, records))
        bases = sorted({record.base.name for record in found})
        if len(bases) > 1:
            raise NotFoundError(
                f"{reference!r} stands for adapters of {len(bases)} base models "
                f"({', '.join(bases)}); add --base-model, or say {name}/<version>."
            )
        return max(found, key=lambda record: record.version)

    def remove_adapter(self, home: Home, record: AdapterRecord) -> None:
        """Take an adapter's run, version and logged models out."""
        # From the face inward: what is cut off half-way is never listed again.
        client = self._client.mlflow
        with expecting(ABSENT):
            client.delete_run(record.run_id)
        self._delete_version(record.name, record.version)
        self._delete_model(record.model_id)
        shown = f"tags.`{layout.SHOWN_TO}` = '{record.adapter_id}'"
        for model in client.search_logged_models([home.adapters_id], filter_string=shown):
            self._delete_model(model.model_id)

    def set_card(self, record: AdapterRecord, *, markdown: str, html: str) -> None:
        """Renew an adapter's description and page."""
        note = {layout.NOTE: markdown[: layout.TAG_LIMIT]}
        self._client.log(record.run_id, tags=note)
        if record.model_id:
            self._client.mlflow.set_logged_model_tags(record.model_id, note)
        self._client.log_files(record.run_id, {"card.html": html})

    def update_scores(self, home: Home, matrix: TransferMatrix) -> None:
        """Write what has changed of each adapter's scores and gains by task, and nothing else.

        MLflow keeps every value that was ever logged; a table of adapters times tasks would grow by
        its own size with each evaluation.
        """
        own = f"tags.`{layout.KIND}` = 'adapter' and tags.`{layout.STATUS}` = '{layout.READY}'"
        runs = self._client.search(home.adapters_id, own)
        shown = {run.info.run_id: run.data.metrics for run in runs}
        scores: dict[MatrixRow, dict[str, float]] = {}
        for cell in matrix.cells:
            scores.setdefault(cell.row, {})[cell.task] = cell.score
        of_base = scores.get(BASE_ROW, {})
        for record in matrix.adapters:
            if record.row in scores:
                known = shown.get(record.run_id, {})
                figures = layout.summary_metrics(scores[record.row], of_base)
                changed = {key: x for key, x in figures.items() if known.get(key) != x}
                if changed:
                    self._client.log(record.run_id, metrics=changed)

    def sweep_unready(self, home: Home, known: Collection[str]) -> None:
        """Delete what crashed registrations left behind."""
        found = self._client.search(home.adapters_id, f"tags.`{layout.KIND}` = 'adapter'")
        lost = {run.data.tags.get(layout.ADAPTER_ID, "") for run in found} - {*known, ""}
        for adapter_id in sorted(lost):
            self.sweep(home, adapter_id)

    def sweep(self, home: Home, adapter_id: str) -> None:
        """Delete what a crashed registration of this adapter left behind."""
        own = f"tags.`{layout.ADAPTER_ID}` = '{adapter_id}'"
        for run in self._client.search(home.adapters_id, own):
            self.sweep_run(home, run.info.run_id)

    def sweep_run(self, home: Home, run_id: str) -> None:
        """Delete a run with the versions and logged models that were made from it."""
        client = self._client.mlflow
        for version in client.search_model_versions(f"run_id = '{run_id}'"):
            self._delete_version(version.name, int(version.version))
        made = f"source_run_id = '{run_id}'"
        for model in client.search_logged_models([home.adapters_id], filter_string=made):
            self._delete_model(model.model_id)
        client.delete_run(run_id)

    def renew(
        self, home: Home, record: AdapterRecord, probes: Sequence[Mapping[str, str]] = ()
    ) -> None:
        """Write anew what is known of an adapter, into the run that it has."""
        items = layout.adapter_items(record)
        tags = {key: value for key, value in items.tags.items() if key != layout.NOTE}
        self._client.log(
            record.run_id, metrics=items.metrics, tags=tags, model_id=record.model_id or None
        )
        self._client.log_files(record.run_id, items.artifacts)
        self._log_probes(record.run_id, probes)
        self._client.touch(record.run_id)

    def restore(self, home: Home, entry: DamagedEntry, cache: SnapshotCache) -> bool:
        """Write what a local copy still holds of an entry into its run; False where it has none."""
        if entry.kind == "recommendation":
            return False
        known = cache.load(experiment_of(home, entry.kind)[1], entry.kind).remembered(entry.run_id)
        if known is None or (entry.remains and entry.remains.adapter_id != known.adapter_id):
            return False
        if entry.kind == "adapter":
            # Checks and traits are among the tags, which may have been written since.
            now = entry.remains or known
            self.renew(home, replace(known, tags={**known.tags, **now.tags}, traits=now.traits))
        elif entry.kind == "task":
            self._client.log_files(entry.run_id, layout.task_items(known, home.base).artifacts)
            self._client.touch(entry.run_id)
        else:
            for tag in entry.tags:
                self._client.mlflow.delete_tag(entry.run_id, tag)
            whole = {key: x for stored in known for key, x in layout.cell_tags(stored).items()}
            self._client.log(entry.run_id, tags=whole)
            self._client.touch(entry.run_id)
        return True

    def _log_probes(self, run_id: str, probes: Sequence[Mapping[str, str]]) -> None:
        if probes:
            table = json.dumps([{"path": "probes.json", "type": "table"}])
            self._client.log_files(run_id, {"probes.json": layout.probe_table(probes)})
            self._client.log(run_id, tags={"mlflow.loggedArtifacts": table})

    def _write(
        self,
        home: Home,
        record: AdapterRecord,
        folder: Path | None,
        summary: Mapping[str, float] | None = None,
    ) -> AdapterRecord:
        """Run, logged model with files, registered version; everything but the status."""
        client = self._client.mlflow
        self._claim_name(record.name)
        run = client.create_run(
            home.adapters_id,
            run_name=record.name,
            tags={layout.KIND: "adapter", layout.ADAPTER_ID: record.adapter_id},
        )
        items = layout.adapter_items(record)
        model = client.create_logged_model(
            home.adapters_id,
            name=layout.logged_model_name(record.name),
            source_run_id=run.info.run_id,
            tags={layout.ADAPTER_ID: record.adapter_id, layout.NOTE: items.tags[layout.NOTE]},
            params=dict(items.params),
            model_type="lora-adapter",
        )
        if folder is not None:
            upload(self._client, record, folder, model.model_id)
        client.finalize_logged_model(model.model_id, "READY")
        stored = replace(
            record,
            run_id=run.info.run_id,
            model_id=model.model_id,
            version=self._add_version(record, run.info.run_id, model),
            created_ms=run.info.start_time,
            has_weights=folder is not None,
        )
        self._write_items(
            stored.run_id, layout.adapter_items(stored), model_id=model.model_id, summary=summary
        )
        return stored

    def _claim_name(self, name: str) -> None:
        client = self._client.mlflow
        with expecting(TAKEN):
            client.create_registered_model(name, tags={layout.KIND: "adapter"})
            return
        if client.get_registered_model(name).tags.get(layout.KIND) != "adapter":
            raise RegistryError(
                f"The name {name!r} belongs to a registered model that is not an adapter; choose "
                "another with --name."
            )

    def _add_version(self, record: AdapterRecord, run_id: str, model: "LoggedModel") -> int:
        client = self._client.mlflow
        # In a database of our own, a models:/ source would be looked up in MLflow's global store,
        # which is another one; a server looks it up in its own.
        place = f"models:/{model.model_id}"
        version = client.create_model_version(
            record.name,
            source=place if self._client.is_server else model.artifact_location,
            run_id=run_id,
            tags={layout.ADAPTER_ID: record.adapter_id, "adapt.base": record.base.name},
            model_id=model.model_id,
            await_creation_for=0,
        )
        # This tag is what links a logged model's page to its versions.
        link = [{"name": record.name, "version": int(version.version)}]
        client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": json.dumps(link)})
        if _CHAMPION not in client.get_registered_model(record.name).aliases:
            client.set_registered_model_alias(record.name, _CHAMPION, version.version)
        return int(version.version)

    def _write_items(
        self,
        run_id: str,
        items: RunItems,
        *,
        model_id: str | None = None,
        summary: Mapping[str, float] | None = None,
    ) -> None:
        from mlflow.entities import LoggedModelOutput, Metric

        now = now_ms()
        self._client.log(
            run_id,
            metrics=items.metrics,
            points=[Metric(key, value, now, 0) for key, value in (summary or {}).items()],
            params=items.params,
            tags=items.tags,
            model_id=model_id,
        )
        if items.dataset is not None:
            self._client.log_datasets(run_id, [items.dataset])
        if model_id is not None:
            self._client.mlflow.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
        self._client.log_files(run_id, items.artifacts)

    def _log_curves(self, run_id: str, history: Sequence[StepRecord]) -> None:
        from mlflow.entities import Metric

        now = now_ms()
        points = [
            Metric(layout.legal_key(key), value, now, step.step)
            for step in history
            for key, value in step.metrics.items()
        ]
        # MLflow takes 1,000 metrics at once.
        for start in range(0, len(points), 1000):
            self._client.log(run_id, points=points[start : start + 1000])

    def _finish(self, run_id: str) -> None:
        # The status goes last: a run without it is one that was cut off, and no reader lists it.
        self._client.log(run_id, tags={layout.STATUS: layout.READY})
        self._client.touch(run_id)

    def _delete_version(self, name: str, version: int) -> None:
        client = self._client.mlflow
        with expecting(ABSENT):
            client.delete_model_version(name, str(version))
        left = self._client.versions(name)
        if not left:
            with expecting(ABSENT):
                client.delete_registered_model(name)
        elif not any(_CHAMPION in (v.aliases or ()) for v in left):
            newest = max(int(v.version) for v in left)
            client.set_registered_model_alias(name, _CHAMPION, str(newest))

    def _delete_model(self, model_id: str) -> None:
        with expecting(ABSENT):
            self._client.mlflow.delete_logged_model(model_id)

    def _name_and_version(self, reference: str) -> tuple[str, int]:
        """Name and version of "name/2" or "name@alias"; version 0 of anything else."""
        name, at, alias = reference.rpartition("@")
        if at and name:
            name = layout.registered_name(name)
            unknown = NotFoundError(f"{reference!r}: {name} has no alias {alias!r}.")
            with expecting(ABSENT, UNFIT, instead=unknown):
                version = self._client.mlflow.get_model_version_by_alias(name, alias)
            return name, int(version.version)
        name, slash, number = reference.rpartition("/")
        if slash and name and number.isdecimal():
            return layout.registered_name(name), int(number)
        return reference, 0

    # --- tasks
    # -------------------------------------------------------------------------------------------

    def ensure_tasks(self, home: Home, tasks: Sequence[TaskRecord]) -> None:
        """Write the tasks that are not there yet, or there without their fingerprint."""
        # A sync takes as long as writing a cell, and cells come task by task.
        ids = {
            (home.evaluations_id, layout.task_id(task), bool(task.fingerprint.values))
            for task in tasks
        }
        if ids <= self._ensured_tasks:
            return
        known = {
            layout.task_id(task): bool(task.fingerprint.values) for task in self._sync.tasks(home)
        }
        for task in tasks:
            # A task may be known without its fingerprint; then it is written again, with it.
            if layout.task_id(task) in known and (
                known[layout.task_id(task)] or not task.fingerprint.values
            ):
                continue
            items = layout.task_items(task, home.base)
            run = self._client.mlflow.create_run(
                home.evaluations_id, run_name=items.name, tags={layout.KIND: "task"}
            )
            self._write_items(run.info.run_id, items)
            self._finish(run.info.run_id)
        self._ensured_tasks |= ids

    # --- traits
    # -------------------------------------------------------------------------------------------

    def set_traits(
        self,
        home: Home,
        traits: Mapping[str, Mapping[str, float]],
        plots: Mapping[str, Path],
    ) -> None:
        """Write trait scores and pictures, by adapter id, to the adapters' runs."""
        runs = {record.adapter_id: record.run_id for record in self._sync.adapters(home)}
        runs[BASE_ID] = self._homes.base_run(home).info.run_id
        for adapter_id in runs.keys() & traits.keys():
            scores, run_id = traits[adapter_id], runs[adapter_id]
            self._client.log(
                run_id,
                metrics=layout.trait_metrics(scores),
                tags={layout.TRAITS: layout.trait_tag(scores)},
            )
            if adapter_id in plots:
                self._client.log_plots(run_id, {"traits.png": plots[adapter_id]})
            # Last: who reads before it reads again.
            self._client.log(run_id, metrics={layout.CHANGED: now_ms()})

    def trait_fit(self, home: Home) -> dict[str, Any] | None:
        """What `set_trait_fit` kept last; None before the first fit."""
        run = self._homes.base_run(home)
        if layout.TRAIT_FIT not in run.data.tags:
            return None
        try:
            fit: dict[str, Any] = json.loads(self._client.read_text(run, layout.TRAITS_FILE))
        except (ValueError, NotFoundError) as error:
            if isinstance(error, RegistryError) and not isinstance(error, NotFoundError):
                raise
            self._client.warn(
                f"The last fit of traits of {home.base.name} can't be read ({error}), so it counts "
                "as not made; `adapt traits` fits them anew."
            )
            return None
        return fit

    def set_trait_fit(
        self, home: Home, fit: Mapping[str, Any], *, note: str, plots: Mapping[str, Path]
    ) -> None:
        """Keep a fit of the traits on the bare base's run."""
        run_id = self._homes.base_run(home).info.run_id
        self._client.log_files(run_id, {layout.TRAITS_FILE: json.dumps(fit, indent=1)})
        self._client.log_plots(run_id, plots)
        tags = {layout.NOTE: note[: layout.TAG_LIMIT], layout.TRAIT_FIT: "kept"}
        self._client.log(run_id, tags=tags)

    # --- recommendations
    # -------------------------------------------------------------------------------------------

    def add_recommendation(
        self, home: Home, content: Mapping[str, Any], *, digest: str, group: str
    ) -> str:
        """Keep a recommendation as a run, and give that run's id."""
        items = layout.recommendation_items(content, home.base, digest=digest, group=group)
        client = self._client.mlflow
        run = client.create_run(home.evaluations_id, run_name=items.name, tags=dict(items.tags))
        run_id: str = run.info.run_id
        self._client.log(run_id, metrics=items.metrics, params=items.params)
        client.log_table(run_id, layout.ranking_columns(content), layout.RANKING_FILE)
        self._client.log_files(run_id, items.artifacts)
        self._finish(run_id)
        return run_id

    def recommendations(self, home: Home) -> list[KeptRecommendation]:
        """Every recommendation that was kept, oldest first; one that can't be read is named."""
        kept, damaged = self._recommendations(home)
        self._sync.name(damaged)
        return sorted(kept, key=lambda one: one.made_ms)

    def damaged(self, home: Home) -> list[DamagedEntry]:
        """Every entry that can't be read."""
        return [*self._sync.damaged(home), *self._recommendations(home)[1]]

    def _recommendations(self, home: Home) -> tuple[list[KeptRecommendation], list[DamagedEntry]]:
        own = f"tags.`{layout.KIND}` = '{layout.RECOMMENDATION}'"
        ready = f"{own} and tags.`{layout.STATUS}` = '{layout.READY}'"
        kept: list[KeptRecommendation] = []
        damaged: list[DamagedEntry] = []
        for run in self._client.search(home.evaluations_id, ready):
            try:
                one = KeptRecommendation(
                    run_id=run.info.run_id,
                    made_ms=run.info.start_time,
                    digest=run.data.tags[layout.TARGET_DIGEST],
                    group=run.data.tags[layout.TARGET_GROUP],
                    content=json.loads(self._client.read_text(run, layout.RECOMMENDATION_FILE)),
                )
            except (RegistryError, KeyError, ValueError) as error:
                damaged.append(damaged_entry(run, layout.RECOMMENDATION, home, error))
            else:
                kept.append(one)
        return kept, damaged


def _no_such_adapter(reference: str, records: "Sequence[AdapterRecord | DamagedEntry]") -> str:
    names = sorted({record.name for record in records})
    if not names:
        return f"No adapter {reference!r}: nothing is registered yet. Use `adapt register`."
    near = difflib.get_close_matches(reference, names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(names[:8])}."
    return f"No adapter {reference!r} in the registry; {hint}"
