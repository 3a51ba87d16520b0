"""What a person may try where no field looks like a prompt."""

import re
import shlex
from collections.abc import Mapping, Sequence

from adapt_lora.data.preferences import is_rejected
from adapt_lora.data.shapes import LABEL_FIELDS, names_of
from adapt_lora.data.table import Table
from adapt_lora.data.values import listed, scalar_text

# Fields that number, date or locate a row, or judge it; never what a model is asked or answers.
_REMARK = re.compile(
    r"(.*[_ .-])?(id|ids|idx|index|no|nr|num|number|key|uuid|guid|hash|date|time|timestamp|created"
    r"|updated|url|link|source|split|fold|lang|language|score|rating|model|author|user)"
    r"|id[_ -].*|row[_ -]?\d*|unnamed: \d+|__index_level_\d+__|"
)
_ROWS_TO_JUDGE_BY = 200
_MAX_HEADER_WORDS = 6


def suggest_mapping(table: Table) -> str:
    """An example of --map with fields of the file that hold texts, in their order.

    Where that would not help: what is wrong with the file as a whole.
    """
    fault = _fault_of_header(table)
    if fault:
        return fault
    values = {field: table.values(field)[:_ROWS_TO_JUDGE_BY] for field in table.field_counts}
    nested = [f for f, cells in values.items() if _holds_lists(cells)]
    names = names_of(table.field_counts)
    labels = [names[name] for name in LABEL_FIELDS if name in names]
    texts = {
        field: [scalar_text(v) or "" for v in cells]
        for field, cells in values.items()
        if field not in (*nested, *labels)
        and not _REMARK.fullmatch(field.strip().lower())
        and not is_rejected(field)
    }
    wordy = {field: cells for field, cells in texts.items() if not all(map(_is_number, cells))}
    # The two that say most, the first of them as the prompt: people write questions first.
    long = sorted(wordy, key=lambda field: -sum(map(len, wordy[field])))[:2]
    chosen = [field for field in texts if field in long]
    if nested and len(chosen) < 2:
        return (
            f"Texts are needed where {listed(nested)} {'hold' if len(nested) > 1 else 'holds'} "
            "lists or objects: write a row for each example, with fields 'prompt' and 'response'."
        )
    if not chosen:
        return "Say which is which: --map prompt=FIELD,response=FIELD."
    # Few values again and again are labels, wherever they stand.
    if labels:
        prompt = [field for field in chosen if not _is_set(texts[field])] or chosen[:1]
        mapping = f"prompt={'+'.join(prompt)}"
        return f"Say which is which, for example --map {shlex.quote(mapping)}."
    chosen.sort(key=lambda field: _is_set(texts[field]))
    said = [f"prompt={listed(chosen[:1])}"]
    for field in chosen[1:]:
        said.append(f"{'label' if _is_set(texts[field]) else 'response'}={listed([field])}")
    return f"Say which is which, for example --map {shlex.quote(','.join(said))}."


def _fault_of_header(table: Table) -> str:
    """What is wrong where a table's header line is none; "" where it looks like one."""
    if table.file_format not in ("CSV", "TSV"):
        return ""
    header = [field for field in table.field_counts if field.strip()]
    if any(field.lstrip().startswith(('{"', '[{"')) for field in header):
        return "Its lines are JSON: call the file .jsonl."
    is_value = any(
        _is_number(field) or field.strip() in {str(cell).strip() for cell in table.values(field)}
        for field in header
    )
    if is_value or any(len(field.split()) > _MAX_HEADER_WORDS for field in header):
        return (
            "Its first line looks like a row, so the header line is missing: write one above it, "
            "such as text,label."
        )
    return ""


def _holds_lists(cells: Sequence[object]) -> bool:
    return any(isinstance(cell, list | Mapping) for cell in cells)


def _is_set(cells: Sequence[str]) -> bool:
    """Whether a field has few values, each of them again and again."""
    return 5 * len({*cells}) <= len(cells)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?[\d.,:/ -]*", text.strip()) is not None
