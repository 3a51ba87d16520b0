"""CSV files as people write them."""

from pathlib import Path

import numpy as np
import pytest

from adapt_lora.errors import MatrixError
from adapt_lora.recommender.scores import read_scores


def test_names_stay_text_and_gaps_are_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text('\ufeffname,t0,t1\n007,1,\n\n"a, b", 0.5 ,nan\nNA,1e-3,2\n', encoding="utf-8")
    table = read_scores(path)
    assert table.rows == ("007", "a, b", "NA")
    assert table.tasks == ("t0", "t1")
    np.testing.assert_array_equal(table.values, [[1, np.nan], [0.5, np.nan], [1e-3, 2]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,t0\na,1,2\n", r"line 2: 3 fields, but the header has 2\."),
        ("name,t0,t1\na,1,2\nb,1\n", r"line 3: 2 fields, but the header has 3\."),
        (
            "name,t0\na,high\n",
            r"line 2: .*'high'. The first column holds names",
        ),
        ("name,t0\n", "a header line and at least one row are needed"),
        ("", "a header line and at least one row are needed"),
    ],
)
def test_a_broken_table_is_said_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MatrixError, match=words):
        read_scores(path)


def test_what_is_no_text_or_not_there_is_said(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    with pytest.raises(MatrixError, match=r"scores\.csv: there is no such file.*Check the path"):
        read_scores(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MatrixError, match="can't be read as CSV: it is not UTF-8"):
        read_scores(path)
