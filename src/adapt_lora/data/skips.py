"""How many rows may be lost before a person has to say that this is meant."""

from collections.abc import Iterator, Mapping, Sequence

from adapt_lora.data.chats import find_messages
from adapt_lora.data.dataset import SkippedRow
from adapt_lora.data.fields import Fields
from adapt_lora.data.labels import labels_by_evidence, missing_labels
from adapt_lora.data.rows import Draft
from adapt_lora.data.table import HEADER_AGAIN, Table
from adapt_lora.data.values import listed, scalar_text

_MAX_SKIPPED_SHARE = 0.05
_ROLE_KEYS = ("role", "from")
_ASKING = ("user", "human", "prompter", "system")
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
    lost = [row for row in skipped if row.reason != HEADER_AGAIN]
    if allow or not lost:
        return
    if len(lost) > _MAX_SKIPPED_SHARE * table.n_read:
        what_next = f"{', '.join([*ways, _GO_ON])}."
        raise table.refusal(skipped, shown, what_next)
    gone = _lost_class(table, draft, lost, fields)
    if gone is not None:
        lost_class = f"They are all rows of the class {listed([gone])!r}."
        raise table.refusal(skipped, shown, f"{lost_class} Mend them, {_GO_ON}.")
    is_kept = any(not f"{row.prompt}{row.response or ''}".isascii() for row in draft.rows)
    if not is_kept and any(not text.isascii() for text in _lost_texts(table, lost, fields)):
        lost_letters = "They are all rows with letters beyond ASCII."
        raise table.refusal(skipped, shown, f"{lost_letters} Mend them, {_GO_ON}.")


def _lost_class(
    table: Table, draft: Draft, lost: Sequence[SkippedRow], fields: Fields
) -> str | None:
    """A class all of whose rows are lost; None where there are no classes, or none is lost."""
    by_line = dict(table.records)
    lines = {row.line for row in lost}
    # In the file's own words: a label may have got another name since.
    kept = [
        text
        for line, record in table.records
        if line not in lines
        for text in _class_texts(record, fields)
    ]
    kept += [row.label for row in draft.rows if row.label is not None]
    there = {*kept}
    gone: list[str] = []
    for row in lost:
        # A row that was no record: what may have stood in its field, the likeliest last.
        field = fields.label or fields.response or ""
        may_be = [text.strip() for text in row.held.get(field, ()) if text.strip()]
        if row.line in by_line:
            gone += [text for text in _class_texts(by_line[row.line], fields) if text not in there]
        elif may_be and there.isdisjoint(may_be):
            gone.append(may_be[-1])
    hidden = missing_labels({*there, *gone}) | ({"-1"} if fields.choices else set())
    gone = [text for text in gone if text not in hidden]
    is_labelled = any(row.label is not None for row in draft.rows)
    if not gone or not (is_labelled or labels_by_evidence([*kept, *gone])):
        return None
    return min(gone)


def _class_texts(record: Mapping[str, object], fields: Fields) -> list[str]:
    """What a record says where its class would stand: in its field, or in a chat's last answer."""
    field = fields.label or fields.response
    if field is not None or not fields.is_dialogue:
        return list(_texts(record.get(field or "")))
    messages = find_messages(record.get(fields.prompt[0])) or []
    last = messages[-1] if messages else None
    if not isinstance(last, Mapping) or any(last.get(key) in _ASKING for key in _ROLE_KEYS):
        return []
    return list(_texts([value for key, value in last.items() if key not in _ROLE_KEYS]))


def _lost_texts(table: Table, lost: Sequence[SkippedRow], fields: Fields) -> Iterator[str]:
    """What was said in the rows that are lost."""
    lines = {row.line for row in lost}
    for line, record in table.records:
        if line in lines:
            yield from _texts([record.get(f) for f in (*fields.prompt, fields.response or "")])
    for row in lost:
        yield row.text
        yield from _texts([text for texts in row.held.values() for text in texts])


def _texts(value: object) -> Iterator[str]:
    """All texts inside a value."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif scalar_text(value):
        yield (scalar_text(value) or "").strip()
