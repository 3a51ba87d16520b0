"""How long `adapt recommend` takes, and what it saves against evaluating every adapter.

Makes a registry of 20 small random adapters with a 20 × 12 matrix of made-up scores (the cost of a
ranking does not depend on what the scores are), then times, in fresh processes:

- `adapt recommend --verify 0` on 200 rows of about 80 tokens, base model cached;
- its brute-force rival: `adapt evaluate` of every adapter on the same rows.

`beside_model_s` is all but loading torch, transformers and the base model and reading the target;
`beside_pass_s` is all but reading the target.

Run it with `.venv/bin/python benchmarks/recommend.py [--rival-adapters N]`; the rival's time is
measured on N adapters (3) and scaled to all, since its cost per adapter is constant.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from adapt_lora.data import read_dataset
from adapt_lora.model.base import BaseModel, load_base_model
from adapt_lora.registry import Registry
from adapt_lora.registry.adapter import read_adapter
from adapt_lora.registry.fingerprint import fingerprint_dataset
from adapt_lora.registry.records import (
    BASE_ROW,
    AdapterRecord,
    Cell,
    DatasetRecord,
    MatrixRow,
    TaskRecord,
)

N_ADAPTERS, N_TASKS, N_ROWS = 20, 12, 200
EXAMPLES = Path(__file__).parents[1] / "examples"


@dataclass(frozen=True)
class Finished:
    """What a process left."""

    stdout: str
    """Its output."""
    peak_mib: float
    """Most memory that it held."""


def main() -> None:
    """Print the runs and one RESULT line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rival-adapters", type=int, default=3)
    options.add_argument("--runs", type=int, default=3)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="adapt-bench-") as scratch:
        home = Path(scratch)
        print(
            f"adapt {version('adapt-lora')}, torch {version('torch')}, mlflow {version('mlflow')}"
        )
        print(
            f"{N_ADAPTERS} adapters, {N_TASKS} tasks, {N_ROWS} target rows, {os.cpu_count()} cores"
        )
        register_s = make_registry(home)
        print(f"registering beyond hashing and probes: median {register_s:.3f} s")
        target = make_target(home)
        runs = [recommend(home, target) for _ in range(arguments.runs)]
        for run in runs:
            print(f"recommend: {run['cold_s']:.1f} s cold, {run['timing_s']}")
        best = min(runs, key=lambda run: run["cold_s"])
        rival_s = evaluate(home, target, arguments.rival_adapters) * N_ADAPTERS
        print(f"brute force over {N_ADAPTERS} adapters: {rival_s:.0f} s")
        pass_s = best["timing_s"]["fingerprint"]
        model_s = best["timing_s"]["load_base"] + pass_s
        result = {
            "cold_s": round(best["cold_s"], 2),
            "beside_model_s": round(best["cold_s"] - model_s, 2),
            "beside_pass_s": round(best["cold_s"] - pass_s, 2),
            "peak_mib": round(best["peak_mib"]),
            "n_adapters": N_ADAPTERS,
            "ratio_vs_brute_force": round(rival_s / best["cold_s"], 1),
            "register_s": round(register_s, 3),
        }
        print("RESULT " + json.dumps(result))


def make_registry(home: Path) -> float:
    """Register adapters and cells; the median seconds of writing one adapter."""
    base = load_base_model()
    registry = Registry(home / "registry")
    registry.ensure_base(base.identity)
    sets = [p for p in sorted(EXAMPLES.iterdir()) if (p / "train.jsonl").exists()]
    prints = [fingerprint_dataset(read_dataset(p), base=base, max_tokens=2_000) for p in sets]
    rng = np.random.default_rng(0)
    seconds, records = [], []
    for number in range(N_ADAPTERS):
        folder = home / "adapters" / f"a{number}"
        write_adapter(folder, rng, base)
        record = AdapterRecord(
            adapter_id=read_adapter(folder).adapter_id,
            name=f"adapter-{number:02d}",
            base=base.identity,
            dataset=DatasetRecord(f"source-{number}", f"{number:064d}", f"source-{number}", 300),
            group=f"source-{number}",
            fingerprint=prints[number % len(prints)],
        )
        started = time.perf_counter()
        records.append(registry.add_adapter(record, folder))
        seconds.append(time.perf_counter() - started)
    for number in range(N_TASKS):
        name = f"task-{number}"
        data = DatasetRecord(name, f"{number:063d}t", name, 100)
        task = TaskRecord(
            name, name, "balanced_accuracy", data, ("a", "b"), prints[number % len(prints)]
        )
        for each in (BASE_ROW, *records):
            row = each if isinstance(each, MatrixRow) else each.row
            score = float(np.clip(0.5 + 0.15 * rng.normal(), 0, 1))
            cell = Cell(row, name, "balanced_accuracy", score, 0.05, 100, "bench")
            registry.add_cells(base.identity, each, task, [cell])
    return float(np.median(seconds))


def write_adapter(folder: Path, rng: np.random.Generator, base: BaseModel) -> None:
    """Make a random rank-4 adapter on the value projections."""
    folder.mkdir(parents=True)
    config = base.model.config
    width, values = config.hidden_size, config.num_key_value_heads * config.head_dim
    tensors = {}
    for layer in range(config.num_hidden_layers):
        stem = f"base_model.model.model.layers.{layer}.self_attn.v_proj"
        tensors[f"{stem}.lora_A.weight"] = rng.normal(size=(4, width)).astype(np.float32) / 24
        tensors[f"{stem}.lora_B.weight"] = rng.normal(size=(values, 4)).astype(np.float32) / 24
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.identity.name,
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["v_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def make_target(home: Path) -> Path:
    """The first 200 rows of the example target, about 80 tokens each."""
    lines = (EXAMPLES / "mydata.jsonl").read_text(encoding="utf-8").splitlines()[:N_ROWS]
    target = home / "target.jsonl"
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target


def recommend(home: Path, target: Path) -> dict[str, Any]:
    """Time one fresh process."""
    command = ["recommend", "--target", str(target), "--verify", "0", "--json"]
    started = time.perf_counter()
    done = adapt(home, *command)
    cold_s = time.perf_counter() - started
    answer = json.loads(done.stdout)
    assert len(answer["ranking"]) == 10
    return {"cold_s": cold_s, "timing_s": answer["timing_s"], "peak_mib": done.peak_mib}


def evaluate(home: Path, target: Path, n_adapters: int) -> float:
    """Seconds per adapter of scoring the target by brute force, without start-up."""
    chosen = [f"--adapter=adapter-{n:02d}" for n in range(n_adapters)]
    done = adapt(home, "evaluate", "--task", str(target), "--json", *chosen)
    report = json.loads(done.stdout)
    scored = n_adapters + 1  # the base's row costs the same
    return report["seconds"] / scored


def adapt(home: Path, *arguments: str) -> Finished:
    """One fresh `adapt` process."""
    command = [str(Path(sys.executable).with_name("adapt")), *arguments]
    environment = {**os.environ, "ADAPT_TRACKING_URI": str(home / "registry")}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=err)
        # wait4 tells this child's own peak memory; subprocess would not.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise SystemExit(f"adapt {' '.join(arguments)} failed:\n{err.read()}")
        return Finished(out.read(), usage.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
