"""Preference data: which answers people liked, so that none that they did not is learnt.

The forms are those of TRL, LLaMA-Factory, Axolotl, OpenAI and Anthropic's hh-rlhf.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adapt_lora.data.chats import find_messages, read_transcript
from adapt_lora.data.table import Table
from adapt_lora.data.values import listed, scalar_text
from adapt_lora.errors import DatasetError

_CHOSEN = (
    *("chosen", "chosen_response", "chosen_answer", "chosen_output", "chosen_completion"),
    *("preferred", "preferred_output", "preferred_response", "preferred_answer"),
    *("response_chosen", "answer_chosen", "output_chosen"),
    *("accepted", "accepted_response", "accepted_answer", "good_response", "good_answer"),
    *("better_response", "better_answer", "winning_response", "win", "winner_response"),
)
_REJECTED = re.compile(
    r"(?:^|.*[_ -])(rejected|non_?preferred|dispreferred|unpreferred|bad|worse|worst|wrong"
    r"|incorrect|lose|losing|loser)(?:$|[_ -].*)"
)
# What raters compare: response_0 and response_1, answer_a and answer_b, summary1 and summary2.
_RIVAL = re.compile(
    r"((?:.*[_ -])?(?:response|answer|completion|output|reply|summary|conversation|ref|generation))"
    r"[ _-]?([0-9]|[abjk])"
)
_RIVAL_LISTS = ("responses", "completions", "candidates", "generations", "replies")
_GOOD = ("true", "desirable", "chosen", "accepted", "accept", "thumbs_up", "good", "like", "liked")
_BAD = ("false", "undesirable", "rejected", "reject", "thumbs_down", "bad", "dislike", "disliked")
_LIKED = {*_GOOD, "up", "upvote", "upvoted", "correct", "acceptable", "helpful", "+", "+1"}
_LIKED |= {"thumbs up", "\U0001f44d"}
_DISLIKED = {*_BAD, "down", "downvote", "downvoted", "incorrect", "wrong", "unacceptable", "-"}
_DISLIKED |= {"thumbs down", "\U0001f44e", "unhelpful", "not helpful"}
_NUMBERS = {"0", "1", "-1"}
# Fields that can say nothing else; their yes and no count too.
_FLAGS = (
    *("kto_tag", "desirable", "is_desirable", "thumbs_up", "thumbs", "is_chosen", "is_preferred"),
    *("accepted", "is_accepted", "approved", "feedback", "user_feedback", "vote", "liked"),
    *("is_correct", "correct", "is_good", "good", "is_helpful", "is_acceptable", "judgement"),
    *("verified", "is_verified", "passed", "success"),
    *("judgment", "verdict", "grade", "quality", "preference", "preferred"),
)
_RATINGS = (
    *("reward", "reward_score", "score", "scores", "rating", "ratings", "helpfulness", "quality"),
    *("overall_score", "quality_score", "preference_score", "human_score", "upvotes", "votes"),
)
ALTERNATIVES = (
    *("answers", "answer", "ideal", "expected", "__expected", "expected_output", "targets"),
)
"""Response fields whose lists hold answers each of which is right."""
# What Prodigy's annotators say of each row.
_VERDICTS = {"accept", "reject", "ignore"}


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
    if not isinstance(first, str | list | Mapping) or _word(first) in _LIKED | _DISLIKED | _NUMBERS:
        return None
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
    rivals = rivals or next(([f] for f in there if f.lower() in _RIVAL_LISTS), None)
    if rivals:
        raise DatasetError(
            f"{shown}: {listed(rivals)} {'hold' if len(rivals) > 1 else 'holds'} several answers "
            "to each prompt (preference data). "
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

    A label of two values beside two different answers at most is a class, not a flag.
    """
    for name in _FLAGS:
        if name in free and _is_flag(table, free[name], {"yes", "no"}):
            return free[name]
    if label is None or not _is_flag(table, label, set()):
        return None
    if response is None:
        return label
    answers = {str(value).strip() for value in table.values(response)}
    return label if len(answers) > 2 else None


def _is_flag(table: Table, field: str, also: set[str]) -> bool:
    values = {_word(value) for value in table.values(field)} - {""}
    return bool(values) and values <= _LIKED | _DISLIKED | _NUMBERS | also


