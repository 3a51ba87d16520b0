"""Chats as text: whose turn it is, what comes before the last answer, and that answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adapt_lora.data.values import Unusable, checked_text, listed

_ROLE_OF = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One message."""

    role: str
    """Who speaks: "user", "assistant", "system" or "tool"."""
    text: str
    """What is said; never blank."""


def read_turns(messages: Sequence[object], field: str) -> list[Turn]:
    """The messages of a list of {role, content} or {from, value}; those without text left out.

    Raises:
        Unusable: Not such a list, a role that is not known, or a part that is not text.
    """
    turns = []
    for message in messages:
        if not isinstance(message, Mapping):
            raise Unusable(f"'{field}' is not a list of messages with role and content")
        said = str(message.get("role") or message.get("from") or "")
        role = _ROLE_OF.get(said.lower())
        if role is None:
            raise Unusable(f"'{field}' has a message with the unknown role {listed([said])!r}")
        content = message.get("content", message.get("value"))
        if isinstance(content, list):  # [{"type": "text", "text": ...}]
            parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
            if not all(isinstance(part, str) for part in parts):
                raise Unusable(f"'{field}' has a message with parts that are not text")
            content = "\n".join(map(str, parts))
        text = checked_text(content, field)
        if text is not None:
            turns.append(Turn(role, text.strip()))
    return turns


def split_chat(turns: Sequence[Turn]) -> tuple[str, str | None]:
    """What precedes the last assistant turn, and that turn; later turns are dropped."""
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers:
        return render_chat(turns), None
    return render_chat(turns[: answers[-1]]), turns[answers[-1]].text


def render_chat(turns: Sequence[Turn]) -> str:
    """System text and a single user turn bare; from two turns on, each with its speaker's name."""
    system = [turn.text for turn in turns if turn.role == "system"]
    talk = [turn for turn in turns if turn.role != "system"]
    if len(talk) == 1 and talk[0].role == "user":
        return "\n\n".join([*system, talk[0].text])
    return "\n\n".join([*system, *(f"{turn.role.capitalize()}: {turn.text}" for turn in talk)])
