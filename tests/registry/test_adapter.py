import json

import numpy as np
import pytest

from adapt_lora.errors import AdapterError
from adapt_lora.registry.adapter import check_fits, check_scorable, copy_adapter, read_adapter
from tests.registry.conftest import HIDDEN, lora_tensors

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


def test_a_sound_folder_reads_as_a_record(adapter_folder):
    adapter = read_adapter(adapter_folder())
    assert adapter.rank == 2
    assert adapter.base_name == "org/tiny-llama"
    assert adapter.shapes[f"{Q0}.lora_A.weight"] == (2, HIDDEN)
    assert {pair.scaling for pair in adapter.pairs} == {2.0}
    assert adapter.warnings == ()
    assert adapter.tags == {"vllm": "supported"}
    assert adapter.params["lora/target_modules"] == "down_proj, q_proj"


def test_same_content_in_another_order_has_the_same_id(adapter_folder):
    first = read_adapter(adapter_folder("first"))
    reordered = read_adapter(
        adapter_folder(
            "second",
            tensors=dict(reversed(lora_tensors().items())),
            target_modules=["down_proj", "q_proj"],
            use_rslora=False,
            inference_mode=True,
        )
    )
    assert first.adapter_id == reordered.adapter_id


@pytest.mark.parametrize(
    "change",
    [{"lora_alpha": 8}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 1}}, {"seed": 1}],
    ids=str,
)
def test_what_changes_the_effect_changes_the_id(adapter_folder, change):
    plain = read_adapter(adapter_folder("plain"))
    changed = read_adapter(adapter_folder("changed", **change))
    assert plain.adapter_id != changed.adapter_id


def test_rank_and_alpha_patterns_rule_single_modules(adapter_folder):
    tensors = lora_tensors()
    tensors[f"{Q0}.lora_A.weight"] = np.ones((3, HIDDEN), np.float32)
    tensors[f"{Q0}.lora_B.weight"] = np.ones((HIDDEN, 3), np.float32)
    folder = adapter_folder(
        tensors=tensors,
        rank_pattern={"layers.0.self_attn.q_proj": 3},
        alpha_pattern={"layers.0.self_attn.q_proj": 9},
        use_rslora=True,
    )
    adapter = read_adapter(folder)
    special = next(pair for pair in adapter.pairs if pair.rank == 3)
    assert adapter.rank == 3
    assert special.scaling == pytest.approx(9 / np.sqrt(3))


def _renamed(old, new):
    tensors = lora_tensors()
    return {key.replace(old, new): value for key, value in tensors.items()}


def _with(key, value):
    return lora_tensors() | {key: value}


