"""Preference data: which answers people liked, so that none that they did not is learnt.

The forms are those of TRL, LLaMA-Factory, Axolotl, OpenAI and Anthropic's hh-rlhf.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adapt_lora.data.chats import find_messages, read_transcript
from adapt_lora.data.table import Table
from adapt_lora.data.values import listed, scalar_text
from adapt_lora.errors import DatasetError

_CHOSEN = (
    *("chosen", "chosen_response", "chosen_answer", "chosen_output", "chosen_completion"),
    *("preferred", "preferred_output", "preferred_response", "preferred_answer"),
    *("response_chosen", "answer_chosen", "output_chosen"),
)
_REJECTED = re.compile(
    r"(?:^|.*[_ -])(rejected|non_?preferred|dispreferred|unpreferred)(?:$|[_ -].*)"
)
# What raters compare: response_0 and response_1, answer_a and answer_b, summary1 and summary2.
_RIVAL = re.compile(r"(response|answer|completion|output|reply|summary)[ _-]?([0-9]|[abjk])")
_LIKED = {"true", "desirable", "chosen", "accepted", "thumbs_up"}
_DISLIKED = {"false", "undesirable", "rejected", "thumbs_down"}
_FLAGS = ("kto_tag", "desirable", "is_desirable", "thumbs_up", "is_chosen", "is_preferred")


@dataclass(frozen=True, slots=True)
class Pair:
    """The fields of paired preferences."""

    chosen: str
    """The one with the better answers."""
    rejected: str
    """The one with the worse answers."""
    holds_dialogues: bool
    """Whether the better answers come with what precedes them, so that no prompt is needed."""

    @property
    def note(self) -> str:
        """What a person should know of how they are read."""
        return (
            f"preference pairs: the answers of '{self.chosen}' are used, those of "
            f"'{self.rejected}' are not"
        )


def is_rejected(field: str) -> bool:
    """Whether a field holds answers, or remarks about them, that people rejected."""
    return _REJECTED.fullmatch(field.lower()) is not None


def find_pair(table: Table, by_lower: Mapping[str, str]) -> Pair | None:
    """The fields of paired preferences; None where the rows are none."""
    chosen = next((by_lower[name] for name in _CHOSEN if name in by_lower), None)
    # The shortest: beside 'rejected' there may be 'score_rejected'.
    rejected = min(filter(is_rejected, by_lower.values()), key=len, default=None)
    if chosen is None or rejected is None:
        return None
    first = next((value for value in table.values(chosen) if value), None)
    messages = find_messages(first)
    if messages is not None:
        return Pair(chosen, rejected, holds_dialogues=len(messages) > 1)
    is_dialogue = isinstance(first, str) and read_transcript(first) is not None
    return Pair(chosen, rejected, holds_dialogues=is_dialogue)


def refuse_pair(pair: Pair, shown: str) -> DatasetError:
    """The error of pairs whose prompt can't be told from the answers."""
    return DatasetError(
        f"{shown}: '{pair.chosen}' and '{pair.rejected}' hold a better and a worse answer each "
        "(preference pairs), but no field holds the prompt, and where it ends in them can't be "
        f"told. Write it to a field 'prompt', and leave the answer alone in '{pair.chosen}'."
    )


def refuse_rivals(there: Iterable[str], shown: str) -> None:
    """Nothing where rows have no two answers that compete.

    Raises:
        DatasetError: They have, and which one is better is not for a reader to guess.
    """
    stems: dict[str, list[str]] = {}
    for field in there:
        match = _RIVAL.fullmatch(field.lower())
        if match:
            stems.setdefault(match[1], []).append(field)
    rivals = next((fields for fields in stems.values() if len(fields) > 1), None)
    if rivals:
        raise DatasetError(
            f"{shown}: {listed(rivals)} hold several answers to each prompt (preference data). "
            "Write the better one to a field 'response'."
        )


def refuse_steps(table: Table, by_lower: Mapping[str, str], shown: str) -> None:
    """Nothing where rows don't judge an answer step by step.

    Raises:
        DatasetError: They do, so there is no answer to take as it is.
    """
    fields = [by_lower[name] for name in ("completions", "labels") if name in by_lower]
    if len(fields) == 2 and all(
        isinstance(next(filter(None, table.values(field)), None), list) for field in fields
    ):
        raise DatasetError(
            f"{shown}: '{fields[0]}' and '{fields[1]}' judge answers step by step (stepwise "
            "supervision), so no field holds one answer. Write the good ones to a field 'response'."
        )


def find_flag(
    table: Table, free: Mapping[str, str], label: str | None, response: str | None
) -> str | None:
    """The field that says of each answer whether people liked it; None where there is none.

    A label of true and false beside two different answers at most is a class, not a flag.
    """
    named = next((free[name] for name in _FLAGS if name in free), None)
    flag = named or label
    if flag is None:
        return None
    values = {_word(value) for value in table.values(flag)} - {""}
    is_sure = named or (response or "").lower() == "completion"
    known = _LIKED | _DISLIKED | ({"0", "1"} if is_sure else set())
    if not values or not values <= known:
        return None
    if named or response is None:
        return flag
    answers = {str(value).strip() for value in table.values(response)}
    return flag if len(answers) > 2 else None


def settle_flag(table: Table, flag: str, shown: str) -> str:
    """The note on a flag by which every answer is liked.

    Raises:
        DatasetError: Some are not: they would be learnt, and scored, like the others.
    """
    disliked = [value for value in table.values(flag) if _word(value) in {*_DISLIKED, "0"}]
    if not disliked:
        return f"'{flag}' says of every answer that it is liked, so it is no label"
    as_class = "" if flag.lower() in _FLAGS else f", or say --map label={flag} if it is a class"
    raise DatasetError(
        f"{shown}: '{flag}' says of each answer whether people liked it (unpaired preferences, as "
        f"for KTO), and {len(disliked):,} of {table.n_read:,} are not liked. Keep the rows where "
        f"it is true{as_class}."
    )


def _word(value: object) -> str:
    """A flag in lower case; 1.0, as tables with gaps write it, as 1."""
    return (scalar_text(value) or "").strip().lower().removesuffix(".0")
