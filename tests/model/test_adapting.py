"""What is scored with an adapter on is what PEFT alone makes of it, for all that PEFT can save."""

import copy
import dataclasses
import json
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import config as of_lora

from adapt_lora.errors import AdapterError
from adapt_lora.model import adapting
from adapt_lora.model.base import load_base_model
from adapt_lora.model.lora_features import KNOWN_FIELDS, REFUSED_FIELDS
from adapt_lora.model.scoring import encode_row, generate, read_pass

ROWS = [
    ("the film was good and", "positive"),
    ("what is the capital of a city", "yes no"),
    ("one two three", "4 5 6"),
]
LABELS = ["positive", "no"]
PLAIN = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}

# Values of each field that change something on the tiny model, each other than its default.
SETTINGS = {
    "r": [4],
    "lora_alpha": [3],
    "target_modules": [
        "all-linear",
        r".*layers\.1.*(up|down)_proj",
        ["q_proj", "embed_tokens"],
        ["q_proj", "lm_head"],
        ["embed_tokens", "lm_head"],
    ],
    "exclude_modules": [["model.layers.0.self_attn.q_proj"]],
    "lora_dropout": [0.3],
    "fan_in_fan_out": [True],
    "bias": ["all", "lora_only"],
    "use_rslora": [True],
    "modules_to_save": [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens"], ["norm"]],
    "init_lora_weights": [
        *(False, "gaussian", "eva", "olora", "pissa", "orthogonal", "mica", "lora_ga"),
        *("pissa_niter_4",),
    ],
    "layers_to_transform": [[1]],
    "rank_pattern": [{"layers.0.self_attn.q_proj": 3}],
    "alpha_pattern": [{"v_proj": 9}],
    "trainable_token_indices": [[5, 6], {"embed_tokens": [5], "lm_head": [7]}],
    "use_dora": [True],
    "velora_config": [of_lora.VeloraConfig(num_groups=4)],
    "monteclora_config": [of_lora.MontecloraConfig(num_samples=2, buffer_size=4)],
    "lora_bias": [True],
    "target_parameters": [["q_proj.weight"], ["lm_head.weight"]],
    "ensure_weight_tying": [True],
    "task_type": [None, "SEQ_CLS", "FEATURE_EXTRACTION"],
    "alora_invocation_tokens": [[5, 6]],
    "use_qalora": [True],
    "layer_replication": [[[0, 2], [1, 2]]],
    "use_bdlora": [of_lora.BdLoraConfig(target_modules_bd_a=["q_proj"], match_strict=False)],
    "kasa_config": [of_lora.KasaConfig()],
}
# Fields that say nothing by themselves, or that PEFT can't save an adapter of here.
SILENT = {
    *("peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "runtime_config", "layers_pattern", "qalora_group_size", "loftq_config"),
    *("eva_config", "corda_config", "lora_ga_config", "megatron_config", "megatron_core"),
    "arrow_config",
}
SINGLE = [(name, value) for name, values in SETTINGS.items() for value in values]
# What PEFT raises where settings do not go together.
OF_PEFT = (ValueError, TypeError, KeyError, AttributeError, RuntimeError)
BASES = [(tied, dtype) for tied in (True, False) for dtype in ("float32", "bfloat16")]


class Bases:
    """The tiny model with biases, its head tied or not, in two formats of numbers."""

    def __init__(self, tiny: Path, home: Path) -> None:
        from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

        self.loaded, self.plain = {}, {}
        for tied in (True, False):
            folder = home / f"tied-{tied}"
            shutil.copytree(tiny, folder)
            config = LlamaConfig.from_pretrained(tiny)
            config.attention_bias, config.tie_word_embeddings = True, tied
            torch.manual_seed(1)
            model = LlamaForCausalLM(config)
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.data += 0.1 * torch.randn_like(parameter)
            model.save_pretrained(folder)
            for dtype in ("float32", "bfloat16"):
                self.loaded[tied, dtype] = load_base_model(folder, dtype=dtype, device="cpu")
                self.plain[tied, dtype] = AutoModelForCausalLM.from_pretrained(
                    folder, dtype=getattr(torch, dtype)
                ).eval()


@pytest.fixture(scope="module")
def bases(tiny_base_dir, tmp_path_factory):
    return Bases(tiny_base_dir, tmp_path_factory.mktemp("bases"))


def train(model, folder, settings):
    """Save an adapter as PEFT saves it, its weights moved by chance."""
    settings = dict(settings)
    if settings.get("init_lora_weights") == "lora_ga":
        settings["lora_ga_config"] = of_lora.LoraGAConfig()
    if "target_parameters" in settings:
        settings["target_modules"] = ["v_proj"]
    torch.manual_seed(0)
    trained = get_peft_model(copy.deepcopy(model), LoraConfig(**{**PLAIN, **settings}))
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    trained.save_pretrained(folder)


def nll_of_peft(model, rows, folder):
    adapted = PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()
    found = []
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.response_ids])
        with torch.no_grad():
            said = adapted(input_ids=ids).logits[0].float().log_softmax(-1)
        start = len(row.prompt_ids) - 1
        found += [-float(said[start + i, t]) for i, t in enumerate(row.response_ids)]
    return np.array(found)


