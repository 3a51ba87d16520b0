"""A small but real HTTP server that answers completions from the tiny base model."""

import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from adapt_lora.evaluator.backends.tokens import decode_answers, stop_ids


class TinyServer:
    """`vllm serve` in small: adapters loaded at run time, log-probabilities by two roads.

    Attributes:
        faults: What to do instead of answering, one per request, first to last: a status, "cut"
            (half a JSON), "drop" (no reply), "slow" (later than the client waits).
        offers: The roads it knows, out of "asked" and "echo".
    """

    def __init__(self, base) -> None:
        self.base = base
        self.offers = {"asked", "echo"}
        self.faults: deque = deque()
        self.retry_after: str | None = None
        self.models: dict[str, Path | None] = {"tiny/llama": None}
        self.requests: list[tuple[str, dict]] = []
        self.api_key: str | None = None
        self.running = 0
        self.most_running = 0
        self.hold_s = 0.0
        self._counting = threading.Lock()
        self._model = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.handle(self, {})

            def do_POST(self) -> None:
                size = int(self.headers.get("Content-Length", 0))
                server.handle(self, json.loads(self.rfile.read(size) or b"{}"))

            def log_message(self, *_) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def handle(self, request: BaseHTTPRequestHandler, body: dict) -> None:
        with self._counting:
            self.requests.append((request.path, body))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            fault = self.faults.popleft() if self.faults else None
        try:
            said = self.say(request, body, fault)
        finally:
            # Before the reply: whoever has read it may send the next request at once.
            with self._counting:
                self.running -= 1
        if said is None:
            return request.connection.close()
        return self.reply(request, *said, cut=fault == "cut")

    def say(self, request, body: dict, fault: object) -> tuple[int, object] | None:
        time.sleep(self.hold_s)
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            sent = request.headers.get("Authorization")
            return 401, {"error": {"message": f"bad key {sent}"}}
        if isinstance(fault, int):
            return fault, {"error": {"message": "too busy"}}
        if fault == "drop":
            return None
        if fault == "slow":
            time.sleep(1.0)
        return self.answer(request.path, body)

    def reply(self, request, status: int, content: object, *, cut: bool = False) -> None:
        text = json.dumps(content).encode() if not isinstance(content, str) else content.encode()
        text = text[: len(text) // 2] if cut else text
        try:
            request.send_response(status)
            if self.retry_after and status == 429:
                request.send_header("Retry-After", self.retry_after)
            request.send_header("Content-Length", str(len(text)))
            request.end_headers()
            request.wfile.write(text)
        except OSError:
            pass  # the client gave up

    def answer(self, path: str, body: dict) -> tuple[int, object]:
        if path == "/v1/models":
            parents = {name: None if f is None else "tiny/llama" for name, f in self.models.items()}
            return 200, {"data": [{"id": n, "parent": parent} for n, parent in parents.items()]}
        if path == "/v1/load_lora_adapter":
            if not Path(body["lora_path"]).is_dir():
                return 404, {"error": {"message": f"no folder {body['lora_path']}"}}
            self.models[body["lora_name"]] = Path(body["lora_path"])
            return 200, "Success: LoRA adapter added."  # plain text, as vLLM says it
        if path == "/v1/unload_lora_adapter":
            del self.models[body["lora_name"]]
            return 200, "Success: LoRA adapter removed."
        if path != "/v1/completions" or body.get("model") not in self.models:
            return 404, {"error": {"message": f"no model {body.get('model')}"}}
        folder = self.models[body["model"]]
        with self._model, self.base.adapted(folder) if folder else nullcontext():
            choices = [self.complete(ids, body) for ids in body["prompt"]]
        # Order is the client's to restore.
        return 200, {"choices": [{"index": i, **c} for i, c in enumerate(choices)][::-1]}

    @torch.inference_mode()
    def complete(self, ids: list[int], body: dict) -> dict:
        prompt, written = list(ids), []
        for _ in range(body["max_tokens"]):
            logits = self.base.model(torch.tensor([prompt + written])).logits[0].float()
            said = torch.log_softmax(logits, dim=-1)
            written.append(int(said[-1].argmax()))
            if written[-1] in (body.get("stop_token_ids") or stop_ids(self.base)):
                break
        choice: dict = {"text": decode_answers(self.base, [written])[0]}
        if "logprob_token_ids" in body and "asked" in self.offers:
            asked = {f"token_id:{t}": float(said[-1, t]) for t in body["logprob_token_ids"]}
            choice["logprobs"] = {"top_logprobs": [asked]}
        elif body.get("echo") and "echo" in self.offers:
            own = [float(said[i - 1, prompt[i]]) for i in range(1, len(prompt))]
            choice["logprobs"] = {"token_logprobs": [None, *own, float(said[-1].max())]}
        return choice

    @contextmanager
    def running_in_background(self) -> Iterator["TinyServer"]:
        thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.http.shutdown()
            self.http.server_close()
            thread.join()


@pytest.fixture
def tiny_server(tiny_base) -> Iterator[TinyServer]:
    with TinyServer(tiny_base).running_in_background() as server:
        yield server
