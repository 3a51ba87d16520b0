import csv

import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError
from tests.data.conftest import texts


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
    dataset = read_dataset(path, allow_skips=True)
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


def rows_of(tmp_path, text: str, name: str = "mine.csv") -> list[tuple]:
    path = tmp_path / name
    path.write_text(text, newline="")
    return texts(read_dataset(path))


SEPARATED = {
    "commas in the names of a file with semicolons": (
        "text;label;note, of whom, and when\na;x;n\nb;y;n\n"
    ),
    "commas in the texts of a file with semicolons": "text;label\na;x\nb;y\n",
    "decimal commas": "text;score;label\na;1,5;x\nb;2,5;y\n",
    "tabs in a .csv": "text\tlabel\na\tx\nb\ty\n",
    "bars": "text|label\na|x\nb|y\n",
    "Excel's first line": "sep=;\r\ntext;label\r\na;x\r\nb;y\r\n",
    "Excel's first line in quotes after a BOM": '\ufeff"sep=|"\ntext|label\na|x\nb|y\n',
    "Excel's first line against the look of it": "SEP=\t\ntext\tlabel\ta,b,c\na\tx\t\nb\ty\t\n",
}


@pytest.mark.parametrize("case", SEPARATED)
def test_the_separator_is_the_one_by_which_the_rows_agree(tmp_path, case):
    assert rows_of(tmp_path, SEPARATED[case]) == [("a", "x", "x"), ("b", "y", "y")]


def test_the_line_that_says_the_separator_counts_as_a_line(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("sep=;\ntext;label\na;x\n")
    assert read_dataset(path).rows[0].line == 3


def test_one_column_may_hold_any_separator(tmp_path):
    text = "text\nwell, yes; or no\nwell, no\n"
    assert [row[0] for row in rows_of(tmp_path, text)] == ["well, yes; or no", "well, no"]


def test_commas_in_a_tsv_file_are_its_separator_where_it_has_no_tabs(tmp_path):
    assert rows_of(tmp_path, "text,label\na,x\n", "mine.tsv") == [("a", "x", "x")]


def test_two_columns_of_one_name_are_refused_by_name(tmp_path):
    with pytest.raises(DatasetError, match=r"line 1: two columns are called 'text'.*Rename one"):
        rows_of(tmp_path, "text,text,label\na,b,x\n")


def test_columns_without_a_name_may_be_several(tmp_path):
    assert rows_of(tmp_path, "text,label,,\na,x,,\n") == [("a", "x", "x")]


def test_a_header_that_comes_again_is_no_row(tmp_path):
    path = tmp_path / "joined.csv"
    path.write_text("text,label\n" + "a,x\nb,y\n" * 10 + "text,label\n" + "a,x\nb,y\n" * 10)
    dataset = read_dataset(path)
    assert [(row.line, row.reason) for row in dataset.skipped] == [
        (22, "the header line once more")
    ]
    assert dataset.labels == ("x", "y")


def dialogue(separator: str, *, label_first: bool, n: int = 12) -> str:
    said = [f"line {i}" for i in range(n)]
    said[3], said[6] = '"I do not know', 'He left"'
    rows = [(text, "xy"[i % 2]) for i, text in enumerate(said)]
    lines = [("text", "label"), *rows]
    return "".join(separator.join(row[:: -1 if label_first else 1]) + "\n" for row in lines)


@pytest.mark.parametrize("label_first", [True, False])
@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_rows_between_two_stray_quotation_marks_are_rows(tmp_path, separator, label_first):
    path = tmp_path / "talk.csv"
    path.write_text(dialogue(separator, label_first=label_first))
    dataset = read_dataset(path)
    assert [row.line for row in dataset.rows] == list(range(2, 14))
    assert [row.prompt for row in dataset.rows[2:8]] == [
        *("line 2", '"I do not know', "line 4", "line 5", 'He left"', "line 7"),
    ]
    assert dataset.notes[0].startswith("lines 5 to 8: a quotation mark opens in one row")


def test_tabs_tell_a_row_between_quotation_marks_without_labels(tmp_path):
    path = tmp_path / "talk.tsv"
    path.write_text('prompt\tresponse\nWho?\t"I\nWhat?\tso\nWhen?\tnow"\n')
    assert len(read_dataset(path).rows) == 3


def test_texts_of_several_lines_stay_whole_whatever_commas_stand_in_them(tmp_path):
    path = tmp_path / "letters.csv"
    letter = '"Dear sir,\nthanks, {0}",{1}\n'
    path.write_text(
        "text,label\n" + "".join(f"t{i},{'xy'[i % 2]}\n" for i in range(9)) + letter.format(1, "x")
    )
    dataset = read_dataset(path)
    assert dataset.rows[-1].prompt == "Dear sir,\nthanks, 1"
    assert len(dataset.rows) == 10


def test_a_comma_with_a_space_behind_it_is_prose(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("Text, as it was;Label\n" + "good, thing;x\nbad, thing;y\n" * 3)
    dataset = read_dataset(path, mapping={"prompt": "Text, as it was"})
    assert dataset.labels == ("x", "y")


def test_two_separators_that_divide_all_rows_alike_are_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"',' and ';' divide every row alike.*sep=, or sep=;"):
        rows_of(tmp_path, "text,now;label\na,b;x\na,b;y\n")
    assert len(rows_of(tmp_path, "sep=;\ntext;label,now\na;x,b\na;y,b\n")) == 2


def test_files_that_were_joined_have_a_mark_and_a_header_each(tmp_path):
    path = tmp_path / "joined.csv"
    part = "text,label\na,x\nb,y\n".encode("utf-8-sig")
    path.write_bytes(part * 2)
    dataset = read_dataset(path)
    assert [row.prompt for row in dataset.rows] == ["a", "b", "a", "b"]
    assert [row.line for row in dataset.skipped] == [4]
    with pytest.raises(DatasetError, match="line 4: the header once more, in another order"):
        rows_of(tmp_path, "text,label\na,x\nb,y\nlabel,text\nx,a\n")


def test_a_column_without_a_name_is_not_listed_as_unused(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("text,label,\na,x,\nb,y,\n")
    assert "fields not used" not in read_dataset(path).describe()


def test_a_text_that_holds_lines_like_rows_is_said(tmp_path):
    path = tmp_path / "talk.csv"
    rows = "".join(f"t{i},{'xy'[i % 2]}\n" for i in range(9))
    path.write_text(f'text,label\n{rows}"open, so,x\nmid,y\nclose",y\n')
    dataset = read_dataset(path)
    assert len(dataset.rows) == 10
    assert "line 11: the quotation marks enclose lines that look like rows" in dataset.notes[0]
