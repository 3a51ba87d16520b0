"""The face of the store: what people and the rooms above ask of a registry."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapt_lora.errors import NotFoundError, RegistryError
from adapt_lora.model.base import BaseIdentity, cache_dir
from adapt_lora.registry.identity import compare_bases, find_base
from adapt_lora.registry.matrix import assemble_matrix
from adapt_lora.registry.records import (
    AdapterRecord,
    Cell,
    DamagedEntry,
    KeptRecommendation,
    MatrixRow,
    Prediction,
    StepRecord,
    TaskRecord,
    TransferMatrix,
)
from adapt_lora.registry.store import files
from adapt_lora.registry.store.cache import SnapshotCache
from adapt_lora.registry.store.cells import Cells, MatrixAddition, Recall
from adapt_lora.registry.store.client import Client, in_words
from adapt_lora.registry.store.entries import Entries
from adapt_lora.registry.store.homes import Homes
from adapt_lora.registry.store.sync import Sync
from adapt_lora.registry.store.tracking import default_folder


class Registry:
    """Adapters, tasks and cells in one MLflow tracking store.

    Nothing is opened before the first read or write.

    Args:
        tracking_uri: An MLflow URI, or a folder for a SQLite store; None takes
            MLFLOW_TRACKING_URI, and without it a SQLite store in the user's data folder.
        cache_folder: For the local copy of what was read; None takes the user's cache folder.
        warn: Told once what is odd about the store, such as an entry that can't be read; None for
            Python's own warnings.
    """

    def __init__(
        self,
        tracking_uri: str | Path | None = None,
        *,
        cache_folder: Path | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        given = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        self.is_default_uri: bool = not given
        """Whether nobody chose the store, so that people should be told where it is."""
        self._client = Client(given or default_folder(), warn)
        self.tracking_uri: str = self._client.address.uri
        """Where everything is kept, with the credentials that its address may hold."""
        self.shown_uri: str = self._client.uri
        """The same for people, without credentials."""
        self.database: Path | None = self._client.sqlite
        """The file of a SQLite store; None for every other kind."""
        self._homes = Homes(self._client)
        cache = SnapshotCache(cache_folder or cache_dir(), self.shown_uri)
        self._sync = Sync(self._client, cache)
        self._entries = Entries(self._client, self._homes, self._sync)
        self._cells = Cells(self._client, self._entries, self._sync)

    # --- bases
    # -------------------------------------------------------------------------------------------

    @in_words
    def bases(self) -> list[BaseIdentity]:
        """Every base model that something is registered under, by name."""
        return self._homes.bases()

    @in_words
    def ensure_base(self, base: BaseIdentity) -> str | None:
        """Make the two experiments of a base model, with its rows in the Models tab, if need be.

        Returns:
            A warning when the registry holds figures of other weights of the same architecture.

        Raises:
            BaseModelMismatch: The registry knows another model by this name.
        """
        return compare_bases(self._homes.ensure(base).base, base)

    def is_same_base(self, registered: BaseIdentity, given: BaseIdentity) -> bool:
        """Whether two identities are one base model: by content, else by name alone."""
        return find_base([registered], given) is not None

    def base_warning(self, base: BaseIdentity) -> str | None:
        """The warning that `ensure_base` would give, without writing; None for a base not seen yet.

        Raises:
            BaseModelMismatch: The registry knows another model by this name.
        """
        known = find_base(self.bases(), base)
        # What is known by its name alone learns its digests from the first that has them.
        if known is None or not known.architecture:
            return None
        return compare_bases(known, base)

    # --- adapters
    # ----------------------------------------------------------------------------------------

    @in_words
    def add_adapter(
        self,
        record: AdapterRecord,
        folder: Path | None,
        *,
        card_html: str | None = None,
        plots: Mapping[str, Path] | None = None,
        probes: Sequence[Mapping[str, str]] | None = None,
        history: Sequence[StepRecord] = (),
    ) -> AdapterRecord:
        """Write an adapter as one run, one logged model and one registered version.

        The same content under the same base is written once: a second call gives back the first
        record.

        Args:
            record: Its name is made legal for MLflow; see `layout.registered_name`.
            folder: The PEFT folder, whose allowed files are kept; None for figures only.
            card_html: A page about it, shown among the artifacts.
            plots: Pictures by file name.
            probes: The same prompts for every adapter, with its answers.
            history: Training curves.

        Returns:
            The record as stored.

        Raises:
            ConfigError: The name can't be used.
            BaseModelMismatch: The registry knows another base model by this name.
        """
        beside: dict[str, str | Path] = {} if card_html is None else {"card.html": card_html}
        beside |= {f"plots/{name}": path for name, path in (plots or {}).items()}
        return self._entries.add_adapter(
            record, folder, files=beside, probes=probes, history=history
        )

    @in_words
    def adapters(self, base: BaseIdentity | None = None) -> list[AdapterRecord]:
        """All registered adapters, of one base model or of all, in order of registration."""
        if base is None:
            return [record for known in self.bases() for record in self.adapters(known)]
        home = self._homes.find(base)
        return [] if home is None else self._sync.adapters(home)

    @in_words
    def adapter(self, name_or_ref: str, base: BaseIdentity | None = None) -> AdapterRecord:
        """One adapter by "name" (its newest version), "name@alias", or "name/version".

        Raises:
            NotFoundError: There is none, or the name stands for adapters of several base models.
        """
        try:
            return self._entries.resolve(name_or_ref, self.adapters(base))
        except NotFoundError:
            found = self.entry(name_or_ref, base)
        if isinstance(found, AdapterRecord):
            return found
        raise RegistryError(
            f"{found.label} can't be read: {found.reason}. `adapt doctor --repair` mends what can "
            "be mended, `adapt remove` takes it out."
        )

    @in_words
    def entry(
        self, name_or_ref: str, base: BaseIdentity | None = None
    ) -> AdapterRecord | DamagedEntry:
        """The same, where an entry that can't be read will do."""
        damaged = [entry for entry in self.damaged(base) if entry.kind == "adapter"]
        known: list[AdapterRecord | DamagedEntry] = [*self.adapters(base), *damaged]
        return self._entries.resolve(name_or_ref, known)

    @in_words
    def find(self, adapter_id: str, base: BaseIdentity | None = None) -> AdapterRecord | None:
        """The adapter with this content id, or None."""
        return next((r for r in self.adapters(base) if r.adapter_id == adapter_id), None)

    @in_words
    def pull(self, record: AdapterRecord, dest: Path) -> Path:
        """Copy an adapter's PEFT files into a folder, and check that they are the ones registered.

        Raises:
            RegistryError: It has no files, the folder is in use, or the files were changed.
        """
        return files.pull(self._client, record, dest)

    @in_words
    def fetch(self, source: str, dest: Path) -> Path:
        """Copy the adapter files of a "models:/…" or "runs:/…" source to a new folder in `dest`.

        Raises:
            NotFoundError: Nothing there.
        """
        return files.fetch(self._client, source, dest)

    @in_words
    def remove(self, record: AdapterRecord) -> None:
        """Take an adapter out: its version, logged model, run, and the cells measured on it.

        MLflow keeps deleted runs until `mlflow gc`; no list or matrix shows them.
        """
        with self._client.writing():
            home = self._homes.need(record.base)
            self._entries.remove_adapter(home, record)
            self._cells.remove_of(home, record.adapter_id)

    @in_words
    def damaged(self, base: BaseIdentity | None = None) -> list[DamagedEntry]:
        """Every entry that can't be read, of one base model or of all; lists leave them out."""
        if base is None:
            return [entry for known in self.bases() for entry in self.damaged(known)]
        home = self._homes.find(base)
        return [] if home is None else self._entries.damaged(home)

    @in_words
    def remove_damaged(self, entry: DamagedEntry) -> None:
        """Take an entry that can't be read out, an adapter's with its cells."""
        with self._client.writing():
            home = self._homes.need(entry.base)
            if entry.kind == "adapter":
                self._entries.sweep_run(home, entry.run_id)
                if entry.adapter_id:
                    self._cells.remove_of(home, entry.adapter_id)
            elif entry.kind == "cells":
                for tag in entry.tags:
                    self._client.mlflow.delete_tag(entry.run_id, tag)
                self._client.touch(entry.run_id)
            else:
                self._client.mlflow.delete_run(entry.run_id)

    @in_words
    def restore(self, entry: DamagedEntry, cache_folder: Path | None = None) -> bool:
        """Write what a local copy still holds of an entry that can't be read into its run.

        Args:
            entry: Not a recommendation: no copy of those is kept.
            cache_folder: Holds the local copy; None takes the user's cache folder.

        Returns:
            Whether the copy held it.
        """
        cache = SnapshotCache(cache_folder or cache_dir(), self.shown_uri)
        with self._client.writing():
            return self._entries.restore(self._homes.need(entry.base), entry, cache)

    @in_words
    def renew_adapter(
        self, record: AdapterRecord, probes: Sequence[Mapping[str, str]] = ()
    ) -> AdapterRecord:
        """Write anew what is known of a registered adapter, for instance after a late check.

        Args:
            record: As it is to be; its name, version and content are those that are there.
            probes: As for `add_adapter`; none leaves what is there.

        Returns:
            The record as stored.
        """
        with self._client.writing():
            home = self._homes.ensure(record.base)
            self._entries.renew(home, record, probes)
        return record

    @in_words
    def lost_files(self, record: AdapterRecord) -> str | None:
        """Where an adapter's files should be and are not; None where nothing is missing."""
        return files.lost(self._client, record) if record.has_weights else None

    @in_words
    def changed_config(self, record: AdapterRecord, config: Mapping[str, Any]) -> list[str]:
        """Fields in which the registered adapter_config.json differs from this one; [] of none."""
        return files.changed_config(self._client, record, config)

    @in_words
    def restore_files(self, record: AdapterRecord, folder: Path) -> None:
        """Put an adapter's files back into the registry.

        Raises:
            AdapterError: They are not the files that the record is about.
        """
        files.upload(self._client, record, folder, record.model_id)

    @in_words
    def set_card(self, record: AdapterRecord, *, markdown: str, html: str) -> None:
        """Renew what MLflow shows as an adapter's description, and its page."""
        self._entries.set_card(record, markdown=markdown, html=html)

    @in_words
    def update_scores(self, base: BaseIdentity) -> None:
        """Write each adapter's scores and gains by task beside its fingerprint, to sort by."""
        self._entries.update_scores(self._homes.ensure(base), self.transfer_matrix(base))

    # --- traits
    # -------------------------------------------------------------------------------------------

    @in_words
    def set_traits(
        self,
        base: BaseIdentity,
        traits: Mapping[str, Mapping[str, float]],
        *,
        plots: Mapping[str, Path] | None = None,
    ) -> list[AdapterRecord]:
        """Write trait scores (by adapter id, then trait name) to the adapters' runs.

        Args:
            base: Their base model; its own scores go by BASE_ID.
            traits: Replace what was there.
            plots: A picture of each adapter's traits, by adapter id.

        Returns:
            The adapters as they are now.
        """
        self._entries.set_traits(self._homes.ensure(base), traits, plots or {})
        return self.adapters(base)

    @in_words
    def trait_fit(self, base: BaseIdentity) -> dict[str, Any] | None:
        """What `set_trait_fit` kept last for this base model; None before the first fit.

        Raises:
            RegistryError: It was kept, but can't be read.
        """
        home = self._homes.find(base)
        return None if home is None else self._entries.trait_fit(home)

    @in_words
    def set_trait_fit(
        self, base: BaseIdentity, fit: Mapping[str, Any], *, note: str, plots: Mapping[str, Path]
    ) -> None:
        """Keep a fit of the traits on the bare base's run.

        Args:
            base: The base model it is about.
            fit: Plain values, for the next fit to be matched to.
            note: Markdown that heads the run's page.
            plots: Pictures by file name.
        """
        self._entries.set_trait_fit(self._homes.ensure(base), fit, note=note, plots=plots)

    # --- tasks and cells
    # ---------------------------------------------------------------------------------

    @in_words
    def add_tasks(self, base: BaseIdentity, tasks: Sequence[TaskRecord]) -> None:
        """Write tasks with their fingerprints before anything is measured on them."""
        self._entries.ensure_tasks(self._homes.ensure(base), tasks)

    @in_words
    def tasks(self, base: BaseIdentity) -> list[TaskRecord]:
        """Every task that something was scored on, in order of first measurement."""
        home = self._homes.find(base)
        return [] if home is None else self._sync.tasks(home)

    @in_words
    def add_cells(
        self,
        base: BaseIdentity,
        adapter: AdapterRecord | MatrixRow,
        task: TaskRecord,
        cells: Sequence[Cell],
        predictions: Sequence[Prediction] = (),
    ) -> None:
        """Write measured cells of one task; safe once this returns.

        All cells that this Registry object writes for one adapter share a run.

        Args:
            base: The base model they were measured on.
            adapter: A registered adapter, or BASE_ROW, or MAJORITY_ROW.
            task: What was scored.
            cells: Cells of that adapter on that task, or of a few-shot row of it.
            predictions: Row by row what the cell rests on; only beside a single cell.
        """
        if not cells:
            return
        home = self._homes.ensure(base)
        self._entries.ensure_tasks(home, [task])
        self._cells.add(home, adapter, [(task, cell) for cell in cells], predictions)

    @in_words
    def add_evaluation_plots(
        self, base: BaseIdentity, row: MatrixRow, plots: Mapping[str, Path]
    ) -> None:
        """Put pictures beside the cells that this Registry object wrote for a row of the matrix."""
        self._cells.add_plots(self._homes.need(base), row, plots)

    @in_words
    def add_matrix(
        self,
        matrix: TransferMatrix,
        *,
        folders: Mapping[str, Path] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> MatrixAddition:
        """Write adapters, tasks and cells at once; what is there is left out.

        Args:
            matrix: The adapters' `adapter_id` says what is there already.
            folders: PEFT folders by adapter id; the other adapters are figures only.
            progress: Called with (rows written, rows in all), a row being an adapter or the base.

        Returns:
            What was new.
        """
        home = self._homes.ensure(matrix.base)
        return self._cells.add_matrix(home, matrix, folders or {}, progress)

    @in_words
    def predictions(
        self, base: BaseIdentity, row: MatrixRow, task: str, *, protocol: str | None = None
    ) -> tuple[Prediction, ...]:
        """Row by row what the latest such cell rests on; empty where none were kept.

        Args:
            base: The base model it was measured on.
            row: Whose cell it is.
            task: Name of the task.
            protocol: Digest of the protocol; None for whichever was measured last.

        Raises:
            NotFoundError: There is no such cell.
        """
        return self._cells.predictions(self._homes.need(base), row, task, protocol=protocol)

    @in_words
    def recall(self, base: BaseIdentity) -> Recall:
        """What finds the answers to single rows that the cells of today rest on."""
        home = self._homes.find(base)
        return Recall(self._client, {}) if home is None else self._cells.recall(home)

    @in_words
    def cell(self, base: BaseIdentity, row: MatrixRow, task: str, protocol: str) -> Cell | None:
        """The latest cell of this row and task under this protocol, or None."""
        home = self._homes.find(base)
        found = [
            stored
            for stored in ([] if home is None else self._cells.stored(home))
            if (stored.cell.row, stored.cell.task, stored.cell.protocol) == (row, task, protocol)
        ]
        return max(found, key=lambda stored: stored.measured_ms).cell if found else None

    @in_words
    def measured(self, base: BaseIdentity) -> frozenset[tuple[MatrixRow, str, str]]:
        """(row, task, protocol) of every cell there is."""
        home = self._homes.find(base)
        return frozenset() if home is None else self._cells.measured(home)

    @in_words
    def transfer_matrix(
        self, base: BaseIdentity, *, protocol: str | None = None, with_targets: bool = False
    ) -> TransferMatrix:
        """All that was measured under a base model; `assemble_matrix` says what makes a column.

        Args:
            base: The base model.
            protocol: Digest of the protocol; None for the one that most was measured under.
            with_targets: Whether what recommendations measured on their targets stands in it too.
        """
        home = self._homes.find(base)
        return assemble_matrix(
            base if home is None else home.base,
            adapters=self.adapters(base),
            tasks=self.tasks(base),
            cells=[] if home is None else self._cells.stored(home),
            protocol=protocol,
            with_targets=with_targets,
        )

    # --- recommendations
    # -------------------------------------------------------------------------------------------

    @in_words
    def add_recommendation(
        self, base: BaseIdentity, recommendation: Mapping[str, Any], *, digest: str, group: str
    ) -> str:
        """Keep a recommendation as a run, so that later measurements show how good it was.

        Args:
            base: The base model it is about.
            recommendation: What `recommend --json` prints: figures and names, no rows.
            digest: Of the target's rows.
            group: The target's group.

        Returns:
            Id of the run.
        """
        home = self._homes.ensure(base)
        return self._entries.add_recommendation(home, recommendation, digest=digest, group=group)

    @in_words
    def recommendations(self, base: BaseIdentity) -> list[KeptRecommendation]:
        """Every recommendation that was kept for this base model, oldest first."""
        home = self._homes.find(base)
        return [] if home is None else self._entries.recommendations(home)

    # --- pages
    # -------------------------------------------------------------------------------------------

    @in_words
    def ensure_views(self, base: BaseIdentity) -> None:
        """Put the saved view with the columns that matter into the adapters' experiment."""
        self._homes.ensure_view(self._homes.ensure(base))

    @in_words
    def ui_link(self, base: BaseIdentity, server: str | None = None) -> str:
        """Address of the page that shows a base model's adapters.

        Args:
            base: Which experiment to open.
            server: Address of a running MLflow server; None where the tracking URI is one.
        """
        return self._homes.link(self._homes.need(base), server or self.shown_uri)
