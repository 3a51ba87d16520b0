import json
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from adapt_lora.errors import (
    AdapterError,
    BaseModelMismatch,
    ConfigError,
    NotFoundError,
    RegistryError,
)
from adapt_lora.registry import Registry, layout, read_adapter
from adapt_lora.registry.records import (
    BASE_ID,
    BASE_ROW,
    MAJORITY_ID,
    MAJORITY_ROW,
    MatrixRow,
    StepRecord,
)
from tests.registry.conftest import cell, task_named


@pytest.fixture
def register(registry, adapter_folder, adapter_record):
    """Registers a new little adapter: register("sst2")."""
    seeds = iter(range(100))

    def add(name="sst2", **more):
        seed = next(seeds)
        folder = adapter_folder(f"{name.replace('/', '-')}-{seed}", seed=seed)
        return registry.add_adapter(adapter_record(folder, name, **more), folder)

    return add


def _client(registry):
    from mlflow import MlflowClient

    return MlflowClient(registry.tracking_uri, registry_uri=registry.tracking_uri)


def _runs(registry, kind, experiment="adapters/org/tiny-llama"):
    client = _client(registry)
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id], f"tags.`adapt.kind` = '{kind}'")


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
    assert len(_runs(registry, "adapter")) == 1


def test_a_crashed_registration_is_never_listed_and_leaves_nothing(
    registry, open_registry, adapter_folder, adapter_record, base, tmp_path
):
    folder = adapter_folder()
    record = adapter_record(folder, "sst2")
    with pytest.raises(FileNotFoundError):
        registry.add_adapter(record, folder, plots={"a.png": tmp_path / "missing.png"})
    assert len(_runs(registry, "adapter")) == 1  # what the crash left
    assert registry.adapters(base) == []
    assert open_registry().adapters(base) == []
    stored = open_registry().add_adapter(record, folder)
    assert open_registry().adapters(base) == [stored]
    assert [run.info.run_id for run in _runs(registry, "adapter")] == [stored.run_id]
    versions = _client(registry).search_model_versions("name = 'sst2'")
    assert [version.run_id for version in versions] == [stored.run_id]


def test_people_see_sections_dataset_and_card(register, registry):
    stored = register("sst2")
    run = _client(registry).get_run(stored.run_id)
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
    client = _client(registry)
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
    _client(registry).create_registered_model("churn")
    with pytest.raises(RegistryError, match="not an adapter"):
        register("churn")
    with pytest.raises(ConfigError, match="letters"):
        register("..")


def test_two_bases_stay_apart(register, registry, base, other_base, task):
    here = register("sst2")
    there = register("sst2", of=other_base)
    registry.add_cells(base, here, task, [cell(here.adapter_id, 0.7)])
    registry.add_cells(other_base, BASE_ROW, task, [cell(BASE_ID, 0.1)])
    assert registry.adapters(base) == [here]
    assert registry.adapters(other_base) == [there]
    assert [c.score for c in registry.transfer_matrix(base).cells] == [0.7]
    assert [c.score for c in registry.transfer_matrix(other_base).cells] == [0.1]
    assert registry.adapter("sst2", other_base) == there
    with pytest.raises(NotFoundError, match="of 2 base models"):
        registry.adapter("sst2")


def test_other_weights_of_a_base_warn_and_another_architecture_is_an_error(
    register, registry, open_registry, base
):
    register("sst2")
    requantised = replace(base, weights="c" * 64)
    assert registry.ensure_base(base) is None
    assert "near, not equal" in open_registry().ensure_base(requantised)
    assert "near, not equal" in open_registry().base_warning(requantised)
    assert len(open_registry().adapters(requantised)) == 1
    assert registry.bases() == [base]
    with pytest.raises(BaseModelMismatch, match="another architecture"):
        open_registry().adapters(replace(base, architecture="c" * 64))


def test_reading_an_empty_registry_writes_nothing(registry, base):
    assert registry.adapters(base) == []
    assert registry.tasks(base) == []
    assert registry.transfer_matrix(base).cells == ()
    assert (BASE_ROW, "trec", "p1") not in registry.measured(base)
    assert registry.base_warning(base) is None
    assert registry.bases() == []


