"""Records as rows: the prompt, the response, the label and the unit tests of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from adapt_lora.data.chats import (
    Turn,
    find_messages,
    read_transcript,
    read_turns,
    render_chat,
    split_chat,
)
from adapt_lora.data.choices import ChoiceFields, is_missing, read_choice, read_options
from adapt_lora.data.dataset import Row, SkippedRow
from adapt_lora.data.fields import Fields
from adapt_lora.data.surroundings import read_surroundings
from adapt_lora.data.table import Table
from adapt_lora.data.templates import read_templated
from adapt_lora.data.values import Unusable, checked_text, kind_of, listed


@dataclass(slots=True)
class Draft:
    """Rows on their way to a dataset."""

    rows: list[Row]
    """Those that can be used so far."""
    skipped: list[SkippedRow]
    """Those that can't."""
    notes: list[str]
    """What happened to them, one sentence each."""

    def skip(self, reason_of: Callable[[Row], str | None]) -> None:
        """Move the rows that there is a reason against to the skipped ones."""
        kept = []
        for row in self.rows:
            reason = reason_of(row)
            if reason is None:
                kept.append(row)
            else:
                self.skipped.append(SkippedRow(row.line, reason))
        self.rows = kept

    def clear(self, role: Literal["response", "label"]) -> None:
        """Leave no row with a label, or none with a response."""
        change: dict[str, Any] = {role: None}
        self.rows = [replace(row, **change) for row in self.rows]

    def label_by_response(self) -> None:
        """Take each row's response, white space at its ends dropped, for its label too."""
        answers = [(row.response or "").strip() for row in self.rows]
        self.rows = [
            replace(row, response=answer, label=answer)
            for row, answer in zip(self.rows, answers, strict=True)
        ]


def read_rows(table: Table, fields: Fields) -> Draft:
    """Every record as a row, or skipped for a reason."""
    draft = Draft([], list(table.skipped), [])
    for line, record in table.records:
        try:
            draft.rows.append(_row(line, record, fields))
        except Unusable as error:
            draft.skipped.append(SkippedRow(line, str(error)))
    return draft


def _row(line: int, record: Mapping[str, object], fields: Fields) -> Row:
    turns = _turns(record.get(fields.prompt[0]), fields)
    around = read_surroundings(record, fields.around)
    response: str | None = None
    if turns is None:
        prompt = _prompt_text(record, fields)
        prompt = render_chat([*around, Turn("user", prompt)]) if around else prompt
    elif fields.response is None:
        turns = _join_turns(around, turns)
        if all(turn.role == "system" for turn in turns):
            raise Unusable(f"'{fields.prompt[0]}' holds a system text only")
        prompt, response = split_chat(turns)
    elif turns[-1].role == "assistant" and turns[-1].text:
        raise Unusable(f"'{fields.prompt[0]}' ends with an answer, beside '{fields.response}'")
    else:
        prompt = render_chat(_join_turns(around, turns))
    if not prompt.strip():
        raise Unusable(f"'{fields.prompt[0]}' holds no text before the answer")
    if fields.choices is not None:
        return _choice_row(line, record, fields, fields.choices, prompt=prompt)
    if fields.response is not None:
        response = _answer_text(record.get(fields.response), fields.response)
    label = None if fields.label is None else _label_text(record.get(fields.label), fields.label)
    if fields.response is None and response is None:
        response = label
    return Row(prompt, response, label, line, _unit_tests(record, fields))


def _turns(value: object, fields: Fields) -> list[Turn] | None:
    """The turns of a prompt that is a chat; None where it is text.

    Text that spells a chat, and is judged as a whole, stays as it is.
    """
    field = fields.prompt[0]
    if isinstance(value, str):
        if fields.label is not None and fields.response is None and not fields.is_dialogue:
            return None
        transcript = read_transcript(value) if fields.response is None else None
        if transcript is not None and any(turn.role == "assistant" for turn in transcript):
            return transcript
        if fields.template and value.strip():
            templated = read_templated(value)
            if templated is None:
                raise Unusable(f"'{field}' is not in the template of {fields.template}")
            return templated[1]
    messages = find_messages(value)
    if messages is None and isinstance(value, list):
        messages = value
    if messages is not None:
        return read_turns(messages, field)
    if fields.is_dialogue and isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        raise Unusable(f"'{field}' holds text that is no list of messages in JSON")
    return None


