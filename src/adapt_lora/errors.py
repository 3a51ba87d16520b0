"""The errors that Adapt shows to people: one sentence that says what, where and what to do next."""

import errno
import re


class AdaptError(Exception):
    """Root of all errors raised on purpose; the command line prints it as one line, exit code 1."""


def failure_reason(error: BaseException) -> str:
    """One sentence about an error, with its type where it is not one of ours."""
    if isinstance(error, AdaptError):
        return str(error).strip() or repr(error)
    return f"{type(error).__name__}: {reason_of(error)}"


def reason_of(error: BaseException, *, limit: int = 300) -> str:
    """What an error says, on one line, and what its first cause says where that is more.

    Libraries put the reason where they like: after a heading, below a trace, or in the error that
    theirs was raised from.

    Args:
        error: Anybody's error.
        limit: Characters at most, of it and of its cause.
    """
    said = _in_one_line(error)
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    first = _in_one_line(cause)
    if said in first:
        return _cut(first, limit)
    if first in said:
        return _cut(said, limit)
    return f"{_cut(said.rstrip('.'), limit)} ({_cut(first, limit)})"


def refusal_of(error: OSError) -> str:
    """What the system refused, where, and what to do next, as sentences."""
    where = str(error.filename) if error.filename is not None else ""
    if error.errno in _REFUSALS:
        what, what_next = _REFUSALS[error.errno]
        return f"{where}: {what}. {what_next}" if where else f"{what.capitalize()}. {what_next}"
    return f"{where}: {reason_of(error)}." if where else f"{reason_of(error)}."


def without_credentials(text: str) -> str:
    """The text, the addresses in it without user names, passwords and tokens."""
    return _SECRETS.sub(r"\1…", _USER_INFO.sub("", text))


_OTHER_PLACE = "Check its permissions, or choose another place."
_REFUSALS: dict[int | None, tuple[str, str]] = {
    errno.ENOENT: ("there is no such file or folder", "Check the path."),
    errno.EACCES: ("this user may not open or write it", _OTHER_PLACE),
    errno.EPERM: ("this user may not open or write it", _OTHER_PLACE),
    errno.EROFS: ("this place can only be read", "Choose another place."),
    errno.ENOSPC: ("no space is left on the disk", "Free some, or choose another place."),
    errno.EDQUOT: ("the disk quota is used up", "Free some space, or choose another place."),
    errno.EFBIG: ("the file grew larger than allowed", "Raise `ulimit -f`, or the disk's limit."),
    errno.EMFILE: ("too many files are open", "Raise the limit with `ulimit -n 4096`."),
    errno.EISDIR: ("this is a folder, not a file", "Give the path of a file."),
    errno.ENOTDIR: ("a part of this path is a file, not a folder", "Check the path."),
    errno.EEXIST: ("there is a file of this name already", "Choose another place."),
    errno.ENAMETOOLONG: ("this name is too long for the disk", "Choose a shorter one."),
}

# User name and password in front of a host, even where the password holds a slash or an @.
_USER_INFO = re.compile(
    r"""(?<=://)(?:[^\s/?#@:"'<>]+@|[^\s/?#@:"'<>]*:(?!\d+(?:/|$))[^\s"'<>]*@)"""
)
_SECRETS = re.compile(
    r"""(?i)([?&](?:\w*password|passwd|pwd|\w*token|\w*secret|api_?key|odbc_connect)=)[^&\s"'<>]+"""
)
_TRACE = "Traceback (most recent call last)"
# What SQLAlchemy adds to what the database said.
_ASIDES = ("(Background on this error", "[SQL:", "[parameters:")


def _in_one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and not isinstance(error.strerror, bytes):
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(line.startswith(_TRACE) for line in lines):
        lines = lines[-1:]
    lines = [line for line in lines if not line.startswith(_ASIDES)]
    joined = without_credentials(" ".join(lines))
    page = re.search("(?i)<!doctype html|<html", joined)
    return (f"{joined[: page.start()]}a web page" if page else joined) or type(error).__name__


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class DatasetError(AdaptError, ValueError):
    """A user's data file can't be read, or lacks what the call needs."""


class ConfigError(AdaptError, ValueError):
    """An option, environment variable or configuration file holds a value that can't be used."""


class BaseModelError(AdaptError, RuntimeError):
    """A base model can't be found, downloaded or loaded."""


class BaseModelMismatch(AdaptError, ValueError):
    """Two things that must share a base model (architecture and tokenizer) do not."""


class ScoringError(AdaptError, RuntimeError):
    """A forward pass can't be made, or gave numbers that can't be used."""


class AdapterError(AdaptError, ValueError):
    """An adapter's files are broken, unsafe, or do not fit their base model."""


class RegistryError(AdaptError, RuntimeError):
    """The registry can't be opened, read or written."""


class NotFoundError(RegistryError, LookupError):
    """No entry of that name is in the registry."""


class TrainingError(AdaptError, RuntimeError):
    """Training can't start or had to stop."""


class TaskError(AdaptError, ValueError):
    """A task can't be scored as asked: no labels, no answers, or an unknown metric."""


class RecommendError(AdaptError, ValueError):
    """A ranking can't be made from the numbers given."""


class MatrixError(AdaptError, ValueError):
    """A transfer matrix, or a file that should hold one, can't be read or used."""


class CodeExecutionError(AdaptError, RuntimeError):
    """Code that a model wrote can't be run, or not behind enough protection."""


class JudgeError(AdaptError, RuntimeError):
    """A judging model can't be reached, or refuses to answer."""


class ServerError(AdaptError, RuntimeError):
    """An inference server can't be reached, refuses, or answers what can't be used."""

    def __init__(self, sentence: str, *, status: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        """HTTP status of a refusal; None where none came."""
