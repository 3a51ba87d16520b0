"""Work spread over a real cluster of two nodes, both on this machine."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest

from adapt_lora import roads
from adapt_lora.cluster import spread
from adapt_lora.errors import ConfigError
from adapt_lora.evaluator import EvaluationRequest
from adapt_lora.registry import Registry
from adapt_lora.registry.records import BASE_ID, MAJORITY_ID
from adapt_lora.sweep import plan_sweep, spread_sweep
from adapt_lora.trainer import TrainRequest, find_recipe
from tests.cluster_visitor import Visitor
from tests.roads.test_roads import write_rows


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Address of a cluster of two nodes with a processor each."""
    pytest.importorskip("ray")
    # Its nodes are processes of their own, which must find this package and these tests.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray's workers are nice to all else on a machine; on a busy one they would hardly start.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100 * 2**20}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**small, "include_dashboard": False},
        shutdown_at_exit=True,
    )
    cluster.add_node(**small)
    yield cluster.address
    cluster.shutdown()


def test_every_unit_ends_whatever_becomes_of_the_others(address, tmp_path):
    # Both first workers die, so that what is left is done by those that take their places.
    units = ["deadly", "deadly", "a", "broken", "b", "odd", "c"]
    ends = {end.index: end for end in spread(units, partial(Visitor, tmp_path), address=address)}
    assert sorted(ends) == list(range(len(units)))
    assert [ends[i].result.split()[0] for i in (2, 4, 6)] == ["a", "b", "c"]
    assert all(ends[i].reason is None for i in (2, 4, 6))
    assert ends[3].reason == "broken.jsonl does not exist. Check the path."
    assert ends[5].reason == "ZeroDivisionError: a bug of somebody else's"
    for i in (0, 1):
        assert ends[i].reason.startswith("Its worker on ")
        assert "died" in ends[i].reason
    assert len(list(tmp_path.glob("*.made"))) >= 3


def test_units_of_one_key_go_to_the_worker_that_has_it_loaded(address, tmp_path):
    units = [kind + str(i) for i in range(4) for kind in "xy"]
    ends = spread(units, partial(Visitor, tmp_path), address=address, key=lambda unit: unit[0])
    visits = [end.result.split() for end in ends]
    assert len({process for _, process in visits}) == 2
    firsts = {}
    for unit, process in visits:
        firsts.setdefault(process, unit[0])
    assert sorted(firsts.values()) == ["x", "y"]


def test_a_sweep_is_spread_and_one_failure_costs_its_own_run_only(
    address, tmp_path, tiny_base_dir, fresh_store
):
    for name, kind in (("moods", "mood"), ("choices", "choice")):
        write_rows(tmp_path / f"{name}.jsonl", kind)
    manifest = tmp_path / "sweep.toml"
    datasets = json.dumps(["moods.jsonl", "missing.jsonl", "choices.jsonl"])
    manifest.write_text(f"datasets = {datasets}\nbases = {json.dumps([str(tiny_base_dir)])}\n")
    registry = Registry(fresh_store, cache_folder=tmp_path / "cache")
    said = []
    plan = plan_sweep(manifest, registry=registry)
    sweep = spread_sweep(plan, registry=registry, address=address, say=said.append)
    assert [run.status for run in sweep.runs] == ["trained", "failed", "trained"]
    assert "missing.jsonl does not exist" in sweep.runs[1].reason
    assert sorted(a.name for a in registry.adapters()) == ["choices-quick", "moods-quick"]
    assert len(said) == 3
    assert any("missing-quick failed" in line for line in said)
    again = plan_sweep(manifest, registry=registry)
    assert [run.status for run in again.runs] == ["registered", "failed", "registered"]


def test_cells_measured_on_a_cluster_are_those_measured_here(
    address, tmp_path, tiny_base_dir, fresh_store
):
    registry = Registry(fresh_store, cache_folder=tmp_path / "cache")
    recipe = find_recipe("quick", {"learning_rate": 0.02, "held_out_rows": 2})
    for name, kind in (("moods", "mood"), ("choices", "choice")):
        rows = write_rows(tmp_path / f"{name}.jsonl", kind)
        request = TrainRequest(rows, name, recipe, base_model=str(tiny_base_dir))
        roads.train(request, registry=registry)
    tasks = [write_rows(tmp_path / f"{kind}_task.jsonl", kind, 20) for kind in ("mood", "choice")]
    spread_out = roads.evaluate(
        EvaluationRequest(tasks, base_model=str(tiny_base_dir), ray_address=address),
        registry=registry,
    )
    assert not spread_out.report.failures
    assert len(spread_out.report.cells) == 8  # base, majority label and two adapters on two tasks
    of_adapters = [c for c in spread_out.report.cells if c.row.id not in (BASE_ID, MAJORITY_ID)]
    assert all("p_value_vs_base" in cell.metrics for cell in of_adapters)
    here = Registry(tmp_path / "here", cache_folder=tmp_path / "cache_here")
    roads.export_registry(tmp_path / "export", registry=registry)
    (tmp_path / "export" / "registry.json").write_text(
        json.dumps(json.loads((tmp_path / "export" / "registry.json").read_text()) | {"cells": []})
    )
    roads.import_results(tmp_path / "export", registry=here)
    local = roads.evaluate(EvaluationRequest(tasks, base_model=str(tiny_base_dir)), registry=here)
    scores = {(cell.row.id, cell.task): cell.score for cell in local.report.cells}
    assert scores == {(c.row.id, c.task): c.score for c in spread_out.report.cells}


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "No Ray cluster answers at 127.0.0.1:1 .*ray start --head"),
        ("ray://127.0.0.1:1", "No Ray cluster answers at ray://127.0.0.1:1"),
        ("nowhere", "--ray nowhere: not an address. Give HOST:PORT"),
    ],
)
def test_a_cluster_that_is_not_there_gets_a_sentence(address, words):
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=words):
        list(spread(["a"], str, address=address))


def test_without_ray_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"Ray is not installed.*pip install 'adapt-lora\[ray\]'"):
        list(spread(["a"], str, address="auto"))