def _join_turns(around: list[Turn], turns: list[Turn]) -> list[Turn]:
    """The turns of a chat below those around it; a system text that it has already stands once."""
    said = {turn.text.strip() for turn in turns if turn.role == "system"}
    return [*(turn for turn in around if turn.text.strip() not in said), *turns]


def _choice_row(
    line: int, record: Mapping[str, object], fields: Fields, choices: ChoiceFields, *, prompt: str
) -> Row:
    """A row of multiple choice: the options below the question, unless they stand in it."""
    options = read_options(record, choices.options)
    if not all(text in prompt for text in options.texts):
        prompt = f"{prompt}\n{options.lines}"
    value = None if choices.answer is None else record.get(choices.answer)
    if is_missing(value):
        return Row(prompt, None, None, line)
    if isinstance(value, list | Mapping):
        raise Unusable(f"'{choices.answer}' is {kind_of(value)} where one option was expected")
    response, label = read_choice(value, choices, options)
    if fields.label is not None:
        label = _label_text(record.get(fields.label), fields.label)
    return Row(prompt, response, label, line)


def _prompt_text(record: Mapping[str, object], fields: Fields) -> str:
    """The prompt; several fields are joined with their names, instruction and input without."""
    parts: list[str] = []
    is_instructed = fields.prompt[0].lower() == "instruction"
    bare = len(fields.prompt) == 1 or fields.is_bare or is_instructed
    for field in fields.prompt:
        text = checked_text(record.get(field), field)
        if text is not None:
            parts.append(text if bare else f"{field[:1].upper()}{field[1:]}: {text}")
        elif field not in fields.optional and field in record:
            raise Unusable(f"'{field}' is empty")
        elif field not in fields.optional:
            raise Unusable(f"no '{field}' field (found: {listed(record)})")
    return ("\n\n" if bare else "\n").join(parts)


def _answer_text(value: object, field: str) -> str | None:
    """The response; the first of several answers, the last assistant turn of a chat."""
    messages = find_messages(value)
    if messages is not None:
        return split_chat(read_turns(messages, field))[1]
    if isinstance(value, Mapping):  # SQuAD: {"text": [...], "answer_start": [...]}
        if "text" not in value:
            raise Unusable(f"'{field}' is an object without 'text'")
        value = value["text"]
    if isinstance(value, list):
        if not value:
            return None
        first = value[0]
        if isinstance(first, Mapping) and "text" not in first:
            raise Unusable(f"'{field}' is not a list of messages with role and content")
        value = first["text"] if isinstance(first, Mapping) else first
    return checked_text(value, field)


def _label_text(value: object, field: str) -> str | None:
    if isinstance(value, list):
        if len(value) > 1:
            raise Unusable(f"'{field}' holds {len(value)} labels where one was expected")
        value = value[0] if value else None
    text = (checked_text(value, field) or "").strip()
    # SNLI's annotators did not agree there.
    is_open = text == "-" and field.strip().lower() == "gold_label"
    return None if is_open or not text else text


def _unit_tests(record: Mapping[str, object], fields: Fields) -> tuple[str, ...]:
    """What is run after an answer that is code, in order; nothing where the field holds no code."""
    if not fields.tests:
        return ()
    value, setup, name = (record.get(field) for field in fields.tests)
    tests = [test for test in (value if isinstance(value, list) else [value]) if test]
    if not all(isinstance(test, str) for test in tests):
        return ()
    code = [str(test) for test in ([setup] if isinstance(setup, str) and setup else []) + tests]
    together = "\n".join(code)
    if "assert" not in together:
        return ()
    # HumanEval's tests are a function that is given the one to be tested.
    if isinstance(name, str) and name.isidentifier() and "def check(" in together:
        code.append(f"check({name})")
    return tuple(code)
