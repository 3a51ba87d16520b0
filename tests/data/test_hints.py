import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError
from tests.data.conftest import read_records

TABLES = {
    # the fields of a row, the advice
    "an id is no prompt": (
        lambda i: {"id": i, "headline": f"news {i}", "verdict": "ab"[i % 2]},
        "--map prompt=headline,label=verdict",
    ),
    "nor a number or an address": (
        lambda i: {"row_no": i, "url": "https://x.org", "ask": f"why {i}", "reply": f"so {i}"},
        "--map prompt=ask,response=reply",
    ),
    "what was rejected is never advised": (
        lambda i: {"ask": f"why {i}", "rejected_reply": f"a long wrong answer {i}", "good": "x"},
        "--map prompt=ask,label=good",
    ),
    "few values are labels, wherever they stand": (
        lambda i: {"v1": ["ham", "spam"][i % 2], "v2": f"win the prize {i}"},
        "--map prompt=v2,label=v1",
    ),
    "a field called label is none of the prompt": (
        lambda i: {"title": f"t {i}", "body": f"b {i}", "label": ["good", "bad"][i % 2]},
        "--map prompt=title+body",
    ),
    "names with a comma are quoted": (
        lambda i: {"text, the review": f"t {i}", "label, gold": "ab"[i % 2]},
        "--map 'prompt=text, the review,label=label, gold'",
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_the_hint_names_fields_that_hold_texts(tmp_path, case):
    make, advice = TABLES[case]
    with pytest.raises(DatasetError, match="no field looks like a prompt") as caught:
        read_records(tmp_path, *[make(i) for i in range(12)])
    assert f"for example {advice}." in str(caught.value)


def test_the_hint_of_a_csv_does_not_propose_the_first_column_blindly(tmp_path):
    path = tmp_path / "news.csv"
    path.write_text("id,headline,verdict\n" + "".join(f"{i},news {i},ok\n" for i in range(12)))
    with pytest.raises(DatasetError, match="--map prompt=headline,label=verdict"):
        read_dataset(path)


NESTED = {
    "splits": {"train_sft": [{"a": 1}], "test_sft": [{"a": 2}]},
    "tokens": {"tokens": ["a", "b"], "ner_tags": [0, 1]},
    "languages": {"translation": {"en": "a", "fr": "b"}},
}


@pytest.mark.parametrize("case", NESTED)
def test_lists_and_objects_are_never_advised(tmp_path, case):
    with pytest.raises(DatasetError, match=r"Texts are needed where .* lists or objects") as caught:
        read_records(tmp_path, NESTED[case], NESTED[case])
    assert "--map" not in str(caught.value)


HEADERS = {
    "a row": ("I like it,pos\nI don't,neg\nIt is fine,pos\n", "the header line is missing"),
    "a number": ("nice,1\nawful,0\n", "the header line is missing"),
    "a sentence": ("This is a rather long first line,x\na,y\n", "the header line is missing"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_line_that_is_none_is_named(tmp_path, case):
    text, words = HEADERS[case]
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=words) as caught:
        read_dataset(path)
    assert "--map" not in str(caught.value)