def _without(key):
    return {name: value for name, value in lora_tensors().items() if name != key}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        pytest.param(_renamed("base_model.model.", ""), "skip it in silence", id="no PEFT prefix"),
        pytest.param(
            _renamed(".weight", ".default.weight"), "adapter's name inside", id="raw state dict"
        ),
        pytest.param(_renamed("lora_B", "lora_C"), "neither a LoRA factor", id="misspelt factor"),
        pytest.param(
            _without(f"{Q0}.lora_B.weight"), "has a lora_A but no lora_B", id="half a pair"
        ),
        pytest.param(
            _with(f"{Q0}.lora_B.weight", np.full((HIDDEN, 2), np.nan, np.float32)),
            "24 numbers that are NaN",
            id="diverged",
        ),
        pytest.param(
            _with(f"{Q0}.lora_B.weight", np.full((HIDDEN, 2), np.inf, np.float16)),
            "NaN or infinite",
            id="overflow in half precision",
        ),
        pytest.param(
            {k: v * ("lora_A" in k) for k, v in lora_tensors().items()},
            "every lora_B is zero",
            id="untrained",
        ),
        pytest.param(
            _with(f"{Q0}.lora_A.weight", np.ones((3, HIDDEN), np.float32)),
            "has 3 rows, but adapter_config.json says r = 2",
            id="rank of another config",
        ),
        pytest.param(
            _with(f"{Q0}.lora_B.weight", np.ones((HIDDEN, 3), np.float32)),
            "can't be multiplied",
            id="factors of two adapters",
        ),
        pytest.param({"x": np.ones(2, np.float32)}, "not understood", id="not an adapter"),
        pytest.param(
            _with(f"{Q0}.lora_A.weight", np.ones((2, HIDDEN), np.int8)), "stored as I8", id="int8"
        ),
    ],
)
def test_broken_weights_get_their_sentence(adapter_folder, tensors, words):
    with pytest.raises(AdapterError, match=words):
        read_adapter(adapter_folder(tensors=tensors))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "only LORA"),
        ({"r": 0}, "whole rank above zero"),
        ({"without": ["r"]}, "r is None"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much'"),
        ({"rank_pattern": {"(": 2}}, r"rank_pattern is .*; it must be an object"),
        ({"base_model_name_or_path": "/home/me/models/llama"}, "--base-model"),
        ({"base_model_name_or_path": "./llama"}, "a path on a disk"),
        ({"base_model_name_or_path": None}, "is not set"),
    ],
    ids=str,
)
def test_unusable_configs_get_their_sentence(adapter_folder, config, words):
    with pytest.raises(AdapterError, match=words):
        read_adapter(adapter_folder(**config))


def test_a_given_base_model_replaces_a_private_path(adapter_folder, tmp_path):
    folder = adapter_folder(base_model_name_or_path="/home/me/llama")
    (folder / "README.md").write_text("base_model: /home/me/llama")
    adapter = read_adapter(folder, base_model="org/tiny-llama")
    copied = copy_adapter(adapter, tmp_path / "copy")
    texts = "".join(path.read_text() for path in copied.iterdir() if path.suffix != ".safetensors")
    assert "/home/me" not in texts
    assert read_adapter(copied).adapter_id == adapter.adapter_id


def test_another_base_model_than_the_config_names_is_said(adapter_folder):
    adapter = read_adapter(adapter_folder(), base_model="org/other")
    assert "org/tiny-llama" in adapter.warnings[0]


def test_a_path_as_the_given_base_model_is_refused(adapter_folder):
    with pytest.raises(AdapterError, match="recorded by its Hub id"):
        read_adapter(adapter_folder(), base_model="/home/me/llama")


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias=all"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["score"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights=pissa_niter_4"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights=loftq"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"use_qalora": True}, "use_qalora"),
    ],
    ids=str,
)
def test_what_vllm_refuses_is_registered_with_a_tag(adapter_folder, config, found):
    assert read_adapter(adapter_folder(**config)).tags == {"vllm": f"unsupported: {found}"}


def test_an_adapted_output_head_gives_a_warning(adapter_folder):
    tensors = lora_tensors()
    tensors["base_model.model.lm_head.lora_A.weight"] = np.ones((2, HIDDEN), np.float32)
    tensors["base_model.model.lm_head.lora_B.weight"] = np.ones((20, 2), np.float32)
    assert "lm_head" in read_adapter(adapter_folder(tensors=tensors)).warnings[0]


def test_missing_places_and_files_are_named(adapter_folder, tmp_path):
    with pytest.raises(AdapterError, match="no such folder"):
        read_adapter(tmp_path / "nowhere")
    folder = adapter_folder("inner")
    with pytest.raises(AdapterError, match="this is a file"):
        read_adapter(folder / "adapter_config.json")
    with pytest.raises(AdapterError, match="There is one in inner"):
        read_adapter(tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"no adapter_model\.safetensors"):
        read_adapter(folder)
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(AdapterError, match="can run code"):
        read_adapter(folder)


