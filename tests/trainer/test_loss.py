"""The lean loss and the lean layers against the plain ones that they stand for."""

import contextlib
from dataclasses import replace

import pytest
import torch

from adapt_lora.model import scoring
from adapt_lora.model.head import Head
from adapt_lora.model.scoring import encode_rows
from adapt_lora.trainer import loop, loss, train_adapter, tuning
from adapt_lora.trainer.tuning import tuned


def gradients(base, rows, recipe, **layout):
    """Loss and gradients of one batch, the update's B away from zero."""
    rows = encode_rows(base, rows)
    with loop._seeded(0), tuned(base, recipe) as learning:
        base.model.train()
        named = learning.parameters
        for name, parameter in named.items():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        nll = loss.response_nll(base, rows, **layout)
        nll.mean().backward()
        found = {name: p.grad.clone() for name, p in named.items()}
        for parameter in named.values():
            parameter.grad = None
        return nll.detach(), found


def plain_gradients(base, rows, recipe, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "speed_up_lora", lambda _: None)
        patch.setattr(tuning, "row_attention", lambda _: contextlib.nullcontext(True))
        patch.setattr(Head, "is_frozen_linear", False)
        return gradients(base, rows, recipe)


def assert_near(found, expected, tolerance):
    assert found[0].tolist() == pytest.approx(expected[0].tolist(), abs=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in found[1].items():
        scale = float(expected[1][name].abs().max())
        assert torch.allclose(gradient, expected[1][name], atol=tolerance * scale + 1e-7), name


def test_only_the_response_carries_loss(tiny_base, sentiment_rows):
    encoded = scoring.encode_rows(tiny_base, sentiment_rows[:3])
    nll = loss.response_nll(tiny_base, encoded)
    expected = scoring.read_pass(tiny_base, encoded, hidden=False).response_nll
    assert len(nll) == sum(len(row.response_ids) for row in encoded)
    together = [value for row in expected for value in row.tolist()]
    assert nll.tolist() == pytest.approx(together, abs=1e-4)


@pytest.mark.parametrize(
    "layout", [{}, {"packed": True}, {"share_beginning": True}], ids=["padded", "packed", "shared"]
)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},  # keeps PEFT's layer
        {"gradient_checkpointing": True},
        {"method": "full"},  # its head is trained, so it is no frozen one
    ],
    ids=["lora", "rslora", "dora", "checkpointing", "full"],
)
def test_losses_and_gradients_are_those_of_the_plain_layers(
    tiny_base, sentiment_rows, fast_recipe, monkeypatch, changes, layout
):
    recipe = replace(fast_recipe, **changes)
    told = "Say in one word whether the writer of this review liked the film or not: "
    rows = [replace(row, prompt=told + row.prompt) for row in sentiment_rows[:7]]
    expected = plain_gradients(tiny_base, rows, recipe, monkeypatch)
    packing = layout.get("packed", False)
    found = gradients(tiny_base, rows, replace(recipe, packing=packing), **layout)
    assert_near(found, expected, 1e-4)


def test_what_rows_begin_with_is_read_once(tiny_base, sentiment_rows, fast_recipe):
    told = "Say in one word whether the writer of this review liked the film or not: "
    rows = encode_rows(
        tiny_base, [replace(row, prompt=told + row.prompt) for row in sentiment_rows[:7]]
    )
    read = []
    with tuned(tiny_base, fast_recipe) as learning:
        assert learning.shares_beginnings
        hook = tiny_base.layers[0].register_forward_hook(
            lambda _module, inputs, _output: read.append(inputs[0].shape[:2].numel())
        )
        loss.response_nll(tiny_base, rows, share_beginning=learning.shares_beginnings)
        hook.remove()
    n_told = scoring.shared_beginning([row.prompt_ids for row in rows])
    assert n_told > 10
    assert read == [sum(row.n_tokens for row in rows) - 6 * n_told]
    with tuned(tiny_base, replace(fast_recipe, lora_dropout=0.1)) as learning:
        assert not learning.shares_beginnings


def test_long_answers_go_through_the_frozen_head_in_pieces(
    tiny_base, sentiment_rows, fast_recipe, monkeypatch
):
    expected = gradients(tiny_base, sentiment_rows[:7], fast_recipe)
    monkeypatch.setattr(loss, "POSITIONS_AT_ONCE", 3)
    assert_near(gradients(tiny_base, sentiment_rows[:7], fast_recipe), expected, 1e-5)


@pytest.mark.parametrize("method", ["lora", "full"])  # a frozen head, and one that is trained
def test_long_answers_in_pieces_give_the_same_training(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, monkeypatch, method
):
    recipe = replace(fast_recipe, epochs=1, method=method)
    whole = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "whole")
    monkeypatch.setattr(loss, "POSITIONS_AT_ONCE", 3)
    pieces = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "pieces")
    assert [s.loss for s in pieces.history] == pytest.approx(
        [s.loss for s in whole.history], rel=1e-4
    )


def test_padded_batches_come_in_few_widths_within_what_the_base_reads(
    tiny_base, sentiment_rows, monkeypatch
):
    rows, widths = encode_rows(tiny_base, sentiment_rows), []
    watch = tiny_base.model.get_decoder().register_forward_pre_hook(
        lambda _module, _args, given: widths.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    lengths = [row.n_tokens for row in rows]
    try:
        for row in rows:
            loss.response_nll(tiny_base, [row])
        longest = rows[lengths.index(max(lengths))]
        monkeypatch.setattr(tiny_base.model.config, "max_position_embeddings", max(lengths))
        loss.response_nll(tiny_base, [longest])
    finally:
        watch.remove()
    assert len(set(widths[:-1])) < len(set(lengths))
    assert all(width % 8 == 0 for width in widths[:-1])
    assert all(0 <= width - n < 8 for width, n in zip(widths, lengths, strict=False))
    assert widths[-1] == max(lengths)


def test_the_held_out_pass_too_takes_fewer_rows_at_a_time(
    tiny_base, sentiment_rows, fast_recipe, tmp_path, monkeypatch
):
    real = loss.response_nll

    def holds_two_rows(base, rows, **options):
        if len(rows) > 2:
            raise torch.OutOfMemoryError
        return real(base, rows, **options)

    monkeypatch.setattr(loop, "response_nll", holds_two_rows)
    monkeypatch.setattr(loss, "response_nll", holds_two_rows)
    recipe = replace(fast_recipe, epochs=1)
    result = train_adapter(tiny_base, sentiment_rows, recipe=recipe, out=tmp_path / "adapter")
    assert result.held_out_loss < result.held_out_loss_base
