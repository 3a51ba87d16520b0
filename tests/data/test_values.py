from adapt_lora.data.values import listed


def test_names_from_a_file_are_made_fit_for_one_line():
    assert listed(["text", "two\nlines", "x" * 50]) == f"text, two?lines, {'x' * 37}..."
    assert listed(map(str, range(20))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ..."
