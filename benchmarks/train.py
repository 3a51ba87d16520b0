"""Training speed, memory and held-out loss beside TRL's SFTTrainer and a bare forward and backward.

The same rows, base model, dtype, batch size, rank-8 LoRA on the seven projections, learning rate
and schedule; all else is each side's default, but for gradient checkpointing, which is off on both.
Each side runs in a process of its own, one after another, round after round; a side's speed is its
best round's. Processor time stands beside wall time, since other jobs of the machine disturb it
less. One scorer reads both adapters on rows that neither has seen.

    .venv/bin/python benchmarks/train.py [--rows 300] [--rounds 1] [--rival-python PYTHON]

TRL and datasets are no part of Adapt: `pip install trl==1.16.0` into this environment, or name an
interpreter that has them, torch, transformers and PEFT.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("ADAPT_SHARED_DATA", ROOT.parent / "shared")) / "data"
SETTINGS = {"r": 8, "lora_alpha": 16, "learning_rate": 5e-4, "warmup_ratio": 0.1}
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Dense bfloat16 products per second that the makers state, in units of 10¹².
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "4090": 165}


def main() -> None:
    """Run the sides, print a table and one RESULT line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", action="append", help="dataset; sst2 and gsm8k if absent")
    options.add_argument("--base-model")
    options.add_argument("--rows", type=int, default=300, help="training rows per dataset")
    options.add_argument("--test-rows", type=int, default=50, help="held-out rows per dataset")
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--batch-size", type=int, default=8)
    options.add_argument("--packing", action="store_true", help="pack rows, on our side")
    options.add_argument("--rival-python", default=sys.executable)
    options.add_argument("--side", help=argparse.SUPPRESS)
    options.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.side is not None:
        SIDES[arguments.side](json.loads(arguments.job.read_text()))
        return
    with tempfile.TemporaryDirectory(prefix="adapt-bench-") as scratch:
        job = write_job(arguments, Path(scratch))
        sides = ["adapt", "forward_backward"]
        rival = rival_versions(arguments.rival_python)
        if rival is None:
            print(
                f"TRL is absent: {arguments.rival_python} can't import trl and datasets. Run "
                "`pip install trl==1.16.0` there, or name another one with --rival-python."
            )
        else:
            print(f"rival: {rival}")
            sides.insert(1, "trl")
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for number in range(arguments.rounds):
            for side in sides:
                python = arguments.rival_python if side == "trl" else sys.executable
                runs[side].append(run_side(side, job, python))
                print(f"round {number + 1}: {side} {json.dumps(runs[side][-1])}", flush=True)
        losses = run_side("score", job, sys.executable)
        result = compare(runs, losses, json.loads(job.read_text()))
    print("RESULT " + json.dumps(result))


def write_job(arguments: argparse.Namespace, scratch: Path) -> Path:
    """Read rows once, for all sides, and say what everyone gets."""
    from adapt_lora.data import read_dataset
    from adapt_lora.model.base import load_base_model

    found = arguments.data or [str(SHARED / name) for name in ("sst2", "gsm8k")]
    train, test = [], []
    for source in found:
        rows = [r for r in read_dataset(source, split="train").rows if r.response]
        held_out = [r for r in read_dataset(source, split="test").rows if r.response]
        train += [[r.prompt, r.response] for r in rows[: arguments.rows]]
        test += [[r.prompt, r.response] for r in held_out[: arguments.test_rows]]
    job = {
        "base": str(load_base_model(arguments.base_model).folder),
        "dtype": chosen_dtype(),
        "batch_size": arguments.batch_size,
        "packing": arguments.packing,
        "train": train,
        "test": test,
        "scratch": str(scratch),
    }
    print(f"{len(train)} rows of {', '.join(Path(f).name for f in found)}, {job['dtype']}")
    path = scratch / "job.json"
    path.write_text(json.dumps(job))
    return path


def chosen_dtype() -> str:
    """What Adapt loads a base in on this machine; both sides get it."""
    import torch

    from adapt_lora.model.base import pick_dtype

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return str(pick_dtype("auto", device)).removeprefix("torch.")


