"""What else a file holds of the prompt: system text, earlier turns, tools, further texts.

None of it may be lost without a word: it is placed by a rule of docs/data.md, or asked for.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from adapt_lora.data.chats import Turn, find_messages, read_turns
from adapt_lora.data.shapes import Shape, first_of, is_chat
from adapt_lora.data.table import Table
from adapt_lora.data.values import Unusable, checked_text, json_text, nested_value, scalar_text
from adapt_lora.errors import DatasetError

_SYSTEM = ("system", "system_prompt", "system_message", "system_instruction", "sys_prompt")
_HISTORY = ("history", "chat_history", "conversation_history")
_TOOLS = ("tools", "functions", "available_tools")
# What to do stands before what it is done to; the three of the shapes among them.
_ORDERS = ("prompt", "instruction", "instructions", "definition", "task_definition")
_PASSAGES = (
    *("context", "passage", "story", "document", "paragraph", "article", "dialogue", "input"),
)
_PASSAGES_OF_CHATS = _PASSAGES[:6]
# What a label may be about, beside a text that says more.
_MATTERS = (
    *("word", "target", "aspect", "aspect_term", "term", "entity", "claim"),
    *("span1_text", "span2_text"),
)
_SECONDS = ("sentence2", "text2", "text_2", "text_b", "text_pair", "sentence_b", "hypothesis")
# The text that an order is about.
_TEXTS = ("text", "sentence", "content", "body", "review", "comment", "message", "question")
_LISTS = ("documents", "passages", "contexts", "paragraphs", "articles")
# Part of the prompt as often as not.
_DOUBTFUL = (
    *("query", "text", "sentence", "content", "body", "question", "background", "evidence"),
    *("support", "knowledge", "persona", "facts", "claim", *_LISTS, *_ORDERS),
)
_ROWS_TO_JUDGE_BY = 1000


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The fields around a prompt, in the file's own spelling."""

    system: str | None = None
    """The one with the system's text."""
    tools: str | None = None
    """The one that lists the tools that may be called."""
    history: str | None = None
    """The one with earlier turns."""
    before: tuple[str, ...] = ()
    """Those that stand before the prompt's own fields."""
    after: tuple[str, ...] = ()
    """Those that stand after them."""

    @property
    def turns(self) -> tuple[str, ...]:
        """The fields that become turns before the prompt."""
        return tuple(filter(None, (self.system, self.tools, self.history)))


NO_SURROUNDINGS = Surroundings()
"""Of a prompt that stands alone."""


def find_surroundings(
    table: Table,
    shape: Shape,
    free: Mapping[str, str],
    *,
    response: str | None,
    label: str | None,
    shown: str,
) -> Surroundings:
    """The further fields that belong to the prompt.

    Args:
        table: The file's records.
        shape: How the rows say their prompt.
        free: Fields that play no role yet, by their names in lower case.
        response: The field that holds the response.
        label: The field that holds the label.
        shown: What messages call the file.

    Raises:
        DatasetError: A text may belong to the prompt, and whether it does can't be told.
    """
    base = shape.prompt
    there = {
        name: field
        for name, field in free.items()
        if _says_more(table, field, base)
        # The name or number of a document is none.
        and (name not in _PASSAGES[1:-1] or _has_sentences(table, field))
    }
    found = _fields_of_turns(there)
    holds_chats = shape.is_chat or _is_chat_in(table, base[0])
    # "system" may be which system wrote the row: a prompt has more than one word.
    if found.system and not holds_chats and not _has_sentences(table, found.system):
        found = replace(found, system=None)
    rest = {name: field for name, field in there.items() if field not in found.turns}
    if holds_chats:
        lost = first_of((*_ORDERS[1:], *_PASSAGES_OF_CHATS), rest)
        if lost:
            raise _refuse_beside_chat(lost, base[0], shown)
        return found
    is_order = base[0].strip().lower() in ("prompt", "instruction")
    is_judged = label is not None and response is None
    places = {name: "before" for name in (() if is_order else (*_ORDERS[1:], *_PASSAGES))}
    places |= {name: "after" for name in ((*_PASSAGES, *_TEXTS) if is_order else ())}
    places |= {name: "after" for name in (_SECONDS if is_judged else ())}
    placed = {where: _placed(places, where, rest) for where in ("before", "after")}
    if is_judged:
        # They may well be words of the text.
        matters = [free[name] for name in _MATTERS if name in free]
        placed["after"] += [f for f in matters if not _is_same(table, f, label or "")]
    placed["before"] = [field for field in placed["before"] if field not in placed["after"]]
    used = (*placed["before"], *placed["after"])
    others = {name: f for name, f in rest.items() if f not in used and _has_sentences(table, f)}
    doubtful = first_of(_DOUBTFUL, others)
    lists = next((f for f in (*used, *filter(None, [doubtful])) if _holds_lists(table, f)), None)
    if lists:
        raise _refuse_lists(lists, base, response, shown)
    if doubtful:
        raise refuse_doubt(doubtful, base, response, shown, is_judged=is_judged)
    return replace(found, before=tuple(placed["before"]), after=tuple(placed["after"]))


def refuse_doubt(
    field: str,
    base: Sequence[str],
    answer: str | None,
    shown: str,
    *,
    is_judged: bool = False,
) -> DatasetError:
    """The error of a text that may belong to the prompt; without another answer it may be one."""
    prompt = "+".join(base)
    told = f",response={answer}" if answer else ""
    ways = [
        (f"prompt={field}+{prompt}{told}", "to join them"),
        (f"prompt={prompt}{told}", "to leave it out"),
    ]
    if answer is None and not is_judged:
        ways.append((f"prompt={prompt},response={field}", "if it is the answer"))
    said = [f"--map {shlex.quote(mapping)} {meaning}" for mapping, meaning in ways]
    return DatasetError(
        f"{shown}: whether '{field}' belongs to the prompt, beside '{prompt}', can't be told. "
        f"Say {', '.join(said[:-1])}, or {said[-1]}."
    )


