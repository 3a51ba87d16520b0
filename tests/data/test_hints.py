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