def rival_versions(python: str) -> str | None:
    """Versions of the other side, or None where it can't run."""
    code = (
        "import datasets, peft, torch, transformers, trl; print(f'TRL {trl.__version__}, "
        "PEFT {peft.__version__}, transformers {transformers.__version__}, "
        "torch {torch.__version__}')"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def run_side(side: str, job: Path, python: str) -> dict[str, Any]:
    """One side in a process of its own; what it printed last."""
    command = [python, __file__, "--side", side, "--job", str(job)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"The side '{side}' failed:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def adapt_side(job: dict[str, Any]) -> None:
    """Train by Adapt."""
    from adapt_lora.trainer import find_recipe, train_adapter

    base, rows = _base_and_rows(job, "train")
    recipe = find_recipe(
        "quick",
        {
            **SETTINGS,
            "batch_size": job["batch_size"],
            "packing": job["packing"],
            "max_rows": None,
            "max_tokens": None,
            "held_out_rows": 0,
        },
    )
    out, busy = _empty_folder(job, "adapt"), time.process_time()
    result = train_adapter(base, rows, recipe=recipe, out=out)
    _answer(result.n_tokens, result.train_seconds, busy)


def trl_side(job: dict[str, Any]) -> None:
    """Train by TRL; it needs nothing of Adapt."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    model = AutoModelForCausalLM.from_pretrained(job["base"], dtype=getattr(torch, job["dtype"]))
    tokenizer = AutoTokenizer.from_pretrained(job["base"])
    rows = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": prompt}],
                "completion": [{"role": "assistant", "content": response}],
            }
            for prompt, response in job["train"]
        ]
    )
    out = _empty_folder(job, "trl")
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=rows,
        peft_config=LoraConfig(
            r=SETTINGS["r"],
            lora_alpha=SETTINGS["lora_alpha"],
            target_modules=MODULES,
            task_type="CAUSAL_LM",
        ),
        args=SFTConfig(
            output_dir=str(out),
            per_device_train_batch_size=job["batch_size"],
            num_train_epochs=1,
            learning_rate=SETTINGS["learning_rate"],
            lr_scheduler_type="cosine",
            warmup_steps=SETTINGS["warmup_ratio"],  # below one it is a share of all steps
            gradient_checkpointing=False,
            bf16=job["dtype"] == "bfloat16",
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
    )
    started, busy = time.perf_counter(), time.process_time()
    trainer.train()
    answer = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - busy,
        "peak_memory_mib": _peak_memory_mib(),
    }
    trainer.model.save_pretrained(str(out))
    print(json.dumps(answer))


def forward_backward_side(job: dict[str, Any]) -> None:
    """Push the same tokens through the frozen model and back to its embeddings, and no more.

    Each batch's tokens stand in a rectangle without padding; the head runs at as many positions as
    there are answer tokens. No adapter, no optimiser.
    """
    import torch

    from adapt_lora.model.scoring import encode_rows
    from adapt_lora.trainer.rows import epoch_batches

    base, rows = _base_and_rows(job, "train")
    encoded = encode_rows(base, rows)
    lengths = [row.n_tokens for row in encoded]
    n_tokens, started, busy = 0, time.perf_counter(), time.process_time()
    for batch in epoch_batches(len(lengths), job["batch_size"], seed=0, epoch=0):
        chosen = [encoded[i] for i in batch]
        ids = [t for row in chosen for t in (*row.prompt_ids, *row.response_ids)]
        width = len(ids) // len(batch)
        block = torch.tensor(ids[: width * len(batch)], device=base.device).view(len(batch), width)
        n_answer = sum(len(row.response_ids) for row in chosen)
        inputs = base.model.get_input_embeddings()(block).detach().requires_grad_(True)
        hidden = base.model.get_decoder()(inputs_embeds=inputs, use_cache=False).last_hidden_state
        states = hidden[:, :-1].flatten(0, 1)[-n_answer:]
        targets = block[:, 1:].flatten()[-n_answer:]
        logits = base.model.get_output_embeddings()(states).float()
        torch.nn.functional.cross_entropy(logits, targets).backward()
        n_tokens += block.numel()
    if base.device.startswith("cuda"):
        torch.cuda.synchronize()
    _answer(n_tokens, time.perf_counter() - started, busy)


def score_side(job: dict[str, Any]) -> None:
    """Nats of every held-out answer under each adapter that was trained."""
    from adapt_lora.model.scoring import encode_rows, read_pass

    base, rows = _base_and_rows(job, "test")
    encoded = encode_rows(base, rows)
    answer: dict[str, Any] = {"n_tokens": sum(len(row.response_ids) for row in encoded)}
    for name in ("adapt", "trl"):
        folder = Path(job["scratch"]) / name
        if folder.is_dir():
            with base.adapted(folder):
                nll = read_pass(base, encoded, hidden=False).response_nll
            answer[name] = [float(row.sum()) for row in nll]
    print(json.dumps(answer))


SIDES = {
    "adapt": adapt_side,
    "trl": trl_side,
    "forward_backward": forward_backward_side,
    "score": score_side,
}


def compare(
    runs: dict[str, list[dict[str, Any]]], losses: dict[str, Any], job: dict[str, Any]
) -> dict[str, float]:
    """Ratios of the best rounds, and the held-out losses with the error of their difference."""
    import numpy as np

    n_tokens = runs["adapt"][0]["n_tokens"]
    seconds = {side: min(run["seconds"] for run in done) for side, done in runs.items()}
    busy = {side: min(run["cpu_seconds"] for run in done) for side, done in runs.items()}
    memory = {side: min(run["peak_memory_mib"] for run in done) for side, done in runs.items()}
    bare_tokens = runs["forward_backward"][0]["n_tokens"]
    speed = {side: n_tokens / s for side, s in seconds.items()}
    speed["forward_backward"] = bare_tokens / seconds["forward_backward"]
    held_out = {
        side: sum(losses[side]) / losses["n_tokens"] for side in ("adapt", "trl") if side in losses
    }
    result: dict[str, float] = {
        "rows": len(job["train"]),
        "tokens": n_tokens,
        "tokens_per_s": speed["adapt"],
        "fraction_of_forward_backward": speed["adapt"] / speed["forward_backward"],
        "fraction_of_forward_backward_cpu_time": busy["forward_backward"] / busy["adapt"],
        "peak_memory_mib": memory["adapt"],
        "held_out_loss": held_out["adapt"],
    }
    print("| side | tokens/s | peak memory, MiB | held-out loss |\n|---|---|---|---|")
    for side in runs:
        loss = f"{held_out[side]:.4f}" if side in held_out else ""
        print(f"| {side} | {speed[side]:.0f} | {memory[side]:.0f} | {loss} |")
    if "trl" in runs:
        difference = np.array(losses["adapt"]) - np.array(losses["trl"])
        error = difference.std(ddof=1) * len(difference) ** 0.5 / losses["n_tokens"]
        result |= {
            "tokens_per_s_trl": speed["trl"],
            "ratio_vs_trl": speed["adapt"] / speed["trl"],
            "ratio_vs_trl_cpu_time": busy["trl"] / busy["adapt"],
            "peak_memory_ratio_vs_trl": memory["adapt"] / memory["trl"],
            "held_out_loss_trl": held_out["trl"],
            "held_out_loss_difference_se": float(error),
        }
    mfu = _model_flops_share(speed["adapt"])
    if mfu is not None:
        result["mfu"] = mfu
    return {key: round(value, 4) for key, value in result.items()}


def _model_flops_share(tokens_per_s: float) -> float | None:
    """Share of the GPU's products per second that the training used; None off the known GPUs.

    Of each of the model's weights a token needs two operations forward and, since they are frozen,
    two backward; attention and the adapter's own are left out.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    from adapt_lora.model.base import load_base_model

    name = torch.cuda.get_device_name()
    peak = next((1e12 * value for key, value in PEAK_TFLOPS.items() if key in name), None)
    if peak is None:
        print(f"No figure for the peak of {name}, so no MFU.")
        return None
    n_weights = sum(p.numel() for p in load_base_model().model.get_decoder().layers.parameters())
    return 4 * n_weights * tokens_per_s / peak


def _base_and_rows(job: dict[str, Any], split: str) -> tuple[Any, list[Any]]:
    from adapt_lora.data import Row
    from adapt_lora.model.base import load_base_model

    base = load_base_model(job["base"], dtype=job["dtype"])
    rows = [Row(prompt, response, None, i) for i, (prompt, response) in enumerate(job[split])]
    return base, rows


def _empty_folder(job: dict[str, Any], name: str) -> Path:
    import shutil

    folder = Path(job["scratch"]) / name
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _answer(n_tokens: int, seconds: float, busy: float) -> None:
    content = {
        "n_tokens": n_tokens,
        "seconds": seconds,
        "cpu_seconds": time.process_time() - busy,
        "peak_memory_mib": _peak_memory_mib(),
    }
    print(json.dumps(content))


def _peak_memory_mib() -> float:
    """Most memory held so far: of the process, or of the allocator on a GPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    main()
