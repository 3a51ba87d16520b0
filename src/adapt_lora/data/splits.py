"""Which of several splits is meant: by its name, or by what is nearest to it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class SplitChoice:
    """The split that is read."""

    name: str
    """As it is written there."""
    note: str = ""
    """What a person should know of the choice, a sentence; "" where there was none."""


def kind_of_split(name: str) -> str | None:
    """Whether a name says "train", "test" or "validation"; None where it says none of them."""
    match = _SPLIT.fullmatch(name.strip())
    return match and next(kind for kind, said in match.groupdict().items() if said)


def choose_split(wanted: str, there: Sequence[str]) -> SplitChoice | None:
    """The split of that name or kind; to score on, else what is nearest to a test split.

    None where nothing may stand for it: nothing may for the split to learn from.
    """
    kind = kind_of_split(wanted)
    near = ("train",) if kind == "train" else (kind or "test", "test", "validation", "train")
    by_kind = {kind_of_split(name): name for name in reversed(there)}
    name = wanted if wanted in there else next((by_kind[k] for k in near if k in by_kind), None)
    if name is None:
        return None
    if wanted != name and kind_of_split(name) != kind:
        return SplitChoice(name, f"there is no split {wanted!r}, so {name!r} is read instead")
    others = ", ".join(other for other in there if other != name)
    return SplitChoice(name, f"the split {name!r} is read, beside {others}" if others else "")
