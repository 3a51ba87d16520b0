"""Measured cells with what they rest on: written to a run per row and job, read as a matrix."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapt_lora.errors import NotFoundError, RegistryError
from adapt_lora.registry import layout
from adapt_lora.registry.layout import StoredCell
from adapt_lora.registry.records import (
    BASE_ID,
    BASE_ROW,
    MAJORITY_ROW,
    AdapterRecord,
    Cell,
    MatrixRow,
    Prediction,
    TaskRecord,
    TransferMatrix,
)
from adapt_lora.registry.store.client import Client, in_words, now_ms
from adapt_lora.registry.store.entries import Entries
from adapt_lora.registry.store.homes import Home
from adapt_lora.registry.store.sync import Sync

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric


@dataclass(frozen=True, slots=True)
class MatrixAddition:
    """What `add_matrix` wrote."""

    n_adapters: int
    """Adapters that were new."""
    n_cells: int
    """Cells that were new, the base's among them."""
    skipped: tuple[str, ...] = ()
    """Adapters that could not be written, and why, a sentence each."""


class Cells:
    """Writes cells as one evaluation job, and finds what earlier ones rest on."""

    def __init__(self, client: Client, entries: Entries, sync: Sync) -> None:
        self._client = client
        self._entries = entries
        self._sync = sync
        self._job = uuid.uuid4().hex
        self._runs: dict[tuple[str, MatrixRow], str] = {}
        self._steps: dict[str, int] = {}
        self._few_shot_models: dict[tuple[str, MatrixRow], str] = {}

    def add(
        self,
        home: Home,
        adapter: AdapterRecord | MatrixRow,
        cells: Sequence[tuple[TaskRecord, Cell]],
        predictions: Sequence[Prediction] = (),
    ) -> None:
        """Write cells of one row as metrics and tags of its job's run, in one batch."""
        row, model_id = _model_of(adapter, home)
        if cells[0][1].row.model == row.model:
            row = cells[0][1].row.of(row.name)
        if row.shots:
            model_id = self._few_shot_model(home, row)
        if any(cell.row != row or cell.task != task.name for task, cell in cells):
            tasks = ", ".join(dict.fromkeys(task.name for task, _ in cells))
            raise RegistryError(f"These cells are not all of {row.label} on {tasks}.")
        run_id, params = self._run(home, row)
        now = now_ms()
        if predictions:
            # Before the cell: what is listed as measured has its predictions.
            (task, cell), *_ = cells
            name = layout.predictions_file(cell, task.dataset.digest)
            self._client.log_files(run_id, {name: layout.predictions_parquet(predictions)})
        items = [layout.task_dataset_item(task, cell.column) for task, cell in cells]
        self._client.log_datasets(run_id, list(dict.fromkeys(items)), model_id=model_id)
        tags: dict[str, str] = {}
        points: list[Metric] = []
        for (task, cell), item in zip(cells, items, strict=True):
            points += self._points(cell, run_id=run_id, model_id=model_id, item=item, now=now)
            tags |= layout.cell_tags(StoredCell(cell, task.dataset.digest, now))
        self._client.log(run_id, points=points, params=params, tags=tags)
        self._client.touch(run_id)

    def add_matrix(
        self,
        home: Home,
        matrix: TransferMatrix,
        folders: Mapping[str, Path],
        progress: Callable[[int, int], None] | None,
    ) -> MatrixAddition:
        """Write adapters, tasks and cells at once; what is there is left out."""
        tasks = {task.name: task for task in matrix.tasks}
        of_base = {c.task: c.score for c in matrix.cells if c.row == BASE_ROW}
        measured = self.measured(home)
        rows: dict[MatrixRow, list[Cell]] = {}
        fresh: dict[MatrixRow, list[tuple[TaskRecord, Cell]]] = {}
        for cell in matrix.cells:
            rows.setdefault(cell.row, []).append(cell)
            if (cell.row, cell.task, cell.protocol) not in measured:
                fresh.setdefault(cell.row, []).append((tasks[cell.task], cell))
        n_adapters, n_cells, skipped = 0, 0, []
        # One lock for all: nobody else can be half-way through a registration meanwhile.
        with self._client.writing():
            self._entries.ensure_tasks(home, matrix.tasks)
            known = {record.adapter_id: record for record in self._sync.adapters(home)}
            self._entries.sweep_unready(home, known)
            for done, record in enumerate(matrix.adapters, start=1):
                if record.adapter_id not in known:
                    scores = {cell.task: cell.score for cell in rows.get(record.row, ())}
                    try:
                        known[record.adapter_id] = self._entries.write_adapter(
                            home,
                            record,
                            folders.get(record.adapter_id),
                            layout.summary_metrics(scores, of_base),
                        )
                    except ValueError as error:  # its name, its files, or what its record holds
                        skipped.append(f"{record.name} is left out: {str(error).rstrip('.')}.")
                        fresh = {
                            row: x for row, x in fresh.items() if row.model != record.row.model
                        }
                        continue
                    n_adapters += 1
                if record.row in fresh:
                    cells = fresh.pop(record.row)
                    self.add(home, known[record.adapter_id], cells)
                    n_cells += len(cells)
                if progress is not None:
                    progress(done, len(matrix.adapters))
            for row, cells in fresh.items():  # the bare base, the majority label, few-shot rows
                self.add(home, known.get(row.model, MatrixRow(row.model)), cells)
                n_cells += len(cells)
        return MatrixAddition(n_adapters, n_cells, tuple(skipped))

    def add_plots(self, home: Home, row: MatrixRow, plots: Mapping[str, Path]) -> None:
        """Put pictures beside the cells that this job wrote for a row."""
        run_id = self._runs.get((home.evaluations_id, row))
        if run_id is not None:
            self._client.log_plots(run_id, plots)

    def stored(self, home: Home) -> list[StoredCell]:
        """Every measurement."""
        return [stored for kept in self._sync.cells(home).values() for stored in kept]

    def measured(self, home: Home) -> frozenset[tuple[MatrixRow, str, str]]:
        """(row, task, protocol) of every cell there is."""
        cells = [stored.cell for stored in self.stored(home)]
        return frozenset((cell.row, cell.task, cell.protocol) for cell in cells)

    def predictions(
        self, home: Home, row: MatrixRow, task: str, *, protocol: str | None
    ) -> tuple[Prediction, ...]:
        """Row by row what the latest such cell rests on; empty where none were kept."""
        found = [
            (stored, run_id)
            for run_id, kept in self._sync.cells(home).items()
            for stored in kept
            if (stored.cell.row, stored.cell.task) == (row, task)
            and protocol in (None, stored.cell.protocol)
        ]
        if not found:
            raise NotFoundError(
                f"No cell of {row.id[:12]} on {task} is measured in {self._client.uri}; "
                "`adapt matrix` shows which are."
            )
        return _read_predictions(self._client, *max(found, key=lambda pair: pair[0].measured_ms))

    def recall(self, home: Home) -> "Recall":
        """What finds the answers that the cells of today rest on."""
        of_row: dict[MatrixRow, list[tuple[StoredCell, str]]] = {}
        for run_id, kept in self._sync.cells(home).items():
            for stored in kept:
                of_row.setdefault(stored.cell.row, []).append((stored, run_id))
        return Recall(self._client, of_row)

    def remove_of(self, home: Home, adapter_id: str) -> None:
        """Delete the cells of an adapter, those of its few-shot rows included."""
        # An adapter's few-shot rows are called after it.
        own = f"tags.`{layout.ADAPTER_ID}` LIKE '{adapter_id}%'"
        for run in self._client.search(home.evaluations_id, own):
            self._client.mlflow.delete_run(run.info.run_id)
        for kept in (self._runs, self._few_shot_models):
            for key in [key for key in kept if key[1].model == adapter_id]:
                del kept[key]

    def _run(self, home: Home, row: MatrixRow) -> tuple[str, Mapping[str, str]]:
        """The run that this job's cells of a row go to, and its params where it is new."""
        key = (home.evaluations_id, row)
        if key in self._runs:
            return self._runs[key], {}
        items = layout.cell_items(row, home.base)
        tags = {**items.tags, "adapt.job": self._job, layout.STATUS: layout.READY}
        run = self._client.mlflow.create_run(home.evaluations_id, run_name=items.name, tags=tags)
        self._runs[key] = run.info.run_id
        return run.info.run_id, items.params

    def _points(
        self, cell: Cell, *, run_id: str, model_id: str, item: layout.DatasetItem, now: int
    ) -> list["Metric"]:
        from mlflow.entities import Metric

        # A model's metrics are told apart by key, time and step only, not by dataset.
        step = self._steps[run_id] = self._steps.get(run_id, -1) + 1
        of_run = [Metric(key, value, now, step) for key, value in layout.cell_metrics(cell).items()]
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
        return [*of_run, of_model]

    def _few_shot_model(self, home: Home, row: MatrixRow) -> str:
        """The logged model that stands for a few-shot row in the Models tab, made if need be."""
        key = (home.adapters_id, row)
        if key not in self._few_shot_models:
            client = self._client.mlflow
            own = f"tags.`{layout.FEW_SHOT}` = '{row.id}'"
            found = client.search_logged_models([home.adapters_id], filter_string=own)
            model: LoggedModel
            if found:
                model = found[0]
            else:
                model = client.create_logged_model(
                    home.adapters_id,
                    name=layout.logged_model_name(row.label),
                    tags={layout.FEW_SHOT: row.id, layout.SHOWN_TO: row.model},
                    model_type="few-shot",
                )
                client.finalize_logged_model(model.model_id, "READY")
            self._few_shot_models[key] = str(model.model_id)
        return self._few_shot_models[key]


