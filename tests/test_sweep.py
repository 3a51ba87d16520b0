"""Many trainings from one manifest."""

import json

import pytest
from typer.testing import CliRunner

from adapt_lora import roads
from adapt_lora.cli import app
from adapt_lora.errors import ConfigError
from adapt_lora.registry import Registry
from adapt_lora.sweep import plan_sweep, run_sweep
from tests.roads.test_roads import write_rows

MANIFEST = """
datasets = ["moods.jsonl", {{ file = "choices.jsonl", name = "yesno", group = "choosing" }}]
recipes = ["quick", "gentle.toml"]
bases = [{base}]
seeds = [0, 1]

[set]
epochs = 1
held_out_rows = 2
"""


@pytest.fixture
def home(tmp_path, tiny_base_dir, fresh_store):
    """A folder with two datasets, a recipe and a manifest of eight runs."""
    write_rows(tmp_path / "moods.jsonl", "mood")
    write_rows(tmp_path / "choices.jsonl", "choice")
    (tmp_path / "gentle.toml").write_text("learning_rate = 0.003\n")
    (tmp_path / "sweep.toml").write_text(MANIFEST.format(base=json.dumps(str(tiny_base_dir))))
    return tmp_path


@pytest.fixture
def registry(home, fresh_store):
    return Registry(fresh_store, cache_folder=home / "cache")


def small(home, text):
    """Another manifest beside the first, with its base model."""
    bases = (home / "sweep.toml").read_text().partition("bases")[2].partition("\n")[0]
    path = home / "small.toml"
    path.write_text(f"bases{bases}\n{text}")
    return path


def test_a_plan_crosses_everything_and_trains_nothing(home, registry):
    plan = plan_sweep(home / "sweep.toml", registry=registry)
    assert [run.name for run in plan.runs] == [
        f"{dataset}-{recipe}-s{seed}"
        for dataset in ("moods", "yesno")
        for recipe in ("quick", "gentle")
        for seed in (0, 1)
    ]
    assert {run.request.recipe.learning_rate for run in plan.runs} == {5e-4, 0.003}
    assert all(run.request.recipe.held_out_rows == 2 for run in plan.runs)
    assert all(run.n_tokens > 50 for run in plan.runs)
    assert plan.remaining_s is None
    assert plan.describe() == "8 runs: 8 to train, how long is known after the first."
    assert registry.adapters() == []


def test_a_dataset_with_many_skipped_rows_goes_along_where_that_is_allowed(home, registry):
    rows = (home / "moods.jsonl").read_text()
    (home / "holes.jsonl").write_text(rows + 8 * '{"prompt": "", "response": "", "label": ""}\n')
    said = []
    for written, allowed, statuses in (
        ('"holes.jsonl"', False, ["failed"]),
        ('"holes.jsonl"', True, ["to train"]),  # by the command's flag
        ('{ file = "holes.jsonl", allow_skips = true }', False, ["to train"]),
        ('{ file = "holes.jsonl", allow_skips = false }', True, ["failed"]),
    ):
        manifest = small(home, f"datasets = [{written}]")
        plan = plan_sweep(manifest, registry=registry, allow_skips=allowed, say=said.append)
        assert [run.status for run in plan.runs] == statuses
        if statuses == ["to train"]:
            assert plan.runs[0].request.allow_skips
            assert plan.runs[0].read.n_skipped == 8
    assert "24 of 32 rows used; skipped: line 25" in said[0]
    assert "--allow-skips" in plan.runs[0].reason
    with pytest.raises(ConfigError, match="'allow_skips' is 'yes', but must be true or false"):
        plan_sweep(small(home, 'datasets = [{file = "a", allow_skips = "yes"}]'), registry=registry)


def test_a_base_from_a_gguf_file_is_named_without_its_suffix(home, registry):
    manifest = home / "gguf.toml"
    manifest.write_text(
        'bases = ["small.gguf"]\ndatasets = ["moods.jsonl"]\nname = "{dataset}-on-{base}"\n'
    )
    runs = plan_sweep(manifest, registry=registry).runs
    assert [run.name for run in runs] == ["moods-on-small"]


