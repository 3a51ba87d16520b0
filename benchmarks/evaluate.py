"""How fast adapters × tasks are scored, beside lm-evaluation-harness and a bare forward pass.

Six rank-8 adapters (random, since what they say does not change the cost) on five label tasks of
100 rows. Three sides, each in a process of its own:

- ours: one base model, every adapter put on once, every cell written into a fresh registry;
- lm-eval: its `hf` model with `peft=`, one process per adapter as its users run it, the same rows,
  prompts, labels, chat template and number format, its accuracy printed beside ours;
- bare: one forward pass of the base model, without its head, over the tokens that all prompts and
  labels of a row make up, in batches sorted by length, nothing scored and nothing shared.

`ratio_vs_lm_eval` compares whole processes, `ratio_without_loading` the scoring alone.
`fraction_of_forward_rate` counts the same tokens on both sides, whether or not we read them twice.
`overhead_per_cell_ms` is what a cell takes beside the calls that score it: planning, statistics and
MLflow.

Run it with `.venv/bin/python benchmarks/evaluate.py --tasks FOLDER`, a folder of datasets of which
sst2, snli, trec, davidson_hate and ag_news are taken where it has them; without it the label tasks
of `examples/`. lm-eval is looked for in this interpreter, or in `--rival-python PYTHON`.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

N_ADAPTERS, N_ROWS, RANK = 6, 100, 8
TASKS = ("sst2", "snli", "trec", "davidson_hate", "ag_news")
EXAMPLES = Path(__file__).parents[1] / "examples"
EXAMPLE_TASKS = ("product_reviews", "customer_intent", "ticket_urgency")


def main() -> None:
    """Run the sides, print their figures and one RESULT line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--tasks", type=Path, help="Folder of dataset folders.")
    options.add_argument("--rows", type=int, default=N_ROWS)
    options.add_argument("--adapters", type=int, default=N_ADAPTERS)
    options.add_argument(
        "--rival-adapters", type=int, help="Adapters that lm-eval runs; its rate is per adapter."
    )
    options.add_argument("--rival-batch-sizes", default="8", help="Tried on the first adapter.")
    options.add_argument("--rival-python", default=sys.executable)
    options.add_argument("--side", choices=("ours", "bare"), help=argparse.SUPPRESS)
    options.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.side == "ours":
        print(json.dumps(score_matrix(arguments.home)))
    elif arguments.side == "bare":
        print(json.dumps(read_bare(arguments.home)))
    else:
        with tempfile.TemporaryDirectory(prefix="adapt-bench-") as scratch:
            compare(arguments, Path(scratch))


def compare(arguments: argparse.Namespace, home: Path) -> None:
    """Set the sides up, run them one after another, and print."""
    folder, names = _choose_tasks(arguments.tasks)
    rival = _rival_version(arguments.rival_python)
    print(
        f"adapt {version('adapt-lora')}, torch {version('torch')}, transformers "
        f"{version('transformers')}, lm-eval {rival or 'not installed'}; {os.cpu_count()} cores"
    )
    n_adapters = arguments.adapters
    print(f"{n_adapters} adapters of rank {RANK} × {len(names)} tasks × {arguments.rows} rows")
    prepare(home, [folder / name for name in names], arguments.rows, n_adapters)
    ours = _run_side("ours", home)
    bare = _run_side("bare", home)
    n_cells = n_adapters * len(names)
    print(
        f"ours: {ours['total_s']:.1f} s in all, {ours['matrix_s']:.1f} s for {ours['n_cells']} "
        f"cells, {ours['tokens_per_s']:.0f} tokens/s, peak {ours['peak_mib']:.0f} MiB"
    )
    print(f"bare forward pass: {bare['tokens_per_s']:.0f} tokens/s, {bare['peak_mib']:.0f} MiB")
    result: dict[str, float] = {
        "n_cells": n_cells,
        "seconds_per_cell": round(ours["matrix_s"] / ours["n_cells"], 3),
        "fraction_of_forward_rate": round(ours["tokens_per_s"] / bare["tokens_per_s"], 3),
        "overhead_per_cell_ms": round(ours["overhead_per_cell_ms"], 1),
        "peak_mib": round(ours["peak_mib"]),
        "bare_peak_mib": round(bare["peak_mib"]),
    }
    if rival is None:
        print("lm-eval is not installed here: pip install lm-eval, or give --rival-python.")
    else:
        result |= _compare_rival(arguments, home, names, ours)
    print("RESULT " + json.dumps(result))


