import gzip
import json

import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError
from tests.data.conftest import texts

PAIRS = [{"prompt": "p, one", "response": "r 1"}, {"prompt": "p two", "response": '"r" 2'}]
PAIR_TEXTS = [("p, one", "r 1", None), ("p two", '"r" 2', None)]


def csv_text(delimiter: str) -> str:
    cells = [[pair["prompt"], pair["response"].replace('"', '""')] for pair in PAIRS]
    rows = [delimiter.join(f'"{cell}"' for cell in row) for row in cells]
    return "\n".join([f"prompt{delimiter}response", *rows])


FORMATS = {
    # file name, text, detected format, lines of the two rows
    "JSONL": ("a.jsonl", "\n".join(map(json.dumps, PAIRS)), "JSONL", [1, 2]),
    "JSONL named .json": ("a.json", "\n".join(map(json.dumps, PAIRS)), "JSONL", [1, 2]),
    "JSONL named .txt": ("a.txt", "\n".join(map(json.dumps, PAIRS)), "JSONL", [1, 2]),
    "array, one element a line": (
        "a.json",
        "[\n" + ",\n".join(map(json.dumps, PAIRS)) + "\n]",
        "JSON",
        [2, 3],
    ),
    "array, spread over lines": ("a.json", json.dumps(PAIRS, indent=1), "JSON", [2, 6]),
    "array on one line counts rows": ("a.jsonl", json.dumps(PAIRS), "JSON on one line", [1, 2]),
    "wrapper": (
        "a.json",
        json.dumps({"version": {"n": [1]}, "data": PAIRS, "more": 1}, indent=1),
        "JSON",
        [8, 12],
    ),
    "wrapper on one line": ("a.json", json.dumps({"data": PAIRS}), "JSON on one line", [1, 2]),
    "CSV": ("a.csv", csv_text(","), "CSV", [2, 3]),
    "CSV with semicolons": ("a.csv", csv_text(";"), "CSV", [2, 3]),
    "TSV": ("a.tsv", csv_text("\t"), "TSV", [2, 3]),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("case", FORMATS)
def test_each_format_is_read_plain_and_gzipped(tmp_path, case, zipped):
    name, text, file_format, lines = FORMATS[case]
    path = tmp_path / (f"{name}.gz" if zipped else name)
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    dataset = read_dataset(path)
    assert texts(dataset) == PAIR_TEXTS
    assert dataset.file_format == file_format
    assert [row.line for row in dataset.rows] == lines
    assert (dataset.name, dataset.source) == ("a", path.name)


def test_names_in_capitals_are_known_gzipped_too(tmp_path):
    path = tmp_path / "MINE.CSV.GZ"
    path.write_bytes(gzip.compress(csv_text(",").encode()))
    dataset = read_dataset(path)
    assert texts(dataset) == PAIR_TEXTS
    assert dataset.name == "MINE"


def test_what_a_name_says_wrongly_is_said(tmp_path):
    (tmp_path / "mine.jsonl").write_text("text,label\na,x\nb,y\n")
    with pytest.raises(DatasetError, match=r"no line of it is JSON, and it looks like CSV"):
        read_dataset(tmp_path / "mine.jsonl")
    (tmp_path / "mine.csv").write_text("\n".join(map(json.dumps, PAIRS)))
    dataset = read_dataset(tmp_path / "mine.csv")
    assert texts(dataset) == PAIR_TEXTS
    assert "named .csv, but JSON inside" in dataset.notes
    (tmp_path / "other.jsonl").write_text("{'text': 'a', 'label': 'x'}\n" * 2)
    with pytest.raises(DatasetError, match="line 1: not JSON"):
        read_dataset(tmp_path / "other.jsonl")
