"""Defaults from pyproject.toml."""

import pytest

from adapt_lora.errors import ConfigError
from adapt_lora.settings import configured_defaults, wants_tracebacks

OPTIONS = {
    "list": {"sort": "sort", "filter": "contains", "base_model": "base_model"},
    "recommend": {"top": "top", "base_model": "base_model"},
}


def test_an_option_is_set_for_every_command_that_has_it_and_a_table_for_one(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        "[tool.adapt]\nbase-model = 'tiny'\n[tool.adapt.list]\nfilter = 'mood'\n"
    )
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert configured_defaults(below, OPTIONS) == {
        "list": {"base_model": "tiny", "contains": "mood"},
        "recommend": {"base_model": "tiny"},
    }


def test_the_nearest_file_with_settings_of_ours_rules(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.adapt.recommend]\ntop = 3\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    assert configured_defaults(tmp_path / "a", OPTIONS)["recommend"] == {"top": 3}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tool.adapt]\nbase-modl = 'x'\n", "no command has an option 'base-modl'"),
        ("[tool.adapt.list]\nsorted = 'x'\n", "no option 'sorted'"),
        ("[tool.adapt\n", "not readable as TOML"),
        ("[tool.adapt]\nallow-code-execution = true\n", "can't be set by a project"),
    ],
)
def test_a_bad_file_names_itself_and_the_key(tmp_path, text, words):
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigError, match=f"pyproject.toml.*{words}"):
        configured_defaults(tmp_path, OPTIONS)


def test_tracebacks_are_shown_when_asked_for(monkeypatch):
    monkeypatch.delenv("ADAPT_DEBUG", raising=False)
    assert not wants_tracebacks()
    monkeypatch.setenv("ADAPT_DEBUG", "1")
    assert wants_tracebacks()
