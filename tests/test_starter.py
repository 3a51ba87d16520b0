"""The starter registry as it is shipped: its size, what it holds, and what it must not hold."""

import json
import os
import tomllib
from pathlib import Path

import pytest

from adapt_lora import Registry, roads
from adapt_lora.data import read_dataset
from adapt_lora.registry.adapter import read_adapter
from adapt_lora.registry.exchange.portable import Export, read_export
from adapt_lora.registry.records import BASE_ID, BASE_ROW, MAJORITY_ROW

STARTER = Path(__file__).parents[1] / "starter"
SECOND_BASE = STARTER / "second_base"
FIGURES = ("registry.json", "vectors.safetensors")
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
MIB = 2**20


@pytest.fixture(scope="module")
def starter() -> Export:
    return read_export(STARTER)


@pytest.fixture(scope="module")
def second_base() -> Export:
    return read_export(SECOND_BASE)


def test_the_figures_fit_into_a_wheel_and_the_weights_into_a_repository():
    figures = sum((STARTER / name).stat().st_size for name in FIGURES)
    weights = sum(file.stat().st_size for file in (STARTER / "adapters").rglob("*"))
    assert figures <= 1 * MIB
    assert figures + weights <= 25 * MIB


def test_every_adapter_is_measured_on_every_task(starter):
    names = {record.name for record in starter.matrix.adapters}
    measured = {(cell.row, cell.task) for cell in starter.matrix.cells}
    tasks = starter.matrix.tasks
    assert len(names) >= 20
    assert len(tasks) == 20
    rows = [BASE_ROW, *(record.row for record in starter.matrix.adapters)]
    assert {(row, task.name) for row in rows for task in tasks} <= measured
    labelled = {task.name for task in tasks if task.metric == "balanced_accuracy"}
    assert {task for row, task in measured if row == MAJORITY_ROW} == labelled
    few_shot = {task for row, task in measured if row.shots}
    assert few_shot == {task.name for task in tasks}


def test_every_score_says_how_sure_it_is(starter):
    for cell in starter.matrix.cells:
        assert cell.n is not None
        assert cell.n >= 100
        assert cell.se is not None


def test_the_papers_twins_are_there(starter):
    copies = {r.name for r in starter.matrix.adapters if r.dataset.parent}
    assert copies == {
        *("sms_spam_balanced", "davidson_hate_balanced", "snips_mislabelled"),
        *("alpaca_short", "alpaca_long"),
    }


def test_an_adapter_says_where_its_data_come_from(starter):
    about = starter.about["datasets"]
    for record in starter.matrix.adapters:
        assert about[record.name]["licence"]
        assert about[record.name]["source_repo"]
        assert about[record.name]["digest"] == record.dataset.digest
        assert record.fingerprint.values["response_ppl"] > 1
        assert "minilm_mean" in record.fingerprint.vectors


def test_weights_are_there_where_their_data_let_them_be_passed_on_and_only_there(starter):
    ships = {name for name, entry in starter.about["datasets"].items() if entry["weights_may_ship"]}
    assert len(ships) >= 12
    assert {folder.name for folder in (STARTER / "adapters").iterdir()} == ships
    by_id = {record.adapter_id: record.name for record in starter.matrix.adapters}
    assert {by_id[adapter_id] for adapter_id in starter.folders} == ships
    for record in starter.matrix.adapters:
        assert record.has_weights == (record.name in ships)
        assert record.has_weights or any("licence" in warning for warning in record.warnings)


def test_the_adapters_name_the_base_by_its_hub_id_and_are_small(starter):
    for folder in starter.folders.values():
        assert read_adapter(folder).base_name == HUB_ID
        assert (folder / "adapter_model.safetensors").stat().st_size <= 1.5 * MIB


def test_the_manifests_train_what_is_shipped(starter):
    trained = set()
    for file in (STARTER / "sweeps").glob("*.toml"):
        if file.stem != SECOND_BASE.name:
            manifest = tomllib.loads(file.read_text(encoding="utf-8"))
            datasets = [Path(name).name for name in manifest["datasets"]]
            trained |= {manifest["name"].format(dataset=name) for name in datasets}
    assert {record.name for record in starter.matrix.adapters} <= trained


def test_the_second_base_is_measured_on_the_same_tasks_and_has_no_weights(starter, second_base):
    matrix = second_base.matrix
    assert matrix.base.architecture != starter.matrix.base.architecture
    assert second_base.folders == {}
    assert not any(record.has_weights for record in matrix.adapters)
    rows = {BASE_ID, *(record.adapter_id for record in matrix.adapters)}
    assert len(rows) == 1 + 6
    measured = {(cell.row.id, cell.task) for cell in matrix.cells}
    assert {(row, task.name) for row in rows for task in matrix.tasks} <= measured
    same = {(task.name, task.group, task.metric) for task in starter.matrix.tasks}
    assert len(matrix.tasks) == 12
    assert {(task.name, task.group, task.metric) for task in matrix.tasks} <= same
    trained_on = {record.dataset.digest for record in starter.matrix.adapters}
    assert {record.dataset.digest for record in matrix.adapters} <= trained_on


def test_a_registry_keeps_the_two_bases_apart(tmp_path, starter, second_base):
    registry = Registry(tmp_path / "registry")
    for folder in ("starter", SECOND_BASE):
        roads.import_results(str(folder), registry=registry)
    for export in (starter, second_base):
        kept = registry.transfer_matrix(export.matrix.base)
        assert _scores(kept) == pytest.approx(_scores(export.matrix))
    names = {record.name for record in registry.adapters(second_base.matrix.base)}
    assert len(names) == 6
    assert names.isdisjoint(record.name for record in registry.adapters(starter.matrix.base))


@pytest.mark.parametrize("place", [STARTER, SECOND_BASE], ids=["starter", "second base"])
def test_no_row_of_a_dataset_is_passed_on(place):
    home = Path(os.environ.get("ADAPT_SHARED_DATA", STARTER.parents[1] / "shared")) / "data"
    if not home.is_dir():
        pytest.skip("The datasets are not here; ADAPT_SHARED_DATA names their home.")
    content = json.loads((place / "registry.json").read_text(encoding="utf-8"))
    text = "\n".join(_strings(content))
    for folder in home.iterdir():
        for split in ("train", "test"):
            for row in read_dataset(folder, split=split).rows:
                # The middle is the row's own; prompts of one dataset begin and end alike.
                middle = row.prompt[len(row.prompt) // 2 :][:40]
                assert len(middle) < 20 or middle not in text


def test_it_fills_an_empty_registry_once(tmp_path, starter):
    registry = Registry(tmp_path / "registry")
    first = roads.import_results("starter", registry=registry)
    assert first.n_adapters == len(starter.matrix.adapters)
    assert first.n_cells == len(starter.matrix.cells)
    again = roads.import_results("starter", registry=registry)
    assert (again.n_adapters, again.n_cells) == (0, 0)
    kept = registry.transfer_matrix(starter.matrix.base)
    assert _scores(kept) == pytest.approx(_scores(starter.matrix))
    place = registry.pull(registry.adapter("snli"), tmp_path / "snli")
    shipped = STARTER / "adapters" / "snli" / "adapter_model.safetensors"
    assert (place / shipped.name).read_bytes() == shipped.read_bytes()


def _scores(matrix):
    return {(cell.row.id, cell.task): cell.score for cell in matrix.cells}


def _strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
