"""Every kind of store that can't be used gets a sentence of its own."""

import os
import sqlite3
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from mlflow.exceptions import MlflowException

from adapt_lora.errors import RegistryError
from adapt_lora.model.base import BaseIdentity
from adapt_lora.registry import Registry
from adapt_lora.registry.store.client import Client
from adapt_lora.registry.store.refusals import refusal

PAGE = b"<!DOCTYPE html>\n<html><body>Welcome</body></html>"


class _Service(BaseHTTPRequestHandler):
    """Answers everything with one status and body; its health page may be MLflow's."""

    def do_GET(self):
        self.server.logins.append(self.headers.get("Authorization"))
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_health = self.path == "/health" and self.server.is_mlflow
        status, body = (200, b"OK") if is_health else self.server.answer
        if self.path == "/version" and self.server.version:
            status, body = 200, self.server.version
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    """Starts a little server: serve(404, b"…")."""
    started = []

    def start(status, body, *, is_mlflow=False, version=b""):
        server = HTTPServer(("127.0.0.1", 0), _Service)
        server.answer, server.is_mlflow, server.logins = (status, body), is_mlflow, []
        server.version = version
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("is_mlflow", [True, False])
@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, PAGE, "not as an MLflow 3 server does"),
        # Read by MLflow's own client, each of these would be an empty store.
        (200, b'{"status": "ok", "models": []}', "not as an MLflow 3 server does"),
        (200, b"{}", "not as an MLflow 3 server does"),
        (200, b'{"experiments": {"a": 1}}', "not as an MLflow 3 server does"),
        (404, PAGE, r"not as an MLflow 3 server does \(404 Not Found\)"),
        (404, b'{"detail": "Not Found"}', "not as an MLflow 3 server does"),
        (302, b"", r"not as an MLflow 3 server does \(302"),
        (401, b"You are not authenticated.", "MLFLOW_TRACKING_USERNAME"),
        (403, b"Invalid Host header", r"does not allow this \(403: Invalid Host header\)"),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}', r"this \(403: no\)"),
        (429, b"slow down", "too many requests"),
        (503, b"", r"can't do it now \(503 Service Unavailable\)"),
    ],
)
def test_what_answers_and_is_no_help_is_said(serve, base, tmp_path, status, body, words, is_mlflow):
    server = serve(status, body, is_mlflow=is_mlflow)
    address = f"http://me:secret@127.0.0.1:{server.server_port}"
    with pytest.raises(RegistryError, match=words) as raised:
        Registry(address, cache_folder=tmp_path).adapters(base)
    assert "secret" not in str(raised.value)
    assert "html" not in str(raised.value)
    # The check logs in as MLflow does.
    assert set(server.logins) == {"Basic bWU6c2VjcmV0"}


def test_a_wrong_service_is_said_before_anything_is_written_to_it(serve, base, tmp_path):
    server = serve(200, b'{"status": "ok"}', is_mlflow=True)
    registry = Registry(f"http://127.0.0.1:{server.server_port}", cache_folder=tmp_path)
    for ask in (registry.bases, lambda: registry.ensure_base(base)):
        with pytest.raises(RegistryError, match="not as an MLflow 3 server does"):
            ask()


def test_a_server_of_an_older_release_is_said(serve, tmp_path):
    server = serve(200, b"{}", is_mlflow=True, version=b"2.22.0")
    registry = Registry(f"http://127.0.0.1:{server.server_port}", cache_folder=tmp_path)
    with pytest.raises(RegistryError, match=r"runs MLflow 2\.22\.0.* Upgrade it to MLflow 3"):
        registry.bases()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("postgresql+psycopg2://me:secret@host/db", "needs the package psycopg2.*psycopg2-binary"),
        ("mysql://me:secret@host/db", "needs the package MySQLdb.*pip install mysqlclient"),
        ("postgresql+nothing://host/db", "no address that MLflow opens"),
        ("nothing://host", "no address that MLflow opens"),
    ],
)
def test_a_driver_that_is_missing_is_said(address, words, tmp_path, monkeypatch):
    for driver in ("psycopg2", "MySQLdb"):
        monkeypatch.setitem(__import__("sys").modules, driver, None)
    with pytest.raises(RegistryError, match=words) as raised:
        Registry(address, cache_folder=tmp_path).bases()
    assert "secret" not in str(raised.value)


