import json

import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError
from tests.data.conftest import ASSISTANT, USER, assert_skipped, numbered, read_records

BAD_LINES = {
    # a line among good ones, the words that name it
    "not JSON": (b'{"prompt": "p", "response": ', "not JSON (Expecting value, column"),
    "an array": (b"[1, 2]", "an array where an object was expected"),
    "a bare string": (b'"text"', "a string or number where an object was expected"),
    "null": (b"null", "null or a truth value where an object was expected"),
    "NUL bytes": (b"\0" * 9000, "not JSON"),
    "nested too deeply": (b"[" * 200_000, "not JSON"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_among_good_ones_is_skipped_and_named(tmp_path, case):
    assert_skipped(tmp_path, *BAD_LINES[case])


def test_lines_of_ten_megabytes_are_read(tmp_path):
    long = "word " * 2_000_000
    dataset = read_records(tmp_path, {"prompt": long, "response": "r"}, numbered(1)[0])
    assert len(dataset.rows[0].prompt) == 10_000_000


TRAIN = [{"prompt": f"train {i}", "response": "r"} for i in range(4)]
TEST = [{"prompt": f"test {i}", "response": "r"} for i in range(3)]
SPLIT_OBJECTS = {
    "train first": {"train": TRAIN, "test": TEST},
    "test first": {"test": TEST, "train": TRAIN},
    "other spellings": {"Training_Data": TRAIN, "Test_Set": TEST},
    "with remarks": {"version": {"test": 1}, "train": TRAIN, "n": [1, 2], "test": TEST},
    "inside data": {"data": {"train": TRAIN, "test": TEST}},
    "around data": {"train": {"data": TRAIN}, "test": {"data": TEST}},
    "by columns": {
        name: {key: [row[key] for row in rows] for key in ("prompt", "response")}
        for name, rows in (("train", TRAIN), ("test", TEST))
    },
}


def read_object(tmp_path, value: object, *, indent: int | None = None, split: str = "test"):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(value, indent=indent))
    return read_dataset(path, split=split)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("case", SPLIT_OBJECTS)
def test_an_object_of_splits_gives_the_one_that_is_asked_for(tmp_path, case, indent):
    for split, rows in (("train", TRAIN), ("test", TEST)):
        dataset = read_object(tmp_path, SPLIT_OBJECTS[case], indent=indent, split=split)
        assert [row.prompt for row in dataset.rows] == [row["prompt"] for row in rows]
        assert "is read, beside" in dataset.notes[0]


def test_to_score_on_the_nearest_split_will_do_and_is_said(tmp_path):
    dataset = read_object(tmp_path, {"train": TRAIN, "validation": TEST})
    assert dataset.rows[0].prompt == "test 0"
    assert dataset.notes[0] == "there is no split 'test', so 'validation' is read instead"
    dataset = read_object(tmp_path, {"train": TRAIN})
    assert dataset.notes[0] == "there is no split 'test', so 'train' is read instead"


@pytest.mark.parametrize("value", [{"test": TEST}, {"data": TRAIN, "test": TEST}])
def test_rows_that_may_not_be_learnt_are_not_taken_for_the_train_split(tmp_path, value):
    with pytest.raises(DatasetError, match=r"no split 'train' \(found: test"):
        read_object(tmp_path, value, split="train")


def test_rows_beside_another_split_are_not_taken_for_the_one_asked_for(tmp_path):
    with pytest.raises(DatasetError, match=r"split 'test' can't be told \(found: train, data\)"):
        read_object(tmp_path, {"data": TEST, "train": TRAIN})


def test_a_field_called_test_makes_no_splits(tmp_path):
    record = {"prompt": "p", "response": "r", "test": ["assert True"], "train": {"a": 1}}
    assert read_object(tmp_path, record, split="train").rows[0].prompt == "p"


@pytest.mark.parametrize(
    "columns",
    [
        {"text": ["a", "b"], "label": [0, 1]},
        {"text": {"0": "a", "1": "b"}, "label": {"0": 0, "1": 1}},
    ],
)
def test_rows_may_stand_by_columns(tmp_path, columns):
    dataset = read_object(tmp_path, columns)
    assert [(row.prompt, row.label, row.line) for row in dataset.rows] == [
        ("a", "0", 1),
        ("b", "1", 2),
    ]
    assert dataset.file_format == "JSON by columns"


def test_a_chat_in_each_field_is_one_row_and_no_columns(tmp_path):
    chats = {"prompt": [USER, USER], "completion": [ASSISTANT, ASSISTANT]}
    assert len(read_object(tmp_path, chats).rows) == 1


def test_a_field_that_stands_twice_skips_its_row(tmp_path):
    line = b'{"prompt": "p", "response": "r", "response": "s"}'
    assert_skipped(tmp_path, line, "two fields of one name")


def test_of_two_lists_of_rows_none_is_taken_for_the_dataset(tmp_path):
    with pytest.raises(DatasetError, match="rows stand in data, examples, so which are meant"):
        read_object(tmp_path, {"examples": TEST[:1], "data": TRAIN})
    assert len(read_object(tmp_path, {"examples": [], "data": TRAIN}).rows) == 4


def test_a_list_of_objects_beside_the_rows_is_said(tmp_path):
    dataset = read_object(tmp_path, {"shots": TEST, "data": TRAIN, "n": [1]})
    assert len(dataset.rows) == 4
    assert dataset.notes[0] == "the rows of 'data' are read, not those of shots"


def test_splits_with_longer_names_are_splits_where_there_are_several(tmp_path):
    both = {"train_sft": TRAIN, "test_sft": TEST}
    assert len(read_object(tmp_path, both).rows) == 3
    assert len(read_object(tmp_path, both, split="train").rows) == 4
    rivals = {"train": TRAIN, "validation_matched": TEST, "validation_mismatched": TEST}
    with pytest.raises(DatasetError, match="which of validation_matched, validation_mismatched is"):
        read_object(tmp_path, rivals)
    record = {"prompt": "p", "response": "r", "test_cases": [{"input": 1}]}
    assert read_object(tmp_path, record).rows[0].prompt == "p"


ROWS_AB = [("a", "0"), ("b", "1")]
ONE, TWO = '{"text": "a", "label": 0}', '{"text": "b", "label": 1}'
FOLLOWING = {
    # a text, lines of its two rows
    "over several lines, as jq writes them": (
        '{\n"text": "a",\n"label": 0\n}\n{\n"text": "b",\n"label": 1\n}\n',
        [1, 5],
    ),
    "on one line": (f"{ONE} {TWO}", [1, 2]),
    "commas behind each line": (f"{ONE},\n{TWO},\n", [1, 2]),
    "commas behind all but the last": (f"{ONE},\n{TWO}", [1, 2]),
    "two arrays, joined": (f"[{ONE}]\n[{TWO}]\n", [1, 2]),
    "two arrays, one of them empty": (f"[]\n[{ONE},\n{TWO}]", [2, 3]),
}


@pytest.mark.parametrize("case", FOLLOWING)
def test_values_that_follow_one_another_are_all_read(tmp_path, case):
    text, lines = FOLLOWING[case]
    path = tmp_path / "mine.json"
    path.write_text(text)
    dataset = read_dataset(path)
    assert [(row.prompt, row.label) for row in dataset.rows] == ROWS_AB
    assert [row.line for row in dataset.rows] == lines


@pytest.mark.parametrize(
    "value",
    [
        {"columns": ["text", "label"], "index": [0, 1], "data": [["a", 0], ["b", 1]]},
        {"0": {"text": "a", "label": 0}, "1": {"text": "b", "label": 1}},
    ],
)
def test_tables_of_pandas_are_read_by_their_form(tmp_path, value):
    dataset = read_object(tmp_path, value)
    assert [(row.prompt, row.label) for row in dataset.rows] == ROWS_AB
    assert dataset.file_format == "JSON by columns"


def test_a_table_that_may_lie_on_its_side_is_refused(tmp_path):
    table = {"text": {"x1": "a", "x2": "b"}, "label": {"x1": 0, "x2": 1}}
    with pytest.raises(DatasetError, match=r"text, label are its rows or its columns.*records"):
        read_object(tmp_path, table)


def test_something_behind_an_array_is_an_error(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('[{"text": "a"}]\nand so on')
    with pytest.raises(DatasetError, match="line 2: the JSON array breaks off"):
        read_dataset(path)


def test_rows_without_any_field_are_said(tmp_path):
    with pytest.raises(DatasetError, match="none of its 1 rows has a field"):
        read_object(tmp_path, {})


@pytest.mark.parametrize("text", [f'{{"data": [{ONE}]}}\n' * 2, f'{{\n"train": [{ONE}]}}\n' * 2])
def test_objects_that_each_hold_rows_are_refused(tmp_path, text):
    path = tmp_path / "mine.jsonl"
    path.write_text(text)
    with pytest.raises(DatasetError, match="each of its objects holds rows of its own"):
        read_dataset(path)
