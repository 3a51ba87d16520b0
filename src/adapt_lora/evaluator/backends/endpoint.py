"""An OpenAI-compatible server: JSON out, JSON in, asked again where that may help."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from adapt_lora.errors import ServerError

# Too many requests, one that met another (409), a server's own failures, and what proxies say while
# a server restarts.
_RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
# What is said about a key may repeat a part of it.
_ABOUT_KEYS = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait and how often to ask."""

    n_tries: int = 5
    """Times that one request is sent at most."""
    timeout_s: float = 300.0
    """Seconds that one answer may take; a server under load queues requests."""
    connect_s: float = 5.0
    """Seconds that a connection may take."""
    first_wait_s: float = 0.5
    """Longest wait before the second try; it doubles with each try."""
    longest_wait_s: float = 30.0
    """No wait is longer, whatever the server asks for."""

    def wait_s(self, number: int, asked: str | None, jitter: float) -> float:
        """Seconds to wait after that many tries: doubling, and as long as the server asks.

        Args:
            number: Tries made, at least 1.
            asked: The server's Retry-After; a date is not waited for.
            jitter: Share of the wait, in [0.5, 1]: all requests met the same trouble at one moment.
        """
        wait_s = self.first_wait_s * 2.0 ** (number - 1) * jitter
        with suppress(ValueError):  # a date: rare, and our own wait will do
            wait_s = max(wait_s, float(asked or 0))
        return min(wait_s, self.longest_wait_s)


class Endpoint:
    """Talks to one server from many threads at once.

    A request is repeated after a lost connection, a timeout, a status that may pass (429, 5xx) and
    a reply that breaks off; after anything else it is not, since the same would come back.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        concurrency: int = 8,
        patience: Patience | None = None,
        sleep: Callable[[float], None] = time.sleep,
        seed: int = 0,
        option: str = "--server",
    ) -> None:
        """Prepare, without calling the server.

        Args:
            url: With or without "/v1" at its end.
            api_key: Sent as a bearer token.
            concurrency: Requests that are under way at once.
            patience: Tries and waits.
            sleep: Waits that many seconds.
            seed: Of the jitter in the waits.
            option: What the address came by, for errors.

        Raises:
            ServerError: Not an http(s) address.
        """
        import httpx2

        if not url.startswith(("http://", "https://")):
            raise ServerError(
                f"{option} {url}: not an address; give it as http://HOST:PORT or https://HOST."
            )
        self.url = url.rstrip("/").removesuffix("/v1")
        self.concurrency = concurrency
        self.patience = patience or Patience()
        self._api_key = api_key
        self._sleep = sleep
        self._random = random.Random(seed)
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx2.Timeout(self.patience.timeout_s, connect=self.patience.connect_s),
            limits=httpx2.Limits(max_connections=concurrency),
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(self, path: str) -> dict[str, Any]:
        """What the server answers to GET `path`, e.g. "/v1/models".

        Raises:
            ServerError: No usable answer after all tries, or a refusal.
        """
        return self._send("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """What the server answers to POST `path`; errors as for `get`."""
        return self._send("POST", path, body)

    def command(self, path: str, body: Mapping[str, Any]) -> None:
        """POST without reading what comes back; errors as for `get`."""
        self._send("POST", path, body, reads=False)

    def post_all(
        self,
        path: str,
        bodies: Sequence[Mapping[str, Any]],
        *,
        done: Callable[[int], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Answers in the order of the bodies, `concurrency` of them under way at once.

        Args:
            path: As for `get`.
            bodies: One request each.
            done: Told how many are answered.

        Raises:
            ServerError: One of them got no usable answer; the others are given up.
        """
        answers: dict[int, dict[str, Any]] = {}
        for place, answer in self.post_each(path, bodies):
            answers[place] = answer
            if done is not None:
                done(len(answers))
        return [answers[place] for place in range(len(bodies))]

    def post_each(
        self, path: str, bodies: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The place of a body and what the server answers to it, in the order of the answers.

        Up to `concurrency` are under way at once; errors as for `post_all`, after all answers that
        came before.
        """
        arrived: SimpleQueue[Future[dict[str, Any]]] = SimpleQueue()
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            places: dict[Future[dict[str, Any]], int] = {}
            for place, body in enumerate(bodies):
                waiting = pool.submit(self.post, path, body)
                places[waiting] = place
                waiting.add_done_callback(arrived.put)
            for _ in bodies:
                answer = arrived.get()
                yield places[answer], answer.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, *, reads: bool = True
    ) -> dict[str, Any]:
        import httpx2

        problem, asked = "", None
        for number in range(self.patience.n_tries):
            if number:
                self._sleep(self.patience.wait_s(number, asked, self._random.uniform(0.5, 1.0)))
                asked = None
            try:
                response = self._client.request(method, self.url + path, json=body)
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                raise self._error(path, f"can't be called ({error})") from error
            except httpx2.TimeoutException:
                problem = f"no answer within {self.patience.timeout_s:g} s"
                continue
            except httpx2.TransportError as error:
                problem = str(error) or type(error).__name__
                continue
            if response.status_code in _RETRIED_STATUS:
                problem = f"status {response.status_code}{_said(response)}"
                asked = response.headers.get("retry-after")
                continue
            if response.status_code != 200:
                raise self._error(
                    path,
                    f"refused with status {response.status_code}{_said(response)}",
                    status=response.status_code,
                )
            if not reads:
                return {}
            try:
                content = response.json()
            except ValueError:
                problem = f"the reply is not whole JSON ({len(response.content):,} bytes)"
                continue
            if not isinstance(content, dict):
                raise self._error(path, f"answered with {type(content).__name__}, not an object")
            return content
        raise self._error(
            path, f"gave no answer in {self.patience.n_tries} tries (last: {problem})"
        )

    def _error(self, path: str, what: str, *, status: int | None = None) -> ServerError:
        text = f"The server at {self.url} {what} (asked for {path})."
        if self._api_key:
            text = text.replace(self._api_key, "…")
        return ServerError(text, status=status)


def _said(response: Any) -> str:
    """The server's own words, from the shapes that servers give errors in."""
    if response.status_code in _ABOUT_KEYS:
        return ""
    try:
        content = response.json()
    except ValueError:
        content = None if "html" in response.headers.get("content-type", "") else response.text
    found = content.get("error", content) if isinstance(content, dict) else content
    text = found.get("message") if isinstance(found, dict) else found
    return f": {' '.join(str(text).split())[:200]}" if text else ""
