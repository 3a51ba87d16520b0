"""Where the records of each base model are: two experiments, with two rows in the Models tab."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from adapt_lora.errors import NotFoundError, RegistryError
from adapt_lora.model.base import BaseIdentity
from adapt_lora.registry import layout
from adapt_lora.registry.identity import compare_bases, find_base
from adapt_lora.registry.records import BASE_ID, MAJORITY_ID
from adapt_lora.registry.store.client import TAKEN, Client, expecting, now_ms
from adapt_lora.registry.store.relocation import ARTIFACTS

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run

_ADAPTERS, _EVALUATIONS = "adapters", "evaluations"

_VIEW = "adapt"
"""Key of the saved view in links."""

_NOTES = {
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


@dataclass(frozen=True, slots=True)
class Home:
    """Where the records of one base model are."""

    base: BaseIdentity
    """The base model as the registry knows it."""
    adapters_id: str
    """Experiment with a run per adapter."""
    adapters_born_ms: int
    """When it was made: experiments of a new database have the numbers of a deleted one's."""
    evaluations_id: str
    """Experiment with runs of tasks, cells and recommendations."""
    evaluations_born_ms: int
    """When it was made."""
    base_model_id: str
    """Logged model of the bare base."""
    majority_model_id: str
    """Logged model of the constant guess."""


