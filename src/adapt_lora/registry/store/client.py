"""One MLflow store: opened on first use, locked while it is written, searched page by page."""

import contextlib
import functools
import json
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from adapt_lora.errors import (
    AdaptError,
    NotFoundError,
    RegistryError,
    refusal_of,
    without_credentials,
)
from adapt_lora.registry.layout import DatasetItem
from adapt_lora.registry.store.addresses import read_address
from adapt_lora.registry.store.refusals import is_refusal, refusal
from adapt_lora.registry.store.relocation import follow_move, local_folder
from adapt_lora.registry.store.tracking import (
    check_database,
    check_server,
    check_sqlite,
    default_folder,
    prepare_sqlite,
    quieten_mlflow,
    read_only_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run
    from mlflow.entities.model_registry import ModelVersion

ABSENT = "RESOURCE_DOES_NOT_EXIST"
"""MLflow's word for what is not there."""
TAKEN = "RESOURCE_ALREADY_EXISTS"
"""MLflow's word for a name that something has already."""
UNFIT = "INVALID_PARAMETER_VALUE"
"""MLflow's word for what can't be a name, and for an alias that a name does not have."""

_LOCK_TIMEOUT_S = 120
_PAGE = 10_000


class _HasStore(Protocol):
    tracking_uri: str


_P = ParamSpec("_P")
_S = TypeVar("_S", bound=_HasStore)
_T = TypeVar("_T")


def in_words(method: Callable[Concatenate[_S, _P], _T]) -> Callable[Concatenate[_S, _P], _T]:
    """Turn what MLflow and its database raise into one sentence."""

    @wraps(method)
    def wrapped(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return method(self, *args, **kwargs)
        except AdaptError:
            raise
        except Exception as error:
            if not is_refusal(error):
                raise
            where = without_credentials(self.tracking_uri)
            raise refusal(error, where, asked=method.__name__) from error

    return wrapped


@contextlib.contextmanager
def expecting(*codes: str, instead: AdaptError | None = None) -> Iterator[None]:
    """Take MLflow's refusal with one of these codes for an answer; any other one is an error.

    Args:
        codes: MLflow's names of errors, such as ABSENT.
        instead: Raised in place of such a refusal; None lets it pass in silence.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in codes:
            raise
        if instead is not None:
            raise instead from error


class Client:
    """MLflow's client for one store, and what it lacks.

    Args:
        given: A tracking URI or a folder; nothing is opened before the first use of `mlflow`.
        warn: Told what is odd about the store; None for Python's own warnings.
    """

    def __init__(self, given: str | Path, warn: Callable[[str], None] | None = None) -> None:
        self.address = read_address(given)
        """Where everything is kept, as MLflow is told it."""
        self.uri = self.address.shown
        """The same for messages, without credentials."""
        self.warn: Callable[[str], None] = warn or functools.partial(warnings.warn, stacklevel=2)
        """Takes a sentence about what is odd."""
        self.is_server: bool = self.address.is_server
        """Whether a server keeps it, which may be on another machine."""
        self.sqlite: Path | None = self.address.database
        """The database file; None for every other kind of store."""

    @functools.cached_property
    def mlflow(self) -> "MlflowClient":
        """The client itself, for what needs no help.

        Raises:
            RegistryError: The store can't be reached or made.
        """
        quieten_mlflow()
        if self.is_server:
            check_server(self.address)
        elif self.sqlite is None and "sql" in self.uri.partition("://")[0]:
            check_database(self.address)
        from mlflow import MlflowClient

        if self.sqlite is None:
            return MlflowClient(self._mlflow_uri, registry_uri=self._mlflow_uri)
        if self.is_read_only:
            return self._open_sqlite()
        try:
            self.sqlite.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RegistryError(
                f"{self.sqlite.parent}: can't make the registry's folder ({error.strerror}). "
                "Set MLFLOW_TRACKING_URI to a place that can be written."
            ) from error
        # Two processes that create one SQLite store at once leave it broken for good.
        with self.writing():
            if self.sqlite.exists():
                check_sqlite(self.sqlite)
            else:
                prepare_sqlite(self.sqlite)
            came_from = follow_move(self.sqlite)
            if came_from is not None:
                self.warn(
                    f"The registry in {self.sqlite.parent} was in {came_from} before; its files "
                    "are read and written here from now on."
                )
            return self._open_sqlite()

    @functools.cached_property
    def is_read_only(self) -> bool:
        """Whether this is a SQLite store that this user can't write where it lies."""
        return (
            self.sqlite is not None
            and self.sqlite.exists()
            and not all(os.access(place, os.W_OK) for place in (self.sqlite, self.sqlite.parent))
        )

    def need_writable(self) -> None:
        """Nothing where this user may write the store.

        Raises:
            RegistryError: It lies where it can only be read.
        """
        if self.is_read_only:
            raise RegistryError(
                f"{self.uri} can only be read here. Copy it to a place that can be written, or set "
                "MLFLOW_TRACKING_URI to another store."
            )

    @functools.cached_property
    def _mlflow_uri(self) -> str:
        if self.sqlite is not None and self.is_read_only:
            return read_only_uri(self.sqlite)
        # MLflow would make a folder called like the escaped path.
        escapes = self.sqlite is not None and "%" in self.address.uri
        return self.address.uri.replace("sqlite:", "sqlite+pysqlite:", int(escapes))

    def _open_sqlite(self) -> "MlflowClient":
        from mlflow import MlflowClient

        client = MlflowClient(self._mlflow_uri, registry_uri=self._mlflow_uri)
        client.search_experiments(max_results=1)
        return client

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock of this store on this machine; may be held by one writer twice."""
        from filelock import Timeout

        self.need_writable()
        try:
            self._lock.acquire()
        except Timeout as error:
            raise RegistryError(
                f"Another process has held the registry's lock ({error.lock_file}) for "
                f"{_LOCK_TIMEOUT_S} s. Wait until it ends, or end it."
            ) from error
        except OSError as error:
            raise RegistryError(refusal_of(error)) from error
        try:
            yield
        finally:
            self._lock.release()

    @functools.cached_property
    def _lock(self) -> Any:
        # Opening a store happens inside a write too: only one and the same lock can be held twice.
        from filelock import FileLock

        if self.sqlite is not None:
            path = Path(f"{self.sqlite}.lock")
        else:
            name = re.sub(r"\W+", "-", self.uri)[:100]
            path = default_folder() / "locks" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path, timeout=_LOCK_TIMEOUT_S)

    # --- reading
    # -------------------------------------------------------------------------------------------

    def search(
        self, experiment_id: str, filter_string: str, *, deleted: bool = False
    ) -> Iterator["Run"]:
        """All runs of an experiment that fit, those that were deleted instead where asked for."""
        from mlflow.entities import ViewType

        view, token = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY, None
        while True:
            page = self.mlflow.search_runs(
                [experiment_id],
                filter_string,
                run_view_type=view,
                max_results=_PAGE,
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def versions(self, name: str | None = None) -> list["ModelVersion"]:
        """Every registered version of a name, or of all."""
        # A name inside a search filter.
        wanted = None
        if name is not None:
            wanted = f'name = "{name}"' if "'" in name else f"name = '{name}'"
        found, token = [], None
        while True:
            page = self.mlflow.search_model_versions(wanted, max_results=_PAGE, page_token=token)
            found += list(page)
            token = page.token
            if not token:
                return found

    def read_artifact(self, run: "Run", name: str) -> bytes | None:
        """A file of a run; None where there is none of this name."""
        folder = local_folder(run.info.artifact_uri)
        if folder is not None:
            path = folder / name
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None
            except OSError as error:
                raise RegistryError(f"{path} can't be read ({error.strerror or error}).") from error
        content = None
        with tempfile.TemporaryDirectory(prefix="adapt-read-") as scratch, expecting(ABSENT):
            content = self.download(f"runs:/{run.info.run_id}/{name}", Path(scratch)).read_bytes()
        return content

    def read_text(self, run: "Run", name: str) -> str:
        """A text that an entry can't be without."""
        content = self.read_artifact(run, name)
        if content is None:
            raise NotFoundError(f"its file {name} is not in {run.info.artifact_uri}")
        return content.decode()

    def download(self, source: str, dest: Path) -> Path:
        """Copy what a models:/ or runs:/ source leads to into a folder."""
        client = self.mlflow
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

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
        try:
            path = download_artifacts(
                artifact_uri=source,
                dst_path=str(dest),
                tracking_uri=self._mlflow_uri,
                registry_uri=self._mlflow_uri,
            )
        except MlflowException as error:
            # MLflow says "does not exist" of a run's file that it could not transfer, too; the
            # listing knows better.
            if (match := re.fullmatch(r"runs:/([^/]+)/(.+?)/*", source)) and self._lists(
                *match.groups()
            ):
                raise RegistryError(
                    f"{source} is in {self.uri}, but can't be copied from there now; try again."
                ) from error
            raise
        return Path(path)

    def _lists(self, run_id: str, path: str) -> bool:
        folder = path.rpartition("/")[0] or None
        return any(item.path == path for item in self.mlflow.list_artifacts(run_id, folder))

    # --- writing
    # -------------------------------------------------------------------------------------------

    def log(
        self,
        run_id: str,
        *,
        metrics: Mapping[str, float] | None = None,
        points: Sequence["Metric"] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        model_id: str | None = None,
    ) -> None:
        """Add to a run in one batch.

        Args:
            run_id: The run.
            metrics: As of now, for the run and where one is given for the logged model.
            points: More metrics, with steps and models of their own.
            params: Strings that can never be changed.
            tags: Strings that replace what was there.
            model_id: The logged model that `metrics` are about.
        """
        from mlflow.entities import Metric, Param, RunTag

        now = now_ms()
        self.mlflow.log_batch(
            run_id,
            metrics=[
                *(Metric(k, v, now, 0, model_id=model_id) for k, v in (metrics or {}).items()),
                *points,
            ],
            params=[Param(key, value) for key, value in (params or {}).items()],
            tags=[RunTag(key, value) for key, value in (tags or {}).items()],
        )

    def log_datasets(
        self, run_id: str, items: Sequence[DatasetItem], *, model_id: str | None = None
    ) -> None:
        """Say which data a run is about, and which logged model went into it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput

        datasets = [
            Dataset(i.name, i.digest, "local", json.dumps({"uri": i.source}), profile=i.profile)
            for i in items
        ]
        self.mlflow.log_inputs(
            run_id,
            datasets=[
                DatasetInput(dataset, [InputTag("mlflow.data.context", item.context)])
                for dataset, item in zip(datasets, items, strict=True)
            ],
            models=[LoggedModelInput(model_id)] if model_id else None,
        )

    def log_files(self, run_id: str, files: Mapping[str, str | bytes | Path]) -> None:
        """Put texts, bytes and copies of files among a run's artifacts, by their paths there."""
        if not files:
            return
        with tempfile.TemporaryDirectory(prefix="adapt-log-") as scratch:
            for name, content in files.items():
                path = Path(scratch) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, Path):
                    shutil.copyfile(content, path)
                else:
                    path.write_bytes(content.encode() if isinstance(content, str) else content)
            self.mlflow.log_artifacts(run_id, scratch)

    def log_plots(self, run_id: str, plots: Mapping[str, Path]) -> None:
        """Put pictures, by file name, where MLflow's page of a run shows them."""
        self.log_files(run_id, {f"plots/{name}": path for name, path in plots.items()})

    def touch(self, run_id: str) -> None:
        """Set the end time anew: it is the only time of a run that a sync can ask for."""
        self.mlflow.set_terminated(run_id)


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)