def test_cells_make_the_transfer_matrix(register, registry, open_registry, base, task):
    adapter = register("sst2")
    sms = task_named("sms spam?", digest="9" * 64)
    registry.add_cells(base, BASE_ROW, task, [cell(BASE_ID, 0.5)])
    registry.add_cells(base, MAJORITY_ROW, task, [cell(MAJORITY_ID, 0.4)])
    registry.add_cells(base, adapter, task, [cell(adapter.adapter_id, 0.75, selected=True)])
    registry.add_cells(base, adapter, sms, [cell(adapter.adapter_id, 0.9, task="sms spam?")])
    for reader in (registry, open_registry()):
        matrix = reader.transfer_matrix(base)
        assert matrix.tasks == (task, sms)
        assert matrix.adapters == (adapter,)
        assert matrix.cell(adapter.row, "trec") == cell(adapter.adapter_id, 0.75, selected=True)
        assert matrix.cell(BASE_ROW, "trec") == cell(BASE_ID, 0.5)
        assert matrix.cell(MAJORITY_ROW, "trec") == cell(MAJORITY_ID, 0.4)
        assert matrix.cell(BASE_ROW, "sms spam?") is None
        assert reader.tasks(base) == [task, sms]
        assert (adapter.row, "trec", "p1") in reader.measured(base)
        assert (adapter.row, "trec", "p2") not in reader.measured(base)


def test_one_job_keeps_one_run_per_adapter(register, registry, open_registry, base, task):
    adapter = register("sst2")
    for name in ("trec", "boolq", "rte"):
        registry.add_cells(
            base, adapter, task_named(name), [cell(adapter.adapter_id, 0.5, task=name)]
        )
    evaluations = "evaluations/org/tiny-llama"
    assert len(_runs(registry, "cells", evaluations)) == 1
    assert len(_runs(registry, "task", evaluations)) == 3
    later = open_registry()
    later.add_cells(base, adapter, task, [cell(adapter.adapter_id, 0.6, protocol="p2")])
    assert len(_runs(registry, "cells", evaluations)) == 2
    assert len(_runs(registry, "task", evaluations)) == 3


def test_measuring_again_replaces_the_cell_and_another_protocol_stands_beside(
    register, registry, open_registry, base, task
):
    adapter = register("sst2")
    mine = adapter.adapter_id
    registry.add_cells(base, adapter, task, [cell(mine, 0.6)])
    time.sleep(0.01)
    registry.add_cells(base, adapter, task, [cell(mine, 0.7)])
    open_registry().add_cells(base, adapter, task, [cell(mine, 0.9, protocol="p2")])
    assert registry.cell(base, adapter.row, "trec", "p1").score == 0.7
    assert registry.cell(base, adapter.row, "trec", "p2").score == 0.9
    assert registry.transfer_matrix(base, protocol="p1").cell(adapter.row, "trec").score == 0.7


def test_the_models_tab_is_the_transfer_matrix(register, registry, base, task):
    adapter = register("sst2")
    sms = task_named("sms", digest="9" * 64)
    registry.add_cells(base, BASE_ROW, task, [cell(BASE_ID, 0.5)])
    registry.add_cells(base, MAJORITY_ROW, task, [cell(MAJORITY_ID, 0.4)])
    for each, score in ((task, 0.75), (sms, 0.9)):
        measured = [cell(adapter.adapter_id, score, task=each.name)]
        registry.add_cells(base, adapter, each, measured)
    client = _client(registry)
    experiment = client.get_experiment_by_name("adapters/org/tiny-llama")
    rows = {
        model.name: {
            (metric.dataset_name, metric.key): metric.value
            for metric in model.metrics
            if metric.dataset_name
        }
        for model in client.search_logged_models([experiment.experiment_id])
    }
    assert rows == {
        "base model org_tiny-llama": {("trec", "balanced_accuracy"): 0.5},
        "majority label": {("trec", "balanced_accuracy"): 0.4},
        "sst2": {("trec", "balanced_accuracy"): 0.75, ("sms", "balanced_accuracy"): 0.9},
    }


