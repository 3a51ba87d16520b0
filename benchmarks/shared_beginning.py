"""Training steps that read what their rows begin with once, beside steps that read it in every row.

The same rows, weights, recipe and gradients; each round times the two one after the other.

    .venv/bin/python benchmarks/shared_beginning.py [DATA…] [--rows 16] [--rounds 3]
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from adapt_lora.data import read_dataset
from adapt_lora.model.base import load_base_model
from adapt_lora.model.scoring import Encoded, encode_rows, shared_beginning
from adapt_lora.trainer import find_recipe
from adapt_lora.trainer.loss import response_nll
from adapt_lora.trainer.rows import length_groups
from adapt_lora.trainer.tuning import tuned

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Time both kinds of step on each dataset, print a table and one RESULT line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "data", nargs="*", default=[str(ROOT / "examples" / "product_reviews")], help="datasets"
    )
    options.add_argument("--base-model")
    options.add_argument("--rows", type=int, default=16, help="two steps of eight")
    options.add_argument("--rounds", type=int, default=3)
    arguments = options.parse_args()
    base = load_base_model(arguments.base_model)
    recipe = replace(find_recipe("quick"), r=2, lora_alpha=4)
    print(f"{base.identity.name} in {base.dtype}, {torch.get_num_threads()} thread(s)")
    print("dataset            tokens  of them shared  apart, tokens/s  shared, tokens/s  ratio")
    result: dict[str, float] = {}
    for place in arguments.data:
        dataset = read_dataset(place, split="train")
        rows = encode_rows(base, dataset.rows[: arguments.rows])
        steps = [rows[at : at + recipe.batch_size] for at in range(0, len(rows), recipe.batch_size)]
        n_tokens = sum(row.n_tokens for row in rows)
        n_shared = shared_beginning([row.prompt_ids for row in rows])
        seconds: dict[bool, list[float]] = {False: [], True: []}
        with tuned(base, recipe):
            base.model.train()
            for number in range(arguments.rounds + 1):
                for shared in (False, True):
                    started = time.perf_counter()
                    for step in steps:
                        take_step(base, step, shared=shared)
                    if number:  # the first of each compiles
                        seconds[shared].append(time.perf_counter() - started)
        apart, once = (n_tokens / statistics.median(seconds[kind]) for kind in (False, True))
        ratio = once / apart
        print(
            f"{dataset.name:<18} {n_tokens:>6} {n_shared * len(rows):>15} {apart:>16.0f} "
            f"{once:>17.0f} {ratio:>6.2f}"
        )
        result[f"{dataset.name}_ratio"] = round(ratio, 3)
    print(f"RESULT {json.dumps(result)}")


def take_step(base: object, rows: Sequence[Encoded], *, shared: bool) -> None:
    """Gradients of one step, as the trainer makes them."""
    groups = [list(range(len(rows)))]
    if not shared:
        groups = length_groups([row.n_tokens for row in rows], len(rows))
    for group in groups:
        nll = response_nll(base, [rows[i] for i in group], share_beginning=shared)
        nll.sum().backward()


if __name__ == "__main__":
    main()
