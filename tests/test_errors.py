import errno

import pytest

from adapt_lora.errors import (
    RegistryError,
    failure_reason,
    reason_of,
    refusal_of,
    without_credentials,
)


def raised_from(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no"), "ValueError: no"),
        (KeyError("prompt"), "KeyError: 'prompt'"),
        (TimeoutError(), "TimeoutError: TimeoutError"),
        (RegistryError("It is gone."), "It is gone."),
        # a heading, and the reason below it
        (
            RuntimeError("Error(s) in loading state_dict:\n\tsize mismatch for q_proj"),
            "RuntimeError: Error(s) in loading state_dict: size mismatch for q_proj",
        ),
        # the reason is in the error that it was raised from
        (
            raised_from(ValueError("An error occurred."), KeyError("no column 'text'")),
            "ValueError: An error occurred (\"no column 'text'\")",
        ),
        (
            raised_from(ValueError("it failed: disk"), OSError("disk")),
            "ValueError: it failed: disk",
        ),
        # another process sends its trace along
        (
            RuntimeError("Traceback (most recent call last):\n  File x\nValueError: rank 0\n"),
            "RuntimeError: ValueError: rank 0",
        ),
        (ValueError("got <!DOCTYPE html><p>hello"), "ValueError: got a web page"),
        (
            ValueError("(sqlite3.Error) no table\n[SQL: SELECT 1]\n(Background on this error)"),
            "ValueError: (sqlite3.Error) no table",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a.csv"),
            "FileNotFoundError: a.csv: No such file or directory",
        ),
    ],
)
def test_the_words_that_are_kept_hold_the_reason(error, said):
    assert failure_reason(error) == said


def test_a_long_message_is_cut_and_its_cause_still_said():
    error = raised_from(ValueError("x" * 1000), OSError("the disk is full"))
    assert reason_of(error).endswith("… (the disk is full)")
    assert len(reason_of(error)) < 330


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "no", "/a"), r"^/a: this user may not .* another place\.$"),
        (OSError(errno.EROFS, "no", "/a"), "^/a: this place can only be read"),
        (OSError(errno.ENOSPC, "no"), "^No space is left on the disk. Free some"),
        (OSError(errno.EFBIG, "no", "/a"), "^/a: the file grew larger than allowed"),
        (OSError(errno.EIO, "Input/output error", "/a"), "^/a: .*Input/output error"),
        (OSError("no luck"), "^no luck.$"),
    ],
)
def test_what_the_system_refused_is_said_with_what_to_do(error, said):
    with pytest.raises(ValueError, match=said):
        raise ValueError(refusal_of(error))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://me:secret@host:5000/x.", "at http://host:5000/x."),
        ("http://token@host", "http://host"),
        ("postgresql://me:se/cr@et@host/db", "postgresql://host/db"),
        ("http://me:123@host", "http://host"),
        ("http://host/x?password=secret&n=1", "http://host/x?password=…&n=1"),
        ("mssql://h/?odbc_connect=PWD%3Dsecret", "mssql://h/?odbc_connect=…"),
        # nothing secret in these
        ("http://localhost:5000/a@b", "http://localhost:5000/a@b"),
        ("sqlite:////home/me@work/m.db", "sqlite:////home/me@work/m.db"),
        ("models:/legal@champion", "models:/legal@champion"),
    ],
)
def test_addresses_lose_their_credentials(text, shown):
    assert without_credentials(text) == shown
