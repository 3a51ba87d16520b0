import json
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from adapt_lora.data import Row
from adapt_lora.errors import TrainingError
from adapt_lora.model import scoring
from adapt_lora.trainer import loop, train_adapter
from adapt_lora.trainer.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from adapt_lora.trainer.loop import ADAPTER_FILES, epoch_batches, epoch_folder, length_groups


@pytest.fixture(scope="module")
def trained(tiny_base, sentiment_rows, fast_recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "adapter"
    return train_adapter(tiny_base, sentiment_rows, recipe=fast_recipe, out=out)


def _state(base):
    return {name: value.detach().clone() for name, value in base.model.state_dict().items()}


def test_training_lowers_the_loss_and_the_held_out_loss(trained):
    first, last = trained.history[0].loss, trained.history[-1].loss
    assert last < 0.6 * first
    assert trained.held_out_loss < 0.7 * trained.held_out_loss_base
    assert trained.train_loss < first


def test_every_step_is_recorded_with_its_figures(trained):
    # 40 rows, a tenth held out: 36 rows in batches of 4, twice.
    assert (trained.n_rows, trained.n_held_out) == (36, 4)
    assert [step.step for step in trained.history] == list(range(1, 19))
    rates = [step.learning_rate for step in trained.history]
    assert max(rates) == pytest.approx(5e-2)
    assert rates[0] == 0
    assert rates[-1] < 1e-3
    assert all(step.grad_norm > 0 and step.tokens_per_s > 0 for step in trained.history)
    assert trained.peak_memory_mib > 10


def test_the_base_is_left_bit_for_bit_as_it_was(tiny_base, sentiment_rows, fast_recipe, tmp_path):
    before, modules = _state(tiny_base), [type(m) for m in tiny_base.model.modules()]
    train_adapter(tiny_base, sentiment_rows, recipe=fast_recipe, out=tmp_path / "adapter")
    after = _state(tiny_base)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [type(m) for m in tiny_base.model.modules()] == modules
    assert not tiny_base.model.training
    assert not any(p.requires_grad for p in tiny_base.model.parameters())
    assert "peft_config" not in vars(tiny_base.model)


def test_the_same_seed_gives_identical_losses_and_weights(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    recipe = replace(fast_recipe, lora_dropout=0.2)
    runs = []
    for name in ("one", "two"):
        torch.rand(3)  # what happened before must not matter
        runs.append(train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / name))
    assert [s.loss for s in runs[0].history] == [s.loss for s in runs[1].history]
    weights = [(run.folder / "adapter_model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    other = train_adapter(
        tiny_base, sentiment_rows, recipe=replace(recipe, seed=1), out=tmp_path / "three"
    )
    assert [s.loss for s in other.history] != [s.loss for s in runs[0].history]


def test_training_leaves_the_global_random_state_alone(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    train_adapter(tiny_base, sentiment_rows, recipe=fast_recipe, out=tmp_path / "adapter")
    assert torch.equal(torch.rand(2), expected)


def test_peft_itself_loads_the_folder_and_gets_the_same_loss(
    trained, tiny_base_dir, tiny_base, sentiment_rows
):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    encoded = scoring.encode_rows(tiny_base, sentiment_rows[:6])
    with tiny_base.adapted(trained.folder):
        merged = scoring.read_pass(tiny_base, encoded, hidden=False).response_nll
    plain = AutoModelForCausalLM.from_pretrained(tiny_base_dir)
    wrapped = PeftModel.from_pretrained(plain, trained.folder).eval()
    for row, expected in zip(encoded, merged, strict=True):
        ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
        with torch.no_grad():
            logits = wrapped(input_ids=ids).logits[0].log_softmax(-1)
        at = torch.arange(len(row.prompt_ids), ids.shape[1])
        nll = -logits[at - 1, ids[0, at]]
        assert nll.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_folder_names_the_hub_id_and_holds_no_pickle(trained, tiny_base):
    assert sorted(p.name for p in trained.folder.iterdir()) == sorted(ADAPTER_FILES)
    config = json.loads((trained.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == tiny_base.identity.name == "tiny/llama"
    assert config["inference_mode"] is True
    assert str(tiny_base.folder) not in (trained.folder / "README.md").read_text()


def test_only_the_response_carries_loss(tiny_base, sentiment_rows):
    encoded = scoring.encode_rows(tiny_base, sentiment_rows[:3])
    nll = loop._response_nll(tiny_base, encoded)
    expected = scoring.read_pass(tiny_base, encoded, hidden=False).response_nll
    assert len(nll) == sum(len(row.response_ids) for row in encoded)
    together = [value for row in expected for value in row.tolist()]
    assert nll.tolist() == pytest.approx(together, abs=1e-4)


def test_long_answers_in_pieces_give_the_same_training(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, monkeypatch
):
    recipe = replace(fast_recipe, epochs=1)
    whole = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "whole")
    monkeypatch.setattr(loop, "POSITIONS_AT_ONCE", 3)
    pieces = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "pieces")
    assert [s.loss for s in pieces.history] == pytest.approx(
        [s.loss for s in whole.history], rel=1e-4
    )


def test_progress_is_told_step_by_step(tiny_base, sentiment_rows, fast_recipe, tmp_path):
    seen = []
    train_adapter(
        tiny_base,
        sentiment_rows,
        recipe=fast_recipe,
        out=tmp_path / "adapter",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i, 18) for i in range(1, 19)]


@pytest.mark.parametrize("n", [1, 7, 40, 1000])
def test_batches_hold_every_row_once_in_an_order_that_seed_and_epoch_decide(n):
    batches = epoch_batches(n, 8, seed=0, epoch=0)
    assert sorted(i for batch in batches for i in batch) == list(range(n))
    assert all(len(batch) == 8 for batch in batches[:-1])
    assert batches == epoch_batches(n, 8, seed=0, epoch=0)
    if n > 8:
        assert batches != epoch_batches(n, 8, seed=0, epoch=1)


def test_rows_of_a_step_are_read_in_groups_of_like_length():
    lengths = [60, 310, 55, 280, 58, 61, 300, 57]
    groups = length_groups(lengths, 8)
    assert [sorted(lengths[i] for i in group) for group in groups] == [
        [55, 57, 58, 60, 61],
        [280, 300, 310],
    ]
    assert [len(group) for group in length_groups(lengths, 2)] == [2, 2, 1, 2, 1]
    assert length_groups([], 8) == []


def test_groups_of_like_length_leave_the_step_as_it_is(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, monkeypatch
):
    recipe = replace(fast_recipe, epochs=1)
    grouped = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "grouped")
    monkeypatch.setattr(loop, "length_groups", lambda lengths, _: [list(range(len(lengths)))])
    whole = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "whole")
    assert [s.loss for s in grouped.history] == pytest.approx(
        [s.loss for s in whole.history], rel=1e-4
    )


