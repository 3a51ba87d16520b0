import gzip
import json
from pathlib import Path

import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError
from tests.data.conftest import ASSISTANT, USER, texts


def test_parquet_is_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"text": ["a", "b", None], "label": [1, 0, 1], "score": [0.5, None, 1.0]})
    pq.write_table(table, tmp_path / "reviews.parquet")
    dataset = read_dataset(tmp_path / "reviews.parquet", allow_skips=True)
    assert texts(dataset) == [("a", "1", "1"), ("b", "0", "0")]
    assert dataset.labels == ("0", "1")
    assert "row 3: 'text' is empty" in dataset.describe()


def test_parquet_chats_are_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"messages": [[USER, ASSISTANT]]}), tmp_path / "chat.parquet")
    assert texts(read_dataset(tmp_path / "chat.parquet")) == [("hi", "hello", None)]


FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
}
ROWS = {"text": ["a", "b", "c"], "label": [1, 0, 1]}


def hub_table(rows: dict = ROWS, features: dict = FEATURES):
    """A table as `datasets` makes it, its features in the schema."""
    import pyarrow as pa

    stored = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.table(rows).replace_schema_metadata(stored)


def write_stream(path: Path, table) -> Path:
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def save_dataset(folder: Path, *tables, **state) -> Path:
    """A folder as `datasets.save_to_disk` writes it, a shard for each table."""
    names = [f"data-{n:05d}-of-{len(tables):05d}.arrow" for n in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        write_stream(folder / name, table)
    files = [{"filename": name} for name in names]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, **state}, indent=2))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    return folder


CLASSES = [("a", "pos", "pos"), ("b", "neg", "neg"), ("c", "pos", "pos")]


@pytest.mark.parametrize("kind", ["stream", "file", "feather", "parquet", "gzip"])
def test_class_names_of_the_files_own_metadata_are_used(tmp_path, kind):
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet as pq

    path = tmp_path / "reviews.arrow"
    if kind == "stream":
        write_stream(path, hub_table())
    elif kind == "gzip":
        written = write_stream(path, hub_table()).read_bytes()
        path = tmp_path / "reviews.arrow.gz"
        path.write_bytes(gzip.compress(written))
    elif kind == "file":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, hub_table().schema) as file:
            file.write_table(hub_table())
    elif kind == "feather":
        path = tmp_path / "reviews.feather"
        pyarrow.feather.write_feather(hub_table(), path)
    else:
        path = tmp_path / "reviews.parquet"
        pq.write_table(hub_table(), path)
    dataset = read_dataset(path)
    assert texts(dataset) == CLASSES
    assert dataset.file_format == ("Parquet" if kind == "parquet" else "Arrow")
    assert dataset.labels == ("neg", "pos")


def test_minus_one_is_a_hidden_class(tmp_path):
    table = hub_table({"text": ["a", "b", "c"], "label": [-1, -1, -1]})
    dataset = read_dataset(write_stream(tmp_path / "hidden.arrow", table))
    assert texts(dataset) == [("a", None, None), ("b", None, None), ("c", None, None)]


@pytest.mark.parametrize("kind", ["Sequence", "List", "a list"])
def test_class_names_are_used_inside_lists(tmp_path, kind):
    inner = FEATURES["label"]
    listed = [inner] if kind == "a list" else {"feature": inner, "_type": kind}
    table = hub_table({"text": ["a", "b"], "labels": [[1], [0]]}, {"labels": listed})
    dataset = read_dataset(write_stream(tmp_path / "x.arrow", table))
    assert [row.label for row in dataset.rows] == ["pos", "neg"]


def test_a_saved_dataset_is_read_with_all_its_shards_in_order(tmp_path):
    folder = save_dataset(tmp_path / "reviews", hub_table(), hub_table())
    dataset = read_dataset(folder)
    assert texts(dataset) == CLASSES * 2
    assert [row.line for row in dataset.rows] == [1, 2, 3, 4, 5, 6]
    assert (dataset.name, dataset.source, dataset.file_format) == ("reviews", "reviews", "Arrow")


def test_class_names_may_stand_beside_a_saved_dataset(tmp_path):
    folder = save_dataset(tmp_path / "reviews", hub_table().replace_schema_metadata(None))
    assert texts(read_dataset(folder)) == CLASSES


def test_of_saved_splits_the_one_that_is_asked_for_is_read(tmp_path):
    folder = tmp_path / "reviews"
    save_dataset(folder / "train", hub_table(), hub_table())
    save_dataset(folder / "test", hub_table())
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    test, train = read_dataset(folder), read_dataset(folder, split="train")
    assert (len(test.rows), len(train.rows)) == (3, 6)
    assert (test.name, train.name, test.group) == ("reviews", "reviews", "reviews")
    assert "the split 'test' is read, beside train" in test.notes


def test_saved_splits_without_one_to_learn_from_are_refused(tmp_path):
    save_dataset(tmp_path / "reviews" / "test", hub_table())
    (tmp_path / "reviews" / "dataset_dict.json").write_text('{"splits": ["test"]}')
    with pytest.raises(DatasetError, match=r"no split 'train' \(found: test\)"):
        read_dataset(tmp_path / "reviews", split="train")


def test_a_selection_of_saved_rows_is_refused(tmp_path):
    picked = [{"filename": "indices.arrow"}]
    folder = save_dataset(tmp_path / "reviews", hub_table(), _indices_data_files=picked)
    with pytest.raises(DatasetError, match="flatten_indices"):
        read_dataset(folder)


