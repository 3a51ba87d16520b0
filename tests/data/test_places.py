import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError
from tests.data.conftest import make_folder, numbered, write_jsonl


def test_a_folder_without_the_split_says_what_is_there(tmp_path):
    with pytest.raises(
        DatasetError, match=r"without dev.jsonl \(found: meta.json, test.jsonl, train"
    ):
        read_dataset(make_folder(tmp_path), split="dev")


def test_of_one_split_in_several_formats_jsonl_is_read(tmp_path):
    folder = make_folder(tmp_path)
    (folder / "test.csv").write_text("prompt,response\np,r\n")
    assert read_dataset(folder).source == "test.jsonl"
    (folder / "test.jsonl").unlink()
    assert read_dataset(folder).source == "test.csv"


def test_the_splits_of_one_name_are_twins(tmp_path):
    records = numbered(2)
    train = read_dataset(write_jsonl(tmp_path / "sst2_train.jsonl", records))
    test = read_dataset(write_jsonl(tmp_path / "sst2-test.jsonl", records))
    assert (train.name, train.group, test.group) == ("sst2_train", "sst2", "sst2")


def test_a_bare_split_file_is_named_after_its_folder(tmp_path):
    (tmp_path / "hotels").mkdir()
    dataset = read_dataset(write_jsonl(tmp_path / "hotels" / "train.jsonl", numbered(2)))
    assert (dataset.name, dataset.group) == ("hotels", "hotels")


@pytest.mark.parametrize("source", ["nothing.jsonl", "no/such/file.csv", "data/mine.jsonl", "/no"])
def test_a_path_that_does_not_exist_gets_one_sentence(source):
    with pytest.raises(DatasetError, match=r"does not exist.*org/name"):
        read_dataset(source)


def test_a_link_that_leads_nowhere_is_said(tmp_path):
    (tmp_path / "rows.jsonl").symlink_to("../annex/rows.jsonl")
    with pytest.raises(DatasetError, match=r"a link to \.\./annex/rows\.jsonl, which is not there"):
        read_dataset(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_path_is_not_the_current_folder(source):
    with pytest.raises(DatasetError, match="the path is empty"):
        read_dataset(source)
