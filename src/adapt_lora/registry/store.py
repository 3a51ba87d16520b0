"""The registry on MLflow: adapters, tasks and cells as runs, logged models and registered versions.

The only module that imports MLflow, and only when something is read or written. What lies where is
said in `layout`; here it is moved.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar
from urllib.parse import unquote, urlparse

from adapt_lora.errors import (
    AdapterError,
    AdaptError,
    ConfigError,
    NotFoundError,
    RegistryError,
)
from adapt_lora.model.base import BaseIdentity, cache_dir
from adapt_lora.registry import layout
from adapt_lora.registry.adapter import copy_adapter, is_allowed_file, read_adapter
from adapt_lora.registry.bases import compare_bases, find_base
from adapt_lora.registry.cache import Entry, Shelf, SnapshotCache
from adapt_lora.registry.layout import RunItems, StoredCell
from adapt_lora.registry.matrix import assemble_matrix
from adapt_lora.registry.records import (
    BASE_ID,
    BASE_ROW,
    MAJORITY_ID,
    MAJORITY_ROW,
    AdapterRecord,
    Cell,
    KeptRecommendation,
    MatrixRow,
    Prediction,
    StepRecord,
    TaskRecord,
    TransferMatrix,
)
from adapt_lora.registry.tracking import (
    check_server,
    default_folder,
    full_uri,
    prepare_sqlite,
    quieten_mlflow,
)

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
"""Alias that a name's first version gets; people may move it."""

VIEW_ID = "adapt"
"""Key of the saved view in links."""

_LOCK_TIMEOUT_S = 120
_PAGE = 10_000
_ADAPTERS, _EVALUATIONS = "adapters", "evaluations"

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Shelving:
    """Where the records of one base model are."""

    base: BaseIdentity
    adapters_id: str
    adapters_born_ms: int
    evaluations_id: str
    evaluations_born_ms: int
    base_model_id: str
    majority_model_id: str

    def place(self, kind: Literal["adapter", "task", "cells"]) -> tuple[str, str]:
        """Experiment id, and the name that tells it from one of a deleted database."""
        if kind == "adapter":
            return self.adapters_id, f"{self.adapters_id}-{self.adapters_born_ms}"
        return self.evaluations_id, f"{self.evaluations_id}-{self.evaluations_born_ms}"


@dataclass(frozen=True, slots=True)
class MatrixAddition:
    """What `add_matrix` wrote."""

    n_adapters: int
    """Adapters that were new."""
    n_cells: int
    """Cells that were new, the base's among them."""