def test_a_missing_shard_is_named(tmp_path):
    folder = save_dataset(tmp_path / "reviews", hub_table(), hub_table())
    (folder / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(DatasetError, match=r"data-00001-of-00002\.arrow is missing"):
        read_dataset(folder)


def test_a_damaged_arrow_file_is_named(tmp_path):
    path = write_stream(tmp_path / "x.arrow", hub_table())
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DatasetError, match=r"x.arrow: damaged Arrow file"):
        read_dataset(path)


def test_two_columns_of_one_name_are_refused(tmp_path):
    import pyarrow as pa

    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pytest.raises(DatasetError, match="two columns are called 'text'"):
        read_dataset(write_stream(tmp_path / "x.arrow", table))


def test_tool_calls_of_arrow_leave_out_what_arrow_filled_in(tmp_path):
    import pyarrow as pa

    calls = [{"function": {"name": "w", "arguments": {"city": "Oslo"}}}]
    other = [{"function": {"name": "v", "arguments": {"n": 1}}}]
    chats = [
        [USER, {"role": "assistant", "content": None, "tool_calls": c}] for c in (calls, other)
    ]
    dataset = read_dataset(write_stream(tmp_path / "x.arrow", pa.table({"messages": chats})))
    assert [row.response for row in dataset.rows] == [
        '{"name": "w", "arguments": {"city": "Oslo"}}',
        '{"name": "v", "arguments": {"n": 1}}',
    ]


def test_one_shard_of_several_is_said(tmp_path):
    path = write_stream(tmp_path / "data-00001-of-00003.arrow", hub_table())
    assert "this is one of 3 shards" in read_dataset(path).describe()
    alone = write_stream(tmp_path / "data-00000-of-00001.arrow", hub_table())
    assert "shards" not in read_dataset(alone).describe()


def test_feather_files_of_both_versions_are_read(tmp_path):
    import pyarrow.feather

    for version in (1, 2):
        pyarrow.feather.write_feather(hub_table(), tmp_path / "x.feather", version=version)
        assert [row.prompt for row in read_dataset(tmp_path / "x.feather").rows] == ["a", "b", "c"]


@pytest.mark.parametrize("state", ["{", '{"_data_files": [{"name": "a"}]}', '{"_data_files": 1}'])
def test_a_saved_dataset_whose_list_of_files_is_damaged_is_named(tmp_path, state):
    folder = save_dataset(tmp_path / "saved", hub_table())
    (folder / "state.json").write_text(state)
    with pytest.raises(DatasetError, match=r"state\.json: .*Copy it again"):
        read_dataset(folder)


def test_a_split_that_is_listed_and_not_there_is_named(tmp_path):
    save_dataset(tmp_path / "saved" / "train", hub_table())
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DatasetError, match="the folder of its split 'test' is missing"):
        read_dataset(tmp_path / "saved")


def write_parquet(path: Path, table) -> Path:
    import pyarrow.parquet as pq

    pq.write_table(table, path)
    return path


@pytest.mark.parametrize("stored", ["not json", "null", "[]", "{}", '{"info": []}', '{"info": 1}'])
def test_notes_of_the_columns_that_cannot_be_read_leave_numbers_and_are_said(tmp_path, stored):
    table = hub_table().replace_schema_metadata({"huggingface": stored})
    for path in (write_parquet(tmp_path / "x.parquet", table), write_stream(tmp_path / "y", table)):
        dataset = read_dataset(path)
        assert dataset.labels == ("0", "1")
        assert "what `datasets` noted of the columns can't be read" in dataset.describe()


@pytest.mark.parametrize("stored", ['{"info": null}', '{"info": {"features": null}}'])
def test_columns_that_nothing_was_noted_of_are_read(tmp_path, stored):
    table = hub_table().replace_schema_metadata({"huggingface": stored})
    dataset = read_dataset(write_parquet(tmp_path / "x.parquet", table))
    assert "noted" not in dataset.describe()


def test_times_that_python_cannot_say_are_texts(tmp_path):
    import pyarrow as pa

    kinds = {
        "zone": pa.timestamp("us", "Nowhere/Atall"),
        "nanoseconds": pa.timestamp("ns"),
        "far": pa.timestamp("s"),
    }
    values = {"zone": 1, "nanoseconds": 1, "far": 10**14}
    columns = {name: pa.array([values[name]] * 3, kind) for name, kind in kinds.items()}
    table = pa.table({"text": ["a", "b", "c"], "label": ["x", "y", "x"], **columns})
    dataset = read_dataset(write_parquet(tmp_path / "x.parquet", table))
    assert dataset.labels == ("x", "y")


def test_two_columns_of_one_name_in_parquet_are_refused_by_name(tmp_path):
    import pyarrow as pa

    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pytest.raises(DatasetError, match=r"two columns are called 'text'.*Rename one"):
        read_dataset(write_parquet(tmp_path / "x.parquet", table))


def test_class_names_may_stand_beside_a_lone_arrow_file(tmp_path):
    table = hub_table().replace_schema_metadata(None)
    save_dataset(tmp_path / "reviews", table)
    assert texts(read_dataset(tmp_path / "reviews" / "data-00000-of-00001.arrow")) == CLASSES


@pytest.mark.parametrize("splits", ["5", "null", '"train"', "{}"])
def test_a_list_of_splits_that_is_none_is_named(tmp_path, splits):
    save_dataset(tmp_path / "saved" / "train", hub_table())
    (tmp_path / "saved" / "dataset_dict.json").write_text(f'{{"splits": {splits}}}')
    with pytest.raises(DatasetError, match=r"dataset_dict\.json: its 'splits' are no list"):
        read_dataset(tmp_path / "saved")
