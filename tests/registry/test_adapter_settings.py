"""Values that PEFT fails on, or reads something else from: each named by its field."""

import pytest

from adapt_lora.errors import AdapterError
from adapt_lora.registry.adapter import read_adapter


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("task_type", "causal_lm", 'task_type is "causal_lm"; it must be null or one of CAUSAL_LM'),
        ("bias", None, "bias is null; it must be one of none, all"),
        ("bias", "None", 'bias is "None"'),
        ("init_lora_weights", "milora", 'init_lora_weights is "milora"'),
        # PEFT tells upper and lower case apart here.
        ("init_lora_weights", "PiSSA", 'init_lora_weights is "PiSSA"'),
        ("target_modules", 5, "target_modules is 5; it must be a list of module names"),
        ("target_modules", "*[", r'target_modules is "\*\["; .* a regular expression'),
        ("target_modules", ["q_proj", 5], r'target_modules is \["q_proj", 5\]'),
        ("exclude_modules", {"q_proj": True}, "exclude_modules is"),
        ("modules_to_save", 5, "modules_to_save is 5; it must be a list of module names, or null"),
        # PEFT would read it letter by letter.
        ("modules_to_save", "lm_head", 'modules_to_save is "lm_head"'),
        ("modules_to_save", ["*["], "modules_to_save is"),
        ("target_parameters", "q_proj.weight", "target_parameters is"),
        ("layers_to_transform", "1", 'layers_to_transform is "1"'),
        ("layers_pattern", 3, "layers_pattern is 3"),
        ("trainable_token_indices", "abc", "trainable_token_indices is"),
        ("trainable_token_indices", {"embed_tokens": 5}, "trainable_token_indices is"),
        ("rank_pattern", None, "rank_pattern is null; .* {} where there are none"),
        ("alpha_pattern", ["q_proj"], "alpha_pattern is"),
        ("alpha_pattern", {"q_proj": "9"}, "alpha_pattern is"),
        ("lora_dropout", "0.1", "lora_dropout is"),
        # A text is true to PEFT, whatever it says.
        ("use_dora", "false", 'use_dora is "false"; it must be true or false'),
        ("use_rslora", [], "use_rslora is"),
        ("monteclora_config", 3, "monteclora_config is 3; it must be an object"),
    ],
    ids=str,
)
def test_a_value_of_another_kind_is_named_by_its_field(adapter_folder, field, value, words):
    with pytest.raises(AdapterError, match=words):
        read_adapter(adapter_folder(**{field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("target_modules", value) for value in (None, "all-linear", r".*\.(q|v)_proj")),
        *(("init_lora_weights", value) for value in (True, None, "Gaussian", "pissa", "OLoRA")),
        *(("layers_to_transform", value) for value in (0, [0, 1], None)),
        *(("layers_pattern", value) for value in ("layers", ["layers", "h"], None)),
        *(("trainable_token_indices", value) for value in ([], {"embed_tokens": [1]})),
        *(("task_type", None), ("rank_pattern", {}), ("use_dora", None), ("use_rslora", 1)),
        ("eva_config", {"rho": 2.0}),
    ],
    ids=str,
)
def test_what_peft_reads_is_read(adapter_folder, field, value):
    assert read_adapter(adapter_folder(**{field: value})).rank == 2
