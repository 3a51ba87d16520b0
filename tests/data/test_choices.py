import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError
from tests.data.conftest import read_records

FOUR = ["w", "x", "y", "z"]
LINES = "A. w\nB. x\nC. y\nD. z"
LETTERS = "ABCD"
# A row by its number, and its prompt; the i-th of four is right in the i-th row.
QUESTIONS = {
    "ARC": (
        lambda i: {
            "question": "q",
            "choices": {"text": FOUR, "label": list(LETTERS)},
            "answerKey": LETTERS[i],
        },
        f"q\n{LINES}",
    ),
    "OpenBookQA": (
        lambda i: {
            "question_stem": "q",
            "choices": {"text": FOUR, "label": list(LETTERS)},
            "answerKey": LETTERS[i],
        },
        f"q\n{LINES}",
    ),
    "MMLU": (lambda i: {"question": "q", "choices": FOUR, "answer": i}, f"q\n{LINES}"),
    "a column each": (
        lambda i: {"question": "q", **dict(zip(LETTERS, FOUR, strict=True)), "answer": LETTERS[i]},
        f"q\n{LINES}",
    ),
    "MedMCQA counts from one": (
        lambda i: {"question": "q", "opa": "w", "opb": "x", "opc": "y", "opd": "z", "cop": i + 1},
        f"q\n{LINES}",
    ),
    "MedQA": (
        lambda i: {
            "question": "q",
            "options": dict(zip(LETTERS, FOUR, strict=True)),
            "answer": FOUR[i],
            "answer_idx": LETTERS[i],
        },
        f"q\n{LINES}",
    ),
    "HellaSwag": (lambda i: {"ctx": "q", "endings": FOUR, "label": str(i)}, f"q\n{LINES}"),
    "SWAG": (
        lambda i: {
            "startphrase": "q",
            **{f"ending{n}": FOUR[n] for n in range(4)},
            "label": i,
        },
        f"q\n{LINES}",
    ),
    "RACE": (
        lambda i: {"article": "a", "question": "q", "options": FOUR, "answer": LETTERS[i]},
        f"Article: a\nQuestion: q\n{LINES}",
    ),
    "options with their letters": (
        lambda i: {
            "question": "q",
            "options": [f"{key}){text}" for key, text in zip(LETTERS, FOUR, strict=True)],
            "correct": LETTERS[i],
        },
        "q\nA)w\nB)x\nC)y\nD)z",
    ),
    "QuAIL": (
        lambda i: {"context": "c", "question": "q", "answers": FOUR, "correct_answer_id": i},
        f"Context: c\nQuestion: q\n{LINES}",
    ),
    "a spreadsheet": (
        lambda i: {
            "Question": "q",
            **{f"Option {key}": text for key, text in zip(LETTERS, FOUR, strict=True)},
            "Correct Answer": f"Option {LETTERS[i]}",
        },
        f"q\n{LINES}",
    ),
    "answers that name a column": (
        lambda i: {
            "question": "q",
            **{f"option{n + 1}": FOUR[n] for n in range(4)},
            "answer": f"option{i + 1}",
        },
        f"q\n{LINES}",
    ),
    "letters in brackets": (
        lambda i: {"question": "q", "choices": FOUR, "answer": f"({LETTERS[i]})"},
        f"q\n{LINES}",
    ),
    "letters with the text": (
        lambda i: {"question": "q", "choices": FOUR, "answer": f"{LETTERS[i]}) {FOUR[i]}"},
        f"q\n{LINES}",
    ),
    "options that stand in the prompt": (
        lambda i: {"prompt": f"q\n{LINES}", "choices": list(LETTERS), "answer": LETTERS[i]},
        f"q\n{LINES}",
    ),
}


@pytest.mark.parametrize("case", QUESTIONS)
def test_options_stand_in_the_prompt_and_the_answer_is_the_letter(tmp_path, case):
    make, prompt = QUESTIONS[case]
    dataset = read_records(tmp_path, *[make(i) for i in range(4)])
    assert {row.prompt for row in dataset.rows} == {prompt}
    assert [row.response for row in dataset.rows] == list(LETTERS)
    assert dataset.labels == tuple(LETTERS)


TWO = {
    "COPA": (
        lambda i: {
            "premise": "p",
            "question": "cause",
            "choice1": "w",
            "choice2": "x",
            "label": i,
        },
        "Premise: p\nQuestion: cause\nA. w\nB. x",
    ),
    "PIQA": (lambda i: {"goal": "p", "sol1": "w", "sol2": "x", "label": i}, "p\nA. w\nB. x"),
    "WinoGrande": (
        lambda i: {"sentence": "p", "option1": "w", "option2": "x", "answer": str(i + 1)},
        "p\nA. w\nB. x",
    ),
}


