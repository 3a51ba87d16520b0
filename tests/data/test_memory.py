"""Rows that Python holds are read as a file of the same rows would be."""

import sys
from datetime import date
from decimal import Decimal
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow
import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import ConfigError, DatasetError

ROWS = [{"text": f'it, "was" {word}\nindeed', "label": i % 2} for i, word in enumerate("abcdef")]


def frame(**columns):
    return pd.DataFrame(columns or {field: [row[field] for row in ROWS] for field in ROWS[0]})


def table(path):
    """The same rows as each kind of file, by its suffix."""
    frame().to_csv(path / "rows.csv", index=False)
    frame().to_json(path / "rows.jsonl", orient="records", lines=True)
    frame().to_parquet(path / "rows.parquet")
    return path / "rows"


@pytest.mark.parametrize(
    "held",
    [
        frame(),
        frame().astype({"label": "Int8"}),
        frame().astype({"label": "category"}),
        frame().set_index("text"),  # its CSV has the named index as a column
        ROWS,
        tuple(ROWS),
        [{**row, "label": np.int32(row["label"])} for row in ROWS],
        frame().to_dict("list"),
        frame().to_dict(),
        pyarrow.Table.from_pandas(frame()),
    ],
    ids=lambda held: type(held).__name__,
)
def test_they_are_the_same_dataset_as_their_files(held, tmp_path):
    home = table(tmp_path)
    digests = {read_dataset(home.with_suffix(s)).digest for s in (".csv", ".jsonl", ".parquet")}
    assert digests == {read_dataset(held).digest}


def test_what_has_no_name_is_called_after_what_it_is_and_its_digest():
    dataset = read_dataset(frame())
    assert dataset.name == dataset.group == f"DataFrame-{dataset.digest[:8]}"
    assert (dataset.source, dataset.file_format) == ("DataFrame", "DataFrame")
    assert read_dataset(ROWS).name.startswith("rows-")
    assert read_dataset(["one", "two"]).name.startswith("prompts-")
    named = read_dataset(frame(), name="tickets_test")
    assert (named.name, named.group) == ("tickets_test", "tickets")


def test_a_dataset_that_was_read_already_is_given_back():
    dataset = read_dataset(frame())
    assert read_dataset(dataset) == dataset
    assert read_dataset(dataset, name="tickets", group="mine").name == "tickets"
    with pytest.raises(ConfigError, match="was read already"):
        read_dataset(dataset, mapping={"prompt": "text"})


def test_missing_values_of_every_library_are_missing():
    gone = [None, float("nan"), np.nan, pd.NA, pd.NaT]
    rows = [{"prompt": f"p{i}", "response": x} for i, x in enumerate([*gone, *"abcdefg"])]
    dataset = read_dataset(rows, allow_skips=True)
    assert [row.response for row in dataset.rows] == list("abcdefg")
    assert [row.line for row in dataset.skipped] == [1, 2, 3, 4, 5]
    assert dataset.skipped[0].describe(dataset.file_format).startswith("row 1: ")
    prompts = pd.DataFrame({"prompt": ["a", None, pd.NA], "label": ["x", "y", "z"]})
    assert len(read_dataset(prompts, allow_skips=True).rows) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(0.1), "0.1"),
        (np.bool_(True), "true"),
        (1.0, "1.0"),
        ("007", "007"),
        (Decimal("1.50"), "1.50"),
        (date(2024, 2, 29), "2024-02-29"),
        (np.array("seven"), "seven"),
    ],
    ids=repr,
)
def test_values_are_texts_as_a_file_would_write_them(value, text):
    (row,) = read_dataset([{"prompt": "p", "response": value}]).rows
    assert row.response == text


def test_a_value_that_no_file_could_hold_costs_only_the_rows_that_need_it():
    rows = [{"prompt": "p", "response": "r", "extra": object()}] * 3
    assert len(read_dataset(rows).rows) == 3
    with pytest.raises(DatasetError, match="row 1: 'prompt' is an object where text was expected"):
        read_dataset([{"prompt": object(), "response": "r"}] * 3)


def test_prompts_are_an_unlabelled_target():
    for held in (
        ["one", "two"],
        ("one", "two"),
        pd.Series(["one", "two"]),
        np.array(["one", "two"]),
    ):
        dataset = read_dataset(held)
        assert [row.prompt for row in dataset.rows] == ["one", "two"]
        assert not dataset.has_responses
        assert not dataset.is_labelled


