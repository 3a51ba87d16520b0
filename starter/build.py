"""Build the starter registry: train, measure and export, one adapter after another.

`make starter` runs it. Everything that is done is found done when it is run again, so it may be
stopped at any time. It needs a folder with the datasets, `ADAPT_SHARED_DATA` (by default `shared`
beside this repository), in which `data/NAME` holds train.jsonl, test.jsonl and meta.json.

What is left in this folder: `registry.json` and `vectors.safetensors`, figures of all adapters, and
`adapters/`, the weights of those whose training data let a derived model be passed on. Rows of the
datasets stay in `data/` and `work/`, which git ignores.

`--second-base FILE.gguf` does the same with fewer adapters and tasks on another base model, and
leaves figures only, in `second_base/`.
"""

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from adapt_lora import EvaluationRequest, roads
from adapt_lora.data import read_dataset
from adapt_lora.data.surgery import (
    DerivedRows,
    balance_labels,
    mislabel_rows,
    mix_datasets,
    shuffle_answers,
    subsample_rows,
    write_derived,
)
from adapt_lora.model.base import find_base_model
from adapt_lora.registry import Registry
from adapt_lora.registry.exchange.portable import Export, write_export
from adapt_lora.registry.records import (
    AdapterRecord,
    DatasetRecord,
    TransferMatrix,
)
from adapt_lora.sweep import Sweep, plan_sweep, run_sweep

HOME = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Plan:
    """What is trained and measured on one base model, and where its figures go."""

    manifests: Sequence[Path]
    """Adapters to train."""
    groups: Sequence["TaskGroup"]
    """Tasks to measure all of them on."""
    place: Path
    """Folder of the export."""
    base_model: str | None = None
    """As for `load_base_model`."""
    shots: int | None = None
    """Examples in the prompts of the few-shot row of the base; None for no such row."""
    with_weights: bool = True
    """Whether adapters' files go along where their data let them."""


@dataclass(frozen=True)
class TaskGroup:
    """Tasks that are measured in one way."""

    tasks: Sequence[str]
    """Names of datasets."""
    metric: str
    """What they are scored by."""
    max_rows: int
    """Test rows at most."""


# The standard error of a gain in balanced accuracy is above two points at 100 rows on every label
# task, so all of them get 200; multiple choice, where this base is at chance whatever the adapter,
# and long texts, which cost the most, get 100. Answers of many tokens would cost a minute a cell to
# write, so their likelihood is read instead, which also tells adapters apart that get none of them
# right; so is that of banking77's, since scoring each of 77 labels takes minutes.
LABEL_TASKS = (
    *("sst2", "trec", "ag_news", "sms_spam", "tweet_emotion", "snips", "davidson_hate"),
    *("airline_sentiment", "customer_reviews", "jigsaw_toxic", "hatecheck", "tweet_irony"),
    *("subj", "tweet_hate", "amazon_alexa_stars", "tweet_stance_climate", "snli", "xnli_en"),
    *("mrpc", "paws"),
)
LONG_LABEL_TASKS = ("imdb", "yelp_stars", "mnli", "boolq")
CHOICE_TASKS = ("commonsense_qa", "copa", "truthfulqa_mc", "arc_challenge", "mmlu", "aqua_rat")
TEXT_TASKS = (
    *("goat_arithmetic", "mawps", "code_alpaca", "e2e_nlg", "alpaca", "gsm8k", "dialogsum"),
    *("mbpp", "self_instruct", "banking77"),
)
TASK_GROUPS = (
    TaskGroup(LABEL_TASKS, "balanced_accuracy", 200),
    TaskGroup(TEXT_TASKS, "answer_log_likelihood", 100),
    TaskGroup((*CHOICE_TASKS, *LONG_LABEL_TASKS), "balanced_accuracy", 100),
)
COARSE_ROWS = 50
"""Rows of every cell before any cell gets more."""

SWEEPS = HOME / "sweeps"
SECOND_BASE_GROUPS = (
    TaskGroup(
        (
            *("sst2", "trec", "ag_news", "sms_spam", "tweet_emotion", "snips", "davidson_hate"),
            *("airline_sentiment", "customer_reviews", "jigsaw_toxic", "hatecheck", "subj"),
            *("snli", "mrpc", "paws", "commonsense_qa"),
        ),
        "balanced_accuracy",
        100,
    ),
    TaskGroup(("goat_arithmetic", "code_alpaca", "e2e_nlg", "mawps"), "answer_log_likelihood", 100),
)
STARTER = Plan(
    [SWEEPS / f"{name}.toml" for name in ("400", "100", "1200", "rank8", "collapsed")],
    TASK_GROUPS,
    HOME,
    shots=4,
)
N_LENGTH_ROWS = 300
N_MIXED_ROWS = 20
MIXED = (
    *("sst2", "trec", "ag_news", "tweet_emotion", "sms_spam", "snips", "davidson_hate"),
    *("goat_arithmetic", "snli", "code_alpaca", "airline_sentiment", "e2e_nlg", "jigsaw_toxic"),
    *("alpaca", "mawps", "tweet_irony", "subj", "customer_reviews", "dialogsum", "paws"),
    *("commonsense_qa", "gsm8k"),
)
"""Datasets whose rows the mixture holds: one or two of every kind."""


