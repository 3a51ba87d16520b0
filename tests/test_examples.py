import importlib.util
import sys
from pathlib import Path

import pytest

from adapt_lora.data import read_dataset

EXAMPLES = Path(__file__).parent.parent / "examples"
FOLDERS = sorted(path.parent.name for path in EXAMPLES.glob("*/meta.json"))


def test_the_generator_reproduces_the_committed_examples(tmp_path):
    spec = importlib.util.spec_from_file_location("make_examples", EXAMPLES / "make_examples.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_examples"] = module
    spec.loader.exec_module(module)
    module.write_examples(tmp_path)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.json*")}
    there = {path.relative_to(EXAMPLES): path.read_bytes() for path in EXAMPLES.rglob("*.json*")}
    assert len(FOLDERS) >= 5
    assert made == there


def test_no_example_row_stands_in_two_files():
    seen: dict[str, Path] = {}
    for path in sorted(EXAMPLES.rglob("*.jsonl")):
        for row in read_dataset(path).rows:
            key = row.prompt.lower()
            assert key not in seen, f"{path} line {row.line} stands in {seen[key]} too"
            seen[key] = path


@pytest.mark.parametrize("name", FOLDERS)
def test_an_example_dataset_reads_clean(name):
    train = read_dataset(EXAMPLES / name, split="train")
    test = read_dataset(EXAMPLES / name)
    assert len(train.rows) >= 240
    assert len(test.rows) >= 120
    assert not train.skipped + test.skipped
    assert train.group == test.group == name
    assert {row.label for row in train.rows} == {row.label for row in test.rows}
    assert set(test.labels) == {row.label for row in test.rows} - {None}


def test_mydata_is_a_balanced_labelled_target():
    dataset = read_dataset(EXAMPLES / "mydata.jsonl")
    assert dataset.labels == ("negative", "positive")
    assert sum(row.label == "positive" for row in dataset.rows) == len(dataset.rows) / 2 == 100