class Recall:
    """Finds what a row of the matrix answered before, by digest of the task's row."""

    def __init__(
        self, client: Client, of_row: Mapping[MatrixRow, Sequence[tuple[StoredCell, str]]]
    ) -> None:
        self.tracking_uri = client.uri
        self._client, self._of_row = client, of_row

    @in_words
    def find(self, row: MatrixRow, protocol_on: Callable[[str], str]) -> dict[str, Prediction]:
        """What it answered under one protocol, on whichever rows; of several answers the latest.

        Two cells under one protocol differ in nothing but their rows, so what one of them holds of
        a row need not be run for the other.

        Args:
            row: Whose answers.
            protocol_on: From the digest of a set of rows to the digest of the protocol on them.
        """
        alike = [
            (stored, run_id)
            for stored, run_id in self._of_row.get(row, ())
            if stored.cell.protocol == protocol_on(stored.dataset_digest)
        ]
        known: dict[str, Prediction] = {}
        for stored, run_id in sorted(alike, key=lambda pair: pair[0].measured_ms):
            known |= {one.row: one for one in _read_predictions(self._client, stored, run_id)}
        return known


def _read_predictions(client: Client, stored: StoredCell, run_id: str) -> tuple[Prediction, ...]:
    """What a cell rests on; those that others published, or older versions wrote, lack it."""
    name = layout.predictions_file(stored.cell, stored.dataset_digest)
    content = client.read_artifact(client.mlflow.get_run(run_id), name)
    return () if content is None else layout.read_predictions(content)


def _model_of(adapter: AdapterRecord | MatrixRow, home: Home) -> tuple[MatrixRow, str]:
    """The row of a model as it is, and its logged model."""
    if isinstance(adapter, AdapterRecord):
        return adapter.row, adapter.model_id
    if adapter == BASE_ROW:
        return BASE_ROW.of("base model"), home.base_model_id
    if adapter == MAJORITY_ROW:
        return MAJORITY_ROW, home.majority_model_id
    raise RegistryError(f"{adapter.label!r} is neither a registered adapter nor {BASE_ID!r}.")
