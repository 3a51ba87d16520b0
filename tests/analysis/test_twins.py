import json
from dataclasses import replace

import pytest

from adapt_lora.analysis import compare_twins
from adapt_lora.registry.records import DatasetRecord
from adapt_lora.report.plain import twins_json


@pytest.fixture
def with_twins(matrix):
    """The hand-written matrix with "imbalanced" as a changed copy of what "sentiment" learned."""
    changed = [
        replace(
            record,
            group="sst2",
            dataset=DatasetRecord("copy", "copy", "sst2", 300, parent="sst2, relabelled"),
        )
        if record.name == "imbalanced"
        else record
        for record in matrix.adapters
    ]
    return replace(matrix, adapters=tuple(changed))


def test_a_copy_is_held_against_its_original_on_foreign_tasks(with_twins):
    (found,) = compare_twins(with_twins)
    assert (found.first, found.second, found.unit) == ("imbalanced", "sentiment", "points")
    assert found.scores.n_task_groups == 4
    # rotten, rte, snli-test, gsm8k: -.08, -.04, -.03, -.01
    assert found.scores.mean == pytest.approx(-0.04)
    assert found.mean_absolute == pytest.approx(0.04)
    assert found.foreign[0].task == "rotten"


def test_the_interval_is_students_over_task_groups(with_twins):
    (found,) = compare_twins(with_twins, level=0.9)
    low, high = found.scores.interval
    # t(.95, 3) = 2.35336; the four differences' standard deviation is .0294392
    assert high - found.scores.mean == pytest.approx(2.35336 * 0.0294392 / 2, rel=1e-4)
    assert found.scores.mean - low == pytest.approx(high - found.scores.mean)


def test_the_own_task_stands_apart(with_twins):
    (found,) = compare_twins(with_twins)
    assert [one.task for one in found.own] == ["sst2-test"]
    assert "sst2-test" not in {one.task for one in found.foreign}


def test_errors_add_up_as_for_independent_scores(with_twins):
    (found,) = compare_twins(with_twins)
    cell = next(c for c in with_twins.cells if (c.row.id, c.task) == ("sentiment", "rte"))
    rte = next(one for one in found.foreign if one.task == "rte")
    assert rte.se == pytest.approx(2**0.5 * cell.se)


def test_scores_of_two_protocols_are_never_subtracted(with_twins):
    cells = tuple(
        replace(cell, protocol="other")
        if (cell.row.id, cell.task) == ("imbalanced", "rte")
        else cell
        for cell in with_twins.cells
    )
    (found,) = compare_twins(replace(with_twins, cells=cells))
    assert found.scores.n_task_groups == 3
    assert "rte" not in {one.task for one in found.foreign}


def test_two_tasks_of_one_group_count_once(with_twins):
    tasks = tuple(
        replace(task, group="nli") if task.name in {"rte", "snli-test"} else task
        for task in with_twins.tasks
    )
    (found,) = compare_twins(replace(with_twins, tasks=tasks))
    assert found.scores.n_task_groups == 3
    assert found.scores.mean == pytest.approx((-0.08 - 0.035 - 0.01) / 3)


def test_evenness_tells_which_twin_says_one_label_to_everything(with_twins):
    rte = next(task for task in with_twins.tasks if task.name == "rte")
    said = {"sentiment": {"yes": 0.5, "no": 0.5}, "imbalanced": {"yes": 1.0, "no": 0.0}}
    cells = tuple(
        replace(cell, predicted_shares=said[cell.row.id])
        if cell.task == "rte" and cell.row.id in said
        else cell
        for cell in with_twins.cells
    )
    tasks = tuple(replace(t, labels=("yes", "no")) if t == rte else t for t in with_twins.tasks)
    (found,) = compare_twins(replace(with_twins, cells=cells, tasks=tasks))
    assert found.evenness.mean == pytest.approx(-1.0)
    assert (found.evenness.n_task_groups, found.evenness.interval) == (1, None)


def test_adapters_of_no_or_another_group_are_no_twins(matrix):
    assert compare_twins(matrix) == ()
    unknown = tuple(replace(record, group=None) for record in matrix.adapters)
    assert compare_twins(replace(matrix, adapters=unknown)) == ()


def test_the_json_leaves_out_an_unknown_interval(with_twins):
    two_tasks = replace(with_twins, tasks=with_twins.tasks[1:3])
    (one,) = twins_json(compare_twins(two_tasks))["twins"]
    assert "interval" not in one["scores"]
    json.dumps(one, allow_nan=False)
