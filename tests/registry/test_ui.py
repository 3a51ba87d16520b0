"""A real MLflow server on loopback: the link, and one registry by file and over HTTP."""

import os
import urllib.request

import pytest

from adapt_lora.errors import NotFoundError, RegistryError
from adapt_lora.registry import Registry, read_adapter, serve_ui
from adapt_lora.registry.records import BASE_ID, BASE_ROW, Prediction
from tests.registry.conftest import cell


def test_a_server_address_is_taken_as_it_is(monkeypatch):
    remote = Registry("https://mlflow.example.org")
    monkeypatch.setattr(remote, "bases", list)
    page = serve_ui(remote)
    assert page.link == "https://mlflow.example.org/?workflowType=machine_learning"
    assert page.process is None


@pytest.mark.slow
def test_one_registry_through_the_file_and_through_its_server(
    registry, adapter_folder, adapter_record, base, task, tmp_path
):
    folder = adapter_folder()
    here = registry.add_adapter(adapter_record(folder, "sst2"), folder)
    page = serve_ui(registry)
    try:
        assert "workflowType=machine_learning" in page.link
        with urllib.request.urlopen(page.server, timeout=10) as answer:
            assert b"<title>MLflow" in answer.read()
        assert serve_ui(registry).process is None  # found, not started again
        there = Registry(page.server, cache_folder=tmp_path / "cache-http")
        assert there.adapters(base) == [here]
        second = adapter_folder("second", seed=3)
        added = there.add_adapter(adapter_record(second, "trec"), second)
        kept = (Prediction("d" * 64, True, "yes", (-0.25, -1.5), None, "yes"),)
        there.add_cells(base, BASE_ROW, task, [cell(BASE_ID, 0.5)])
        there.add_cells(base, added, task, [cell(added.adapter_id, 0.75)], kept)
        assert there.predictions(base, added.row, "trec") == kept
        assert there.predictions(base, BASE_ROW, "trec") == ()
        assert registry.transfer_matrix(base).cells == there.transfer_matrix(base).cells
        assert registry.adapters(base) == [here, added]
        assert read_adapter(there.pull(added, tmp_path / "out")).adapter_id == added.adapter_id
        fetched = there.fetch("models:/sst2@champion", tmp_path / "fetched")
        assert read_adapter(fetched).adapter_id == here.adapter_id
        with pytest.raises(NotFoundError, match="nothing to fetch"):
            there.fetch(f"runs:/{here.run_id}/nothing", tmp_path / "fetched")
        with pytest.raises(NotFoundError, match="sst2 has no alias 'best'"):
            there.adapter("sst2@best")
        there.remove(here)
        assert registry.adapters(base) == [added]
    finally:
        page.process.terminate()
        page.process.wait(timeout=30)
    with pytest.raises(RegistryError, match="No MLflow server answers") as raised:
        there.fetch("models:/trec@champion", tmp_path / "fetched")
    assert not isinstance(raised.value, NotFoundError)
    with pytest.raises(ProcessLookupError):
        os.kill(page.process.pid, 0)
