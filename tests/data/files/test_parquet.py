from adapt_lora.data import read_dataset
from tests.data.conftest import ASSISTANT, USER, texts


def test_parquet_is_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"text": ["a", "b", None], "label": [1, 0, 1], "score": [0.5, None, 1.0]})
    pq.write_table(table, tmp_path / "reviews.parquet")
    dataset = read_dataset(tmp_path / "reviews.parquet")
    assert texts(dataset) == [("a", "1", "1"), ("b", "0", "0")]
    assert dataset.labels == ("0", "1")
    assert "row 3: 'text' is empty" in dataset.describe()


def test_parquet_chats_are_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"messages": [[USER, ASSISTANT]]}), tmp_path / "chat.parquet")
    assert texts(read_dataset(tmp_path / "chat.parquet")) == [("hi", "hello", None)]
