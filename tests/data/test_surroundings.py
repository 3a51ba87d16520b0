"""What stands around a prompt is placed by a rule, or asked for; never left out in silence."""

import pytest

from adapt_lora.errors import DatasetError
from tests.data.conftest import ASSISTANT, USER, read_records, texts

PLACED = {
    # record, (prompt, response, label)
    "system text of a chat": (
        {"system": "Be kind.", "messages": [USER, ASSISTANT]},
        ("Be kind.\n\nhi", "hello", None),
    ),
    "system prompt of a question": (
        {"systemPrompt": "Be kind.", "question": "q", "response": "r"},
        ("Be kind.\n\nq", "r", None),
    ),
    "system text of preference pairs": (
        {"system": "Be kind.", "prompt": "p", "chosen": "r", "rejected": "s"},
        ("Be kind.\n\np", "r", None),
    ),
    "system text of preferred dialogues": (
        {"system": "Be kind.", "chosen": [USER, ASSISTANT], "rejected": [USER, ASSISTANT]},
        ("Be kind.\n\nhi", "hello", None),
    ),
    "tools": (
        {"tools": [{"name": "clock"}], "messages": [USER, ASSISTANT]},
        ('Tools: [{"name": "clock"}]\n\nhi', "hello", None),
    ),
    "history in pairs": (
        {"instruction": "i", "input": "", "output": "o", "history": [["a", "b"]]},
        ("User: a\n\nAssistant: b\n\nUser: i", "o", None),
    ),
    "history as messages": (
        {"question": "q", "answer": "r", "chat_history": [USER, ASSISTANT]},
        ("User: hi\n\nAssistant: hello\n\nUser: q", "r", None),
    ),
    "input of a prompt": (
        {"prompt": "Translate.", "input": "Haus", "output": "house"},
        ("Translate.\n\nHaus", "house", None),
    ),
    "text of an instruction": (
        {"instruction": "Is it spam?", "text": "Win now", "label": "yes"},
        ("Is it spam?\n\nWin now", "yes", "yes"),
    ),
    "definition of a task": (
        {"definition": "Add up.", "input": "1 1", "output": "2"},
        ("Add up.\n\n1 1", "2", None),
    ),
    "story of a question": (
        {"story": "A dog ran.", "question": "Who?", "answer": "a dog"},
        ("Story: A dog ran.\nQuestion: Who?", "a dog", None),
    ),
    "context of an input": (
        {"input": "Who?", "context": "A dog ran.", "output": "a dog"},
        ("Context: A dog ran.\nInput: Who?", "a dog", None),
    ),
    "word of two sentences": (
        {"word": "bank", "sentence1": "s", "sentence2": "t", "label": "1"},
        ("Sentence1: s\nSentence2: t\nWord: bank", "1", "1"),
    ),
    "aspect that stands in the text": (
        {"text": "Good food.", "aspect": "food", "label": "pos"},
        ("Text: Good food.\nAspect: food", "pos", "pos"),
    ),
    "second text": (
        {"text": "s", "text_pair": "t", "label": "same"},
        ("Text: s\nText_pair: t", "same", "same"),
    ),
}


@pytest.mark.parametrize("case", PLACED)
def test_what_belongs_to_the_prompt_is_placed(tmp_path, case):
    record, expected = PLACED[case]
    dataset = read_records(tmp_path, record)
    assert texts(dataset) == [expected]
    assert not any("not used" in note and "rejected" not in note for note in dataset.notes)