@pytest.mark.parametrize("kept", [0, 5, 100, -7])
def test_a_cut_off_weights_file_is_said_to_be_one(adapter_folder, kept):
    path = adapter_folder() / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(AdapterError, match="not a readable safetensors file"):
        read_adapter(path.parent)


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff\xfe"])
def test_a_config_that_is_no_json_object_is_said_to_be_none(adapter_folder, text):
    folder = adapter_folder()
    (folder / "adapter_config.json").write_bytes(text)
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        read_adapter(folder)


def test_bfloat16_reads_as_numbers(adapter_folder):
    import torch
    from safetensors.torch import save_file

    folder = adapter_folder()
    tensors = {k: torch.from_numpy(v).bfloat16() for k, v in lora_tensors().items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    from adapt_lora.registry.adapter import read_tensors

    read = read_tensors(folder / "adapter_model.safetensors")
    key = f"{Q0}.lora_A.weight"
    np.testing.assert_array_equal(read[key].values(), tensors[key].float().numpy())
    assert read_adapter(folder).rank == 2


def test_an_adapter_fits_its_own_base(adapter_folder, base_folder):
    check_fits(read_adapter(adapter_folder()), base_folder)


def test_an_adapter_of_another_size_or_depth_does_not_fit(adapter_folder, base_folder):
    wide = read_adapter(adapter_folder("wide", tensors=lora_tensors(hidden=HIDDEN + 4)))
    with pytest.raises(AdapterError, match="made for a weight of 16 × 16"):
        check_fits(wide, base_folder)
    deep = read_adapter(adapter_folder("deep", tensors=lora_tensors(layers=4)))
    with pytest.raises(AdapterError, match=r"layers\.3\.mlp\.down_proj is not in the base"):
        check_fits(deep, base_folder)


def test_only_allowed_files_are_copied(adapter_folder, tmp_path):
    folder = adapter_folder()
    for name in ("training_args.bin", "optimizer.pt", "rows.jsonl", "tokenizer.json", "README.md"):
        (folder / name).write_text("{}")
    copied = copy_adapter(read_adapter(folder), tmp_path / "copy")
    assert sorted(path.name for path in copied.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
    ]
    assert json.loads((copied / "adapter_config.json").read_text())["r"] == 2


@pytest.mark.parametrize(
    ("renamed", "words"),
    [
        (lambda key: key.replace("model.model", "model._orig_mod.model"), "_orig_mod"),
        (lambda key: key.replace("e_model.model.", "e_model.model.module."), "name of a wrapper"),
        (lambda key: key.replace("layers", "_fsdp_wrapped_module.layers"), "name of a wrapper"),
        (lambda key: key.replace("lora_A.weight", "lora_a"), "as MLX names them"),
        (lambda key: key.replace("lora_A", "lora_down"), "tools for image models"),
    ],
    ids=["compiled", "parallel", "FSDP", "MLX", "kohya"],
)
def test_names_of_another_tool_are_said_to_be_of_it(adapter_folder, renamed, words):
    folder = adapter_folder(tensors={renamed(key): v for key, v in lora_tensors().items()})
    with pytest.raises(AdapterError, match=words):
        read_adapter(folder)


@pytest.mark.parametrize("head", ["score.weight", "classifier.dense.weight", "v_head.summary"])
def test_a_classifier_s_head_is_said_to_be_one(adapter_folder, head):
    tensors = _with(f"base_model.model.{head}", np.ones((2, HIDDEN), np.float32))
    folder = adapter_folder(tensors=tensors, modules_to_save=["score", "classifier"])
    with pytest.raises(AdapterError, match="head of a classifier or a reward model"):
        read_adapter(folder)


def test_a_reward_model_s_head_is_said_to_be_one_without_a_prefix_too(adapter_folder):
    folder = adapter_folder(tensors=_with("v_head.summary.weight", np.ones((1, HIDDEN))))
    with pytest.raises(AdapterError, match="head of a classifier or a reward model"):
        read_adapter(folder)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (f"{Q0}.lora_magnitude_vector", "the config does not set use_dora"),
        (f"{Q0}.lora_B.bias", "the config does not set lora_bias"),
        (
            "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
            "the config does not set trainable_token_indices",
        ),
        (f"{Q0}.bias", "bias is neither all nor lora_only"),
        ("base_model.model.model.norm.weight", "nor of a module that modules_to_save names"),
    ],
)
def test_a_tensor_that_the_config_leaves_out_names_the_setting(adapter_folder, tensor, words):
    folder = adapter_folder(tensors=_with(tensor, np.ones(HIDDEN, np.float32)))
    with pytest.raises(AdapterError, match=words):
        read_adapter(folder)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"invocation_string": "<certainty>"}, "invocation_string"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"use_qalora": True}, "use_qalora"),
        ({"task_type": "SEQ_CLS"}, "task_type SEQ_CLS"),
        ({"task_type": "FEATURE_EXTRACTION"}, "task_type FEATURE_EXTRACTION"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "corda"}, "init_lora_weights=corda"),
        ({"init_lora_weights": "loftq"}, "quantised by LoftQ"),
    ],
    ids=str,
)
def test_what_is_not_scored_is_read_but_not_taken(adapter_folder, config, name):
    # Read, for an entry that a registry has already can still be copied and removed.
    adapter = read_adapter(adapter_folder(**config))
    with pytest.raises(AdapterError, match=name):
        check_scorable(adapter)