def prepare(home: Path, sources: Sequence[Path], n_rows: int, n_adapters: int) -> None:
    """Write the tasks' rows, the adapters and the base model's place, the same for every side."""
    import numpy as np
    from safetensors.numpy import save_file

    from adapt_lora.data import read_dataset, sample_rows
    from adapt_lora.model import scoring
    from adapt_lora.model.base import load_base_model

    base = load_base_model()
    (home / "base.txt").write_text(f"{base.folder}\n{base.dtype}".replace("torch.", ""))
    for source in sources:
        dataset = read_dataset(source)
        rows = sample_rows(dataset.rows, min(n_rows, len(dataset.rows)), seed=0)
        place = home / "tasks" / source.name
        place.mkdir(parents=True)
        before, after, closing = scoring._template_texts(base, "base")
        end = base.tokenizer.decode(scoring._template_ids(base, "base")[2])
        assert closing.startswith(end)
        with (
            (place / "test.jsonl").open("w", encoding="utf-8") as out,
            (home / f"{source.name}.lm-eval.jsonl").open("w", encoding="utf-8") as rival,
        ):
            for row in rows:
                plain = {"prompt": row.prompt, "response": row.response, "label": row.label}
                out.write(json.dumps(plain) + "\n")
                rendered = {
                    "text": before + row.prompt + after,
                    "choices": [label + end for label in dataset.labels],
                    "gold": dataset.labels.index(str(row.label)),
                }
                rival.write(json.dumps(rendered) + "\n")
        meta = {"name": source.name, "labels": dataset.labels, "metric": "label_accuracy"}
        (place / "meta.json").write_text(json.dumps(meta))
    rng = np.random.default_rng(0)
    modules = {
        name: module.weight.shape
        for name, module in base.model.named_modules()
        if name.endswith("_proj")
    }
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.identity.name,
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in modules}),
        "inference_mode": True,
    }
    for number in range(n_adapters):
        place = home / "adapters" / f"a{number}"
        place.mkdir(parents=True)
        tensors = {}
        for name, (n_out, n_in) in modules.items():
            down = rng.normal(0, 0.02, (RANK, n_in)).astype(np.float32)
            up = rng.normal(0, 0.005, (n_out, RANK)).astype(np.float32)
            tensors[f"base_model.model.{name}.lora_A.weight"] = down
            tensors[f"base_model.model.{name}.lora_B.weight"] = up
        save_file(tensors, str(place / "adapter_model.safetensors"), metadata={"format": "pt"})
        (place / "adapter_config.json").write_text(json.dumps(config))


