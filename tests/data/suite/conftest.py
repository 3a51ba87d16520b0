"""A stand-in for GitHub on loopback, with made-up files in the format of every source."""

import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from adapt_lora.data.suite import definitions
from adapt_lora.data.suite.fetching import SourceFetcher


class FakeGitHub:
    """Serves contents by path; `answers` hold (status, headers, body) that come before them."""

    def __init__(self):
        self.contents, self.answers, self.asked = {}, {}, []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                fake.asked.append(self.path)
                queued = fake.answers.get(self.path)
                if queued:
                    status, headers, body = queued.pop(0)
                elif self.path in fake.contents:
                    status, headers, body = 200, {}, fake.contents[self.path]
                else:
                    status, headers, body = 404, {}, b"404: Not Found"
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def path(self, task, file):
        return f"/{task.repository}/{task.commit}/{file}"

    def serve(self, task, *contents):
        """Serve the first files of a task."""
        for file, content in zip(task.files, contents, strict=False):
            self.contents[self.path(task, file)] = content


@pytest.fixture
def github():
    fake = FakeGitHub()
    thread = threading.Thread(target=fake.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield fake
    fake.http.shutdown()
    fake.http.server_close()
    thread.join()


@pytest.fixture
def fetcher(github, tmp_path):
    return SourceFetcher(tmp_path / "cache", github.url, sleep=lambda seconds: None)


@pytest.fixture
def known_rows(monkeypatch):
    """Let a suite know made-up rows by their digests instead of the shipped ones."""
    known = {}

    def know(name, rows):
        digests = [bytes.fromhex(row.digest[: 2 * definitions.DIGEST_BYTES]) for row in rows]
        known[name] = tuple(digests)

    monkeypatch.setattr(definitions, "_digests", lambda: known)
    return know


def with_files(task, n):
    """The task with its first n files only."""
    return replace(task, files=task.files[:n])