def _in_words(
    method: Callable[Concatenate["Registry", _P], _T],
) -> Callable[Concatenate["Registry", _P], _T]:
    """Turn what MLflow and its database raise into one sentence."""

    @wraps(method)
    def wrapped(self: "Registry", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return method(self, *args, **kwargs)
        except AdaptError:
            raise
        except Exception as error:
            if not _is_foreign(error):
                raise
            reason = str(error).strip().splitlines()
            raise RegistryError(
                f"The registry at {self.tracking_uri} did not do what was asked "
                f"({method.__name__}): {reason[0][:300] if reason else type(error).__name__}"
            ) from error

    return wrapped


def _is_foreign(error: Exception) -> bool:
    home = type(error).__module__.partition(".")[0]
    return home in {"mlflow", "sqlalchemy", "sqlite3", "requests", "urllib3", "alembic"}


class Registry:
    """Adapters, tasks and cells in one MLflow tracking store.

    Nothing is opened before the first read or write.

    Args:
        tracking_uri: An MLflow URI, or a folder for a SQLite store; None takes
            MLFLOW_TRACKING_URI, and without it a SQLite store in the user's data folder.
        cache_folder: For the local copy of what was read; None takes the user's cache folder.
    """

    def __init__(
        self, tracking_uri: str | Path | None = None, *, cache_folder: Path | None = None
    ) -> None:
        given = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        self.is_default_uri: bool = not given
        """Whether nobody chose the store, so that people should be told where it is."""
        self.tracking_uri: str = full_uri(given or default_folder())
        """Where everything is kept."""
        self._cache = SnapshotCache(cache_folder or cache_dir(), self.tracking_uri)
        self._shelves: dict[tuple[str, str], Shelf] = {}
        self._shelvings: dict[str, _Shelving] = {}
        self._opened: MlflowClient | None = None
        self._lock: BaseFileLock | None = None
        self._job = uuid.uuid4().hex
        self._job_runs: dict[tuple[str, MatrixRow], str] = {}
        self._job_steps: dict[str, int] = {}
        self._few_shot_models: dict[tuple[str, MatrixRow], str] = {}
        self._ensured_tasks: set[tuple[str, str, bool]] = set()

    # --- bases
    # -------------------------------------------------------------------------------------------

    @_in_words
    def bases(self) -> list[BaseIdentity]:
        """Every base model that something is registered under, by name."""
        found = self._client.search_experiments(
            filter_string=f"tags.`{layout.KIND}` = '{_ADAPTERS}'", max_results=1000
        )
        bases = [layout.base_from_tags(experiment.tags) for experiment in found]
        return sorted(bases, key=lambda base: base.name)

    @_in_words
    def ensure_base(self, base: BaseIdentity) -> str | None:
        """Make the two experiments of a base model, with its rows in the Models tab, if need be.

        Returns:
            A warning when the registry holds figures of other weights of the same architecture.

        Raises:
            BaseModelMismatch: The registry knows another model by this name.
        """
        return compare_bases(self._made_shelving(base).base, base)

    def base_warning(self, base: BaseIdentity) -> str | None:
        """The warning that `ensure_base` would give, without writing; None for a base not seen yet.

        Raises:
            BaseModelMismatch: The registry knows another model by this name.
        """
        known = find_base(self.bases(), base)
        return None if known is None else compare_bases(known, base)

    # --- adapters
    # ----------------------------------------------------------------------------------------

    @_in_words
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
        record = replace(record, name=layout.registered_name(record.name))
        with self._writing():
            shelving = self._made_shelving(record.base)
            known = self._find_adapter(shelving, record.adapter_id)
            if known is not None:
                return known
            self._sweep(shelving, record.adapter_id)
            stored = self._write_adapter(shelving, record, folder)
            extras = {"card.html": card_html} if card_html is not None else {}
            self._write_extras(stored, extras, plots or {}, probes, history)
            # The status goes last: a run without it is a crashed registration, and listing skips
            # it.
            self._client.set_tag(stored.run_id, layout.STATUS, layout.READY)
            self._touch(stored.run_id)
        return stored

    @_in_words
    def adapters(self, base: BaseIdentity | None = None) -> list[AdapterRecord]:
        """All registered adapters, of one base model or of all, in order of registration."""
        if base is None:
            return [record for known in self.bases() for record in self.adapters(known)]
        shelving = self._shelving(base)
        if shelving is None:
            return []
        shelf = self._sync_adapters(shelving)
        records = [layout.adapter_from_plain(entry.content) for entry in shelf.entries.values()]
        return sorted(records, key=lambda record: (record.created_ms, record.name))

    @_in_words
    def adapter(self, name_or_ref: str, base: BaseIdentity | None = None) -> AdapterRecord:
        """One adapter by "name" (its newest version), "name@alias", or "name/version".

        Raises:
            NotFoundError: There is none, or the name stands for adapters of several base models.
        """
        records = self.adapters(base)
        name, version = self._parse_reference(name_or_ref)
        found = [record for record in records if (record.name, record.version) == (name, version)]
        if not found:
            name = _legal_or_empty(name_or_ref)
            found = [record for record in records if record.name == name]
        if not found:
            raise NotFoundError(_no_such_adapter(name_or_ref, records))
        bases = sorted({record.base.name for record in found})
        if len(bases) > 1:
            raise NotFoundError(
                f"{name_or_ref!r} stands for adapters of {len(bases)} base models "
                f"({', '.join(bases)}); add --base-model, or say {name}/<version>."
            )
        return max(found, key=lambda record: record.version)

    @_in_words
    def find(self, adapter_id: str, base: BaseIdentity | None = None) -> AdapterRecord | None:
        """The adapter with this content id, or None."""
        return next((r for r in self.adapters(base) if r.adapter_id == adapter_id), None)

    @_in_words
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
        shelving = self._made_shelving(base)
        runs = {record.adapter_id: record.run_id for record in self.adapters(base)}
        runs[BASE_ID] = self._base_run(shelving).info.run_id
        for adapter_id in runs.keys() & traits.keys():
            scores, run_id = traits[adapter_id], runs[adapter_id]
            self._log(
                run_id,
                metrics=layout.trait_metrics(scores),
                tags={layout.TRAITS: layout.trait_tag(scores)},
            )
            if plots and adapter_id in plots:
                self._log_plots(run_id, {"traits.png": plots[adapter_id]})
            self._touch(run_id)
        return self.adapters(base)

    @_in_words
    def trait_fit(self, base: BaseIdentity) -> dict[str, Any] | None:
        """What `set_trait_fit` kept last for this base model; None before the first fit.

        Raises:
            RegistryError: It was kept, but can't be read.
        """
        shelving = self._shelving(base)
        if shelving is None:
            return None
        run = self._base_run(shelving)
        if layout.TRAIT_FIT not in run.data.tags:
            return None
        try:
            fit: dict[str, Any] = json.loads(self._read_artifact(run, layout.TRAITS_FILE))
        except ValueError as error:
            raise RegistryError(
                f"The last fit of traits is damaged ({layout.TRAITS_FILE} of run "
                f"{run.info.run_id}: {error}). Take the tag {layout.TRAIT_FIT} off that run to "
                "start afresh."
            ) from error
        return fit

    @_in_words
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
        run_id = self._base_run(self._made_shelving(base)).info.run_id
        self._client.log_text(run_id, json.dumps(fit, indent=1), layout.TRAITS_FILE)
        self._log_plots(run_id, plots)
        self._log(run_id, tags={layout.NOTE: note[: layout.TAG_LIMIT], layout.TRAIT_FIT: "kept"})
        self._touch(run_id)

    @_in_words
    def update_scores(self, base: BaseIdentity) -> None:
        """Write each adapter's scores and gains by task beside its fingerprint, to sort by."""
        matrix = self.transfer_matrix(base)
        of_base = {cell.task: cell.score for cell in matrix.cells if cell.row == BASE_ROW}
        for record in matrix.adapters:
            scores = {c.task: c.score for c in matrix.cells if c.row == record.row}
            gains = {
                task: score - of_base[task] for task, score in scores.items() if task in of_base
            }
            if scores:
                self._log(record.run_id, metrics=layout.summary_metrics(scores, gains))

    @_in_words
    def pull(self, name: str, dest: Path, base: BaseIdentity | None = None) -> Path:
        """Copy an adapter's PEFT files into a folder, and check that they are the ones registered.

        Raises:
            NotFoundError: No such adapter.
            RegistryError: It has no files, the folder is in use, or the files were changed.
        """
        record = self.adapter(name, base)
        dest = Path(dest)
        if not record.has_weights:
            raise RegistryError(
                f"{record.name} is known by its figures only, so there is nothing to pull. `adapt "
                "list` says which adapters have their weights here."
            )
        if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
            if _holds(dest, record):
                return dest
            raise RegistryError(f"{dest} is not an empty folder; give a new one.")
        dest.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=dest.parent, prefix=".adapt-pull-") as scratch:
            fetched = self._download(f"models:/{record.model_id}", Path(scratch))
            if read_adapter(fetched, base_model=record.base.name).adapter_id != record.adapter_id:
                raise RegistryError(
                    f"The files of {record.name} in {self.tracking_uri} are not the ones that were "
                    "registered; remove it and register it again."
                )
            # In one step: whoever finds the folder finds it whole.
            ready = Path(scratch) / "ready"
            _copy_allowed(fetched, ready)
            ready.replace(dest)
        return dest

    @_in_words
    def set_card(self, record: AdapterRecord, *, markdown: str, html: str) -> None:
        """Renew what MLflow shows as an adapter's description, and its page."""
        self._client.set_tag(record.run_id, layout.NOTE, markdown[: layout.TAG_LIMIT])
        if record.model_id:
            note = {layout.NOTE: markdown[: layout.TAG_LIMIT]}
            self._client.set_logged_model_tags(record.model_id, note)
        self._client.log_text(record.run_id, html, "card.html")
        self._touch(record.run_id)

    @_in_words
    def fetch(self, source: str, dest: Path) -> Path:
        """Copy the adapter files of a "models:/…" or "runs:/…" source to a new folder in `dest`.

        Raises:
            NotFoundError: Nothing there.
        """
        from mlflow.exceptions import MlflowException

        if not source.startswith(("models:/", "runs:/")):
            raise RegistryError(
                f"{source!r} is not an MLflow source: it starts with models:/ or runs:/."
            )
        dest = Path(dest)
        dest.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=dest, prefix=".adapt-fetch-") as scratch:
            try:
                fetched = self._download(source, Path(scratch))
            except (MlflowException, OSError) as error:
                raise NotFoundError(
                    f"{source}: nothing to fetch in {self.tracking_uri} "
                    f"({str(error).strip().splitlines()[0][:200]})."
                ) from error
            target = dest / re.sub(r"\W+", "-", source).strip("-")
            shutil.rmtree(target, ignore_errors=True)
            _copy_allowed(_peft_folder(fetched), target)
        return target

    @_in_words
    def remove(self, name: str, base: BaseIdentity | None = None) -> AdapterRecord:
        """Take an adapter out: its version, logged model, run, and the cells measured on it.

        MLflow keeps deleted runs until `mlflow gc`; no list or matrix shows them.

        Returns:
            What was removed.
        """
        with self._writing():
            record = self.adapter(name, base)
            shelving = self._require(record.base)
            # From the face inward: what is cut off half-way is never listed again.
            self._client.delete_run(record.run_id)
            self._delete_version(record.name, record.version)
            with contextlib.suppress(_gone()):
                self._client.delete_logged_model(record.model_id)
            # An adapter's few-shot rows are called after it.
            own = f"tags.`{layout.ADAPTER_ID}` LIKE '{record.adapter_id}%'"
            for run in self._search(shelving.evaluations_id, own):
                self._client.delete_run(run.info.run_id)
            shown = f"tags.`{layout.SHOWN_TO}` = '{record.adapter_id}'"
            for model in self._client.search_logged_models(
                [shelving.adapters_id], filter_string=shown
            ):
                self._client.delete_logged_model(model.model_id)
            for rows in (self._job_runs, self._few_shot_models):
                for key in [key for key in rows if key[1].model == record.adapter_id]:
                    del rows[key]
        return record

    # --- tasks and cells
    # ---------------------------------------------------------------------------------

    @_in_words
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
        shelving = self._made_shelving(base)
        self._ensure_tasks(shelving, [task])
        self._write_cells(shelving, adapter, [(task, cell) for cell in cells], predictions)

    @_in_words
    def add_tasks(self, base: BaseIdentity, tasks: Sequence[TaskRecord]) -> None:
        """Write tasks with their fingerprints before anything is measured on them."""
        self._ensure_tasks(self._made_shelving(base), tasks)

    @_in_words
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
        shelving = self._require(base)
        found = [
            (stored, run_id)
            for run_id, entry in self._sync(shelving, "cells").entries.items()
            for stored in map(layout.stored_cell_from_plain, entry.content)
            if (stored.cell.row, stored.cell.task) == (row, task)
            and protocol in (None, stored.cell.protocol)
        ]
        if not found:
            raise NotFoundError(
                f"No cell of {row.id[:12]} on {task} is measured in {self.tracking_uri}; "
                "`adapt matrix` shows which are."
            )
        stored, run_id = max(found, key=lambda pair: pair[0].measured_ms)
        name = layout.predictions_file(stored.cell, stored.dataset_digest)
        with tempfile.TemporaryDirectory(prefix="adapt-read-") as scratch:
            try:
                path = self._client.download_artifacts(run_id, name, scratch)
            # Cells that others published, or that older versions wrote, come without.
            except (_gone(), OSError):
                return ()
            return layout.read_predictions(Path(path))

    @_in_words
    def add_evaluation_plots(
        self, base: BaseIdentity, row: MatrixRow, plots: Mapping[str, Path]
    ) -> None:
        """Put pictures beside the cells that this Registry object wrote for a row of the matrix."""
        shelving = self._require(base)
        run_id = self._job_runs.get((shelving.evaluations_id, row))
        if run_id is not None and plots:
            self._log_plots(run_id, plots)

    @_in_words
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
        shelving = self._made_shelving(matrix.base)
        tasks = {task.name: task for task in matrix.tasks}
        of_base = {c.task: c.score for c in matrix.cells if c.row == BASE_ROW}
        measured = self.measured(matrix.base)
        rows: dict[MatrixRow, list[Cell]] = {}
        for cell in matrix.cells:
            rows.setdefault(cell.row, []).append(cell)
        n_adapters = n_cells = 0
        # One lock for all: nobody else can be half-way through a registration meanwhile.
        with self._writing():
            self._ensure_tasks(shelving, matrix.tasks)
            known = {record.adapter_id: record for record in self.adapters(matrix.base)}
            self._sweep_unready(shelving, known)
            for done, record in enumerate(matrix.adapters, start=1):
                cells = rows.pop(record.row, [])
                if record.adapter_id not in known:
                    known[record.adapter_id] = self._write_row(
                        shelving, record, (folders or {}).get(record.adapter_id), cells, of_base
                    )
                    n_adapters += 1
                n_cells += self._write_new_cells(
                    shelving, known[record.adapter_id], tasks, cells, measured
                )
                if progress is not None:
                    progress(done, len(matrix.adapters))
            for row, cells in rows.items():  # the bare base, the majority label, few-shot rows
                model = known.get(row.model, MatrixRow(row.model))
                n_cells += self._write_new_cells(shelving, model, tasks, cells, measured)
        return MatrixAddition(n_adapters, n_cells)

    @_in_words
    def cell(self, base: BaseIdentity, row: MatrixRow, task: str, protocol: str) -> Cell | None:
        """The latest cell of this row and task under this protocol, or None."""
        found = [
            stored
            for stored in self._stored_cells(base)
            if (stored.cell.row, stored.cell.task, stored.cell.protocol) == (row, task, protocol)
        ]
        return max(found, key=lambda stored: stored.measured_ms).cell if found else None

    @_in_words
    def measured(self, base: BaseIdentity) -> frozenset[tuple[MatrixRow, str, str]]:
        """(row, task, protocol) of every cell there is."""
        cells = [stored.cell for stored in self._stored_cells(base)]
        return frozenset((cell.row, cell.task, cell.protocol) for cell in cells)

    @_in_words
    def tasks(self, base: BaseIdentity) -> list[TaskRecord]:
        """Every task that something was scored on, in order of first measurement."""
        shelving = self._shelving(base)
        if shelving is None:
            return []
        entries = self._sync(shelving, "task").entries.values()
        ordered = sorted(entries, key=lambda entry: entry.end_ms)
        return [layout.task_from_plain(entry.content) for entry in ordered]

    @_in_words
    def transfer_matrix(self, base: BaseIdentity, *, protocol: str | None = None) -> TransferMatrix:
        """All that was measured under a base model; `assemble_matrix` says what makes a column."""
        shelving = self._shelving(base)
        return assemble_matrix(
            base if shelving is None else shelving.base,
            adapters=self.adapters(base),
            tasks=self.tasks(base),
            cells=self._stored_cells(base),
            protocol=protocol,
        )

    # --- recommendations
    # -------------------------------------------------------------------------------------------

    @_in_words
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
        shelving = self._made_shelving(base)
        items = layout.recommendation_items(recommendation, base, digest=digest, group=group)
        client, experiment = self._client, shelving.evaluations_id
        run = client.create_run(experiment, run_name=items.name, tags=dict(items.tags))
        run_id: str = run.info.run_id
        self._log(run_id, metrics=items.metrics, params=items.params)
        client.log_table(run_id, layout.ranking_columns(recommendation), layout.RANKING_FILE)
        for name, text in items.artifacts.items():
            client.log_text(run_id, text, name)
        # The status tag goes last: a run without it is one that was cut off.
        self._log(run_id, tags={layout.STATUS: layout.READY})
        client.set_terminated(run_id)
        return run_id

    @_in_words
    def recommendations(self, base: BaseIdentity) -> list[KeptRecommendation]:
        """Every recommendation that was kept for this base model, oldest first."""
        shelving = self._shelving(base)
        if shelving is None:
            return []
        own = f"tags.`{layout.KIND}` = '{layout.RECOMMENDATION}'"
        ready = f"{own} and tags.`{layout.STATUS}` = '{layout.READY}'"
        found = []
        for run in self._search(shelving.evaluations_id, ready):
            try:
                content = json.loads(self._read_artifact(run, layout.RECOMMENDATION_FILE))
            except ValueError as error:
                raise RegistryError(
                    f"The recommendation {run.info.run_name!r} (run {run.info.run_id}) is damaged "
                    f"({error}); delete that run in MLflow."
                ) from error
            tags = run.data.tags
            found.append(
                KeptRecommendation(
                    run_id=run.info.run_id,
                    made_ms=run.info.start_time,
                    digest=tags[layout.TARGET_DIGEST],
                    group=tags[layout.TARGET_GROUP],
                    content=content,
                )
            )
        return sorted(found, key=lambda kept: kept.made_ms)

    # --- pages
    # -------------------------------------------------------------------------------------------

    @_in_words
    def ensure_views(self, base: BaseIdentity) -> None:
        """Put the saved view with the columns that matter into the adapters' experiment."""
        shelving = self._made_shelving(base)
        key = f"mlflow.sharedViewState.{VIEW_ID}"
        experiment = self._client.get_experiment(shelving.adapters_id)
        if key not in experiment.tags:
            view = layout.saved_view("Adapters and fingerprints", now_ms=_now_ms())
            self._client.set_experiment_tag(shelving.adapters_id, key, view)

    @_in_words
    def ui_link(self, base: BaseIdentity, server: str | None = None) -> str:
        """Address of the page that shows a base model's adapters.

        Args:
            base: Which experiment to open.
            server: Address of a running MLflow server; None where the tracking URI is one.
        """
        shelving = self._require(base)
        # Without the workflow type a fresh browser opens the page for chat agents.
        return (
            f"{(server or self.tracking_uri).rstrip('/')}/#/experiments/{shelving.adapters_id}/runs"
            f"?viewStateShareKey={VIEW_ID}&workflowType=machine_learning"
        )

    # --- inside
    # ------------------------------------------------------------------------------------------

    @property
    def _client(self) -> "MlflowClient":
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> "MlflowClient":
        if self.tracking_uri.startswith(("http://", "https://")):
            check_server(self.tracking_uri)
        quieten_mlflow()
        from mlflow import MlflowClient

        if not self._sqlite_path:
            return MlflowClient(self.tracking_uri, registry_uri=self.tracking_uri)
        try:
            self._sqlite_path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RegistryError(
                f"{self._sqlite_path.parent}: can't make the registry's folder ({error.strerror}). "
                "Set MLFLOW_TRACKING_URI to a place that can be written."
            ) from error
        # Two processes that create one SQLite store at once leave it broken for good.
        with self._writing():
            if not self._sqlite_path.exists():
                prepare_sqlite(self._sqlite_path)
            client = MlflowClient(self.tracking_uri, registry_uri=self.tracking_uri)
            client.search_experiments(max_results=1)
        return client

    @property
    def _sqlite_path(self) -> Path | None:
        prefix = "sqlite:///"
        return (
            Path(self.tracking_uri[len(prefix) :]) if self.tracking_uri.startswith(prefix) else None
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock of this store on this machine; may be held by one writer twice."""
        from filelock import FileLock, Timeout

        if self._lock is None:
            path = self._lock_path()
            path.parent.mkdir(parents=True, exist_ok=True)
            # Opening a store happens inside a write too: only one and the same lock can be held
            # twice.
            self._lock = FileLock(path, timeout=_LOCK_TIMEOUT_S)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise RegistryError(
                f"Another process has held the registry's lock ({error.lock_file}) for "
                f"{_LOCK_TIMEOUT_S} s."
            ) from error
        try:
            yield
        finally:
            self._lock.release()

    def _lock_path(self) -> Path:
        if self._sqlite_path is not None:
            return Path(f"{self._sqlite_path}.lock")
        name = re.sub(r"\W+", "-", self.tracking_uri)[:100]
        return default_folder() / "locks" / f"{name}.lock"

    def _require(self, base: BaseIdentity) -> _Shelving:
        shelving = self._shelving(base)
        if shelving is None:
            raise NotFoundError(f"Nothing is registered under {base.name} in {self.tracking_uri}.")
        return shelving

    def _shelving(self, base: BaseIdentity) -> _Shelving | None:
        """Where a base's records are; None if it has none yet."""
        known = self._shelvings.get(base.name)
        if known is None:
            registered = find_base(self.bases(), base)
            if registered is None:
                return None
            known = self._shelvings[base.name] = self._open_shelving(registered)
        compare_bases(known.base, base)
        return known

    def _made_shelving(self, base: BaseIdentity) -> _Shelving:
        """Where a base's records are, made if need be."""
        known = self._shelving(base)
        if known is None:
            with self._writing():
                known = self._shelvings[base.name] = self._open_shelving(base)
        return known

    def _open_shelving(self, base: BaseIdentity) -> _Shelving:
        adapters = self._experiment(base, _ADAPTERS)
        evaluations = self._experiment(base, _EVALUATIONS)
        ids = {}
        for row in (BASE_ID, MAJORITY_ID):
            tag = f"adapt.row.{layout.legal_key(row)}"
            ids[row] = adapters.tags.get(tag) or self._add_row(base, adapters, row, tag)
        return _Shelving(
            base=base,
            adapters_id=adapters.experiment_id,
            adapters_born_ms=adapters.creation_time or 0,
            evaluations_id=evaluations.experiment_id,
            evaluations_born_ms=evaluations.creation_time or 0,
            base_model_id=ids[BASE_ID],
            majority_model_id=ids[MAJORITY_ID],
        )

    def _experiment(self, base: BaseIdentity, kind: str) -> "Experiment":
        name = f"{kind}/{base.name}"
        found = self._client.get_experiment_by_name(name)
        if found is None:
            tags = {
                layout.KIND: kind,
                **layout.base_tags(base),
                "mlflow.experimentKind": "custom_model_development",
                layout.NOTE: _EXPERIMENT_NOTES[kind],
            }
            from mlflow.exceptions import MlflowException

            # Another process may have been quicker.
            with contextlib.suppress(MlflowException):
                self._client.create_experiment(name, self._artifact_location(name), tags)
            found = self._client.get_experiment_by_name(name)
        elif found.lifecycle_stage == "deleted":
            # A deleted experiment keeps its name, and MLflow refuses a new one of that name.
            self._client.restore_experiment(found.experiment_id)
            found = self._client.get_experiment_by_name(name)
        if found is None:
            raise RegistryError(f"The experiment {name} can't be made in {self.tracking_uri}.")
        return found

    def _artifact_location(self, experiment: str) -> str | None:
        """Beside a SQLite store; MLflow's own default is whatever the working directory was."""
        if self._sqlite_path is None:
            return None
        folder = re.sub(r"[^\w.-]+", "-", experiment)
        return (self._sqlite_path.parent / "artifacts" / folder).resolve().as_uri()

    def _add_row(self, base: BaseIdentity, experiment: "Experiment", row: str, tag: str) -> str:
        """A logged model for the bare base or the constant guess: a row of the Models tab."""
        name = f"base model {base.name}" if row == BASE_ID else row
        run_id = None
        if row == BASE_ID:
            run = self._client.create_run(
                experiment.experiment_id, run_name=name, tags={layout.KIND: "base"}
            )
            run_id = run.info.run_id
            self._client.set_terminated(run_id)
        model = self._client.create_logged_model(
            experiment.experiment_id,
            name=layout.logged_model_name(name),
            source_run_id=run_id,
            model_type="base-model" if row == BASE_ID else "constant-guess",
        )
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.set_experiment_tag(experiment.experiment_id, tag, model.model_id)
        return str(model.model_id)

    def _write_adapter(
        self,
        shelving: _Shelving,
        record: AdapterRecord,
        folder: Path | None,
        *,
        summary: Mapping[str, float] | None = None,
    ) -> AdapterRecord:
        """Run, logged model with files, registered version; everything but the status."""
        client = self._client
        self._check_name_is_free(record.name)
        run = client.create_run(
            shelving.adapters_id,
            run_name=record.name,
            tags={layout.KIND: "adapter", layout.ADAPTER_ID: record.adapter_id},
        )
        run_id = run.info.run_id
        items = layout.adapter_items(record)
        model = client.create_logged_model(
            shelving.adapters_id,
            name=layout.logged_model_name(record.name),
            source_run_id=run_id,
            tags={layout.ADAPTER_ID: record.adapter_id, layout.NOTE: items.tags[layout.NOTE]},
            params=dict(items.params),
            model_type="lora-adapter",
        )
        if folder is not None:
            self._upload_files(record, folder, model.model_id)
        client.finalize_logged_model(model.model_id, "READY")
        version = self._add_version(record, run_id, model)
        stored = replace(
            record,
            run_id=run_id,
            model_id=model.model_id,
            version=version,
            created_ms=run.info.start_time,
            has_weights=folder is not None,
        )
        items = layout.adapter_items(stored)
        self._write_items(run, items, model_id=model.model_id, summary=summary)
        return stored

    def _upload_files(self, record: AdapterRecord, folder: Path, model_id: str) -> None:
        adapter = read_adapter(folder, base_model=record.base.name)
        if adapter.adapter_id != record.adapter_id:
            raise AdapterError(f"{folder} changed while it was being registered; try again.")
        with tempfile.TemporaryDirectory(prefix="adapt-register-") as scratch:
            self._client.log_model_artifacts(model_id, str(copy_adapter(adapter, Path(scratch))))

    def _check_name_is_free(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            known = self._client.get_registered_model(name)
        except MlflowException:
            self._client.create_registered_model(name, tags={layout.KIND: "adapter"})
            return
        if known.tags.get(layout.KIND) != "adapter":
            raise RegistryError(
                f"The name {name!r} belongs to a registered model that is not an adapter; choose "
                "another with --name."
            )

    def _add_version(self, record: AdapterRecord, run_id: str, model: Any) -> int:
        # In a database of our own, a models:/ source would be looked up in MLflow's global store,
        # which is another one; a server looks it up in its own.
        source = f"models:/{model.model_id}" if self._is_server else model.artifact_location
        version = self._client.create_model_version(
            record.name,
            source=source,
            run_id=run_id,
            tags={layout.ADAPTER_ID: record.adapter_id, "adapt.base": record.base.name},
            model_id=model.model_id,
            await_creation_for=0,
        )
        # This tag is what links a logged model's page to its versions.
        link = [{"name": record.name, "version": int(version.version)}]
        self._client.set_logged_model_tags(
            model.model_id, {"mlflow.modelVersions": json.dumps(link)}
        )
        if CHAMPION not in self._client.get_registered_model(record.name).aliases:
            self._client.set_registered_model_alias(record.name, CHAMPION, version.version)
        return int(version.version)

    @property
    def _is_server(self) -> bool:
        return self.tracking_uri.startswith(("http://", "https://"))

    def _write_items(
        self,
        run: "Run",
        items: RunItems,
        *,
        model_id: str | None = None,
        summary: Mapping[str, float] | None = None,
    ) -> None:
        """Write an entry; `summary` is for the run alone, not for its model's page."""
        from mlflow.entities import LoggedModelOutput, Metric

        run_id, now = run.info.run_id, _now_ms()
        self._log(
            run_id,
            metrics=items.metrics,
            raw_metrics=[Metric(key, value, now, 0) for key, value in (summary or {}).items()],
            params=items.params,
            tags=items.tags,
            model_id=model_id,
        )
        if items.dataset is not None:
            self._log_datasets(run_id, [items.dataset])
        if model_id is not None:
            self._client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
        with tempfile.TemporaryDirectory(prefix="adapt-items-") as scratch:
            for name, text in items.artifacts.items():
                (Path(scratch) / name).write_text(text, encoding="utf-8")
            self._client.log_artifacts(run_id, scratch)

    def _write_extras(
        self,
        record: AdapterRecord,
        texts: Mapping[str, str],
        plots: Mapping[str, Path],
        probes: Sequence[Mapping[str, str]] | None,
        history: Sequence[StepRecord],
    ) -> None:
        from mlflow.entities import Metric

        for name, text in texts.items():
            self._client.log_text(record.run_id, text, name)
        if probes:
            self._client.log_text(record.run_id, layout.probe_table(probes), "probes.json")
            table = json.dumps([{"path": "probes.json", "type": "table"}])
            self._client.set_tag(record.run_id, "mlflow.loggedArtifacts", table)
        if plots:
            self._log_plots(record.run_id, plots)
        now = _now_ms()
        curves = [
            Metric(layout.legal_key(key), value, now, step.step)
            for step in history
            for key, value in step.metrics.items()
        ]
        # MLflow takes 1,000 metrics at once.
        for start in range(0, len(curves), 1000):
            self._client.log_batch(record.run_id, metrics=curves[start : start + 1000])

    def _write_row(
        self,
        shelving: _Shelving,
        record: AdapterRecord,
        folder: Path | None,
        cells: Sequence[Cell],
        of_base: Mapping[str, float],
    ) -> AdapterRecord:
        """An adapter with its scores and gains beside its fingerprint."""
        scores = {cell.task: cell.score for cell in cells}
        gains = {task: score - of_base[task] for task, score in scores.items() if task in of_base}
        stored = self._write_adapter(
            shelving,
            replace(record, name=layout.registered_name(record.name)),
            folder,
            summary=layout.summary_metrics(scores, gains),
        )
        self._client.set_tag(stored.run_id, layout.STATUS, layout.READY)
        self._touch(stored.run_id)
        return stored

    def _write_new_cells(
        self,
        shelving: _Shelving,
        adapter: AdapterRecord | MatrixRow,
        tasks: Mapping[str, TaskRecord],
        cells: Sequence[Cell],
        measured: frozenset[tuple[MatrixRow, str, str]],
    ) -> int:
        fresh = [
            (tasks[cell.task], cell)
            for cell in cells
            if (cell.row, cell.task, cell.protocol) not in measured
        ]
        if fresh:
            self._write_cells(shelving, adapter, fresh)
        return len(fresh)

    def _write_cells(
        self,
        shelving: _Shelving,
        adapter: AdapterRecord | MatrixRow,
        cells: Sequence[tuple[TaskRecord, Cell]],
        predictions: Sequence[Prediction] = (),
    ) -> None:
        """Cells of one row as metrics and tags of its job's run, in one batch."""
        row, model_id = _model_of(adapter, shelving)
        if cells[0][1].row.model == row.model:
            row = cells[0][1].row.of(row.name)
        if row.shots:
            model_id = self._few_shot_model(shelving, row)
        if any(cell.row != row or cell.task != task.name for task, cell in cells):
            tasks = ", ".join(dict.fromkeys(task.name for task, _ in cells))
            raise RegistryError(f"These cells are not all of {row.label} on {tasks}.")
        run_id, params = self._job_run(shelving, row)
        now = _now_ms()
        tags: dict[str, str] = {}
        metrics: list[Any] = []
        if predictions:
            # Before the cell: what is listed as measured has its predictions.
            (task, cell), *_ = cells
            self._log_predictions(run_id, cell, task, predictions)
        items = [layout.task_dataset_item(task, cell.column) for task, cell in cells]
        self._log_datasets(run_id, list(dict.fromkeys(items)), model_id=model_id)
        for (task, cell), item in zip(cells, items, strict=True):
            metrics += self._cell_metrics(
                cell, run_id=run_id, model_id=model_id, item=item, now=now
            )
            tags |= layout.cell_tags(StoredCell(cell, task.dataset.digest, now))
        self._log(run_id, raw_metrics=metrics, params=params, tags=tags)
        self._touch(run_id)

    def _log_predictions(
        self, run_id: str, cell: Cell, task: TaskRecord, predictions: Sequence[Prediction]
    ) -> None:
        name = Path(layout.predictions_file(cell, task.dataset.digest))
        with tempfile.TemporaryDirectory(prefix="adapt-predictions-") as scratch:
            path = Path(scratch) / name.name
            path.write_bytes(layout.predictions_parquet(predictions))
            self._client.log_artifact(run_id, str(path), str(name.parent))

    def _few_shot_model(self, shelving: _Shelving, row: MatrixRow) -> str:
        """The logged model that stands for a few-shot row in the Models tab."""
        place = (shelving.adapters_id, row)
        if place not in self._few_shot_models:
            own = f"tags.`{layout.FEW_SHOT}` = '{row.id}'"
            found = self._client.search_logged_models([shelving.adapters_id], filter_string=own)
            model = found[0] if found else self._add_few_shot_model(shelving, row)
            self._few_shot_models[place] = str(model.model_id)
        return self._few_shot_models[place]

    def _add_few_shot_model(self, shelving: _Shelving, row: MatrixRow) -> Any:
        model = self._client.create_logged_model(
            shelving.adapters_id,
            name=layout.logged_model_name(row.label),
            tags={layout.FEW_SHOT: row.id, layout.SHOWN_TO: row.model},
            model_type="few-shot",
        )
        return self._client.finalize_logged_model(model.model_id, "READY")

    def _log_plots(self, run_id: str, plots: Mapping[str, Path]) -> None:
        with tempfile.TemporaryDirectory(prefix="adapt-plots-") as scratch:
            for name, path in plots.items():
                shutil.copyfile(path, Path(scratch) / name)
            self._client.log_artifacts(run_id, scratch, "plots")

    def _base_run(self, shelving: _Shelving) -> "Run":
        model = self._client.get_logged_model(shelving.base_model_id)
        return self._client.get_run(str(model.source_run_id))

    def _sweep_unready(self, shelving: _Shelving, known: Collection[str]) -> None:
        """Delete what crashed registrations left behind."""
        found = self._search(shelving.adapters_id, f"tags.`{layout.KIND}` = 'adapter'")
        lost = {run.data.tags.get(layout.ADAPTER_ID, "") for run in found} - {*known, ""}
        for adapter_id in sorted(lost):
            self._sweep(shelving, adapter_id)

    def _sweep(self, shelving: _Shelving, adapter_id: str) -> None:
        """Delete what a crashed registration of this adapter left behind."""
        own = f"tags.`{layout.ADAPTER_ID}` = '{adapter_id}'"
        for run in self._search(shelving.adapters_id, own):
            for version in self._client.search_model_versions(f"run_id = '{run.info.run_id}'"):
                self._delete_version(version.name, int(version.version))
            for model in self._client.search_logged_models(
                [shelving.adapters_id], filter_string=f"source_run_id = '{run.info.run_id}'"
            ):
                self._client.delete_logged_model(model.model_id)
            self._client.delete_run(run.info.run_id)

    def _delete_version(self, name: str, version: int) -> None:
        with contextlib.suppress(_gone()):
            self._client.delete_model_version(name, str(version))
        left = self._versions(name)
        if not left:
            with contextlib.suppress(_gone()):
                self._client.delete_registered_model(name)
        elif not any(CHAMPION in (v.aliases or ()) for v in left):
            newest = max(int(v.version) for v in left)
            self._client.set_registered_model_alias(name, CHAMPION, str(newest))

    def _versions(self, name: str | None = None) -> list["ModelVersion"]:
        filter_string = None if name is None else f"name = {_quoted(name)}"
        found, token = [], None
        while True:
            page = self._client.search_model_versions(
                filter_string, max_results=_PAGE, page_token=token
            )
            found += list(page)
            token = page.token
            if not token:
                return found

    def _parse_reference(self, reference: str) -> tuple[str, int]:
        """Name and version of "name/2" or "name@alias"; version 0 of anything else."""
        from mlflow.exceptions import MlflowException

        name, at, alias = reference.rpartition("@")
        if at and name:
            name = layout.registered_name(name)
            try:
                version = self._client.get_model_version_by_alias(name, alias)
            except MlflowException as error:
                raise NotFoundError(f"{reference!r}: {name} has no alias {alias!r}.") from error
            return name, int(version.version)
        name, slash, number = reference.rpartition("/")
        if slash and name and number.isdecimal():
            return layout.registered_name(name), int(number)
        return reference, 0

    def _find_adapter(self, shelving: _Shelving, adapter_id: str) -> AdapterRecord | None:
        entries = self._sync_adapters(shelving).entries.values()
        found = next((e.content for e in entries if e.content["adapter_id"] == adapter_id), None)
        return None if found is None else layout.adapter_from_plain(found)

    def _ensure_tasks(self, shelving: _Shelving, tasks: Sequence[TaskRecord]) -> None:
        # A sync takes as long as writing a cell, and cells come task by task.
        ids = {
            (shelving.evaluations_id, layout.task_id(task), bool(task.fingerprint.values))
            for task in tasks
        }
        if ids <= self._ensured_tasks:
            return
        entries = self._sync(shelving, "task").entries.values()
        stored = [layout.task_from_plain(entry.content) for entry in entries]
        known = {layout.task_id(task): bool(task.fingerprint.values) for task in stored}
        for task in tasks:
            # A task may be known without its fingerprint; then it is written again, with it.
            if layout.task_id(task) in known and (
                known[layout.task_id(task)] or not task.fingerprint.values
            ):
                continue
            items = layout.task_items(task, shelving.base)
            run = self._client.create_run(
                shelving.evaluations_id, run_name=items.name, tags={layout.KIND: "task"}
            )
            self._write_items(run, items)
            self._client.set_tag(run.info.run_id, layout.STATUS, layout.READY)
            self._touch(run.info.run_id)
        self._ensured_tasks |= ids

    def _job_run(self, shelving: _Shelving, row: MatrixRow) -> tuple[str, Mapping[str, str]]:
        """The run that this object's cells of a row go to, and its params where it is new."""
        key = (shelving.evaluations_id, row)
        if key in self._job_runs:
            return self._job_runs[key], {}
        items = layout.cell_items(row, shelving.base)
        tags = {**items.tags, "adapt.job": self._job, layout.STATUS: layout.READY}
        run = self._client.create_run(shelving.evaluations_id, run_name=items.name, tags=tags)
        self._job_runs[key] = run.info.run_id
        return run.info.run_id, items.params

    def _cell_metrics(
        self, cell: Cell, *, run_id: str, model_id: str, item: layout.DatasetItem, now: int
    ) -> list[Any]:
        from mlflow.entities import Metric

        # A model's metrics are told apart by key, time and step only, not by dataset.
        step = self._job_steps.get(run_id, -1) + 1
        self._job_steps[run_id] = step
        named = layout.cell_metrics(cell)
        metrics = [Metric(key, value, now, step) for key, value in named.items()]
        of_model = Metric(
            cell.metric,
            cell.score,
            now,
            step,
            model_id=model_id,
            dataset_name=item.name,
            dataset_digest=item.digest,
            run_id=run_id,
        )
        return [*metrics, of_model]

    def _log_datasets(
        self, run_id: str, items: Sequence[layout.DatasetItem], *, model_id: str | None = None
    ) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput

        datasets = [
            Dataset(i.name, i.digest, "local", json.dumps({"uri": i.source}), profile=i.profile)
            for i in items
        ]
        self._client.log_inputs(
            run_id,
            datasets=[
                DatasetInput(dataset, [InputTag("mlflow.data.context", item.context)])
                for dataset, item in zip(datasets, items, strict=True)
            ],
            models=[LoggedModelInput(model_id)] if model_id else None,
        )

    def _log(
        self,
        run_id: str,
        *,
        metrics: Mapping[str, float] | None = None,
        raw_metrics: Sequence[Any] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        model_id: str | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = _now_ms()
        self._client.log_batch(
            run_id,
            metrics=[
                *(Metric(k, v, now, 0, model_id=model_id) for k, v in (metrics or {}).items()),
                *raw_metrics,
            ],
            params=[Param(key, value) for key, value in (params or {}).items()],
            tags=[RunTag(key, value) for key, value in (tags or {}).items()],
        )

    def _touch(self, run_id: str) -> None:
        """Set the end time anew: it is the only time of a run that a sync can ask for."""
        self._client.set_terminated(run_id)

    def _stored_cells(self, base: BaseIdentity) -> list[StoredCell]:
        shelving = self._shelving(base)
        if shelving is None:
            return []
        return [
            layout.stored_cell_from_plain(plain)
            for entry in self._sync(shelving, "cells").entries.values()
            for plain in entry.content
        ]

    def _sync_adapters(self, shelving: _Shelving) -> Shelf:
        """The adapters' shelf, with what changed, and without what lost its registered version."""
        shelf = self._sync(shelving, "adapter")
        versions = {version.run_id for version in self._versions()}
        gone = [run_id for run_id in shelf.entries if run_id not in versions]
        for run_id in gone:
            del shelf.entries[run_id]
        if gone:
            self._cache.save(shelving.place("adapter")[1], "adapter", shelf)
        return shelf

    def _sync(self, shelving: _Shelving, kind: Literal["adapter", "task", "cells"]) -> Shelf:
        """One kind's shelf, brought up to date."""
        from mlflow.entities import ViewType

        experiment_id, place = shelving.place(kind)
        key = (place, kind)
        if key not in self._shelves:
            self._shelves[key] = self._cache.load(place, kind)
        shelf = self._shelves[key]
        own = f"tags.`{layout.KIND}` = '{kind}' and tags.`{layout.STATUS}` = '{layout.READY}'"
        recent = f"{own} and attributes.end_time > {shelf.watermark_ms(_now_ms())}"
        changed = False
        for run in self._search(experiment_id, recent):
            if not shelf.is_current(run.info.run_id, run.info.end_time):
                content = self._content(run, kind)
                shelf.entries[run.info.run_id] = Entry(run.info.end_time, content)
                changed = True
        for run in self._search(experiment_id, own, view=ViewType.DELETED_ONLY):
            changed |= shelf.entries.pop(run.info.run_id, None) is not None
        if changed:
            self._cache.save(place, kind, shelf)
        return shelf

    def _content(self, run: "Run", kind: str) -> Any:
        """What the cache keeps of a run."""
        if kind == "cells":
            return [layout.stored_cell_plain(stored) for stored in layout.cells_of(run.data.tags)]
        items = RunItems(
            name=run.info.run_name,
            tags=run.data.tags,
            artifacts={
                name: self._read_artifact(run, name)
                for name in (layout.RECORD_FILE, layout.FINGERPRINT_FILE)
            },
            run_id=run.info.run_id,
            created_ms=run.info.start_time,
        )
        try:
            return layout.adapter_plain(items) if kind == "adapter" else layout.task_plain(items)
        except (KeyError, ValueError, TypeError) as error:
            raise RegistryError(
                f"The entry {run.info.run_name!r} (run {run.info.run_id}) in {self.tracking_uri} "
                f"is "
                f"damaged ({error}); delete that run in MLflow and register again."
            ) from error

    def _read_artifact(self, run: "Run", name: str) -> str:
        location = urlparse(run.info.artifact_uri)
        if location.scheme in ("", "file"):
            try:
                return (Path(unquote(location.path)) / name).read_text(encoding="utf-8")
            except OSError as error:
                raise RegistryError(
                    f"The entry {run.info.run_name!r} lost its file {name} ({error}); was the "
                    "registry's folder moved? Delete that run in MLflow and register again."
                ) from error
        with tempfile.TemporaryDirectory(prefix="adapt-read-") as scratch:
            path = self._client.download_artifacts(run.info.run_id, name, scratch)
            return Path(path).read_text(encoding="utf-8")

    def _download(self, source: str, dest: Path) -> Path:
        client = self._client
        from mlflow.artifacts import download_artifacts

        if match := re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@([^/]+))", source):
            # Resolved with our own client: MLflow would ask its global store.
            name, number, alias = match.groups()
            version = (
                client.get_model_version_by_alias(name, alias)
                if alias
                else client.get_model_version(name, number)
            )
            source = client.get_model_version_download_uri(name, version.version)
        if match := re.fullmatch(r"models:/(m-[0-9a-f]+)", source):
            source = client.get_logged_model(match[1]).artifact_location
        path = download_artifacts(
            artifact_uri=source,
            dst_path=str(dest),
            tracking_uri=self.tracking_uri,
            registry_uri=self.tracking_uri,
        )
        return Path(path)

    def _search(
        self, experiment_id: str, filter_string: str, *, view: int | None = None
    ) -> Iterator["Run"]:
        from mlflow.entities import ViewType

        token = None
        while True:
            page = self._client.search_runs(
                [experiment_id],
                filter_string,
                run_view_type=ViewType.ACTIVE_ONLY if view is None else view,
                max_results=_PAGE,
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return


_EXPERIMENT_NOTES = {
    _ADAPTERS: (
        "One run per LoRA adapter. **Runs**: fingerprints of training data, weights and behaviour "
        "(saved view *Adapters and fingerprints*). **Models**: the transfer matrix, one column per "
        "task, with the bare base model and the majority label as rows."
    ),
    _EVALUATIONS: (
        "One run per adapter and evaluation job (its cells), and one per task (its fingerprint). "
        "The matrix itself is the Models tab of the experiment with the adapters."
    ),
}


def _model_of(adapter: AdapterRecord | MatrixRow, shelving: _Shelving) -> tuple[MatrixRow, str]:
    """The row of a model as it is, and its logged model."""
    if isinstance(adapter, AdapterRecord):
        return adapter.row, adapter.model_id
    if adapter == BASE_ROW:
        return BASE_ROW.of("base model"), shelving.base_model_id
    if adapter == MAJORITY_ROW:
        return MAJORITY_ROW, shelving.majority_model_id
    raise RegistryError(f"{adapter.label!r} is neither a registered adapter nor {BASE_ID!r}.")


def _no_such_adapter(reference: str, records: Sequence[AdapterRecord]) -> str:
    import difflib

    names = sorted({record.name for record in records})
    if not names:
        return f"No adapter {reference!r}: nothing is registered yet. Use `adapt register`."
    near = difflib.get_close_matches(reference, names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(names[:8])}."
    return f"No adapter {reference!r} in the registry; {hint}"


def _legal_or_empty(name: str) -> str:
    try:
        return layout.registered_name(name)
    except ConfigError:
        return ""


def _gone() -> type[Exception]:
    from mlflow.exceptions import MlflowException

    return MlflowException


def _copy_allowed(folder: Path, dest: Path) -> None:
    dest.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        if path.is_file() and is_allowed_file(path.name):
            shutil.copyfile(path, dest / path.name)


def _peft_folder(folder: Path) -> Path:
    """The folder itself, or the only one below it that holds an adapter."""
    found = sorted(path.parent for path in folder.rglob("adapter_config.json"))
    if folder in found or len(found) != 1:
        return folder
    return found[0]


def _holds(folder: Path, record: AdapterRecord) -> bool:
    try:
        return read_adapter(folder, base_model=record.base.name).adapter_id == record.adapter_id
    except AdapterError:
        return False


def _quoted(name: str) -> str:
    """A name inside a search filter."""
    return f'"{name}"' if "'" in name else f"'{name}'"


def _now_ms() -> int:
    return int(time.time() * 1000)
