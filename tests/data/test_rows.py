import pytest

from adapt_lora.data import read_dataset
from tests.data.conftest import assert_skipped, read_records

BAD_ROWS = {
    # a line among good ones, the words that name it
    "missing field": (b'{"text": "p"}', "no 'prompt' field (found: text)"),
    "blank prompt": (b'{"prompt": "  ", "response": "r"}', "'prompt' is empty"),
    "null prompt": (b'{"prompt": null, "response": "r"}', "'prompt' is empty"),
    "NaN prompt": (b'{"prompt": NaN, "response": "r"}', "'prompt' is empty"),
    "object prompt": (b'{"prompt": {"a": 1}, "response": "r"}', "'prompt' is an object where text"),
    "nested list response": (b'{"prompt": "p", "response": [[1]]}', "'response' is an array where"),
    "invalid UTF-8": (b'{"prompt": "caf\xe9", "response": "r"}', "bytes that are not UTF-8"),
    "half an emoji": (b'{"prompt": "\\ud83d", "response": "r"}', "half an emoji escape"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_among_good_ones_is_skipped_and_named(tmp_path, case):
    assert_skipped(tmp_path, *BAD_ROWS[case])


def test_labels_stay_strings_as_they_are_written(tmp_path):
    path = tmp_path / "codes.jsonl"
    values = ['"007"', "7", "1.50", "true", "12345678901234567890", '" spaced "']
    path.write_text("".join(f'{{"text": "t", "label": {value}}}\n' for value in values))
    labels = [row.label for row in read_dataset(path).rows]
    assert labels == ["007", "7", "1.50", "true", "12345678901234567890", "spaced"]


def test_unit_tests_of_code_come_with_their_rows(tmp_path):
    record = {
        "prompt": "Double a number.",
        "response": "def double(x): return 2 * x",
        "test_setup": "import math",
        "test_list": ["assert double(1) == 2", "assert double(0) == 0"],
    }
    dataset = read_records(tmp_path, record, {**record, "test_setup": ""})
    assert dataset.rows[0].tests == ("import math", *record["test_list"])
    assert dataset.rows[1].tests == tuple(record["test_list"])
    assert "2 rows carry unit tests" in dataset.notes
    assert not any("not used" in note for note in dataset.notes)


def test_a_checking_function_is_called_with_the_one_it_checks(tmp_path):
    check = "def check(candidate):\n    assert candidate(1) == 2"
    record = {"prompt": "Double.", "response": "code", "test": check, "entry_point": "double"}
    assert read_records(tmp_path, record).rows[0].tests == (check, "check(double)")


@pytest.mark.parametrize("value", ["unit", ["a", 1], [], None, [{"input": 1}]])
def test_a_field_of_that_name_without_code_holds_no_tests(tmp_path, value):
    record = {"prompt": "p", "response": "r", "tests": value}
    assert read_records(tmp_path, record).rows[0].tests == ()
