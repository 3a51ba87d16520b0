"""Result files of lm-evaluation-harness as cells: somebody else's measurements of one model.

Written by its version 0.4 (`results_DATE.json`, and `samples_TASK_DATE.jsonl` where samples were
logged). Prompts, rows and decisions are the harness's own, so that its cells stand in columns of
their own, "lm-eval/TASK", and are never compared with ours.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt_lora.errors import MatrixError
from adapt_lora.registry.records import (
    PUBLISHED_METRIC,
    Cell,
    DatasetRecord,
    MatrixRow,
    Prediction,
    TaskRecord,
)

PREFIX = "lm-eval/"
"""What the names of its tasks begin with here."""

# The harness's measures that are ours too; every other one keeps its own name beside the score.
_OUR_METRIC: Mapping[str, str] = {"acc": "accuracy", "exact_match": "exact_match"}
# Which of several measures rules: the plain ones first, then the first of the file.
_PREFERRED = ("acc", "exact_match", "acc_norm")


@dataclass(frozen=True, slots=True)
class HarnessCell:
    """One task of a results file."""

    task: TaskRecord
    """The task, named after the harness's."""
    cell: Cell
    """Its score; `row` is for the caller to fill in."""
    predictions: tuple[Prediction, ...]
    """Row by row, where samples were logged; rows go by the harness's own digests."""


@dataclass(frozen=True, slots=True)
class HarnessResults:
    """What one results file holds."""

    source: str
    """Name of the file."""
    pretrained: str
    """The base model as the harness was told; "" where it was not."""
    peft: str
    """The adapter as the harness was told: a path or Hub id; "" for the bare base."""
    cells: tuple[HarnessCell, ...]
    """One per task that has a score."""
    warnings: tuple[str, ...]
    """Tasks that were left out and why, one sentence each."""


def lm_eval_files(path: str | Path) -> tuple[Path, ...]:
    """The results files at a path: the file itself, or all below a folder, by name."""
    place = Path(path)
    found = sorted(place.rglob("results_*.json")) if place.is_dir() else [place]
    return tuple(file for file in found if file.suffix == ".json" and _looks_right(file))


def read_lm_eval(path: str | Path) -> HarnessResults:
    """The tasks of a results file, with predictions from the samples beside it.

    The ruling metric is accuracy, else exact match, else normalised accuracy, else the first that
    is a share of 1 and better when higher; all others stand beside it. Groups of tasks are left to
    their members.

    Raises:
        MatrixError: It is not such a file, or holds no score that can be used.
    """
    place = Path(path)
    content = _read_json(place)
    if not _has_keys(content):
        raise MatrixError(
            f"{place}: not a results file of lm-evaluation-harness (it needs 'results' and "
            "'configs' or 'versions')."
        )
    arguments = _model_args(content.get("config", {}).get("model_args"))
    cells: list[HarnessCell] = []
    warnings: list[str] = []
    groups = {
        member: group
        for group, members in content.get("group_subtasks", {}).items()
        for member in members
    }
    for name, figures in content["results"].items():
        if content.get("group_subtasks", {}).get(name):
            continue
        made = _read_task(place, content, name, figures, group=groups.get(name, name))
        if made is None:
            warnings.append(
                f"{name} is left out: none of its figures "
                f"({', '.join(_measures(figures)) or 'none'}) is a share of 1 that is better when "
                "higher."
            )
        else:
            cells.append(made)
    if not cells:
        raise MatrixError(f"{place}: no score to import. {' '.join(warnings)}".strip())
    return HarnessResults(
        source=place.name,
        pretrained=arguments.get("pretrained", arguments.get("model", "")),
        peft=arguments.get("peft", arguments.get("lora_local_path", "")),
        cells=tuple(cells),
        warnings=tuple(warnings),
    )