def nll_of_ours(base, rows):
    return np.concatenate(read_pass(base, rows, labels=LABELS, hidden=False).response_nll)


def target_more(folder):
    """Name modules in the config that the file has no tensors for, as a mended config may."""
    path = Path(folder) / "adapter_config.json"
    config = json.loads(path.read_text())
    if isinstance(config["target_modules"], list):
        config["target_modules"] += ["k_proj", "gate_proj"]
        path.write_text(json.dumps(config))


def check(bases, kind, settings, *, more=False):
    """Compare the two, or see that the adapter is refused by a field's name; False if PEFT can't
    make it. The base is the same afterwards, bit for bit."""
    base, plain = bases.loaded[kind], bases.plain[kind]
    rows = [encode_row(base, prompt, response) for prompt, response in ROWS]
    bare = nll_of_ours(base, rows)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            train(bases.plain[kind[0], "float32"], scratch, settings)
        except OF_PEFT:
            return False
        if more:
            target_more(scratch)
        refusal = ours = None
        try:
            with base.adapted(Path(scratch)):
                ours = nll_of_ours(base, rows)
                generate(base, [ROWS[0][0]], max_new_tokens=2)
        except AdapterError as error:
            refusal = str(error)
        refusable = set(settings) & {*REFUSED_FIELDS, "task_type", "init_lora_weights"}
        if more:  # PEFT skips the biases of what the config targets since then
            refusable.add("tensor names do not fit")
        if refusal is None:
            theirs = nll_of_peft(plain, rows, scratch)
            if kind[1] == "float32":
                np.testing.assert_allclose(ours, theirs, atol=1e-3)
            else:
                assert np.abs(ours - theirs).mean() < 0.08
        elif not any(name in refusal for name in refusable):
            # Not ours to run where PEFT itself can't.
            with pytest.raises(OF_PEFT):
                nll_of_peft(plain, rows, scratch)
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    np.testing.assert_array_equal(bare, nll_of_ours(base, rows))
    return True


def test_every_field_of_peft_is_known():
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    assert fields == SETTINGS.keys() | SILENT
    assert fields <= KNOWN_FIELDS


def test_a_setting_of_a_newer_peft_is_refused_by_its_name(bases, tmp_path, monkeypatch):
    base = bases.loaded[True, "float32"]
    train(bases.plain[True, "float32"], tmp_path, {"use_rslora": True})
    monkeypatch.setattr(adapting, "KNOWN_FIELDS", KNOWN_FIELDS - {"use_rslora"})
    with pytest.raises(AdapterError, match="use_rslora is a setting of a PEFT newer"):
        base.adapted(tmp_path).__enter__()


