import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError
from tests.data.conftest import numbered, write_jsonl


def write_parquet(path, texts):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": texts, "label": ["x"] * len(texts)}), path)


def prompts(source, split="test"):
    return [row.prompt for row in read_dataset(source, split=split).rows]


@pytest.mark.parametrize("hash_", ["", "-0a1b2c3d"])
@pytest.mark.parametrize("inner", ["data", "."])
def test_all_shards_of_a_split_are_read_in_their_order(tmp_path, inner, hash_):
    folder = tmp_path / "reviews"
    for number, texts in enumerate((["a", "b"], ["c"], ["d", "e"])):
        write_parquet(folder / inner / f"train-0000{number}-of-00003{hash_}.parquet", texts)
    write_parquet(folder / inner / f"test-00000-of-00001{hash_}.parquet", ["t"])
    (folder / "README.md").write_text("# Reviews")
    train = read_dataset(folder, split="train")
    assert [row.prompt for row in train.rows] == ["a", "b", "c", "d", "e"]
    assert [row.line for row in train.rows] == [1, 2, 3, 4, 5]
    assert (train.name, train.group, train.source) == ("reviews", "reviews", "train in 3 shards")
    assert train.file_format == "Parquet in 3 shards"
    assert prompts(folder) == ["t"]
    assert prompts(folder / inner) == ["t"]


def test_a_folder_for_each_split_is_read(tmp_path):
    for split, numbers in (("train", (0, 1)), ("test", (0,))):
        for number in numbers:
            write_parquet(tmp_path / "mine" / split / f"000{number}.parquet", [f"{split}{number}"])
    assert prompts(tmp_path / "mine", "train") == ["train0", "train1"]
    assert prompts(tmp_path / "mine") == ["test0"]


def test_the_pieces_of_one_table_are_read_together(tmp_path):
    for number in range(2):
        write_parquet(tmp_path / f"part-0000{number}-0a1b.snappy.parquet", [str(number)])
    (tmp_path / "_SUCCESS").write_text("")
    assert prompts(tmp_path) == ["0", "1"]


def test_skipped_rows_of_shards_are_counted_through_all_of_them(tmp_path):
    for number in range(2):
        rows = numbered(20)
        rows[3] = {"prompt": ""} if number else rows[3]
        write_jsonl(tmp_path / f"test-0000{number}-of-00002.jsonl", rows)
    dataset = read_dataset(tmp_path)
    assert "39 of 40 rows used; skipped: row 24: 'prompt' is empty" in dataset.describe()


def test_a_missing_shard_is_an_error(tmp_path):
    for number in (0, 2):
        write_parquet(tmp_path / f"train-0000{number}-of-00003.parquet", ["a"])
    with pytest.raises(DatasetError, match=r"2 shards are there .*not each of 3 once"):
        read_dataset(tmp_path, split="train")


def test_to_score_on_the_nearest_split_of_a_folder_will_do_and_is_said(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", numbered(3))
    write_jsonl(tmp_path / "validation.jsonl", numbered(2))
    write_jsonl(tmp_path / "eval_results.json", [{"accuracy": 1}])
    dataset = read_dataset(tmp_path)
    assert len(dataset.rows) == 2
    assert "there is no split 'test', so 'validation' is read instead" in dataset.notes
    (tmp_path / "train.jsonl").rename(tmp_path / "test.jsonl")
    with pytest.raises(DatasetError, match=r"without train.jsonl \(found: eval_results"):
        read_dataset(tmp_path, split="train")


def test_files_of_a_cache_are_told_by_the_split_in_their_names(tmp_path):
    write_jsonl(tmp_path / "reviews-train.jsonl", numbered(3))
    write_jsonl(tmp_path / "reviews-test.jsonl", numbered(2))
    assert len(prompts(tmp_path)) == 2
    write_jsonl(tmp_path / "hotels-test.jsonl", numbered(2))
    with pytest.raises(DatasetError, match="which of hotels-test, reviews-test is the split"):
        read_dataset(tmp_path)


def test_names_in_capitals_are_names_too(tmp_path):
    (tmp_path / "TEST.CSV").write_text("text,label\na,x\n")
    assert prompts(tmp_path) == ["a"]
