"""Texts in a cache folder: whole, or as good as not there."""

import json

import pytest

from adapt_lora.registry.kept import KeptTexts, code_digest


@pytest.fixture
def kept(tmp_path):
    return KeptTexts(tmp_path / "kept", most=2)


def test_what_was_kept_is_there(kept):
    assert kept.load("a") is None
    kept.save("a", "text")
    assert kept.load("a") == "text"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-3],
        lambda text: "",
        lambda text: "[]",
        lambda text: "null",
        lambda text: text.replace("text", "test"),
        lambda text: json.dumps({**json.loads(text), "key": "b"}),
        lambda text: json.dumps({**json.loads(text), "content": 3}),
    ],
)
def test_a_damaged_file_is_as_good_as_none_and_written_anew(kept, damage):
    kept.save("a", "text")
    good = kept.path("a").read_text()
    kept.path("a").write_text(damage(good))
    assert kept.load("a") is None
    kept.save("a", "text")
    assert kept.path("a").read_text() == good


def test_a_folder_that_can_not_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    kept = KeptTexts(tmp_path / "file" / "kept", most=2)
    kept.save("a", "text")
    assert kept.load("a") is None


def test_the_longest_unused_goes_first(kept):
    import os

    for age, key in ((30, "a"), (20, "b")):
        kept.save(key, key)
        os.utime(kept.path(key), (age, age))
    assert kept.load("a") == "a"  # used again
    kept.save("c", "c")
    assert (kept.load("a"), kept.load("b"), kept.load("c")) == ("a", None, "c")


def test_other_code_is_another_digest(tmp_path):
    module = tmp_path / "module.py"
    module.write_text("a = 1")
    first = code_digest([module], ["numpy", "no-such-library"])
    assert first == code_digest([module], ["numpy", "no-such-library"])
    module.write_text("a = 2")
    assert first != code_digest([module], ["numpy", "no-such-library"])
