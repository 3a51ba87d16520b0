"""Copies of datasets with one thing changed, for experiments on what in the data matters.

A copy is a folder with `train.jsonl` (or another split) and `meta.json`, which says what it was
made from and how, so that fingerprints and the registry can name the parent.
"""

import json
import random
import shutil
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from adapt_lora.data.dataset import Dataset, Row, sample_rows
from adapt_lora.errors import ConfigError, DatasetError

RowsToKeep = Literal["random", "shortest", "longest"]
"""Which rows a subsample keeps: drawn ones, or those with the shortest or longest responses."""


@dataclass(frozen=True, slots=True)
class DerivedRows:
    """Rows made from other datasets' rows, and how."""

    rows: tuple[Row, ...]
    """The rows of the copy."""
    parents: tuple[Dataset, ...]
    """What they were made from."""
    operation: str
    """What was done: "balance", "mislabel", "shuffle", "subsample", "mix" or
    "holdout"."""
    options: Mapping[str, int | float | str]
    """Settings of the operation, the seed among them."""
    labels: tuple[str, ...]
    """The label set; empty for mixtures, whose parts have different ones."""


def balance_labels(dataset: Dataset, *, seed: int) -> DerivedRows:
    """As many rows of each label as the rarest one has, drawn without replacement, order kept.

    Class balance as a trait that adapters carry over: Krishna et al. 2025, §5.4 and Table 3.

    Raises:
        DatasetError: The rows are not labelled, or have one label only.
    """
    _check_labelled(dataset, "balance")
    by_label: dict[str | None, list[int]] = defaultdict(list)
    for index, row in enumerate(dataset.rows):
        by_label[row.label].append(index)
    n_each = min(len(indices) for indices in by_label.values())
    rng = random.Random(seed)
    chosen = sorted(i for label in by_label for i in rng.sample(by_label[label], n_each))
    rows = tuple(dataset.rows[i] for i in chosen)
    return DerivedRows(rows, (dataset,), "balance", {"seed": seed}, dataset.labels)


