"""Records show themselves in one line."""

from adapt_lora.data import clipped, counted, read_dataset, short_repr


def is_line(text):
    return "\n" not in text and len(text) <= 120


def test_a_dataset_and_its_rows_fit_one_line_each():
    rows = [{"prompt": f"long {i}\n" * 90, "label": ("good", "bad")[i % 2]} for i in range(40)]
    dataset = read_dataset(rows, name="tickets")
    assert repr(dataset) == "Dataset('tickets', 40 rows, 2 labels, prompt/label from list of dicts)"
    assert is_line(repr(dataset.rows[0]))
    assert repr(dataset.rows[0]).endswith("label 'good', line 1)")
    answered = read_dataset([{"prompt": "p", "response": "r"}], name="x" * 300)
    assert is_line(repr(answered))
    assert repr(answered.rows[0]) == "Row('p' → 'r', line 1)"
    assert "no responses" in repr(read_dataset(["one", "two"]))


def test_parts_of_nothing_are_left_out_and_a_long_end_is_cut():
    assert short_repr(1, "a", "", "b\nc") == "int(a, b c)"
    assert is_line(short_repr(1, "word " * 99))
    assert short_repr(1, "word " * 99).endswith("...)")
    assert clipped("x" * 50, 10) == "'xxxxxxx...'"
    assert [counted(n, "row") for n in (0, 1, 2_000)] == ["", "1 row", "2,000 rows"]