def test_cells_of_somebody_else_are_refused(register, registry, base, task):
    adapter = register("sst2")
    with pytest.raises(RegistryError, match="not all of sst2"):
        registry.add_cells(base, adapter, task, [cell(BASE_ID, 0.5)])
    with pytest.raises(RegistryError, match="neither a registered adapter"):
        registry.add_cells(base, MatrixRow("sst2"), task, [cell("sst2", 0.5)])


def test_scores_and_gains_stand_beside_the_fingerprint(register, registry, base, task):
    adapter = register("sst2")
    registry.add_cells(base, BASE_ROW, task, [cell(BASE_ID, 0.5)])
    registry.add_cells(base, adapter, task, [cell(adapter.adapter_id, 0.75)])
    registry.update_scores(base)
    metrics = _client(registry).get_run(adapter.run_id).data.metrics
    assert metrics["score/trec"] == 0.75
    assert metrics["gain/trec"] == 0.25


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
    client = _client(registry)
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
    client = _client(registry)
    experiments = [client.get_experiment_by_name(f"adapters/{base.name}").experiment_id]
    (row,) = client.search_runs(experiments, "tags.`adapt.kind` = 'base'")
    assert row.data.tags["mlflow.note.content"] == "| T1 |"
    paths = {f.path for f in client.list_artifacts(row.info.run_id)}
    assert paths == {"traits.json", "plots"}


def test_pulling_gives_back_the_same_adapter(register, registry, tmp_path):
    adapter = register("sst2")
    pulled = registry.pull("sst2", tmp_path / "out")
    assert read_adapter(pulled).adapter_id == adapter.adapter_id
    assert registry.pull("sst2", tmp_path / "out") == pulled  # there already
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(RegistryError, match="not an empty folder"):
        registry.pull("sst2", tmp_path / "full")
    assert [path.name for path in tmp_path.glob(".adapt-*")] == []


