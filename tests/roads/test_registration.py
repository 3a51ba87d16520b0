"""Adapters that come as they are, checked and filed."""

import json

import pytest

from adapt_lora import roads
from adapt_lora.errors import AdapterError
from adapt_lora.registry import Registry


@pytest.fixture
def registry(tmp_path, fresh_store):
    return Registry(fresh_store, cache_folder=tmp_path / "cache")


def test_an_adapter_without_known_data_is_registered_with_an_empty_dataset_part(
    registry, tiny_base_dir, tiny_adapter
):
    folder = tiny_adapter("stray", seed=5)
    record = roads.register(folder, registry=registry, base_model=str(tiny_base_dir))
    assert record.dataset is None
    assert not record.fingerprint.values
    assert record.behaviour
    assert roads.register(folder, registry=registry, base_model=str(tiny_base_dir)) == record


def test_an_adapter_without_effect_leaves_nothing_behind(registry, tiny_base_dir, tiny_adapter):
    with pytest.raises(AdapterError, match=r"changes nothing|all zero"):
        roads.register(tiny_adapter(scale=0.0), registry=registry, base_model=str(tiny_base_dir))
    assert registry.adapters() == []


def test_without_the_base_weights_the_effect_check_is_recorded_as_not_done(registry, tiny_adapter):
    record = roads.register(tiny_adapter("far", seed=9), registry=registry)
    assert record.tags["effect_check"].startswith("not done: tiny/llama")
    assert not record.behaviour


def test_adapters_of_two_bases_that_are_not_here_stay_apart(registry, tiny_adapter):
    for number, base in enumerate(("org/llama", "other/qwen")):
        folder = tiny_adapter(f"a{number}", seed=number)
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = base
        (folder / "adapter_config.json").write_text(json.dumps(config))
        roads.register(folder, registry=registry)
    assert [base.name for base in registry.bases()] == ["org/llama", "other/qwen"]
    assert [record.name for record in registry.adapters(registry.bases()[0])] == ["a0"]


def test_a_name_is_kept_as_it_is_written(registry, tiny_base_dir, tiny_adapter):
    folder = tiny_adapter("org.name", seed=6)
    record = roads.register(folder, registry=registry, base_model=str(tiny_base_dir))
    assert record.name == "org.name"


def test_an_adapter_of_a_kind_that_is_not_scored_leaves_nothing_behind(registry, tiny_adapter):
    # Said even where the base is not here.
    folder = tiny_adapter("late")
    _set(folder, alora_invocation_tokens=[5, 6])
    with pytest.raises(AdapterError, match="alora_invocation_tokens: it is an Activated LoRA"):
        roads.register(folder, registry=registry)
    assert registry.adapters() == []


def test_targets_without_tensors_and_unknown_settings_stay_with_the_entry(
    registry, tiny_base_dir, tiny_adapter, recwarn
):
    folder = tiny_adapter("wide", seed=7)
    _set(folder, target_modules=["q_proj", "v_proj", "k_proj"], use_fancy=True)
    roads.register(folder, registry=registry, base_model=str(tiny_base_dir))
    said = registry.adapters()[0].warnings
    assert "use_fancy=True" in said[0]
    assert "2 modules that its file has no tensors for (k_proj)" in said[1]
    assert not [warning for warning in recwarn if "PEFT" in str(warning.message)]


def _set(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
