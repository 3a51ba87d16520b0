import csv
import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from adapt_lora.data import Dataset, Row, parse_mapping, read_dataset, sample_rows
from adapt_lora.errors import ConfigError, DatasetError

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"


def write_jsonl(path: Path, records: list) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def read_records(tmp_path: Path, *records: object, **options) -> Dataset:
    return read_dataset(write_jsonl(tmp_path / "mine.jsonl", list(records)), **options)


def texts(dataset: Dataset) -> list[tuple[str, str | None, str | None]]:
    return [(row.prompt, row.response, row.label) for row in dataset.rows]


def numbered(n: int) -> list[dict[str, str]]:
    return [{"prompt": f"question {i}", "response": f"answer {i}"} for i in range(n)]


# ---- Shapes --------------------------------------------------------------------------------------

USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "hello"}

SHAPES = {
    # record, (prompt, response, label), shape
    "prompt/response": ({"prompt": "p", "response": "r"}, ("p", "r", None), "prompt/response"),
    "prompt/completion": ({"prompt": "p", "completion": "r"}, ("p", "r", None), None),
    "prompt alone": ({"prompt": "p"}, ("p", None, None), "prompt"),
    "prompt/response/label keep both": (
        {"prompt": "p", "response": "good", "label": "+"},
        ("p", "good", "+"),
        "prompt/response/label",
    ),
    "preference pairs take the chosen answer": (
        {"prompt": "p", "chosen": "r", "rejected": "s"},
        ("p", "r", None),
        "prompt/chosen",
    ),
    "instruction with input": (
        {"instruction": "Translate.", "input": "Haus", "output": "house"},
        ("Translate.\n\nHaus", "house", None),
        "instruction/input/output",
    ),
    "instruction with empty input": (
        {"instruction": "Sing.", "input": "", "output": "la"},
        ("Sing.", "la", None),
        "instruction/input/output",
    ),
    "a category beside a response is no label (dolly)": (
        {"instruction": "i", "context": "c", "response": "r", "category": "qa"},
        ("i\n\nc", "r", None),
        "instruction/context/response",
    ),
    "upper-case names (oasst)": (
        {"INSTRUCTION": "i", "RESPONSE": "r"},
        ("i", "r", None),
        "INSTRUCTION/RESPONSE",
    ),
    "question/answer": ({"question": "q", "answer": "a"}, ("q", "a", None), "question/answer"),
    "question/answers, SQuAD's dict": (
        {"context": "c", "question": "q", "answers": {"text": ["a", "b"], "answer_start": [1, 2]}},
        ("Context: c\nQuestion: q", "a", None),
        "context/question/answers",
    ),
    "answers as a list": ({"question": "q", "answers": ["a", "b"]}, ("q", "a", None), None),
    "article/question/answer": (
        {"article": "t", "question": "q", "answer": "a"},
        ("Article: t\nQuestion: q", "a", None),
        None,
    ),
    "query/response": ({"query": "q", "response": "r"}, ("q", "r", None), "query/response"),
    "input/target": ({"input": "i", "target": "t"}, ("i", "t", None), "input/target"),
    "input/output": ({"input": "i", "output": "t"}, ("i", "t", None), "input/output"),
    "source/target": ({"source": "s", "target": "t"}, ("s", "t", None), "source/target"),
    "dialogue/summary": ({"dialogue": "d", "summary": "s"}, ("d", "s", None), None),
    "text/label": ({"text": "t", "label": "pos"}, ("t", "pos", "pos"), "text/label"),
    "a source beside a text is no prompt": (
        {"source": "wiki", "text": "t", "label": "pos"},
        ("t", "pos", "pos"),
        "text/label",
    ),
    "sentence/labels": ({"sentence": "t", "labels": ["pos"]}, ("t", "pos", "pos"), None),
    "content/category": ({"content": "t", "category": "c"}, ("t", "c", "c"), None),
    "text/intent": ({"text": "t", "intent": "buy"}, ("t", "buy", "buy"), "text/intent"),
    "label names rather than numbers": (
        {"text": "t", "label": 1, "label_text": "pos"},
        ("t", "pos", "pos"),
        "text/label_text",
    ),
    "premise/hypothesis/label": (
        {"premise": "a", "hypothesis": "b", "label": "neutral"},
        ("Premise: a\nHypothesis: b", "neutral", "neutral"),
        None,
    ),
    "messages": ({"messages": [USER, ASSISTANT]}, ("hi", "hello", None), "messages"),
    "messages beside prompt and category": (
        {"prompt": "hi", "messages": [USER, ASSISTANT], "category": "chat"},
        ("hi", "hello", None),
        "messages",
    ),
    "messages without an answer": ({"messages": [USER]}, ("hi", None, None), "messages"),
    "messages with a system turn": (
        {"messages": [{"role": "system", "content": "Be brief."}, USER, ASSISTANT]},
        ("Be brief.\n\nhi", "hello", None),
        "messages",
    ),
    "several turns: the last answer is the response": (
        {"messages": [USER, ASSISTANT, {"role": "user", "content": "bye"}, ASSISTANT, USER]},
        ("User: hi\n\nAssistant: hello\n\nUser: bye", "hello", None),
        "messages",
    ),
    "messages with content parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, ASSISTANT]},
        ("hi", "hello", None),
        "messages",
    ),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        ("hi", "hello", None),
        "conversations",
    ),
    "chats in prompt and completion": (
        {"prompt": [USER], "completion": [ASSISTANT]},
        ("hi", "hello", None),
        "prompt/completion",
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_each_shape_is_recognised(tmp_path, case):
    record, expected, shape = SHAPES[case]
    dataset = read_records(tmp_path, record)
    assert texts(dataset) == [expected]
    if shape is not None:
        assert dataset.shape == shape


# ---- Formats -------------------------------------------------------------------------------------

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


def test_a_tsv_without_quoting_keeps_its_quotation_marks(tmp_path):
    path = tmp_path / "reviews.tsv"
    path.write_text('text\tlabel\n"Great" stuff\tpos\n"Never again\tneg\nfine\tpos\n')
    assert [row.prompt for row in read_dataset(path).rows] == [
        '"Great" stuff',
        '"Never again',
        "fine",
    ]


def test_a_quoted_csv_cell_may_hold_line_ends_and_lines_still_count_right(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_bytes(b'text,label\r\n"one\r\ntwo",pos\r\n\r\nthree,neg\r\n')
    assert [(row.prompt, row.line) for row in read_dataset(path).rows] == [
        ("one\ntwo", 2),
        ("three", 5),
    ]


# ---- Labels --------------------------------------------------------------------------------------


def test_labels_stay_strings_as_they_are_written(tmp_path):
    path = tmp_path / "codes.jsonl"
    values = ['"007"', "7", "1.50", "true", "12345678901234567890", '" spaced "']
    path.write_text("".join(f'{{"text": "t", "label": {value}}}\n' for value in values))
    labels = [row.label for row in read_dataset(path).rows]
    assert labels == ["007", "7", "1.50", "true", "12345678901234567890", "spaced"]


def test_csv_labels_stay_strings(tmp_path):
    path = tmp_path / "codes.csv"
    path.write_text("text,label\na,007\nb,NA\nc,1.0\n")
    assert [row.label for row in read_dataset(path).rows] == ["007", "NA", "1.0"]


def test_mixed_label_types_become_strings_of_one_set(tmp_path):
    records = [{"text": "a", "label": 1}, {"text": "b", "label": "x"}, {"text": "c", "label": True}]
    assert read_records(tmp_path, *records).labels == ("1", "true", "x")


def test_a_small_closed_set_of_repeated_responses_counts_as_labels(tmp_path):
    records = [{"prompt": f"p{i}", "response": " yes" if i % 2 else "no"} for i in range(10)]
    dataset = read_records(tmp_path, *records)
    assert dataset.labels == ("no", "yes")
    assert (dataset.rows[1].response, dataset.rows[1].label) == ("yes", "yes")
    assert "the labels are the responses" in dataset.describe()


NOT_LABELS = {
    "too few rows": ["yes", "no"] * 4 + ["yes"],
    "only one value": ["yes"] * 20,
    "a value that stands alone": ["yes"] * 19 + ["no"],
    "too many values for so few rows": ["a", "b", "c"] * 4,
    "several lines": ["yes\nsure", "no"] * 10,
    "long texts": ["y" * 61, "n" * 61] * 10,
    "sums that happen to repeat": [str(i % 11) for i in range(110)],
    "more than fifty values": [f"v{i % 51}" for i in range(510)],
}


@pytest.mark.parametrize("case", NOT_LABELS)
def test_responses_without_the_evidence_are_no_labels(tmp_path, case):
    records = [{"prompt": f"p{i}", "response": r} for i, r in enumerate(NOT_LABELS[case])]
    dataset = read_records(tmp_path, *records)
    assert not dataset.is_labelled
    assert {row.label for row in dataset.rows} == {None}


def test_a_scale_of_ten_numbers_counts_as_labels(tmp_path):
    records = [{"prompt": f"p{i}", "response": str(i % 10)} for i in range(100)]
    assert len(read_records(tmp_path, *records).labels) == 10


def test_a_label_field_with_free_text_is_not_a_label_set(tmp_path):
    records = [{"text": f"t{i}", "label": f"a long remark {i}"} for i in range(150)]
    dataset = read_records(tmp_path, *records)
    assert not dataset.is_labelled
    assert dataset.rows[3].response == "a long remark 3"
    assert "'label' has 150 values: free text, not labels" in dataset.notes


def test_one_single_label_is_said(tmp_path):
    dataset = read_records(tmp_path, {"text": "a", "label": "x"}, {"text": "b", "label": "x"})
    assert "every row has the label 'x'" in dataset.describe()


def test_labels_that_differ_from_responses_are_kept_and_said(tmp_path):
    dataset = read_records(tmp_path, {"prompt": "p", "response": "It is good.", "label": "pos"})
    assert dataset.rows[0].label == "pos"
    assert "label and response differ in 1 rows" in dataset.describe()


# ---- Dirt ----------------------------------------------------------------------------------------


def test_bom_crlf_and_blank_lines_are_harmless(tmp_path):
    path = tmp_path / "mine.jsonl"
    lines = [json.dumps(pair) for pair in PAIRS]
    path.write_bytes(b"\xef\xbb\xbf" + f"\r\n{lines[0]}\r\n\r\n  \r\n{lines[1]}\r\n\r\n".encode())
    dataset = read_dataset(path)
    assert texts(dataset) == PAIR_TEXTS
    assert [row.line for row in dataset.rows] == [2, 5]
    assert dataset.n_read == 2


def test_a_bom_does_not_hide_the_first_csv_column(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(b"\xef\xbb\xbfprompt,response\r\np,r\r\n")
    assert texts(read_dataset(path)) == [("p", "r", None)]


def test_utf16_files_are_read(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        json.dumps({"prompt": "größer", "response": "ja"}, ensure_ascii=False), "utf-16"
    )
    assert texts(read_dataset(path)) == [("größer", "ja", None)]


def test_lines_of_ten_megabytes_are_read(tmp_path):
    long = "word " * 2_000_000
    dataset = read_records(tmp_path, {"prompt": long, "response": "r"}, numbered(1)[0])
    assert len(dataset.rows[0].prompt) == 10_000_000


def test_csv_cells_of_ten_megabytes_are_read_and_the_global_limit_comes_back(tmp_path):
    before = csv.field_size_limit()
    path = tmp_path / "mine.csv"
    path.write_text("prompt,response\n" + "word " * 2_000_000 + ",r\n")
    assert len(read_dataset(path).rows[0].prompt) == 10_000_000
    assert csv.field_size_limit() == before


BAD_LINES = {
    # a line among good ones, the words that name it
    "not JSON": (b'{"prompt": "p", "response": ', "not JSON (Expecting value, column"),
    "an array": (b"[1, 2]", "an array where an object was expected"),
    "a bare string": (b'"text"', "a string or number where an object was expected"),
    "null": (b"null", "null or a truth value where an object was expected"),
    "missing field": (b'{"text": "p"}', "no 'prompt' field (found: text)"),
    "blank prompt": (b'{"prompt": "  ", "response": "r"}', "'prompt' is empty"),
    "null prompt": (b'{"prompt": null, "response": "r"}', "'prompt' is empty"),
    "NaN prompt": (b'{"prompt": NaN, "response": "r"}', "'prompt' is empty"),
    "object prompt": (b'{"prompt": {"a": 1}, "response": "r"}', "'prompt' is an object where text"),
    "no response": (b'{"prompt": "p"}', "no response, though most rows have one"),
    "blank response": (b'{"prompt": "p", "response": ""}', "no response, though most rows"),
    "nested list response": (b'{"prompt": "p", "response": [[1]]}', "'response' is an array where"),
    "invalid UTF-8": (b'{"prompt": "caf\xe9", "response": "r"}', "bytes that are not UTF-8"),
    "half an emoji": (b'{"prompt": "\\ud83d", "response": "r"}', "half an emoji escape"),
    "NUL bytes": (b"\0" * 9000, "not JSON"),
    "nested too deeply": (b"[" * 200_000, "not JSON"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_among_good_ones_is_skipped_and_named(tmp_path, case):
    line, words = BAD_LINES[case]
    good = [json.dumps(record).encode() for record in numbered(600)]
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"\n".join([*good[:500], line, *good[500:]]))
    dataset = read_dataset(path)
    assert len(dataset.rows) == 600
    assert [row.line for row in dataset.skipped] == [501]
    assert words in dataset.skipped[0].reason
    assert f"600 of 601 rows used; skipped: line 501: {dataset.skipped[0].reason}" in (
        dataset.describe()
    )


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "narrator", "content": "x"}, "unknown role 'narrator'"),
        ("hi", "not a list of messages"),
        ({"role": "user", "content": [{"type": "image"}]}, "parts that are not text"),
        ({"role": "assistant", "content": "x"}, "no text before the answer"),
    ],
)
def test_a_bad_chat_is_skipped_and_named(tmp_path, message, words):
    good = {"messages": [USER, ASSISTANT]}
    dataset = read_records(tmp_path, good, {"messages": [message]}, good)
    assert words in dataset.skipped[0].reason


