from pathlib import Path

import pytest

from adapt_lora.errors import (
    AdapterError,
    NotFoundError,
    RegistryError,
)
from adapt_lora.registry import read_adapter
from tests.registry.store.conftest import mlflow_client


def test_pulling_gives_back_the_same_adapter(register, registry, tmp_path):
    adapter = register("sst2")
    pulled = registry.pull(adapter, tmp_path / "out")
    assert read_adapter(pulled).adapter_id == adapter.adapter_id
    assert registry.pull(adapter, tmp_path / "out") == pulled  # there already
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(RegistryError, match="not an empty folder"):
        registry.pull(adapter, tmp_path / "full")
    assert [path.name for path in tmp_path.glob(".adapt-*")] == []


def test_files_that_were_changed_behind_the_registry_are_not_pulled(
    register, registry, adapter_folder, tmp_path
):
    adapter = register("sst2")
    location = mlflow_client(registry).get_logged_model(adapter.model_id).artifact_location
    changed = adapter_folder("changed", seed=99) / "adapter_model.safetensors"
    target = Path(location.removeprefix("file://")) / "adapter_model.safetensors"
    target.write_bytes(changed.read_bytes())
    with pytest.raises(RegistryError, match="not the ones that were registered"):
        registry.pull(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_figures_without_files_can_be_kept_but_not_pulled(
    registry, open_registry, adapter_folder, adapter_record, base, tmp_path
):
    stored = registry.add_adapter(adapter_record(adapter_folder(), "figures"), None)
    assert open_registry().adapters(base) == [stored]
    assert not stored.has_weights
    with pytest.raises(RegistryError, match="figures only"):
        registry.pull(stored, tmp_path / "out")


def test_a_place_that_can_t_be_written_is_named_as_it_was_given(register, registry, tmp_path):
    record = register("sst2")
    (tmp_path / "file").touch()
    with pytest.raises(RegistryError, match=rf"^{tmp_path}/file/x/y: {tmp_path}/file is a file"):
        registry.pull(record, tmp_path / "file" / "x" / "y")
    with pytest.raises(RegistryError, match=r"^/proc/x: no folder can be made there"):
        registry.pull(record, Path("/proc/x"))


def test_mlflow_sources_are_fetched(register, registry, adapter_folder, tmp_path):
    adapter = register("sst2")
    client = mlflow_client(registry)
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


def test_a_changed_folder_is_noticed(registry, adapter_folder, adapter_record, base):
    record = adapter_record(adapter_folder("first", seed=1), "sst2")
    with pytest.raises(AdapterError, match="changed while"):
        registry.add_adapter(record, adapter_folder("second", seed=2))
    assert registry.adapters(base) == []
