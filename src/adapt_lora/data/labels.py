"""Labels and responses of the rows together: on all of them or on none, and what makes a set."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from adapt_lora.data.dataset import Row
from adapt_lora.data.rows import Draft
from adapt_lora.data.values import listed

# The rule of evidence by which responses count as labels where no field says so (docs/data.md).
_EVIDENCE_MIN_ROWS = 10
_EVIDENCE_MAX_LABELS = 50
_EVIDENCE_MAX_NUMBERS = 10
_EVIDENCE_MAX_CHARS = 60
_EVIDENCE_MAX_DISTINCT_SHARE = 0.2
# A label field with more values than this, most of them on one row only, holds free text; so does
# one with a value longer than this.
_FEW_LABELS = 20
_MAX_LABEL_CHARS = 100


def settle_role(draft: Draft, role: Literal["response", "label"]) -> None:
    """Make it a matter of all rows or none, so that no caller meets a mixture.

    Where at least half of the rows have it the others are skipped, else it is taken from them.
    """
    n_having = sum(getattr(row, role) is not None for row in draft.rows)
    if 2 * n_having >= len(draft.rows):
        reason = f"no {role}, though most rows have one"
        draft.skip(lambda row: reason if getattr(row, role) is None else None)
        return
    if n_having:
        draft.clear(role)
        draft.notes.append(
            f"only {n_having:,} of {len(draft.rows):,} rows have a {role}, so it is not used; "
            "pass those rows alone to use it"
        )


def settle_labels(
    draft: Draft, *, field: str | None, known: tuple[str, ...] | None
) -> tuple[str, ...]:
    """The label set: the known one, else that of the label field, else by the rule of evidence.

    Args:
        draft: Rows whose roles are settled.
        field: The field that holds the labels.
        known: What meta.json lists; () where it says that there are none, None where it is silent.
    """
    if not draft.rows:
        return ()
    has_field = draft.rows[0].label is not None
    if known is not None:
        return _known_labels(draft, known, has_field=has_field)
    if has_field:
        _name_labels_by_responses(draft)
        distinct = {row.label for row in draft.rows if row.label is not None}
        if not _is_free_text(distinct, len(draft.rows)):
            return tuple(sorted(distinct))
        draft.clear("label")
        draft.notes.append(f"'{field}' has {len(distinct):,} values: free text, not labels")
        return ()
    labels = _labels_by_evidence([row.response for row in draft.rows])
    if labels:
        draft.label_by_response()
        draft.notes.append("the labels are the responses: a small closed set, each one repeated")
    return labels


def _known_labels(draft: Draft, known: tuple[str, ...], *, has_field: bool) -> tuple[str, ...]:
    if not known:
        draft.clear("label")
        return ()
    if not has_field:
        if draft.rows[0].response is None:
            return ()
        draft.label_by_response()

    def foreign(row: Row) -> str | None:
        if row.label in known:
            return None
        return f"label {listed([row.label or ''])!r} is not in meta.json's 'labels'"

    draft.skip(foreign)
    return known


def _is_free_text(labels: set[str], n_rows: int) -> bool:
    """Whether a label field holds texts rather than labels: they would be kept as names."""
    if any(len(label) > _MAX_LABEL_CHARS for label in labels):
        return True
    return len(labels) > _FEW_LABELS and 2 * len(labels) > n_rows


def _name_labels_by_responses(draft: Draft) -> None:
    """Take "positive" for a label where the label field says 1 and the response "positive".

    What a model is trained to say, and is scored on, is the response.
    """
    pairs = {(row.label, (row.response or "").strip()) for row in draft.rows}
    labels, responses = {label for label, _ in pairs}, {response for _, response in pairs}
    one_to_one = len(pairs) == len(labels) == len(responses)
    # Pairs that never repeat are no evidence that the one stands for the other.
    if labels == responses or not one_to_one or not 2 <= len(pairs) <= len(draft.rows) // 2:
        return
    if "" in responses or _is_free_text(responses, len(draft.rows)):
        return
    draft.label_by_response()
    draft.notes.append("each label stands for one response, which is used as its name")


def _labels_by_evidence(responses: Sequence[str | None]) -> tuple[str, ...]:
    """The distinct responses where they look like labels (rule in docs/data.md), else nothing."""
    counts = Counter(response.strip() for response in responses if response is not None)
    if len(responses) < _EVIDENCE_MIN_ROWS or not 2 <= len(counts) <= _EVIDENCE_MAX_LABELS:
        return ()
    if len(counts) > _EVIDENCE_MAX_DISTINCT_SHARE * len(responses) or min(counts.values()) < 2:
        return ()
    if any("\n" in label or len(label) > _EVIDENCE_MAX_CHARS for label in counts):
        return ()
    # Sums and amounts repeat too; only a short scale such as 1 to 5 stars is a label set.
    numbers = sum(re.fullmatch(r"[-+]?[\d.,]+", label) is not None for label in counts)
    if numbers == len(counts) > _EVIDENCE_MAX_NUMBERS:
        return ()
    return tuple(sorted(counts))
