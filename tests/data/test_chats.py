import pytest

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


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "narrator", "content": "x"}, "unknown role 'narrator'"),
        ("hi", "not a list of messages"),
        ({"role": "user", "content": [{"type": "image"}]}, "parts that are not text"),
        ({"role": "assistant", "content": "x"}, "no text before the answer"),
    ],
)
def test_a_bad_chat_is_skipped_and_named(tmp_path, message, words):
    good = {"messages": [USER, ASSISTANT]}
    dataset = read_records(tmp_path, good, {"messages": [message]}, good)
    assert words in dataset.skipped[0].reason
