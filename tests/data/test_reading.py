import gzip
import subprocess
import sys

import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError
from tests.data.conftest import numbered, read_records

BROKEN_FILES = {
    # file name, bytes, words of the sentence
    "empty": ("mine.jsonl", b"", "is empty: it needs one row at least"),
    "blank lines only": ("mine.jsonl", b"\n \r\n\n", "is empty"),
    "BOM only": ("mine.jsonl", b"\xef\xbb\xbf\n", "is empty"),
    "empty csv": ("mine.csv", b"", "is empty"),
    "csv header only": ("mine.csv", b"prompt,response\n", "holds no rows"),
    "empty array": ("mine.json", b"[]", "holds no rows"),
    "empty wrapper": ("mine.json", b'{"data": []}', "holds no rows"),
    "binary": ("mine.jsonl", b"\x89PNG\r\n\0\0\0\rIHDR\0", "is a binary file, not text"),
    "spreadsheet": ("mine.csv", b"PK\x03\x04\x14\0\6\0", "unpack it first"),
    "Git LFS pointer": (
        "mine.parquet",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        r"is a Git LFS pointer, not the data.*git lfs pull",
    ),
    "web page": ("mine.jsonl", b"\n<!DOCTYPE html><html></html>", "is a web page, not data"),
    "damaged gzip": ("mine.jsonl.gz", gzip.compress(b"{}" * 99)[:-9], "gzip file is damaged"),
    "damaged Parquet": ("mine.parquet", b"PAR1 and nothing else", "damaged Parquet file"),
    "prose": ("mine.md", b"Once upon a time", "the format is not known"),
    "prose named JSONL": (
        "mine.jsonl",
        b"Once upon a time\nthere",
        r"2 of 2 rows .*line 1: not JSON",
    ),
    "latin-1 all over": (
        "mine.jsonl",
        b'{"prompt": "caf\xe9"}\n' * 3,
        "is not UTF-8 text. It looks like WINDOWS-1252: as that, line 1 would read .*caf\u00e9",
    ),
    "truncated array": (
        "mine.json",
        b'[\n{"prompt": "p"},\n{"prompt": "q"',
        r"mine.json, line 3: the JSON array breaks off",
    ),
    "array with a hole": (
        "mine.json",
        b'[\n{"prompt": "p"}\n{"prompt": "q"}]',
        r"line 3: the JSON",
    ),
    "array of numbers": ("mine.json", b"[1, 2]", r"row 1: a string or number where an object"),
    "foreign fields": ("mine.jsonl", b'{"foo": "a", "bar": "b"}', "--map prompt=foo,response=bar"),
    "csv without header": ("mine.csv", b"nice,1\nawful,0\n", r"found: nice, 1"),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_a_broken_file_gets_its_sentence(tmp_path, case):
    name, data, words = BROKEN_FILES[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DatasetError, match=words) as caught:
        read_dataset(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_unusable_rows_are_an_error_with_line_numbers(tmp_path):
    records = [{"prompt": "p", "response": "r"}, {"x": 1}, {"x": 2}]
    with pytest.raises(
        DatasetError, match=r"mine.jsonl: 2 of 3 rows can't be used \(line 2: no 'pr"
    ):
        read_records(tmp_path, *records)


def test_any_number_of_unusable_rows_is_skipped_where_that_is_allowed(tmp_path):
    records = [{"prompt": "p", "response": "r"}, {"x": 1}, {"x": 2}]
    assert len(read_records(tmp_path, *records, allow_skips=True).rows) == 1


def test_a_split_column_gives_the_split_that_is_asked_for(tmp_path):
    rows = [{**row, "split": ["train", "test"][i % 2]} for i, row in enumerate(numbered(10))]
    test = read_records(tmp_path, *rows)
    assert [row.line for row in test.rows] == [2, 4, 6, 8, 10]
    assert "the split 'test' is read, beside train" in test.notes
    train = read_records(tmp_path, *rows, split="train")
    assert [row.line for row in train.rows] == [1, 3, 5, 7, 9]
    with pytest.raises(DatasetError, match=r"names no row of the split 'train' \(found: test, dev"):
        read_records(
            tmp_path, {**rows[0], "split": "test"}, {**rows[1], "split": "dev"}, split="train"
        )


@pytest.mark.parametrize("values", [("train", "train"), ("train", "upper"), ("a", "b")])
def test_a_split_column_that_names_no_two_splits_divides_nothing(tmp_path, values):
    rows = [{**row, "split": values[i % 2]} for i, row in enumerate(numbered(10))]
    assert len(read_records(tmp_path, *rows).rows) == 10


def test_one_row_is_read_and_said(tmp_path):
    dataset = read_records(tmp_path, {"prompt": "p", "response": "r"})
    assert "one row only" in dataset.describe()


def test_duplicates_are_kept_and_counted(tmp_path):
    dataset = read_records(tmp_path, *numbered(3), *numbered(2))
    assert len(dataset.rows) == 5
    assert "2 rows repeat an earlier one" in dataset.describe()


def test_a_file_of_one_repeated_row_is_read_and_said(tmp_path):
    dataset = read_records(tmp_path, *numbered(1) * 40)
    assert len(dataset.rows) == 40
    assert "all 40 rows are the same row" in dataset.describe()


def test_one_single_label_is_said(tmp_path):
    dataset = read_records(tmp_path, {"text": "a", "label": "x"}, {"text": "b", "label": "x"})
    assert "every row has the label 'x'" in dataset.describe()


def test_labels_that_differ_from_responses_are_kept_and_said(tmp_path):
    dataset = read_records(tmp_path, {"prompt": "p", "response": "It is good.", "label": "pos"})
    assert dataset.rows[0].label == "pos"
    assert "label and response differ in 1 rows" in dataset.describe()


def test_importing_the_reader_imports_nothing_heavy():
    code = (
        "import sys, adapt_lora.data; "
        "heavy = {'torch', 'numpy', 'pyarrow', 'transformers', 'pandas'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
