"""Labels and responses of the rows together: on all of them or on none, and what makes a set."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
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
# A label field with more values than this, nearly all of them on one row only, holds free text; so
# does one with a value longer than this.
_FEW_LABELS = 20
_MAX_LONELY_SHARE = 0.9
_MAX_LABEL_CHARS = 100
# What programs write where a label is missing: pandas, numpy and R, databases, Excel. Not "NA",
# which is a code, nor "none", which is an answer.
_MISSING = re.compile(r"(?i)nan|<na>|null|\\n|n/a|#n/a|#na|#(?:null|ref|value|name|num|div/0)[!?]")
_PYTHON_NONE = "None"
_DASHES = frozenset("-–—")


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
    if not has_field:
        if not labels_by_evidence([row.response for row in draft.rows]):
            return ()
        draft.label_by_response()
        draft.notes.append("the labels are the responses: a small closed set, each one repeated")
    else:
        _name_labels_by_responses(draft)
        counts = Counter(row.label for row in draft.rows if row.label is not None)
        if _is_free_text(counts):
            draft.clear("label")
            draft.notes.append(f"'{field}' has {len(counts):,} values: free text, not labels")
            return ()
    _drop_missing(draft, are_answers=not has_field)
    labels = sorted({row.label for row in draft.rows if row.label is not None})
    draft.notes += _likenesses(labels)
    return tuple(labels)


def missing_labels(labels: Collection[str], *, are_answers: bool = False) -> set[str]:
    """Those that stand for a missing label: "nan", "#N/A", and -1 beside classes from 0 to 2 or on.

    Where -1 may be a class (beside 0 and 1, or 1 alone) it is one. Python's "None" is none beside
    labels without a capital.

    Args:
        labels: The label set.
        are_answers: Whether they are what a model is to say, which may well be "n/a" or -1.
    """
    missing = {label for label in labels if _MISSING.fullmatch(label)}
    if are_answers:
        return {label for label in missing if label.lower() != "n/a"}
    others = set(labels) - missing
    # SNLI's "-" is no class, but a sign beside signs is.
    words = {label for label in others if any(map(str.isalpha, label))}
    if others - words <= _DASHES and (words or len(others) == 1):
        missing |= others - words
    others -= missing
    if all(label == label.lower() for label in others - {_PYTHON_NONE}):
        missing |= others & {_PYTHON_NONE}
    numbers = {_whole_number(label): label for label in others - missing}
    if -1 in numbers and None not in numbers:
        classes = {number for number in numbers if number is not None and number != -1}
        if not classes or (min(classes) == 0 and max(classes) > 1):
            missing.add(numbers[-1])
    return missing


def _whole_number(label: str) -> int | None:
    match = re.fullmatch(r"([-+]?\d+)(?:\.0*)?", label)
    return int(match[1]) if match else None


def _drop_missing(draft: Draft, *, are_answers: bool) -> None:
    """Skip the rows whose label says that it is missing; where these are most, drop all labels."""
    labels = {row.label for row in draft.rows if row.label is not None}
    missing = missing_labels(labels, are_answers=are_answers)
    n_missing = sum(row.label in missing for row in draft.rows)
    if not n_missing:
        return
    said = listed(sorted(map(repr, missing)))
    if 2 * n_missing <= len(draft.rows):
        why = "stands for a missing one"
        draft.skip(lambda row: f"the label {row.label!r} {why}" if row.label in missing else None)
        return
    # A label that is the response too is as missing there.
    if all(row.response == row.label for row in draft.rows):
        draft.clear("response")
    draft.clear("label")
    n_rows = len(draft.rows)
    draft.notes.append(
        f"{n_missing:,} of {n_rows:,} labels are {said}, which stands for a missing one, so none "
        "is used"
    )


def _likenesses(labels: Sequence[str]) -> Iterator[str]:
    """What looks like a slip among the labels, a sentence each."""
    alike: dict[str, list[str]] = {}
    for label in labels:
        plain = "".join(unicodedata.normalize("NFKC", label).casefold().split())
        alike.setdefault(plain, []).append(label)
    for group in alike.values():
        if len(group) > 1:
            said = listed(map(repr, group))
            yield f"the labels {said} differ in letter case or space only, and count as different"
    if _PYTHON_NONE in labels:
        yield "the label 'None' counts as a class: drop its rows where it means a missing label"
    if -1 in map(_whole_number, labels):
        yield "the label -1 counts as a class: drop its rows where it means a hidden label"


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


def _is_free_text(counts: Mapping[str, int]) -> bool:
    """Whether a label field holds texts rather than labels: they would be kept as names."""
    if any(len(label) > _MAX_LABEL_CHARS for label in counts):
        return True
    n_lonely = sum(n_rows == 1 for n_rows in counts.values())
    return len(counts) > _FEW_LABELS and n_lonely > _MAX_LONELY_SHARE * len(counts)


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
    counts = Counter((row.response or "").strip() for row in draft.rows)
    if "" in responses or _is_free_text(counts):
        return
    draft.label_by_response()
    draft.notes.append("each label stands for one response, which is used as its name")


def labels_by_evidence(responses: Sequence[str | None]) -> tuple[str, ...]:
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
