"""One entry that can't be read never blocks the others: it is named once, and can be taken out."""

import json
import shutil

import pytest

from adapt_lora.errors import NotFoundError, RegistryError
from adapt_lora.registry import Registry
from adapt_lora.registry.records import BASE_ID, BASE_ROW
from adapt_lora.registry.store.relocation import local_folder
from tests.registry.conftest import cell
from tests.registry.store.conftest import mlflow_client


@pytest.fixture
def said():
    return []


@pytest.fixture
def reopen(tmp_path, said):
    """Opens the store as a process does that has read nothing of it yet."""
    caches = iter(range(100))

    def open_one():
        return Registry(
            tmp_path / "store", cache_folder=tmp_path / f"c{next(caches)}", warn=said.append
        )

    return open_one


def files_of(registry, run_id):
    return local_folder(mlflow_client(registry).get_run(run_id).info.artifact_uri)


def lose(registry, record):
    shutil.rmtree(files_of(registry, record.run_id))


def spoil(registry, record):
    (files_of(registry, record.run_id) / "record.json").write_text("{")


def forget_model(registry, record):
    mlflow_client(registry).delete_tag(record.run_id, "adapt.model_id")


@pytest.mark.parametrize("damage", [lose, spoil, forget_model])
def test_the_others_are_read_and_the_bad_one_is_named_once(
    registry, register, base, task, reopen, said, tmp_path, damage
):
    bad, good = register("bad"), register("good")
    registry.add_cells(base, bad, task, [cell(bad.adapter_id, 0.1)])
    registry.add_cells(base, good, task, [cell(good.adapter_id, 0.7)])
    damage(registry, bad)
    later = reopen()
    assert later.adapters(base) == later.adapters(base) == [good]
    assert later.adapter("good") == good
    assert later.pull(good, tmp_path / "pulled").is_dir()
    assert [one.row for one in later.transfer_matrix(base).cells] == [good.row]
    assert len(said) == 1
    assert said[0].startswith("bad version 1 can't be read and is left out: its ")
    with pytest.raises(RegistryError, match=r"bad version 1 can't be read.*adapt doctor --repair"):
        later.adapter("bad")
    with pytest.raises(NotFoundError, match="No adapter 'other'"):
        later.adapter("other")
    later.remove_damaged(later.entry("bad"))
    assert later.damaged() == []
    after = reopen()
    assert after.adapters(base) == [good]
    assert len(said) == 1


def test_what_was_damaged_is_tried_again_by_every_process(
    open_registry, register, registry, base, tmp_path
):
    bad = register("bad")
    place = files_of(registry, bad.run_id) / "record.json"
    whole = place.read_text()
    place.write_text("{")
    assert (
        Registry(tmp_path / "store", cache_folder=tmp_path / "cache", warn=[].append).adapters(base)
        == []
    )
    good = register("good")
    place.write_text(whole)
    assert open_registry().adapters(base) == [bad, good]


def test_registering_again_mends_an_entry(
    registry, register, base, reopen, adapter_folder, adapter_record
):
    bad = register("bad")
    lose(registry, bad)
    folder = adapter_folder("again", seed=0)
    mended = reopen().add_adapter(adapter_record(folder, "bad"), folder)
    assert mended.adapter_id == bad.adapter_id
    assert reopen().adapters(base) == [mended]


def test_a_broken_measurement_leaves_the_others_of_its_run(
    registry, register, base, task, reopen, said
):
    from dataclasses import replace

    other = replace(task, name="boolq", group="boolq")
    registry.add_cells(base, BASE_ROW, task, [cell(BASE_ID, 0.5)])
    registry.add_cells(base, BASE_ROW, other, [cell(BASE_ID, 0.6, task="boolq")])
    client = mlflow_client(registry)
    experiment = client.get_experiment_by_name(f"evaluations/{base.name}")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`adapt.kind` = 'cells'")
    (key,) = [key for key in run.data.tags if key.startswith("adapt.cell/trec/")]
    client.set_tag(run.info.run_id, key, "{")
    later = reopen()
    assert [one.task for one in later.transfer_matrix(base).cells] == ["boolq"]
    assert len(said) == 1
    (entry,) = later.damaged()
    later.remove_damaged(entry)
    assert reopen().damaged() == []
    assert [one.task for one in reopen().transfer_matrix(base).cells] == ["boolq"]


def test_a_lost_task_and_a_lost_recommendation_hide_nothing_else(
    registry, register, base, task, reopen, said
):
    adapter = register("good")
    registry.add_tasks(base, [task])
    content = {"target": {}, "model": {}, "base": {}, "ranking": []}
    kept = [registry.add_recommendation(base, content, digest=str(n), group="g") for n in range(2)]
    client = mlflow_client(registry)
    experiment = client.get_experiment_by_name(f"evaluations/{base.name}")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`adapt.kind` = 'task'")
    shutil.rmtree(files_of(registry, run.info.run_id))
    (files_of(registry, kept[0]) / "recommendation.json").write_text("no")
    later = reopen()
    assert later.tasks(base) == []
    assert [one.run_id for one in later.recommendations(base)] == [kept[1]]
    assert later.adapters(base) == [adapter]
    assert len(said) == 2
    for entry in later.damaged():
        later.remove_damaged(entry)
    later.add_tasks(base, [task])
    assert reopen().tasks(base) == [task]


def test_a_fit_of_traits_that_is_lost_counts_as_not_made(registry, base, reopen, said):
    registry.ensure_base(base)
    registry.set_trait_fit(base, {"names": ["T1"]}, note="", plots={})
    assert json.loads(json.dumps(registry.trait_fit(base))) == {"names": ["T1"]}
    client = mlflow_client(registry)
    experiment = client.get_experiment_by_name(f"adapters/{base.name}")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`adapt.kind` = 'base'")
    (files_of(registry, run.info.run_id) / "traits.json").unlink()
    assert reopen().trait_fit(base) is None
    assert "`adapt traits` fits them anew" in said[0]


def test_files_that_are_gone_are_named_with_their_place_and_can_be_put_back(
    registry, register, tmp_path, adapter_folder
):
    bad = register("bad")
    place = local_folder(mlflow_client(registry).get_logged_model(bad.model_id).artifact_location)
    assert registry.lost_files(bad) is None
    shutil.rmtree(place)
    assert registry.lost_files(bad) == str(place)
    with pytest.raises(RegistryError, match=f"The files of bad are not in {place} any more"):
        registry.pull(bad, tmp_path / "pulled")
    registry.restore_files(bad, adapter_folder("copy", seed=0))
    assert registry.pull(bad, tmp_path / "pulled").is_dir()
