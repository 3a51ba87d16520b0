import gzip
import json

import pytest

from adapt_lora.data import read_dataset
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
