import json
import time
from pathlib import Path

import pytest

from adapt_lora.errors import (
    ConfigError,
    NotFoundError,
    RegistryError,
)
from adapt_lora.registry.records import (
    BASE_ID,
    BASE_ROW,
    StepRecord,
)
from tests.registry.conftest import cell
from tests.registry.store.conftest import mlflow_client, runs


def test_a_registered_adapter_is_read_back_by_another_process(register, open_registry, base):
    stored = register("sst2")
    assert stored.version == 1
    assert open_registry().adapters(base) == [stored]
    assert open_registry().adapters() == [stored]
    assert open_registry().bases() == [base]


def test_registering_twice_returns_the_same_entry(registry, adapter_folder, adapter_record, base):
    folder = adapter_folder()
    first = registry.add_adapter(adapter_record(folder, "sst2"), folder)
    again = registry.add_adapter(adapter_record(folder, "another name"), folder)
    assert again == first
    assert registry.adapters(base) == [first]
    assert len(runs(registry, "adapter")) == 1


def test_a_crashed_registration_is_never_listed_and_leaves_nothing(
    registry, open_registry, adapter_folder, adapter_record, base, tmp_path
):
    folder = adapter_folder()
    record = adapter_record(folder, "sst2")
    with pytest.raises(RegistryError, match="there is no such file"):
        registry.add_adapter(record, folder, plots={"a.png": tmp_path / "missing.png"})
    assert len(runs(registry, "adapter")) == 1  # what the crash left
    assert registry.adapters(base) == []
    assert open_registry().adapters(base) == []
    stored = open_registry().add_adapter(record, folder)
    assert open_registry().adapters(base) == [stored]
    assert [run.info.run_id for run in runs(registry, "adapter")] == [stored.run_id]
    versions = mlflow_client(registry).search_model_versions("name = 'sst2'")
    assert [version.run_id for version in versions] == [stored.run_id]


def test_people_see_sections_dataset_and_card(register, registry):
    stored = register("sst2")
    run = mlflow_client(registry).get_run(stored.run_id)
    assert run.data.metrics["fingerprint/response_ppl"] == 12.5
    assert run.data.metrics["weights/delta_norm"] == 1.25
    assert run.data.params["lora/r"] == "2"
    assert run.data.tags["check.vllm"] == "supported"
    assert "sst2" in run.data.tags["mlflow.note.content"]
    assert [item.dataset.name for item in run.inputs.dataset_inputs] == ["sst2"]
    assert run.info.status == "FINISHED"


def test_page_pictures_probes_and_curves_are_artifacts(
    registry, adapter_folder, adapter_record, tmp_path
):
    folder = adapter_folder()
    (tmp_path / "loss.png").write_bytes(b"picture")
    stored = registry.add_adapter(
        adapter_record(folder, "sst2"),
        folder,
        card_html="<p>card</p>",
        plots={"loss.png": tmp_path / "loss.png"},
        probes=[{"prompt": "2 + 2 =", "answer": "4"}, {"prompt": "sky", "answer": "blue"}],
        history=[StepRecord(step, {"train/loss": 1 / step}) for step in (1, 2, 4)],
    )
    client = mlflow_client(registry)
    names = {item.path for item in client.list_artifacts(stored.run_id)}
    assert {"card.html", "probes.json", "plots", "record.json", "fingerprint.json"} <= names
    curve = client.get_metric_history(stored.run_id, "train/loss")
    assert [(point.step, point.value) for point in curve] == [(1, 1.0), (2, 0.5), (4, 0.25)]
    table = json.loads(Path(client.download_artifacts(stored.run_id, "probes.json")).read_text())
    assert table == {"columns": ["prompt", "answer"], "data": [["2 + 2 =", "4"], ["sky", "blue"]]}


def test_names_versions_and_aliases_find_an_adapter(register, registry, base):
    first, second, other = register("sst2"), register("sst2"), register("org/trec")
    assert (first.version, second.version) == (1, 2)
    assert registry.adapter("sst2") == second
    assert registry.adapter("sst2/1", base) == first
    assert registry.adapter("sst2@champion") == first
    assert registry.adapter("org/trec") == other
    assert other.name == "org--trec"
    assert registry.find(second.adapter_id) == second
    assert registry.find("0" * 64) is None


def test_an_unknown_name_says_which_there_are(register, registry):
    with pytest.raises(NotFoundError, match="nothing is registered yet"):
        registry.adapter("sst2")
    register("sst2")
    with pytest.raises(NotFoundError, match="did you mean sst2"):
        registry.adapter("sst")
    with pytest.raises(NotFoundError, match="no alias 'best'"):
        registry.adapter("sst2@best")
    with pytest.raises(NotFoundError, match="sst2/7"):
        registry.adapter("sst2/7")


def test_a_name_that_is_taken_by_a_foreign_model_is_refused(register, registry, base):
    registry.ensure_base(base)
    mlflow_client(registry).create_registered_model("churn")
    with pytest.raises(RegistryError, match="not an adapter"):
        register("churn")
    with pytest.raises(ConfigError, match="letters"):
        register("..")


def test_scores_and_gains_stand_beside_the_fingerprint(register, registry, base, task):
    adapter = register("sst2")
    registry.add_cells(base, BASE_ROW, task, [cell(BASE_ID, 0.5)])
    registry.add_cells(base, adapter, task, [cell(adapter.adapter_id, 0.75)])
    registry.update_scores(base)
    metrics = mlflow_client(registry).get_run(adapter.run_id).data.metrics
    assert metrics["score/trec"] == 0.75
    assert metrics["gain/trec"] == 0.25


