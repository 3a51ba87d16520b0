"""One training in two processes, started as people start it."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
from safetensors.torch import load_file

from adapt_lora import roads
from adapt_lora.registry import Registry
from adapt_lora.trainer import TrainRequest, find_recipe, train_adapter
from tests.roads.test_roads import write_rows

SETTINGS = ("held_out_rows=4", "batch_size=5", "epochs=3", "learning_rate=0.002", "max_rows=33")


def _free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def _launcher():
    torchrun = (sys.executable, "-m", "torch.distributed.run")
    return [*torchrun, "--nproc-per-node=2", f"--master-port={_free_port()}"]


def _environment(home):
    return {
        **os.environ,
        "ADAPT_TRACKING_URI": str(home / "registry"),
        "ADAPT_CACHE_DIR": str(home / "cache"),
        "OMP_NUM_THREADS": "1",
        # Gloo must find the machine's own address where its name has none.
        "GLOO_SOCKET_IFNAME": "lo",
    }


@pytest.fixture
def home(tmp_path, fresh_store):
    write_rows(tmp_path / "moods.jsonl", "mood", 40)
    return tmp_path


def _train(home, base, name, *more):
    """What `adapt train --json` printed, run by two processes."""
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    options = ["--name", name, "--base-model", str(base), "--json", *settings, *more]
    command = [*_launcher(), "-m", "adapt_lora.cli", "train", str(home / "moods.jsonl"), *options]
    done = subprocess.run(
        command,
        env=_environment(home),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # one object: the second process prints nothing


def test_two_processes_train_what_one_trains_and_register_it_once(home, tiny_base_dir):
    together = _train(home, tiny_base_dir, "together", "--output", str(home / "together"))
    recipe = find_recipe("quick", dict(setting.split("=") for setting in SETTINGS))
    request = TrainRequest(
        home / "moods.jsonl",
        "alone",
        recipe,
        base_model=str(tiny_base_dir),
        output=home / "alone",
    )
    alone = roads.train(request, registry=None).result
    assert together["train_loss"] == pytest.approx(alone.train_loss, rel=1e-3)
    assert together["held_out_loss"] == pytest.approx(alone.held_out_loss, rel=3e-3)
    weights = [
        load_file(home / name / "adapter_model.safetensors") for name in ("alone", "together")
    ]
    for name, tensor in weights[0].items():
        # Adam turns the rounding of a gradient near zero into a step of full size.
        assert (tensor - weights[1][name]).norm() < 0.02 * tensor.norm(), name
    registry = Registry(home / "registry", cache_folder=home / "cache")
    assert [(a.name, a.version) for a in registry.adapters()] == [("together", 1)]
    again = _train(home, tiny_base_dir, "together")
    assert (again["trained"], again["version"]) == (False, 1)


DYING_RUN = """
import json, os, signal, sys
from pathlib import Path
from adapt_lora.model.base import load_base_model
from adapt_lora.data import Row
from adapt_lora.trainer import Recipe, join_processes, train_adapter
base = load_base_model(sys.argv[1], dtype="float32", device="cpu")
rows = [Row(**row) for row in eval(sys.argv[3])]
recipe, last_step = eval(sys.argv[4]), int(sys.argv[5])
def die(done, total):
    if done == last_step:
        os.kill(os.getpid(), signal.SIGKILL)
home = Path(sys.argv[2])
with join_processes() as processes:
    result = train_adapter(base, rows, recipe=recipe, out=home / "adapter",
                           checkpoint=home / "checkpoint", checkpoint_every_s=0,
                           processes=processes, progress=die)
    if processes.is_first:
        figures = {"loss": [step.loss for step in result.history],
                   "grad_norm": [step.grad_norm for step in result.history]}
        (home / "figures.json").write_text(json.dumps(figures))
    assert result.resumed_at == 13
"""


def test_two_killed_processes_go_on_from_the_first_one_s_checkpoint(
    home, tiny_base, tiny_base_dir, sentiment_rows, fast_recipe
):
    recipe = replace(fast_recipe, keep_epochs=True)
    whole = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=home / "whole")
    script = home / "run.py"
    script.write_text(DYING_RUN)
    arguments = [str(tiny_base_dir), str(home), repr([*map(asdict, sentiment_rows)]), repr(recipe)]
    ends = []
    for last_step in ("13", "never"):
        command = [*_launcher(), str(script), *arguments, last_step.replace("never", "-1")]
        done = subprocess.run(
            command, env=_environment(home), capture_output=True, timeout=240, check=False
        )
        ends.append(done.returncode)
    assert ends[0] != 0
    assert ends[1] == 0
    figures = json.loads((home / "figures.json").read_text())
    assert figures["loss"] == pytest.approx([step.loss for step in whole.history], rel=1e-3)
    # Before steps have spread the rounding, the gradients are the very same.
    norms = [step.grad_norm for step in whole.history]
    assert figures["grad_norm"][:2] == pytest.approx(norms[:2], rel=1e-5)
    assert (home / "adapter-epoch-1").is_dir()
