import csv

from adapt_lora.data import read_dataset


def test_csv_labels_stay_strings(tmp_path):
    path = tmp_path / "codes.csv"
    path.write_text("text,label\na,007\nb,NA\nc,1.0\n")
    assert [row.label for row in read_dataset(path).rows] == ["007", "NA", "1.0"]


def test_a_quoted_csv_cell_may_hold_line_ends_and_lines_still_count_right(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_bytes(b'text,label\r\n"one\r\ntwo",pos\r\n\r\nthree,neg\r\n')
    assert [(row.prompt, row.line) for row in read_dataset(path).rows] == [
        ("one\ntwo", 2),
        ("three", 5),
    ]


def test_a_tsv_without_quoting_keeps_its_quotation_marks(tmp_path):
    path = tmp_path / "reviews.tsv"
    path.write_text('text\tlabel\n"Great" stuff\tpos\n"Never again\tneg\nfine\tpos\n')
    assert [row.prompt for row in read_dataset(path).rows] == [
        '"Great" stuff',
        '"Never again',
        "fine",
    ]


def test_a_stray_quotation_mark_does_not_swallow_the_rest_of_a_csv(tmp_path):
    path = tmp_path / "stray.csv"
    lines = [f"row {i} is fine,{'pos' if i % 2 else 'neg'}" for i in range(1000)]
    lines[2] = '"row 2 opens a quote,pos'
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    dataset = read_dataset(path)
    assert len(dataset.rows) == 1000
    assert dataset.rows[2].prompt == '"row 2 opens a quote'


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


def test_csv_cells_of_ten_megabytes_are_read_and_the_global_limit_comes_back(tmp_path):
    before = csv.field_size_limit()
    path = tmp_path / "mine.csv"
    path.write_text("prompt,response\n" + "word " * 2_000_000 + ",r\n")
    assert len(read_dataset(path).rows[0].prompt) == 10_000_000
    assert csv.field_size_limit() == before
