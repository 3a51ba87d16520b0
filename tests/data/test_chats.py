import json

import pytest

from adapt_lora.errors import DatasetError
from tests.data.conftest import ASSISTANT, USER, read_records, texts

CHATS = {
    # record, (prompt, response, label), shape
    "messages without an answer": ({"messages": [USER]}, ("hi", None, None), "messages"),
    "messages with a system turn": (
        {"messages": [{"role": "system", "content": "Be brief."}, USER, ASSISTANT]},
        ("Be brief.\n\nhi", "hello", None),
        "messages",
    ),
    "several turns: the last answer is the response": (
        {"messages": [USER, ASSISTANT, {"role": "user", "content": "bye"}, ASSISTANT, USER]},
        ("User: hi\n\nAssistant: hello\n\nUser: bye", "hello", None),
        "messages",
    ),
    "messages with content parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, ASSISTANT]},
        ("hi", "hello", None),
        "messages",
    ),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        ("hi", "hello", None),
        "conversations",
    ),
    "chats in prompt and completion": (
        {"prompt": [USER], "completion": [ASSISTANT]},
        ("hi", "hello", None),
        "prompt/completion",
    ),
}


@pytest.mark.parametrize("case", CHATS)
def test_a_chat_gives_its_last_answer_and_what_precedes_it(tmp_path, case):
    record, expected, shape = CHATS[case]
    dataset = read_records(tmp_path, record)
    assert texts(dataset) == [expected]
    assert dataset.shape == shape


TEXTS_THAT_ARE_NO_CHAT = [
    '{"from": "Oslo", "to": "Rome"}',
    '[{"from": "Oslo", "to": "Rome"}]',
    '{"role": "user", "action": "delete"}',
    '{"role": "assistant", "text": "kind", "age": 3}',
]


@pytest.mark.parametrize("text", TEXTS_THAT_ARE_NO_CHAT)
def test_json_without_speaker_and_words_stays_text(tmp_path, text):
    rows = [{"prompt": "p", "response": text}, {"prompt": text, "response": "r"}]
    assert texts(read_records(tmp_path, *rows)) == [("p", text, None), (text, "r", None)]


CHATS_OF_OTHERS = {
    "LangChain": [{"type": "human", "content": "hi"}, {"type": "ai", "content": "hello"}],
    "XTuner": [{"input": "hi", "output": "hello"}],
    "Vicuna": [{"human": "hi", "assistant": "hello"}],
    "Gemini": [
        {"role": "user", "parts": [{"text": "hi"}]},
        {"role": "model", "parts": [{"text": "hello"}]},
    ],
}


@pytest.mark.parametrize("case", CHATS_OF_OTHERS)
def test_chats_in_the_words_of_other_tools_are_read(tmp_path, case):
    for field in ("messages", "conversation", "contents"):
        dataset = read_records(tmp_path, {field: CHATS_OF_OTHERS[case]})
        assert texts(dataset) == [("hi", "hello", None)]


def test_a_system_text_above_an_exchange_is_kept(tmp_path):
    chat = [{"system": "Be kind.", "input": "a", "output": "b"}, {"input": "hi", "output": "hello"}]
    row = read_records(tmp_path, {"conversation": chat}).rows[0]
    assert row.prompt == "Be kind.\n\nUser: a\n\nAssistant: b\n\nUser: hi"
    assert row.response == "hello"


@pytest.mark.parametrize("field", ["answer", "response", "completion"])
def test_an_answer_beside_chats_that_end_before_it_is_the_response(tmp_path, field):
    dataset = read_records(tmp_path, {"messages": [USER], field: "hello"})
    assert texts(dataset) == [("hi", "hello", None)]


def test_reasoning_apart_from_what_is_said_is_named(tmp_path):
    dataset = read_records(tmp_path, {"messages": [USER, {**ASSISTANT, "thinking": "hm"}]})
    assert texts(dataset) == [("hi", "hello", None)]
    assert "the reasoning that messages hold apart ('thinking') is not used" in dataset.notes


@pytest.mark.parametrize("said", ["content", "text", "message"])
def test_rows_of_one_message_each_are_refused(tmp_path, said):
    rows = [{"chat_id": 1, "role": role, said: "hi"} for role in ("user", "assistant")]
    with pytest.raises(DatasetError, match="each row is one message of a chat"):
        read_records(tmp_path, *rows)


WEATHER = {"name": "weather", "arguments": '{"city": "Oslo", "days": 2}'}
CALL_TEXT = '{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}'
OPENAI_CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": WEATHER}]}
ANSWERS_THAT_ARE_CALLS = {
    "OpenAI": OPENAI_CALL,
    "OpenAI's older form": {"role": "assistant", "content": None, "function_call": WEATHER},
    "arguments as an object": {
        "role": "assistant",
        "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Oslo", "days": 2}}}],
    },
    "Anthropic": {
        "role": "assistant",
        "content": [{"type": "tool_use", "name": "weather", "input": {"city": "Oslo", "days": 2}}],
    },
    "ShareGPT": {"from": "function_call", "value": CALL_TEXT},
}


