"""The errors that Adapt shows to people: one sentence that says what, where and what to do next."""


class AdaptError(Exception):
    """Root of all errors raised on purpose; the command line prints it as one line, exit code 1."""


def failure_reason(error: BaseException) -> str:
    """One sentence about an error, with its type where it is not one of ours."""
    reason = str(error).strip() or repr(error)
    if isinstance(error, AdaptError):
        return reason
    return f"{type(error).__name__}: {reason.splitlines()[0]}"


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
