import time

import pytest

from adapt_lora.errors import (
    RegistryError,
)
from adapt_lora.registry.records import (
    BASE_ID,
    BASE_ROW,
    MAJORITY_ID,
    MAJORITY_ROW,
    MatrixRow,
)
from tests.registry.conftest import cell, task_named
from tests.registry.store.conftest import mlflow_client, runs


def test_cells_make_the_transfer_matrix(register, registry, open_registry, base, task):
    adapter = register("sst2")
    sms = task_named("sms spam?", digest="9" * 64)
    registry.add_cells(base, BASE_ROW, task, [cell(BASE_ID, 0.5)])
    registry.add_cells(base, MAJORITY_ROW, task, [cell(MAJORITY_ID, 0.4)])
    registry.add_cells(base, adapter, task, [cell(adapter.adapter_id, 0.75, selected=True)])
    registry.add_cells(base, adapter, sms, [cell(adapter.adapter_id, 0.9, task="sms spam?")])
    for reader in (registry, open_registry()):
        matrix = reader.transfer_matrix(base)
        assert matrix.tasks == (task, sms)
        assert matrix.adapters == (adapter,)
        assert matrix.cell(adapter.row, "trec") == cell(adapter.adapter_id, 0.75, selected=True)
        assert matrix.cell(BASE_ROW, "trec") == cell(BASE_ID, 0.5)
        assert matrix.cell(MAJORITY_ROW, "trec") == cell(MAJORITY_ID, 0.4)
        assert matrix.cell(BASE_ROW, "sms spam?") is None
        assert reader.tasks(base) == [task, sms]
        assert (adapter.row, "trec", "p1") in reader.measured(base)
        assert (adapter.row, "trec", "p2") not in reader.measured(base)


def test_one_job_keeps_one_run_per_adapter(register, registry, open_registry, base, task):
    adapter = register("sst2")
    for name in ("trec", "boolq", "rte"):
        registry.add_cells(
            base, adapter, task_named(name), [cell(adapter.adapter_id, 0.5, task=name)]
        )
    evaluations = "evaluations/org/tiny-llama"
    assert len(runs(registry, "cells", evaluations)) == 1
    assert len(runs(registry, "task", evaluations)) == 3
    later = open_registry()
    later.add_cells(base, adapter, task, [cell(adapter.adapter_id, 0.6, protocol="p2")])
    assert len(runs(registry, "cells", evaluations)) == 2
    assert len(runs(registry, "task", evaluations)) == 3


def test_measuring_again_replaces_the_cell_and_another_protocol_stands_beside(
    register, registry, open_registry, base, task
):
    adapter = register("sst2")
    mine = adapter.adapter_id
    registry.add_cells(base, adapter, task, [cell(mine, 0.6)])
    time.sleep(0.01)
    registry.add_cells(base, adapter, task, [cell(mine, 0.7)])
    open_registry().add_cells(base, adapter, task, [cell(mine, 0.9, protocol="p2")])
    assert registry.cell(base, adapter.row, "trec", "p1").score == 0.7
    assert registry.cell(base, adapter.row, "trec", "p2").score == 0.9
    assert registry.transfer_matrix(base, protocol="p1").cell(adapter.row, "trec").score == 0.7


def test_the_models_tab_is_the_transfer_matrix(register, registry, base, task):
    adapter = register("sst2")
    sms = task_named("sms", digest="9" * 64)
    registry.add_cells(base, BASE_ROW, task, [cell(BASE_ID, 0.5)])
    registry.add_cells(base, MAJORITY_ROW, task, [cell(MAJORITY_ID, 0.4)])
    for each, score in ((task, 0.75), (sms, 0.9)):
        measured = [cell(adapter.adapter_id, score, task=each.name)]
        registry.add_cells(base, adapter, each, measured)
    client = mlflow_client(registry)
    experiment = client.get_experiment_by_name("adapters/org/tiny-llama")
    rows = {
        model.name: {
            (metric.dataset_name, metric.key): metric.value
            for metric in model.metrics
            if metric.dataset_name
        }
        for model in client.search_logged_models([experiment.experiment_id])
    }
    assert rows == {
        "base model org_tiny-llama": {("trec", "balanced_accuracy"): 0.5},
        "majority label": {("trec", "balanced_accuracy"): 0.4},
        "sst2": {("trec", "balanced_accuracy"): 0.75, ("sms", "balanced_accuracy"): 0.9},
    }


def test_cells_of_somebody_else_are_refused(register, registry, base, task):
    adapter = register("sst2")
    with pytest.raises(RegistryError, match="not all of sst2"):
        registry.add_cells(base, adapter, task, [cell(BASE_ID, 0.5)])
    with pytest.raises(RegistryError, match="neither a registered adapter"):
        registry.add_cells(base, MatrixRow("sst2"), task, [cell("sst2", 0.5)])