def mislabel_rows(dataset: Dataset, *, share: float = 1.0, seed: int) -> DerivedRows:
    """Give that share of the rows a wrong label, drawn evenly from the others.

    The response goes with the label. Training on deliberately wrong labels: Krishna et al. 2025,
    Table 5.

    Args:
        dataset: Labelled rows whose responses say nothing but the label.
        share: Of the rows, in (0, 1].
        seed: Decides the rows and their new labels.

    Raises:
        DatasetError: Not labelled, one label only, or responses that hold more than the label.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"--share must lie in (0, 1], not {share}.")
    _check_labelled(dataset, "mislabel")
    answers = _answers_by_label(dataset)
    rng = random.Random(seed)
    wrong = set(rng.sample(range(len(dataset.rows)), max(1, round(share * len(dataset.rows)))))
    rows = []
    for index, row in enumerate(dataset.rows):
        if index in wrong:
            label = rng.choice([label for label in sorted(answers) if label != row.label])
            row = replace(row, label=label, response=answers[label])
        rows.append(row)
    options = {"share": share, "seed": seed}
    return DerivedRows(tuple(rows), (dataset,), "mislabel", options, dataset.labels)


def shuffle_answers(dataset: Dataset, *, seed: int) -> DerivedRows:
    """The same prompts with each other's answers, labels along with them.

    The answers keep their lengths and their shares; that they answer the prompts is lost. What a
    model learns from such rows is the form alone: Min et al. 2022, arXiv:2202.12837.

    Raises:
        DatasetError: There are no responses, or fewer than two rows.
    """
    if not dataset.has_responses or len(dataset.rows) < 2:
        raise DatasetError(
            f"{dataset.name} has no answers to exchange. It needs at least two rows with "
            "responses; name their field with --map response=FIELD."
        )
    order = list(range(len(dataset.rows)))
    random.Random(seed).shuffle(order)
    rows = tuple(
        replace(
            row,
            response=dataset.rows[i].response,
            label=dataset.rows[i].label,
            tests=dataset.rows[i].tests,
        )
        for row, i in zip(dataset.rows, order, strict=True)
    )
    return DerivedRows(rows, (dataset,), "shuffle", {"seed": seed}, dataset.labels)


def subsample_rows(
    dataset: Dataset, n_rows: int, *, seed: int, keep: RowsToKeep = "random"
) -> DerivedRows:
    """That many rows, order kept: drawn without replacement, or those with the extreme responses.

    Two copies of one dataset, one with its shortest and one with its longest responses, show what
    output length does: Krishna et al. 2025, §5.3.

    Args:
        dataset: Any rows; "shortest" and "longest" need responses.
        n_rows: Rows of the copy.
        seed: Decides the draw; of no effect otherwise.
        keep: Which rows. Length is counted in characters; of equal ones the first are kept.

    Raises:
        DatasetError: There are not as many rows, or no responses to go by.
    """
    if n_rows > len(dataset.rows):
        raise DatasetError(
            f"{dataset.name} has {len(dataset.rows):,} usable rows, so {n_rows:,} can't be drawn."
        )
    if keep == "random":
        rows = sample_rows(dataset.rows, n_rows, seed=seed)
        drawn = {"rows": n_rows, "seed": seed}
        return DerivedRows(rows, (dataset,), "subsample", drawn, dataset.labels)
    if not dataset.has_responses:
        raise DatasetError(
            f"{dataset.name} has no responses, so none is the {keep}. Keep random rows, or name "
            "the field with --map response=FIELD."
        )
    sign = 1 if keep == "shortest" else -1
    lengths = [len(row.response or "") for row in dataset.rows]
    ranked = sorted(range(len(lengths)), key=lambda index: sign * lengths[index])
    rows = tuple(dataset.rows[index] for index in sorted(ranked[:n_rows]))
    return DerivedRows(
        rows, (dataset,), "subsample", {"rows": n_rows, "keep": keep}, dataset.labels
    )


def mix_datasets(
    datasets: Sequence[Dataset], *, rows_each: int | None = None, seed: int
) -> DerivedRows:
    """All datasets in one, shuffled; a row's label stays behind, its answer comes along.

    Args:
        datasets: At least two, all with responses.
        rows_each: Rows drawn from each at most; None for all.
        seed: Decides draws and order.

    A model trained on all datasets together: Harada et al. 2025, §3.3.
    """
    _check_mixable(datasets)
    parts = [
        row
        for dataset in datasets
        for row in sample_rows(dataset.rows, rows_each or len(dataset.rows), seed=seed)
    ]
    random.Random(seed).shuffle(parts)
    options = {"seed": seed} if rows_each is None else {"rows_each": rows_each, "seed": seed}
    rows = tuple(replace(row, label=None) for row in parts)
    return DerivedRows(rows, tuple(datasets), "mix", options, ())


def leave_one_out_mixtures(
    datasets: Sequence[Dataset], *, rows_each: int | None = None, seed: int
) -> dict[str, DerivedRows]:
    """For each dataset (by name) the mixture of all others: Harada et al. 2025, App. D.

    A dataset's rows are the same in every mixture that has them.
    """
    if len(datasets) < 3:
        raise DatasetError("Leaving one out needs at least three datasets: two are left to mix.")
    _check_mixable(datasets)
    mixtures = {}
    for left_out in datasets:
        others = [dataset for dataset in datasets if dataset is not left_out]
        mixed = mix_datasets(others, rows_each=rows_each, seed=seed)
        options = {**mixed.options, "left_out": left_out.name}
        mixtures[left_out.name] = replace(mixed, operation="holdout", options=options)
    return mixtures


def write_derived(derived: DerivedRows, folder: Path, *, name: str, split: str) -> Path:
    """Write `{split}.jsonl` and `meta.json` into a new folder, whole or not at all.

    Raises:
        DatasetError: The folder exists, or can't be written.
    """
    if folder.exists():
        raise DatasetError(f"{folder} exists already. Choose another folder, or remove it first.")
    scratch = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    lines = [json.dumps(_plain_row(row), ensure_ascii=False) + "\n" for row in derived.rows]
    meta = json.dumps(_meta(derived, name), indent=2, ensure_ascii=False)
    try:
        scratch.mkdir(parents=True)
        (scratch / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        (scratch / "meta.json").write_text(meta + "\n", encoding="utf-8")
        scratch.replace(folder)
    except OSError as error:
        raise DatasetError(f"{folder}: can't be written ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _plain_row(row: Row) -> dict[str, object]:
    fields = {"prompt": row.prompt, "response": row.response, "label": row.label}
    plain: dict[str, object] = {key: text for key, text in fields.items() if text is not None}
    return plain | {"tests": list(row.tests)} if row.tests else plain


def _meta(derived: DerivedRows, name: str) -> dict[str, object]:
    first = derived.parents[0]
    # A copy and its parent are twins; a mixture is the twin of none of its parts.
    alone = len(derived.parents) == 1
    inherited = {"metric": first.metric, "family": first.family} if alone else {}
    return {
        "name": name,
        "group": first.group if alone else name,
        "labels": list(derived.labels) or None,
        "derived": {
            "operation": derived.operation,
            "parents": [
                {
                    "name": parent.name,
                    "digest": parent.digest,
                    "group": parent.group,
                    "rows": len(parent.rows),
                }
                for parent in derived.parents
            ],
            **derived.options,
        },
        **{key: value for key, value in inherited.items() if value},
    }


def _check_labelled(dataset: Dataset, operation: str) -> None:
    if not dataset.is_labelled:
        raise DatasetError(
            f"{dataset.name} has no labels, so there is nothing to {operation}. Name the field "
            "that holds them with --map label=FIELD."
        )
    if len({row.label for row in dataset.rows}) < 2:
        raise DatasetError(f"{dataset.name} has one label only, so there is none to set against.")


def _answers_by_label(dataset: Dataset) -> dict[str, str | None]:
    answers: dict[str, Counter[str | None]] = defaultdict(Counter)
    for row in dataset.rows:
        if row.label is not None:
            answers[row.label][row.response] += 1
    for label, counts in answers.items():
        if len(counts) > 1:
            raise DatasetError(
                f"{dataset.name}: rows of label {label!r} have {len(counts)} different answers, so "
                "they say more than the label and can't be exchanged with it."
            )
    return {label: next(iter(counts)) for label, counts in answers.items()}


def _check_mixable(datasets: Sequence[Dataset]) -> None:
    if len(datasets) < 2:
        raise DatasetError("A mixture needs at least two datasets.")
    names = Counter(dataset.name for dataset in datasets)
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise DatasetError(f"Two datasets are called {twice!r}; a mixture could not tell them.")
    for dataset in datasets:
        if not dataset.has_responses:
            raise DatasetError(
                f"{dataset.name} has no responses, so a mixture could not teach them. "
                "Name the field that holds the answers with --map response=FIELD."
            )
