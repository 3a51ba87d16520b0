"""What people write for a tracking store, and which store is meant."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from adapt_lora.errors import RegistryError, without_credentials

_FORMS = "Give a server's address (http://HOST:PORT), sqlite:///FILE, or a folder."
_TYPOS = {"htp": "http", "htpp": "http", "htps": "https", "postgres": "postgresql"}

_SCHEME = re.compile(r"([A-Za-z][\w+.-]*):(/*)(.*)", re.DOTALL)
# localhost:5000, user:password@10.0.0.5:5000/path, [::1]:5000
_HOST_AND_PORT = re.compile(r"(?:[^\s/@]+@)?(?:[\w.-]+|\[[\da-fA-F:]+\]):\d{1,5}(?:/.*)?")
# mlflow.example.org/path: what a folder is hardly ever called.
_HOST = re.compile(
    r"(?:[^\s/@]+@)?(?:localhost|\d{1,3}(?:\.\d{1,3}){3}|"
    r"(?:[\w-]+\.)+(?:com|org|net|io|ai|dev|cloud|edu|local|lan|internal))(?:/.*)?"
)
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a tracking store is, the same from every working directory."""

    uri: str
    """As MLflow takes it, with the credentials that it may hold."""
    database: Path | None = None
    """The file of a SQLite store; None for every other kind."""

    @property
    def shown(self) -> str:
        """The same for people and for what is kept: without user name, password and token."""
        return without_credentials(self.uri)

    @property
    def is_server(self) -> bool:
        """Whether a server keeps the store, which may be on another machine."""
        return self.uri.startswith(("http://", "https://"))


def read_address(given: str | Path) -> Address:
    """Which store a tracking URI or a folder means; nothing is opened.

    Raises:
        RegistryError: None, or another one than it looks like.
    """
    text = str(given).strip()
    if isinstance(given, Path) or text.startswith((".", "/", "~")):
        return _store_in(text)
    if _HOST_AND_PORT.fullmatch(text) or (_HOST.fullmatch(text) and not Path(text).exists()):
        url = without_credentials(f"http://{text}")
        folder = "" if "@" in text else f" For a folder of that name write ./{text}."
        raise RegistryError(
            f"{url.removeprefix('http://')} is a server's address without its beginning. Write "
            f"{url} (or https://).{folder}"
        )
    parts = _SCHEME.fullmatch(text)
    if text == "databricks":
        return Address(text)
    if parts is None and "://" in text:
        raise RegistryError(f"{without_credentials(text)}: not an address. {_FORMS}")
    if parts is None or _WINDOWS_PATH.match(text):
        return _store_in(text)
    scheme, slashes, rest = parts[1].lower(), parts[2], parts[3]
    if scheme in ("sqlite", "sqlite+pysqlite"):
        return _sqlite_file(slashes, rest)
    shown = without_credentials(text)
    if scheme in ("http", "https"):
        return _server(scheme, slashes, rest)
    if scheme == "file":
        raise RegistryError(
            f"{shown}: MLflow no longer keeps runs as plain files. Give a folder (a SQLite store "
            "is made in it), sqlite:///…, or a server's address."
        )
    if scheme in _TYPOS:
        raise RegistryError(
            f"{shown}: there is no {scheme}:// store. Write {_TYPOS[scheme]}:// instead."
        )
    # Amazon's names of servers have no slashes.
    if slashes != "//" and scheme != "arn":
        if Path(text).is_dir():
            return _store_in(text)
        raise RegistryError(f"{shown}: neither an address nor a folder that exists. {_FORMS}")
    return Address(text)


def _server(scheme: str, slashes: str, rest: str) -> Address:
    uri = f"{scheme}://{rest.rstrip('/')}"
    shown = without_credentials(uri)
    if slashes != "//" or not rest:
        meant = shown if rest else f"{scheme}://HOST:PORT"
        raise RegistryError(f"{scheme}:{slashes}{rest and '…'}: not an address. Write {meant}.")
    try:
        parts = urlsplit(uri)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without their other half, a port that no machine has
        has_host = False
    if not has_host:
        raise RegistryError(
            f"{shown}: not an address. A server's has a host and a port from 1 to 65535: "
            f"{scheme}://HOST:5000, or {scheme}://[::1]:5000 for one in IPv6."
        )
    if "#" in shown:
        server = shown.partition("#")[0].rstrip("/")
        raise RegistryError(f"{shown} is the address of a page; give the server's: {server}.")
    return Address(uri)


def _store_in(folder: str) -> Address:
    """The SQLite store of a folder."""
    _refuse_windows_path(folder)
    path = Path(folder).expanduser().absolute()
    if path.is_file():
        raise RegistryError(f"{path}: this is a file; give a folder, or sqlite:///{path}.")
    if path.suffix in (".db", ".sqlite", ".sqlite3") and not path.exists():
        raise RegistryError(
            f"{path} is called like a SQLite file. Write sqlite:///{path}, or give a folder."
        )
    return _sqlite_address(path / "mlflow.db")


def _sqlite_file(slashes: str, rest: str) -> Address:
    """The store in the file of a SQLite address, read as SQLAlchemy reads it."""
    if len(slashes) < 3:
        meant = "sqlite:///" + ("/" if len(slashes) == 1 else "") + (rest or "mlflow.db")
        raise RegistryError(
            f"sqlite:{slashes}{rest}: a SQLite address has three slashes before a relative path "
            f"and four before an absolute one. Write {meant}."
        )
    file, query = slashes[3:] + rest, ""
    _refuse_windows_path(file)
    if file in ("", ":memory:"):
        raise RegistryError(
            f"sqlite:///{file} keeps nothing: it is in memory, and gone when the command ends. "
            "Name a file: sqlite:///mlflow.db."
        )
    if file.startswith("file:"):
        raise RegistryError(f"sqlite:///{file}: give the path alone, without file: before it.")
    if "%" in file or "?" in file:
        from sqlalchemy import make_url

        query = file.partition("?")[2]
        if query and not all("=" in option for option in query.split("&")):
            raise RegistryError(
                f"sqlite:///{file}: a question mark starts options (name=value), and {query!r} is "
                "none. Write %3F for one in a path, or give the folder alone."
            )
        file = make_url(f"sqlite:///{file}").database or ""
    path = Path(file).expanduser().absolute()
    if path.is_dir():
        raise RegistryError(
            f"{path} is a folder, not a SQLite file. Write sqlite:///{path / 'mlflow.db'}, or give "
            "the folder without sqlite:/// before it."
        )
    return _sqlite_address(path, query)


def _sqlite_address(path: Path, query: str = "") -> Address:
    uri = f"sqlite:///{path}"
    if "%" in uri or "?" in uri:
        from sqlalchemy import URL, make_url

        # Some releases of SQLAlchemy read %3F as a question mark, others know no way to write it.
        forms = (uri, URL.create("sqlite", database=str(path)).render_as_string())
        found = [form for form in forms if make_url(form).database == str(path)]
        if not found:
            raise RegistryError(
                f"{path}: SQLite addresses can't hold the question mark in this path. Rename the "
                "folder, or install a newer SQLAlchemy."
            )
        uri = found[0]
    return Address(f"{uri}?{query}" if query else uri, path)


def _refuse_windows_path(path: str) -> None:
    if os.name != "nt" and _WINDOWS_PATH.match(path):
        drive, _, rest = path.replace("\\", "/").partition(":/")
        hint = f" Under WSL it is /mnt/{drive.lower()}/{rest}." if rest else ""
        raise RegistryError(f"{path} is a path of Windows, which this system does not have.{hint}")
