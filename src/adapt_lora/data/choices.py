"""Multiple choice: the options that belong to the question, and which of them is the answer."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from adapt_lora.data.table import Table
from adapt_lora.data.values import Unusable, listed, nested_value, scalar_text
from adapt_lora.errors import DatasetError

_LIST_FIELDS = ("choices", "options", "endings", "answer_choices", "choice", "alternatives")
# Columns of one option each: A to D, option_a, choice1, ending0, opa, sol1, answerA.
_COLUMN = re.compile(
    r"(?:(option|choice|opt|op|ending|sol|solution|alternative|answer)[ _-]?)?([a-h]|\d)"
)
# Fields that may say which option is right, those that can mean nothing else first.
_ANSWER_FIELDS = (
    *("answerkey", "answer_key", "answer_idx", "answer_index", "correct_idx", "correct_index"),
    *("correct_answer_id", "correct_answer_idx", "correct_answer_index", "correct_answer_key"),
    *(
        "correct_option",
        "correct_choice",
        "cop",
        "correct",
        "correct_answer",
        "answer_id",
        "answer",
    ),
    *("answer_letter", "correct_letter", "label", "gold", "target", "output", "response"),
    "completion",
)
# The fields that point to an option, so that a list beside them is of options.
_POINTERS = re.compile(
    r"(correct_|gold_|right_|true_)?(answer|option|choice)_?(id|idx|index|key|letter)"
)
_NAMED = re.compile(r"\(?([A-Za-z0-9])[).:]\s*")
# "(A)", "B)", "Option C", "answer 2": ways to call an option by its key.
_CALLED = re.compile(r"(?i)(?:(?:option|choice|answer)[ _]?)?\(?([A-Z]|\d{1,2})[).:]?")
# Wrong options in columns of their own, whose order with the right one nobody says.
_WRONG = re.compile(r"(distractor|(incorrect|wrong|false)_?(answer|option|choice)s?)_?\d*")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class ChoiceFields:
    """Where the rows of multiple choice hold their options and the answer."""

    options: tuple[str, ...]
    """One field that holds them all, or a field for each."""
    answer: str | None
    """The one that says which is right; None where none does."""
    first: int | None
    """What number the first option has, where answers are numbers; None where they are not."""
    in_words: bool = False
    """Whether answers are the options' texts, though some could be keys: "C" for carbon."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one row."""

    keys: tuple[str, ...]
    """What answers call them: "A", "B"; () where the file has them in one text."""
    texts: tuple[str, ...]
    """What they say."""

    @property
    def lines(self) -> str:
        """A line for each, its key before it unless it stands there."""
        if not self.keys:
            return self.texts[0]
        named = [_NAMED.match(text) for text in self.texts]
        if all(name and name[1] == key for name, key in zip(named, self.keys, strict=True)):
            return "\n".join(self.texts)
        return "\n".join(f"{k}. {text}" for k, text in zip(self.keys, self.texts, strict=True))

    def key_of(self, answer: str, first: int | None) -> str | None:
        """The key that an answer gives, by itself or by its number; None where it gives a text."""
        if first is not None and answer.isdecimal():
            index = int(answer) - first
            return self.keys[index] if 0 <= index < len(self.keys) else None
        called = _CALLED.fullmatch(answer)
        named = _NAMED.match(answer)
        if answer in self.texts and answer.lower() not in map(str.lower, self.keys):
            return None
        if called:
            answer = called[1]
        elif named and answer[named.end() :] in self.texts:  # "B) Rome"
            answer = named[1]
        return next((key for key in self.keys if key.lower() == answer.lower()), None)


