"""Small files of rows, and what was read from them."""

import json
from pathlib import Path

from adapt_lora.data import Dataset, read_dataset

USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "hello"}


def write_jsonl(path: Path, records: list) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def read_records(tmp_path: Path, *records: object, **options) -> Dataset:
    return read_dataset(write_jsonl(tmp_path / "mine.jsonl", list(records)), **options)


def texts(dataset: Dataset) -> list[tuple[str, str | None, str | None]]:
    return [(row.prompt, row.response, row.label) for row in dataset.rows]


def numbered(n: int) -> list[dict[str, str]]:
    return [{"prompt": f"question {i}", "response": f"answer {i}"} for i in range(n)]


def assert_skipped(tmp_path: Path, line: bytes, words: str) -> None:
    """That the line, the 501st among 600 good ones, is skipped alone, and named in those words."""
    records = [*numbered(599), {"prompt": "größer", "response": "naïve"}]
    good = [json.dumps(record, ensure_ascii=False).encode() for record in records]
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"\n".join([*good[:500], line, *good[500:]]))
    dataset = read_dataset(path)
    assert len(dataset.rows) == 600
    assert [row.line for row in dataset.skipped] == [501]
    reason = dataset.skipped[0].reason
    assert words in reason
    assert f"600 of 601 rows used; skipped: line 501: {reason}" in dataset.describe()


def make_folder(tmp_path: Path, **meta: object) -> Path:
    """A folder of two splits, and a meta.json of that content."""
    folder = tmp_path / "reviews"
    folder.mkdir()
    row = {"prompt": "p", "response": "pos", "label": "pos"}
    write_jsonl(folder / "train.jsonl", [row, row])
    write_jsonl(folder / "test.jsonl", [row])
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder
