"""`doctor --repair`: what is not whole is mended or taken out; a missing folder costs nothing."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from adapt_lora import roads
from adapt_lora.registry import Registry
from adapt_lora.registry.store.relocation import local_folder
from adapt_lora.roads.doctor import examine, repair
from adapt_lora.roads.evaluation import fetch_weights, weights_place


@pytest.fixture
def reopen(tmp_path, fresh_store):
    caches = iter(range(100))
    return lambda: Registry(
        fresh_store, cache_folder=tmp_path / f"c{next(caches)}", warn=lambda _: None
    )


@pytest.fixture
def two(reopen, tiny_adapter, tiny_base_dir):
    """A registry with two adapters, measured on nothing."""
    registry = reopen()
    return registry, [
        roads.register(tiny_adapter(name, seed=seed), registry=registry, base_model=tiny_base_dir)
        for seed, name in enumerate(("first", "second"), start=60)
    ]


def record_folder(registry, record):
    return local_folder(registry._client.mlflow.get_run(record.run_id).info.artifact_uri)


def model_folder(registry, record):
    model = registry._client.mlflow.get_logged_model(record.model_id)
    return local_folder(model.artifact_location)


def outcomes(registry, known="/nowhere"):
    return {one.entry: one.outcome for one in repair(registry, Path(known))}


def test_a_lost_record_is_read_anew_from_the_adapter_s_files(two, reopen, fresh_store):
    registry, (first, second) = two
    shutil.rmtree(record_folder(registry, first))
    (check,) = [one for one in examine(str(fresh_store)) if one.name == "registry"]
    assert (check.status, check.mend) == ("missing", "adapt doctor --repair")
    assert "first version 1 (its file record.json is not in" in check.detail
    assert "read anew from its files" in outcomes(reopen())["first version 1"]
    found = {record.name: record for record in reopen().adapters()}
    lost = {"params": {}, "behaviour_vector": (), "behaviour_vector_mid": ()}
    assert replace(found["first"], **lost) == replace(first, **lost)
    assert found["first"].params.items() <= first.params.items()
    assert found["second"] == second
    assert outcomes(reopen()) == {}


def test_what_this_machine_knows_of_a_lost_record_is_put_back(
    fresh_store, tmp_path, tiny_adapter, tiny_base_dir, tmp_path_factory, reopen
):
    """Training data, checks and version stay; nothing is measured or numbered anew."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "the film was good and", "response": "positive"}\n' * 8)
    for is_seen_broken in (False, True):
        registry = Registry(fresh_store, cache_folder=tmp_path / "own", warn=lambda _: None)
        record = roads.register(
            tiny_adapter(f"kept{is_seen_broken}", seed=62 + is_seen_broken),
            registry=registry,
            dataset=rows,
            group="films",
            base_model=tiny_base_dir,
        )
        assert record in registry.adapters()
        for name in ("record.json", "fingerprint.json"):
            (record_folder(registry, record) / name).write_text("{")
        if is_seen_broken:  # and touched, so that the local copy gives it up
            registry._client.touch(record.run_id)
            assert record not in registry.adapters()
        found = outcomes(reopen(), tmp_path / "own")
        assert found == {f"{record.name} version 1": "put back from what this machine knows of it."}
        assert record in reopen().adapters()


def test_without_a_local_copy_the_run_still_says_what_it_was_trained_on(
    two, tmp_path, tiny_adapter, tiny_base_dir, reopen
):
    registry, _ = two
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "the film was good and", "response": "positive"}\n' * 8)
    record = roads.register(
        tiny_adapter("films", seed=64), registry=registry, dataset=rows, base_model=tiny_base_dir
    )
    (record_folder(registry, record) / "record.json").unlink()
    assert outcomes(reopen()) == {
        "films version 1": "read anew from its files, as version 1; the vectors of its "
        "training data are lost."
    }
    again = reopen().adapter("films")
    assert (again.version, again.group, again.unchecked) == (1, record.group, None)
    assert replace(again.dataset, source="") == replace(record.dataset, source="")


def test_what_is_lost_for_good_is_taken_out(two, reopen):
    registry, (first, second) = two
    shutil.rmtree(record_folder(registry, first))
    shutil.rmtree(model_folder(registry, first))
    shutil.rmtree(weights_place(first.adapter_id), ignore_errors=True)
    assert "taken out with its scores" in outcomes(reopen())["first version 1"]
    assert reopen().adapters() == [second]
    assert outcomes(reopen()) == {}


def test_lost_files_come_back_from_this_machine_s_copy_or_leave_the_figures(two, reopen):
    registry, (first, _) = two
    shutil.rmtree(weights_place(first.adapter_id), ignore_errors=True)
    fetch_weights(registry, first)
    shutil.rmtree(model_folder(registry, first))
    assert "put back" in outcomes(reopen())["first version 1"]
    shutil.rmtree(model_folder(registry, first))
    shutil.rmtree(weights_place(first.adapter_id))
    assert "figures only" in outcomes(reopen())["first version 1"]
    assert [record.has_weights for record in reopen().adapters()] == [False, True]
    assert outcomes(reopen()) == {}


def test_a_folder_that_is_not_mounted_costs_no_entry(two, reopen, fresh_store):
    _, adapters = two
    shutil.move(fresh_store / "artifacts", fresh_store / "unmounted")
    (only,) = repair(reopen(), Path("/nowhere"))
    assert not only.is_mended
    assert "Nothing was touched" in only.outcome
    shutil.move(fresh_store / "unmounted", fresh_store / "artifacts")
    assert reopen().adapters() == adapters


def test_an_export_goes_on_without_the_files_of_one_adapter(two, tmp_path, fresh_store):
    registry, (first, _) = two
    shutil.rmtree(weights_place(first.adapter_id), ignore_errors=True)
    shutil.rmtree(model_folder(registry, first))
    said = []
    written = roads.export_registry(tmp_path / "out", registry=registry, warn=said.append)
    assert [record.has_weights for record in written.adapters] == [False, True]
    assert said[0].startswith("first goes without its files: The files of first are not in")
    assert {path.name for path in (tmp_path / "out" / "adapters").iterdir()} == {"second"}
