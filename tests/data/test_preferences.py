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
    {"history": "p", "human_ref_A": "a", "human_ref_B": "b"},
    {"conversation_a": [USER, ASSISTANT], "conversation_b": [USER, ASSISTANT]},
    {"prompt": "p", "responses": ["a", "b"], "ranking": [1, 0]},
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
    "0 and 1 beside any answer": lambda i: {"question": "p", "answer": f"a {i}", "label": i % 2},
    "0 and 1 beside chats": lambda i: {"messages": [USER, ASSISTANT], "label": i % 2},
    "1 and -1": lambda i: {"prompt": "p", "response": f"a {i}", "label": [1, -1][i % 2]},
    "good and bad": lambda i: {"prompt": "p", "output": f"a {i}", "label": ["good", "bad"][i % 2]},
    "accepted": lambda i: {"prompt": "p", "response": f"a {i}", "accepted": bool(i % 2)},
    "thumbs": lambda i: {
        "prompt": "p",
        "response": f"a {i}",
        "feedback": ["thumbs_up", "thumbs_down"][i % 2],
    },
    "passed": lambda i: {"prompt": "p", "completion": f"a {i}", "passed": i % 2},
    "correct or not": lambda i: {
        "question": "p",
        "answer": f"a {i}",
        "isCorrect": ["yes", "no"][i % 2],
    },
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


def test_true_and_false_of_a_chat_without_an_answer_are_classes(tmp_path):
    records = [{"messages": [USER], "label": i % 2} for i in range(12)]
    assert read_records(tmp_path, *records).labels == ("0", "1")


RATED = {
    "rewards": lambda i: {"prompt": f"p {i}", "response": f"a {i}", "reward": [1.5, -0.3][i % 2]},
    "ratings of several answers": lambda i: {
        "prompt": f"p {i // 2}",
        "response": f"a {i}",
        "helpfulness": i % 5,
    },
}


@pytest.mark.parametrize("case", RATED)
def test_rated_answers_are_not_learnt_like_good_ones(tmp_path, case):
    records = [RATED[case](i) for i in range(12)]
    with pytest.raises(DatasetError, match=r"rates each answer, from .* or say --map label= to"):
        read_records(tmp_path, *records)
    assert len(read_records(tmp_path, *records, mapping={"label": ""}).rows) == 12


def test_a_score_that_only_remarks_on_each_row_is_left_out(tmp_path):
    records = [{"prompt": f"p {i}", "response": f"a {i}", "score": i} for i in range(12)]
    assert "fields not used: score" in read_records(tmp_path, *records).notes


def test_rows_that_annotators_rejected_are_refused(tmp_path):
    records = [
        {"text": f"t {i}", "label": "ab"[i % 2], "answer": ["accept", "reject"][i // 10]}
        for i in range(12)
    ]
    with pytest.raises(
        DatasetError, match=r"'answer' says which rows .* accepted, and 2 of 12 are"
    ):
        read_records(tmp_path, *records)
    assert read_records(tmp_path, *records[:10]).labels == ("a", "b")


def test_better_and_worse_answers_by_other_names_are_a_pair(tmp_path):
    for better, worse in [("accepted", "rejected"), ("good_answer", "bad_answer"), ("win", "lose")]:
        dataset = read_records(tmp_path, {"prompt": "p", better: "r", worse: "s"})
        assert texts(dataset) == [("p", "r", None)]


LISTS = {
    "parts or alternatives": {"instruction": "i", "output": ["red", "blue"]},
    "older pairs of LLaMA-Factory": {"prompt": "p", "response": ["good", "bad"]},
}


@pytest.mark.parametrize("case", LISTS)
def test_a_list_of_texts_where_one_is_expected_is_refused(tmp_path, case):
    with pytest.raises(DatasetError, match="is a list of several texts in 2 of 2 rows"):
        read_records(tmp_path, LISTS[case], LISTS[case])


def test_the_first_of_a_list_is_taken_where_people_say_so(tmp_path):
    dataset = read_records(tmp_path, LISTS["parts or alternatives"], mapping={"response": "output"})
    assert texts(dataset) == [("i", "red", None)]
    assert "'output' lists several answers in 1 rows: the first is used" in dataset.notes


def test_of_answers_each_of_which_is_right_the_first_is_used_and_said(tmp_path):
    records = [{"question": "q", "answers": ["a", "b"]}, {"question": "q", "answers": ["a", "a"]}]
    dataset = read_records(tmp_path, *records)
    assert [row.response for row in dataset.rows] == ["a", "a"]
    assert "'answers' lists several answers in 1 rows: the first is used" in dataset.notes