def test_a_database_of_something_else_is_left_alone(tmp_path):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("CREATE TABLE bookmarks(x)")
    before = (tmp_path / "mlflow.db").read_bytes()
    with pytest.raises(RegistryError, match=r"something else .*bookmarks.*not an MLflow store"):
        Registry(tmp_path).bases()
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_a_damaged_database_is_said(registry):
    content = registry.database.read_bytes()
    registry.database.write_bytes(content[: len(content) // 3])
    with pytest.raises(RegistryError, match="is damaged"):
        registry.bases()


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("fffffffffff1", "a newer MLflow than .*pip install --upgrade mlflow"),
        ("451aebb31d03", "an older MLflow than .*mlflow db upgrade"),
    ],
)
def test_a_store_of_another_release_says_which_way(registry, schema, words):
    with closing(sqlite3.connect(registry.database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [schema])
        connection.commit()
    with pytest.raises(RegistryError, match=words):
        registry.bases()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MlflowException("(sqlite3.OperationalError) database is locked"), "another process"),
        (MlflowException("attempt to write a readonly database"), "can only be read here"),
        (MlflowException("database or disk is full"), "Free some space"),
        (MlflowException("(sqlite3.OperationalError) disk I/O error"), "End what has it open"),
        (PermissionError(13, "Permission denied", "/srv/runs"), "^/srv/runs: this user may not"),
        (ModuleNotFoundError("No module named 'boto3'", name="boto3"), "pip install boto3"),
        (
            MlflowException(
                "API request failed with exception SSLError(CERTIFICATE_VERIFY_FAILED)"
            ),
            "certificate of .* is not trusted",
        ),
        (MlflowException("[SSL: WRONG_VERSION_NUMBER] wrong version number"), "Write http://"),
        (MlflowException("something new"), r"did not do what was asked \(list\): something new"),
    ],
)
def test_each_refusal_has_its_sentence(error, words):
    with pytest.raises(RegistryError, match=words):
        raise refusal(error, "https://host", asked="list")


# --- places that can only be read


@pytest.fixture
def only_read(monkeypatch):
    """Has the system say that nothing can be written; tests may run as a user who may all."""
    may = os.access
    monkeypatch.setattr("os.access", lambda place, how: how != os.W_OK and may(place, how))


def test_a_store_that_can_only_be_read_is_read(open_registry, base, only_read, tmp_path):
    folder = open_registry().database.parent
    there = {path.name for path in folder.iterdir()}
    registry = open_registry()
    assert registry.adapters(base) == []
    assert {path.name for path in folder.iterdir()} - there <= {"mlflow.db-shm", "mlflow.db-wal"}
    for change in (registry.ensure_base, registry.update_scores):
        with pytest.raises(RegistryError, match="can only be read here"):
            change(BaseIdentity("org/new", architecture="e" * 64, weights="f" * 64))


def test_files_that_the_server_leaves_to_its_clients_must_have_their_folder_here(
    registry, base, tmp_path
):
    client: Client = registry._client
    client.mlflow.search_experiments()
    client.is_server, client.sqlite = True, None
    homes = registry._homes
    created = client.mlflow.create_experiment

    def create(name, place, tags):
        return created(name, "/nowhere/at/all/1", tags)

    client.mlflow.create_experiment = create
    with pytest.raises(RegistryError, match=r"--artifacts-destination /nowhere/at/all"):
        homes.ensure(base)
    # The name is free again, for when the server takes the files.
    client.mlflow.create_experiment = lambda name, place, tags: created(name, str(tmp_path), tags)
    assert homes.ensure(base).base == base
