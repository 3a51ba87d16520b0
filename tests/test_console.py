"""What goes to stdout, what to stderr, and what is kept back."""

import json

import pytest
from rich.table import Table

from adapt_lora.console import Console, json_text, write_text
from adapt_lora.errors import ConfigError


def test_an_object_is_one_line_with_its_version_and_no_invented_number(capsys):
    Console(as_json=True).print_json({"a": 1.5})
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "a": 1.5}
    assert json_text({}) == '{"schema_version": 1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"a": float("nan")})


@pytest.mark.parametrize(
    ("console", "heard"),
    [(Console(), True), (Console(as_json=True), False), (Console(quiet=True), False)],
    ids=["plain", "json", "quiet"],
)
def test_remarks_are_for_whoever_wants_to_hear_them(console, heard, capsys):
    console.remark("by the way")
    assert ("by the way" in capsys.readouterr().err) == heard
    assert (console.listener is not None) == heard
    console.say("hear this")
    console.warn(["look out"])
    said = capsys.readouterr()
    assert said.err.splitlines() == ["hear this", "Warning: look out"]
    assert said.out == ""


def test_results_go_to_stdout_as_they_are(capsys):
    Console().print_line("one [bold]two[/bold]")
    Console().print_line("a,b\n", end="")
    assert capsys.readouterr().out == "one [bold]two[/bold]\na,b\n"


def test_a_table_in_a_pipe_is_wide(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert Console().width == 160
    table = Table("word " * 25)
    Console().show(table)
    assert "word " * 25 in capsys.readouterr().out


def test_progress_is_silent_where_nobody_watches(capsys):
    with Console().progress() as progress:
        progress("evaluate: moods on sst2", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_file_that_can_not_be_written_is_named(tmp_path):
    write_text(tmp_path / "page.html", "ü")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "ü"
    with pytest.raises(ConfigError, match=r"page\.html: there is no such .*folder"):
        write_text(tmp_path / "no" / "page.html", "x")
