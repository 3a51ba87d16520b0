"""What the machine has and lacks, and that one broken thing never hides the others."""

from adapt_lora.registry import Registry
from adapt_lora.roads.doctor import examine


def looked_at(tracking_uri, base_model):
    return {check.name: check for check in examine(str(tracking_uri), str(base_model))}


def test_a_whole_machine_is_ok_and_what_is_not_needed_is_a_note(tmp_path, tiny_base_dir):
    checks = looked_at(tmp_path / "registry", tiny_base_dir)
    assert checks["torch"].status == "ok"
    assert checks["base model"].status == "ok"
    assert str(tiny_base_dir) in checks["base model"].detail
    assert checks["registry"].detail.endswith("not there yet, made at the first registration")
    assert {check.status for name, check in checks.items() if name in ("vllm", "spacy")} <= {
        "ok",
        "note",
    }
    assert not (tmp_path / "registry").exists()


def test_what_is_missing_comes_with_the_command_that_mends_it(tmp_path, monkeypatch):
    monkeypatch.setattr("adapt_lora.roads.doctor._NEEDED", ("torch", "no-such-package"))
    checks = looked_at(tmp_path / "registry", tmp_path / "nowhere.gguf")
    assert (checks["no-such-package"].status, checks["no-such-package"].mend) == (
        "missing",
        "pip install no-such-package",
    )
    assert checks["base model"].status == "missing"
    assert "nowhere.gguf" in checks["base model"].detail
    assert "--base-model" in checks["base model"].mend
    assert checks["registry"].status == "ok"


def test_the_registry_s_adapters_are_counted(tmp_path, tiny_adapter, tiny_base_dir, fresh_store):
    from adapt_lora import roads

    registry = Registry(fresh_store, cache_folder=tmp_path / "cache")
    roads.register(tiny_adapter("one"), registry=registry, base_model=str(tiny_base_dir))
    checks = looked_at(fresh_store, tiny_base_dir)
    assert checks["registry"].detail.endswith("adapters: tiny/llama: 1")


def test_a_registry_that_can_t_be_opened_is_one_line_among_the_others(tmp_path, tiny_base_dir):
    (tmp_path / "mlflow.db").write_text("this is no database")
    checks = looked_at(f"sqlite:///{tmp_path / 'mlflow.db'}", tiny_base_dir)
    assert checks["registry"].status == "missing"
    assert "export MLFLOW_TRACKING_URI" in checks["registry"].mend
    assert checks["base model"].status == "ok"