def is_order(field: str) -> bool:
    """Whether a field says what to do, so that the texts below it need no names."""
    return field.strip().lower() in _ORDERS


def chat_of_mapping(fields: Sequence[str]) -> Surroundings | None:
    """The roles in a mapped chat with fields around it: "system+messages"; None for any other."""
    chat = next((field for field in fields if is_chat(field)), None)
    rest = {field.strip().lower(): field for field in fields if field != chat}
    found = _fields_of_turns(rest)
    return found if chat and len(found.turns) == len(rest) else None


def refuse_joined_chat(table: Table, prompt: Sequence[str], shown: str) -> None:
    """Nothing where no field that is joined to others holds chats.

    Raises:
        DatasetError: One does: only its system's text, tools and history can stand beside it.
    """
    chat = next((field for field in prompt if _is_chat_in(table, field)), None)
    if chat:
        other = next(field for field in prompt if field != chat)
        raise _refuse_beside_chat(other, chat, shown)


def read_surroundings(record: Mapping[str, object], around: Surroundings) -> list[Turn]:
    """The turns before a row's prompt.

    Raises:
        Unusable: They are no texts, or no turns.
    """
    turns: list[Turn] = []
    if around.system:
        text = checked_text(record.get(around.system), around.system)
        turns += [Turn("system", text)] if text else []
    if around.tools:
        value = record.get(around.tools)
        text = json_text(value) if value and not isinstance(value, str) else scalar_text(value)
        has_tools = text is not None and text.strip() not in ("", "[]", "{}")
        turns += [Turn("system", f"Tools: {text}")] if has_tools else []
    if around.history:
        turns += _earlier_turns(record.get(around.history), around.history)
    return turns


def _fields_of_turns(there: Mapping[str, str]) -> Surroundings:
    return Surroundings(
        first_of(_SYSTEM, there), first_of(_TOOLS, there), first_of(_HISTORY, there)
    )


def _earlier_turns(value: object, field: str) -> Iterator[Turn]:
    """Turns of messages, of LLaMA-Factory's [[question, answer], ...], or of text as it is."""
    if isinstance(value, str):
        nested = nested_value(value)
        if nested is None:
            text = checked_text(value, field)
            yield from [Turn("system", f"History: {text}")] if text else []
            return
        value = nested
    messages = find_messages(value)
    if messages is not None:
        yield from read_turns(messages, field)
        return
    for pair in value if isinstance(value, list) else []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Unusable(f"'{field}' is not a list of pairs or messages")
        for role, said in zip(("user", "assistant"), pair, strict=True):
            yield Turn(role, checked_text(said, field) or "")


def _says_more(table: Table, field: str, base: Sequence[str]) -> bool:
    """Whether a field says anything that the prompt does not, and is no rendering of it."""
    texts, inside, around = 0, 0, 0
    for _, record in table.records[:_ROWS_TO_JUDGE_BY]:
        value = record.get(field)
        text = _plain(value)
        if not text or text in ("[]", "{}"):
            continue
        prompts = [said for part in base if (said := _plain(record.get(part)))]
        texts += 1
        inside += any(text in said or json.dumps(text)[1:-1] in said for said in prompts)
        around += bool(prompts) and all(said in text for said in prompts)
    return texts > 0 and max(inside, around) < 0.9 * texts


def _is_same(table: Table, field: str, label: str) -> bool:
    """Whether a field says what the label says, in a code of its own."""
    pairs = {(str(record.get(field)), str(record.get(label))) for _, record in table.records}
    n_each = {len({pair[0] for pair in pairs}), len({pair[1] for pair in pairs})}
    return len(pairs) > 1 and n_each == {len(pairs)}


def _plain(value: object) -> str:
    said = json_text(value) if isinstance(value, list | Mapping) else scalar_text(value) or ""
    return " ".join(said.split())


def _is_chat_in(table: Table, field: str) -> bool:
    first = next((value for value in table.values(field) if value), None)
    return find_messages(first) is not None


def _has_sentences(table: Table, field: str) -> bool:
    return any(len(_plain(value).split()) > 1 for value in table.values(field))


def _holds_lists(table: Table, field: str) -> bool:
    return any(isinstance(value, list | Mapping) and value for value in table.values(field))


def _placed(places: Mapping[str, str], where: str, rest: Mapping[str, str]) -> list[str]:
    fields = [rest[name] for name, side in places.items() if side == where and name in rest]
    return list(dict.fromkeys(fields))


def _refuse_lists(
    field: str, base: Sequence[str], response: str | None, shown: str
) -> DatasetError:
    mapping = f"prompt={'+'.join(base)}" + (f",response={response}" if response else "")
    return DatasetError(
        f"{shown}: '{field}' may belong to the prompt, beside '{'+'.join(base)}', but holds lists "
        f"or objects. Write it as text, or say --map {shlex.quote(mapping)} to leave it out."
    )


def _refuse_beside_chat(field: str, chat: str, shown: str) -> DatasetError:
    return DatasetError(
        f"{shown}: '{field}' may belong to the prompt, but is no turn of the chats in '{chat}'. "
        f"Write it into a message, or say --map {shlex.quote(f'prompt={chat}')} to leave it out."
    )