def score_matrix(home: Path) -> dict[str, Any]:
    """Our side: load the base, score every cell, write it into a registry."""
    from adapt_lora.data import read_dataset
    from adapt_lora.evaluator import Measuring, TransformersBackend, make_task
    from adapt_lora.model.base import load_base_model
    from adapt_lora.registry import Registry
    from adapt_lora.registry.adapter import read_adapter
    from adapt_lora.registry.records import AdapterRecord

    base = load_base_model(_base_folder(home))
    scoring_s = [0.0]

    class Timed(TransformersBackend):
        """The backend, with the time of its calls counted."""

        def score_labels(self, *args: Any, **kwargs: Any) -> Any:
            """Score, and count the seconds."""
            with _counted(scoring_s):
                return super().score_labels(*args, **kwargs)

        @contextmanager
        def adapted(self, folder: Path | None) -> Iterator[None]:
            """Put an adapter on, and count the seconds."""
            block = super().adapted(folder)
            with _counted(scoring_s):
                block.__enter__()
            try:
                yield
            finally:
                with _counted(scoring_s):
                    block.__exit__(None, None, None)

    tasks = [make_task(read_dataset(place)) for place in sorted((home / "tasks").iterdir())]
    records = {task.record.name: task.record for task in tasks}
    n_tokens = sum(_count_tokens(base, task.record.labels, task.rows) for task in tasks)
    adapters = sorted((home / "adapters").iterdir())
    registry = Registry(home / "registry")
    registry.ensure_base(base.identity)
    by_id = {}
    for folder in adapters:
        record = AdapterRecord(read_adapter(folder).adapter_id, folder.name, base.identity)
        by_id[record.adapter_id] = registry.add_adapter(record, folder)
    right: dict[str, list[float]] = {}

    def keep(result: Any) -> None:
        cell = result.cell
        adapter = by_id[cell.row.model]
        registry.add_cells(base.identity, adapter, records[cell.task], [cell])
        right.setdefault(cell.task, []).append(cell.metrics["accuracy"])

    started = time.perf_counter()
    measuring = Measuring(Timed(base))
    rows = [(record.row, folder) for record, folder in zip(by_id.values(), adapters, strict=True)]
    plan = measuring.plan(rows, tasks)
    of_adapters = tuple(unit for unit in plan.units if unit.row.is_candidate)
    report = measuring.run(replace(plan, units=of_adapters), keep)
    matrix_s = time.perf_counter() - started
    if report.failures:
        raise SystemExit(f"{report.failures[0].task}: {report.failures[0].reason}")
    n_cells = len(report.cells)
    return {
        "matrix_s": matrix_s,
        "n_cells": n_cells,
        "tokens_per_s": n_tokens * len(adapters) / scoring_s[0],
        "overhead_per_cell_ms": 1000 * (matrix_s - scoring_s[0]) / n_cells,
        "peak_mib": _peak_mib(),
        "accuracy": {task: values[0] for task, values in right.items()},
    }


def read_bare(home: Path) -> dict[str, Any]:
    """The rate of a plain forward pass over the same tokens."""
    import torch

    from adapt_lora.data import read_dataset
    from adapt_lora.model import scoring
    from adapt_lora.model.base import load_base_model

    base = load_base_model(_base_folder(home))
    decoder = base.model.get_decoder()
    sequences = []
    for place in sorted((home / "tasks").iterdir()):
        dataset = read_dataset(place)
        labels = [token for ids in scoring.label_ids(base, dataset.labels) for token in ids[:-1]]
        for row in dataset.rows:
            sequences.append([*scoring.encode_row(base, row.prompt, None).prompt_ids, *labels])
    rates = []
    for _ in range(3):
        started = time.perf_counter()
        with torch.inference_mode():
            for batch in scoring.token_batches([len(ids) for ids in sequences], 2048):
                longest = max(len(sequences[index]) for index in batch)
                ids = [
                    sequences[index] + [0] * (longest - len(sequences[index])) for index in batch
                ]
                decoder(input_ids=torch.tensor(ids), use_cache=False)
        n_tokens = sum(len(ids) for ids in sequences)
        rates.append(n_tokens / (time.perf_counter() - started))
    return {"tokens_per_s": statistics.median(rates), "peak_mib": _peak_mib()}


def _compare_rival(
    arguments: argparse.Namespace, home: Path, names: Sequence[str], ours: dict[str, Any]
) -> dict[str, float]:
    n_adapters = min(arguments.rival_adapters or arguments.adapters, arguments.adapters)
    sizes = [int(size) for size in arguments.rival_batch_sizes.split(",")]
    _write_rival_tasks(home, names)
    runs = {size: _run_rival(arguments.rival_python, home, names, 0, size) for size in sizes}
    best = min(runs, key=lambda size: runs[size]["total_s"])
    finished = [runs[best]]
    finished += [
        _run_rival(arguments.rival_python, home, names, number, best)
        for number in range(1, n_adapters)
    ]
    total = statistics.mean(run["total_s"] for run in finished)
    scoring = statistics.mean(run["scoring_s"] for run in finished)
    print(
        f"lm-eval, batch size {best}, mean of {n_adapters} adapters: {total:.1f} s each, "
        f"{scoring:.1f} s without loading"
    )
    for task in names:
        print(
            f"  accuracy of the first adapter on {task}: ours {ours['accuracy'][task]:.3f}, "
            f"lm-eval {finished[0]['accuracy'][task]:.3f}"
        )
    n_ours = ours["n_cells"] / len(names)
    return {
        "ratio_vs_lm_eval": round(total * n_ours / ours["total_s"], 2),
        "ratio_without_loading": round(scoring * n_ours / ours["matrix_s"], 2),
        "lm_eval_seconds_per_adapter": round(total, 1),
        "lm_eval_adapters": n_adapters,
    }