def find_choices(
    table: Table, free: Mapping[str, str], mapping: Mapping[str, str], shown: str
) -> ChoiceFields | None:
    """The fields that hold options, and which is right; None where this is no multiple choice.

    Args:
        table: The file's records.
        free: Fields that may play a part, by their names in lower case.
        mapping: Role to field, where people say it.
        shown: What messages call the file.

    Raises:
        DatasetError: Answers are numbers, and from where they count can't be told.
    """
    refuse_unordered(table, free, mapping, shown)
    pointers = [field for name, field in free.items() if _POINTERS.fullmatch(name)]
    points = any(_points_to_options(table, field) for field in pointers)
    names = (*_LIST_FIELDS, "answers") if points else _LIST_FIELDS
    whole = next((free[name] for name in names if name in free), None)
    if whole is not None and _options(_first_value(table, whole)) is not None:
        fields: tuple[str, ...] = (whole,)
    else:
        fields = _option_columns(free)
    if not fields:
        return None
    said = mapping.get("response")
    detected = [free[name] for name in _ANSWER_FIELDS if free.get(name, fields[0]) not in fields]
    answers = list(dict.fromkeys(detected)) if said is None else [*filter(None, [said])]
    doubt: DatasetError | None = None
    for answer in answers:
        try:
            first = _first_number(table, fields, answer, shown)
        except DatasetError as error:  # another field may say it in letters
            doubt = doubt or error
        else:
            return ChoiceFields(fields, answer, first, in_words=_in_words(table, fields, answer))
    if doubt:
        raise doubt
    return ChoiceFields(fields, None, None)


def refuse_unordered(
    table: Table, free: Mapping[str, str], mapping: Mapping[str, str], shown: str
) -> None:
    """Nothing where no options come without an order, the right one apart from the wrong ones.

    Raises:
        DatasetError: They do: in which order a model is to see them is not for a reader to make up.
    """
    if "response" in mapping:
        return
    wrong = [field for name, field in free.items() if _WRONG.fullmatch(name)]
    scored = [
        field
        for name, field in free.items()
        if name in ("mc1_targets", "mc2_targets", "target_scores")
        and isinstance(_first_value(table, field), Mapping)
    ]
    fields = list(dict.fromkeys(scored or wrong))
    right = next((free[name] for name in ("best_answer", "correct_answer") if name in free), None)
    if not fields or (right is None and not scored) or "best_answer" in free:
        return
    way = f", or say --map {shlex.quote(f'response={right}')} to ask without options"
    alone = way if right else ""
    raise DatasetError(
        f"{shown}: {listed(fields)}: wrong options stand apart from the right one, so the order to "
        "show them in can't be told. Write all options as a list to a field 'choices' and the "
        f"right one's letter to 'answer'{alone}."
    )


def read_options(record: Mapping[str, object], fields: Sequence[str]) -> Options:
    """The options of a row.

    Raises:
        Unusable: There are none.
    """
    if len(fields) == 1:
        options = _options(record.get(fields[0]))
        if options is None:
            raise Unusable(f"'{fields[0]}' holds no options to choose from")
        return options
    texts = [(scalar_text(record.get(field)) or "").strip() for field in fields]
    given = tuple(filter(None, texts))
    if len(given) < 2 or tuple(texts[: len(given)]) != given:
        raise Unusable(f"no options to choose from in {listed(fields)}")
    return Options(tuple(_LETTERS[: len(given)]), given)


def read_choice(value: object, choices: ChoiceFields, options: Options) -> tuple[str, str | None]:
    """The answer as it is asked for, and its key as the label where the file names it by a key.

    Raises:
        Unusable: It is none of the options.
    """
    answer = (scalar_text(value) or "").strip()
    key = None if choices.in_words else options.key_of(answer, choices.first)
    key = key or _key_of_column(answer, choices, options)
    if key is not None:
        return key, key
    if options.keys and answer not in options.texts:
        raise Unusable(f"'{choices.answer}' is {listed([answer])!r}, which is none of the options")
    return answer, None


def is_missing(value: object) -> bool:
    """Whether a row gives no answer; test sets hide theirs as -1."""
    return (scalar_text(value) or "").strip() in ("", "-1")


def _key_of_column(answer: str, choices: ChoiceFields, options: Options) -> str | None:
    """The key of the option whose column an answer names: "option2"."""
    columns = [field.strip().lower() for field in choices.options]
    if len(columns) < 2 or answer.lower() not in columns or answer in options.texts:
        return None
    index = columns.index(answer.lower())
    return options.keys[index] if index < len(options.keys) else None


