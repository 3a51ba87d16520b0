"""Copies of datasets with one thing changed."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from adapt_lora import roads
from adapt_lora.cli import app
from adapt_lora.data import read_dataset
from adapt_lora.data.surgery import (
    balance_labels,
    leave_one_out_mixtures,
    mislabel_rows,
    mix_datasets,
    shuffle_answers,
    subsample_rows,
    write_derived,
)
from adapt_lora.errors import ConfigError, DatasetError
from adapt_lora.registry import Registry
from adapt_lora.report.card import adapter_card_html, adapter_card_markdown
from adapt_lora.trainer import TrainRequest, find_recipe
from tests.roads.test_roads import write_rows


@pytest.fixture
def choices(tmp_path):
    """24 rows: 8 of "no", 16 of "yes"."""
    return read_dataset(write_rows(tmp_path / "choices.jsonl", "choice"), group="choosing")


@pytest.fixture
def sums(tmp_path):
    return read_dataset(write_rows(tmp_path / "sums.jsonl", "sum", 20))


@pytest.fixture
def moods(tmp_path):
    return read_dataset(write_rows(tmp_path / "moods.jsonl", "mood", 12))


def test_a_shuffled_copy_has_every_answer_once_and_beside_another_prompt(choices, tmp_path):
    copy = shuffle_answers(choices, seed=0)
    assert [row.prompt for row in copy.rows] == [row.prompt for row in choices.rows]
    assert Counter(row.label for row in copy.rows) == {"yes": 16, "no": 8}
    assert all(row.label == row.response for row in copy.rows)
    assert copy.rows != choices.rows
    folder = write_derived(copy, tmp_path / "shuffled", name="shuffled", split="train")
    read = read_dataset(folder, split="train")
    assert read.group == "choosing"
    assert "shuffle" in read.parent
    with pytest.raises(DatasetError, match="no answers to exchange"):
        shuffle_answers(replace(choices, rows=choices.rows[:1]), seed=0)


def test_a_balanced_copy_has_as_many_rows_of_each_label_as_the_rarest(choices):
    copy = balance_labels(choices, seed=1)
    assert Counter(row.label for row in copy.rows) == {"yes": 8, "no": 8}
    assert set(copy.rows) <= set(choices.rows)
    assert len(set(copy.rows)) == 16
    assert copy == balance_labels(choices, seed=1)
    assert copy.rows != balance_labels(choices, seed=2).rows


@pytest.mark.parametrize(("share", "n_wrong"), [(1.0, 24), (0.25, 6)])
def test_a_mislabelled_copy_has_wrong_labels_and_the_answers_that_go_with_them(
    choices, share, n_wrong
):
    copy = mislabel_rows(choices, share=share, seed=0)
    pairs = list(zip(choices.rows, copy.rows, strict=True))
    assert sum(before.label != after.label for before, after in pairs) == n_wrong
    assert all(after.response == after.label for _, after in pairs)
    assert all(before.prompt == after.prompt for before, after in pairs)


def test_wrong_labels_come_from_all_other_labels(moods):
    rows = tuple(
        replace(row, label=f"l{i % 4}", response=f"l{i % 4}") for i, row in enumerate(moods.rows)
    )
    four = replace(moods, rows=rows * 5, labels=("l0", "l1", "l2", "l3"))
    copy = mislabel_rows(four, seed=0)
    new = {
        after.label
        for before, after in zip(four.rows, copy.rows, strict=True)
        if before.label == "l0"
    }
    assert new == {"l1", "l2", "l3"}


def test_answers_that_say_more_than_the_label_are_not_mislabelled(choices):
    rows = (replace(choices.rows[0], response="no, since it is late"), *choices.rows[1:])
    with pytest.raises(DatasetError, match="label 'no' have 2 different answers"):
        mislabel_rows(replace(choices, rows=rows), seed=0)


def test_a_subsample_by_length_keeps_the_extreme_responses_in_their_order(sums):
    longest = subsample_rows(sums, 5, seed=0, keep="longest")
    shortest = subsample_rows(sums, 5, seed=0, keep="shortest")
    kept = [len(row.response) for row in longest.rows]
    lengths = sorted(len(row.response) for row in sums.rows)
    assert sorted(kept) == lengths[-5:]
    assert sorted(len(row.response) for row in shortest.rows) == lengths[:5]
    assert [row.line for row in longest.rows] == sorted(row.line for row in longest.rows)
    assert longest.options == {"rows": 5, "keep": "longest"}


def test_a_subsample_by_length_needs_responses(sums):
    bare = replace(sums, rows=tuple(replace(row, response=None) for row in sums.rows))
    with pytest.raises(DatasetError, match="no responses, so none is the longest"):
        subsample_rows(bare, 5, seed=0, keep="longest")


def test_a_subsample_keeps_the_order(sums):
    copy = subsample_rows(sums, 5, seed=3)
    assert len(copy.rows) == 5
    assert [row.line for row in copy.rows] == sorted(row.line for row in copy.rows)
    with pytest.raises(DatasetError, match="sums has 20 usable rows, so 21"):
        subsample_rows(sums, 21, seed=3)


def test_a_mixture_holds_every_row_once_without_labels(choices, sums):
    mixed = mix_datasets([choices, sums], seed=0)
    prompts = [row.prompt for row in (*choices.rows, *sums.rows)]
    assert sorted(row.prompt for row in mixed.rows) == sorted(prompts)
    assert [row.prompt for row in mixed.rows] != prompts
    assert {row.label for row in mixed.rows} == {None}
    assert len(mix_datasets([choices, sums], rows_each=7, seed=0).rows) == 14


def test_leaving_one_out_mixes_all_others_with_the_same_rows(choices, sums, moods):
    mixtures = leave_one_out_mixtures([choices, sums, moods], rows_each=6, seed=0)
    assert mixtures.keys() == {"choices", "sums", "moods"}
    assert [parent.name for parent in mixtures["sums"].parents] == ["choices", "moods"]
    of_moods = {row.prompt for row in moods.rows}
    drawn = [{r.prompt for r in mixtures[name].rows} & of_moods for name in ("choices", "sums")]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 6
    assert not {row.prompt for row in mixtures["moods"].rows} & of_moods


def test_what_cannot_be_cut_gets_a_sentence(choices, sums):
    with pytest.raises(DatasetError, match="sums has no labels, so there is nothing to balance"):
        balance_labels(sums, seed=0)
    with pytest.raises(DatasetError, match="at least three datasets"):
        leave_one_out_mixtures([choices, sums], seed=0)
    with pytest.raises(DatasetError, match="Two datasets are called 'sums'"):
        mix_datasets([sums, sums], seed=0)
    with pytest.raises(ConfigError, match="--share must lie in"):
        mislabel_rows(choices, share=0, seed=0)


def test_a_written_copy_reads_back_with_its_rows_group_and_parent(choices, tmp_path):
    copy = balance_labels(choices, seed=1)
    folder = write_derived(copy, tmp_path / "balanced", name="balanced", split="train")
    read = read_dataset(folder, split="train")
    assert [row.digest for row in read.rows] == [row.digest for row in copy.rows]
    assert (read.name, read.group, read.labels) == ("balanced", "choosing", choices.labels)
    assert read.parent == f"choices {choices.digest[:12]} (balance, seed 1)"
    assert "made from choices" in read.describe()
    with pytest.raises(DatasetError, match="exists already"):
        write_derived(copy, folder, name="balanced", split="train")


def test_a_written_mixture_is_no_twin_of_its_parts(choices, sums, tmp_path):
    mixed = mix_datasets([choices, sums], rows_each=5, seed=2)
    folder = write_derived(mixed, tmp_path / "both", name="both", split="train")
    read = read_dataset(folder, split="train")
    assert (read.group, read.labels) == ("both", ())
    digests = f"choices {choices.digest[:12]} + sums {sums.digest[:12]}"
    assert read.parent == f"{digests} (mix, rows each 5, seed 2)"


def test_the_registry_and_the_card_name_the_parent(choices, tiny_base_dir, fresh_store, tmp_path):
    folder = write_derived(
        balance_labels(choices, seed=1), tmp_path / "balanced", name="balanced", split="train"
    )
    registry = Registry(fresh_store, cache_folder=tmp_path / "cache")
    recipe = find_recipe("quick", {"learning_rate": 0.02})
    request = TrainRequest(folder, "balanced", recipe, base_model=str(tiny_base_dir))
    roads.train(request, registry=registry)
    record = Registry(fresh_store, cache_folder=tmp_path / "fresh").adapter("balanced")
    assert record.dataset is not None
    assert record.dataset.parent == f"choices {choices.digest[:12]} (balance, seed 1)"
    for card in (adapter_card_markdown(record), adapter_card_html(record)):
        assert f"choices {choices.digest[:12]}" in card


def _adapt(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("operation", "options", "n_rows"),
    [
        ("balance", (), 16),
        ("mislabel", ("--share", "0.5"), 24),
        ("subsample", ("--rows", "9"), 9),
    ],
)
def test_the_command_line_writes_a_copy(choices, tmp_path, operation, options, n_rows):
    out = tmp_path / operation
    file = tmp_path / "choices.jsonl"
    done = _adapt("data", operation, file, "--output", out, *options, "--seed", "4", "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert (content["name"], content["rows"]) == (operation, n_rows)
    assert f"({operation}, " in content["parent"]
    again = _adapt("data", operation, file, "--output", out, *options)
    assert again.exit_code == 1
    assert "exists already" in again.stderr


def test_the_command_line_mixes_and_holds_out(choices, sums, moods, tmp_path):
    files = [tmp_path / f"{name}.jsonl" for name in ("choices", "sums", "moods")]
    done = _adapt("data", "mix", *files, "-o", tmp_path / "all", "--rows-each", "4")
    assert done.exit_code == 0, done.output
    assert "12 of 12 rows used" in done.stdout
    done = _adapt("data", "holdout", *files, "-o", tmp_path / "loo", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["mixtures"].keys() == {"choices", "sums", "moods"}
    assert len(read_dataset(tmp_path / "loo" / "without-sums", split="train").rows) == 36


def test_a_mixture_has_seen_the_groups_of_its_parts(choices, sums, tmp_path):
    mixed = mix_datasets([choices, sums], rows_each=5, seed=0)
    write_derived(mixed, tmp_path / "mixed", name="mixed", split="train")
    read = read_dataset(tmp_path / "mixed", split="train")
    assert (read.group, read.parts) == ("mixed", ("choosing", "sums"))
    copy = balance_labels(choices, seed=0)
    write_derived(copy, tmp_path / "twin", name="twin", split="train")
    twin = read_dataset(tmp_path / "twin", split="train")
    assert (twin.group, twin.parts) == ("choosing", ())
