from dataclasses import replace

import pytest

from adapt_lora.errors import (
    BaseModelMismatch,
    NotFoundError,
)
from adapt_lora.registry.records import (
    BASE_ID,
    BASE_ROW,
)
from tests.registry.conftest import cell
from tests.registry.store.conftest import mlflow_client


def test_two_bases_stay_apart(register, registry, base, other_base, task):
    here = register("sst2")
    there = register("sst2", of=other_base)
    registry.add_cells(base, here, task, [cell(here.adapter_id, 0.7)])
    registry.add_cells(other_base, BASE_ROW, task, [cell(BASE_ID, 0.1)])
    assert registry.adapters(base) == [here]
    assert registry.adapters(other_base) == [there]
    assert [c.score for c in registry.transfer_matrix(base).cells] == [0.7]
    assert [c.score for c in registry.transfer_matrix(other_base).cells] == [0.1]
    assert registry.adapter("sst2", other_base) == there
    with pytest.raises(NotFoundError, match="of 2 base models"):
        registry.adapter("sst2")


def test_other_weights_of_a_base_warn_and_another_architecture_is_an_error(
    register, registry, open_registry, base
):
    register("sst2")
    requantised = replace(base, weights="c" * 64)
    assert registry.ensure_base(base) is None
    assert "near, not equal" in open_registry().ensure_base(requantised)
    assert "near, not equal" in open_registry().base_warning(requantised)
    assert len(open_registry().adapters(requantised)) == 1
    assert registry.bases() == [base]
    with pytest.raises(BaseModelMismatch, match="another architecture"):
        open_registry().adapters(replace(base, architecture="c" * 64))


def test_reading_an_empty_registry_writes_nothing(registry, base):
    assert registry.adapters(base) == []
    assert registry.tasks(base) == []
    assert registry.transfer_matrix(base).cells == ()
    assert (BASE_ROW, "trec", "p1") not in registry.measured(base)
    assert registry.base_warning(base) is None
    assert registry.bases() == []


def test_the_saved_view_and_the_link_lead_to_the_adapters(register, registry, base):
    register("sst2")
    registry.ensure_views(base)
    registry.ensure_views(base)
    experiment = mlflow_client(registry).get_experiment_by_name("adapters/org/tiny-llama")
    assert "fingerprint/response_ppl" not in experiment.tags["mlflow.sharedViewState.adapt"]
    link = registry.ui_link(base, "http://127.0.0.1:5000")
    assert link == (
        f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs"
        "?viewStateShareKey=adapt&workflowType=machine_learning"
    )
