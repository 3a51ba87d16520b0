"""Which of several splits is meant: by its name, or by what is nearest to it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from adapt_lora.data.table import Table
from adapt_lora.data.values import listed, scalar_text
from adapt_lora.errors import DatasetError

SPLIT_NAMES = (
    *("train", "training", "test", "testing"),
    *("dev", "devel", "valid", "validation", "val", "eval"),
)
# "train", but also "Train_Data" and "test-set".
_SPLIT = re.compile(
    r"(?i)(?:(?P<train>train|training)|(?P<test>test|testing)"
    r"|(?P<validation>dev|devel|valid|validation|val|eval|evaluation))"
    r"(?:[-_ ]?(?:data|dataset|set|split|rows|examples|samples))?"
)
# Where a name may be divided: "validation_matched", "test1", "PublicTest".
_SEAM = re.compile(r"[-_. /]+|(?<=[a-z])(?=[A-Z\d])")
# Fields that name the split of each row: "split", "Dataset_Split", and "set" where it says nothing
# but splits.
_SPLIT_FIELD = re.compile(r"(?i)(?:\w+[-_. ])?split(?:[-_. ]?name)?")
_MAYBE_SPLIT_FIELD = re.compile(
    r"(?i)(?:(?:data|train|ds)[-_. ]?)?"
    r"(?:set|subset|partition|portion|part|fold|phase|usage|sample|train[-_./ ]?test)"
)


@dataclass(frozen=True, slots=True)
class SplitChoice:
    """The split that is read."""

    name: str
    """As it is written there."""
    note: str = ""
    """What a person should know of the choice, a sentence; "" where there was none."""


def kind_of_split(name: str, *, qualified: bool = False) -> str | None:
    """Whether a name says "train", "test" or "validation"; None where it says none of them.

    Args:
        name: What something is called.
        qualified: Whether it may say more than that: "validation_matched", "train_sft", "dev2".
    """
    match = _SPLIT.fullmatch(name.strip())
    if match:
        return next(kind for kind, said in match.groupdict().items() if said)
    kinds = {kind_of_split(part) for part in _SEAM.split(name.strip())} if qualified else set()
    kinds.discard(None)
    return kinds.pop() if len(kinds) == 1 else None


def choose_split(wanted: str, there: Sequence[str]) -> SplitChoice | None:
    """The split of that name or kind; to score on, else what is nearest to a test split.

    None where nothing may stand for it (nothing may for the split to learn from), or where several
    might; `refuse_split` says which.
    """
    near = _nearest(wanted, there)
    if len(near) != 1:
        return None
    name = near[0]
    if wanted != name and kind_of_split(name, qualified=True) != kind_of_split(wanted):
        return SplitChoice(name, f"there is no split {wanted!r}, so {name!r} is read instead")
    others = ", ".join(other for other in there if other != name)
    return SplitChoice(name, f"the split {name!r} is read, beside {others}" if others else "")


def is_ambiguous(wanted: str, there: Sequence[str]) -> bool:
    """Whether several splits might stand for that one."""
    return len(_nearest(wanted, there)) > 1


def refuse_split(wanted: str, there: Sequence[str]) -> str:
    """Why no split was chosen, as part of a sentence."""
    near = _nearest(wanted, there)
    if len(near) > 1:
        return f"which of {listed(near)} is the split {wanted!r} can't be told"
    return f"there is no split {wanted!r} (found: {listed(there)})"


def _nearest(wanted: str, there: Sequence[str]) -> list[str]:
    """The splits that may be meant: those of the first kind that will do, a plain name alone."""
    kind = kind_of_split(wanted)
    if wanted in there or kind is None:
        return [wanted] if wanted in there else []
    for each in ("train",) if kind == "train" else (kind, "test", "validation", "train"):
        plain = [name for name in there if kind_of_split(name) == each]
        if plain:
            return plain[:1]
        qualified = [name for name in there if kind_of_split(name, qualified=True) == each]
        if qualified:
            return qualified
    return []


def rows_of_split(table: Table, wanted: str, shown: str) -> Table:
    """Those of the wanted split, where a field names the split of each row.

    Raises:
        DatasetError: It names other splits, and none of them may stand for the wanted one.
    """
    for field in sorted(table.field_counts, key=lambda field: field.lower() != "split"):
        texts = [(scalar_text(value) or "").strip() for value in table.values(field)]
        spelt: dict[str, str] = {}  # "Train" is no other split than "train"
        said = [spelt.setdefault(text.casefold(), text) for text in texts]
        there = list(dict.fromkeys(said))
        named = [name for name in there if kind_of_split(name, qualified=True)]
        odd = [name for name in there if name not in named]
        kinds = {kind_of_split(name, qualified=True) for name in named}
        is_maybe = _MAYBE_SPLIT_FIELD.fullmatch(field) and len(kinds) > 1 and not any(odd)
        if named and (_SPLIT_FIELD.fullmatch(field) or is_maybe):
            break
    else:
        return table
    choice = choose_split(wanted, named)
    if choice is None:
        nothing = f"'{field}' names no row of the split {wanted!r} (found: {listed(named)})"
        rivals = refuse_split(wanted, named) if is_ambiguous(wanted, named) else nothing
        raise DatasetError(
            f"{shown}: {rivals}. Save the rows that you mean as a file of their own, without "
            f"the field {field!r}."
        )
    odd_ones = listed([name or "nothing" for name in odd])
    n_odd = sum(name in odd for name in said)
    if odd and len(kinds) == 1 and kind_of_split(wanted) not in kinds:
        note = f"'{field}' says {listed(named)} and {odd_ones}: no splits, so all rows are read"
        return replace(table, notes=(*table.notes, note))
    notes = [choice.note] if choice.note else []
    if odd:
        notes.append(f"{n_odd:,} rows are of no known split ('{field}' says {odd_ones}): left out")
    records = [row for row, split in zip(table.records, said, strict=True) if split == choice.name]
    return replace(table, records=records, notes=(*table.notes, *notes))