def test_files_that_were_changed_behind_the_registry_are_not_pulled(
    register, registry, adapter_folder, tmp_path
):
    adapter = register("sst2")
    location = _client(registry).get_logged_model(adapter.model_id).artifact_location
    changed = adapter_folder("changed", seed=99) / "adapter_model.safetensors"
    target = Path(location.removeprefix("file://")) / "adapter_model.safetensors"
    target.write_bytes(changed.read_bytes())
    with pytest.raises(RegistryError, match="not the ones that were registered"):
        registry.pull("sst2", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_figures_without_files_can_be_kept_but_not_pulled(
    registry, open_registry, adapter_folder, adapter_record, base, tmp_path
):
    stored = registry.add_adapter(adapter_record(adapter_folder(), "figures"), None)
    assert open_registry().adapters(base) == [stored]
    assert not stored.has_weights
    with pytest.raises(RegistryError, match="figures only"):
        registry.pull("figures", tmp_path / "out")


def test_mlflow_sources_are_fetched(register, registry, adapter_folder, tmp_path):
    adapter = register("sst2")
    client = _client(registry)
    place = (tmp_path / "artifacts-elsewhere").as_uri()
    foreign = client.create_run(client.create_experiment("foreign", artifact_location=place))
    folder = adapter_folder("foreign", seed=77)
    (folder / "training_args.bin").write_bytes(b"pickle")
    client.log_artifacts(foreign.info.run_id, str(folder), "out/adapter")
    for source, wanted in {
        "models:/sst2/1": adapter.adapter_id,
        "models:/sst2@champion": adapter.adapter_id,
        f"models:/{adapter.model_id}": adapter.adapter_id,
        f"runs:/{foreign.info.run_id}/out": read_adapter(folder).adapter_id,
    }.items():
        fetched = registry.fetch(source, tmp_path / "fetched")
        assert read_adapter(fetched).adapter_id == wanted
        assert not (fetched / "training_args.bin").exists()
    for source in ("models:/nothing/1", "models:/sst2@best", f"runs:/{foreign.info.run_id}/no"):
        with pytest.raises(NotFoundError, match="nothing to fetch"):
            registry.fetch(source, tmp_path / "fetched")
    with pytest.raises(RegistryError, match="not an MLflow source"):
        registry.fetch("s3://x/y", tmp_path)


def test_a_removed_adapter_is_gone_everywhere(register, registry, open_registry, base, task):
    adapter, kept = register("sst2"), register("trec-lora")
    reader = open_registry()
    registry.add_cells(base, BASE_ROW, task, [cell(BASE_ID, 0.5)])
    for each in (adapter, kept):
        registry.add_cells(base, each, task, [cell(each.adapter_id, 0.7)])
    assert len(reader.transfer_matrix(base).cells) == 3
    assert registry.remove("sst2") == adapter
    for each in (registry, reader, open_registry()):
        assert each.adapters(base) == [kept]
        assert {c.row.id for c in each.transfer_matrix(base).cells} == {
            BASE_ID,
            kept.adapter_id,
        }
        assert (adapter.row, "trec", "p1") not in each.measured(base)
    client = _client(registry)
    assert client.get_run(adapter.run_id).info.lifecycle_stage == "deleted"
    assert [model.name for model in client.search_registered_models()] == ["trec-lora"]
    with pytest.raises(NotFoundError, match="No adapter 'sst2'"):
        registry.remove("sst2")


def test_a_removed_adapter_can_come_back(
    registry, open_registry, adapter_folder, adapter_record, base, task
):
    folder = adapter_folder()
    record = adapter_record(folder, "sst2")
    first = registry.add_adapter(record, folder)
    registry.add_cells(base, first, task, [cell(first.adapter_id, 0.7)])
    registry.remove("sst2")
    second = registry.add_adapter(record, folder)
    assert second.run_id != first.run_id
    assert open_registry().adapters(base) == [second]
    assert open_registry().transfer_matrix(base).cells == ()
    registry.add_cells(base, second, task, [cell(second.adapter_id, 0.8)])
    assert [c.score for c in open_registry().transfer_matrix(base).cells] == [0.8]


def test_the_champion_moves_on_when_its_version_is_removed(register, registry):
    register("sst2")
    second = register("sst2")
    registry.remove("sst2/1")
    assert registry.adapter("sst2@champion") == second


def test_a_changed_folder_is_noticed(registry, adapter_folder, adapter_record, base):
    record = adapter_record(adapter_folder("first", seed=1), "sst2")
    with pytest.raises(AdapterError, match="changed while"):
        registry.add_adapter(record, adapter_folder("second", seed=2))
    assert registry.adapters(base) == []


def test_the_saved_view_and_the_link_lead_to_the_adapters(register, registry, base):
    register("sst2")
    registry.ensure_views(base)
    registry.ensure_views(base)
    experiment = _client(registry).get_experiment_by_name("adapters/org/tiny-llama")
    assert "fingerprint/response_ppl" not in experiment.tags["mlflow.sharedViewState.adapt"]
    link = registry.ui_link(base, "http://127.0.0.1:5000")
    assert link == (
        f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs"
        "?viewStateShareKey=adapt&workflowType=machine_learning"
    )


def test_nothing_is_printed_and_the_global_store_is_left_alone(
    register, registry, base, task, capfd, tmp_path, monkeypatch
):
    import mlflow

    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    adapter = register("sst2")
    registry.add_cells(base, adapter, task, [cell(adapter.adapter_id, 0.7)])
    registry.pull("sst2", tmp_path / "out")
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
    with pytest.raises(RegistryError, match="did not do what was asked"):
        Registry(tmp_path, cache_folder=tmp_path / "cache").adapters(base)


def test_layout_keys_stay_what_old_registries_hold():
    assert (layout.SCHEMA, layout.STATUS, layout.KIND, layout.ADAPTER_ID) == (
        "1",
        "adapt.status",
        "adapt.kind",
        "adapt.id",
    )
