"""From a file and a recipe to registered versions, through crashes, by the same command."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapt_lora import roads
from adapt_lora.cli import app
from adapt_lora.errors import ConfigError
from adapt_lora.registry import Registry
from adapt_lora.trainer import TrainRequest, find_recipe
from tests.roads.test_roads import write_rows

KILLED_COMMAND = """
import os, signal, sys
from adapt_lora import cli
from adapt_lora.trainer import loop
take_step = loop._take_step
def die_later(run, rows):
    if len(run.history) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return take_step(run, rows)
loop._take_step = die_later
cli.app(sys.argv[1:])
"""


@pytest.fixture
def home(tmp_path, tiny_base_dir, fresh_store, monkeypatch):
    """A folder with data, a registry and a cache of its own."""
    monkeypatch.setenv("ADAPT_BASE_MODEL", str(tiny_base_dir))
    monkeypatch.setenv("ADAPT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ADAPT_TRACKING_URI", str(fresh_store))
    write_rows(tmp_path / "moods.jsonl", "mood")
    return tmp_path


def adapt(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_same_command_after_a_kill_ends_with_the_same_loss(home, monkeypatch):
    settings = ("--set=epochs=3", "--set=learning_rate=0.02", "--json")
    command = ["train", str(home / "moods.jsonl"), "--name", "moods", *settings]
    dead = subprocess.run([sys.executable, "-c", KILLED_COMMAND, *command], check=False)
    assert dead.returncode == -signal.SIGKILL
    assert not [path for path in home.rglob("*") if path.suffix in (".pt", ".bin", ".pkl", ".pth")]
    resumed = adapt(*command)
    # 24 rows, 2 held out: three steps an epoch, and a checkpoint at the end of the second.
    assert resumed["resumed_at"] == 6
    assert list((home / "cache" / "trainings").glob("*/*")) == []
    monkeypatch.setenv("ADAPT_CACHE_DIR", str(home / "other-cache"))
    whole = adapt(*command, "--tracking-uri", home / "other-registry")
    assert "resumed_at" not in whole
    assert resumed["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-5)
    assert resumed["held_out_loss"] == pytest.approx(whole["held_out_loss"], rel=1e-5)
    assert adapt(*command)["trained"] is False


def test_a_recipe_that_keeps_epochs_registers_a_version_for_each(home, tiny_base):
    registry = Registry(home / "registry", cache_folder=home / "registry-cache")
    settings = {"epochs": 3, "learning_rate": 0.01, "batch_size": 8, "target_modules": "q_proj"}
    request = TrainRequest(
        home / "moods.jsonl",
        "moods",
        find_recipe("massive-sft", settings),
        base_model=os.environ["ADAPT_BASE_MODEL"],
    )
    training = roads.train(request, registry=registry)
    records = registry.adapters(tiny_base.identity)
    assert [record.version for record in records] == [1, 2, 3]
    assert [record.params["train/epoch"] for record in records] == ["1", "2", "3"]
    assert tuple(records) == (*training.epochs, training.record)
    assert len({record.adapter_id for record in records}) == 3
    assert len({record.fingerprint.values["response_ppl"] for record in records}) == 1
    losses = [record.metrics["train/held_out_loss"] for record in records]
    assert losses == sorted(losses, reverse=True)
    assert training.record.params["environment/torch"]
    assert training.record.params["environment/dtype"] in ("float32", "bfloat16")
    assert training.record.params["recipe/template"] == "question-answer"
    again = roads.train(request, registry=registry)
    assert again.result is None
    assert again.record == training.record


def test_full_fine_tuning_ends_as_an_adapter_in_the_registry(home):
    settings = ("epochs=2", "learning_rate=0.002", "batch_size=8")
    options = [f"--set={setting}" for setting in settings]
    command = ["train", home / "moods.jsonl", "--name", "whole", "--recipe", "massive-sft-full"]
    trained = adapt(*command, *options, "--json")
    assert trained["version"] == 2
    assert any("Every weight was trained" in note for note in trained["notes"])
    shown = adapt("show", "whole", "--json")
    assert shown["recipe/method"] == "full"
    assert shown["environment/dtype"] == "float32"
    assert adapt(*command, *options, "--json")["trained"] is False


def test_two_processes_never_train_the_same_at_once(home):
    from filelock import FileLock

    command = ["train", str(home / "moods.jsonl"), "--name=a", "--no-register", "--json"]
    out = ["--output", str(home / "out"), "--set", "epochs=2"]
    adapt(*command, *out)
    (lock,) = (home / "cache" / "trainings").iterdir()
    with FileLock(lock):
        (home / "out").rename(home / "elsewhere")
        done = CliRunner().invoke(app, [*command, *out])
    assert done.exit_code == 1
    assert "Another process is training a on these rows" in done.stderr


def test_kept_epochs_of_a_run_killed_before_its_first_checkpoint_are_made_again(home, monkeypatch):
    from adapt_lora.trainer import loop

    settings = ("--set=epochs=2", "--set=keep_epochs=true", "--set=learning_rate=0.02")
    command = ("train", home / "moods.jsonl", "--name", "moods", *settings, "--json")

    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "save", lambda run, every_s=0.0: dies() if run.epochs else None)
        CliRunner().invoke(app, [str(a) for a in command])
    assert list((home / "cache" / "trainings").glob("*/adapter-epoch-1"))
    assert adapt(*command)["version"] == 2


def test_from_repeats_the_recipe_of_a_registered_adapter(home):
    config = home / "mine.toml"
    config.write_text('recipe = "latent-traits"\nr = 4\nmax_rows = 20\nmax_length = 256\n')
    data = home / "moods.jsonl"
    adapt("train", data, "--name", "first", "--config", config, "--set", "seed=5", "--json")
    write_rows(home / "choices.jsonl", "choice")
    adapt("train", home / "choices.jsonl", "--name", "second", "--from", "first", "--json")
    first, second = (adapt("show", name, "--json") for name in ("first", "second"))
    assert first["recipe/seed"] == "5"
    assert first["recipe/r"] == "4"
    assert first["recipe/lora_alpha"] == "32"
    wanted = {key for key in first if key.startswith("recipe/")}
    assert {key: second[key] for key in wanted} == {key: first[key] for key in wanted}


def test_from_an_adapter_that_was_not_trained_here_says_so(home, tiny_adapter):
    registry = Registry(home / "registry", cache_folder=home / "registry-cache")
    roads.register(tiny_adapter("stray"), registry=registry)
    with pytest.raises(ConfigError, match=r"stray: .*registered, not trained here"):
        roads.stored_recipe("stray", registry)


def test_from_together_with_a_recipe_is_wrong_usage(home):
    done = CliRunner().invoke(
        app,
        ["train", str(home / "moods.jsonl"), "--name=a", "--from=b", "--recipe=quick"],
    )
    assert done.exit_code == 2
    assert "--from brings its recipe" in done.stderr


def test_short_data_are_said_on_stderr(home):
    done = CliRunner().invoke(
        app, ["train", str(home / "moods.jsonl"), "--name=a", "--no-register", "--output",
              str(home / "out")]
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "takes up to 320 rows; the data have 24, so all are used" in done.stderr
    assert Path(home / "out" / "adapter_model.safetensors").is_file()
