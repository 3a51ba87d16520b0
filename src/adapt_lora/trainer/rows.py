"""Rows as a training sees them: encoded, some kept aside, the others in batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapt_lora.data import Row, sample_rows
from adapt_lora.errors import TrainingError
from adapt_lora.model.base import BaseModel
from adapt_lora.model.scoring import Encoded, encode_rows
from adapt_lora.trainer.recipe import Recipe


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Encoded rows, shared out."""

    train: list[Encoded]
    """Rows to learn from."""
    held_out: list[Encoded]
    """Rows kept aside; none of them is equal to one of `train`."""
    n_too_long: int
    """Rows left out for having more tokens than the recipe or the base model allows."""
    n_without_response: int
    """Rows left out for having nothing to learn."""
    notes: tuple[str, ...]
    """What a person should know about the sharing, one sentence each."""


def share_out_rows(
    base: BaseModel, rows: Sequence[Row], *, recipe: Recipe, labels: Sequence[str]
) -> TrainingRows:
    """Encode rows and share them out as the recipe says; its seed decides which go where.

    Args:
        base: Whose tokenizer and context length count.
        rows: All rows; those without a response are left out.
        recipe: Names limits, template and seed.
        labels: The label set, where it may be larger than what the rows hold.

    Raises:
        TrainingError: No row has a response, or none is short enough.
    """
    if not rows:
        raise TrainingError("The dataset has no rows, so there is nothing to train on.")
    answered = [row for row in rows if row.response]
    if not answered:
        raise TrainingError(
            f"None of the {len(rows)} rows has a response, so there is nothing to learn. "
            "Name the field that holds the answers with --map response=FIELD."
        )
    rng = np.random.default_rng(recipe.seed)
    wanted = None if recipe.max_rows is None else recipe.max_rows + recipe.held_out_rows
    drawn: Sequence[Row] = answered
    if wanted is not None and wanted < len(answered):
        drawn = sample_rows(answered, wanted, seed=recipe.seed)
    encoded = encode_rows(base, drawn, template=recipe.template)
    limit = min(recipe.max_length, base.context_length or recipe.max_length)
    fitting = [i for i, row in enumerate(encoded) if row.n_tokens <= limit]
    if not fitting:
        reads = "" if limit == recipe.max_length else f" and the base model reads {limit}"
        shortest = min(row.n_tokens for row in encoded)
        raise TrainingError(
            f"All {len(encoded)} rows are too long: the shortest has {shortest} tokens, the recipe "
            f"allows {recipe.max_length}{reads}. "
            f"{'Raise max_length or shorten' if limit == recipe.max_length else 'Shorten'} the "
            "prompts."
        )
    order = [fitting[i] for i in rng.permutation(len(fitting))]
    n_held_out = min(recipe.held_out_rows, len(order) // 10)
    train = _within_budget([encoded[i] for i in order[n_held_out:]], recipe)
    # A held-out row that is also trained on would flatter the held-out loss.
    seen = set(train)
    held_out = [encoded[i] for i in order[:n_held_out] if encoded[i] not in seen]
    trained_on = [drawn[i] for i in order[n_held_out:][: len(train)]]
    notes = []
    if wanted is not None and len(answered) < wanted and recipe.max_rows != len(train):
        notes.append(
            f"Recipe '{recipe.name}' takes up to {recipe.max_rows:,} rows; the data have "
            f"{len(answered):,}, so all are used: {len(train):,} to train on, {len(held_out):,} "
            f"held out, {len(encoded) - len(fitting):,} too long."
        )
    notes += _untaught_labels(rows, trained_on, labels)
    return TrainingRows(
        train=train,
        held_out=held_out,
        n_too_long=len(encoded) - len(fitting),
        n_without_response=len(rows) - len(answered),
        notes=tuple(notes),
    )


def epoch_batches(n_rows: int, batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Row indices in batches, in random order; seed and epoch decide all of it.

    A batch is a fair draw: were it filled with rows of like length, each step would learn from one
    kind of row, and rows with short answers would weigh more than their tokens do.
    """
    order = np.random.default_rng([seed, epoch]).permutation(n_rows).tolist()
    return [order[i : i + batch_size] for i in range(0, n_rows, batch_size)]


def length_groups(lengths: Sequence[int], at_once: int) -> list[list[int]]:
    """Rows of one step in groups that are read together, so that little of it is padding.

    Args:
        lengths: Tokens per row.
        at_once: Rows of a group at most.

    Returns:
        Indices, shorter rows first; at least four fifths of each group's rectangle are tokens.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        group = groups[-1] if groups else []
        held = sum(lengths[i] for i in group) + lengths[index]
        if not group or len(group) == at_once or (len(group) + 1) * lengths[index] > 1.25 * held:
            groups.append([index])
        else:
            group.append(index)
    return groups


def _untaught_labels(
    rows: Sequence[Row], trained_on: Sequence[Row], labels: Sequence[str]
) -> list[str]:
    """A sentence if the adapter never sees some label as the answer of a row."""
    known = dict.fromkeys([*labels, *(row.label for row in rows if row.label is not None)])
    taught = {row.label for row in trained_on}
    missing = [label for label in known if label not in taught]
    if not missing:
        return []
    names = ", ".join(repr(label) for label in missing[:5]) + (", …" if len(missing) > 5 else "")
    return [
        f"No row trained on has the label {names} ({len(missing)} of {len(known)} labels), so the "
        "adapter never learns to give it. Raise max_rows, max_tokens or max_length, or add rows."
    ]


def _within_budget(rows: list[Encoded], recipe: Recipe) -> list[Encoded]:
    """The first rows that keep to max_rows and max_tokens; always at least one."""
    kept = rows[: recipe.max_rows]
    if recipe.max_tokens is None:
        return kept
    totals = np.cumsum([row.n_tokens for row in kept])
    return kept[: max(1, int(np.searchsorted(totals, recipe.max_tokens, side="right")))]