def test_max_rows_and_max_tokens_bound_what_is_trained_on(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    by_rows = train_adapter(
        tiny_base,
        sentiment_rows,
        recipe=replace(fast_recipe, max_rows=12, epochs=1),
        out=tmp_path / "rows",
    )
    assert by_rows.n_rows == 12
    by_tokens = train_adapter(
        tiny_base,
        sentiment_rows,
        recipe=replace(fast_recipe, max_tokens=300, epochs=1),
        out=tmp_path / "tokens",
    )
    assert 200 < by_tokens.n_tokens <= 300


def test_a_held_out_row_is_never_trained_on(tiny_base, fast_recipe, tmp_path):
    same = [Row("the film was good", "positive", None, i) for i in range(30)]
    result = train_adapter(
        tiny_base, same, recipe=replace(fast_recipe, epochs=1), out=tmp_path / "adapter"
    )
    assert result.n_held_out == 0
    assert result.held_out_loss is None


def test_rows_that_are_too_long_are_left_out_and_counted(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    long = Row("the film " * 60, "positive", None, 99)
    unanswered = Row("the film", None, None, 100)
    result = train_adapter(
        tiny_base,
        [*sentiment_rows, long, unanswered],
        recipe=replace(fast_recipe, max_length=80, epochs=1),
        out=tmp_path / "adapter",
    )
    assert (result.n_too_long, result.n_without_response) == (1, 1)


def _fails(base, rows, recipe, out, words):
    with pytest.raises(TrainingError, match=words):
        train_adapter(base, rows, recipe=recipe, out=out)


def test_data_that_cannot_teach_get_a_sentence_each(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    out = tmp_path / "adapter"
    _fails(tiny_base, [], fast_recipe, out, "no rows")
    mute = [replace(row, response=None) for row in sentiment_rows]
    _fails(tiny_base, mute, fast_recipe, out, "None of the 40 rows has a response.*--map")
    short = replace(fast_recipe, max_length=5)
    _fails(tiny_base, sentiment_rows, short, out, "All 40 rows are too long.*allows 5")
    assert not out.exists()


def test_rows_beyond_what_the_base_reads_are_too_long_whatever_the_recipe_says(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    endless = Row("the film " * 400, "positive", None, 99)
    recipe = replace(fast_recipe, max_length=100_000, epochs=1)
    result = train_adapter(
        tiny_base, [*sentiment_rows, endless], recipe=recipe, out=tmp_path / "adapter"
    )
    assert result.n_too_long == 1
    words = "allows 100000 and the base model reads 512. Shorten the prompts"
    _fails(tiny_base, [endless], recipe, tmp_path / "other", words)


def test_an_existing_folder_is_never_overwritten(tiny_base, sentiment_rows, fast_recipe, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    _fails(tiny_base, sentiment_rows, fast_recipe, tmp_path, "exists already")
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_the_update_is_stored_in_the_type_that_the_recipe_names(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    for kept in ("float32", "bfloat16"):
        recipe = replace(fast_recipe, adapter_dtype=kept)
        train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / kept)
    whole = load_file(tmp_path / "float32" / "adapter_model.safetensors")
    half = load_file(tmp_path / "bfloat16" / "adapter_model.safetensors")
    assert all(torch.equal(half[key], value.bfloat16()) for key, value in whole.items())


def test_a_dtype_that_the_base_does_not_have_is_an_error(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    recipe = replace(fast_recipe, dtype="bfloat16")
    _fails(tiny_base, sentiment_rows, recipe, tmp_path / "a", "asks for bfloat16.*in float32")


def test_layer_names_that_the_base_lacks_are_an_error(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    recipe = replace(fast_recipe, target_modules=("query_key_value",))
    _fails(tiny_base, sentiment_rows, recipe, tmp_path / "a", "LoRA on query_key_value")
    assert not any(p.requires_grad for p in tiny_base.model.parameters())


def test_a_loss_that_is_not_a_number_stops_with_the_step_and_advice_and_restores_the_base(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, monkeypatch
):
    before = _state(tiny_base)
    calls = []
    real = loop._response_nll

    def breaks_at_the_third_step(base, rows, **options):
        nll = real(base, rows, **options)
        if base.model.training:
            calls.append(1)
        return nll * float("nan") if len(calls) == 3 else nll

    monkeypatch.setattr(loop, "_response_nll", breaks_at_the_third_step)
    out = tmp_path / "adapter"
    _fails(tiny_base, sentiment_rows, fast_recipe, out, "step 3 of 18.*lower learning_rate")
    assert not any(tmp_path.iterdir())
    assert all(torch.equal(before[k], v) for k, v in _state(tiny_base).items())


def test_a_crash_while_saving_leaves_nothing_behind(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, monkeypatch
):
    def disk_is_full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop, "save_file", disk_is_full)
    recipe = replace(fast_recipe, epochs=1)
    _fails(tiny_base, sentiment_rows, recipe, tmp_path / "a", "No space left on device")
    assert not any(tmp_path.iterdir())


def test_lora_weights_are_trained_in_float32_on_a_bfloat16_base(
    tiny_base_dir, sentiment_rows, fast_recipe, tmp_path
):
    from safetensors import safe_open

    from adapt_lora.model.base import load_base_model

    base = load_base_model(tiny_base_dir, dtype="bfloat16", device="cpu")
    before = _state(base)
    recipe = replace(fast_recipe, epochs=1)
    result = train_adapter(base, sentiment_rows, recipe=recipe, out=tmp_path / "adapter")
    assert result.history[-1].loss < 0.7 * result.history[0].loss
    with safe_open(result.folder / "adapter_model.safetensors", "pt") as tensors:
        kinds = {tensors.get_tensor(key).dtype for key in tensors.keys()}  # noqa: SIM118
    assert kinds == {torch.float32}
    assert all(torch.equal(before[k], v) for k, v in _state(base).items())


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from adapt_lora.model.base import load_base_model
from adapt_lora.data import Row
from adapt_lora.trainer import Recipe, train_adapter
base = load_base_model(sys.argv[1], dtype="float32", device="cpu")
rows = eval(sys.argv[3])
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
    arguments = [str(tiny_base_dir), str(home), repr(sentiment_rows), repr(recipe)]
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
    assert sorted(p.name for p in resumed.folder.iterdir()) == sorted(ADAPTER_FILES)


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


def test_a_broken_checkpoint_means_an_earlier_one(tmp_path):
    weights = {"weights/a": torch.ones(2)}
    write_checkpoint(tmp_path, Checkpoint("key", 4, weights, {"before": 1.0}))
    broken = tmp_path / "step-00000009"
    broken.mkdir()
    (broken / "state.json").write_text("{")
    found = read_checkpoint(tmp_path, "key")
    assert found is not None
    assert (found.step, found.figures) == (4, {"before": 1.0})
    assert torch.equal(found.tensors["weights/a"], weights["weights/a"])
    assert read_checkpoint(tmp_path, "another") is None


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


def test_a_disk_that_fills_up_while_weights_are_written_is_a_sentence(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, monkeypatch
):
    from safetensors import SafetensorError

    def disk_is_full(*_args, **_kwargs):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(loop, "save_file", disk_is_full)
    recipe = replace(fast_recipe, epochs=1)
    _fails(tiny_base, sentiment_rows, recipe, tmp_path / "a", "can't be written.*No space left")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["gpu", "python", "cpu"],
)
def test_out_of_memory_halves_the_rows_at_a_time_and_learns_the_same(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, monkeypatch, error
):
    recipe = replace(fast_recipe, epochs=1)
    whole = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "whole")
    real, sizes = loop._response_nll, []

    def holds_two_rows(base, rows, **options):
        if base.model.training:
            sizes.append(len(rows))
            if len(rows) > 2:
                raise error
        return real(base, rows, **options)

    monkeypatch.setattr(loop, "_response_nll", holds_two_rows)
    said = []
    result = train_adapter(
        tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "halved", say=said.append
    )
    assert sizes == [4] + [2] * 18
    assert said == list(result.notes)
    assert "Out of memory at step 1 with 4 rows at a time: going on with 2" in said[0]
    assert [step.loss for step in result.history] == pytest.approx(
        [step.loss for step in whole.history], rel=1e-4
    )


def test_the_held_out_pass_too_takes_fewer_rows_at_a_time(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, monkeypatch
):
    real = loop._response_nll

    def holds_two_rows(base, rows, **options):
        if len(rows) > 2:
            raise torch.OutOfMemoryError
        return real(base, rows, **options)

    monkeypatch.setattr(loop, "_response_nll", holds_two_rows)
    recipe = replace(fast_recipe, epochs=1)
    result = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "adapter")
    assert result.held_out_loss < result.held_out_loss_base


def test_memory_that_does_not_hold_one_row_is_a_sentence(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, monkeypatch
):
    real = loop._response_nll

    def holds_nothing(base, rows, **options):
        if base.model.training:
            raise torch.OutOfMemoryError
        return real(base, rows, **options)

    monkeypatch.setattr(loop, "_response_nll", holds_nothing)
    out = tmp_path / "adapter"
    _fails(tiny_base, sentiment_rows, fast_recipe, out, "one row at a time.*gradient_checkpointing")


def test_a_label_that_no_trained_row_has_is_said(tiny_base, sentiment_rows, fast_recipe, tmp_path):
    rare = Row("the film " * 60, "neutral", "neutral", 99)
    result = train_adapter(
        tiny_base,
        [*sentiment_rows, rare],
        recipe=replace(fast_recipe, max_length=80, epochs=1),
        labels=("positive", "negative", "neutral", "mixed"),
        out=tmp_path / "adapter",
    )
    (note,) = result.notes
    assert "has the label 'neutral', 'mixed' (2 of 4 labels)" in note


def test_data_shorter_than_the_recipe_are_used_whole_and_it_is_said(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    recipe = replace(fast_recipe, max_rows=10_000, epochs=1)
    result = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "adapter")
    assert result.n_rows + result.n_held_out == 40
    (note,) = result.notes
    assert "up to 10,000 rows; the data have 40, so all are used: 36 to train on" in note


def test_every_epoch_can_be_kept(tiny_base, sentiment_rows, fast_recipe, tmp_path):
    recipe = replace(fast_recipe, epochs=3, keep_epochs=True)
    out = tmp_path / "adapter"
    result = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=out)
    assert [epoch.folder for epoch in result.epochs] == [
        tmp_path / "adapter-epoch-1",
        tmp_path / "adapter-epoch-2",
        None,
    ]
    losses = [epoch.held_out_loss for epoch in result.epochs]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == result.held_out_loss
    _fails(tiny_base, sentiment_rows, recipe, tmp_path / "adapter", "exists already")


@pytest.mark.parametrize("field", ["use_rslora", "use_dora", "gradient_checkpointing"])
def test_variants_of_lora_train_and_load_and_leave_the_base_alone(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, field
):
    before = _state(tiny_base)
    recipe = replace(fast_recipe, **{field: True})
    result = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / field)
    assert result.held_out_loss < 0.8 * result.held_out_loss_base
    config = json.loads((result.folder / "adapter_config.json").read_text())
    if field.startswith("use_"):
        assert config[field] is True
    encoded = scoring.encode_rows(tiny_base, sentiment_rows[:4])
    with tiny_base.adapted(result.folder):
        merged = scoring.read_pass(tiny_base, encoded, hidden=False).response_nll
    plain = scoring.read_pass(tiny_base, encoded, hidden=False).response_nll
    assert sum(row.sum() for row in merged) < sum(row.sum() for row in plain)
    assert all(torch.equal(before[name], value) for name, value in _state(tiny_base).items())
    assert not tiny_base.model.is_gradient_checkpointing


def test_gradient_checkpointing_changes_memory_and_not_the_losses(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    runs = [
        train_adapter(
            tiny_base,
            sentiment_rows,
            recipe=replace(fast_recipe, epochs=1, gradient_checkpointing=on),
            out=tmp_path / str(on),
        )
        for on in (False, True)
    ]
    assert [s.loss for s in runs[1].history] == pytest.approx(
        [s.loss for s in runs[0].history], rel=1e-4
    )


def test_smaller_passes_sum_up_to_the_same_steps(tiny_base, sentiment_rows, fast_recipe, tmp_path):
    whole = train_adapter(tiny_base, sentiment_rows, recipe=fast_recipe, out=tmp_path / "whole")
    recipe = replace(fast_recipe, micro_batch_size=3)
    parts = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "parts")
    assert [s.loss for s in parts.history] == pytest.approx(
        [s.loss for s in whole.history], rel=1e-4
    )


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("base", "<|im_start|>user\nthe film<|im_end|>\n<|im_start|>assistant\ngood<|im_end|>"),
        ("plain", "the film\ngood<|im_end|>"),
        # massive-sft, App. D
        ("question-answer", "###Question: the film\n###Answer: good<|im_end|>"),
    ],
)
def test_a_row_is_written_as_its_template_says(tiny_base, template, wanted):
    (row,) = scoring.encode_rows(tiny_base, [Row("the film", "good", None, 1)], template=template)
    text = tiny_base.tokenizer.decode([*row.prompt_ids, *row.response_ids])
    assert text == wanted


