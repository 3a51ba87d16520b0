"""Rows of a suite from a folder."""

import json
from pathlib import Path

import pytest

from adapt_lora.data import read_dataset, sample_rows
from adapt_lora.data.suite import RowSource, SourceFetcher, read_suite_task, suite_tasks
from adapt_lora.errors import DatasetError

SST2 = suite_tasks()[0]
SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sst2").mkdir()
    rows = [{"prompt": f"film {i}", "label": "positive"} for i in range(30)]
    text = "".join(json.dumps({**row, "response": row["label"]}) + "\n" for row in rows)
    (tmp_path / "sst2" / "test.jsonl").write_text(text)
    return tmp_path


def source(folder):
    return RowSource(SourceFetcher(folder / "cache", "http://127.0.0.1:9"), folder)


def test_a_folders_rows_are_picked_by_their_digests(folder, known_rows):
    rows = read_dataset(folder / "sst2").rows
    known_rows("sst2", rows[5:25][::-1])
    dataset = read_suite_task(SST2, source(folder))
    assert dataset.rows == rows[5:25][::-1]
    assert read_suite_task(SST2, source(folder), max_rows=4).rows == sample_rows(
        rows[5:25][::-1], 4, seed=0
    )
    assert not source(folder).needs_network(SST2)


def test_a_folder_without_the_task_or_its_rows_is_named(folder):
    with pytest.raises(DatasetError, match=r"only 0 of the 200 rows of the suite are in .*/sst2"):
        read_suite_task(SST2, source(folder))
    with pytest.raises(DatasetError, match=r"trec: ADAPT_SUITE_DIR is .* no folder trec"):
        read_suite_task(suite_tasks()[1], source(folder))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the datasets beside the repository")
@pytest.mark.parametrize("task", suite_tasks(), ids=lambda task: task.name)
def test_the_measured_rows_are_those_of_the_starter(task):
    dataset, whole = read_suite_task(task, source(SHARED)), read_dataset(SHARED / task.name)
    assert dataset.rows == sample_rows(whole.rows, task.n_rows, seed=0)
    for field in ("name", "group", "family", "labels"):
        assert getattr(dataset, field) == getattr(whole, field)