def test_what_is_scored_is_taken(adapter_folder):
    for name, config in {"a": {}, "b": {"use_dora": True}, "c": {"task_type": "CAUSAL_LM"}}.items():
        check_scorable(read_adapter(adapter_folder(name, **config)))


def test_settings_that_peft_does_not_know_are_said_where_they_are_set(adapter_folder):
    old = adapter_folder("old", enable_lora=None, merge_weights=False)
    assert read_adapter(old).warnings == ()
    new = read_adapter(adapter_folder("new", use_fancy=True, peft_version="0.99"))
    assert "use_fancy=True" in new.warnings[0]
    assert "saved by PEFT 0.99" in new.warnings[0]


def test_a_scale_of_its_own_for_a_module_is_not_for_vllm(adapter_folder):
    uneven = read_adapter(adapter_folder(alpha_pattern={"q_proj": 9}))
    assert uneven.tags == {"vllm": "unsupported: alpha_pattern"}
    same = read_adapter(adapter_folder("same", alpha_pattern={"q_proj": 4}))
    assert same.tags == {"vllm": "supported"}


def test_a_name_of_modules_to_save_is_the_end_of_a_module_s_name(adapter_folder):
    norm = "base_model.model.model.layers.0.post_attention_layernorm.weight"
    tensors = _with(norm, np.ones(HIDDEN, np.float32))
    assert norm in read_adapter(adapter_folder(tensors=tensors, modules_to_save=["norm"])).shapes


def test_fan_in_fan_out_says_nothing_of_the_base(adapter_folder, base_folder):
    tensors = lora_tensors()
    check_fits(read_adapter(adapter_folder(tensors=tensors, fan_in_fan_out=True)), base_folder)


def test_a_resized_vocabulary_is_said_to_be_one(adapter_folder, base_folder):
    key = "base_model.model.model.embed_tokens.weight"
    adapter = read_adapter(adapter_folder(tensors=_with(key, np.ones((28, HIDDEN), np.float32))))
    with pytest.raises(AdapterError, match=r"has 28 tokens, the base model at .* has 20"):
        check_fits(adapter, base_folder)


def test_an_adapter_of_a_decoder_without_head_is_said_to_be_one(adapter_folder, base_folder):
    adapter = read_adapter(adapter_folder(tensors=_renamed("model.model.model.", "model.model.")))
    with pytest.raises(AdapterError, match="the decoder without its head"):
        check_fits(adapter, base_folder)