@pytest.fixture
def full_recipe(fast_recipe):
    return replace(fast_recipe, method="full", learning_rate=2e-3, r=8, lora_alpha=8)


def test_full_fine_tuning_is_kept_as_a_low_rank_adapter_and_said(
    tiny_base, sentiment_rows, full_recipe, tmp_path
):
    before = _state(tiny_base)
    result = train_adapter(tiny_base, sentiment_rows, recipe=full_recipe, out=tmp_path / "full")
    assert all(torch.equal(before[name], value) for name, value in _state(tiny_base).items())
    assert not any(p.requires_grad or p.grad is not None for p in tiny_base.model.parameters())
    assert result.held_out_loss < result.held_out_loss_base
    (note,) = result.notes
    assert "best rank-8 part of the change" in note
    encoded = scoring.encode_rows(tiny_base, sentiment_rows[:4])
    with tiny_base.adapted(result.folder):
        merged = scoring.read_pass(tiny_base, encoded, hidden=False).response_nll
    plain = scoring.read_pass(tiny_base, encoded, hidden=False).response_nll
    assert sum(row.sum() for row in merged) < sum(row.sum() for row in plain)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_an_extraction_of_full_rank_is_the_change_itself(tiny_base, full_recipe, use_rslora):
    recipe = replace(
        full_recipe, r=40, lora_alpha=20, use_rslora=use_rslora, target_modules=("q_proj",)
    )
    scaling = 20 / 40**0.5 if use_rslora else 20 / 40
    with loop._every_weight_on(tiny_base, recipe) as whole:
        layer = tiny_base.layers[0].self_attn.q_proj
        change = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            layer.weight += change
        tensors = whole.low_rank(recipe)
        assert whole.kept_share(recipe) == pytest.approx(1.0, abs=1e-4)
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    a, b = tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"]
    assert (a.shape, b.shape) == ((40, 32), (32, 40))  # wider than the layer: zeros fill it up
    assert torch.allclose(scaling * b @ a, change, atol=1e-4)


def test_full_fine_tuning_of_a_bfloat16_base_is_refused(
    tiny_base_dir, sentiment_rows, full_recipe, tmp_path
):
    from adapt_lora.model.base import load_base_model

    base = load_base_model(tiny_base_dir, dtype="bfloat16", device="cpu")
    _fails(base, sentiment_rows, full_recipe, tmp_path / "a", "needs float32.*set dtype=float32")
