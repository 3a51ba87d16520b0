"""Which field of a file plays which role: as people map them, else by the shape that fits best."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from adapt_lora.data.chats import ROLE_OF, ends_with_answer, find_reasoning
from adapt_lora.data.choices import ChoiceFields, find_choices
from adapt_lora.data.hints import suggest_mapping
from adapt_lora.data.preferences import (
    Pair,
    find_flag,
    find_pair,
    is_rejected,
    refuse_lists,
    refuse_pair,
    refuse_ratings,
    refuse_rivals,
    refuse_steps,
    refuse_verdicts,
    settle_flag,
)
from adapt_lora.data.shapes import (
    CHAT_RESPONSE_FIELDS,
    RESPONSE_FIELDS,
    Shape,
    first_of,
    fitting_shape,
    is_chat,
    names_of,
)
from adapt_lora.data.surroundings import (
    NO_SURROUNDINGS,
    Surroundings,
    chat_of_mapping,
    find_surroundings,
    is_order,
    refuse_doubt,
    refuse_joined_chat,
)
from adapt_lora.data.table import Table
from adapt_lora.data.templates import find_template
from adapt_lora.data.values import listed, scalar_text
from adapt_lora.errors import ConfigError, DatasetError

_ROLES = ("prompt", "response", "label")

# Names that say "label" or "answer" among other words, where no field is called so.
_LIKE_LABEL = re.compile(
    r"(.*_)?(label|labels|sentiment|intent|emotion|class|category|stance|polarity|toxic|toxicity|spam"
    r"|hate|sarcastic|ironic|fraud)(_.*)?"
)
_LIKE_ANSWER = re.compile(
    r"(.*_)?(answer|response|completion|solution|reply|output|target|answers)"
)

# Unit tests of an answer that is code (MBPP and its kin), what is set up before them, and the name
# that they call.
_TEST_FIELDS = (
    ("tests", "test_list", "unit_tests", "test"),
    ("test_setup", "test_setup_code"),
    ("entry_point",),
)


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields play which role, in the file's own spelling."""

    prompt: tuple[str, ...]
    """Those that make the prompt, in order; one at least."""
    optional: frozenset[str]
    """Those of the prompt that a row may lack."""
    response: str | None
    """The one that holds the response."""
    label: str | None
    """The one that holds the label."""
    tests: tuple[str, ...] = ()
    """Unit tests, what is set up for them, the name that they call; "" for one that is absent."""
    choices: ChoiceFields | None = None
    """Where the options stand, in multiple choice."""
    is_dialogue: bool = False
    """Whether the prompt field holds whole dialogues, the answer among their turns."""
    notes: tuple[str, ...] = ()
    """What a person should know of them, one sentence each."""
    around: Surroundings = NO_SURROUNDINGS
    """Those of the turns before the prompt."""
    is_bare: bool = False
    """Whether the prompt's texts stand without their fields' names, as below an instruction."""
    template: str | None = None
    """The template in which the prompt field's texts hold whole chats; None where they don't."""

    @property
    def options(self) -> tuple[str, ...]:
        """The fields that hold options to choose from; () where there are none."""
        return self.choices.options if self.choices else ()

    @property
    def _prompt(self) -> tuple[str, ...]:
        return (*self.around.turns, *self.prompt, *self.options)

    @property
    def shape(self) -> str:
        """The fields in one word, as in `Dataset.shape`."""
        fields = [*self._prompt, *filter(None, (self.response, self.label))]
        return "/".join(dict.fromkeys(fields))

    @property
    def mapping(self) -> dict[str, str]:
        """Role to field, as in `Dataset.mapping`."""
        dialogue = self.prompt[0] if self.is_dialogue or self.template else None
        response = self.response or self.label or dialogue
        prompt = "+".join(self._prompt)
        roles = {"prompt": prompt, "response": response, "label": self.label}
        return {role: field for role, field in roles.items() if field}

    def unused(self, there: Iterable[str]) -> list[str]:
        """Those of the file's fields that play no role."""
        used = {*self._prompt, self.response, self.label, *self.tests}
        return [field for field in there if field not in used]


def parse_mapping(text: str) -> dict[str, str]:
    """Role to field from "prompt=question,response=answer"; an empty field switches the role off.

    Raises:
        ConfigError: Not of that form, an unknown role, a role named twice, or an empty prompt.
    """
    mapping: dict[str, str] = {}
    # A comma inside a field's name is no end: only a role may follow one.
    for part in re.split(rf",(?=\s*(?:{'|'.join(_ROLES)})\s*=)", text):
        role, equals, field = (piece.strip() for piece in part.partition("="))
        is_known = equals and role in _ROLES and role not in mapping
        is_odd = field.endswith(",") or re.search(r",\s*\w+\s*=", field) is not None
        if not is_known or is_odd or (role == "prompt" and not field):
            raise ConfigError(
                f"--map {text!r}: can't use {part.strip()!r}. "
                "Write it like prompt=question,response=answer,label=topic; each role once."
            )
        mapping[role] = field
    return mapping


