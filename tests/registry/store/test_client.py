import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from adapt_lora.errors import (
    RegistryError,
)
from adapt_lora.registry import Registry
from tests.registry.conftest import cell


def test_nothing_is_printed_and_the_global_store_is_left_alone(
    register, registry, base, task, capfd, tmp_path, monkeypatch
):
    import mlflow

    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    adapter = register("sst2")
    registry.add_cells(base, adapter, task, [cell(adapter.adapter_id, 0.7)])
    registry.pull(adapter, tmp_path / "out")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert mlflow.get_tracking_uri() == before
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / "mlruns").exists()


def test_two_processes_may_open_a_new_store_at_once(tmp_path):
    code = (
        "import sys; from adapt_lora.registry import Registry;"
        "from adapt_lora.model.base import BaseIdentity;"
        "r = Registry(sys.argv[1]); r.ensure_base(BaseIdentity('a/b', 'x', 'y')); print(r.bases())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "new")]
    racers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [racer.communicate(timeout=120) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], answers
    assert answers[0][0] == answers[1][0]


def test_a_second_registry_in_one_process_leaves_the_first_its_locks(fresh_store, base, tmp_path):
    """Or else the next process that closes the store takes its log away from under the first."""
    store = fresh_store / "mlflow.db"
    first, second = (Registry(fresh_store, cache_folder=tmp_path / n) for n in ("a", "b"))
    first.ensure_base(base)
    assert second.bases() == [base]
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
        "c.execute(\"UPDATE experiment_tags SET value = 'z/z' WHERE key = 'adapt.base'\");"
        "c.commit(); c.close()"
    )
    subprocess.run([sys.executable, "-c", code, str(store)], check=True, timeout=60)
    assert store.with_name("mlflow.db-wal").exists()
    assert {known.name for known in first.bases()} == {"z/z"}
    first.ensure_base(replace(base, name="other/base"))


def test_a_dead_server_is_an_error_not_a_wait(base, tmp_path):
    with socket.socket() as silent:  # takes connections, never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for port in (silent.getsockname()[1], 1):
            dead = Registry(f"http://127.0.0.1:{port}", cache_folder=tmp_path)
            with pytest.raises(RegistryError, match=f"No MLflow server answers at .*:{port}"):
                dead.adapters(base)


def test_where_the_store_is_follows_the_rules(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("ADAPT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    default = Registry()
    assert default.is_default_uri
    assert default.tracking_uri == f"sqlite:///{tmp_path}/data/registry/mlflow.db"
    assert not (tmp_path / "data").exists()  # opening nothing makes nothing
    assert Registry("sqlite:///here.db").tracking_uri == f"sqlite:///{tmp_path}/here.db"
    assert Registry("demo").tracking_uri == f"sqlite:///{tmp_path}/demo/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert Registry().tracking_uri == "http://localhost:5000"
    assert not Registry().is_default_uri
    with pytest.raises(RegistryError, match="no longer keeps runs as plain files"):
        Registry("file:///tmp/mlruns")


def test_a_store_that_is_no_store_gets_a_sentence(tmp_path, base):
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to be looked at" * 50)
    with pytest.raises(RegistryError, match="is no SQLite database"):
        Registry(tmp_path, cache_folder=tmp_path / "cache").adapters(base)
