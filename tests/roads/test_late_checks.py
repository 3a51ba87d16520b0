"""No check is skipped without a word: bases that are not at hand, other names of them, options."""

import json
import shutil

import pytest

from adapt_lora import roads
from adapt_lora.errors import AdapterError, BaseModelError, RegistryError
from adapt_lora.model.base import load_base_model
from adapt_lora.registry import Registry
from adapt_lora.registry.adapter_files import CONFIG_FILE
from adapt_lora.roads.evaluation import fetch_weights, weights_place
from adapt_lora.roads.registration import entry_name


@pytest.fixture
def registry(tmp_path, fresh_store):
    return Registry(fresh_store, cache_folder=tmp_path / "cache")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the Hub."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("adapt_lora.model.base.MODEL_WHEELS", ())
    return folder


@pytest.fixture
def bring(hub, tiny_base_dir):
    """Puts the tiny base into the Hub's cache: bring("tiny/llama")."""

    def put(name):
        place = hub / f"models--{name.replace('/', '--')}"
        shutil.copytree(tiny_base_dir, place / "snapshots" / ("a" * 40))
        (place / "snapshots" / ("a" * 40) / "adapt_base.json").unlink()
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text("a" * 40)

    return put


@pytest.fixture
def adapter_on(tiny_adapter):
    """An adapter whose config names this base: adapter_on("org/name")."""

    def make(base_name, name="tickets", seed=70):
        folder = tiny_adapter(name, seed=seed)
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = base_name
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder

    return make


def rename_base(folder, base_name):
    path = folder / "adapter_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base_name})
    )


def test_a_base_that_comes_later_is_checked_later(registry, bring, adapter_on):
    folder = adapter_on("tiny/llama")
    record = roads.register(folder, registry=registry, warn=[].append)
    assert record.unchecked.startswith("not done: tiny/llama")
    (one,) = roads.check_registered([], registry=registry)
    assert one.failure.startswith("not checked: tiny/llama")
    bring("tiny/llama")
    (one,) = roads.check_registered(["tickets"], registry=registry)
    assert one.failure is None
    (stored,) = registry.adapters()
    assert stored == one.record
    assert stored.unchecked is None
    assert stored.behaviour
    assert stored.weights
    assert (stored.name, stored.version, stored.run_id) == ("tickets", 1, record.run_id)
    assert registry.bases() == [stored.base]
    assert stored.base.architecture
    assert roads.check_registered([], registry=registry) == []


def test_what_does_not_fit_is_said_when_it_is_checked_and_stays_unchecked(
    registry, bring, adapter_on
):
    from safetensors.numpy import load_file, save_file

    folder = adapter_on("tiny/llama")
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({key.replace(".layers.1.", ".layers.7."): x for key, x in tensors.items()}, weights)
    roads.register(folder, registry=registry, warn=[].append)
    bring("tiny/llama")
    (one,) = roads.check_registered(["tickets"], registry=registry)
    assert "is not in the base model" in one.failure
    (stored,) = registry.adapters()
    assert stored.unchecked.startswith("failed: ")


def test_the_hub_does_not_tell_upper_and_lower_case_apart(registry, bring, adapter_on):
    bring("Tiny/Llama-1")
    record = roads.register(adapter_on("tiny/llama-1"), registry=registry)
    assert record.base.name == "Tiny/Llama-1"
    assert record.unchecked is None
    assert record.warnings == (
        "Its config names tiny/llama-1 as the base; it is registered under Tiny/Llama-1.",
    )
    assert load_base_model("TINY/LLAMA-1").identity == record.base
    assert roads.which_base(registry, "tiny/LLAMA-1") == record.base


@pytest.mark.parametrize(
    "copy",
    [
        "unsloth/Llama-1-bnb-4bit",
        "unsloth/llama-1-unsloth-bnb-4bit",
        "mirror/Llama-1",
        "x/Llama-1-GPTQ",
    ],
)
def test_a_copy_that_is_not_here_is_filed_unchecked_with_the_base_it_may_be(
    registry, bring, adapter_on, copy
):
    bring("tiny/Llama-1")
    record = roads.register(adapter_on(copy), registry=registry)
    assert record.base.name == copy
    assert "reads like tiny/Llama-1, which is on this disk" in record.unchecked
    said = []
    mended = roads.register(
        adapter_on(copy, "again"), registry=registry, base_model="tiny/Llama-1", warn=said.append
    )
    assert mended.base.name == "tiny/Llama-1"
    assert mended.unchecked is None
    assert registry.adapters() == [mended]
    assert said == [f"It replaces the entry of the same content under {copy}, never checked."]