def detect_fields(table: Table, mapping: Mapping[str, str], shown: str) -> Fields:
    """The roles of the fields: as mapped where the caller says so, else by the best shape.

    Args:
        table: The file's records.
        mapping: Role to field, as `parse_mapping` gives it.
        shown: What messages call the file.

    Raises:
        ConfigError: The mapping has an unknown role.
        DatasetError: A mapped field is not there, there are no fields, none looks like a prompt, or
            what a field is for can't be told.
    """
    there = table.field_counts
    _check_mapping(mapping, there, shown)
    if not there:
        raise table.refusal(table.skipped, shown, "Mend or drop them.")
    by_lower = names_of(there)
    if "prompt" not in mapping:
        _refuse_messages_apart(table, by_lower, shown)
    shape = _mapped_shape(mapping, there)
    pair = find_pair(table, by_lower) if "response" not in mapping else None
    if pair is not None:
        return _paired_fields(table, by_lower, mapping, pair, shape, shown)
    shape = shape or _best_shape(table, by_lower, mapping, shown)
    verdict = None if "label" in mapping else refuse_verdicts(table, by_lower, shown)
    free = {
        lower: key for lower, key in by_lower.items() if key not in (*shape.prompt, verdict or "")
    }
    choices = find_choices(table, free, mapping, shown)
    if choices is not None:
        topic = mapping.get("label") or None
        fields = Fields(shape.prompt, shape.optional, choices.answer, topic, (), choices)
    else:
        fields = _answered_fields(table, shape, free, mapping, shown)
    return _surrounded(table, shape, free, fields, mapping, shown)


def _answered_fields(
    table: Table, shape: Shape, free: Mapping[str, str], mapping: Mapping[str, str], shown: str
) -> Fields:
    """The roles where a prompt has one answer, or none: the response, the label, the tests."""
    names = shape.responses
    is_open = shape.is_chat and not any(map(ends_with_answer, table.values(shape.prompt[0])))
    if is_open:
        names = CHAT_RESPONSE_FIELDS
    response = mapping.get("response", first_of(names, free)) or None
    if "response" not in mapping and "label" not in mapping:
        response = _response_beside_label(table, shape, free, response, shown)
    holds_answers = response is not None or (shape.is_chat and not is_open)
    names = shape.labels(is_answered=holds_answers or shape.is_chat)
    label = mapping.get("label", first_of(names, free)) or None
    tests = tuple(first_of(tests, free) or "" for tests in _TEST_FIELDS)
    has_tests = tests[0] not in ("", response, label)
    notes: list[str] = []
    if "response" not in mapping:
        refuse_steps(table, free, shown)
        if not holds_answers and label is None:
            refuse_rivals(free.values(), shown)
            if "label" not in mapping and not has_tests:
                _refuse_likely_answer(table, shape, free, shown)
    if response is not None:
        is_mapped = "response" in mapping
        notes += filter(None, [refuse_lists(table, response, is_mapped=is_mapped, shown=shown)])
    if holds_answers and "label" not in mapping:
        flag = find_flag(table, free, label, response)
        if flag is not None:
            notes.append(settle_flag(table, flag, shown))
            label = None if flag == label else label
        refuse_ratings(table, free, shape.prompt, shown)
    template = None
    if response is None and label is None and len(shape.prompt) == 1:
        template = find_template(table.values(shape.prompt[0]))
    return Fields(
        shape.prompt,
        shape.optional,
        response,
        label,
        tests if has_tests else (),
        notes=tuple(notes),
        is_dialogue=response is None and shape.is_chat,
        template=template,
    )


def _surrounded(
    table: Table,
    shape: Shape,
    free: Mapping[str, str],
    fields: Fields,
    mapping: Mapping[str, str],
    shown: str,
) -> Fields:
    """The fields with what else belongs to the prompt, and what is to be said of it."""
    notes = list(fields.notes)
    if shape.is_chat:
        key = find_reasoning(table.values(shape.prompt[0]))
        if key:
            notes.append(f"the reasoning that messages hold apart ('{key}') is not used")
    if fields.template:
        notes.append(
            f"'{shape.prompt[0]}' holds chats in the template of {fields.template}: the last "
            "answer is the response"
        )
    fields = replace(fields, notes=tuple(notes))
    if mapping.get("prompt"):
        around = chat_of_mapping(mapping["prompt"].split("+")) or NO_SURROUNDINGS
        if len(shape.prompt) > 1:
            refuse_joined_chat(table, shape.prompt, shown)
        return replace(fields, around=around)
    used = {*fields.options, fields.response, fields.label, *fields.tests}
    rest = {name: field for name, field in free.items() if field not in used}
    around = find_surroundings(
        table, shape, rest, response=fields.response, label=fields.label, shown=shown
    )
    placed = (*around.before, *around.after)
    return replace(
        fields,
        prompt=(*around.before, *fields.prompt, *around.after),
        optional=fields.optional | {*placed},
        around=around,
        is_bare=bool(placed) and is_order((*around.before, *fields.prompt)[0]),
    )


