"""`adapt evaluate` through a server, as a person and as a Python caller."""

import pytest
from typer.testing import CliRunner

from adapt_lora import roads
from adapt_lora.cli import app
from adapt_lora.errors import ConfigError
from adapt_lora.evaluator import ServerOptions
from adapt_lora.registry import Registry
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
    options = {"registry": registry, "base_model": str(tiny_base_dir), "say": said.append}
    served = roads.evaluate(
        [task], backend="openai", server=ServerOptions(tiny_server.url), **options
    )
    assert served.report.failures == ()
    assert "tiny/llama" in said[0]
    local = roads.evaluate([task], **options)
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
    options = {"registry": registry, "base_model": str(tiny_base_dir)}
    roads.evaluate([task], **options)
    local = roads.plan_evaluation([task], **options)
    assert local.cells == ()
    served = roads.plan_evaluation(
        [task], backend="openai", server=ServerOptions(tiny_server.url), **options
    )
    assert len(served.cells) == served.n_cells == local.n_cells
    assert served.tokens_per_s > 0
    with pytest.raises(ConfigError, match="needs --server"):
        roads.plan_evaluation([task], backend="openai", **options)
    with pytest.raises(ConfigError, match="leave out --backend vllm"):
        roads.plan_evaluation([task], backend="vllm", ray_address="auto", **options)


def test_an_adapter_served_under_its_registered_name_is_not_loaded_again(
    registry, tiny_server, tiny_base_dir, tiny_adapter, tmp_path
):
    tiny_server.models["moods"] = tiny_adapter("served", seed=0)
    roads.evaluate(
        [write_rows(tmp_path / "task.jsonl", "mood", 12)],
        registry=registry,
        adapters=["moods"],
        base_model=str(tiny_base_dir),
        backend="openai",
        server=ServerOptions(tiny_server.url),
    )
    assert {body.get("model") for path, body in tiny_server.requests if "completions" in path} == {
        "tiny/llama",
        "moods",
    }


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


def test_a_server_without_its_backend_is_an_error_before_anything_is_measured(
    registry, tiny_base_dir, tmp_path
):
    with pytest.raises(ConfigError, match="--backend openai"):
        roads.evaluate(
            [write_rows(tmp_path / "task.jsonl", "mood", 12)],
            registry=registry,
            base_model=str(tiny_base_dir),
            server=ServerOptions("http://127.0.0.1:9"),
        )
