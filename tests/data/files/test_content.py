import json

from adapt_lora.data import read_dataset
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
