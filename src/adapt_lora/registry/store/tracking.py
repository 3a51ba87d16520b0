"""Where the tracking store is, and what must be done before MLflow opens it."""

import contextlib
import errno
import functools
import os
import re
from pathlib import Path
from urllib.parse import quote

from adapt_lora.errors import RegistryError, refusal_of
from adapt_lora.registry.store.addresses import Address
from adapt_lora.registry.store.refusals import not_mlflow, refusal

_PREFLIGHT_TIMEOUT_S = 3
_CONNECT_TIMEOUT_S = 5
_OLDEST_RELEASE = 3


def default_folder() -> Path:
    """Where the registry lies when nobody chose a place (ADAPT_DATA_DIR moves it)."""
    from platformdirs import user_data_dir

    return Path(os.environ.get("ADAPT_DATA_DIR") or user_data_dir("adapt-lora")) / "registry"


def prepare_sqlite(path: Path) -> None:
    """Make an empty SQLite file that keeps a write-ahead log.

    MLflow commits some fifteen times per adapter; with the log a commit waits for the disk once,
    not four times (measured: 4 against 16 ms), and readers are not held up by a writer.
    """
    import sqlite3

    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def quieten_mlflow() -> None:
    """Keep MLflow off stdout (it would break --json), off the network, and from hanging."""
    import logging

    defaults = {
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # What goes wrong is raised as well; MLflow would log it with its trace before that.
        "MLFLOW_LOGGING_LEVEL": "CRITICAL",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.CRITICAL)
    # It tells each try, and the last one's error tells the same.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def check_server(address: Address) -> None:
    """Ask a server for a sign of life, as MLflow would ask it; MLflow would try for four minutes.

    Raises:
        RegistryError: No answer in time, or none of an MLflow server's.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    credentials = get_default_host_creds(address.uri)
    try:
        ask = functools.partial(http_request, credentials, max_retries=0, raise_on_status=False)
        health = ask("/health", "GET", timeout=_PREFLIGHT_TIMEOUT_S)
        if health.status_code == 200 and health.text.strip() == "OK":
            version = ask("/version", "GET", timeout=_PREFLIGHT_TIMEOUT_S)
            found = re.fullmatch(r"(\d+)\.\d+[\w.+-]*", version.text.strip())
            if version.status_code == 200 and found:
                if int(found[1]) < _OLDEST_RELEASE:
                    raise RegistryError(
                        f"{address.shown} runs MLflow {found[0]}, which can't keep an adapter's "
                        f"files and figures together. Upgrade it to MLflow {_OLDEST_RELEASE}."
                    )
                return
        # It is alive. Servers that are only like MLflow's have no such pages; their API decides:
        # every store has the experiment that it was made with, be it deleted.
        place = "/api/2.0/mlflow/experiments/search"
        answer = ask(place, "POST", json={"max_results": 1, "view_type": "ALL"})
        verify_rest_response(answer, place)
    except MlflowException as error:
        raise refusal(error, address.shown, asked="check the server") from error
    try:
        known = answer.json()["experiments"][0]["experiment_id"]
    except (ValueError, KeyError, IndexError, TypeError):
        known = None
    if not isinstance(known, str):
        raise RegistryError(not_mlflow(address.shown, "it sent something else"))


def check_database(address: Address) -> None:
    """Connect to a database server once; MLflow would try for two minutes, and say each try.

    Raises:
        RegistryError: Its driver is missing, or it can't be reached.
    """
    import sqlalchemy

    options: dict[str, object] = {}
    if address.uri.startswith(("postgresql", "mysql")):
        options["connect_timeout"] = _CONNECT_TIMEOUT_S
    try:
        engine = sqlalchemy.create_engine(
            address.uri, connect_args=options, poolclass=sqlalchemy.NullPool
        )
        with engine.connect():
            pass
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError) as error:
        raise refusal(error, address.shown, asked="connect") from error


def check_sqlite(path: Path) -> None:
    """Look into a SQLite file before MLflow does, which would write its tables into any other one.

    Raises:
        RegistryError: It is none, or holds something else than a tracking store.
    """
    import sqlite3

    if not os.access(path, os.R_OK):
        denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        raise RegistryError(refusal_of(denied))
    # SQLite alone may open it: a process that closes a file by other means loses every lock that it
    # has on it, and so its log to whoever closes the store next.
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_CONNECT_TIMEOUT_S)) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = {str(name) for (name,) in rows if not name.startswith("sqlite_")}
    except sqlite3.Error as error:
        if "file is not a database" in str(error):
            raise RegistryError(
                f"{path} is no SQLite database, or is encrypted. Name "
                "another file, or put its backup in its place."
            ) from error
        raise refusal(error, f"sqlite:///{path}", asked="look into it") from error
    if tables and not tables & {"experiments", "alembic_version"}:
        raise RegistryError(
            f"{path} is a database of something else (its tables: {', '.join(sorted(tables)[:5])}),"
            " not an MLflow store. Name another file; one that is not there yet is made."
        )


def read_only_uri(path: Path) -> str:
    """How MLflow opens a SQLite store that lies where nothing can be written.

    Raises:
        RegistryError: It was not closed by whoever writes it, so that it can't be read alone.
    """
    import sqlite3

    from sqlalchemy import URL

    # The log of a store that is in use must be beside it, and can't be made here.
    query = {"mode": "ro", "uri": "true"}
    place = f"file:{quote(str(path))}"
    try:
        with contextlib.closing(sqlite3.connect(f"{place}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT name FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise RegistryError(
                f"{path} can only be read here, and whoever writes it has not closed it "
                f"({log.name} is there). Use it once where it can be written, or copy both files."
            ) from error
        query["immutable"] = "1"
    url = URL.create("sqlite+pysqlite", database=place, query=query)
    return url.render_as_string(hide_password=False)
