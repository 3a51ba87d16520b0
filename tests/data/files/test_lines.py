"""Plain text is a prompt on each line, and never the rows of a table."""

import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError


def read(tmp_path, text, name="prompts.txt"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_dataset(path)


def test_each_line_that_is_not_blank_is_a_prompt(tmp_path):
    dataset = read(tmp_path, "﻿first one\n\n   \r\n  second, too \r\nthird")
    assert [row.prompt for row in dataset.rows] == ["first one", "second, too", "third"]
    assert [row.line for row in dataset.rows] == [1, 4, 5]
    assert not dataset.skipped
    assert not dataset.has_responses
    assert not dataset.is_labelled
    assert (dataset.name, dataset.file_format) == ("prompts", "text")


def test_a_prompt_may_begin_with_a_bracket_but_json_stays_json(tmp_path):
    assert len(read(tmp_path, "[INST] hello [/INST]\n{name}, how are you?\n").rows) == 2
    rows = read(tmp_path, '{"prompt": "a", "response": "b"}\n' * 2).rows
    assert rows[0].response == "b"


@pytest.mark.parametrize(
    ("text", "suffix"),
    [("ham\thi there\nspam\twin now\n", ".tsv"), ("text,label\nfine,1\n", ".csv")],
)
def test_the_rows_of_a_table_are_refused(tmp_path, text, suffix):
    with pytest.raises(DatasetError, match=rf"Name it {suffix}, with a header line"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('["one", "two"]', "list.json"),
        ('{"data": ["one",\n"two"]}', "list.json"),
        ('"one"\n"two"\n', "list.jsonl"),
    ],
)
def test_a_list_of_strings_is_a_list_of_prompts(tmp_path, text, name):
    dataset = read(tmp_path, text, name)
    assert [row.prompt for row in dataset.rows] == ["one", "two"]
    assert dataset.digest == read_dataset(["one", "two"]).digest


def test_texts_among_objects_are_no_rows(tmp_path):
    with pytest.raises(DatasetError, match="1 of 2 rows can't be used"):
        read(tmp_path, '["one", {"prompt": "two"}]', "list.json")
