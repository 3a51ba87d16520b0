"""Chats written out as one text, in the templates that trainers make of them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from adapt_lora.data.chats import Turn

_ROLE_OF = {
    **dict.fromkeys(("user", "human", "instruction", "input", "question"), "user"),
    **dict.fromkeys(
        ("assistant", "model", "gpt", "response", "output", "answer", "ai"), "assistant"
    ),
    **dict.fromkeys(("bot", "chatgpt"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "ipython", "observation"), "tool"),
}
_SPEAKER = (
    r"(system|developer|user|human|assistant|model|gpt|chatgpt|bot|ai|tool|ipython|observation)"
)


@dataclass(frozen=True, slots=True)
class Template:
    """How one kind of template marks the turns of a chat."""

    name: str
    """What people call it."""
    opening: re.Pattern[str]
    """Where a turn begins; its group is the speaker."""
    closing: re.Pattern[str]
    """What stands around turns and is no part of them."""


def _template(name: str, opening: str, closing: str = r"</?s>") -> Template:
    return Template(name, re.compile(opening), re.compile(closing))


_TEMPLATES = (
    _template("ChatML", rf"<\|im_start\|>{_SPEAKER}\n?", r"<\|im_end\|>|<\|endoftext\|>|</?s>"),
    _template(
        "Llama 3",
        rf"<\|start_header_id\|>{_SPEAKER}<\|end_header_id\|>",
        r"<\|(eot_id|begin_of_text|end_of_text)\|>",
    ),
    _template("Gemma", rf"<start_of_turn>{_SPEAKER}\n?", r"<end_of_turn>|<bos>|<eos>"),
    _template("Zephyr or Phi", rf"<\|{_SPEAKER}\|>\n?", r"</?s>|<\|(end|endoftext)\|>"),
    _template(
        "Alpaca",
        r"(?im)^[ ]*#{2,3}[ ]*(instruction|input|question|response|output|answer)[ ]*:",
        r"</?s>|<\|endoftext\|>|<\|(begin|end)_of_text\|>",
    ),
    _template("Guanaco", rf"(?i)###[ ]*{_SPEAKER}[ ]*:", r"</?s>|<\|endoftext\|>"),
    _template("Vicuna", r"(?:^|(?<=[\s>]))(USER|ASSISTANT):", r"</?s>|<\|endoftext\|>"),
    _template(
        "User and Assistant",
        r"(?m)^(User|Human|Assistant|AI|Bot|System|Question|Answer):",
        r"</?s>",
    ),
)
_LLAMA_2 = re.compile(
    r"\s*(?:<s>)?\s*\[INST\](.*?)\[/INST\](.*?)(?=</s>|(?:<s>)?\s*\[INST\]|$)", re.S
)
_LLAMA_2_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL)
_LLAMA_2_END = re.compile(r"(?:\s*</s>)*\s*")
_ROWS_TO_JUDGE_BY = 200


def find_template(values: Iterable[object]) -> str | None:
    """The name of the template in which texts hold chats with an answer; None where they don't."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    found = [read_templated(text) for text in texts[:_ROWS_TO_JUDGE_BY]]
    last = [(name, turns[-1]) for name, turns in filter(None, found)]
    names = [name for name, turn in last if turn.role == "assistant" and turn.text]
    # A text that quotes a chat here and there is no template.
    if not names or 10 * len(names) < 9 * len(found):
        return None
    return max(dict.fromkeys(names), key=names.count)


def read_templated(text: str) -> tuple[str, list[Turn]] | None:
    """The template of a text and its turns, the assistant's among them; None where it has none.

    What stands before the first turn is the system's: "Below is an instruction ...".
    """
    if "[INST]" in text:
        llama_2 = _llama_2_turns(text)
        return ("Llama 2", llama_2) if llama_2 else None
    for template in _TEMPLATES:
        turns = _turns(text, template)
        if turns is not None:
            return template.name, turns
    return None


def _turns(text: str, template: Template) -> list[Turn] | None:
    marks = list(template.opening.finditer(text))
    if not marks or (template.name == "User and Assistant" and text[: marks[0].start()].strip()):
        return None
    turns = [Turn("system", said)] if (said := _clean(text[: marks[0].start()], template)) else []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=True):
        role, said = _ROLE_OF[mark[1].lower()], _clean(text[mark.end() : end], template)
        if turns and turns[-1].role == role and said:
            # The input below an instruction.
            turns[-1] = Turn(role, f"{turns[-1].text}\n\n{said}")
        elif said or role == "assistant":
            turns.append(Turn(role, said))
    roles = [turn.role for turn in turns if turn.role != "system"]
    is_chat = roles[:1] == ["user"] and "assistant" in roles
    return turns if is_chat and any(t.text for t in turns if t.role == "assistant") else None


def _llama_2_turns(text: str) -> list[Turn]:
    turns: list[Turn] = []
    position = 0
    while match := _LLAMA_2.match(text, position):
        said = match[1]
        system = _LLAMA_2_SYSTEM.match(said)
        if system:
            turns.append(Turn("system", system[1].strip()))
            said = said[system.end() :]
        turns += [Turn("user", said.strip()), Turn("assistant", match[2].strip())]
        end = _LLAMA_2_END.match(text, match.end())
        position = end.end() if end else match.end()
    is_answered = any(turn.text for turn in turns if turn.role == "assistant")
    return turns if is_answered and position == len(text) else []


def _clean(text: str, template: Template) -> str:
    return template.closing.sub("", text).strip()
