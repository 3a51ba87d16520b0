"""A run goes into a checkpoint and out of it."""

import signal
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from adapt_lora.trainer import train_adapter
from adapt_lora.trainer.saving import epoch_folder
from tests.trainer.conftest import ADAPTER_FILES

KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from adapt_lora.model.base import load_base_model
from adapt_lora.data import Row
from adapt_lora.trainer import Recipe, train_adapter
base = load_base_model(sys.argv[1], dtype="float32", device="cpu")
rows = [Row(**row) for row in eval(sys.argv[3])]
recipe = eval(sys.argv[4])
def die(done, total):
    if done == 13:
        os.kill(os.getpid(), signal.SIGKILL)
home = Path(sys.argv[2])
train_adapter(base, rows, recipe=recipe, out=home / "adapter", checkpoint=home / "checkpoint",
              checkpoint_every_s=0, progress=die)
"""


def test_a_run_killed_in_the_middle_of_an_epoch_goes_on_and_ends_the_same(
    tiny_base, tiny_base_dir, sentiment_rows, fast_recipe, tmp_path
):
    recipe = replace(fast_recipe, lora_dropout=0.2, keep_epochs=True)
    whole = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "whole")
    home = tmp_path / "killed"
    arguments = [str(tiny_base_dir), str(home), repr([*map(asdict, sentiment_rows)]), repr(recipe)]
    dead = subprocess.run([sys.executable, "-c", KILLED_RUN, *arguments], check=False)
    assert dead.returncode == -signal.SIGKILL
    assert not (home / "adapter").exists()
    (kept,) = (home / "checkpoint").iterdir()
    assert sorted(path.name for path in kept.iterdir()) == ["state.json", "state.safetensors"]
    said = []
    resumed = train_adapter(
        tiny_base,
        sentiment_rows,
        recipe=recipe,
        out=home / "adapter",
        checkpoint=home / "checkpoint",
        say=said.append,
    )
    assert resumed.resumed_at == 13
    assert said == ["Training goes on after step 13 of 18, where it stopped."]
    assert [step.loss for step in resumed.history] == pytest.approx(
        [step.loss for step in whole.history], rel=1e-5
    )
    assert resumed.held_out_loss == pytest.approx(whole.held_out_loss, rel=1e-5)
    assert resumed.train_loss == pytest.approx(whole.train_loss, rel=1e-5)
    assert resumed.epochs[0].folder == epoch_folder(home / "adapter", 1)
    assert sorted(p.name for p in resumed.folder.iterdir()) == list(ADAPTER_FILES)


def test_another_recipe_never_goes_on_from_a_checkpoint(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    place = tmp_path / "checkpoint"
    train_adapter(
        tiny_base, sentiment_rows, recipe=fast_recipe, out=tmp_path / "one", checkpoint=place
    )
    other = train_adapter(
        tiny_base,
        sentiment_rows,
        recipe=replace(fast_recipe, seed=7),
        out=tmp_path / "two",
        checkpoint=place,
    )
    assert other.resumed_at == 0


def test_a_full_disk_costs_the_checkpoints_and_not_the_training(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    result = train_adapter(
        tiny_base,
        sentiment_rows,
        recipe=fast_recipe,
        out=tmp_path / "adapter",
        checkpoint=in_the_way / "checkpoint",
        checkpoint_every_s=0,
    )
    (note,) = result.notes
    assert "no checkpoint can be written" in note
    assert result.folder.is_dir()