@pytest.mark.parametrize("case", ANSWERS_THAT_ARE_CALLS)
def test_a_tool_call_is_the_answer_and_no_earlier_turn_is(tmp_path, case):
    last = ANSWERS_THAT_ARE_CALLS[case]
    chat = {"messages": [USER, ASSISTANT, {"role": "user", "content": "go"}, last]}
    prompt = "User: hi\n\nAssistant: hello\n\nUser: go"
    assert texts(read_records(tmp_path, chat)) == [(prompt, CALL_TEXT, None)]


def test_a_tool_call_in_the_middle_stays_in_the_prompt(tmp_path):
    result = {"role": "tool", "content": "sunny"}
    row = read_records(tmp_path, {"messages": [USER, OPENAI_CALL, result, ASSISTANT]}).rows[0]
    assert row.prompt == f"User: hi\n\nAssistant: {CALL_TEXT}\n\nTool: sunny"
    assert row.response == "hello"


def test_what_is_said_beside_a_call_stands_before_it_and_each_call_has_its_line(tmp_path):
    calls = [{"function": WEATHER}, {"function": {"name": "time", "arguments": "{}"}}]
    last = {"role": "assistant", "content": "Let me look.", "tool_calls": calls}
    row = read_records(tmp_path, {"messages": [USER, last]}).rows[0]
    assert row.response == f'Let me look.\n{CALL_TEXT}\n{{"name": "time", "arguments": {{}}}}'


def test_a_last_answer_that_says_nothing_is_no_answer(tmp_path):
    silent = {"role": "assistant", "content": ""}
    chat = {"messages": [USER, ASSISTANT, {"role": "user", "content": "go"}, silent]}
    dataset = read_records(tmp_path, chat)
    assert texts(dataset) == [("User: hi\n\nAssistant: hello\n\nUser: go", None, None)]


def test_the_function_of_a_sharegpt_chat_is_a_call_where_its_result_follows(tmp_path):
    human, call = {"from": "human", "value": "hi"}, {"from": "function", "value": "f()"}
    result, answer = {"from": "observation", "value": "1"}, {"from": "gpt", "value": "one"}
    row = read_records(tmp_path, {"conversations": [human, call, result, answer]}).rows[0]
    assert row.prompt == "User: hi\n\nAssistant: f()\n\nTool: 1"


CHATS_HELD_OTHERWISE = {
    "JSON": {"messages": json.dumps([USER, ASSISTANT])},
    "JSON of ShareGPT": {
        "conversations": json.dumps(
            [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
        )
    },
    "Python": {"messages": repr([USER, ASSISTANT])},
    "JSON in JSON": {"messages": json.dumps(json.dumps([USER, ASSISTANT]))},
    "an object as JSON": {"messages": json.dumps({"messages": [USER, ASSISTANT]})},
    "an object": {"messages": {"messages": [USER, ASSISTANT]}},
    "inside out": {"messages": {"role": ["user", "assistant"], "content": ["hi", "hello"]}},
    "prompt and completion as JSON": {
        "prompt": json.dumps([USER]),
        "completion": json.dumps([ASSISTANT]),
    },
    "a text field": {"text": json.dumps([USER, ASSISTANT])},
}


@pytest.mark.parametrize("case", CHATS_HELD_OTHERWISE)
def test_a_chat_is_known_however_it_is_held(tmp_path, case):
    assert texts(read_records(tmp_path, CHATS_HELD_OTHERWISE[case])) == [("hi", "hello", None)]


def test_a_chat_as_text_that_is_judged_as_a_whole_stays_as_it_is(tmp_path):
    said = json.dumps([USER, ASSISTANT])
    assert texts(read_records(tmp_path, {"text": said, "label": "spam"})) == [
        (said, "spam", "spam")
    ]


def test_text_that_only_begins_like_a_chat_is_skipped_and_named(tmp_path):
    good = {"messages": [USER, ASSISTANT]}
    broken = {"messages": '[{"role": "user", "content"'}
    dataset = read_records(tmp_path, good, broken, allow_skips=True)
    assert "holds text that is no list of messages" in dataset.skipped[0].reason


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "narrator", "content": "x"}, "unknown role 'narrator'"),
        ("hi", "not a list of messages"),
        ({"role": "system", "content": "x"}, "holds a system text only"),
        ({"bob": "x"}, "a message without role and content (found: bob)"),
        ({"role": "user", "content": [{"type": "image"}]}, "parts that are not text"),
        ({"role": "assistant", "content": "x"}, "no text before the answer"),
        ({**ASSISTANT, "weight": 0}, "marked as not to be learnt"),
        ({"from": "function", "value": "f()"}, "a call or its result?"),
    ],
)
def test_a_bad_chat_is_skipped_and_named(tmp_path, message, words):
    good = {"messages": [USER, ASSISTANT]}
    dataset = read_records(tmp_path, good, {"messages": [message]}, good, allow_skips=True)
    assert words in dataset.skipped[0].reason
