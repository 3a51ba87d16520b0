import pytest

from adapt_lora.data.splits import choose_split, kind_of_split, refuse_split
from adapt_lora.errors import DatasetError
from tests.data.conftest import read_records


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("train", "train"),
        ("Train_Data", "train"),
        ("test-set", "test"),
        ("validation", "validation"),
        ("dev", "validation"),
        ("trainer", None),
        ("data", None),
    ],
)
def test_names_of_splits_are_known_whatever_their_spelling(name, kind):
    assert kind_of_split(name) == kind


def test_the_split_that_is_asked_for_is_chosen_and_the_others_are_named():
    choice = choose_split("test", ["train", "test"])
    assert (choice.name, choice.note) == ("test", "the split 'test' is read, beside train")
    assert choose_split("train", ["testing", "training"]).name == "training"


def test_to_score_on_what_is_nearest_to_a_test_split_will_do_and_is_said():
    choice = choose_split("test", ["train", "dev"])
    assert (choice.name, choice.note) == (
        "dev",
        "there is no split 'test', so 'dev' is read instead",
    )
    assert choose_split("test", ["train"]).name == "train"


def test_nothing_stands_for_a_split_to_learn_from():
    assert choose_split("train", ["test", "validation"]) is None


def test_a_choice_of_one_needs_no_word():
    assert choose_split("train", ["train"]).note == ""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("validation_matched", "validation"),
        ("train_sft", "train"),
        ("PublicTest", "test"),
        ("dev2", "validation"),
        ("train_test", None),
        ("trainer_state", None),
        ("unsupervised", None),
    ],
)
def test_a_name_that_says_more_is_of_a_kind_only_where_that_is_asked(name, kind):
    assert kind_of_split(name) is None
    assert kind_of_split(name, qualified=True) == kind


def test_a_split_with_a_longer_name_stands_for_its_kind_and_several_for_none():
    assert choose_split("test", ["train_sft", "test_sft"]).name == "test_sft"
    there = ["train", "validation_matched", "validation_mismatched"]
    assert choose_split("train", there).name == "train"
    assert choose_split("validation_mismatched", there).name == "validation_mismatched"
    assert choose_split("test", there) is None
    rivals = "which of validation_matched, validation_mismatched is the split 'test' can't be told"
    assert refuse_split("test", there) == rivals


@pytest.mark.parametrize("wanted", ["banana", "validation_extra"])
def test_nothing_stands_for_a_split_of_no_known_name(wanted):
    assert choose_split(wanted, ["train", "test", "validation"]) is None
    assert refuse_split(wanted, ["test"]) == f"there is no split '{wanted}' (found: test)"


def with_splits(tmp_path, values: list, field: str = "split", **options):
    rows = [{"text": f"t{i}", field: value} for i, value in enumerate(values)]
    return read_records(tmp_path, *rows, **options)


@pytest.mark.parametrize("odd", ["", None, "unsupervised"])
@pytest.mark.parametrize("wanted", ["train", "test"])
def test_a_row_of_no_known_split_is_left_out_and_said(tmp_path, odd, wanted):
    values = ["train"] * 6 + ["test"] * 3 + [odd]
    dataset = with_splits(tmp_path, values, split=wanted)
    assert len(dataset.rows) == values.count(wanted)
    assert f"1 rows are of no known split ('split' says {odd or 'nothing'}): left out" in (
        dataset.notes
    )


@pytest.mark.parametrize("field", ["Split", "data_split", "set", "subset", "partition", "usage"])
def test_a_field_of_splits_may_have_another_name(tmp_path, field):
    values = ["Training", "PublicTest"] * 4
    assert len(with_splits(tmp_path, values, field, split="train").rows) == 4


def test_a_split_of_two_spellings_is_one(tmp_path):
    assert len(with_splits(tmp_path, ["train", "TRAIN", "Train ", "test"], split="train").rows) == 3


def test_a_set_that_is_more_than_a_split_divides_nothing(tmp_path):
    assert len(with_splits(tmp_path, ["train", "test", "bus"] * 4, "set").rows) == 12


def test_rows_that_are_all_of_another_split_are_not_learnt(tmp_path):
    with pytest.raises(DatasetError, match=r"'split' names no row of the split 'train'"):
        with_splits(tmp_path, ["test"] * 4, split="train")
    with pytest.raises(DatasetError, match=r"which of dev_a, dev_b is the split 'test'"):
        with_splits(tmp_path, ["train", "dev_a", "dev_b"])


def test_all_rows_are_read_where_one_split_has_a_name_and_another_is_meant(tmp_path):
    dataset = with_splits(tmp_path, ["train", "upper"] * 2)
    assert len(dataset.rows) == 4
    assert "'split' says train and upper: no splits, so all rows are read" in dataset.notes
    assert len(with_splits(tmp_path, ["train", "upper"] * 2, split="train").rows) == 2
