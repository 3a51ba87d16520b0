"""Source files of a suite's tasks, over the network once and from the cache folder after that."""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from adapt_lora.data.suite.definitions import SuiteTask
from adapt_lora.errors import DatasetError

if TYPE_CHECKING:
    import httpx2

GITHUB_HOST = "https://raw.githubusercontent.com"
"""Where GitHub serves a file of a repository at a commit."""

_N_TRIES = 3
_LONGEST_WAIT_S = 60.0
_CONNECT_S, _READ_S = 10.0, 60.0
_WHAT_ELSE = "or set ADAPT_SUITE_DIR to a folder that holds {name}/test.jsonl"


@dataclass(slots=True)
class SourceFetcher:
    """Fetches files of public repositories and keeps them."""

    cache: Path
    """Folder for them; a file's name there is the digest of its repository, commit and path."""
    host: str = GITHUB_HOST
    """Address that is followed by /REPOSITORY/COMMIT/PATH."""
    sleep: Callable[[float], None] = time.sleep
    """Waits that many seconds."""
    unreachable: str = field(default="", init=False)
    """Why the host can't be reached; "" as long as nothing speaks against it."""

    def fetch(self, task: SuiteTask) -> list[bytes]:
        """What the task's files hold, in their order; each is kept as soon as it is there.

        Raises:
            DatasetError: One of them can't be had, or the cache folder can't be written.
        """
        import httpx2

        timeout = httpx2.Timeout(_READ_S, connect=_CONNECT_S)
        with httpx2.Client(timeout=timeout, follow_redirects=True) as client:
            return [self._cached(task, path, client) for path in task.files]

    def has(self, task: SuiteTask) -> bool:
        """Whether all of the task's files are in the cache."""
        return all(self._place(task, path).is_file() for path in task.files)

    def forget(self, task: SuiteTask) -> None:
        """Drop the task's files from the cache, so that they are fetched anew."""
        for path in task.files:
            self._place(task, path).unlink(missing_ok=True)

    def _place(self, task: SuiteTask, path: str) -> Path:
        known_by = f"{task.repository}@{task.commit}:{path}"
        return self.cache / hashlib.sha256(known_by.encode()).hexdigest()[:32]

    def _cached(self, task: SuiteTask, path: str, client: "httpx2.Client") -> bytes:
        place = self._place(task, path)
        try:
            if place.is_file():
                return place.read_bytes()
            content = self._download(task, path, client)
            self.cache.mkdir(parents=True, exist_ok=True)
            _write_atomically(place, content)
        except OSError as error:
            raise DatasetError(
                f"{task.name}: {place} can't be read or written ({error.strerror or error}). "
                "Mend the folder, or name another in ADAPT_CACHE_DIR."
            ) from error
        return content

    def _download(self, task: SuiteTask, path: str, client: "httpx2.Client") -> bytes:
        import httpx2

        url = f"{self.host.rstrip('/')}/{task.repository}/{task.commit}/{quote(path)}"
        if self.unreachable:
            raise _failure(task, url, self.unreachable)
        problem = ""
        for number in range(_N_TRIES):
            wait = 0.0
            try:
                response = client.get(url)
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                raise DatasetError(
                    f"ADAPT_SUITE_HOST {self.host}: not an address ({error}); "
                    "give it as https://HOST."
                ) from error
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                reason = str(error) or type(error).__name__
                self.unreachable = f"can't be reached ({reason}). Check the network"
                raise _failure(task, url, self.unreachable) from error
            except httpx2.TransportError as error:
                problem = f"broke off ({str(error) or type(error).__name__})"
            else:
                if response.status_code == 200:
                    return response.content
                problem = _refusal(response)
                if response.status_code != 429 and response.status_code < 500:
                    break
                wait = _asked_wait_s(response)
            if number + 1 < _N_TRIES:
                if wait > _LONGEST_WAIT_S:
                    break
                self.sleep(wait or 2.0**number)
        raise _failure(task, url, problem)


def _failure(task: SuiteTask, url: str, what: str) -> DatasetError:
    return DatasetError(f"{task.name}: {url} {what}, {_WHAT_ELSE.format(name=task.name)}.")


def _refusal(response: "httpx2.Response") -> str:
    """What a status other than 200 says, and what helps."""
    status = response.status_code
    if status == 404:
        return "is not there (404): the repository was moved or taken down. Go on without it"
    if status == 429:
        asked = _asked_wait_s(response)
        when = f"in {asked:.0f} s" if asked else "later"
        return f"is refused because too much was asked for (429). Try again {when}"
    return f"is refused with status {status}. Try again later"


def _asked_wait_s(response: "httpx2.Response") -> float:
    """Seconds that the server wants us to wait; 0 where it names none."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "0")))
    except ValueError:  # a date
        return 0.0


def _write_atomically(place: Path, content: bytes) -> None:
    handle, scratch = tempfile.mkstemp(dir=place.parent, prefix=".fetching-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(scratch).replace(place)
    finally:
        Path(scratch).unlink(missing_ok=True)
