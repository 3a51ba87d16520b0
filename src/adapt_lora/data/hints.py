"""What a person may try where no field looks like a prompt."""

import re
import shlex

from adapt_lora.data.preferences import is_rejected
from adapt_lora.data.table import Table
from adapt_lora.data.values import listed, scalar_text

# Fields that number, date or locate a row, or judge it; never what a model is asked or answers.
_REMARK = re.compile(
    r"(.*[_ .-])?(id|ids|idx|index|no|nr|num|number|key|uuid|guid|hash|date|time|timestamp|created"
    r"|updated|url|link|source|split|fold|lang|language|score|rating|model|author|user)"
    r"|id[_ -].*|row[_ -]?\d*|unnamed: \d+|__index_level_\d+__|"
)
_ROWS_TO_JUDGE_BY = 200


def suggest_mapping(table: Table) -> str:
    """An example of --map with fields of the file that hold texts, in their order."""
    texts = {
        field: [scalar_text(v) or "" for v in table.values(field)[:_ROWS_TO_JUDGE_BY]]
        for field in table.field_counts
        if not _REMARK.fullmatch(field.strip().lower()) and not is_rejected(field)
    }
    wordy = {field: cells for field, cells in texts.items() if not all(map(_is_number, cells))}
    # The two that say most, the first of them as the prompt: people write questions first.
    long = sorted(wordy, key=lambda field: -sum(map(len, wordy[field])))[:2]
    chosen = [field for field in texts if field in long]
    if not chosen:
        return "Say which is which: --map prompt=FIELD,response=FIELD."
    said = [f"prompt={listed(chosen[:1])}"]
    for field in chosen[1:]:
        is_set = 5 * len({*texts[field]}) <= len(texts[field])
        said.append(f"{'label' if is_set else 'response'}={listed([field])}")
    return f"Say which is which, for example --map {shlex.quote(','.join(said))}."


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?[\d.,:/ -]*", text.strip()) is not None
