import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapt_lora.errors import AdapterError
from adapt_lora.evaluator.backends.served import (
    VLLM_RANKS,
    describe_served,
    lora_modules,
    round_rank,
    servable,
    served_name,
)


def _with_config(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


@pytest.mark.parametrize(
    ("rank", "rounded"), [(1, 1), (2, 8), (8, 8), (9, 16), (33, 64), (300, 320), (512, 512)]
)
def test_ranks_are_rounded_up_to_what_vllm_takes(rank, rounded):
    assert round_rank(rank) == rounded


def test_a_rank_above_all_is_an_error():
    with pytest.raises(AdapterError, match="512, the largest that vLLM takes"):
        round_rank(513)


def test_names_hold_a_slug_and_the_content(tiny_adapter):
    one, again, other = (
        describe_served(tiny_adapter(name, seed=seed))
        for name, seed in (("My Reviews!", 0), ("my reviews", 0), ("my_reviews", 1))
    )
    assert one.name.startswith("my-reviews-")
    assert one.name == again.name
    assert one.name != other.name


@pytest.mark.parametrize("label", ["", "///", "漢字"])
def test_a_label_without_letters_still_gives_a_name(label):
    assert served_name(label, "0123456789abcdef") == "adapter-01234567"


def test_what_changes_the_content_changes_the_name(tiny_adapter):
    folder = tiny_adapter()
    before = describe_served(folder).name
    assert describe_served(_with_config(folder, lora_alpha=8)).name != before


def test_rank_and_modules_are_read(tiny_adapter):
    served = describe_served(tiny_adapter(r=3))
    assert served.rank == 3
    assert served.refusal is None
    assert lora_modules([served]) == ["q_proj", "v_proj"]
    assert servable([served]) == [served]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias=all"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights=pissa"),
        ({"init_lora_weights": "olora"}, "init_lora_weights=olora"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"alpha_pattern": {"v_proj": 9}}, "alpha_pattern"),
        ({"alora_invocation_tokens": [5, 6]}, "alora_invocation_tokens"),
        ({"monteclora_config": {"num_samples": 2}}, "monteclora_config"),
        ({"ensure_weight_tying": True}, "ensure_weight_tying"),
    ],
)
def test_what_vllm_refuses_is_known_beforehand(tiny_adapter, fields, reason):
    served = describe_served(_with_config(tiny_adapter(), **fields))
    assert reason in served.refusal
    assert servable([served]) == []


def test_a_rank_that_no_engine_takes_is_a_reason(tiny_adapter):
    assert "rank 520" in describe_served(tiny_adapter(r=VLLM_RANKS[-1] + 8)).refusal


def test_a_part_on_the_head_is_a_reason(tiny_adapter):
    folder = tiny_adapter()
    weights = folder / "adapter_model.safetensors"
    head = "base_model.model.lm_head"
    tensors = load_file(weights) | {
        f"{head}.lora_A.weight": np.ones((2, 32), dtype=np.float32),
        f"{head}.lora_B.weight": np.ones((320, 2), dtype=np.float32),
    }
    save_file(tensors, weights)
    _with_config(folder, target_modules=["q_proj", "v_proj", "lm_head"])
    assert describe_served(folder).refusal == "a part on lm_head"
