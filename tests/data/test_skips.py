import json

import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError
from tests.data.conftest import numbered, read_records


def test_one_row_in_twenty_may_be_skipped_but_no_more(tmp_path):
    assert len(read_records(tmp_path, *numbered(19), {"x": 1}).rows) == 19
    with pytest.raises(DatasetError, match=r"2 of 20 rows can't be used .*--allow-skips"):
        read_records(tmp_path, *numbered(18), {"x": 1}, {"x": 2})


def test_a_class_that_would_be_lost_is_an_error(tmp_path):
    rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(99)]
    lost = {"text": "", "label": "c"}
    with pytest.raises(
        DatasetError, match=r"line 100: 'text' is empty.* all rows of the class 'c'"
    ):
        read_records(tmp_path, *rows, lost)
    assert read_records(tmp_path, *rows, lost, allow_skips=True).labels == ("a", "b")


def test_a_class_with_other_rows_is_not_lost_even_where_it_got_another_name(tmp_path):
    said = {0: "negative", 1: "positive"}
    rows = [{"prompt": f"t{i}", "response": said[i % 2], "label": i % 2} for i in range(40)]
    dataset = read_records(tmp_path, *rows, {"prompt": "", "response": "positive", "label": 1})
    assert dataset.labels == ("negative", "positive")


def test_rows_of_several_labels_count_for_each_of_them(tmp_path):
    rows = [{"text": f"t{i}", "labels": ["a"]} for i in range(99)]
    with pytest.raises(DatasetError, match="all rows of the class 'b'"):
        read_records(tmp_path, *rows, {"text": "t", "labels": ["a", "b"]})


def test_letters_beyond_ascii_that_would_all_be_lost_are_an_error(tmp_path):
    rows = [*numbered(99), {"prompt": "größer", "response": ["a", {"b": 1}]}]
    rows[-1]["response"] = {"x": 1}
    with pytest.raises(DatasetError, match="all rows with letters beyond ASCII"):
        read_records(tmp_path, *rows)
    rows[0] = {"prompt": "naïve", "response": "a"}
    assert len(read_records(tmp_path, *rows).rows) == 99


def test_rows_that_miss_their_label_are_skipped_and_counted(tmp_path):
    path = tmp_path / "gaps.jsonl"
    lines = [f'{{"text": "t{i}", "label": {["1", "0", "NaN"][i % 3]}}}\n' for i in range(12)]
    path.write_text("".join(lines))
    with pytest.raises(DatasetError, match="4 of 12 rows can't be used"):
        read_dataset(path)


def test_nothing_left_is_an_error_even_where_skips_are_allowed(tmp_path):
    with pytest.raises(DatasetError, match="2 of 2 rows can't be used") as caught:
        read_records(tmp_path, {"prompt": ""}, {"prompt": None}, allow_skips=True)
    assert "--allow-skips" not in str(caught.value)


def test_the_echo_counts_the_rows_and_gives_the_reasons(tmp_path):
    rows = [*numbered(40), {"prompt": "p", "response": "café"}, {"x": 1}, {"x": 1}]
    path = tmp_path / "mine.jsonl"
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(lines, "utf-16")
    dataset = read_dataset(path)
    echo = dataset.echo
    assert (echo.n_rows, echo.n_skipped, echo.encoding) == (41, 2, "UTF-16")
    assert (echo.source, echo.file_format, echo.shape) == ("mine.jsonl", "JSONL", "prompt/response")
    assert [(each.reason, each.n_rows, each.lines) for each in echo.reasons] == [
        ("no 'prompt' field (found: x)", 2, (42, 43))
    ]
    assert "fields not used: x" in echo.notes
    assert dataset.describe().startswith("mine (mine.jsonl): JSONL in UTF-16, prompt/response")


def test_a_line_that_is_no_record_gets_no_advice_on_fields(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"prompt": "p", "response": "r"})
    for lines in ([good, '{"prompt": "p",'], ['{"prompt": "p",', '{"prompt"']):
        path.write_text("\n".join(lines))
        with pytest.raises(DatasetError, match=r"not JSON .* Mend or drop them") as raised:
            read_dataset(path)
        assert "--map" not in str(raised.value)


def test_a_class_that_is_lost_before_its_rows_are_records_is_an_error(tmp_path):
    kept = [f"message {i},ham\n" for i in range(97)]
    lost = [f"win, now {i},spam\n" for i in range(3)]
    path = tmp_path / "mine.csv"
    path.write_text("text,label\n" + "".join(kept + lost))
    with pytest.raises(DatasetError, match=r"line 99: 3 fields .* all rows of the class 'spam'"):
        read_dataset(path)
    path.write_text("text,label\n" + "".join([*kept, "win, now,spam\n", "lost,spam\n"]))
    assert len(read_dataset(path).rows) == 98


BROKEN = '{{"text": "he said "{0}"", "label": "{1}"}}\n'
CUT_OFF = '{{"text": "he said {0}", "label": "{1}'


@pytest.mark.parametrize(("line", "refused"), [(BROKEN, True), (CUT_OFF, False)])
def test_the_class_of_a_broken_line_counts_where_it_can_be_told(tmp_path, line, refused):
    path = tmp_path / "mine.jsonl"
    rows = "".join(f'{{"text": "t{i}", "label": "{"ab"[i % 2]}"}}\n' for i in range(60))
    path.write_text(rows + line.format("so", "c"))
    if refused:
        with pytest.raises(DatasetError, match=r"line 61: not JSON .* of the class 'c'"):
            read_dataset(path)
    else:
        assert len(read_dataset(path).rows) == 60
    path.write_text(rows + line.format("so", "a"))
    assert len(read_dataset(path).rows) == 60


def test_letters_beyond_ascii_in_broken_lines_are_lost_too(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = "".join(f'{{"prompt": "p{i}", "response": "r{i}"}}\n' for i in range(60))
    path.write_text(rows + '{"prompt": "so "größer"", "response": "r"}\n')
    with pytest.raises(DatasetError, match="all rows with letters beyond ASCII"):
        read_dataset(path)


def test_the_class_of_a_chat_is_its_last_answer(tmp_path):
    def chat(answer, role="assistant"):
        asked = {"role": "user", "content": "well?"}
        return {"messages": [asked, {"role": role, "content": answer}]}

    kept = [chat(["yes", "no"][i % 2]) for i in range(60)]
    with pytest.raises(DatasetError, match="all rows of the class 'maybe'"):
        read_records(tmp_path, *kept, chat("maybe", "narrator"))
    assert len(read_records(tmp_path, *kept, chat("yes", "narrator")).rows) == 60
    assert len(read_records(tmp_path, *kept, chat("so?", "user")).rows) == 60


def test_responses_that_would_be_labels_with_the_lost_rows_count_as_classes(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [f'{{"prompt": "t{i}", "response": "ham"}}\n' for i in range(58)]
    lost = ['{"prompt": "so "far"", "response": "spam"}\n'] * 2
    path.write_text("".join(rows + lost))
    with pytest.raises(DatasetError, match="all rows of the class 'spam'"):
        read_dataset(path)
