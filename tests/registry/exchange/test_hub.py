"""The Hub, played by a little server on loopback that knows what upload and download ask for."""

import base64
import hashlib
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

import pytest

from adapt_lora.errors import AdapterError, NotFoundError, RegistryError
from adapt_lora.registry import fetch_adapter, push_adapter, read_adapter
from adapt_lora.registry.exchange.hub import write_readme
from adapt_lora.registry.records import BASE_ID, Fingerprint
from tests.registry.conftest import cell


class FakeHub:
    """Repositories as dicts of files, one commit each."""

    def __init__(self):
        self.repos = {}
        self.private = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.get(self)

            def do_HEAD(self):
                hub.get(self)

            def do_POST(self):
                hub.post(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def sha(self, repo):
        content = repr(sorted(self.repos[repo].items())).encode()
        return hashlib.sha1(content).hexdigest()

    def get(self, request):
        path = unquote(urlparse(request.path).path).strip("/")
        api = path.startswith("api/models/")
        repo = "/".join(path.removeprefix("api/models/").split("/")[:2])
        rest = path.removeprefix("api/models/").split("/")[2:]
        if repo not in self.repos:
            return self.answer(request, 404, headers={"X-Error-Code": "RepoNotFound"})
        files, sha = self.repos[repo], self.sha(repo)
        if api and rest[:1] == ["revision"] and rest[1] not in ("main", sha):
            return self.answer(request, 404, headers={"X-Error-Code": "RevisionNotFound"})
        if api and rest[:1] == ["tree"]:
            listing = [
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for n, c in files.items()
            ]
            return self.answer(request, 200, listing)
        if api:
            siblings = [{"rfilename": name} for name in files]
            return self.answer(request, 200, {"id": repo, "sha": sha, "siblings": siblings})
        content = files.get("/".join(rest[2:]))
        if content is None:
            return self.answer(request, 404, headers={"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": sha}
        return self.answer(request, 200, content, headers=headers)

    def post(self, request):
        body = request.rfile.read(int(request.headers["Content-Length"]))
        path = unquote(urlparse(request.path).path).strip("/")
        if path == "api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted['organization']}/{wanted['name']}"
            self.repos.setdefault(repo, {})
            # Newer clients say visibility, older ones private.
            self.private[repo] = wanted.get("private") or wanted.get("visibility") == "private"
            return self.answer(request, 200, {"url": f"{self.endpoint}/{repo}"})
        if path == "api/validate-yaml":
            return self.answer(request, 200, {"errors": [], "warnings": []})
        repo = "/".join(path.removeprefix("api/models/").split("/")[:2])
        if "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer(request, 200, {"files": files})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.repos[repo][line["value"]["path"]] = content
        sha = self.sha(repo)
        commit = {"commitUrl": f"{self.endpoint}/{repo}/commit/{sha}", "commitOid": sha}
        return self.answer(request, 200, commit)

    def answer(self, request, status, content=b"", *, headers=None):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        request.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf-cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    fake = FakeHub()
    yield fake
    fake.server.shutdown()


@pytest.fixture
def on_hub(hub, adapter_folder):
    """Puts an adapter's folder on the hub, junk included."""
    folder = adapter_folder("source", seed=5)
    (folder / "training_args.bin").write_bytes(b"pickle")
    hub.repos["org/sst2"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    return read_adapter(folder)


def test_a_fetched_adapter_is_pinned_and_without_junk(hub, on_hub, tmp_path):
    fetched = fetch_adapter("org/sst2", tmp_path / "got", endpoint=hub.endpoint)
    assert fetched == tmp_path / "got" / "org--sst2" / hub.sha("org/sst2")
    assert read_adapter(fetched).adapter_id == on_hub.adapter_id
    assert sorted(path.name for path in fetched.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert not any(path.is_symlink() for path in fetched.iterdir())


def test_a_revision_can_be_named(hub, on_hub, tmp_path):
    sha = hub.sha("org/sst2")
    fetched = fetch_adapter("org/sst2", tmp_path, revision=sha, endpoint=hub.endpoint)
    assert fetched.name == sha
    with pytest.raises(NotFoundError, match="no such revision"):
        fetch_adapter("org/sst2", tmp_path, revision="old", endpoint=hub.endpoint)


def test_what_is_wrong_with_a_source_is_said(hub, on_hub, tmp_path):
    with pytest.raises(NotFoundError, match="not on the Hub, or is private"):
        fetch_adapter("org/nothing", tmp_path, endpoint=hub.endpoint)
    with pytest.raises(NotFoundError, match="not a Hub id"):
        fetch_adapter("a/b/c d", tmp_path, endpoint=hub.endpoint)
    hub.repos["org/pickled"] = {"adapter_config.json": b"{}", "adapter_model.bin": b"pickle"}
    with pytest.raises(AdapterError, match="pickle"):
        fetch_adapter("org/pickled", tmp_path, endpoint=hub.endpoint)
    with pytest.raises(RegistryError, match="can't be reached"):
        fetch_adapter("org/sst2", tmp_path, endpoint="http://127.0.0.1:1")


def test_a_pushed_adapter_comes_back_the_same(hub, adapter_folder, adapter_record, tmp_path):
    folder = adapter_folder()
    (folder / "training_args.bin").write_bytes(b"pickle")
    record = adapter_record(folder, "sst2")
    address = push_adapter(record, folder, "me/sst2", endpoint=hub.endpoint, token="hf_x")
    assert address.startswith(f"{hub.endpoint}/me/sst2/commit/")
    assert hub.private["me/sst2"]
    assert sorted(hub.repos["me/sst2"]) == [
        "README.md",
        "adapt.json",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    fetched = fetch_adapter("me/sst2", tmp_path / "back", endpoint=hub.endpoint)
    assert read_adapter(fetched).adapter_id == record.adapter_id


def test_the_card_names_the_base_and_the_scores(hub, adapter_folder, adapter_record):
    folder = adapter_folder()
    record = adapter_record(folder, "sst2")
    cells = [cell(BASE_ID, 0.5), cell(record.adapter_id, 0.75)]
    push_adapter(record, folder, "me/sst2", cells=cells, endpoint=hub.endpoint, token="hf_x")
    card = hub.repos["me/sst2"]["README.md"].decode()
    assert "base_model: org/tiny-llama" in card
    assert "base_model_relation: adapter" in card
    assert "base_model:adapter:org/tiny-llama" in card
    assert "| trec | balanced_accuracy | 100 | 0.500 | 0.750 | 0.050 |" in card


def test_aggregates_are_pushed_and_nothing_of_single_rows(hub, adapter_folder, adapter_record):
    folder = adapter_folder()
    record = adapter_record(folder, "sst2")
    record = replace(record, fingerprint=Fingerprint({"n_rows": 3.0}, row_sketches=(123456789,)))
    push_adapter(record, folder, "me/sst2", endpoint=hub.endpoint, token="hf_x")
    text = hub.repos["me/sst2"]["adapt.json"].decode()
    pushed = json.loads(text)
    assert pushed["schema_version"] == 1
    assert pushed["fingerprint"]["values"] == {"n_rows": 3.0}
    assert "123456789" not in text


def test_other_files_than_the_registered_ones_are_not_pushed(hub, adapter_folder, adapter_record):
    record = adapter_record(adapter_folder("first"), "sst2")
    with pytest.raises(AdapterError, match="not the files of sst2"):
        push_adapter(record, adapter_folder("second", seed=8), "me/sst2", endpoint=hub.endpoint)
    assert hub.repos == {}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, False),
        ("# tiny\n\n" + 30 * "**By:** [More Information Needed]\n", False),  # PEFT's form
        ("# tiny\n\nA LoRA adapter for org/tiny, trained with Adapt.\n", False),
        ("---\nlicense: mit\n---\n# tiny\n\nMy own words.\n", True),
    ],
    ids=["none", "form", "ours", "an author's"],
)
def test_a_readme_is_written_beside_files_and_an_authors_words_stay(
    given, kept, adapter_folder, adapter_record, tmp_path
):
    record = adapter_record(adapter_folder("tiny"), "tiny")
    place = tmp_path / "README.md"
    if given is not None:
        place.write_text(given)
    for _ in range(2):  # again: renewed, not added to
        write_readme(tmp_path, record, "# tiny\n\nGains.\n")
    text = place.read_text()
    assert text.count("Gains.") == 1
    assert ("base_model: " in text) is not kept
    assert ("My own words." in text) is kept
    assert "[More" not in text
