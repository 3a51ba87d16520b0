"""Which field of a file plays which role: as people map them, else by the shape that fits best."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adapt_lora.data.choices import ChoiceFields, find_choices
from adapt_lora.data.hints import suggest_mapping
from adapt_lora.data.preferences import (
    Pair,
    find_flag,
    find_pair,
    refuse_pair,
    refuse_rivals,
    refuse_steps,
    settle_flag,
)
from adapt_lora.data.table import Table
from adapt_lora.data.values import listed
from adapt_lora.errors import ConfigError, DatasetError

_ROLES = ("prompt", "response", "label")

# What tests of prompts call the right answer (OpenAI's evals, promptfoo).
_EXPECTED = "ideal expected_output expected __expected"
# Prompt fields ("+" joins them, "?" marks one that may be absent), then the fields that may hold
# the response, in order of preference. Of the shapes that fit, one with a response wins over one
# with a label, that over a bare prompt; then the one that fits the most rows; then the first here.
_SHAPES: tuple[tuple[str, str], ...] = (
    ("prompt", f"response completion answer output target chosen {_EXPECTED}"),
    ("messages", ""),
    ("conversations", ""),
    ("conversation", ""),
    ("instruction+input?+context?", f"output response completion answer target {_EXPECTED}"),
    ("context+question", "answers answer response output"),
    ("article+question", "answers answer response output"),
    ("passage+question", "answers answer response output"),
    ("context+query", "answers answer response output"),
    ("premise+question", ""),
    ("premise+hypothesis", ""),
    ("sentence1+sentence2", ""),
    ("question1+question2", ""),
    ("question+sentence", ""),
    ("question", f"answers answer response output {_EXPECTED}"),
    ("query", f"response answer output {_EXPECTED}"),
    ("input", f"output target response completion {_EXPECTED}"),
    ("text", "response completion output target summary"),
    ("sentence", ""),
    ("content", ""),
    ("review", ""),
    ("utterance", ""),
    ("tweet", ""),
    ("comment", ""),
    ("message", ""),
    ("dialogue", "summary"),
    ("article", "summary highlights"),
    ("document", "summary"),
    ("source", "target"),
    ("question_stem", ""),
    ("ctx", ""),
    ("startphrase", ""),
    ("goal", ""),
)
_CHAT_FIELDS = ("messages", "conversations", "conversation")
_LABEL_FIELDS = ("label_text", "label_name", "label", "labels")
# Beside a response these are remarks about the row ("category": "open_qa"), not what to answer.
_LONE_LABEL_FIELDS = (*_LABEL_FIELDS, "intent", "category", "sentiment", "class")
_RESPONSE_FIELDS = ("response", "completion", "answer", "answers", "output", "target", "summary")

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

    @property
    def options(self) -> tuple[str, ...]:
        """The fields that hold options to choose from; () where there are none."""
        return self.choices.options if self.choices else ()

    @property
    def shape(self) -> str:
        """The fields in one word, as in `Dataset.shape`."""
        fields = [*self.prompt, *self.options, *filter(None, (self.response, self.label))]
        return "/".join(dict.fromkeys(fields))

    @property
    def mapping(self) -> dict[str, str]:
        """Role to field, as in `Dataset.mapping`."""
        dialogue = self.prompt[0] if self.is_dialogue else None
        response = self.response or self.label or dialogue
        prompt = "+".join([*self.prompt, *self.options])
        roles = {"prompt": prompt, "response": response, "label": self.label}
        return {role: field for role, field in roles.items() if field}

    def unused(self, there: Iterable[str]) -> list[str]:
        """Those of the file's fields that play no role."""
        used = {*self.prompt, *self.options, self.response, self.label, *self.tests}
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
        DatasetError: A mapped field is not there, there are no fields, or none looks like a prompt.
    """
    there = table.field_counts
    _check_mapping(mapping, there, shown)
    if not there:
        raise table.refusal(table.skipped, shown, "Mend or drop them.")
    by_lower = {key.lower(): key for key in reversed(list(there))}
    shape = _mapped_shape(mapping, there)
    pair = find_pair(table, by_lower) if "response" not in mapping else None
    if pair is not None:
        return _paired_fields(table, by_lower, mapping, pair, shape, shown)
    shape = shape or _best_shape(table, by_lower, mapping, shown)
    free = {lower: key for lower, key in by_lower.items() if key not in shape.prompt}
    choices = find_choices(table, free, mapping, shown)
    if choices is not None:
        topic = mapping.get("label") or None
        return Fields(shape.prompt, shape.optional, choices.answer, topic, (), choices)
    response = mapping.get("response", _first(shape.responses, free)) or None
    is_answered = response is not None or _is_chat(shape.prompt[0])
    label_names = _LABEL_FIELDS if is_answered else _LONE_LABEL_FIELDS
    label = mapping.get("label", _first(label_names, free)) or None
    notes: tuple[str, ...] = ()
    if "response" not in mapping:
        refuse_steps(table, by_lower, shown)
        if not is_answered and label is None:
            refuse_rivals(there, shown)
    if is_answered and "label" not in mapping:
        flag = find_flag(table, free, label, response)
        if flag is not None:
            notes, label = (settle_flag(table, flag, shown),), None
    tests = tuple(_first(names, free) or "" for names in _TEST_FIELDS)
    has_tests = tests[0] not in ("", response, label)
    return Fields(
        shape.prompt,
        shape.optional,
        response,
        label,
        tests if has_tests else (),
        notes=notes,
        is_dialogue=response is None and _is_chat(shape.prompt[0]),
    )


def _paired_fields(
    table: Table,
    by_lower: Mapping[str, str],
    mapping: Mapping[str, str],
    pair: Pair,
    mapped: "_Shape | None",
    shown: str,
) -> Fields:
    """The roles in preference pairs: what precedes the better answer, and that answer."""
    answers = (pair.chosen, pair.rejected)
    others = {lower: field for lower, field in by_lower.items() if field not in answers}
    label = mapping.get("label") or None
    shape = mapped or _fitting_shape(table, others, {**mapping, "response": pair.chosen})
    # A chat beside a whole dialogue comes with the answer too: the dialogue is enough.
    is_double = shape and not mapped and pair.holds_dialogues and _is_chat(shape.prompt[0])
    if shape and not is_double and pair.chosen not in shape.prompt:
        return Fields(shape.prompt, shape.optional, pair.chosen, label, notes=(pair.note,))
    if not pair.holds_dialogues:
        raise refuse_pair(pair, shown)
    return Fields((pair.chosen,), frozenset(), None, label, notes=(pair.note,), is_dialogue=True)


def _mapped_shape(mapping: Mapping[str, str], there: Mapping[str, int]) -> "_Shape | None":
    """The shape that a mapping of the prompt makes; None without one."""
    field = mapping.get("prompt")
    if not field:
        return None
    prompt = (field,) if field in there else tuple(field.split("+"))
    return _Shape(prompt, frozenset(), () if _is_chat(field) else _RESPONSE_FIELDS)


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


@dataclass(frozen=True, slots=True)
class _Shape:
    """How rows of one kind say prompt and response."""

    prompt: tuple[str, ...]
    """As in `Fields`."""
    optional: frozenset[str]
    """As in `Fields`."""
    responses: Sequence[str]
    """Names that may hold the response, lower case, best first."""


def _best_shape(
    table: Table, by_lower: Mapping[str, str], mapping: Mapping[str, str], shown: str
) -> _Shape:
    shape = _fitting_shape(table, by_lower, mapping)
    if shape is None:
        raise DatasetError(
            f"{shown}: no field looks like a prompt (found: {listed(table.field_counts)}). "
            f"{suggest_mapping(table)}"
        )
    return shape


def _fitting_shape(
    table: Table, by_lower: Mapping[str, str], mapping: Mapping[str, str]
) -> _Shape | None:
    has_response = bool(mapping.get("response"))
    has_label = bool(mapping.get("label")) or _first(_LONE_LABEL_FIELDS, by_lower) is not None
    best: _Shape | None = None
    best_fit = (-1, 0)
    for spec, response_names in _SHAPES:
        parts = spec.split("+")
        needed = [by_lower.get(part, "") for part in parts if not part.endswith("?")]
        if "" in needed:
            continue
        names = response_names.split()
        is_answered = has_response or spec in _CHAT_FIELDS or _first(names, by_lower) is not None
        fit = (
            2 if is_answered else int(has_label),
            min(map(table.field_counts.__getitem__, needed)),
        )
        if fit > best_fit:
            optional = [by_lower.get(part[:-1], "") for part in parts if part.endswith("?")]
            extra = [field for field in optional if field]
            best, best_fit = _Shape((*needed, *extra), frozenset(extra), names), fit
    return best


def _is_chat(field: str) -> bool:
    return field.lower() in _CHAT_FIELDS


def _first(names: Iterable[str], there: Mapping[str, str]) -> str | None:
    """The file's spelling of the first of the names that it has."""
    return next((there[name] for name in names if name in there), None)
