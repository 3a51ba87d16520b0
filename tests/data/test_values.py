import pytest

from adapt_lora.data.values import listed, nested_value


def test_names_from_a_file_are_made_fit_for_one_line():
    assert listed(["text", "two\nlines", "x" * 50]) == f"text, two?lines, {'x' * 37}..."
    assert listed(map(str, range(20))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ..."


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("['a' 'b, c']", ["a", "b, c"]),
        ("['a'\n \"it's\"]", ["a", "it's"]),
        ("[1 2]", [1, 2]),
        ("[1.5, nan]", [1.5, None]),
        ("[np.str_('a'), np.int64(3)]", ["a", 3]),
        ("{'a': array(['x', 'y'], dtype=object)}", {"a": ["x", "y"]}),
        ("[{'a': 'x'} {'a': 'y'}]", [{"a": "x"}, {"a": "y"}]),
        ("['a' ... 'b']", None),
        ("[call('a')]", None),
        ("[see below]", None),
    ],
)
def test_lists_are_read_as_python_and_numpy_print_them(text, value):
    assert nested_value(text) == value