def test_only_scores_that_changed_are_logged_again(register, registry, base, task):
    first, second = register("sst2"), register("trec-lora")
    registry.add_cells(base, BASE_ROW, task, [cell(BASE_ID, 0.5)])
    for each in (first, second):
        registry.add_cells(base, each, task, [cell(each.adapter_id, 0.75)])
    client = mlflow_client(registry)

    def logged(record):
        keys = ("score/trec", "gain/trec")
        history = [client.get_metric_history(record.run_id, key) for key in keys]
        return [[point.value for point in points] for points in history]

    registry.update_scores(base)
    ended = [client.get_run(record.run_id).info.end_time for record in (first, second)]
    registry.update_scores(base)
    assert logged(first) == logged(second) == [[0.75], [0.25]]
    time.sleep(0.01)
    registry.add_cells(base, second, task, [cell(second.adapter_id, 1.0)])
    registry.update_scores(base)
    assert logged(first) == [[0.75], [0.25]]
    assert logged(second) == [[0.75, 1.0], [0.25, 0.5]]
    assert [client.get_run(r.run_id).info.end_time for r in (first, second)] == ended


def test_traits_are_seen_by_readers_that_had_read_before(register, registry, open_registry, base):
    adapter = register("sst2")
    reader = open_registry()
    assert reader.adapters(base)[0].traits == {}
    registry.set_traits(base, {adapter.adapter_id: {"trait (1)": 1.5, "trait (2)": -2.0}})
    assert reader.adapters(base)[0].traits == {"trait (1)": 1.5, "trait (2)": -2.0}
    registry.set_traits(base, {adapter.adapter_id: {"trait (1)": 0.5}})
    assert reader.adapters(base)[0].traits == {"trait (1)": 0.5}


def test_the_base_row_and_pictures_of_traits_are_kept_too(register, registry, base, tmp_path):
    adapter = register("sst2")
    picture = tmp_path / "any.png"
    picture.write_bytes(b"png")
    scores = {BASE_ID: {"T1": 0.25, "T1_se": 0.5}, adapter.adapter_id: {"T1": -1.0}}
    registry.set_traits(base, scores, plots={adapter.adapter_id: picture})
    client = mlflow_client(registry)
    (row,) = client.search_runs(
        [client.get_run(adapter.run_id).info.experiment_id], "tags.`adapt.kind` = 'base'"
    )
    assert row.data.metrics["trait/T1"] == 0.25
    assert row.data.metrics["trait/T1_se"] == 0.5
    assert [f.path for f in client.list_artifacts(adapter.run_id, "plots")] == ["plots/traits.png"]
    assert client.list_artifacts(row.info.run_id, "plots") == []


def test_the_last_fit_of_traits_is_kept_on_the_bases_run(
    register, registry, open_registry, base, tmp_path
):
    assert registry.trait_fit(base) is None  # a base nobody knows yet
    register("sst2")
    assert registry.trait_fit(base) is None
    picture = tmp_path / "any.png"
    picture.write_bytes(b"png")
    for number in (1, 2):
        registry.set_trait_fit(base, {"n": number}, note="| T1 |", plots={"heat.png": picture})
        assert open_registry().trait_fit(base) == {"n": number}
    client = mlflow_client(registry)
    experiments = [client.get_experiment_by_name(f"adapters/{base.name}").experiment_id]
    (row,) = client.search_runs(experiments, "tags.`adapt.kind` = 'base'")
    assert row.data.tags["mlflow.note.content"] == "| T1 |"
    paths = {f.path for f in client.list_artifacts(row.info.run_id)}
    assert paths == {"traits.json", "plots"}


def test_a_removed_adapter_is_gone_everywhere(register, registry, open_registry, base, task):
    adapter, kept = register("sst2"), register("trec-lora")
    reader = open_registry()
    registry.add_cells(base, BASE_ROW, task, [cell(BASE_ID, 0.5)])
    for each in (adapter, kept):
        registry.add_cells(base, each, task, [cell(each.adapter_id, 0.7)])
    assert len(reader.transfer_matrix(base).cells) == 3
    registry.remove(adapter)
    for each in (registry, reader, open_registry()):
        assert each.adapters(base) == [kept]
        assert {c.row.id for c in each.transfer_matrix(base).cells} == {
            BASE_ID,
            kept.adapter_id,
        }
        assert (adapter.row, "trec", "p1") not in each.measured(base)
    client = mlflow_client(registry)
    assert client.get_run(adapter.run_id).info.lifecycle_stage == "deleted"
    assert [model.name for model in client.search_registered_models()] == ["trec-lora"]
    with pytest.raises(NotFoundError, match="No adapter 'sst2'"):
        registry.adapter("sst2")


def test_a_removed_adapter_can_come_back(
    registry, open_registry, adapter_folder, adapter_record, base, task
):
    folder = adapter_folder()
    record = adapter_record(folder, "sst2")
    first = registry.add_adapter(record, folder)
    registry.add_cells(base, first, task, [cell(first.adapter_id, 0.7)])
    registry.remove(first)
    second = registry.add_adapter(record, folder)
    assert second.run_id != first.run_id
    assert open_registry().adapters(base) == [second]
    assert open_registry().transfer_matrix(base).cells == ()
    registry.add_cells(base, second, task, [cell(second.adapter_id, 0.8)])
    assert [c.score for c in open_registry().transfer_matrix(base).cells] == [0.8]


def test_the_champion_moves_on_when_its_version_is_removed(register, registry):
    first, second = register("sst2"), register("sst2")
    registry.remove(first)
    assert registry.adapter("sst2@champion") == second
