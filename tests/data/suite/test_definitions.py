"""The definitions that come with the package."""

import pytest

from adapt_lora.data.suite import SUITE_NAMES, gpu_hours, suite_tasks
from adapt_lora.errors import ConfigError
from adapt_lora.registry.records import METRIC_UNITS

CORE = suite_tasks()


def test_there_is_a_suite_of_labels_and_one_of_everything():
    assert len(CORE) >= 24
    assert len({task.name for task in CORE}) == len(CORE)
    labels = suite_tasks("labels")
    assert len(labels) < len(CORE)
    assert all(task.metric == "balanced_accuracy" for task in labels)
    assert set(SUITE_NAMES) == {"core", "labels"}
    with pytest.raises(ConfigError, match=r"no suite 'mine'\. Choose core, labels"):
        suite_tasks("mine")


@pytest.mark.parametrize("task", CORE, ids=lambda task: task.name)
def test_a_definition_says_what_is_needed(task):
    assert len(task.commit) == 40
    assert task.repository.count("/") == 1
    assert task.licence
    assert task.citation
    assert task.metric in METRIC_UNITS
    assert task.is_label_task == (task.metric == "balanced_accuracy")
    assert bool(task.label) != bool(task.response)
    assert task.classes is None or set(task.classes.values()) <= set(task.labels)
    assert 90 <= task.n_rows <= len(task.digests) <= 400
    assert len(set(task.digests)) == len(task.digests)
    assert {len(digest) for digest in task.digests} == {8}


def test_fewer_rows_are_part_of_more():
    task = CORE[0]
    few, usual = (set(task.measured_digests(n, seed=0)) for n in (50, None))
    assert few < usual
    assert len(usual) == task.n_rows
    assert set(task.measured_digests(50, seed=1)) != few


def test_gpu_hours_follow_the_formula():
    # 2 * 8e9 FLOPs a token, at 30 % of 312e12 a second
    assert gpu_hours(5850 * 3600, n_parameters=8e9) == pytest.approx(1)
