import shutil
import time
from dataclasses import replace

import pytest

from adapt_lora.registry import Registry
from adapt_lora.registry.layout import StoredCell
from adapt_lora.registry.records import BASE_ID, BASE_ROW, AdapterRecord, MatrixRow
from adapt_lora.registry.store.cache import MARGIN_MS, Entry, Snapshot, SnapshotCache
from adapt_lora.registry.store.client import Client
from adapt_lora.registry.store.homes import Homes
from adapt_lora.registry.store.sync import Sync
from tests.registry.conftest import cell


@pytest.fixture
def filled(registry, adapter_folder, adapter_record, base, task):
    """A store with three adapters, measured on one task."""
    stored = []
    for seed in range(3):
        folder = adapter_folder(f"folder-{seed}", seed=seed)
        stored.append(registry.add_adapter(adapter_record(folder, f"adapter-{seed}"), folder))
    registry.add_cells(base, BASE_ROW, task, [cell(BASE_ID, 0.5)])
    for adapter in stored:
        registry.add_cells(base, adapter, task, [cell(adapter.adapter_id, 0.7)])
    return registry


@pytest.fixture
def open_counting(filled, tmp_path, monkeypatch):
    """Opens a registry that counts the artifacts it reads."""

    class CountingRegistry(Registry):
        read = 0

    def open_one():
        registry = CountingRegistry(tmp_path / "store", cache_folder=tmp_path / "cache")
        read_artifact = registry._client.read_artifact

        def count(run, name):
            registry.read += 1
            return read_artifact(run, name)

        monkeypatch.setattr(registry._client, "read_artifact", count)
        return registry

    return open_one


def test_a_later_process_reads_no_artifact_again(open_counting, filled, base):
    expected = filled.transfer_matrix(base)
    later = open_counting()
    assert later.transfer_matrix(base) == expected
    assert later.read == 0


def test_only_what_is_new_is_read(open_counting, filled, base, adapter_folder, adapter_record):
    later = open_counting()
    later.transfer_matrix(base)
    later.read = 0
    folder = adapter_folder("new", seed=9)
    added = filled.add_adapter(adapter_record(folder, "new"), folder)
    assert later.adapters(base)[-1] == added
    assert later.read == 2  # the record and the fingerprint of one adapter


def test_what_is_added_to_an_adapter_is_seen_and_leaves_its_duration_alone(
    filled, open_counting, base, monkeypatch
):
    later, client = open_counting(), filled._client.mlflow
    adapters = later.adapters(base)
    ended = [client.get_run(record.run_id).info.end_time for record in adapters]
    filled.set_card(adapters[0], markdown="# new", html="<p>new</p>")
    filled.update_scores(base)
    filled.set_traits(base, {adapters[0].adapter_id: {"T1": 0.5}})
    assert [dict(record.traits) for record in later.adapters(base)] == [{"T1": 0.5}, {}, {}]
    later.read = 0
    # Nobody looks back further than the last change that was seen.
    monkeypatch.setattr("adapt_lora.registry.store.cache.MARGIN_MS", 0)
    time.sleep(0.002)
    filled.set_traits(base, {adapters[1].adapter_id: {"T1": -0.5}})
    first, second, _ = later.adapters(base)
    assert (first.traits, second.traits) == ({"T1": 0.5}, {"T1": -0.5})
    assert later.read == 2  # the files of one adapter
    assert [client.get_run(record.run_id).info.end_time for record in adapters] == ended


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"header": 1}', b"\xff\x00"])
def test_a_damaged_cache_is_rebuilt(open_counting, filled, base, tmp_path, damage):
    expected = filled.transfer_matrix(base)
    files = list((tmp_path / "cache").rglob("*.json"))
    assert len(files) == 3
    for path in files:
        path.write_bytes(damage)
    later = open_counting()
    assert later.transfer_matrix(base) == expected
    assert later.read > 0
    again = open_counting()
    assert again.transfer_matrix(base) == expected
    assert again.read == 0


def test_a_cache_that_can_not_be_written_only_costs_time(filled, base, tmp_path):
    (tmp_path / "blocked").write_text("a file where the folder should be")
    later = Registry(tmp_path / "store", cache_folder=tmp_path / "blocked")
    assert later.transfer_matrix(base) == filled.transfer_matrix(base)


def test_what_was_deleted_in_mlflow_itself_disappears(filled, open_counting, base):
    from mlflow import MlflowClient

    client = MlflowClient(filled.tracking_uri, registry_uri=filled.tracking_uri)
    first, second, third = filled.adapters(base)
    later = open_counting()
    assert len(later.adapters(base)) == 3
    client.delete_run(first.run_id)
    client.delete_registered_model(second.name)
    assert later.adapters(base) == [third]
    assert open_counting().adapters(base) == [third]


def test_another_store_at_the_same_place_has_another_cache(
    filled, base, tmp_path, migrated_store, task
):
    """Experiment numbers start at one again in a new database."""
    filled.transfer_matrix(base)
    time.sleep(0.01)
    (tmp_path / "fresh").mkdir()
    shutil.copyfile(migrated_store, tmp_path / "fresh" / "mlflow.db")
    fresh = Registry(tmp_path / "fresh", cache_folder=tmp_path / "other cache")
    fresh.add_cells(base, BASE_ROW, task, [cell(BASE_ID, 0.1)])
    cache = SnapshotCache(tmp_path / "cache", filled.tracking_uri)
    client = Client(fresh.tracking_uri)
    (stored,) = Sync(client, cache).cells(Homes(client).need(base)).values()
    assert [each.cell.score for each in stored] == [0.1]


def test_a_snapshot_survives_the_disk(tmp_path, base, task):
    cache = SnapshotCache(tmp_path, "sqlite:///a.db")
    few_shot = replace(cell(BASE_ID, 0.1, task="ünï"), row=MatrixRow(BASE_ID, 3, 1), se=None)
    for kind, content in {
        "adapter": AdapterRecord("1" * 64, "sst2", base, traits={"T1": 1e-300, "T2": -0.0}),
        "task": task,
        "cells": [StoredCell(cell(BASE_ID, 1), "e" * 64, 17), StoredCell(few_shot, "e", 18)],
    }.items():
        snapshot = Snapshot({"r1": Entry(17, content)})
        cache.save("1", kind, snapshot)
        assert cache.load("1", kind) == snapshot
        assert cache.load("2", kind) == Snapshot()
        assert SnapshotCache(tmp_path, "sqlite:///b.db").load("1", kind) == Snapshot()


def test_a_cache_of_an_older_layout_is_not_read(tmp_path, task, monkeypatch):
    cache = SnapshotCache(tmp_path, "sqlite:///a.db")
    cache.save("1", "task", Snapshot({"r1": Entry(17, task)}))
    monkeypatch.setattr("adapt_lora.registry.store.cache.SCHEMA", "2")
    assert cache.load("1", "task") == Snapshot()


def test_the_watermark_looks_back_and_never_ahead():
    snapshot = Snapshot({"r1": Entry(5 * MARGIN_MS, {}), "r2": Entry(9 * MARGIN_MS, {})})
    assert snapshot.watermark_ms(now_ms=100 * MARGIN_MS) == 8 * MARGIN_MS
    # A writer whose clock is ahead must not hide what others write now.
    assert snapshot.watermark_ms(now_ms=6 * MARGIN_MS) == 5 * MARGIN_MS
    assert Snapshot().watermark_ms(now_ms=5) == 0
