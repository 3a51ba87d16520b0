"""How long it takes to describe an adapter by its weights and its behaviour, and in what memory.

Each figure comes from a fresh process:

- `small`: weights and behaviour of a random rank-16 adapter on the installed base model, once with
  empty caches (the base's norms and its bare reading of the probes are made too), once with full
  ones, as for every adapter after the first. Loading the base is not counted.
- `large`: weights of a rank-64 adapter of a 7B model's shapes (Llama 2: 32 layers, 7 matrices each,
  width 4,096), read from its file, with the base's norms cached;
- its rival: forming ΔW of one 4,096 × 4,096 matrix and its singular values, as many times as there
  are such matrices. The three larger matrices of each layer would cost more, so it is flattered.

Run it with `.venv/bin/python benchmarks/fingerprint_adapter.py`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors.numpy import save_file

T = TypeVar("T")

SMALL_RANK, LARGE_RANK = 16, 64
WIDTH, MIDDLE, LAYERS = 4096, 11008, 32
LARGE_SHAPES = {  # (d_in, d_out)
    **{f"self_attn.{name}_proj": (WIDTH, WIDTH) for name in "qkvo"},
    "mlp.gate_proj": (WIDTH, MIDDLE),
    "mlp.up_proj": (WIDTH, MIDDLE),
    "mlp.down_proj": (MIDDLE, WIDTH),
}


def main() -> None:
    """Print the runs and one RESULT line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--child", choices=("small", "large", "rival"))
    options.add_argument("--folder", type=Path)
    arguments = options.parse_args()
    if arguments.child:
        children = {"small": describe_small, "large": describe_large, "rival": materialise}
        figures = children[arguments.child](arguments.folder)
        figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(figures))
        return
    print(f"adapt {version('adapt-lora')}, torch {version('torch')}, numpy {np.__version__}")
    print(f"{os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="adapt-bench-") as scratch:
        home = Path(scratch)
        write_small(home / "small")
        cold, warm = (run("small", home / "small") for _ in range(2))
        for name, seen in (("cold", cold), ("warm", warm)):
            print(f"small, {name}: {_listed(seen)}")
        write_large(home / "large")
        size = (home / "large" / "adapter_model.safetensors").stat().st_size / 2**20
        print(f"large: rank {LARGE_RANK}, {LAYERS * len(LARGE_SHAPES)} matrices, {size:.0f} MiB")
        large = run("large", home / "large")
        print(f"large: {_listed(large)}")
        rival = run("rival", home / "large")
        print(f"rival (numpy.linalg.svd of ΔW): {_listed(rival)}")
    result = {
        "small_cold_s": cold["weights_s"] + cold["behaviour_s"],
        "small_s": warm["weights_s"] + warm["behaviour_s"],
        "small_weights_s": warm["weights_s"],
        "small_behaviour_s": warm["behaviour_s"],
        "large_s": large["read_s"] + large["weights_s"],
        "large_weights_s": large["weights_s"],
        "large_peak_mib": large["peak_mib"],
        "ratio_vs_materialised": rival["all_s"] / large["weights_s"],
    }
    print("RESULT " + json.dumps({key: round(value, 2) for key, value in result.items()}))


def describe_small(folder: Path) -> dict[str, float]:
    """Both fingerprints of an adapter on the installed base model."""
    from adapt_lora.model.base import cache_dir, load_base_model
    from adapt_lora.registry.adapter import read_adapter
    from adapt_lora.registry.fingerprint.behaviour import fingerprint_behaviour
    from adapt_lora.registry.fingerprint.weights import fingerprint_weights

    base, load_s = _timed(load_base_model)
    # The base keeps its own cache; only the two that are measured start empty.
    os.environ["ADAPT_CACHE_DIR"] = str(folder / "cache")
    adapter = read_adapter(folder)
    weights, weights_s = _timed(lambda: fingerprint_weights(adapter, base.folder, cache_dir()))
    behaviour, behaviour_s = _timed(lambda: fingerprint_behaviour(base, folder))
    assert weights["delta_norm"] > 0
    assert behaviour.values["hidden_shift_relative"] > 0
    return {"load_s": load_s, "weights_s": weights_s, "behaviour_s": behaviour_s}


def describe_large(folder: Path) -> dict[str, float]:
    """The weights' fingerprint of the large adapter."""
    from adapt_lora.registry.adapter import read_adapter
    from adapt_lora.registry.fingerprint.weights import fingerprint_weights

    adapter, read_s = _timed(lambda: read_adapter(folder))
    values, weights_s = _timed(
        lambda: fingerprint_weights(adapter, folder / "base", folder / "cache")
    )
    assert values["delta_norm_relative"] > 0
    return {"read_s": read_s, "weights_s": weights_s}


def materialise(folder: Path) -> dict[str, float]:
    """Seconds of the plain way for one square matrix, and for all there are."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(LARGE_RANK, WIDTH)).astype(np.float32)
    b = rng.normal(size=(WIDTH, LARGE_RANK)).astype(np.float32)
    _, one_s = _timed(lambda: np.linalg.svd(b @ a, compute_uv=False))
    return {"one_s": one_s, "all_s": one_s * LAYERS * len(LARGE_SHAPES)}


def write_small(folder: Path) -> None:
    """Make a random adapter on the attention of the installed base model."""
    from adapt_lora.model.base import load_base_model

    base = load_base_model()
    config = base.model.config
    width, values = config.hidden_size, config.num_key_value_heads * config.head_dim
    shapes = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (width, values),
        "self_attn.v_proj": (width, values),
        "self_attn.o_proj": (width, width),
    }
    write_adapter(folder, shapes, config.num_hidden_layers, SMALL_RANK, base.identity.name)


def write_large(folder: Path) -> None:
    """Make a random adapter of a 7B model's shapes, and the cached norms of its base."""
    from adapt_lora.registry.fingerprint import weights

    write_adapter(folder, LARGE_SHAPES, LAYERS, LARGE_RANK, "bench/7b-shapes")
    base = folder / "base"
    base.mkdir()
    save_file({"lm_head.weight": np.zeros((1, 1), np.float32)}, base / "model.safetensors")
    norms = {
        f"model.layers.{layer}.{module}.weight": float(d_in)
        for layer in range(LAYERS)
        for module, (d_in, _) in LARGE_SHAPES.items()
    }
    # The norms are keyed by the base's files: fill the cache once by the tiny file's, then replace.
    weights.base_squared_norms(base, folder / "cache")
    (cached,) = (folder / "cache" / "weight-norms").glob("*.json")
    cached.write_text(json.dumps(norms), encoding="utf-8")


def write_adapter(
    folder: Path, shapes: dict[str, tuple[int, int]], n_layers: int, rank: int, base: str
) -> None:
    """Make a random adapter; all layers share their numbers, which changes no time."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    factors = {
        module: (
            (rng.normal(size=(rank, d_in)) / 64).astype(np.float32),
            (rng.normal(size=(d_out, rank)) / 64).astype(np.float32),
        )
        for module, (d_in, d_out) in shapes.items()
    }
    tensors = {}
    for layer in range(n_layers):
        for module, (a, b) in factors.items():
            stem = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{stem}.lora_A.weight"] = a
            tensors[f"{stem}.lora_B.weight"] = b
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": [module.rsplit(".", 1)[-1] for module in shapes],
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")


def run(child: str, folder: Path) -> dict[str, float]:
    """One fresh process of this script."""
    command = [sys.executable, __file__, "--child", child, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{child} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def _listed(figures: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:,.2f}" for key, value in figures.items())


if __name__ == "__main__":
    main()
