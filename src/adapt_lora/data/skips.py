"""How many rows may be lost before a person has to say that this is meant."""

from collections.abc import Iterator, Mapping, Sequence

from adapt_lora.data.dataset import SkippedRow
from adapt_lora.data.fields import Fields
from adapt_lora.data.rows import Draft
from adapt_lora.data.table import Table
from adapt_lora.data.values import listed, scalar_text

_MAX_SKIPPED_SHARE = 0.05
_GO_ON = "or pass --allow-skips to go on without them"


def check_skips(
    table: Table,
    draft: Draft,
    skipped: Sequence[SkippedRow],
    *,
    fields: Fields,
    shown: str,
    allow: bool,
) -> None:
    """Nothing where the skipped rows are few, and like the others.

    Args:
        table: The file's records.
        draft: The rows that can be used.
        skipped: Those that can't, by line.
        fields: The roles of the fields.
        shown: What messages call the file.
        allow: Whether any number of them will do, as long as one row is left.

    Raises:
        DatasetError: No row is left; or more than one in twenty is skipped, every row of a class,
            or every row with letters beyond ASCII, and that is not allowed.
    """
    ways = ["Mend or drop them"]
    # No name of a field makes a record of what is none, such as half a line of JSON.
    if len(skipped) > len(table.skipped):
        ways.append("name the fields with --map")
    if not draft.rows:
        what_next = f"{', or '.join(ways)}."
        raise table.refusal(skipped, shown, what_next)
    if allow or not skipped:
        return
    if len(skipped) > _MAX_SKIPPED_SHARE * table.n_read:
        what_next = f"{', '.join([*ways, _GO_ON])}."
        raise table.refusal(skipped, shown, what_next)
    lines = {row.line for row in skipped}
    lost = [record for line, record in table.records if line in lines]
    if any(row.label is not None for row in draft.rows):
        # In the file's own words: a label may have got another name since.
        field = fields.label or fields.response or ""
        kept = [record for line, record in table.records if line not in lines]
        classes = {text for record in kept for text in _texts(record.get(field))}
        gone = {text for record in lost for text in _texts(record.get(field))} - classes
        gone -= {"-1"} if fields.choices else set()  # a hidden answer
        if gone:
            lost_class = f"They are all rows of the class {listed(sorted(gone)[:1])!r}."
            raise table.refusal(skipped, shown, f"{lost_class} Mend them, {_GO_ON}.")
    is_kept = any(not f"{row.prompt}{row.response or ''}".isascii() for row in draft.rows)
    texts = [record.get(f) for record in lost for f in (*fields.prompt, fields.response or "")]
    if not is_kept and any(not text.isascii() for text in _texts(texts)):
        lost_letters = "They are all rows with letters beyond ASCII."
        raise table.refusal(skipped, shown, f"{lost_letters} Mend them, {_GO_ON}.")


def _texts(value: object) -> Iterator[str]:
    """All texts inside a value."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif scalar_text(value):
        yield (scalar_text(value) or "").strip()
