"""Which rows a training sees, and in what batches."""

from dataclasses import replace

import pytest

from adapt_lora.data import Row
from adapt_lora.trainer import train_adapter
from adapt_lora.trainer.rows import epoch_batches, length_groups
from tests.trainer.conftest import fails


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


def test_data_that_cannot_teach_get_a_sentence_each(
    tiny_base, sentiment_rows, fast_recipe, tmp_path
):
    out = tmp_path / "adapter"
    fails(tiny_base, [], fast_recipe, out, "no rows")
    mute = [replace(row, response=None) for row in sentiment_rows]
    fails(tiny_base, mute, fast_recipe, out, "None of the 40 rows has a response.*--map")
    short = replace(fast_recipe, max_length=5)
    fails(tiny_base, sentiment_rows, short, out, "All 40 rows are too long.*allows 5")
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
    fails(tiny_base, [endless], recipe, tmp_path / "other", words)


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
