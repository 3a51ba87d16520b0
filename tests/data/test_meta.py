import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError
from tests.data.conftest import make_folder, write_jsonl


def test_a_folder_gives_the_split_and_what_its_meta_says(tmp_path):
    meta = {"name": "r", "group": "g", "family": "f", "labels": ["pos", "neg"]}
    folder = make_folder(tmp_path, metric="label_accuracy", **meta)
    dataset = read_dataset(folder)
    assert (dataset.name, dataset.group, dataset.family) == ("r", "g", "f")
    assert (dataset.labels, dataset.metric) == (("pos", "neg"), "balanced_accuracy")
    assert (dataset.source, len(dataset.rows)) == ("test.jsonl", 1)
    assert len(read_dataset(folder, split="train").rows) == 2


def test_a_split_file_by_its_path_has_the_same_group_as_its_folder(tmp_path):
    folder = make_folder(tmp_path, name="r", group="g")
    assert read_dataset(folder / "train.jsonl").group == "g"


def test_names_given_by_the_caller_win(tmp_path):
    dataset = read_dataset(make_folder(tmp_path, name="r", group="g"), name="n", group="h")
    assert (dataset.name, dataset.group) == ("n", "h")


@pytest.mark.parametrize(
    ("metric", "ours"),
    [
        ("label_accuracy", "balanced_accuracy"),
        ("exact_match", "exact_match"),
        ("numeric_match", "numeric_match"),
        ("rouge_l", "rouge_l"),
        ("pass@1", "pass_at_1"),
        ("bleu", "answer_log_likelihood"),
        (None, None),
    ],
)
def test_metrics_are_put_in_our_words(tmp_path, metric, ours):
    assert read_dataset(make_folder(tmp_path, metric=metric)).metric == ours


def test_meta_may_say_that_repeated_answers_are_no_labels(tmp_path):
    folder = make_folder(tmp_path, labels=None)
    write_jsonl(
        folder / "test.jsonl", [{"prompt": f"{i}", "response": "ab"[i % 2]} for i in range(20)]
    )
    assert not read_dataset(folder).is_labelled


def test_a_label_outside_the_metas_set_is_skipped(tmp_path):
    folder = make_folder(tmp_path, labels=["pos", "neg"])
    rows = [{"text": "t", "label": label} for label in ("pos", "neg", "pso")]
    write_jsonl(folder / "test.jsonl", rows)
    dataset = read_dataset(folder, allow_skips=True)
    assert "label 'pso' is not in meta.json's 'labels'" in dataset.skipped[0].reason
    assert len(dataset.rows) == 2


def test_a_broken_meta_is_named(tmp_path):
    folder = make_folder(tmp_path)
    (folder / "meta.json").write_text("{")
    with pytest.raises(DatasetError, match=r"meta.json: can't be read as JSON"):
        read_dataset(folder)