def test_detection_skips_and_splits_work_as_in_files():
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (row, _) = read_dataset([{"messages": chat}] * 2).rows
    assert (row.prompt, row.response) == ("q", "a")
    mapped = read_dataset(frame(foo=["a", "b"], bar=["x", "y"]), mapping={"prompt": "foo"})
    assert [row.prompt for row in mapped.rows] == ["a", "b"]
    both = frame(prompt=["a", "b"], response=["x", "y"], split=["train", "test"])
    assert read_dataset(both).rows[0].prompt == "b"
    assert read_dataset(both, split="train").rows[0].prompt == "a"


@pytest.mark.parametrize(
    ("held", "error", "words"),
    [
        ([], DatasetError, "holds no rows"),
        (pd.DataFrame(), DatasetError, "holds no rows"),
        ([1, 2], DatasetError, r"Item 1 of the list is 1 \(int\)"),
        ([[{"role": "user", "content": "q"}]], DatasetError, "must be a dict of fields"),
        (["mine.csv"], DatasetError, "mine.csv in the list is the name of a file"),
        ([{"prompt": "a"}, "b"], DatasetError, "row 2: a string or number where an object"),
        ({"prompt": "a"}, DatasetError, "neither rows nor columns"),
        ({"train": ROWS, "test": ROWS}, DatasetError, r"2 splits \(train, test\).*data\['train'\]"),
        ({"test": frame()}, DatasetError, r"Pass data\['test'\]"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), DatasetError, "two columns"),
        (frame(foo=["a"]), DatasetError, r"DataFrame: no field looks like a prompt"),
        (3, ConfigError, "is 3, but must be a path, a Hub id, a DataFrame"),
        (iter(ROWS), ConfigError, r"Take the rows that you mean first: list\(rows\)"),
    ],
)
def test_what_can_not_be_rows_is_refused_in_one_sentence(held, error, words):
    with pytest.raises(error, match=words) as caught:
        read_dataset(held)
    assert "\n" not in str(caught.value)


def a_library(monkeypatch):
    """A stand-in for `datasets`, which is no dependency: classes as its own are."""

    class Dataset:
        def __init__(self, rows, names, *, dataset_name=None, builder_name=None):
            self.table = pyarrow.Table.from_pylist(rows)
            kinds = {"label": {"_type": "ClassLabel", "names": names}}
            self.features = SimpleNamespace(to_dict=lambda: kinds)
            self.info = SimpleNamespace(dataset_name=dataset_name, builder_name=builder_name)

        def __len__(self):
            return self.table.num_rows

        def with_format(self, form):
            assert form == "arrow"
            return self.table

    module = ModuleType("datasets")
    module.Dataset = Dataset
    module.DatasetDict = type("DatasetDict", (dict,), {})
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_class_numbers_of_a_dataset_become_their_names(monkeypatch):
    library = a_library(monkeypatch)
    rows = [*ROWS, {"text": "hidden", "label": -1}]
    dataset = read_dataset(library.Dataset(rows, ["neg", "pos"]), allow_skips=True)
    assert dataset.labels == ("neg", "pos")
    assert [row.line for row in dataset.skipped] == [7]
    named = [{**row, "label": ("neg", "pos")[row["label"]]} for row in ROWS]
    assert dataset.digest == read_dataset(named).digest
    assert dataset.name.startswith("Dataset-")


def test_a_dataset_of_a_benchmark_is_a_twin_of_its_other_splits(monkeypatch):
    library = a_library(monkeypatch)
    loaded = library.Dataset(ROWS, ["a", "b"], dataset_name="imdb", builder_name="parquet")
    dataset = read_dataset(loaded)
    assert (dataset.name, dataset.group) == (f"imdb-{dataset.digest[:8]}", "imdb")
    from_file = library.Dataset(ROWS, ["a", "b"], dataset_name="csv", builder_name="csv")
    assert read_dataset(from_file).name.startswith("Dataset-")


def test_a_dict_of_splits_is_refused_by_their_names(monkeypatch):
    library = a_library(monkeypatch)
    splits = library.DatasetDict(train=library.Dataset(ROWS, []), test=library.Dataset(ROWS, []))
    with pytest.raises(DatasetError, match=r"2 splits \(train, test\), and which is meant"):
        read_dataset(splits)


def test_the_real_library_gives_what_its_saved_folder_gives(tmp_path):
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["neg", "pos"])
    loaded = datasets.Dataset.from_pandas(frame()).cast_column("label", names)
    loaded.save_to_disk(tmp_path / "saved")
    assert read_dataset(loaded).digest == read_dataset(tmp_path / "saved").digest
    few = read_dataset(loaded.shuffle(seed=1).select(range(2)).with_format("numpy"))
    assert len(few.rows) == 2
    assert {row.label for row in few.rows} <= {"neg", "pos"}