def refuse_ratings(
    table: Table, by_lower: Mapping[str, str], prompt: Sequence[str], shown: str
) -> None:
    """Nothing where answers are not rated, or only as a remark on each row.

    Raises:
        DatasetError: Rewards differ, or the ratings of several answers to one prompt do: the worse
            ones would be learnt, and scored, like the better ones.
    """
    for field in (by_lower[name] for name in _RATINGS if name in by_lower):
        by_prompt: dict[str, set[float]] = {}
        for _, record in table.records:
            rating = _number(record.get(field))
            if rating is not None:
                asked = str([record.get(part) for part in prompt])
                by_prompt.setdefault(asked, set()).add(rating)
        ratings = set().union(*by_prompt.values())
        rivals = any(len(each) > 1 for each in by_prompt.values())
        if len(ratings) > 1 and (rivals or "reward" in field.lower()):
            raise DatasetError(
                f"{shown}: '{field}' rates each answer, from {min(ratings):g} to "
                f"{max(ratings):g}, so bad answers would be learnt like good ones. Keep the good "
                "rows, or say --map label= to take all answers as they are."
            )


def refuse_verdicts(table: Table, by_lower: Mapping[str, str], shown: str) -> str | None:
    """The field in which Prodigy keeps that each row was accepted; None without one.

    Raises:
        DatasetError: Some rows were not.
    """
    field = by_lower.get("answer", "")
    said = [_word(value) for value in table.values(field)] if field else []
    if not set(said) - {""} or not {*said} <= {*_VERDICTS, ""}:
        return None
    n_others = sum(word != "accept" for word in said)
    if n_others:
        raise DatasetError(
            f"{shown}: '{field}' says which rows the annotators accepted, and {n_others:,} of "
            f"{table.n_read:,} are not. Keep the rows where it is 'accept'."
        )
    return field


def settle_flag(table: Table, flag: str, shown: str) -> str:
    """The note on a flag by which every answer is liked.

    Raises:
        DatasetError: Some are not: they would be learnt, and scored, like the others.
    """
    bad = {*_DISLIKED, "0", "-1", "no"}
    disliked = [value for value in table.values(flag) if _word(value) in bad]
    if not disliked:
        return f"'{flag}' says of every answer that it is liked, so it is no label"
    is_named = flag.lower() in _FLAGS
    all_of_them = ", or say --map label= to take all answers as they are"
    as_class = all_of_them if is_named else f", or say --map label={flag} if it is a class"
    raise DatasetError(
        f"{shown}: '{flag}' says of each answer whether people liked it (unpaired preferences, as "
        f"for KTO), and {len(disliked):,} of {table.n_read:,} are not liked. Keep the rows where "
        f"it is true{as_class}."
    )


def refuse_lists(table: Table, response: str, *, is_mapped: bool, shown: str) -> str | None:
    """The note on answers that list several; None where each is one.

    Raises:
        DatasetError: Whether such a list is one answer of many items can't be told.
    """
    values = table.values(response)
    lists = [value.get("text") if isinstance(value, Mapping) else value for value in values]
    several = [
        value
        for value in lists
        if isinstance(value, list)
        and len({scalar_text(text) for text in value}) > 1
        and not any(isinstance(item, Mapping | list) for item in value)
    ]
    if not several:
        return None
    if is_mapped or response.strip().lower() in ALTERNATIVES:
        return f"'{response}' lists several answers in {len(several):,} rows: the first is used"
    raise DatasetError(
        f"{shown}: '{response}' is a list of several texts in {len(several):,} of "
        f"{table.n_read:,} rows: whether these are answers to choose from or parts of one can't be "
        f"told. Write one text, or say --map response={response} to take the first of each."
    )


def _number(value: object) -> float | None:
    text = "" if isinstance(value, bool) else scalar_text(value) or ""
    return float(text) if re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)\s*", text) else None


def _word(value: object) -> str:
    """A flag in lower case; 1.0, as tables with gaps write it, as 1; "" for lists and objects."""
    if isinstance(value, list | Mapping):
        return ""
    return (scalar_text(value) or "").strip().lower().removesuffix(".0")
