"""What MLflow, its databases and its servers refuse, each kind in a sentence of its own."""

import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

from adapt_lora.errors import RegistryError, reason_of, refusal_of

_INSTALLED_BY = {
    "psycopg2": "psycopg2-binary",
    "psycopg": "psycopg[binary]",
    "MySQLdb": "mysqlclient",
    "google": "google-cloud-storage",
    "azure": "azure-storage-blob azure-identity",
}
"""What pip calls the packages that are imported by another name."""

_STATUS = re.compile(r"error code (\d{3})|too many (\d{3}) error responses")
_BODY = re.compile(r"Response body: '([^<']{1,200})'")
_WORDS = re.compile(r"[A-Z_]+: (.{1,200})")
_SCHEMA = re.compile(r"database schema \(found version (\w+)|Can't locate revision[^']*'(\w+)'")
_STATUS_BY_CODE = {
    "UNAUTHENTICATED": 401,
    "CUSTOMER_UNAUTHORIZED": 401,
    "PERMISSION_DENIED": 403,
    "ENDPOINT_NOT_FOUND": 404,
    "REQUEST_LIMIT_EXCEEDED": 429,
    "RESOURCE_EXHAUSTED": 429,
}
_NO_MLFLOW = (
    "{where} answers, but not as an MLflow 3 server does ({reason}). Check the address, its port "
    "and its path."
)
_OF_STATUS = {
    401: "{where} asks for a login, or refuses the one that it got (401). Set "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.",
    403: "{where} does not allow this ({reason}). Ask whoever runs it, or check that it is an "
    "MLflow server.",
    404: _NO_MLFLOW,
    405: _NO_MLFLOW,
    429: "{where} gets too many requests (429). Wait a little, then try again.",
}

# The first that what was said holds; `{reason}` is all of it.
_SENTENCES = (
    ("not in a valid json format", _NO_MLFLOW.replace("{reason}", "it sent other text, or a page")),
    ("^internal_error: response: ", _NO_MLFLOW),
    (
        "could not find (?:a suitable tls|the tls)",
        "{where} can't be asked ({reason}). Check MLFLOW_TRACKING_SERVER_CERT_PATH and "
        "MLFLOW_TRACKING_CLIENT_CERT_PATH.",
    ),
    (
        "wrong_version_number|wrong version number|record layer failure",
        "{where} does not speak TLS. Write http:// instead of https://.",
    ),
    (
        "certificate_verify_failed|certificate verify failed|certificateerror|sslerror",
        "The certificate of {where} is not trusted ({reason}). Set "
        "MLFLOW_TRACKING_SERVER_CERT_PATH to the file of whoever issued it.",
    ),
    (
        "database is locked|database table is locked",
        "{where} is being written by another process ({reason}). Wait until that ends, or end it.",
    ),
    (
        "readonly database|read-only file system",
        "{where} can only be read here. Copy it to a place that can be written, or set "
        "MLFLOW_TRACKING_URI to another store.",
    ),
    (
        "disk i/o error",
        "{where} can't be read or written ({reason}): the files beside it were changed while it "
        "was open, or the disk fails. End what has it open, then try again.",
    ),
    (
        "disk is full|no space left|quota exceeded",
        "{where} can't be written: the disk is full ({reason}). Free some space there.",
    ),
    (
        "not a database|malformed",
        "{where} is damaged, or no SQLite database ({reason}). Put its backup in its place.",
    ),
    (
        "unable to open database file",
        "{where} can't be opened. Check that its folder is there and may be written.",
    ),
    (
        "can't load plugin: sqlalchemy|unsupported uri|could not parse sqlalchemy url"
        "|invalid literal for int",
        "{where} is no address that MLflow opens. Give http(s)://, sqlite:///, postgresql://, "
        "mysql://, mssql:// or a folder.",
    ),
    (
        "authentication failed|access denied",
        "{where} refuses the user name or the password ({reason}). Check them in the address.",
    ),
    (
        "refused|timed out|timeout|resolve|unreachable|max retries|connection aborted"
        "|could not connect|can't connect|closed the connection|failed with exception",
        "No {kind} answers at {where} ({reason}). Start it, or change MLFLOW_TRACKING_URI.",
    ),
    (
        "credential",
        "{where} or its files need credentials that are not set here ({reason}). Set them as "
        "MLflow's pages say for this kind of store.",
    ),
)


