"""The shapes that rows come in: which names of fields make a prompt, an answer, a label."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adapt_lora.data.table import Table

# What tests of prompts call the right answer (OpenAI's evals, promptfoo), and what others do.
_EXPECTED = "ideal expected_output expected __expected"
_RIGHT = "best_answer correct_answer gold_answer ground_truth solution reply"
_ANSWERS = f"answers answer response output {_RIGHT}"
# Prompt fields ("+" joins them, "?" marks one that may be absent), then the fields that may hold
# the response, in order of preference. Of the shapes that fit, one with a response wins over one
# with a label, that over a bare prompt; then the one that fits the most rows; then the first here.
_SHAPES: tuple[tuple[str, str], ...] = (
    ("prompt", f"response completion answer output target chosen {_EXPECTED} {_RIGHT}"),
    ("messages", ""),
    ("conversations", ""),
    ("conversation", ""),
    ("contents", ""),
    ("instruction+input?+context?", f"output response completion answer target {_EXPECTED}"),
    ("context+question", _ANSWERS),
    ("article+question", _ANSWERS),
    ("passage+question", _ANSWERS),
    ("context+query", _ANSWERS),
    ("premise+question", ""),
    ("premise+hypothesis", ""),
    ("sentence1+sentence2", ""),
    ("question1+question2", ""),
    ("claim+evidence", ""),
    ("question+sentence", ""),
    ("question", f"answers answer response output {_EXPECTED} {_RIGHT}"),
    ("query", f"response answers answer output {_EXPECTED} {_RIGHT}"),
    ("problem", "solution answer response output"),
    ("input", f"output target response completion answer {_EXPECTED} {_RIGHT}"),
    ("inputs", "targets outputs output"),
    ("text", "response completion output target summary answer reply"),
    ("sentence", ""),
    ("content", "response reply answer"),
    ("review", ""),
    ("utterance", "response reply answer"),
    ("tweet", ""),
    ("comment", ""),
    ("message", "response reply answer"),
    ("chat", ""),
    ("dialogue", "summary"),
    ("article", "summary highlights"),
    ("document", "summary"),
    ("source", "target"),
    ("question_stem", ""),
    ("ctx", ""),
    ("startphrase", ""),
    ("goal", ""),
    ("user", "assistant bot"),
    ("human", "assistant bot"),
)
# Beside anything else these name a person.
_SPEAKERS = ("user", "human")
_CHAT_FIELDS = ("messages", "conversations", "conversation", "contents")
# Shapes of an order or a question: what lies beside them says more often something of the row
# than what to answer.
_ASKING = ("prompt", "instruction", "question", "query", "problem", "input", "inputs")
_ORDERS = ("prompt", "instruction")
LABEL_FIELDS = ("label_text", "label_name", "label", "labels", "gold_label")
"""Names that hold a label and nothing else."""
# Beside a response these are remarks about the row ("category": "open_qa"), not what to answer.
_LONE_LABELS = ("intent", "sentiment", "class", "emotion", "stance", "polarity", "is_duplicate")
_RATINGS = ("stars", "rating", "target")
_DEGREES = ("score", "similarity", "similarity_score", "relatedness_score")
RESPONSE_FIELDS = ("response", "completion", "answer", "answers", "output", "target", "summary")
"""Names that may hold the response beside a prompt that people map."""
CHAT_RESPONSE_FIELDS = ("response", "completion", "answer", "output", "reply")
"""Names that may hold the response beside chats that end before it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How rows of one kind say prompt and response."""

    prompt: tuple[str, ...]
    """As in `Fields`."""
    optional: frozenset[str]
    """As in `Fields`."""
    responses: Sequence[str]
    """Names that may hold the response, lower case, best first."""

    @property
    def is_chat(self) -> bool:
        """Whether the prompt field is one for whole chats."""
        return is_chat(self.prompt[0])

    def labels(self, *, is_answered: bool) -> tuple[str, ...]:
        """Names that may hold the label, lower case, best first."""
        if is_answered:
            return LABEL_FIELDS
        names: tuple[str, ...] = (*LABEL_FIELDS, *_LONE_LABELS)
        base = self.prompt[0].strip().lower()
        # Of an order the category is mostly a remark; nobody asks a model for its own name.
        names += () if base in _ORDERS else ("category",)
        names += () if base in _ASKING or self.is_chat else _RATINGS
        return names + (_DEGREES if len(self.prompt) > 1 else ())


def names_of(there: Iterable[str]) -> dict[str, str]:
    """The file's spelling of each field by its name in lower case.

    "Correct Answer" and "correctAnswer" also go by "correct_answer".
    """
    fields = list(there)
    names: dict[str, str] = {}
    for plain in (str.lower, _snake):
        found = {plain(field): field for field in reversed(fields)}
        names |= {name: found[name] for name in reversed(found) if name not in names}
    return names


def first_of(names: Iterable[str], there: Mapping[str, str]) -> str | None:
    """The file's spelling of the first of the names that it has."""
    return next((there[name] for name in names if name in there), None)


def is_chat(field: str) -> bool:
    """Whether a field's name says that it holds whole chats."""
    return field.strip().lower() in _CHAT_FIELDS


def fitting_shape(
    table: Table, by_lower: Mapping[str, str], mapping: Mapping[str, str]
) -> Shape | None:
    """The shape that fits best; None where none does.

    Args:
        table: The file's records.
        by_lower: Its fields, as `names_of` gives them.
        mapping: Role to field, where people say it.
    """
    has_response = bool(mapping.get("response"))
    lone = (*LABEL_FIELDS, *_LONE_LABELS, "category", *_RATINGS)
    has_label = bool(mapping.get("label")) or first_of(lone, by_lower) is not None
    best: Shape | None = None
    best_fit = (-1, 0)
    for spec, response_names in _SHAPES:
        parts = spec.split("+")
        needed = [by_lower.get(part, "") for part in parts if not part.endswith("?")]
        names = response_names.split()
        is_named = spec in _SPEAKERS and first_of(names, by_lower) is None
        if "" in needed or is_named:
            continue
        is_answered = has_response or spec in _CHAT_FIELDS or first_of(names, by_lower) is not None
        fit = (
            2 if is_answered else int(has_label),
            min(map(table.field_counts.__getitem__, needed)),
        )
        if fit > best_fit:
            optional = [by_lower.get(part[:-1], "") for part in parts if part.endswith("?")]
            extra = [field for field in optional if field]
            best, best_fit = Shape((*needed, *extra), frozenset(extra), names), fit
    return best


def _snake(field: str) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", field.strip())
    return re.sub(r"[\s-]+", "_", words).lower()
