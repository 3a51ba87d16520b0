"""What the meta.json beside a split file says of the dataset."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt_lora.data.places import is_bare_split
from adapt_lora.data.values import scalar_text
from adapt_lora.errors import DatasetError

# A task's metric by its name in meta.json; one that we don't score falls to the log-likelihood.
_METRIC_OF = {
    "label_accuracy": "balanced_accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "accuracy": "accuracy",
    "macro_f1": "macro_f1",
    "exact_match": "exact_match",
    "numeric_match": "numeric_match",
    "token_f1": "token_f1",
    "rouge_l": "rouge_l",
    "pass@1": "pass_at_1",
    "pass_at_1": "pass_at_1",
    "judge_accuracy": "judge_accuracy",
    "answer_log_likelihood": "answer_log_likelihood",
}
_METRIC_OF_OTHERS = "answer_log_likelihood"


@dataclass(frozen=True, slots=True)
class Meta:
    """The answers that a meta.json gives before the rows are asked; empty where it is silent."""

    name: str = ""
    """As in `Dataset.name`."""
    group: str = ""
    """As in `Dataset.group`."""
    family: str = ""
    """As in `Dataset.family`."""
    metric: str | None = None
    """As in `Dataset.metric`."""
    labels: tuple[str, ...] | None = None
    """The label set; () where the rows are said not to be labelled, None where nothing is said."""
    notes: tuple[str, ...] = ()
    """What could not be taken as it stands, one sentence each."""
    parent: str = ""
    """As in `Dataset.parent`."""
    parts: tuple[str, ...] = ()
    """As in `Dataset.parts`."""


def read_meta(path: Path) -> Meta:
    """The meta.json beside a split file such as train.jsonl; an empty record where there is none.

    Raises:
        DatasetError: It is no JSON object, or its `labels` are no list.
    """
    meta_path = path.parent / "meta.json"
    if not is_bare_split(path) or not meta_path.is_file():
        return Meta()
    try:
        meta = json.loads(meta_path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise DatasetError(f"{meta_path}: can't be read as JSON ({error}). Mend it.") from error
    if not isinstance(meta, dict) or not isinstance(meta.get("labels") or [], list):
        raise DatasetError(f"{meta_path}: not an object whose 'labels' is a list or null. Mend it.")
    metric = meta.get("metric")
    known = metric is None or str(metric) in _METRIC_OF
    labels = tuple(scalar_text(label) or "" for label in meta.get("labels") or ())
    return Meta(
        name=str(meta.get("name") or ""),
        group=str(meta.get("group") or ""),
        family=str(meta.get("family") or ""),
        metric=None if metric is None else _METRIC_OF.get(str(metric), _METRIC_OF_OTHERS),
        labels=labels if "labels" in meta else None,
        notes=() if known else (f"metric {metric!r} is scored as {_METRIC_OF_OTHERS}",),
        parent=_parent_text(meta.get("derived")),
        parts=_parts(meta.get("derived")),
    )


def _parents(derived: object) -> list[Mapping[str, Any]]:
    if not isinstance(derived, dict) or not isinstance(derived.get("parents"), list):
        return []
    return [parent for parent in derived["parents"] if isinstance(parent, dict)]


def _parts(derived: object) -> tuple[str, ...]:
    """Groups of a mixture's parents; older files name the parents alone."""
    parents = _parents(derived)
    if len(parents) < 2:
        return ()
    return tuple(dict.fromkeys(str(p.get("group") or p.get("name") or "?") for p in parents))


def _parent_text(derived: Any) -> str:
    """Names and digests of the parents, then what was done: "sst2 5f3a9c1e (balance, seed 0)"."""
    parents = _parents(derived)
    if not parents:
        return ""
    names = [f"{p.get('name', '?')} {str(p.get('digest', ''))[:12]}" for p in parents]
    options = [
        f"{key.replace('_', ' ')} {value}"
        for key, value in derived.items()
        if key not in ("operation", "parents")
    ]
    return f"{' + '.join(names)} ({', '.join([str(derived.get('operation', '?')), *options])})"
