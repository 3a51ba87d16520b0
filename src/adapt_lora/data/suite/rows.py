"""Records of a source as rows: our prompt, the answer and the label."""

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from adapt_lora.data.dataset import Row
from adapt_lora.data.suite.definitions import SuiteTask
from adapt_lora.data.suite.formats import Record

_PLACEHOLDER = re.compile(r"\{([\w.]+)\}")
_LETTERS = "ABCDEFGHIJ"


class _NoRowError(Exception):
    """A record lacks what the definition needs: a blank line, a footer, a row of another kind."""


def build_rows(task: SuiteTask, records: Iterable[Record]) -> Iterator[Row]:
    """A row of each record that has all fields; what has not is left out."""
    for number, record in enumerate(records, start=1):
        try:
            yield _row(task, record, number)
        except _NoRowError:
            continue


def _row(task: SuiteTask, record: Record, number: int) -> Row:
    record = _extracted(task, record)
    options = _options(task, record)
    letters = _LETTERS[: len(options)]
    lettered = [f"{letter}. {text}" for letter, text in zip(letters, options, strict=True)]
    extra = {
        "labels": ", ".join(task.labels),
        "letters": ", ".join(letters),
        "options": "\n".join(lettered),
    }
    try:
        extra["optional"] = _filled(task, task.optional, record, {})
    except _NoRowError:
        extra["optional"] = ""
    prompt = _filled(task, task.prompt, record, extra)
    label = _label(task, record) if task.label else None
    response = _text(task, _value(record, task.response)) if task.response else label
    return Row(prompt, response, label, number, _tests(task, record))


def _extracted(task: SuiteTask, record: Record) -> Record:
    """The record with the fields that regular expressions find in others."""
    found: dict[str, Any] = {}
    for field, pattern in (task.extract or {}).items():
        match = re.fullmatch(pattern, str(_value(record, field)).strip())
        if match is None:
            raise _NoRowError
        found.update(match.groupdict())
    return {**record, **found}


def _filled(task: SuiteTask, template: str, record: Record, extra: dict[str, str]) -> str:
    """The template with its fields; what stands in a text is never taken for a field."""

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        return extra[name] if name in extra else _text(task, _value(record, name))

    return _PLACEHOLDER.sub(fill, template)


def _label(task: SuiteTask, record: Record) -> str:
    said = str(_value(record, task.label)).strip()
    label = said if task.classes is None else task.classes.get(said)
    if label is None or label not in task.labels:
        raise _NoRowError
    return label


def _options(task: SuiteTask, record: Record) -> list[str]:
    """Texts of the options; lists are taken apart, and so is a text that holds all of them."""
    if not task.options:
        return []
    values = [_value(record, field) for field in task.options]
    if len(values) == 1 and isinstance(values[0], list):
        values = [each["text"] if isinstance(each, dict) else each for each in values[0]]
        texts = [re.sub(task.option_mark, "", str(value), count=1) for value in values]
    elif task.option_mark:
        texts = re.split(task.option_mark, str(values[0]))
    else:
        texts = [str(value) for value in values]
    return [_text(task, text) for text in texts]


def _tests(task: SuiteTask, record: Record) -> tuple[str, ...]:
    code: list[str] = []
    for field in task.tests:
        value = _value(record, field, may_be_empty=True)
        code.extend(value if isinstance(value, list) else [value])
    return tuple(each for each in code if each)


def _value(record: Record, field: str, *, may_be_empty: bool = False) -> Any:
    """A field's value, of a nested one by a dotted name."""
    value: Any = record
    for part in field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if not may_be_empty and value in (None, "", []):
        raise _NoRowError
    return value


def _text(task: SuiteTask, value: Any) -> str:
    """A value as it stands in a prompt or an answer, cleaned as the definition says."""
    lines: Sequence[Any] = value if isinstance(value, list) else [value]
    text = "\n".join(str(line) for line in lines).replace("\r\n", "\n")
    if task.unescape:
        text = html.unescape(text)
    for pattern, instead in task.replace:
        text = re.sub(pattern, instead, text)
    if not task.keep_spaces:
        text = re.sub(r"[ \t\xa0]+", " ", text)
    if not text.strip():
        raise _NoRowError
    return text.strip()