def test_a_failure_never_stops_the_rest_and_a_second_call_trains_what_is_missing(
    home, registry, monkeypatch
):
    manifest = small(home, 'datasets = ["moods.jsonl", "missing.jsonl", "choices.jsonl"]')
    real = roads.train

    def breaks_once(request, **options):
        if "choices" in request.dataset:
            raise ZeroDivisionError("a bug of somebody else's")
        return real(request, **options)

    monkeypatch.setattr(roads, "train", breaks_once)
    said = []
    plan = plan_sweep(manifest, registry=registry)
    first = run_sweep(plan, registry=registry, say=said.append)
    assert [run.status for run in first.runs] == ["trained", "failed", "failed"]
    assert "missing.jsonl does not exist" in first.runs[1].reason
    assert "ZeroDivisionError: a bug of somebody else's" in first.runs[2].reason
    assert first.runs[0].version == 1
    assert any("missing-quick failed" in line for line in said)

    monkeypatch.setattr(roads, "train", real)
    again = plan_sweep(manifest, registry=registry)
    assert [run.status for run in again.runs] == ["registered", "failed", "to train"]
    assert again.runs[2].estimated_s > 0
    assert again.remaining_s == again.runs[2].estimated_s
    second = run_sweep(again, registry=registry)
    assert [run.status for run in second.runs] == ["registered", "failed", "trained"]
    assert [record.name for record in registry.adapters()] == ["moods-quick", "choices-quick"]


def test_a_base_model_that_is_not_there_fails_its_own_runs_only(home, registry, tiny_base_dir):
    manifest = home / "bases.toml"
    bases = json.dumps([str(tiny_base_dir), "./no-such-model"])
    manifest.write_text(f'datasets = ["moods.jsonl"]\nbases = {bases}\n')
    done = run_sweep(plan_sweep(manifest, registry=registry), registry=registry)
    assert [run.status for run in done.runs] == ["trained", "failed"]
    assert [run.name for run in done.runs] == [
        "moods-quick-tiny-llama",
        "moods-quick-no-such-model",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('recipes = ["quick"]', "'datasets' must be a list of at least one"),
        ("datasets = []", "'datasets' must be a list of at least one"),
        ('datasets = ["a"]\nseed = [1]', "unknown key 'seed'. Known are datasets"),
        ('datasets = ["a"]\nseeds = ["x"]', "'seeds' must be whole numbers"),
        ('datasets = [{path = "a"}]', "must be a path, or a table with 'file'"),
        ('datasets = ["a"]\nrecipes = ["quik"]', "no recipe 'quik'"),
        ('datasets = ["a"]\nname = "{data}"', "can't be filled"),
        ('datasets = ["a", "a"]', "2 runs would be called 'a-quick'"),
        ("datasets = ", "not readable as TOML"),
    ],
)
def test_a_manifest_that_cannot_be_used_gets_a_sentence(home, registry, text, words):
    with pytest.raises(ConfigError, match=words):
        plan_sweep(small(home, text), registry=registry)


def adapt(home, *arguments):
    environment = {"ADAPT_TRACKING_URI": str(home / "registry"), "COLUMNS": "160"}
    return CliRunner().invoke(app, [str(a) for a in ("train", *arguments)], env=environment)


def test_the_command_plans_trains_and_shows_a_table(home):
    manifest = small(home, 'datasets = ["moods.jsonl"]\nseeds = [0, 1]')
    planned = adapt(home, "--manifest", manifest, "--plan", "--json")
    assert planned.exit_code == 0, planned.output
    assert [run["status"] for run in json.loads(planned.stdout)["runs"]] == ["to train"] * 2
    done = adapt(home, "--manifest", manifest)
    assert done.exit_code == 0, done.output
    assert "moods-quick-s1" in done.stdout
    assert "2 runs: 2 trained." in done.stdout
    assert "moods-quick-s0 (1 of 2)" in done.stderr
    again = adapt(home, "--manifest", manifest, "--json")
    content = json.loads(again.stdout)
    assert [run["status"] for run in content["runs"]] == ["registered"] * 2
    assert [run["seed"] for run in content["runs"]] == [0, 1]


def test_a_failed_run_is_exit_code_1_and_its_reason_is_shown(home):
    done = adapt(home, "--manifest", small(home, 'datasets = ["missing.jsonl"]'))
    assert done.exit_code == 1
    assert "missing.jsonl does not exist" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [("--plan",), ("data.jsonl",), ("--manifest", "s.toml", "--name", "a")],
    ids=["plan of nothing", "no name", "manifest and name"],
)
def test_half_a_command_is_wrong_usage(home, arguments):
    assert adapt(home, *arguments).exit_code == 2
