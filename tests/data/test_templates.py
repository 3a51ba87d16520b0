"""Chats that a trainer's template made one text of."""

import pytest

from tests.data.conftest import read_records, texts

WRITTEN = {
    # the text, (prompt, response)
    "ChatML": (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\nhello<|im_end|>\n",
        ("Be kind.\n\nhi", "hello"),
    ),
    "Llama 3": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nhello<|eot_id|>",
        ("hi", "hello"),
    ),
    "Llama 2": (
        "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\na [/INST] b </s><s>[INST] hi [/INST] hello </s>",
        ("Be kind.\n\nUser: a\n\nAssistant: b\n\nUser: hi", "hello"),
    ),
    "Gemma": (
        "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\nhello<end_of_turn>\n",
        ("hi", "hello"),
    ),
    "Zephyr or Phi": ("<|user|>\nhi</s>\n<|assistant|>\nhello</s>\n", ("hi", "hello")),
    "Alpaca": (
        "Below is a task.\n\n### Instruction:\nAdd.\n\n### Input:\n1 1\n\n### Response:\n2",
        ("Below is a task.\n\nAdd.\n\n1 1", "2"),
    ),
    "Guanaco": ("### Human: hi### Assistant: hello", ("hi", "hello")),
    "Vicuna": ("A chat. USER: hi ASSISTANT: hello</s>", ("A chat.\n\nhi", "hello")),
    "User and Assistant": ("User: hi\nAssistant: hello\nworld", ("hi", "hello\nworld")),
}


@pytest.mark.parametrize("case", WRITTEN)
@pytest.mark.parametrize("field", ["text", "conversation"])
def test_the_last_answer_of_a_written_chat_is_the_response(tmp_path, case, field):
    text, expected = WRITTEN[case]
    dataset = read_records(tmp_path, {field: text}, {field: text})
    assert texts(dataset) == [(*expected, None)] * 2
    assert f"'{field}' holds chats in the template of {case}: the last" in dataset.notes[0]
    assert dataset.mapping == {"prompt": field, "response": field}


@pytest.mark.parametrize(
    "text",
    [
        "### Instruction:\nAdd.\n\n### Response:\n",
        "Question: a\nAnswer: b\n\nQuestion: c\nAnswer:",
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        "My User: he said hi",
    ],
)
def test_a_prompt_that_waits_for_its_answer_stays_as_it_is(tmp_path, text):
    assert texts(read_records(tmp_path, {"prompt": text})) == [(text, None, None)]


def test_a_written_chat_that_is_judged_as_a_whole_stays_as_it_is(tmp_path):
    text = WRITTEN["ChatML"][0]
    assert texts(read_records(tmp_path, {"text": text, "label": "rude"})) == [
        (text, "rude", "rude")
    ]


def test_a_row_outside_the_template_is_skipped_and_named(tmp_path):
    rows = [{"text": WRITTEN["Alpaca"][0]}] * 30
    dataset = read_records(tmp_path, *rows, {"text": "Once upon a time"})
    assert dataset.skipped[0].reason == "'text' is not in the template of Alpaca"
