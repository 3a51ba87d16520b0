"""Chats as text: whose turn it is, what comes before the last answer, and that answer."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adapt_lora.data.values import Unusable, checked_text, json_text, listed, nested_value

ROLE_OF = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
"""Whose turn it is, by what files call the speaker."""
_ROLE_KEYS = ("role", "from")
_TEXT_KEYS = ("content", "value", "text", "parts")
_CALL_KEYS = ("tool_calls", "function_call")
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
# A question and its answer in one object, as XTuner and others write them.
_EXCHANGES = (
    ("input", "output"),
    ("human", "assistant"),
    ("user", "assistant"),
    ("human", "gpt"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("question", "answer"),
)
# The form of Anthropic's preference data: blank lines before "Human: ..." and "Assistant: ...".
_TRANSCRIPT_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")


@dataclass(frozen=True, slots=True)
class Turn:
    """One message."""

    role: str
    """Who speaks: "user", "assistant", "system" or "tool"."""
    text: str
    """What is said, tool calls as JSON; blank only where an assistant says nothing."""


def find_messages(value: object) -> list[object] | None:
    """The messages of a chat, however a file holds them; None where the value is no chat.

    A list; an object around one, or of two lists (`datasets` turns lists of objects inside out);
    text that spells one of these in JSON, where each message has both its speaker and its words.
    """
    if not isinstance(value, str):
        return _messages(value, is_text=False)
    is_likely = any(key in value for key in _ROLE_KEYS)
    return _messages(nested_value(value), is_text=True) if is_likely else None


def _messages(value: object, *, is_text: bool) -> list[object] | None:
    if isinstance(value, Mapping):
        around = next((value[key] for key in ("messages", "conversations") if key in value), None)
        if around is not None:
            return _messages(around, is_text=is_text)
        lists = {key: item for key, item in value.items() if isinstance(item, list)}
        if _is_message(lists, is_text=is_text) and len({*map(len, lists.values())}) == 1:
            return [
                dict(zip(lists, items, strict=True)) for items in zip(*lists.values(), strict=True)
            ]
        return [value] if _is_message(value, is_text=is_text) else None
    if isinstance(value, list) and value:
        judged = value if is_text else value[:1]
        return value if all(_is_message(item, is_text=is_text) for item in judged) else None
    return None


def _is_message(value: object, *, is_text: bool) -> bool:
    """Whether an object has a speaker and words; JSON may hold "from" and "role" of all kinds."""
    if not isinstance(value, Mapping):
        return False
    if is_text:
        return ("role" in value and not {"content", *_CALL_KEYS}.isdisjoint(value)) or (
            "from" in value and "value" in value
        )
    words = {*_TEXT_KEYS, *_CALL_KEYS, *_REASONING_KEYS, "refusal"}
    return not words.isdisjoint(value) and any(key in value for key in _ROLE_KEYS)


def find_reasoning(values: Iterable[object]) -> str | None:
    """The field of messages that holds reasoning apart from what is said; None without one."""
    for value in values:
        for message in find_messages(value) or ():
            said = message if isinstance(message, Mapping) else {}
            found = next((key for key in _REASONING_KEYS if said.get(key)), None)
            if found:
                return found
    return None


def ends_with_answer(value: object) -> bool:
    """Whether the assistant has the last word in a chat that has any."""
    messages = find_messages(value) or (value if isinstance(value, list) else None)
    last = messages[-1] if messages else None
    if not isinstance(last, Mapping):
        return False
    said = next((str(last[key]) for key in (*_ROLE_KEYS, "type") if last.get(key)), "")
    return ROLE_OF.get(said.lower().replace("-", "_")) == "assistant" or not said


def read_turns(messages: Sequence[object], field: str) -> list[Turn]:
    """The messages of a list of {role, content} or {from, value}; those that say nothing left out.

    Raises:
        Unusable: Not such a list, a role that is not known, a part that is not text, or an answer
            that is marked as not to be learnt.
    """
    turns: list[Turn] = []
    marked = False
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise Unusable(f"'{field}' is not a list of messages with role and content")
        exchange = _exchange(message, field)
        if exchange:
            turns += exchange
            continue
        role = _role(message, messages[index + 1 :], field)
        text, role = _said(message, role, field)
        if role == "assistant":
            marked = str(message.get("weight")) == "0" or message.get("train") is False
        if text or role == "assistant":
            turns.append(Turn(role, text))
    if marked:
        raise Unusable(f"the last answer in '{field}' is marked as not to be learnt")
    return turns


def read_transcript(text: str) -> list[Turn] | None:
    """The turns of "Human: ...", a blank line, "Assistant: ..."; None where the text is none."""
    first = _TRANSCRIPT_TURN.match(text)
    if first is None or first[1] != "Human":
        return None
    _, *parts = _TRANSCRIPT_TURN.split(text)
    return [
        Turn(ROLE_OF[speaker.lower()], said.strip())
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def split_chat(turns: Sequence[Turn]) -> tuple[str, str | None]:
    """What precedes the last assistant turn, and that turn; later turns are dropped.

    An assistant that says nothing there gave no answer: no earlier turn stands in for it.
    """
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers:
        return render_chat(turns), None
    return render_chat(turns[: answers[-1]]), turns[answers[-1]].text or None


def render_chat(turns: Sequence[Turn]) -> str:
    """System text and a single user turn bare; from two turns on, each with its speaker's name."""
    system = [turn.text for turn in turns if turn.role == "system"]
    talk = [turn for turn in turns if turn.role != "system" and turn.text]
    if len(talk) == 1 and talk[0].role == "user":
        return "\n\n".join([*system, talk[0].text])
    return "\n\n".join([*system, *(f"{turn.role.capitalize()}: {turn.text}" for turn in talk)])


