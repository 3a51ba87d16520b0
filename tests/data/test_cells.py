"""Lists in the cells of tables of text."""

import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError

CELLS = {
    # header, a cell in quotation marks, (prompt, response, label)
    "SQuAD by pandas": (
        "question,answers",
        "{'text': array(['a', 'b'], dtype=object), 'answer_start': array([0, 3], dtype=int32)}",
        ("q", "a", None),
    ),
    "SQuAD by datasets": (
        "question,answers",
        '{""text"": [""a""], ""answer_start"": [0]}',
        ("q", "a", None),
    ),
    "answers": ("question,answer", "['a', 'b, c']", ("q", "a", None)),
    "a class number": ("text,labels", "[3]", ("q", "3", "3")),
    "a chat by numpy": (
        "prompt,completion",
        "[{'content': 'a', 'role': 'assistant'}]",
        ("q", "a", None),
    ),
    "JSON in a response": (
        "prompt,response",
        '{""from"": ""Oslo""}',
        ("q", '{"from": "Oslo"}', None),
    ),
    "a list that is code": ("prompt,output", "['a', 'b']", ("q", "['a', 'b']", None)),
    "numbers in an answer": ("question,answer", "[0, 1]", ("q", "[0, 1]", None)),
}


@pytest.mark.parametrize("case", CELLS)
def test_lists_of_answers_and_labels_are_read_from_cells(tmp_path, case):
    header, cell, expected = CELLS[case]
    path = tmp_path / "mine.csv"
    path.write_text(f'{header}\nq,"{cell}"\n')
    row = read_dataset(path).rows[0]
    assert (row.prompt, row.response, row.label) == expected


def test_several_labels_in_a_cell_are_not_one_label(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text('text,labels\na,"[0, 2]"\nb,[1]\nc,[2]\n')
    dataset = read_dataset(path, allow_skips=True)
    assert dataset.labels == ("1", "2")
    assert dataset.skipped[0].reason == "'labels' holds 2 labels where one was expected"


def test_options_as_numpy_prints_them_are_options(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(
        "question,choices,answer\nq,['red one' 'blue'],0\nr,\"['red one'\n 'blue']\",1\n"
    )
    rows = read_dataset(path).rows
    assert [(row.prompt, row.label) for row in rows] == [
        ("q\nA. red one\nB. blue", "A"),
        ("r\nA. red one\nB. blue", "B"),
    ]


def test_a_list_of_texts_by_numpy_is_no_answer(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("prompt,output\np,['red' 'blue']\n")
    with pytest.raises(DatasetError, match="'output' is a list of several texts"):
        read_dataset(path)


def test_a_list_that_was_cut_short_is_refused(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("question,answers\nq,\"['a', 'b']\"\nr,\"['a', ... 'b']\"\n")
    with pytest.raises(DatasetError, match=r"line 3: 'answers' holds lists as text"):
        read_dataset(path)