def _in_words(table: Table, fields: Sequence[str], answer: str) -> bool:
    """Whether every answer is the text of an option, and one of them is no key."""
    rows = list(_answered(table, fields, answer))
    return all(said in options.texts for said, options in rows) and not all(
        options.key_of(said, None) for said, options in rows
    )


def _option_columns(free: Mapping[str, str]) -> tuple[str, ...]:
    families: dict[str, dict[str, str]] = {}
    for lower, field in free.items():
        match = _COLUMN.fullmatch(lower)
        if match and (match[1] or not match[2].isdigit()):
            families.setdefault(match[1] or "", {})[match[2]] = field
    for stem, members in families.items():
        for series in ("abcdefgh", "01234567", "12345678"):
            run = tuple(members[key] for key in series if key in members)
            # Two answers side by side are what raters compare, not what a question offers.
            if len(run) == len(members) >= (3 if stem == "answer" else 2) and series[0] in members:
                return run
    return ()


def _points_to_options(table: Table, field: str) -> bool:
    said = {(scalar_text(value) or "").strip() for value in table.values(field)} - {""}
    return bool(said) and all(re.fullmatch(r"-1|\d|[A-Za-z]", each) for each in said)


def _first_value(table: Table, field: str) -> object:
    return next((value for value in table.values(field) if value), None)


def _options(value: object) -> Options | None:
    """The options that one value holds: a list, an object of keys, or one text of them all."""
    if isinstance(value, str):
        nested = nested_value(value)
        if nested is None and re.match(r"\s*(\[['\"]|\{['\"]|\[?array\()", value):
            return None  # a list that is cut short is no text of options
        if nested is None:
            return Options((), (value.strip(),)) if value.strip() else None
        value = nested
    keys: list[object] = []
    if isinstance(value, Mapping):
        texts = value.get("text", value.get("texts"))
        keys = value.get("label", value.get("labels", []))
        if not isinstance(texts, list):  # {"A": "...", "B": "..."}
            given = {key: text for key, text in value.items() if text is not None}
            keys, texts = [*given], [*given.values()]
        value = texts
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        items = [item for item in value if isinstance(item, Mapping)]
        keys = [item.get("label", item.get("key", item.get("id"))) for item in items]
        value = [item.get("text", item.get("value", item.get("content"))) for item in items]
    if not isinstance(value, list) or not 2 <= len(value) <= len(_LETTERS):
        return None
    if any(text is None or isinstance(text, list | Mapping) for text in value):
        return None
    names = [scalar_text(key) for key in keys]
    if len(names) != len(value) or None in names or len({*names}) < len(names):
        names = [*_LETTERS[: len(value)]]
    texts = tuple((scalar_text(text) or "").strip() for text in value)
    return Options(tuple(name.strip() for name in names if name is not None), texts)


def _first_number(table: Table, fields: Sequence[str], answer: str, shown: str) -> int | None:
    """Whether answers count the options from 0 or from 1; None where they don't count them."""
    rows = list(_answered(table, fields, answer))
    if not rows or any(options.key_of(said, None) for said, options in rows):
        return None
    numbers = [(int(said), len(options.keys)) for said, options in rows if said.isdecimal()]
    if len(numbers) < len(rows) or all(said in options.texts for said, options in rows):
        return None
    fits = [first for first in (0, 1) if all(0 <= number - first < n for number, n in numbers)]
    # Whoever counts from 0 uses the 0 sooner or later; whoever counts from 1, the last number.
    if fits == [0] or (fits == [0, 1] and any(number == 0 for number, _ in numbers)):
        return 0
    if fits == [1]:
        return 1
    seen = listed(sorted({str(number) for number, _ in numbers}))
    raise DatasetError(
        f"{shown}: '{answer}' gives the number of the right option ({seen}), but whether it counts "
        "from 0 or from 1 can't be told. Write letters instead: A, B, C."
    )


def _answered(table: Table, fields: Sequence[str], answer: str) -> Iterator[tuple[str, Options]]:
    for _, record in table.records:
        value = record.get(answer)
        if is_missing(value) or isinstance(value, list | Mapping):
            continue
        try:
            yield (scalar_text(value) or "").strip(), read_options(record, fields)
        except Unusable:
            continue