def _exchange(message: Mapping[str, object], field: str) -> list[Turn]:
    """The turns of {"system": ..., "input": ..., "output": ...} and its kin; none for others."""
    pair = next((pair for pair in _EXCHANGES if pair[0] in message and pair[1] in message), None)
    if pair is None or any(key in message for key in (*_ROLE_KEYS, "content")):
        return []
    keys = (("system", "system"), ("user", pair[0]), ("assistant", pair[1]))
    said = [(role, checked_text(message.get(key), field)) for role, key in keys]
    return [Turn(role, text or "") for role, text in said if text or role == "assistant"]


def _role(message: Mapping[str, object], later: Sequence[object], field: str) -> str:
    keys = (*_ROLE_KEYS, "type") if "content" in message else _ROLE_KEYS  # "type" is LangChain's
    said = next((str(message[key]) for key in keys if message.get(key)), "")
    if not said:
        found = listed(map(str, message))
        raise Unusable(f"'{field}' has a message without role and content (found: {found})")
    role = ROLE_OF.get(said.lower().replace("-", "_"))
    if role is None:
        raise Unusable(f"'{field}' has a message with the unknown role {listed([said])!r}")
    if said.lower() == "function" and "role" not in message:
        # ShareGPT's "function" is a call where its result follows; OpenAI's is the result.
        following = later[0] if later else None
        if following is None:
            raise Unusable(f"'{field}' ends with a 'function' turn: a call or its result?")
        if isinstance(following, Mapping) and following.get("from") == "observation":
            return "assistant"
    return role


def _said(message: Mapping[str, object], role: str, field: str) -> tuple[str, str]:
    """What a message says, its tool calls as JSON a line each; and whose words these are."""
    content = next((message[key] for key in _TEXT_KEYS if message.get(key) is not None), None)
    if content is None:
        content = message.get("refusal")
    calls = [_call_text(call) for call in _calls(message)]
    if isinstance(content, list) and not all(isinstance(part, str) for part in content):
        parts = [part if isinstance(part, Mapping) else {"text": part} for part in content]
        kinds = {part.get("type") for part in parts}
        if kinds == {"tool_result"}:
            role = "tool"
        calls += [_call_text(part) for part in parts if part.get("type") == "tool_use"]
        content = [_part_text(part, field) for part in parts if part.get("type") != "tool_use"]
    if isinstance(content, list):
        content = "\n".join(map(str, content))
    elif isinstance(content, Mapping) and role in ("tool", "assistant"):
        content = json_text(content)
    text = checked_text(content, field) or ""
    return "\n".join(filter(None, [text.strip(), *calls])), role


def _part_text(part: Mapping[str, object], field: str) -> str:
    """The text of a part such as {"type": "text", "text": ...}."""
    text = next((part[key] for key in ("text", "refusal") if part.get(key) is not None), None)
    if text is None and part.get("type") == "tool_result":
        inner = part.get("content")
        text = inner if isinstance(inner, str) or inner is None else json_text(inner)
    if not isinstance(text, str):
        raise Unusable(f"'{field}' has a message with parts that are not text")
    return text


def _calls(message: Mapping[str, object]) -> list[object]:
    calls = message.get("tool_calls") or message.get("function_call") or []
    if isinstance(calls, str):
        calls = nested_value(calls) or calls
    return calls if isinstance(calls, list) else [calls]


def _call_text(call: object) -> str:
    """A tool call as {"name": ..., "arguments": ...}, in whichever API's words it is given."""
    if not isinstance(call, Mapping):
        return str(call)
    inner = call.get("function")
    said = inner if isinstance(inner, Mapping) else call
    words = ("arguments", "input", "args")
    arguments: object = next((said[word] for word in words if said.get(word)), {})
    if isinstance(arguments, str):
        parsed = nested_value(arguments)
        arguments = arguments if parsed is None else parsed
    return json_text({"name": said.get("name"), "arguments": arguments})