@pytest.mark.parametrize(
    "path",
    [
        "D:/Llama-1",
        "D:\\models\\x",
        "models/any",
        "outputs/base",
        "any",
        "/no/such",
        "./a",
        "s3://b/c",
    ],
)
def test_a_path_is_never_a_hub_id(registry, bring, adapter_on, path):
    bring("tiny/Llama-1")
    with pytest.raises(
        AdapterError, match=r"no Hub id .* leads nowhere.*add --base-model tiny/Lla"
    ):
        roads.register(adapter_on(path), registry=registry)
    assert registry.adapters() == []


def test_an_adapter_is_no_base(registry, adapter_on):
    below = adapter_on("tiny/llama", "below")
    with pytest.raises(AdapterError, match="which is an adapter itself"):
        roads.register(adapter_on(str(below), "above", seed=71), registry=registry)


def test_the_hub_s_old_names_of_one_part_are_hub_ids(registry, adapter_on, hub):
    record = roads.register(adapter_on("gpt2"), registry=registry)
    assert record.base.name == "openai-community/gpt2"
    with pytest.raises(AdapterError, match=r"'llama', which is no Hub id of the form org/name"):
        roads.register(adapter_on("llama", "other", seed=71), registry=registry)


def test_why_a_base_is_not_here_is_said_in_our_words(registry, adapter_on):
    record = roads.register(adapter_on("org/far"), registry=registry)
    assert (
        "not on this disk and not to be had from the Hub (it is switched off by HF_HUB_OFFLINE)."
        in record.unchecked
    )


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("https://huggingface.co/org/name", "Write org/name"),
        ("https://huggingface.co/org/name/tree/main", "Write org/name"),
        ("hf.co/org/name", "Write org/name"),
        ("https://example.org/a.zip", "Give a folder or a Hub id"),
    ],
)
def test_the_address_of_a_page_hints_at_the_hub_id(registry, source, words):
    with pytest.raises(AdapterError, match=f"^{source} is the address of a page.*{words}"):
        roads.register(source, registry=registry)


def test_a_path_that_is_there_is_named_by_what_is_in_it(registry, tiny_base_dir, adapter_on, hub):
    record = roads.register(adapter_on(str(tiny_base_dir)), registry=registry)
    assert (record.base.name, record.unchecked) == ("tiny/llama", None)
    copy = hub / "moved-copy"
    shutil.copytree(tiny_base_dir, copy)
    (copy / "adapt_base.json").unlink()
    other = roads.register(adapter_on(str(copy), "other", seed=71), registry=registry)
    assert other.base == record.base
    third = roads.register(adapter_on("a/b", "third", 72), registry=registry, base_model=str(copy))
    assert third.base == record.base


def test_a_path_into_the_hub_s_cache_spells_the_id(registry, bring, adapter_on):
    bring("tiny/llama-1")
    path = "/somebody/.cache/huggingface/hub/models--tiny--llama-1/snapshots/0123"
    record = roads.register(adapter_on(path), registry=registry)
    assert (record.base.name, record.unchecked) == ("tiny/llama-1", None)


def test_a_mended_base_name_is_the_mended_entry(registry, bring, adapter_on):
    folder = adapter_on("tiny/misspelt")
    roads.register(folder, registry=registry, group="mine")
    bring("tiny/llama")
    rename_base(folder, "tiny/llama")
    said = []
    mended = roads.register(folder, registry=registry, warn=said.append)
    assert [(one.name, one.base.name, one.group) for one in registry.adapters()] == [
        ("tickets", "tiny/llama", "mine")
    ]
    assert mended.unchecked is None
    assert "replaces the entry of the same content under tiny/misspelt" in said[0]