def _write_rival_tasks(home: Path, names: Sequence[str]) -> None:
    for name in names:
        rows = home / f"{name}.lm-eval.jsonl"
        (home / "lm-eval").mkdir(exist_ok=True)
        (home / "lm-eval" / f"{name}.yaml").write_text(
            f"task: bench_{name}\n"
            "dataset_path: json\n"
            f"dataset_kwargs:\n  data_files:\n    test: {rows}\n"
            "test_split: test\n"
            "output_type: multiple_choice\n"
            'doc_to_text: "{{text}}"\n'
            "doc_to_choice: choices\n"
            "doc_to_target: gold\n"
            'target_delimiter: ""\n'
            "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
        )


def _run_rival(
    python: str, home: Path, names: Sequence[str], number: int, batch_size: int
) -> dict[str, Any]:
    folder, dtype = (home / "base.txt").read_text().split("\n")
    out = home / f"lm-eval-out-{number}-{batch_size}"
    adapter = home / "adapters" / f"a{number}"
    started = time.perf_counter()
    done = subprocess.run(
        [
            python,
            *("-m", "lm_eval", "run", "--model", "hf", "--device", "cpu"),
            *("--model_args", f"pretrained={folder},peft={adapter},dtype={dtype}"),
            *("--tasks", ",".join(f"bench_{name}" for name in names)),
            *("--include_path", str(home / "lm-eval")),
            *("--batch_size", str(batch_size), "--output_path", str(out)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(home / "datasets")},
    )
    total_s = time.perf_counter() - started
    files = sorted(out.rglob("results_*.json"))
    if done.returncode or not files:
        raise SystemExit(f"lm-eval failed:\n{done.stderr[-2000:]}")
    report = json.loads(files[-1].read_text())
    return {
        "total_s": total_s,
        "scoring_s": _shown_s(done.stderr),
        "accuracy": {name: float(report["results"][f"bench_{name}"]["acc,none"]) for name in names},
    }


def _shown_s(progress: str) -> float:
    """Seconds that lm-eval's last progress bar over the requests shows as elapsed."""
    shown = re.findall(r"loglikelihood requests: 100%.*?\[([\d:]+)<", progress)
    if not shown:
        raise SystemExit("lm-eval printed no finished progress bar; its version may differ.")
    seconds = 0
    for part in shown[-1].split(":"):
        seconds = 60 * seconds + int(part)
    return float(seconds)


def _run_side(side: str, home: Path) -> dict[str, Any]:
    """One of our sides in a process of its own; its printed object and its whole time."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--side", side, "--home", str(home)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures | {"total_s": time.perf_counter() - started}


def _rival_version(python: str) -> str | None:
    ask = "from importlib.metadata import version; print(version('lm_eval'))"
    done = subprocess.run([python, "-c", ask], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def _choose_tasks(folder: Path | None) -> tuple[Path, Sequence[str]]:
    if folder is None:
        return EXAMPLES, EXAMPLE_TASKS
    names = [name for name in TASKS if (folder / name).is_dir()]
    if not names:
        raise SystemExit(f"{folder}: none of {', '.join(TASKS)} is there.")
    return folder, names


def _base_folder(home: Path) -> str:
    return (home / "base.txt").read_text().split("\n")[0]


def _count_tokens(base: Any, labels: Sequence[str], rows: Sequence[Any]) -> int:
    """Tokens that the bare side reads for one task: each prompt with every label after it."""
    from adapt_lora.model import scoring

    tail = sum(len(ids) - 1 for ids in scoring.label_ids(base, labels))
    return sum(len(scoring.encode_row(base, row.prompt, None).prompt_ids) + tail for row in rows)


@contextmanager
def _counted(total: list[float]) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        total[0] += time.perf_counter() - started


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