def main() -> None:
    """Go on with the build until everything is there."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--export-only", action="store_true", help="Write what is measured.")
    options.add_argument("--second-base", metavar="GGUF", help="Build for this base model instead.")
    options.add_argument(
        "--part",
        metavar="K/N",
        type=read_part,
        help="Train and measure every Nth adapter from the Kth, so that N processes share the "
        "work; run it once without this option at the end.",
    )
    arguments = options.parse_args()
    shared = os.environ.get("ADAPT_SHARED_DATA", str(HOME.parents[1] / "shared"))
    link_datasets(Path(shared).expanduser() / "data")
    registry = Registry(HOME / "work" / "registry")
    plan = STARTER
    if arguments.second_base is not None:
        plan = Plan(
            [SWEEPS / "second_base.toml"],
            SECOND_BASE_GROUPS,
            HOME / "second_base",
            base_model=arguments.second_base,
            with_weights=False,
        )
    if not arguments.export_only:
        build(plan, registry, part=arguments.part)
    if arguments.part is None:
        export(plan, registry)


def read_part(text: str) -> tuple[int, int]:
    """K and N of "K/N"."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not K/N with K from 1 to N, such as 1/2.")
    return int(found[1]), int(found[2])


def build(plan: Plan, registry: Registry, *, part: tuple[int, int] | None) -> None:
    """Train everything, then measure all of it on few rows, then on all; every stop is resumed.

    Without a part, what follows from all adapters too.
    """
    runs = [
        run
        for manifest in plan.manifests
        for run in plan_sweep(manifest, registry=registry, base_model=plan.base_model).runs
    ]
    kth, n_parts = part or (1, 1)
    say(Sweep(tuple(runs)).describe())
    runs = runs[kth - 1 :: n_parts]
    done = run_sweep(Sweep(tuple(runs)), registry=registry, say=say)
    names = [run.name for run in done.runs if run.status != "failed"]
    for coarse in (True, False):
        for group in plan.groups:
            measure(plan, group, registry, [], coarse=coarse)
            for name in names:
                measure(plan, group, registry, [name], coarse=coarse)
        if part is None:
            export(plan, registry)
    if part is None:
        for group in plan.groups if plan.shots is not None else ():
            measure(plan, group, registry, [], shots=plan.shots)
        roads.write_traits(registry=registry, base_model=plan.base_model)


def link_datasets(source: Path) -> None:
    """Put the datasets and their changed copies where the manifest looks for them."""
    if not source.is_dir():
        raise SystemExit(f"{source}: no such folder. Set ADAPT_SHARED_DATA to the datasets' home.")
    place = HOME / "data"
    place.mkdir(exist_ok=True)
    for folder in sorted(source.iterdir()):
        link = place / folder.name
        if folder.is_dir() and not link.exists():
            link.symlink_to(folder)
    for name, derived in twins(source).items():
        if not (place / name).exists():
            write_derived(derived, place / name, name=name, split="train")


def twins(source: Path) -> Mapping[str, DerivedRows]:
    """Copies of datasets with one thing changed, by name."""
    read = {
        name: read_dataset(source / name, split="train")
        for name in ("sms_spam", "davidson_hate", "snips", "trec", "alpaca")
    }
    n = N_LENGTH_ROWS
    return {
        "sms_spam_balanced": balance_labels(read["sms_spam"], seed=0),
        "davidson_hate_balanced": balance_labels(read["davidson_hate"], seed=0),
        "snips_mislabelled": mislabel_rows(read["snips"], seed=0),
        "trec_shuffled": shuffle_answers(read["trec"], seed=0),
        "alpaca_short": subsample_rows(read["alpaca"], n, seed=0, keep="shortest"),
        "alpaca_long": subsample_rows(read["alpaca"], n, seed=0, keep="longest"),
        "mixture": mix_datasets(
            [read_dataset(source / name, split="train") for name in MIXED],
            rows_each=N_MIXED_ROWS,
            seed=0,
        ),
    }