def set_config(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def stored_config(registry, record):
    (found,) = registry.database.parent.rglob(f"*{record.model_id}*/**/adapter_config.json")
    return found


@pytest.mark.parametrize("is_here", [True, False])
def test_a_mended_config_renews_the_stored_one(
    registry, bring, adapter_on, is_here, tmp_path, monkeypatch
):
    """An older version filed what PEFT can't load; its identity is that of the mended one."""
    monkeypatch.setenv("ADAPT_CACHE_DIR", str(tmp_path / "own-cache"))
    folder = adapter_on("tiny/llama")
    record = roads.register(folder, registry=registry)
    set_config(stored_config(registry, record), bias=None, task_type="causal_lm")
    shutil.copytree(stored_config(registry, record).parent, weights_place(record.adapter_id))
    with pytest.raises(RegistryError, match=r'task_type is "causal_lm".* Register the mended'):
        registry.pull(record, tmp_path / "broken")
    if is_here:
        bring("tiny/llama")
    told = []
    mended = roads.register(folder, registry=registry, warn=told.append)
    assert (mended.adapter_id, mended.version) == (record.adapter_id, 1)
    assert (mended.unchecked is None) is is_here
    assert told[0] == "The config of tickets/1 is renewed: it differed in bias, task_type."
    config = json.loads((registry.pull(record, tmp_path / "out") / CONFIG_FILE).read_text())
    assert (config.get("bias"), config["task_type"]) == ("none", "CAUSAL_LM")
    assert json.loads((fetch_weights(registry, mended) / CONFIG_FILE).read_text()) == config
    told.clear()
    roads.register(folder, registry=registry, warn=told.append)
    assert told == []


def test_a_config_that_peft_can_t_load_is_refused_where_its_content_is_known(
    registry, bring, adapter_on
):
    folder = adapter_on("tiny/llama")
    record = roads.register(folder, registry=registry)
    good = stored_config(registry, record).read_text()
    for field, value in (("rank_pattern", None), ("monteclora_config", {"some": 1})):
        broken = adapter_on("tiny/llama", f"broken-{field}")
        set_config(broken / CONFIG_FILE, **{field: value})
        with pytest.raises(AdapterError, match=field):
            roads.register(broken, registry=registry)
    bring("tiny/llama")
    set_config(broken / CONFIG_FILE, monteclora_config=None, task_type="SEQ_2_SEQ_LM")
    with pytest.raises(AdapterError, match="task_type SEQ_2_SEQ_LM"):
        roads.register(broken, registry=registry)
    assert stored_config(registry, record).read_text() == good


def test_another_config_does_not_replace_a_checked_one_unseen(registry, bring, hub, adapter_on):
    bring("tiny/llama")
    folder = adapter_on("tiny/llama")
    record = roads.register(folder, registry=registry)
    good = stored_config(registry, record).read_text()
    shutil.rmtree(hub / "models--tiny--llama")
    set_config(folder / CONFIG_FILE, ensure_weight_tying=True)
    told = []
    assert roads.register(folder, registry=registry, warn=told.append) == record
    assert "differs in ensure_weight_tying" in told[0]
    assert stored_config(registry, record).read_text() == good


def test_a_base_that_is_found_has_its_digest(registry, bring, adapter_on):
    roads.register(adapter_on("tiny/llama"), registry=registry)
    bring("tiny/llama")
    later = roads.register(adapter_on("tiny/llama", "second", seed=71), registry=registry)
    assert not [warning for warning in later.warnings if "digest" in warning]


def test_an_entry_that_was_measured_under_another_base_stays(registry, tiny_base_dir, adapter_on):
    first = roads.register(adapter_on("x/y"), registry=registry, base_model=tiny_base_dir)
    said = []
    again = roads.register(adapter_on("gone/elsewhere", "b"), registry=registry, warn=said.append)
    assert again == first
    assert "is not here to be compared: nothing was written" in said[0]


def test_an_option_that_had_no_effect_is_said(registry, tiny_base_dir, adapter_on, tmp_path):
    folder = adapter_on("tiny/llama")
    roads.register(folder, registry=registry, base_model=tiny_base_dir, name="one")
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "c", "response": "d"}\n')
    said = []
    record = roads.register(
        folder,
        registry=registry,
        base_model=tiny_base_dir,
        name="better",
        dataset=data,
        group="g",
        warn=said.append,
    )
    assert (record.name, record.dataset) == ("one", None)
    assert said == [
        "The same content is registered already, as one/1, so --name better and --dataset and "
        "--group g had no effect; `adapt remove one/1` makes room to register it anew."
    ]
    said.clear()
    roads.register(
        folder,
        registry=registry,
        base_model=tiny_base_dir,
        mapping={"prompt": "a"},
        warn=said.append,
    )
    assert said[0] == "--map had no effect: it is about --dataset, which is not given."
    assert said[1] == "The same content is registered already, as one/1."


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("run_a/checkpoint-40", "run_a"),
        ("run_a/checkpoints/checkpoint-40", "run_a"),
        ("tickets/outputs/lora_model", "tickets"),
        ("saves/qwen-tickets/lora/sft/checkpoint-40", "qwen-tickets"),
        ("spam/final_checkpoint", "spam"),
        ("spam/epoch_3", "spam"),
        ("spam/step-1000/default", "spam"),
        ("spam/last", "spam"),
        ("spam", "spam"),
        ("lora-spam", "lora-spam"),
        ("model-spam/adapter_model", "model-spam"),
        ("checkpoint-spam", "checkpoint-spam"),
    ],
)
def test_a_run_s_folder_names_its_checkpoints(tmp_path, path, name, monkeypatch):
    (tmp_path / "project" / path).mkdir(parents=True)
    assert entry_name(str(tmp_path / "project" / path)) == name
    monkeypatch.chdir(tmp_path / "project" / path)
    assert entry_name(".") == name


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("org/spam-lora", "spam-lora"),
        ("org/lora", "org"),
        ("models:/spam@champion", "spam"),
        (f"runs:/{'a' * 32}/model/adapter", "run-aaaaaaaa"),
        (f"runs:/{'a' * 32}/spam", "spam"),
    ],
)
def test_other_sources_name_entries_too(source, name):
    assert entry_name(source) == name


