import json

import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError
from tests.data.conftest import texts
from tests.data.files.test_formats import PAIR_TEXTS, PAIRS


def test_bom_crlf_and_blank_lines_are_harmless(tmp_path):
    path = tmp_path / "mine.jsonl"
    lines = [json.dumps(pair) for pair in PAIRS]
    path.write_bytes(b"\xef\xbb\xbf" + f"\r\n{lines[0]}\r\n\r\n  \r\n{lines[1]}\r\n\r\n".encode())
    dataset = read_dataset(path)
    assert texts(dataset) == PAIR_TEXTS
    assert [row.line for row in dataset.rows] == [2, 5]
    assert dataset.n_read == 2


def test_a_bom_does_not_hide_the_first_csv_column(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(b"\xef\xbb\xbfprompt,response\r\np,r\r\n")
    assert texts(read_dataset(path)) == [("p", "r", None)]


def test_utf16_files_are_read(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        json.dumps({"prompt": "größer", "response": "ja"}, ensure_ascii=False), "utf-16"
    )
    assert texts(read_dataset(path)) == [("größer", "ja", None)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "Git LFS .*git lfs pull"),
        ("# xet version 0\nfilesize = 12\n", "Xet pointer"),
        ("/annex/objects/MD5E-s12--abc.jsonl\n", "git-annex .*git annex get"),
    ],
)
def test_a_pointer_to_data_kept_elsewhere_is_no_data(tmp_path, text, words):
    for name in ("rows.jsonl", "rows.parquet", "rows.arrow"):
        (tmp_path / name).write_text(text)
        with pytest.raises(DatasetError, match=rf"{name} is a {words}"):
            read_dataset(tmp_path / name)
