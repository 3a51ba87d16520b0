from pathlib import Path

import pytest

from adapt_lora.errors import RegistryError
from adapt_lora.registry import Registry
from adapt_lora.registry.store.addresses import read_address


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("localhost:5000", r"Write http://localhost:5000 .*\./localhost:5000"),
        ("127.0.0.1:5000/path", "Write http://127.0.0.1:5000/path"),
        ("[::1]:5000", r"Write http://\[::1\]:5000"),
        ("mlflow:5000", "Write http://mlflow:5000"),
        ("localhost", "Write http://localhost "),
        ("mlflow.example.org", "Write http://mlflow.example.org"),
        ("http:/host:5000", "Write http://host:5000"),
        ("http:host:5000", "Write http://host:5000"),
        ("http://", "Write http://HOST:PORT"),
        ("http://host:5000/#/experiments/3", "the server's: http://host:5000"),
        ('"http://host:5000"', "not an address"),
        ("htp://host", "Write http://"),
        ("http://[::1", r"has a host and a port from 1 to 65535.* http://\[::1\]:5000"),
        ("http://localhost:99999", "a port from 1 to 65535"),
        ("http://localhost:0", "a port from 1 to 65535"),
        ("sqlite:////srv/a?b.db", r"'b\.db' is none\. Write %3F"),
        ("postgres://me:secret@host/db", "postgres://host/db: .* Write postgresql://"),
        ("team:store", "neither an address nor a folder"),
        ("file:///tmp/mlruns", "no longer keeps runs as plain files"),
        ("C:\\Users\\me\\runs", r"path of Windows.* /mnt/c/Users/me/runs"),
        ("sqlite:///C:/runs/m.db", r"path of Windows.* /mnt/c/runs/m.db"),
        ("\\\\host\\share", "path of Windows"),
        ("sqlite:m.db", "Write sqlite:///m.db"),
        ("sqlite://m.db", "Write sqlite:///m.db"),
        ("sqlite:/tmp/m.db", "Write sqlite:////tmp/m.db"),
        ("sqlite:///", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///file:/tmp/m.db?mode=ro&uri=true", "without file:"),
        ("store.db", "Write sqlite:////.*/store.db"),
    ],
)
def test_an_address_that_is_none_is_refused_with_the_right_one(given, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RegistryError, match=words) as raised:
        read_address(given)
    assert "secret" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_address_keeps_its_password():
    with pytest.raises(RegistryError, match="Write http://host:5000 ") as raised:
        read_address("me:secret@host:5000")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("given", ["./localhost:5000", Path("localhost:5000")])
def test_a_folder_may_be_called_like_a_server(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_address(given).database == tmp_path / "localhost:5000" / "mlflow.db"


def test_a_folder_in_place_of_a_file_is_said(tmp_path):
    with pytest.raises(RegistryError, match=rf"Write sqlite:///{tmp_path}/mlflow\.db"):
        read_address(f"sqlite:///{tmp_path}")


@pytest.mark.parametrize(
    ("given", "uri"),
    [
        (" http://host:5000/ \n", "http://host:5000"),
        ("HTTPS://host", "https://host"),
        ("databricks", "databricks"),
        ("databricks://profile", "databricks://profile"),
        ("mysql+pymysql://me:pw@host/db", "mysql+pymysql://me:pw@host/db"),
        ("arn:aws:sagemaker:eu:1:mlflow-tracking-server/x", None),
    ],
)
def test_what_mlflow_opens_stays_as_it_is(given, uri):
    assert read_address(given).uri == (uri or given)


def test_what_is_shown_and_kept_holds_no_password(tmp_path):
    registry = Registry("http://me:secret@host:5000", cache_folder=tmp_path)
    assert registry.tracking_uri == "http://me:secret@host:5000"
    assert registry.shown_uri == "http://host:5000"


@pytest.mark.parametrize("name", ["a b", "a#b", "a%b", "a%20b", "a?b", "ä", "a;b&c", "a'b", "a:b"])
def test_any_folder_can_hold_a_store(name, open_registry, base, tmp_path):
    registry = open_registry()
    folder = tmp_path / name
    registry.database.parent.rename(folder)
    made = Registry(folder, cache_folder=tmp_path / "cache")
    made.ensure_base(base)
    assert (folder / "mlflow.db.lock").exists()
    again = Registry(made.tracking_uri, cache_folder=tmp_path / "cache")
    assert (again.database, again.bases()) == (folder / "mlflow.db", [base])
    assert {path.name for path in tmp_path.iterdir()} <= {name, "cache"}


def test_options_of_a_sqlite_address_are_no_part_of_its_file(open_registry, base, tmp_path):
    database = open_registry().database
    registry = Registry(f"sqlite:///{database}?timeout=30", cache_folder=tmp_path / "cache")
    registry.ensure_base(base)
    assert registry.database == database
    assert not list(database.parent.glob("*timeout*"))
