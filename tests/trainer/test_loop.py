"""From rows and a recipe to an adapter, step by step."""

from dataclasses import replace

import pytest
import torch

from adapt_lora.trainer import loop, train_adapter
from tests.trainer.conftest import fails, weights_of


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


def test_smaller_passes_sum_up_to_the_same_steps(tiny_base, sentiment_rows, fast_recipe, tmp_path):
    whole = train_adapter(tiny_base, sentiment_rows, recipe=fast_recipe, out=tmp_path / "whole")
    recipe = replace(fast_recipe, micro_batch_size=3)
    parts = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "parts")
    assert [s.loss for s in parts.history] == pytest.approx(
        [s.loss for s in whole.history], rel=1e-4
    )


def test_packed_training_ends_as_unpacked_training_does(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    apart = train_adapter(tiny_base, sentiment_rows, recipe=fast_recipe, out=tmp_path / "apart")
    recipe = replace(fast_recipe, packing=True)
    packed = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "packed")
    assert [step.loss for step in packed.history] == pytest.approx(
        [step.loss for step in apart.history], rel=1e-3
    )
    assert packed.held_out_loss == pytest.approx(apart.held_out_loss, rel=1e-3)
    assert packed.recipe.params["recipe/packing"] == "true"
    assert "| packing | true | set by the user |" in (packed.folder / "README.md").read_text()


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


def test_a_loss_that_is_not_a_number_stops_with_the_step_and_advice_and_restores_the_base(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, monkeypatch
):
    before = weights_of(tiny_base)
    calls = []
    real = loop.response_nll

    def breaks_at_the_third_step(base, rows, **options):
        nll = real(base, rows, **options)
        if base.model.training:
            calls.append(1)
        return nll * float("nan") if len(calls) == 3 else nll

    monkeypatch.setattr(loop, "response_nll", breaks_at_the_third_step)
    out = tmp_path / "adapter"
    fails(tiny_base, sentiment_rows, fast_recipe, out, "step 3 of 18.*lower learning_rate")
    assert not any(tmp_path.iterdir())
    assert all(torch.equal(before[k], v) for k, v in weights_of(tiny_base).items())


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
    real, sizes = loop.response_nll, []

    def holds_two_rows(base, rows, **options):
        if base.model.training:
            sizes.append(len(rows))
            if len(rows) > 2:
                raise error
        return real(base, rows, **options)

    monkeypatch.setattr(loop, "response_nll", holds_two_rows)
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


def test_memory_that_does_not_hold_one_row_is_a_sentence(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, monkeypatch
):
    real = loop.response_nll

    def holds_nothing(base, rows, **options):
        if base.model.training:
            raise torch.OutOfMemoryError
        return real(base, rows, **options)

    monkeypatch.setattr(loop, "response_nll", holds_nothing)
    out = tmp_path / "adapter"
    fails(tiny_base, sentiment_rows, fast_recipe, out, "one row at a time.*gradient_checkpointing")
