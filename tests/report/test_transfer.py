from dataclasses import replace

import pytest

from adapt_lora.errors import NotFoundError
from adapt_lora.recommender.scores import read_scores
from adapt_lora.registry.records import BASE_ID, MatrixRow
from adapt_lora.report.transfer import (
    adapter_gains,
    cells_by_place,
    filter_matrix,
    gain_of,
    gain_rows,
    matrix_csv,
)

SHOWN = MatrixRow(BASE_ID, shots=3)


def test_an_adapters_gains_are_scores_over_the_base_and_mark_its_own_task(matrix, record):
    gains = adapter_gains(matrix, record)
    assert [gain.task for gain in gains if gain.own] == ["sst2-test"]
    first = gains[0]
    assert first.gain == pytest.approx(0.371)
    assert first.se == pytest.approx(0.03 * 2**0.5)
    assert first.unit == "points"


def test_the_error_is_that_of_paired_rows_where_it_is_known(matrix, record):
    paired = tuple(replace(cell, metrics={"gain_vs_base_se": 0.01}) for cell in matrix.cells)
    assert adapter_gains(replace(matrix, cells=paired), record)[0].se == 0.01


def test_a_gap_gives_no_gain(matrix):
    tasks = [gain.task for gain in adapter_gains(matrix, matrix.adapters[1])]
    assert "legal-abstracts" not in tasks


def test_an_adapter_of_unknown_data_has_no_own_cell(matrix):
    assert not any(gain.own for gain in adapter_gains(matrix, matrix.adapters[3]))


def test_scores_under_another_protocol_than_the_bases_give_no_gain(matrix, record):
    cells = tuple(
        replace(cell, protocol="other") if cell.row.id == BASE_ID else cell for cell in matrix.cells
    )
    assert adapter_gains(replace(matrix, cells=cells), record) == ()


@pytest.fixture
def shown(matrix):
    """The matrix with the base shown three examples on two tasks."""
    cells = tuple(
        replace(cell, row=SHOWN, protocol="shown", zero_shot=cell.protocol)
        for cell in matrix.cells
        if cell.row.id == BASE_ID and cell.task in ("snli", "goat")
    )
    return replace(matrix, cells=(*matrix.cells, *cells))


def test_few_shot_rows_have_gains_over_the_bare_base(shown):
    rows = gain_rows(shown)
    assert [row.label for row in rows[:2]] == ["base, 3 shots", "sentiment-lora"]
    task = next(task for task in shown.tasks if task.name == "snli")
    assert gain_of(cells_by_place(shown), SHOWN, task).gain == 0


def test_filters_take_names_patterns_and_families(shown, matrix):
    part = filter_matrix(shown, adapters=["*-lora"], tasks=["s*"])
    assert [record.name for record in part.adapters] == [
        "sentiment-lora",
        "nli-lora",
        "arithmetic-lora",
    ]
    assert [task.name for task in part.tasks] == ["sst2-test", "snli", "stories"]
    assert {cell.task for cell in part.cells} == {"sst2-test", "snli", "stories"}
    assert {BASE_ID, "base+3shot"} <= {cell.row.id for cell in part.cells}
    tasks = (replace(matrix.tasks[0], family="sentiment"), *matrix.tasks[1:])
    by_family = filter_matrix(replace(matrix, tasks=tasks), families=["sentiment"])
    assert [task.name for task in by_family.tasks] == ["sst2-test"]


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"adapters": ["nobody"]}, "No adapter 'nobody' in the matrix .*nli-lora"),
        ({"tasks": ["q*"]}, "No task 'q\\*'"),
        ({"families": ["nli"]}, "No family 'nli' in the matrix .there are: none"),
    ],
)
def test_a_filter_that_fits_nothing_is_an_error(matrix, filters, words):
    with pytest.raises(NotFoundError, match=words):
        filter_matrix(matrix, **filters)


def test_csv_leaves_gaps_empty_and_scores_can_be_read_for_traits(shown, tmp_path):
    lines = matrix_csv(shown).splitlines()
    assert lines[0] == "adapter,sst2-test,snli,trec-coarse,goat,stories,legal-abstracts"
    assert lines[1] == '"base, 3 shots",,0,,0,,'
    assert lines[2].startswith("sentiment-lora,0.371,0.007,")
    path = tmp_path / "scores.csv"
    path.write_text(matrix_csv(shown, values="score"))
    table = read_scores(path)
    assert table.rows[:3] == ("base", "majority label", "base, 3 shots")
    assert table.values[0, 0] == pytest.approx(0.512)
    with_errors = matrix_csv(shown, errors=True).splitlines()
    assert with_errors[0].startswith("adapter,sst2-test,sst2-test se,snli,")
    assert with_errors[2].startswith("sentiment-lora,0.371,0.0424264,")