def test_bad_csv_rows_are_skipped_and_named(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(b'text,label\na,x\nb,with,comma\n"c"d,x\ncaf\xe9,x\n,x\ne,x\nf,x\ng,x\nh,x\n')
    dataset = read_dataset(path)
    assert [row.prompt for row in dataset.rows] == ["a", "e", "f", "g", "h"]
    reasons = {row.line: row.reason for row in dataset.skipped}
    assert list(reasons) == [3, 4, 5, 6]
    assert "3 fields where the header names 2" in reasons[3]
    assert "not valid CSV" in reasons[4]
    assert "not UTF-8" in reasons[5]
    assert "'text' is empty" in reasons[6]


def test_more_than_half_unusable_rows_are_an_error_with_line_numbers(tmp_path):
    records = [{"prompt": "p", "response": "r"}, {"x": 1}, {"x": 2}]
    with pytest.raises(
        DatasetError, match=r"mine.jsonl: 2 of 3 rows can't be used \(line 2: no 'pr"
    ):
        read_records(tmp_path, *records)


def test_exactly_half_unusable_rows_are_still_read(tmp_path):
    assert len(read_records(tmp_path, {"prompt": "p", "response": "r"}, {"x": 1}).rows) == 1


BROKEN_FILES = {
    # file name, bytes, words of the sentence
    "empty": ("mine.jsonl", b"", "is empty: it needs one row at least"),
    "blank lines only": ("mine.jsonl", b"\n \r\n\n", "is empty"),
    "BOM only": ("mine.jsonl", b"\xef\xbb\xbf\n", "is empty"),
    "empty csv": ("mine.csv", b"", "is empty"),
    "csv header only": ("mine.csv", b"prompt,response\n", "holds no rows"),
    "empty array": ("mine.json", b"[]", "holds no rows"),
    "empty wrapper": ("mine.json", b'{"data": []}', "holds no rows"),
    "binary": ("mine.jsonl", b"\x89PNG\r\n\0\0\0\rIHDR\0", "is a binary file, not text"),
    "spreadsheet": ("mine.csv", b"PK\x03\x04\x14\0\6\0", "unpack it first"),
    "damaged gzip": ("mine.jsonl.gz", gzip.compress(b"{}" * 99)[:-9], "gzip file is damaged"),
    "damaged Parquet": ("mine.parquet", b"PAR1 and nothing else", "damaged Parquet file"),
    "prose": ("mine.txt", b"Once upon a time", "the format is not known"),
    "prose named JSONL": (
        "mine.jsonl",
        b"Once upon a time\nthere",
        r"2 of 2 rows .*line 1: not JSON",
    ),
    "latin-1 all over": (
        "mine.jsonl",
        b'{"prompt": "caf\xe9"}\n' * 3,
        r"3 of 3 rows can't be used \(line 1: 'prompt' has bytes that are not UTF-8",
    ),
    "truncated array": (
        "mine.json",
        b'[\n{"prompt": "p"},\n{"prompt": "q"',
        r"mine.json, line 3: the JSON array breaks off",
    ),
    "array with a hole": (
        "mine.json",
        b'[\n{"prompt": "p"}\n{"prompt": "q"}]',
        r"line 3: the JSON",
    ),
    "array of strings": ("mine.json", b'["a", "b"]', r"row 1: a string or number where an object"),
    "foreign fields": ("mine.jsonl", b'{"foo": "a", "bar": "b"}', "--map prompt=foo,response=bar"),
    "csv without header": ("mine.csv", b"nice,1\nawful,0\n", r"found: nice, 1"),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_a_broken_file_gets_its_sentence(tmp_path, case):
    name, data, words = BROKEN_FILES[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DatasetError, match=words) as caught:
        read_dataset(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_one_row_is_read_and_said(tmp_path):
    dataset = read_records(tmp_path, {"prompt": "p", "response": "r"})
    assert "one row only" in dataset.describe()


def test_duplicates_are_kept_and_counted(tmp_path):
    dataset = read_records(tmp_path, *numbered(3), *numbered(2))
    assert len(dataset.rows) == 5
    assert "2 rows repeat an earlier one" in dataset.describe()


def test_a_file_of_one_repeated_row_is_read_and_said(tmp_path):
    dataset = read_records(tmp_path, *numbered(1) * 40)
    assert len(dataset.rows) == 40
    assert "all 40 rows are the same row" in dataset.describe()


def test_rows_without_responses_make_an_unlabelled_target(tmp_path):
    dataset = read_records(tmp_path, {"text": "a"}, {"text": "b"})
    assert not dataset.has_responses
    assert not dataset.is_labelled
    assert "no responses: an unlabelled target" in dataset.describe()


def test_few_responses_among_many_rows_are_not_used(tmp_path):
    dataset = read_records(tmp_path, *[{"prompt": f"p{i}"} for i in range(9)], numbered(1)[0])
    assert len(dataset.rows) == 10
    assert not dataset.has_responses
    assert "only 1 of 10 rows have a response" in dataset.describe()


def test_hidden_labels_of_a_few_rows_skip_those_rows(tmp_path):
    records = [{"text": f"t{i}", "label": "ab"[i % 2] if i else None} for i in range(5)]
    dataset = read_records(tmp_path, *records)
    assert [row.line for row in dataset.skipped] == [1]
    assert dataset.is_labelled


# ---- Mapping -------------------------------------------------------------------------------------


def test_a_mapping_overrides_what_would_be_detected(tmp_path):
    record = {"prompt": "wrong", "response": "no", "title": "p", "verdict": "r"}
    dataset = read_records(tmp_path, record, mapping={"prompt": "title", "response": "verdict"})
    assert texts(dataset) == [("p", "r", None)]
    assert dataset.mapping == {"prompt": "title", "response": "verdict"}
    assert "fields not used: prompt, response" in dataset.describe()


def test_a_mapping_may_name_one_role_and_leave_the_rest_to_detection(tmp_path):
    dataset = read_records(tmp_path, {"text": "t", "topic": "x"}, mapping={"label": "topic"})
    assert texts(dataset) == [("t", "x", "x")]


def test_a_mapping_may_join_fields(tmp_path):
    record = {"claim": "c", "evidence": "e", "label": "true"}
    dataset = read_records(tmp_path, record, mapping={"prompt": "claim+evidence"})
    assert texts(dataset) == [("Claim: c\nEvidence: e", "true", "true")]


def test_a_mapping_may_switch_a_role_off(tmp_path):
    record = {"prompt": "p", "response": "r", "label": "x"}
    dataset = read_records(tmp_path, record, mapping={"label": "", "response": ""})
    assert texts(dataset) == [("p", None, None)]


def test_a_mapping_to_a_missing_field_names_what_is_there(tmp_path):
    with pytest.raises(
        DatasetError, match=r"no field 'Text' to use as prompt \(found: text, label"
    ):
        read_records(tmp_path, {"text": "t", "label": "x"}, mapping={"prompt": "Text"})


def test_mappings_are_parsed():
    text = " prompt = question+context,response=answer ,label="
    assert parse_mapping(text) == {
        "prompt": "question+context",
        "response": "answer",
        "label": "",
    }


@pytest.mark.parametrize(
    "text", ["", "prompt", "prompt=", "answer=x", "prompt=a,prompt=b", "prompt=a,,label=b"]
)
def test_a_malformed_mapping_is_refused(text):
    with pytest.raises(ConfigError, match="Write it like prompt=question"):
        parse_mapping(text)


# ---- Folders and names ---------------------------------------------------------------------------


def test_unit_tests_of_code_come_with_their_rows(tmp_path):
    record = {
        "prompt": "Double a number.",
        "response": "def double(x): return 2 * x",
        "test_setup": "import math",
        "test_list": ["assert double(1) == 2", "assert double(0) == 0"],
    }
    dataset = read_records(tmp_path, record, {**record, "test_setup": ""})
    assert dataset.rows[0].tests == ("import math", *record["test_list"])
    assert dataset.rows[1].tests == tuple(record["test_list"])
    assert "2 rows carry unit tests" in dataset.notes
    assert not any("not used" in note for note in dataset.notes)


def test_a_checking_function_is_called_with_the_one_it_checks(tmp_path):
    check = "def check(candidate):\n    assert candidate(1) == 2"
    record = {"prompt": "Double.", "response": "code", "test": check, "entry_point": "double"}
    assert read_records(tmp_path, record).rows[0].tests == (check, "check(double)")


@pytest.mark.parametrize("value", ["unit", ["a", 1], [], None, [{"input": 1}]])
def test_a_field_of_that_name_without_code_holds_no_tests(tmp_path, value):
    record = {"prompt": "p", "response": "r", "tests": value}
    assert read_records(tmp_path, record).rows[0].tests == ()


def make_folder(tmp_path: Path, **meta: object) -> Path:
    folder = tmp_path / "reviews"
    folder.mkdir()
    row = {"prompt": "p", "response": "pos", "label": "pos"}
    write_jsonl(folder / "train.jsonl", [row, row])
    write_jsonl(folder / "test.jsonl", [row])
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def test_a_folder_gives_the_split_and_what_its_meta_says(tmp_path):
    meta = {"name": "r", "group": "g", "family": "f", "labels": ["pos", "neg"]}
    folder = make_folder(tmp_path, metric="label_accuracy", **meta)
    dataset = read_dataset(folder)
    assert (dataset.name, dataset.group, dataset.family) == ("r", "g", "f")
    assert (dataset.labels, dataset.metric) == (("pos", "neg"), "balanced_accuracy")
    assert (dataset.source, len(dataset.rows)) == ("test.jsonl", 1)
    assert len(read_dataset(folder, split="train").rows) == 2


def test_a_split_file_by_its_path_has_the_same_group_as_its_folder(tmp_path):
    folder = make_folder(tmp_path, name="r", group="g")
    assert read_dataset(folder / "train.jsonl").group == "g"


def test_names_given_by_the_caller_win(tmp_path):
    dataset = read_dataset(make_folder(tmp_path, name="r", group="g"), name="n", group="h")
    assert (dataset.name, dataset.group) == ("n", "h")


@pytest.mark.parametrize(
    ("metric", "ours"),
    [
        ("label_accuracy", "balanced_accuracy"),
        ("exact_match", "exact_match"),
        ("numeric_match", "numeric_match"),
        ("rouge_l", "rouge_l"),
        ("pass@1", "pass_at_1"),
        ("bleu", "answer_log_likelihood"),
        (None, None),
    ],
)
def test_metrics_are_put_in_our_words(tmp_path, metric, ours):
    assert read_dataset(make_folder(tmp_path, metric=metric)).metric == ours


def test_meta_may_say_that_repeated_answers_are_no_labels(tmp_path):
    folder = make_folder(tmp_path, labels=None)
    write_jsonl(
        folder / "test.jsonl", [{"prompt": f"{i}", "response": "ab"[i % 2]} for i in range(20)]
    )
    assert not read_dataset(folder).is_labelled


def test_a_label_outside_the_metas_set_is_skipped(tmp_path):
    folder = make_folder(tmp_path, labels=["pos", "neg"])
    rows = [{"text": "t", "label": label} for label in ("pos", "neg", "pso")]
    write_jsonl(folder / "test.jsonl", rows)
    dataset = read_dataset(folder)
    assert "label 'pso' is not in meta.json's 'labels'" in dataset.skipped[0].reason
    assert len(dataset.rows) == 2


def test_a_broken_meta_is_named(tmp_path):
    folder = make_folder(tmp_path)
    (folder / "meta.json").write_text("{")
    with pytest.raises(DatasetError, match=r"meta.json: can't be read as JSON"):
        read_dataset(folder)


def test_a_folder_without_the_split_says_what_is_there(tmp_path):
    with pytest.raises(
        DatasetError, match=r"without dev.jsonl \(found: meta.json, test.jsonl, train"
    ):
        read_dataset(make_folder(tmp_path), split="dev")


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


# ---- Hub ids -------------------------------------------------------------------------------------


def fake_datasets(monkeypatch, *, splits: dict[str, list], names: list[str] | None = None) -> list:
    """A stand-in for the `datasets` library, which is no dependency; returns the calls it saw."""
    calls = []

    class FakeSplit(list):
        features: dict

    def load_dataset(path, name=None, revision=None, split=None):
        calls.append((path, name, revision, split))
        loaded = FakeSplit(splits[split])
        loaded.features = {key: SimpleNamespace() for key in splits[split][0]}
        loaded.features["label"] = SimpleNamespace(names=names) if names else SimpleNamespace()
        return loaded

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    module.get_dataset_split_names = lambda path, config_name=None, revision=None: list(splits)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_a_hub_dataset_gives_its_class_names(monkeypatch):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": "c", "label": -1}]
    calls = fake_datasets(monkeypatch, splits={"test": rows}, names=["neg", "pos"])
    dataset = read_dataset("stanfordnlp/imdb:plain@refs/pr/3")
    assert calls == [("stanfordnlp/imdb", "plain", "refs/pr/3", "test")]
    assert [row.label for row in dataset.rows] == ["pos", "neg"]
    assert dataset.skipped[0].line == 3  # -1 is a hidden label
    assert (dataset.name, dataset.source) == ("imdb-plain", "stanfordnlp/imdb:plain@refs/pr/3")


def test_a_hub_split_may_be_named_or_is_the_one_nearest_to_a_test_split(monkeypatch):
    calls = fake_datasets(monkeypatch, splits={"validation": numbered(2), "extra": numbered(2)})
    read_dataset("org/name")
    read_dataset("org/name#extra")
    assert [call[3] for call in calls] == ["validation", "extra"]


def test_a_missing_hub_split_to_train_on_is_an_error(monkeypatch):
    fake_datasets(monkeypatch, splits={"test": numbered(2)})
    with pytest.raises(DatasetError, match=r"no split 'train' \(found: test\)"):
        read_dataset("org/name", split="train")


def test_a_hub_id_without_the_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        DatasetError, match=r"org/name is not an existing path.*pip install datasets"
    ):
        read_dataset("org/name")


def test_a_hub_that_can_not_be_reached_is_one_sentence(monkeypatch):
    fake_datasets(monkeypatch, splits={"test": numbered(2)})

    def offline(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub\nlong traceback")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", offline)
    with pytest.raises(
        DatasetError, match="can't be loaded: Couldn't reach the Hub Check"
    ) as caught:
        read_dataset("org/name")
    assert "\n" not in str(caught.value)


# ---- Rows ----------------------------------------------------------------------------------------


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
    assert sample_rows(rows, 100, seed=1) == tuple(rows)


def test_importing_the_reader_imports_nothing_heavy():
    code = (
        "import sys, adapt_lora.data; "
        "heavy = {'torch', 'numpy', 'pyarrow', 'transformers', 'pandas'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- The examples --------------------------------------------------------------------------------

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


def test_a_label_that_stands_for_one_response_takes_its_name(tmp_path):
    path = tmp_path / "coded.jsonl"
    said = {0: "negative", 1: "positive"}
    rows = [{"prompt": f"text {i}", "response": said[i % 2], "label": i % 2} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = read_dataset(path)
    assert dataset.labels == ("negative", "positive")
    assert {row.label for row in dataset.rows} == {"negative", "positive"}
    assert "each label stands for one response" in dataset.describe()


def test_labels_that_do_not_match_responses_one_to_one_stay_as_they_are(tmp_path):
    path = tmp_path / "reasons.jsonl"
    rows = [{"prompt": f"text {i}", "response": f"because {i}", "label": i % 2} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_dataset(path).labels == ("0", "1")


def test_sentences_in_a_label_field_are_no_labels(tmp_path):
    path = tmp_path / "letters.jsonl"
    rows = [{"prompt": f"letter {i}", "label": f"Dear Mr Smith {i}, your bill"} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = read_dataset(path)
    assert dataset.labels == ()
    assert "free text, not labels" in dataset.describe()


def test_a_stray_quotation_mark_does_not_swallow_the_rest_of_a_csv(tmp_path):
    path = tmp_path / "stray.csv"
    lines = [f"row {i} is fine,{'pos' if i % 2 else 'neg'}" for i in range(1000)]
    lines[2] = '"row 2 opens a quote,pos'
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    dataset = read_dataset(path)
    assert len(dataset.rows) == 1000
    assert dataset.rows[2].prompt == '"row 2 opens a quote'