def not_mlflow(where: str, reason: str) -> str:
    """The sentence about a server that answers, and is none of MLflow's."""
    return _NO_MLFLOW.format(where=where, reason=reason)


def is_refusal(error: Exception) -> bool:
    """Whether an error is somebody else's, and not a fault in this code."""
    home = type(error).__module__.partition(".")[0]
    return home != "builtins" or isinstance(error, (OSError, ImportError))


def refusal(error: Exception, where: str, *, asked: str) -> RegistryError:
    """The sentence about an error of MLflow or of what it stands on.

    Args:
        error: As it was raised.
        where: The store's address, without credentials.
        asked: What was to be done.
    """
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, ImportError):
            return RegistryError(_lacks(each, where))
        if isinstance(each, OSError) and each.filename is not None and each.errno is not None:
            return RegistryError(refusal_of(each))
    said = reason_of(error)
    told = " ".join((said, *map(str, chain)))
    if schema := _SCHEMA.search(told):
        return RegistryError(_is_of_other_release(schema[1] or schema[2], where))
    reason, status = reason_of(chain[-1]), _status(error, told)
    sentence = _OF_STATUS.get(status)
    if status >= 500:
        sentence = "{where} can't do it now ({reason}). Try again later, or read the server's log."
    elif 300 <= status < 400:
        sentence = _NO_MLFLOW
    if sentence is not None:
        words = _BODY.search(str(error)) or _WORDS.match(said)
        phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
        if words is None and not _STATUS.search(said):
            reason = f"{status}: {said}"
        else:
            reason = f"{status}: {words[1]}" if words else f"{status} {phrase}".strip()
    else:
        fits = (text for pattern, text in _SENTENCES if re.search(pattern, told.lower()))
        sentence = next(fits, None)
    if sentence is None:
        return RegistryError(f"The registry at {where} did not do what was asked ({asked}): {said}")
    kind = "MLflow server" if where.startswith("http") else "database"
    return RegistryError(sentence.format(where=where, reason=reason.rstrip("."), kind=kind))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from or wraps, down to the first."""
    seen: set[int] = set()
    current: object = error
    while isinstance(current, BaseException) and id(current) not in seen:
        seen.add(id(current))
        yield current
        wrapped = getattr(current, "reason", None) or getattr(current, "orig", None)
        inside = next((part for part in current.args if isinstance(part, BaseException)), None)
        current = next(
            (
                part
                for part in (wrapped, inside, current.__cause__, current.__context__)
                if isinstance(part, BaseException)
            ),
            None,
        )


def _status(error: Exception, said: str) -> int:
    """The HTTP status of a server's answer; 0 where there was none, or none that says much."""
    if found := _STATUS.search(said):
        return int(found[1] or found[2])
    return _STATUS_BY_CODE.get(getattr(error, "error_code", ""), 0)


def _lacks(error: ImportError, where: str) -> str:
    package = (error.name or "").partition(".")[0]
    if not package:
        return f"{where} needs a package that is not installed ({reason_of(error)}). Install it."
    wanted = _INSTALLED_BY.get(package, package)
    return (
        f"{where} needs the package {package}, which is not installed. Run `pip install {wanted}`."
    )


def _is_of_other_release(schema: str, where: str) -> str:
    import mlflow

    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    if any(migrations.glob(f"{schema}_*.py")):
        return (
            f"{where} was made by an older MLflow than the {mlflow.__version__} that is installed. "
            f"Back it up, then run `mlflow db upgrade {where}`."
        )
    return (
        f"{where} was made by a newer MLflow than the {mlflow.__version__} that is installed (its "
        f"schema is {schema}). Run `pip install --upgrade mlflow`."
    )
