import time

import pytest

from adapt_lora.registry import Registry
from adapt_lora.registry.cache import MARGIN_MS, Entry, Shelf, SnapshotCache
from adapt_lora.registry.records import BASE_ID, BASE_ROW
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


class CountingRegistry(Registry):
    """Counts the artifacts it reads."""

    read = 0

    def _read_artifact(self, run, name):
        self.read += 1
        return super()._read_artifact(run, name)


@pytest.fixture
def open_counting(filled, tmp_path):
    def open_one():
        return CountingRegistry(tmp_path / "store", cache_folder=tmp_path / "cache")

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
    for path in (tmp_path / "store").glob("mlflow.db*"):
        path.unlink()
    time.sleep(0.01)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    moved = Registry(fresh, cache_folder=tmp_path / "cache")
    moved.tracking_uri = f"sqlite:///{fresh / 'mlflow.db'}"
    moved._cache = filled._cache
    moved.add_cells(base, BASE_ROW, task, [cell(BASE_ID, 0.1)])
    assert [c.score for c in moved.transfer_matrix(base).cells] == [0.1]


def test_a_shelf_survives_the_disk(tmp_path):
    cache = SnapshotCache(tmp_path, "sqlite:///a.db")
    shelf = Shelf({"r1": Entry(17, {"x": [0.1, 1e-300, -0.0]})})
    cache.save("1", "adapter", shelf)
    assert cache.load("1", "adapter") == shelf
    assert cache.load("2", "adapter") == Shelf()
    assert SnapshotCache(tmp_path, "sqlite:///b.db").load("1", "adapter") == Shelf()


def test_a_cache_of_an_older_layout_is_not_read(tmp_path, monkeypatch):
    cache = SnapshotCache(tmp_path, "sqlite:///a.db")
    cache.save("1", "adapter", Shelf({"r1": Entry(17, {})}))
    monkeypatch.setattr("adapt_lora.registry.cache.SCHEMA", "2")
    assert cache.load("1", "adapter") == Shelf()


def test_the_watermark_looks_back_and_never_ahead():
    shelf = Shelf({"r1": Entry(5 * MARGIN_MS, {}), "r2": Entry(9 * MARGIN_MS, {})})
    assert shelf.watermark_ms(now_ms=100 * MARGIN_MS) == 8 * MARGIN_MS
    # A writer whose clock is ahead must not hide what others write now.
    assert shelf.watermark_ms(now_ms=6 * MARGIN_MS) == 5 * MARGIN_MS
    assert Shelf().watermark_ms(now_ms=5) == 0
