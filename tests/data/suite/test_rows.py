"""Every definition against a made-up source of its format."""

import pytest

from adapt_lora.data.suite import RowSource, read_suite_task, suite_tasks
from adapt_lora.data.suite.formats import read_records
from adapt_lora.data.suite.rows import build_rows
from adapt_lora.errors import DatasetError
from tests.data.suite.conftest import with_files
from tests.data.suite.made_up import MADE_UP, contents_of

TASKS = {task.name: task for task in suite_tasks()}


def test_every_task_has_a_made_up_source():
    assert MADE_UP.keys() == TASKS.keys()


@pytest.mark.parametrize("name", TASKS)
def test_a_fetched_source_becomes_our_prompts_and_answers(name, github, fetcher, known_rows):
    contents, (_, body, answer) = contents_of(name), MADE_UP[name]
    task = with_files(TASKS[name], len(contents))
    github.serve(task, *contents)
    rows = list(build_rows(task, read_records(task, contents)))
    known_rows(name, rows)
    dataset = read_suite_task(task, RowSource(fetcher))
    assert dataset.rows == tuple(rows)
    row = dataset.rows[0]
    instruction, _, rest = row.prompt.partition("\n\n")
    ending = task.prompt.rpartition("\n\n")[2]
    assert instruction.endswith((".", "'."))
    assert rest == (f"{body}\n\n{ending}" if body else ending)
    assert row.response == answer
    assert row.label == (answer if task.labels else None)
    assert (dataset.labels, dataset.metric) == (task.labels, task.metric)
    assert "made from" not in dataset.describe()
    assert "{" not in row.prompt.replace("{x}", "")


def test_instructions_name_the_labels_letters_and_subject():
    def instruction(name):
        task = with_files(TASKS[name], len(contents_of(name)))
        (row, *_) = build_rows(task, read_records(task, contents_of(name)))
        return row.prompt.partition("\n\n")[0]

    assert instruction("snips").endswith("SearchCreativeWork, SearchScreeningEvent.")
    assert "verify_top_up, virtual_card_not_working" in instruction("banking77")
    said = "This is a question about abstract algebra. Answer with only one letter (A, B, C, D)."
    assert instruction("mmlu") == said


def test_unit_tests_come_along(fetcher, github, known_rows):
    task = TASKS["mbpp"]
    rows = list(build_rows(task, read_records(task, contents_of("mbpp"))))
    assert rows[0].tests == ("assert one()", "one()")


def test_records_that_lack_something_are_left_out():
    task = TASKS["boolq"]
    text = b"index\tpassage\tquestion\tlabel\n0\ta\tb\t7\n1\t\tb\t1\n2\tc\td\t0\n3\te\n"
    (row,) = build_rows(task, read_records(task, [text]))
    assert (row.line, row.label) == (3, "no")


def test_parallel_files_of_different_length_are_refused():
    with pytest.raises(DatasetError, match="have 2 and 1 lines"):
        list(read_records(TASKS["tweet_emotion"], [b"a\nb\n", b"1\n"]))


@pytest.mark.parametrize("name", ["gsm8k", "arc_challenge", "alpaca"])
def test_a_page_in_place_of_the_file_is_named(name):
    with pytest.raises(DatasetError, match=rf"{name}: .* is not the json"):
        list(read_records(TASKS[name], [b"<html>Sign in</html>"]))
