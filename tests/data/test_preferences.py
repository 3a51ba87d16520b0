import json

import pytest

from adapt_lora.errors import DatasetError
from tests.data.conftest import ASSISTANT, USER, read_records, texts

NO = {"role": "assistant", "content": "no"}
HUMAN, GPT = {"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}
PAIRS = {
    # a row, (prompt, response), shape
    "TRL": ({"prompt": "hi", "chosen": "hello", "rejected": "no"}, "prompt/chosen"),
    "TRL, chats": (
        {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [NO]},
        "prompt/chosen",
    ),
    "TRL, implicit prompt": ({"chosen": [USER, ASSISTANT], "rejected": [USER, NO]}, "chosen"),
    "implicit prompt as JSON text": (
        {"chosen": json.dumps([USER, ASSISTANT]), "rejected": json.dumps([USER, NO])},
        "chosen",
    ),
    "hh-rlhf": (
        {
            "chosen": "\n\nHuman: hi\n\nAssistant: hello",
            "rejected": "\n\nHuman: hi\n\nAssistant: no",
        },
        "chosen",
    ),
    "ultrafeedback": (
        {
            "prompt": "hi",
            "chosen": [USER, ASSISTANT],
            "rejected": [USER, NO],
            "messages": [USER, ASSISTANT],
            "score_rejected": 2.0,
        },
        "prompt/chosen",
    ),
    "a chat with its answer beside whole dialogues": (
        {
            "messages": [USER, ASSISTANT],
            "chosen": [USER, ASSISTANT],
            "rejected": [USER, NO],
        },
        "chosen",
    ),
    "LLaMA-Factory, alpaca": (
        {"instruction": "hi", "input": "", "chosen": "hello", "rejected": "no"},
        "instruction/input/chosen",
    ),
    "LLaMA-Factory, ShareGPT": (
        {"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "no"}},
        "conversations/chosen",
    ),
    "orca": ({"question": "hi", "chosen": "hello", "rejected": "no"}, "question/chosen"),
    "Axolotl, argilla": (
        {"instruction": "hi", "chosen_response": "hello", "rejected_response": "no"},
        "instruction/chosen_response",
    ),
    "Axolotl, chat_template": (
        {"messages": [USER], "chosen": ASSISTANT, "rejected": NO},
        "messages/chosen",
    ),
    "OpenAI": (
        {
            "input": {"messages": [USER], "tools": []},
            "preferred_output": [ASSISTANT],
            "non_preferred_output": [NO],
        },
        "input/preferred_output",
    ),
}


@pytest.mark.parametrize("case", PAIRS)
def test_of_preference_pairs_the_better_answer_is_the_response(tmp_path, case):
    record, shape = PAIRS[case]
    dataset = read_records(tmp_path, record)
    assert texts(dataset) == [("hi", "hello", None)]
    assert dataset.shape == shape
    assert dataset.notes[0].startswith("preference pairs: the answers of '")
    assert dataset.mapping["response"] in record


def test_earlier_turns_of_a_preferred_dialogue_belong_to_the_prompt(tmp_path):
    said = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d\n\nand more"
    row = read_records(tmp_path, {"chosen": said, "rejected": said}).rows[0]
    assert (row.prompt, row.response) == ("User: a\n\nAssistant: b\n\nUser: c", "d\n\nand more")


def test_pairs_without_a_prompt_are_refused_without_advice_to_learn_the_worse(tmp_path):
    pair = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    with pytest.raises(DatasetError, match=r"no field holds the prompt.*to a field 'prompt'") as no:
        read_records(tmp_path, pair, pair)
    assert "--map" not in str(no.value)


def test_a_mapped_prompt_still_gets_the_better_answer(tmp_path):
    record = {"ask": "hi", "chosen": "hello", "rejected": "no"}
    assert texts(read_records(tmp_path, record, mapping={"prompt": "ask"})) == [
        ("hi", "hello", None)
    ]


RIVALS = [
    {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 1},
    {"question": "p", "response_j": "a", "response_k": "b"},
    {"prompt": "p", "answer_a": "a", "answer_b": "b", "winner": "a"},
]


@pytest.mark.parametrize("record", RIVALS)
def test_answers_that_compete_are_refused(tmp_path, record):
    with pytest.raises(DatasetError, match="several answers to each prompt"):
        read_records(tmp_path, record, record)


def test_answers_that_are_judged_by_steps_are_refused(tmp_path):
    record = {"prompt": "p", "completions": ["a", "b"], "labels": [True, False]}
    with pytest.raises(DatasetError, match="step by step"):
        read_records(tmp_path, record, record)


FLAGGED = {
    "TRL": lambda i: {"prompt": "p", "completion": f"a {i}", "label": bool(i % 2)},
    "TRL, chats": lambda i: {
        "prompt": [USER],
        "completion": [{"role": "assistant", "content": f"a {i}"}],
        "label": bool(i % 2),
    },
    "numbers beside a completion": lambda i: {
        "prompt": "p",
        "completion": f"a {i}",
        "label": i % 2,
    },
    "LLaMA-Factory": lambda i: {"instruction": "p", "output": f"a {i}", "kto_tag": bool(i % 2)},
    "messages": lambda i: {"messages": [USER, ASSISTANT], "label": bool(i % 2)},
    "words": lambda i: {
        "prompt": "p",
        "response": f"a {i}",
        "label": ["desirable", "undesirable"][i % 2],
    },
}


@pytest.mark.parametrize("case", FLAGGED)
def test_answers_that_people_disliked_are_not_learnt(tmp_path, case):
    records = [FLAGGED[case](i) for i in range(12)]
    with pytest.raises(DatasetError, match=r"6 of 12 are not liked. Keep the rows where it is tr"):
        read_records(tmp_path, *records)


def test_answers_that_all_are_liked_are_read_and_the_flag_is_no_label(tmp_path):
    records = [{"prompt": "p", "completion": f"a {i}", "label": True} for i in range(12)]
    dataset = read_records(tmp_path, *records)
    assert not dataset.is_labelled
    assert "'label' says of every answer that it is liked, so it is no label" in dataset.notes


def test_a_flag_may_be_said_to_be_a_class(tmp_path):
    records = [{"prompt": "p", "completion": f"a {i}", "label": i % 2 == 0} for i in range(12)]
    assert read_records(tmp_path, *records, mapping={"label": "label"}).labels == ("false", "true")


def test_true_and_false_that_name_two_answers_are_classes(tmp_path):
    records = [
        {"prompt": f"p{i}", "response": ["no", "yes"][i % 2], "label": i % 2 == 1}
        for i in range(12)
    ]
    assert read_records(tmp_path, *records).labels == ("no", "yes")


def test_true_and_false_of_a_text_are_classes(tmp_path):
    records = [{"text": f"t{i}", "label": i % 2 == 1} for i in range(12)]
    assert read_records(tmp_path, *records).labels == ("false", "true")
