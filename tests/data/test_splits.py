import pytest

from adapt_lora.data.splits import choose_split, kind_of_split


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