def test_equal_names_in_a_matrix_carry_versions(
    registry, tiny_base_dir, tiny_base, adapter_on, tmp_path
):
    from adapt_lora.evaluator import EvaluationRequest
    from adapt_lora.report.plain import evaluation_json, matrix_json
    from adapt_lora.report.transfer import filter_matrix

    for seed in (80, 81):
        folder = adapter_on("tiny/llama", f"folder-{seed}", seed)
        roads.register(folder, registry=registry, base_model=tiny_base_dir, name="run")
    task = tmp_path / "t.jsonl"
    task.write_text('{"prompt": "Hi", "response": "Hello"}\n{"prompt": "Bye", "response": "See"}\n')
    request = EvaluationRequest([task], base_model=str(tiny_base_dir))
    done = roads.evaluate(request, registry=registry)
    assert [row.label for row in done.matrix.rows] == ["base", "run/1", "run/2"]
    assert {one["adapter"] for one in evaluation_json(done)["measured"]} == {
        "base model",
        "run/1",
        "run/2",
    }
    assert {one["adapter"] for one in matrix_json(done.matrix)["cells"]} == {
        "base",
        "run/1",
        "run/2",
    }
    assert list(done.matrix.to_pandas().index)[2:] == ["run/1", "run/2"]
    (only,) = filter_matrix(done.matrix, adapters=["run/1"]).adapters
    assert only.version == 1
    assert len(filter_matrix(done.matrix, adapters=["run"]).adapters) == 2
    again = EvaluationRequest([task], base_model=str(tiny_base_dir), adapters=["run/1"])
    assert roads.evaluate(again, registry=registry).report.n_skipped == 2


def test_an_unknown_base_names_its_registered_twin(registry, bring, adapter_on):
    bring("tiny/Llama-1")
    roads.register(adapter_on("tiny/Llama-1"), registry=registry)
    with pytest.raises(BaseModelError, match="The registry knows tiny/Llama-1"):
        roads.which_base(registry, "unsloth/Llama-1-bnb-4bit")
