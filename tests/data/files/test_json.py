import pytest

from tests.data.conftest import assert_skipped, numbered, read_records

BAD_LINES = {
    # a line among good ones, the words that name it
    "not JSON": (b'{"prompt": "p", "response": ', "not JSON (Expecting value, column"),
    "an array": (b"[1, 2]", "an array where an object was expected"),
    "a bare string": (b'"text"', "a string or number where an object was expected"),
    "null": (b"null", "null or a truth value where an object was expected"),
    "NUL bytes": (b"\0" * 9000, "not JSON"),
    "nested too deeply": (b"[" * 200_000, "not JSON"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_among_good_ones_is_skipped_and_named(tmp_path, case):
    assert_skipped(tmp_path, *BAD_LINES[case])


def test_lines_of_ten_megabytes_are_read(tmp_path):
    long = "word " * 2_000_000
    dataset = read_records(tmp_path, {"prompt": long, "response": "r"}, numbered(1)[0])
    assert len(dataset.rows[0].prompt) == 10_000_000