LEFT_OUT = {
    # record, (prompt, response), the field that is not used
    "a rendering of the whole": (
        {"instruction": "Sing.", "input": "", "output": "la", "text": "# Sing.\n# la"},
        ("Sing.", "la"),
        "text",
    ),
    "what stands in the prompt": (
        {"prompt": "Solve:  q\nnow", "question": "q now", "answer": "a"},
        ("Solve:  q\nnow", "a"),
        "question",
    ),
    "the system that wrote it": (
        {"source": "s", "target": "t", "system": "Online-A"},
        ("s", "t"),
        "system",
    ),
    "the name of a document": (
        {"question": "q", "answer": "a", "document": "doc_7.pdf"},
        ("q", "a"),
        "document",
    ),
    "a field that is empty": (
        {"question": "q", "answer": "a", "context": ""},
        None,
        None,
    ),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_says_nothing_new_is_left_out_with_a_note(tmp_path, case):
    record, expected, field = LEFT_OUT[case]
    if expected is None:
        with pytest.raises(DatasetError, match="'context' is empty"):
            read_records(tmp_path, record)
        return
    dataset = read_records(tmp_path, record)
    assert texts(dataset) == [(*expected, None)]
    assert f"fields not used: {field}" in dataset.notes


ASKED = {
    # record, the ways out that the sentence names
    "another text": (
        {"question": "q", "answer": "a", "background": "It is a long story."},
        r"--map prompt=background\+question,response=answer to join them, "
        r"or --map prompt=question,response=answer to leave it out",
    ),
    "what may be the answer": (
        {"question": "q", "query": "SELECT name FROM dogs"},
        r"or --map prompt=question,response=query if it is the answer",
    ),
    "a text beside a chat": (
        {"messages": [USER, ASSISTANT], "context": "A dog ran."},
        "'context' may belong to the prompt, but is no turn of the chats in 'messages'",
    ),
    "lists of texts": (
        {"question": "q", "answer": "a", "documents": ["A dog ran.", "A cat sat."]},
        "'documents' may belong to the prompt, beside 'question', but holds lists",
    ),
}


@pytest.mark.parametrize("case", ASKED)
def test_where_it_cannot_be_told_the_reader_asks(tmp_path, case):
    record, words = ASKED[case]
    with pytest.raises(DatasetError, match=words):
        read_records(tmp_path, record, record)


@pytest.mark.parametrize(
    ("mapping", "prompt"),
    [
        ({"prompt": "question", "response": "answer"}, "q"),
        ({"prompt": "background+question", "response": "answer"}, "Background: b c\nQuestion: q"),
    ],
)
def test_the_advice_works(tmp_path, mapping, prompt):
    record = {"question": "q", "answer": "a", "background": "b c"}
    assert texts(read_records(tmp_path, record, mapping=mapping)) == [(prompt, "a", None)]


def test_a_system_text_that_the_chat_has_already_stands_once(tmp_path):
    chat = [{"role": "system", "content": "Be kind."}, USER, ASSISTANT]
    records = [{"system": text, "messages": chat} for text in ("Be kind.", "Be brief.")]
    prompts = [row.prompt for row in read_records(tmp_path, *records).rows]
    assert prompts == ["Be kind.\n\nhi", "Be brief.\n\nBe kind.\n\nhi"]


def test_a_mapped_chat_may_have_its_system_text_in_another_field(tmp_path):
    record = {"rules": "x", "system": "Be kind.", "messages": [USER, ASSISTANT]}
    dataset = read_records(tmp_path, record, mapping={"prompt": "system+messages"})
    assert texts(dataset) == [("Be kind.\n\nhi", "hello", None)]
    with pytest.raises(DatasetError, match="'rules' may belong to the prompt, but is no turn"):
        read_records(tmp_path, record, mapping={"prompt": "messages+rules"})


def test_a_target_that_a_label_judges_belongs_to_the_prompt(tmp_path):
    records = [
        {"text": f"t {i}", "target": "ab"[i % 2], "label": ["for", "against", "none"][i % 3]}
        for i in range(12)
    ]
    dataset = read_records(tmp_path, *records)
    assert texts(dataset)[0] == ("Text: t 0\nTarget: a", "for", "for")


def test_a_target_that_codes_the_label_stays_the_response(tmp_path):
    records = [{"text": f"t {i}", "target": "ab"[i % 2], "label": i % 2} for i in range(12)]
    assert read_records(tmp_path, *records).labels == ("a", "b")


def test_a_target_that_may_be_either_is_asked_for(tmp_path):
    records = [{"text": f"t {i}", "target": f"u {i}", "label": "ab"[i % 2]} for i in range(12)]
    with pytest.raises(DatasetError, match="or --map prompt=text,response=target if it is the ans"):
        read_records(tmp_path, *records)