def test_targets_without_tensors_do_nothing_and_are_named(bases, tmp_path):
    base, plain = bases.loaded[True, "float32"], bases.plain[True, "float32"]
    rows = [encode_row(base, prompt, response) for prompt, response in ROWS]
    train(plain, tmp_path, {})
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["target_modules"] += ["k_proj"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with base.adapted(tmp_path):
        assert base.idle_modules == tuple(f"model.layers.{n}.self_attn.k_proj" for n in (0, 1))
        ours = nll_of_ours(base, rows)
    assert base.idle_modules == ()
    np.testing.assert_allclose(ours, nll_of_peft(plain, rows, tmp_path), atol=1e-3)
    for init in (False, None):
        config["init_lora_weights"] = init
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(AdapterError, match=f"init_lora_weights={init} fills them by chance"):
            base.adapted(tmp_path).__enter__()


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("init", SETTINGS["init_lora_weights"])
def test_targets_without_tensors_leave_the_base_as_it_was(bases, kind, init):
    """An initialisation that rewrites the base does so in each module that is targeted."""
    assert check(bases, kind, {"init_lora_weights": init}, more=True)


def test_embeddings_saved_alone_change_a_tied_head_with_them(bases, tmp_path):
    """As PEFT loads them: in place, so that both ends see the new matrix."""
    from safetensors.torch import load_file, save_file

    for kind, base in bases.loaded.items():
        folder = tmp_path / "-".join(map(str, kind))
        train(bases.plain[kind[0], "float32"], folder, {"modules_to_save": ["embed_tokens"]})
        config = json.loads((folder / "adapter_config.json").read_text())
        config["modules_to_save"] = None
        (folder / "adapter_config.json").write_text(json.dumps(config))
        weights = folder / "adapter_model.safetensors"
        assert any(".embed_tokens.weight" in name for name in load_file(weights))
        save_file({k: v.float() for k, v in load_file(weights).items()}, weights)
        rows = [encode_row(base, prompt, response) for prompt, response in ROWS]
        bare = nll_of_ours(base, rows)
        with base.adapted(folder):
            ours = nll_of_ours(base, rows)
        theirs = nll_of_peft(bases.plain[kind], rows, folder)
        assert np.abs(ours - theirs).mean() < (1e-3 if kind[1] == "float32" else 0.08)
        np.testing.assert_array_equal(bare, nll_of_ours(base, rows))


@pytest.mark.parametrize(
    ("settings", "edited", "words"),
    [
        ({"use_dora": True}, {"use_dora": False}, "does not set use_dora"),
        ({"lora_bias": True}, {"lora_bias": False}, "does not set lora_bias"),
        (
            {"trainable_token_indices": [5]},
            {"trainable_token_indices": None},
            "does not set trainable_token_indices",
        ),
        ({}, {"target_modules": ["q_proj"]}, r"target_modules does not name model.*v_proj"),
        ({}, {"exclude_modules": ["v_proj"]}, r"exclude_modules leaves model.*v_proj out"),
        ({}, {"layers_to_transform": [1]}, r"layers_to_transform leaves model\.layers\.0.* out"),
    ],
    ids=str,
)
def test_tensors_that_the_config_leaves_out_name_the_setting(
    bases, tmp_path, settings, edited, words
):
    train(bases.plain[True, "float32"], tmp_path, settings)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edited))
    with pytest.raises(AdapterError, match=words):
        bases.loaded[True, "float32"].adapted(tmp_path).__enter__()


def test_biases_for_layers_without_one_are_refused_by_their_setting(tiny_base, bases, tmp_path):
    train(bases.plain[True, "float32"], tmp_path, {"bias": "all"})
    with pytest.raises(AdapterError, match="bias=all, and these layers have no bias"):
        tiny_base.adapted(tmp_path).__enter__()


@pytest.mark.parametrize("number", range(len(SINGLE)), ids=[f"{n}={v!r:.40}" for n, v in SINGLE])
def test_each_setting_scores_as_peft_does_or_is_refused_by_its_name(bases, number):
    name, value = SINGLE[number]
    assert check(bases, BASES[number % 4], {name: value})


def test_any_settings_together_score_as_peft_does(bases):
    hypothesis = pytest.importorskip("hypothesis")
    from hypothesis import strategies as st

    drawn = st.lists(st.sampled_from(SINGLE), unique_by=lambda one: one[0], max_size=4)

    @hypothesis.settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(kind=st.sampled_from(BASES), settings=drawn, more=st.booleans())
    def compare(kind, settings, more):
        hypothesis.assume(check(bases, kind, dict(settings), more=more))

    compare()
