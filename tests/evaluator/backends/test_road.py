"""`adapt evaluate` through a server, as a person and as a Python caller."""

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from adapt_lora import roads
from adapt_lora.cli import app
from adapt_lora.errors import RegistryError
from adapt_lora.evaluator import EVERY, EvaluationRequest, ServerOptions
from adapt_lora.registry import Registry
from adapt_lora.registry.records import BASE_ROW, MAJORITY_ROW
from tests.roads.test_roads import write_rows


@pytest.fixture
def registry(fresh_store, tiny_adapter, tiny_base_dir):
    made = Registry(fresh_store, cache_folder=fresh_store / "cache")
    for seed, name in enumerate(("moods", "choices")):
        roads.register(
            tiny_adapter(name, seed=seed),
            registry=made,
            name=name,
            base_model=str(tiny_base_dir),
        )
    return made


def test_cells_come_through_a_server_under_a_protocol_of_their_own(
    registry, tiny_server, tiny_base_dir, tmp_path
):
    task = write_rows(tmp_path / "task.jsonl", "mood", 12)
    said: list[str] = []
    request = EvaluationRequest([task], base_model=str(tiny_base_dir))
    through = replace(request, backend="openai", server=ServerOptions(tiny_server.url))
    served = roads.evaluate(through, registry=registry, say=said.append)
    assert served.report.failures == ()
    assert "tiny/llama" in said[0]
    local = roads.evaluate(request, registry=registry, say=said.append)
    assert any("Backend: transformers" in sentence for sentence in said)
    by_row = [
        {
            cell.row.id: (cell.metrics.get("label_cross_entropy", 0), cell.protocol)
            for cell in evaluation.report.cells
        }
        for evaluation in (served, local)
    ]
    assert by_row[0].keys() == by_row[1].keys()
    assert len(by_row[0]) == 4
    for row in by_row[0]:
        # The road loads the base in what is fastest here, bfloat16 perhaps; the server is float32.
        assert by_row[0][row][0] == pytest.approx(by_row[1][row][0], rel=0.05)
        assert by_row[0][row][1] != by_row[1][row][1]


def test_a_plan_is_of_the_backend_that_would_measure(
    registry, tiny_server, tiny_base_dir, tmp_path
):
    task = write_rows(tmp_path / "task.jsonl", "mood", 12)
    request = EvaluationRequest([task], base_model=str(tiny_base_dir))
    roads.evaluate(request, registry=registry)
    local = roads.plan_evaluation(request, registry=registry)
    assert local.cells == ()
    through = replace(request, backend="openai", server=ServerOptions(tiny_server.url))
    served = roads.plan_evaluation(through, registry=registry)
    assert len(served.cells) == served.n_cells == local.n_cells
    assert served.tokens_per_s > 0


def test_an_adapter_served_under_its_registered_name_is_not_loaded_again(
    registry, tiny_server, tiny_base_dir, tiny_adapter, tmp_path
):
    tiny_server.models["moods"] = tiny_adapter("served", seed=0)
    roads.evaluate(
        EvaluationRequest(
            [write_rows(tmp_path / "task.jsonl", "mood", 12)],
            adapters=["moods"],
            base_model=str(tiny_base_dir),
            backend="openai",
            server=ServerOptions(tiny_server.url),
        ),
        registry=registry,
    )
    assert {body.get("model") for path, body in tiny_server.requests if "completions" in path} == {
        "tiny/llama",
        "moods",
    }


def test_files_that_an_engine_needs_at_once_are_asked_for_once_and_named_when_lost(
    registry, tiny_server, tiny_base_dir, tmp_path, monkeypatch
):
    task = write_rows(tmp_path / "task.jsonl", "mood", 12)
    monkeypatch.setenv("ADAPT_CACHE_DIR", str(tmp_path / "empty-cache"))
    asked, plain = [], Registry.pull

    def pull(self, *arguments):
        asked.append(arguments[1].name)
        if len(asked) % 2:
            raise RegistryError("the registry does not answer")
        return plain(self, *arguments)

    monkeypatch.setattr(Registry, "pull", pull)
    request = EvaluationRequest(
        [task],
        adapters=["moods", "choices"],
        base_model=str(tiny_base_dir),
        backend="openai",
        server=ServerOptions(tiny_server.url),
    )
    lost, kept = (registry.adapter(name).row for name in request.adapters)
    expected = [(lost, EVERY, "the registry does not answer")]
    plan = roads.plan_evaluation(request, registry=registry)
    assert [(f.row, f.task, f.reason) for f in plan.failures] == expected
    asked.clear()
    report = roads.evaluate(request, registry=registry).report
    assert [(f.row, f.task, f.reason) for f in report.failures] == expected
    assert asked == [lost.model[:32]]
    assert {c.row for c in report.cells} == {BASE_ROW, MAJORITY_ROW, kept}
    assert report.n_skipped == 0  # what could not be measured was not there before


def _adapt(registry, tiny_base_dir, *arguments):
    environment = {
        "ADAPT_TRACKING_URI": registry.tracking_uri,
        "ADAPT_BASE_MODEL": str(tiny_base_dir),
        "COLUMNS": "200",
    }
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], env=environment)


def test_the_command_measures_through_a_server(registry, tiny_server, tiny_base_dir, tmp_path):
    task = write_rows(tmp_path / "task.jsonl", "choice", 12)
    options = ("--backend", "openai", "--server", tiny_server.url, "--concurrency", 2)
    done = _adapt(registry, tiny_base_dir, "--task", task, *options)
    assert done.exit_code == 0, done.output
    assert "4 cells measured" in done.stdout
    assert f"Scores come from tiny/llama at {tiny_server.url}" in done.stderr


def test_an_unknown_backend_is_wrong_usage(registry, tiny_base_dir, tmp_path):
    done = _adapt(registry, tiny_base_dir, "--task", tmp_path, "--backend", "tgi")
    assert done.exit_code == 2
    assert "auto, transformers, vllm, openai" in done.stderr