def _paired_fields(
    table: Table,
    by_lower: Mapping[str, str],
    mapping: Mapping[str, str],
    pair: Pair,
    mapped: Shape | None,
    shown: str,
) -> Fields:
    """The roles in preference pairs: what precedes the better answer, and that answer."""
    answers = (pair.chosen, pair.rejected)
    others = {lower: field for lower, field in by_lower.items() if field not in answers}
    label = mapping.get("label") or None
    shape = mapped or fitting_shape(table, others, {**mapping, "response": pair.chosen})
    # A chat beside a whole dialogue comes with the answer too: the dialogue is enough.
    is_double = shape and not mapped and pair.holds_dialogues and shape.is_chat
    if shape and not is_double and pair.chosen not in shape.prompt:
        fields = Fields(shape.prompt, shape.optional, pair.chosen, label, notes=(pair.note,))
    elif not pair.holds_dialogues:
        raise refuse_pair(pair, shown)
    else:
        shape = Shape((pair.chosen,), frozenset(), ())
        fields = Fields(
            shape.prompt, shape.optional, None, label, notes=(pair.note,), is_dialogue=True
        )
    free = {lower: field for lower, field in others.items() if field not in shape.prompt}
    return _surrounded(table, shape, free, fields, mapping, shown)


def _response_beside_label(
    table: Table, shape: Shape, free: Mapping[str, str], response: str | None, shown: str
) -> str | None:
    """The response, unless a text's "target" is what its label is about.

    Raises:
        DatasetError: It may be either.
    """
    label = first_of(shape.labels(is_answered=True), free)
    if response is None or response.lower() != "target" or label is None:
        return response
    records = [record for _, record in table.records]
    texts = [
        [str(record.get(field)) for field in (*shape.prompt, response, label)] for record in records
    ]
    pairs = {(target, name) for *_, target, name in texts}
    targets, names = {target for target, _ in pairs}, {name for _, name in pairs}
    if len(pairs) == len(targets) <= len(names):  # the label in other words
        return response
    if all(target in prompt for prompt, *_, target, _ in texts) or 2 * len(targets) <= len(texts):
        return None
    raise refuse_doubt(response, shape.prompt, None, shown)


def _refuse_likely_answer(table: Table, shape: Shape, free: Mapping[str, str], shown: str) -> None:
    """Nothing where no field's name says that it answers a prompt that has no answer yet.

    Raises:
        DatasetError: One does.
    """
    for name, field in free.items():
        said = {scalar_text(value) for value in table.values(field)} - {None, ""}
        if not said or is_rejected(field):
            continue
        is_class = 2 <= len(said) <= max(20, table.n_read // 5) and _LIKE_LABEL.fullmatch(name)
        if is_class or _LIKE_ANSWER.fullmatch(name):
            role = "label" if is_class else "response"
            raise DatasetError(
                f"{shown}: '{field}' may be the {'label' if is_class else 'answer'} to "
                f"'{'+'.join(shape.prompt)}', or a remark on it. Say --map {role}={field} to use "
                f"it, or --map {role}= for rows without an answer."
            )


def _refuse_messages_apart(table: Table, by_lower: Mapping[str, str], shown: str) -> None:
    """Nothing where each row is more than one message of a chat.

    Raises:
        DatasetError: Each is one: its chat must be put together first.
    """
    speaker = first_of(("role", "from", "speaker"), by_lower)
    said = first_of(("content", "value", "text", "message", "utterance"), by_lower)
    if speaker and said:
        roles = {ROLE_OF.get(str(value).lower()) for value in table.values(speaker)}
        if {"user", "assistant"} <= roles and None not in roles:
            raise DatasetError(
                f"{shown}: each row is one message of a chat ('{speaker}', '{said}'). Put each "
                "chat together: a row with a list 'messages' of role and content."
            )


def _mapped_shape(mapping: Mapping[str, str], there: Mapping[str, int]) -> Shape | None:
    """The shape that a mapping of the prompt makes; None without one."""
    field = mapping.get("prompt")
    if not field:
        return None
    prompt = (field,) if field in there else tuple(field.split("+"))
    if chat_of_mapping(prompt) is not None:
        prompt = tuple(filter(is_chat, prompt))
    return Shape(prompt, frozenset(), () if is_chat(prompt[0]) else RESPONSE_FIELDS)


def _check_mapping(mapping: Mapping[str, str], there: Mapping[str, int], shown: str) -> None:
    unknown = set(mapping) - set(_ROLES)
    if unknown:
        raise ConfigError(f"No such role: {', '.join(sorted(unknown))}. Use {', '.join(_ROLES)}.")
    for role, field in mapping.items():
        for part in field.split("+") if field and field not in there else ():
            if part not in there:
                raise DatasetError(
                    f"{shown}: no field {part!r} to use as {role} (found: {listed(there)}). "
                    "Mind upper and lower case in --map."
                )


def _best_shape(
    table: Table, by_lower: Mapping[str, str], mapping: Mapping[str, str], shown: str
) -> Shape:
    shape = fitting_shape(table, by_lower, mapping)
    if shape is None:
        refuse_rivals(table.field_counts, shown)
        raise DatasetError(
            f"{shown}: no field looks like a prompt (found: {listed(table.field_counts)}). "
            f"{suggest_mapping(table)}"
        )
    return shape
