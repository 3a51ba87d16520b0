"""A registry's folder that was moved, copied or mounted elsewhere works where it is."""

import shutil

import pytest
from mlflow.tracking._tracking_service import utils

from adapt_lora.registry import Registry
from adapt_lora.registry.records import BASE_ID, BASE_ROW, Prediction
from tests.registry.conftest import cell
from tests.registry.store.conftest import mlflow_client


@pytest.fixture
def filled(registry, register, base, task):
    """A store with an adapter and a cell that has predictions."""
    adapter = register("sst2")
    kept = (Prediction("d" * 64, True, "yes", (-0.25, -1.5), None, "yes"),)
    registry.add_cells(base, BASE_ROW, task, [cell(BASE_ID, 0.5)], kept)
    registry.add_cells(base, adapter, task, [cell(adapter.adapter_id, 0.7)], kept)
    return registry


@pytest.fixture
def open_at(tmp_path):
    """Opens the store in a folder as another machine would: open_at(folder)."""
    said = []

    def open_one(folder):
        # MLflow remembers for the life of a process where each run's files are.
        utils._artifact_repos_cache.clear()
        return Registry(folder, cache_folder=folder / "cache", warn=said.append)

    open_one.said = said
    return open_one


def works(registry, base, tmp_path):
    (adapter,) = registry.adapters(base)
    assert registry.predictions(base, BASE_ROW, "trec")
    assert registry.pull(adapter, tmp_path / "pulled").is_dir()
    return adapter


def places(registry):
    """Every address that MLflow would open."""
    client = mlflow_client(registry)
    experiments = client.search_experiments()
    ids = [experiment.experiment_id for experiment in experiments]
    return [
        *(one.artifact_location for one in experiments if one.name != "Default"),
        *(run.info.artifact_uri for run in client.search_runs(ids)),
        *(model.artifact_location for model in client.search_logged_models(ids)),
        *(version.source for version in client.search_model_versions()),
    ]


def test_a_moved_folder_is_followed_and_it_is_said_once(filled, base, tmp_path, open_at):
    new = tmp_path / "other disk, 100 %" / "registry"
    new.parent.mkdir()
    shutil.move(tmp_path / "store", new)
    moved = open_at(new)
    works(moved, base, tmp_path)
    assert open_at.said == [
        f"The registry in {new} was in {tmp_path / 'store'} before; its files are read and "
        "written here from now on."
    ]
    assert all(place.startswith(new.as_uri()) for place in places(moved))
    open_at(new).bases()
    assert len(open_at.said) == 1


def test_a_copy_never_touches_the_files_of_what_it_was_copied_from(
    filled, base, task, tmp_path, open_at
):
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    before = sorted((tmp_path / "store" / "artifacts").rglob("*"))
    copied = open_at(tmp_path / "copy")
    adapter = works(copied, base, tmp_path)
    copied.set_card(adapter, markdown="new", html="<p>new</p>")
    copied.add_cells(base, adapter, task, [cell(adapter.adapter_id, 0.1)])
    assert sorted((tmp_path / "store" / "artifacts").rglob("*")) == before
    shutil.rmtree(tmp_path / "store")
    shutil.rmtree(tmp_path / "pulled")
    works(open_at(tmp_path / "copy"), base, tmp_path)


def test_a_folder_that_moves_back_and_forth_works_at_both_places(filled, base, tmp_path, open_at):
    for number, place in enumerate(("mounted", "store", "mounted")):
        shutil.move(tmp_path / ("mounted" if place == "store" else "store"), tmp_path / place)
        works(open_at(tmp_path / place), base, tmp_path / f"round-{number}")


def test_through_a_link_nothing_has_moved(filled, base, tmp_path, open_at):
    (tmp_path / "link").symlink_to(tmp_path / "store")
    before = places(filled)
    works(open_at(tmp_path / "link"), base, tmp_path)
    assert open_at.said == []
    assert places(filled) == before


def test_a_database_that_was_copied_alone_still_finds_the_files_where_they_are(
    filled, base, tmp_path, open_at
):
    import sqlite3

    (tmp_path / "alone").mkdir()
    with sqlite3.connect(tmp_path / "store" / "mlflow.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copyfile(tmp_path / "store" / "mlflow.db", tmp_path / "alone" / "mlflow.db")
    works(open_at(tmp_path / "alone"), base, tmp_path)
    assert open_at.said == []


def test_files_of_another_store_beside_it_are_not_taken_for_its_own(
    filled, base, tmp_path, open_at, adapter_folder, adapter_record
):
    import sqlite3

    stranger = open_at(tmp_path / "stranger")
    folder = adapter_folder("other", seed=7)
    stranger.add_adapter(adapter_record(folder, "other"), folder)
    with sqlite3.connect(tmp_path / "store" / "mlflow.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copyfile(tmp_path / "store" / "mlflow.db", tmp_path / "stranger" / "second.db")
    second = Registry(
        f"sqlite:///{tmp_path / 'stranger' / 'second.db'}", cache_folder=tmp_path / "c2"
    )
    assert works(second, base, tmp_path).name == "sst2"
