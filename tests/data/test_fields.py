import pytest

from adapt_lora.data import parse_mapping
from adapt_lora.errors import ConfigError, DatasetError
from tests.data.conftest import ASSISTANT, USER, read_records, texts

SHAPES = {
    # record, (prompt, response, label), shape
    "prompt/response": ({"prompt": "p", "response": "r"}, ("p", "r", None), "prompt/response"),
    "prompt/completion": ({"prompt": "p", "completion": "r"}, ("p", "r", None), None),
    "prompt alone": ({"prompt": "p"}, ("p", None, None), "prompt"),
    "prompt/response/label keep both": (
        {"prompt": "p", "response": "good", "label": "+"},
        ("p", "good", "+"),
        "prompt/response/label",
    ),
    "preference pairs take the chosen answer": (
        {"prompt": "p", "chosen": "r", "rejected": "s"},
        ("p", "r", None),
        "prompt/chosen",
    ),
    "instruction with input": (
        {"instruction": "Translate.", "input": "Haus", "output": "house"},
        ("Translate.\n\nHaus", "house", None),
        "instruction/input/output",
    ),
    "instruction with empty input": (
        {"instruction": "Sing.", "input": "", "output": "la"},
        ("Sing.", "la", None),
        "instruction/input/output",
    ),
    "a category beside a response is no label (dolly)": (
        {"instruction": "i", "context": "c", "response": "r", "category": "qa"},
        ("i\n\nc", "r", None),
        "instruction/context/response",
    ),
    "upper-case names (oasst)": (
        {"INSTRUCTION": "i", "RESPONSE": "r"},
        ("i", "r", None),
        "INSTRUCTION/RESPONSE",
    ),
    "question/answer": ({"question": "q", "answer": "a"}, ("q", "a", None), "question/answer"),
    "question/answers, SQuAD's dict": (
        {"context": "c", "question": "q", "answers": {"text": ["a", "b"], "answer_start": [1, 2]}},
        ("Context: c\nQuestion: q", "a", None),
        "context/question/answers",
    ),
    "answers as a list": ({"question": "q", "answers": ["a", "b"]}, ("q", "a", None), None),
    "article/question/answer": (
        {"article": "t", "question": "q", "answer": "a"},
        ("Article: t\nQuestion: q", "a", None),
        None,
    ),
    "query/response": ({"query": "q", "response": "r"}, ("q", "r", None), "query/response"),
    "input/target": ({"input": "i", "target": "t"}, ("i", "t", None), "input/target"),
    "input/output": ({"input": "i", "output": "t"}, ("i", "t", None), "input/output"),
    "source/target": ({"source": "s", "target": "t"}, ("s", "t", None), "source/target"),
    "dialogue/summary": ({"dialogue": "d", "summary": "s"}, ("d", "s", None), None),
    "text/label": ({"text": "t", "label": "pos"}, ("t", "pos", "pos"), "text/label"),
    "a source beside a text is no prompt": (
        {"source": "wiki", "text": "t", "label": "pos"},
        ("t", "pos", "pos"),
        "text/label",
    ),
    "sentence/labels": ({"sentence": "t", "labels": ["pos"]}, ("t", "pos", "pos"), None),
    "content/category": ({"content": "t", "category": "c"}, ("t", "c", "c"), None),
    "text/intent": ({"text": "t", "intent": "buy"}, ("t", "buy", "buy"), "text/intent"),
    "label names rather than numbers": (
        {"text": "t", "label": 1, "label_text": "pos"},
        ("t", "pos", "pos"),
        "text/label_text",
    ),
    "OpenAI's evals": ({"input": [USER], "ideal": "hello"}, ("hi", "hello", None), "input/ideal"),
    "promptfoo": ({"question": "q", "__expected": "a"}, ("q", "a", None), "question/__expected"),
    "premise/hypothesis/label": (
        {"premise": "a", "hypothesis": "b", "label": "neutral"},
        ("Premise: a\nHypothesis: b", "neutral", "neutral"),
        None,
    ),
    "message/response, whatever the category": (
        {"message": "m", "category": "bill", "response": "r"},
        ("m", "r", None),
        "message/response",
    ),
    "question/best_answer, whatever the category": (
        {"question": "q", "best_answer": "a", "category": "c"},
        ("q", "a", None),
        "question/best_answer",
    ),
    "prompt/solution": ({"prompt": "p", "solution": "s", "class": "c"}, ("p", "s", None), None),
    "problem/solution": ({"problem": "p", "solution": "s", "type": "t"}, ("p", "s", None), None),
    "user/assistant": ({"user": "u", "assistant": "a"}, ("u", "a", None), "user/assistant"),
    "a user beside a text is a person": (
        {"user": "bob", "text": "t", "label": "l"},
        ("t", "l", "l"),
        "text/label",
    ),
    "inputs/targets": ({"inputs": "i", "targets": "t"}, ("i", "t", None), "inputs/targets"),
    "claim/evidence": (
        {"claim": "c", "evidence": "e", "label": "l"},
        ("Claim: c\nEvidence: e", "l", "l"),
        None,
    ),
    "question pairs": (
        {"question1": "q", "question2": "r", "is_duplicate": 1},
        ("Question1: q\nQuestion2: r", "1", "1"),
        None,
    ),
    "review/stars": ({"review": "r", "stars": 5}, ("r", "5", "5"), "review/stars"),
    "text/emotion": ({"text": "t", "emotion": "joy"}, ("t", "joy", "joy"), "text/emotion"),
    "sentence pairs with a score": (
        {"sentence1": "s", "sentence2": "t", "score": 2.5},
        ("Sentence1: s\nSentence2: t", "2.5", "2.5"),
        None,
    ),
    "SNLI": (
        {"gold_label": "neutral", "sentence1": "s", "sentence2": "t", "pairID": "1"},
        ("Sentence1: s\nSentence2: t", "neutral", "neutral"),
        None,
    ),
    "a name with a space at its end": ({"text": "t", "label ": "a"}, ("t", "a", "a"), None),
    "names of a spreadsheet": (
        {"Question": "q", "Expected Output": "a"},
        ("q", "a", None),
        "Question/Expected Output",
    ),
    "messages": ({"messages": [USER, ASSISTANT]}, ("hi", "hello", None), "messages"),
    "messages beside prompt and category": (
        {"prompt": "hi", "messages": [USER, ASSISTANT], "category": "chat"},
        ("hi", "hello", None),
        "messages",
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_each_shape_is_recognised(tmp_path, case):
    record, expected, shape = SHAPES[case]
    dataset = read_records(tmp_path, record)
    assert texts(dataset) == [expected]
    if shape is not None:
        assert dataset.shape == shape


def test_a_mapping_overrides_what_would_be_detected(tmp_path):
    record = {"prompt": "wrong", "response": "no", "title": "p", "verdict": "r"}
    dataset = read_records(tmp_path, record, mapping={"prompt": "title", "response": "verdict"})
    assert texts(dataset) == [("p", "r", None)]
    assert dataset.mapping == {"prompt": "title", "response": "verdict"}
    assert "fields not used: prompt, response" in dataset.describe()


def test_a_mapping_may_name_one_role_and_leave_the_rest_to_detection(tmp_path):
    dataset = read_records(tmp_path, {"text": "t", "topic": "x"}, mapping={"label": "topic"})
    assert texts(dataset) == [("t", "x", "x")]


def test_a_mapping_may_join_fields(tmp_path):
    record = {"claim": "c", "evidence": "e", "label": "true"}
    dataset = read_records(tmp_path, record, mapping={"prompt": "claim+evidence"})
    assert texts(dataset) == [("Claim: c\nEvidence: e", "true", "true")]


def test_a_mapping_may_switch_a_role_off(tmp_path):
    record = {"prompt": "p", "response": "r", "label": "x"}
    dataset = read_records(tmp_path, record, mapping={"label": "", "response": ""})
    assert texts(dataset) == [("p", None, None)]


def test_a_mapping_to_a_missing_field_names_what_is_there(tmp_path):
    with pytest.raises(
        DatasetError, match=r"no field 'Text' to use as prompt \(found: text, label"
    ):
        read_records(tmp_path, {"text": "t", "label": "x"}, mapping={"prompt": "Text"})


def test_mappings_are_parsed():
    text = " prompt = question+context,response=answer ,label="
    assert parse_mapping(text) == {
        "prompt": "question+context",
        "response": "answer",
        "label": "",
    }


def test_a_mapped_field_may_have_a_comma_in_its_name():
    assert parse_mapping("prompt=text, the review,label=label, gold") == {
        "prompt": "text, the review",
        "label": "label, gold",
    }


@pytest.mark.parametrize(
    "text", ["", "prompt", "prompt=", "answer=x", "prompt=a,prompt=b", "prompt=a,,label=b"]
)
def test_a_malformed_mapping_is_refused(text):
    with pytest.raises(ConfigError, match="Write it like prompt=question"):
        parse_mapping(text)


LIKE_ANSWERS = {
    # a row by its number, the way out
    "the category of a prompt": (
        lambda i: {"prompt": f"p {i}", "category": "ab"[i % 2]},
        "--map label=category to use it, or --map label= for",
    ),
    "a label by another name": (
        lambda i: {"text": f"t {i}", "airline_sentiment": "ab"[i % 2]},
        "--map label=airline_sentiment to use it",
    ),
    "an answer by another name": (
        lambda i: {"question": f"q {i}", "model_answer": f"a {i}"},
        "--map response=model_answer to use it, or --map response= for",
    ),
}


@pytest.mark.parametrize("case", LIKE_ANSWERS)
def test_what_may_be_the_answer_is_asked_for(tmp_path, case):
    make, words = LIKE_ANSWERS[case]
    records = [make(i) for i in range(12)]
    with pytest.raises(DatasetError, match=words):
        read_records(tmp_path, *records)
    role = "label" if "label" in words else "response"
    assert not read_records(tmp_path, *records, mapping={role: ""}).has_responses


def test_the_gold_label_that_annotators_did_not_agree_on_is_missing(tmp_path):
    rows = [{"sentence1": f"s {i}", "sentence2": "t", "gold_label": "-ab"[i % 3]} for i in range(9)]
    dataset = read_records(tmp_path, *rows, allow_skips=True)
    assert (dataset.labels, len(dataset.skipped)) == (("a", "b"), 3)