def measure(
    plan: Plan,
    group: TaskGroup,
    registry: Registry,
    adapters: Sequence[str],
    *,
    coarse: bool = False,
    shots: int | None = None,
) -> None:
    """Score these adapters, or the bare base, on the tasks of a group; on few rows where coarse."""
    done = roads.evaluate(
        EvaluationRequest(
            [HOME / "data" / task for task in group.tasks],
            adapters=adapters,
            base_model=plan.base_model,
            metric=group.metric,
            max_rows=COARSE_ROWS if coarse else group.max_rows,
            shots=shots,
        ),
        registry=registry,
        say=say,
    )
    for failure in done.report.failures:
        say(f"{failure.task}: {failure.reason}")


def export(plan: Plan, registry: Registry) -> None:
    """Write what is measured so far."""
    base = find_base_model(plan.base_model)
    matrix = registry.transfer_matrix(base)
    meta = {r.name: _provenance(r.dataset) for r in matrix.adapters if r.dataset is not None}
    of_tasks = {task.name: _provenance(task.dataset) for task in matrix.tasks}
    ships = {
        name for name, about in meta.items() if plan.with_weights and about["weights_may_ship"]
    }
    adapters = tuple(
        record if record.name in ships else _figures_only(record, meta)
        for record in matrix.adapters
    )
    folders = {
        record.adapter_id: registry.pull(record, _emptied(record.name))
        for record in matrix.adapters
        if record.name in ships
    }
    about = {
        "made_with": {name: version(name) for name in ("adapt-lora", "torch", "transformers")},
        "base": "Figures were measured on a 4-bit copy of the base model, dequantised.",
        "datasets": meta,
        "tasks": of_tasks,
    }
    shown = Counter(c.row for c in matrix.cells if c.row.shots)
    half_done = {row for row, n_cells in shown.items() if n_cells < len(matrix.tasks)}
    cells = tuple(cell for cell in matrix.cells if cell.row not in half_done)
    exported = TransferMatrix(base, adapters, matrix.tasks, cells, matrix.regime)
    write_export(Export(exported, folders, registry.trait_fit(base), about), plan.place)
    write_provenance(plan, adapters, meta)
    size = sum(file.stat().st_size for file in plan.place.glob("[rv]*.*")) / 2**20
    say(f"{len(adapters)} adapters, {len(cells)} cells: {size:.2f} MB of figures")


def say(text: str) -> None:
    """Print a line at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _figures_only(
    record: AdapterRecord, provenance: Mapping[str, Mapping[str, Any]]
) -> AdapterRecord:
    if provenance[record.name]["weights_may_ship"]:
        return replace(record, has_weights=False)
    said = "Its weights are not passed on: its training data's licence does not clearly allow it."
    return replace(record, has_weights=False, warnings=(*record.warnings, said))


def _provenance(dataset: DatasetRecord) -> Mapping[str, Any]:
    """Where a dataset comes from, by its own or, of a changed copy, its parent's meta.json."""
    place = HOME / "data" / dataset.name / "meta.json"
    content = json.loads(place.read_text(encoding="utf-8"))
    if "derived" in content:
        place = HOME / "data" / dataset.group / "meta.json"
        content = json.loads(place.read_text(encoding="utf-8"))
    kept = ("source_repo", "commit", "licence", "citation_url_or_paper", "weights_may_ship")
    about = {key: content[key] for key in kept if content.get(key) is not None}
    return about | {"digest": dataset.digest, "rows": dataset.n_rows}


def write_provenance(
    plan: Plan, adapters: Sequence[AdapterRecord], provenance: Mapping[str, Mapping[str, Any]]
) -> None:
    """A page beside the figures: whose data each adapter learned from, under which licence."""
    weights = "weights where the data's licence lets a derived model be passed on"
    lines = [
        "# What the adapters were trained on",
        "",
        f"Written by `build.py`. Figures of all of them are here; {weights}."
        if plan.with_weights
        else "Written by `build.py`. Figures of all of them are here, no weights.",
        "No row of any dataset is.",
        f"Settings: {', '.join(f'`sweeps/{m.name}`' for m in plan.manifests)}; one epoch.",
        "",
        "| adapter | rows | source | licence | cite | weights |",
        "|---|---:|---|---|---|---|",
    ]
    for record in adapters:
        about = provenance[record.name]
        source = about["source_repo"]
        if source.startswith("("):
            source = "made by a program"  # the data's own page names the program
        if record.dataset is not None and record.dataset.parent:
            source += ", changed: " + record.name.removeprefix(f"{record.dataset.group}_")
        here = "yes" if record.has_weights else "figures only"
        cells = (record.name, about["rows"], source, about["licence"])
        lines.append(
            f"| {' | '.join(map(str, cells))} | {about['citation_url_or_paper']} | {here} |"
        )
    (plan.place / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _emptied(name: str) -> Path:
    place = HOME / "work" / "files" / name
    if place.is_dir():
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


if __name__ == "__main__":
    main()
