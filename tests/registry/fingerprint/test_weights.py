import json

import numpy as np
import pytest

from adapt_lora.registry.adapter import iter_factors, read_adapter
from adapt_lora.registry.fingerprint.weights import base_squared_norms, fingerprint_weights
from tests.registry.conftest import LAYERS, lora_tensors


def _deltas(adapter):
    return {pair.module: pair.scaling * b @ a for pair, a, b in iter_factors(adapter)}


def test_norms_equal_those_of_the_materialised_product(adapter_folder, base_folder, tmp_path):
    from safetensors.numpy import load_file

    adapter = read_adapter(adapter_folder())
    values = fingerprint_weights(adapter, base_folder, tmp_path)
    deltas = _deltas(adapter)
    weights = load_file(base_folder / "model.safetensors")
    moved = sum(np.square(delta).sum() for delta in deltas.values())
    stood = sum(np.square(weights[f"{name}.weight"]).sum() for name in deltas)
    assert values["delta_norm"] == pytest.approx(np.sqrt(moved), rel=1e-9)
    assert values["delta_norm_relative"] == pytest.approx(np.sqrt(moved / stood), rel=1e-6)
    queries = [name for name in deltas if name.endswith("q_proj")]
    moved = sum(np.square(deltas[name]).sum() for name in queries)
    stood = sum(np.square(weights[f"{name}.weight"]).sum() for name in queries)
    assert values["delta_norm_relative_q_proj"] == pytest.approx(np.sqrt(moved / stood), rel=1e-6)


def test_ranks_equal_those_of_the_materialised_product(adapter_folder, base_folder, tmp_path):
    adapter = read_adapter(adapter_folder())
    values = fingerprint_weights(adapter, base_folder, tmp_path)
    effective, stable = [], []
    for delta in _deltas(adapter).values():
        singular = np.linalg.svd(delta, compute_uv=False)[:2]
        shares = singular / singular.sum()
        effective.append(np.exp(-(shares * np.log(shares)).sum()))
        stable.append(np.square(singular).sum() / singular[0] ** 2)
    assert values["effective_rank_mean"] == pytest.approx(np.mean(effective), rel=1e-9)
    assert values["stable_rank_mean"] == pytest.approx(np.mean(stable), rel=1e-9)
    assert 1 <= values["effective_rank_min"] <= values["effective_rank_max"] <= 2


def test_shares_say_where_the_change_sits(adapter_folder, base_folder, tmp_path):
    tensors = {
        key: value if "layers.0." in key or "lora_A" in key else value * 0
        for key, value in lora_tensors().items()
    }
    values = fingerprint_weights(
        read_adapter(adapter_folder(tensors=tensors)), base_folder, tmp_path
    )
    shares = [values[f"delta_share_{third}"] for third in ("lower", "middle", "upper")]
    assert shares == pytest.approx([1.0, 0.0, 0.0])
    assert values["delta_norm_relative_at_06"] == 0.0


def test_a_part_of_the_layers_is_placed_by_the_depth_of_the_base(
    adapter_folder, base_folder, tmp_path
):
    tensors = {k: v for k, v in lora_tensors().items() if f"layers.{LAYERS - 1}." in k}
    values = fingerprint_weights(
        read_adapter(adapter_folder(tensors=tensors)), base_folder, tmp_path
    )
    assert values["delta_share_upper"] == pytest.approx(1.0)
    assert "delta_norm_relative_at_06" not in values


def test_scaling_by_alpha_scales_the_norm(adapter_folder, base_folder, tmp_path):
    plain = read_adapter(adapter_folder("plain"))
    double = read_adapter(adapter_folder("double", lora_alpha=8))
    ratio = (
        fingerprint_weights(double, base_folder, tmp_path)["delta_norm"]
        / fingerprint_weights(plain, base_folder, tmp_path)["delta_norm"]
    )
    assert ratio == pytest.approx(2.0)


def test_base_norms_come_from_the_cache_and_a_damaged_cache_is_mended(base_folder, tmp_path):
    norms = base_squared_norms(base_folder, tmp_path)
    assert len(norms) == 1 + 2 * LAYERS
    (cached,) = (tmp_path / "weight-norms").iterdir()
    cached.write_text(json.dumps(dict.fromkeys(norms, 1.0)))
    assert set(base_squared_norms(base_folder, tmp_path).values()) == {1.0}
    cached.write_text("{")
    assert base_squared_norms(base_folder, tmp_path) == norms


def test_an_adapter_of_two_hundred_modules_is_read_whole(adapter_folder, base_folder, tmp_path):
    adapter = read_adapter(adapter_folder(tensors=lora_tensors(hidden=576, layers=105), r=2))
    values = fingerprint_weights(adapter, base_folder, tmp_path)
    assert values["delta_norm"] > 0
