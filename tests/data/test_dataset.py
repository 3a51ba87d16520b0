import json

from adapt_lora.data import Row, read_dataset, sample_rows
from tests.data.conftest import numbered, read_records, write_jsonl


def test_digests_ignore_line_ends_and_unicode_forms_but_no_words():
    row = Row("caf\u00e9 \r\nau lait\n", "r", None, 1)
    assert row.digest == Row("cafe\u0301\nau lait", "r", None, 9).digest
    assert row.digest != Row("caf\u00e9\nau lait", None, "r", 1).digest


def test_a_dataset_is_known_by_its_rows_whatever_the_format(tmp_path):
    jsonl = write_jsonl(tmp_path / "a.jsonl", numbered(5))
    array = tmp_path / "b.json"
    array.write_text(json.dumps(numbered(5), indent=2))
    assert read_dataset(jsonl).digest == read_dataset(array).digest
    assert read_dataset(jsonl).digest != read_records(tmp_path, *numbered(4)).digest


def test_a_sample_is_drawn_without_replacement_in_order():
    rows = [Row(f"p{i}", "r", None, i) for i in range(100)]
    sample = sample_rows(rows, 30, seed=1)
    lines = [row.line for row in sample]
    assert len(set(lines)) == 30
    assert lines == sorted(lines)
    assert sample == sample_rows(rows, 30, seed=1)
    assert sample != sample_rows(rows, 30, seed=2)
    assert set(sample) < set(sample_rows(rows, 60, seed=1))
    assert sample_rows(rows, 100, seed=1) == tuple(rows)