@pytest.mark.parametrize("case", TWO)
def test_two_options_are_enough(tmp_path, case):
    make, prompt = TWO[case]
    dataset = read_records(tmp_path, *[make(i) for i in range(2)])
    assert [(row.prompt, row.label) for row in dataset.rows] == [(prompt, "A"), (prompt, "B")]


def test_an_answer_in_words_stays_in_words(tmp_path):
    dataset = read_records(tmp_path, *[{"question": "q", "choices": FOUR, "answer": "y"}] * 3)
    assert (dataset.rows[0].prompt, dataset.rows[0].response) == (f"q\n{LINES}", "y")
    assert dataset.rows[0].label is None


def test_options_are_kept_where_the_answers_are_hidden(tmp_path):
    dataset = read_records(tmp_path, *[{"question": "q", "choices": FOUR, "answer": -1}] * 3)
    assert dataset.rows[0].prompt == f"q\n{LINES}"
    assert not dataset.has_responses


def test_numbers_that_may_count_from_either_are_refused(tmp_path):
    rows = [{"question": "q", "choices": FOUR, "answer": i} for i in (1, 2, 1)]
    with pytest.raises(DatasetError, match=r"\(1, 2\), but whether it counts from 0 or from 1"):
        read_records(tmp_path, *rows)


def test_an_answer_that_is_no_option_skips_its_row(tmp_path):
    rows = [{"question": "q", "choices": FOUR, "answer": "y"}] * 3
    dataset = read_records(tmp_path, *rows, {**rows[0], "answer": "v"}, allow_skips=True)
    assert dataset.skipped[0].reason == "'answer' is 'v', which is none of the options"


def test_options_of_a_csv_may_be_a_printed_list(tmp_path):
    path = tmp_path / "quiz.csv"
    path.write_text("question,choices,answer\n" + "q,\"['w', 'x']\",1\nq,\"['w', 'x']\",0\n")
    assert [(row.prompt, row.label) for row in read_dataset(path).rows] == [
        ("q\nA. w\nB. x", "B"),
        ("q\nA. w\nB. x", "A"),
    ]


def test_a_mapped_label_is_kept_beside_the_answer(tmp_path):
    rows = [{"question": "q", "choices": FOUR, "answer": i, "topic": "t"} for i in range(4)]
    dataset = read_records(tmp_path, *rows, mapping={"label": "topic"})
    assert [(row.response, row.label) for row in dataset.rows] == [(k, "t") for k in LETTERS]


def test_letters_are_used_where_numbers_cannot_be_told(tmp_path):
    rows = [
        {"question": "q", "options": FOUR, "answer": LETTERS[i], "answer_index": i} for i in (1, 2)
    ]
    assert read_records(tmp_path, *rows).labels == ("B", "C")


def test_texts_of_one_letter_stay_texts_where_all_answers_are_texts(tmp_path):
    rows = [
        {"question": "Carbon?", "choices": ["N", "C", "O", "H"], "answer": "C"},
        {"question": "Norway?", "choices": ["Oslo", "Rome", "Bergen", "Kyiv"], "answer": "Oslo"},
    ]
    assert [row.response for row in read_records(tmp_path, *rows).rows] == ["C", "Oslo"]


UNORDERED = {
    "SciQ": {"question": "q", "distractor1": "x", "distractor2": "y", "correct_answer": "w"},
    "GPQA": {"Question": "q", "Correct Answer": "w", "Incorrect Answer 1": "x"},
    "TruthfulQA": {"question": "q", "mc1_targets": {"choices": ["w", "x"], "labels": [1, 0]}},
    "BIG-bench": {"input": "q", "target_scores": {"w": 1, "x": 0}},
}


@pytest.mark.parametrize("case", UNORDERED)
def test_options_without_an_order_are_refused(tmp_path, case):
    with pytest.raises(DatasetError, match="the order to show them in can't be told"):
        read_records(tmp_path, UNORDERED[case])


def test_a_question_may_be_asked_without_its_unordered_options(tmp_path):
    dataset = read_records(tmp_path, UNORDERED["SciQ"], mapping={"response": "correct_answer"})
    assert [(row.prompt, row.response) for row in dataset.rows] == [("q", "w")]


def test_the_id_of_an_answer_makes_no_choices_of_the_answers(tmp_path):
    record = {"question": "q", "answers": {"text": ["a", "b"]}, "answer_id": "5733be28"}
    assert read_records(tmp_path, record).rows[0].response == "a"