class Homes:
    """Finds the experiments of base models, and makes them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, Home] = {}
        self._reached: set[str] = set()
        self._odd: set[str] = set()

    def bases(self) -> list[BaseIdentity]:
        """Every base model that has a home, by name."""
        found = self._client.mlflow.search_experiments(
            filter_string=f"tags.`{layout.KIND}` = '{_ADAPTERS}'", max_results=1000
        )
        bases = []
        for experiment in found:
            try:
                bases.append(layout.base_from_tags(experiment.tags))
            except KeyError as error:
                if experiment.name not in self._odd:
                    self._odd.add(experiment.name)
                    self._client.warn(
                        f"The experiment {experiment.name} lost its tag {error} and is left out; "
                        "put the tag back in MLflow."
                    )
        return sorted(bases, key=lambda base: base.name)

    def find(self, base: BaseIdentity) -> Home | None:
        """The home of a base model; None if it has none yet.

        Raises:
            BaseModelMismatch: The registry knows another model by this name.
        """
        known = self._known.get(base.name)
        if known is None:
            registered = find_base(self.bases(), base)
            if registered is None:
                return None
            known = self._known[base.name] = self._open(registered)
        compare_bases(known.base, base)
        return known

    def need(self, base: BaseIdentity) -> Home:
        """The home of a base model that must have one."""
        home = self.find(base)
        if home is None:
            raise NotFoundError(f"Nothing is registered under {base.name} in {self._client.uri}.")
        return home

    def ensure(self, base: BaseIdentity) -> Home:
        """The home of a base model to write to; made if need be, its digests learned if unknown.

        Raises:
            RegistryError: It, or the folder of its files, can't be written from here.
        """
        self._client.need_writable()
        home = self.find(base)
        if home is not None and not home.base.architecture and base.architecture:
            known = replace(base, name=home.base.name)
            for experiment_id in (home.adapters_id, home.evaluations_id):
                for key, value in layout.base_tags(known).items():
                    self._client.mlflow.set_experiment_tag(experiment_id, key, value)
            home = self._known[base.name] = replace(home, base=known)
        if home is None:
            with self._client.writing():
                home = self._known[base.name] = self._open(base)
        if self._client.is_server and home.adapters_id not in self._reached:
            for experiment_id in (home.adapters_id, home.evaluations_id):
                self._check_files(self._client.mlflow.get_experiment(experiment_id))
            self._reached.add(home.adapters_id)
        return home

    def base_run(self, home: Home) -> "Run":
        """The run that is about the bare base."""
        model = self._client.mlflow.get_logged_model(home.base_model_id)
        return self._client.mlflow.get_run(str(model.source_run_id))

    def ensure_view(self, home: Home) -> None:
        """Put the saved view with the columns that matter into the adapters' experiment."""
        key = f"mlflow.sharedViewState.{_VIEW}"
        if key not in self._client.mlflow.get_experiment(home.adapters_id).tags:
            view = layout.saved_view("Adapters and fingerprints", now_ms=now_ms())
            self._client.mlflow.set_experiment_tag(home.adapters_id, key, view)

    def link(self, home: Home, server: str) -> str:
        """Address of the page that shows a base model's adapters."""
        # Without the workflow type a fresh browser opens the page for chat agents.
        return (
            f"{server.rstrip('/')}/#/experiments/{home.adapters_id}/runs"
            f"?viewStateShareKey={_VIEW}&workflowType=machine_learning"
        )

    def _open(self, base: BaseIdentity) -> Home:
        adapters = self._experiment(base, _ADAPTERS)
        evaluations = self._experiment(base, _EVALUATIONS)
        return Home(
            base=base,
            adapters_id=adapters.experiment_id,
            adapters_born_ms=adapters.creation_time or 0,
            evaluations_id=evaluations.experiment_id,
            evaluations_born_ms=evaluations.creation_time or 0,
            base_model_id=self._row(base, adapters, BASE_ID),
            majority_model_id=self._row(base, adapters, MAJORITY_ID),
        )

    def _experiment(self, base: BaseIdentity, kind: str) -> "Experiment":
        client, name = self._client.mlflow, f"{kind}/{base.name}"
        found = client.get_experiment_by_name(name)
        if found is None:
            tags = {
                layout.KIND: kind,
                **layout.base_tags(base),
                "mlflow.experimentKind": "custom_model_development",
                layout.NOTE: _NOTES[kind],
            }
            place = None
            if self._client.sqlite is not None:
                # Beside the store; MLflow's own default is whatever the working directory was.
                folder = re.sub(r"[^\w.-]+", "-", name)
                place = (self._client.sqlite.parent / ARTIFACTS / folder).resolve().as_uri()
            # Another process may have been quicker.
            with expecting(TAKEN):
                self._check_new(client.create_experiment(name, place, tags))
            found = client.get_experiment_by_name(name)
        elif found.lifecycle_stage == "deleted":
            # A deleted experiment keeps its name, and MLflow refuses a new one of that name.
            client.restore_experiment(found.experiment_id)
            found = client.get_experiment_by_name(name)
        if found is None:
            raise RegistryError(f"The experiment {name} can't be made in {self._client.uri}.")
        return found

    def _check_new(self, experiment_id: str) -> None:
        """Undo an experiment whose files could never be written: its place stays as it was made."""
        client = self._client.mlflow
        experiment = client.get_experiment(experiment_id)
        try:
            self._check_files(experiment)
        except RegistryError:
            # A deleted experiment keeps its name, and is found by it again.
            client.rename_experiment(experiment_id, f"{experiment.name} (undone {experiment_id})")
            client.delete_experiment(experiment_id)
            raise

    def _check_files(self, experiment: "Experiment") -> None:
        """Whether this machine can write an experiment's files, where the server takes none.

        Raises:
            RegistryError: They belong into a folder that is not here, or not to be written.
        """
        location = urlparse(experiment.artifact_location)
        if not self._client.is_server or location.scheme not in ("", "file"):
            return
        folder = Path(unquote(location.path))
        there = next(place for place in (folder, folder.parent, Path("/")) if place.is_dir())
        if there == Path("/") or not os.access(there, os.W_OK):
            raise RegistryError(
                f"{self._client.uri} leaves it to its clients to write files into {folder.parent}, "
                "which is no folder of this machine that you may write. Start the server with "
                f"--artifacts-destination {folder.parent}, so that it takes them, or mount it here."
            )

    def _row(self, base: BaseIdentity, experiment: "Experiment", row: str) -> str:
        """The logged model of the bare base or the constant guess, made if need be."""
        tag = f"adapt.row.{layout.legal_key(row)}"
        if tag in experiment.tags:
            return str(experiment.tags[tag])
        client, place = self._client.mlflow, experiment.experiment_id
        name = f"base model {base.name}" if row == BASE_ID else row
        run_id = None
        if row == BASE_ID:
            run_id = client.create_run(place, run_name=name, tags={layout.KIND: "base"}).info.run_id
            client.set_terminated(run_id)
        model = client.create_logged_model(
            place,
            name=layout.logged_model_name(name),
            source_run_id=run_id,
            model_type="base-model" if row == BASE_ID else "constant-guess",
        )
        client.finalize_logged_model(model.model_id, "READY")
        client.set_experiment_tag(place, tag, model.model_id)
        return str(model.model_id)