def _read_task(
    path: Path, content: Mapping[str, Any], name: str, figures: Mapping[str, Any], *, group: str
) -> HarnessCell | None:
    measures = _measures(figures)
    higher = content.get("higher_is_better", {}).get(name, {})
    usable = [
        key
        for key, value in measures.items()
        if higher.get(key.partition(",")[0], True) and 0 <= value <= 1
    ]
    if not usable:
        return None
    rank = {metric: number for number, metric in enumerate(_PREFERRED)}
    ruling = min(usable, key=lambda key: rank.get(key.partition(",")[0], len(rank)))
    metric, _, chosen_filter = ruling.partition(",")
    ours = _OUR_METRIC.get(metric, PUBLISHED_METRIC)
    rows = _about_rows(content, name)
    n = content.get("n-samples", {}).get(name, {}).get("effective", figures.get("sample_len"))
    task = TaskRecord(
        name=f"{PREFIX}{name}",
        group=group,
        metric=ours,
        dataset=DatasetRecord(
            name=name,
            digest=_digest("lm-eval rows", rows),
            group=group,
            n_rows=n if isinstance(n, int) else None,
            source=path.name,
        ),
    )
    cell = Cell(
        row=MatrixRow(""),
        task=task.name,
        metric=ours,
        score=measures[ruling],
        se=_number(figures.get(f"{metric}_stderr,{chosen_filter}")),
        n=task.dataset.n_rows,
        protocol=_digest("lm-eval", {**rows, **_about_protocol(content, name), "metric": ruling}),
        metrics={key: value for key, value in measures.items() if key != ruling},
    )
    choices = content.get("configs", {}).get(name, {}).get("output_type") == "multiple_choice"
    samples = path.with_name(path.name.replace("results_", f"samples_{name}_", 1) + "l")
    predictions = _read_samples(samples, metric, chosen_filter, choices=choices)
    return HarnessCell(task, cell, predictions)


def _about_rows(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What decides which rows are scored."""
    config = content.get("configs", {}).get(name, {})
    split = config.get("test_split") or config.get("validation_split")
    return {
        "task": name,
        "dataset": [config.get("dataset_path"), config.get("dataset_name"), split],
        "version": content.get("versions", {}).get(name),
        "n": content.get("n-samples", {}).get(name),
    }


def _about_protocol(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What else decides a score there, the model aside."""
    config = content.get("config", {})
    return {
        "n_shot": content.get("n-shot", {}).get(name),
        "fewshot_seed": config.get("fewshot_seed"),
        "gen_kwargs": config.get("gen_kwargs"),
        "chat_template": content.get("chat_template_sha"),
        "multiturn": content.get("fewshot_as_multiturn"),
        "system": content.get("system_instruction_sha"),
    }


def _measures(figures: Mapping[str, Any]) -> dict[str, float]:
    """Figures by "metric,filter", without errors, aliases and counts."""
    found = {}
    for key, value in figures.items():
        metric, comma, _ = key.partition(",")
        number = _number(value)
        if comma and number is not None and not metric.endswith("_stderr"):
            found[key] = number
    return found


def _read_samples(
    path: Path, metric: str, chosen_filter: str, *, choices: bool
) -> tuple[Prediction, ...]:
    if not path.is_file():
        return ()
    predictions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            sample = json.loads(line)
            if sample.get("filter", chosen_filter) != chosen_filter:
                continue
            predictions.append(_prediction(sample, metric, choices=choices))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MatrixError(
                f"{path}, line {number}: not a sample of lm-evaluation-harness ({error!r}). Take "
                "the file away to import the scores alone."
            ) from error
    return tuple(predictions)


def _prediction(sample: Mapping[str, Any], metric: str, *, choices: bool) -> Prediction:
    """A sample without its texts; of choices, the numbers of the gold and the likeliest one."""
    value = _number(sample.get(metric))
    likelihood: tuple[float, ...] = ()
    if choices:
        likelihood = tuple(float(answer[0]) for answer in sample["filtered_resps"])
    return Prediction(
        row=str(sample.get("doc_hash") or f"doc {sample['doc_id']}"),
        right=None if value not in (0.0, 1.0) else value == 1.0,
        answer=str(likelihood.index(max(likelihood))) if likelihood else None,
        log_likelihood=likelihood,
        n_tokens=None,
        gold=str(sample["target"]) if choices else None,
    )


def _model_args(given: Any) -> dict[str, str]:
    """The harness's `--model_args`: "pretrained=…,peft=…", or the same as an object."""
    if isinstance(given, Mapping):
        return {str(key): str(value) for key, value in given.items()}
    pairs = (part.partition("=") for part in str(given or "").split(","))
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def _looks_right(path: Path) -> bool:
    try:
        return _has_keys(_read_json(path))
    except MatrixError:
        return False


def _has_keys(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and isinstance(content.get("results"), dict)
        and ("configs" in content or "versions" in content)
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MatrixError(f"{path} can't be read as JSON: {error}.") from error


def _number(value: Any) -> float | None:
    """A finite number, or None: the harness writes "N/A" where it has no error."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _digest(kind: str, parts: Mapping[str, Any] | Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps([kind, parts], sort_keys=True).encode()).hexdigest()
