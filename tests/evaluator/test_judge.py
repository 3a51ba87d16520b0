"""The judge against a real server on this machine, with real threads and a real cache file."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from adapt_lora.data import Row
from adapt_lora.errors import JudgeError
from adapt_lora.evaluator.backends.endpoint import Patience
from adapt_lora.evaluator.judge import Judge, parse_verdict

ROWS = [
    Row("What is 2 + 2?", "4", None, 1),
    Row("Capital of France?", "Paris", None, 2),
    Row("Colour of the sky?", "blue", None, 3),
]


class JudgeServer(ThreadingHTTPServer):
    """Right is what contains the reference; the dicts by answer change single cases."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.replies: dict[str, str] = {}
        self.bodies: dict[str, str] = {}
        self.troubles: dict[str, list[tuple[int, dict[str, str]]]] = {}
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        case = body["messages"][-1]["content"]
        answer = case.split("<candidate_answer>\n")[1].split("\n</candidate_answer>")[0]
        reference = case.split("<reference_answer>\n")[1].split("\n</reference_answer>")[0]
        with self.server.lock:
            self.server.requests.append(body)
            self.server.keys.append(self.headers.get("authorization"))
            self.server.paths.append(self.path)
            troubles = self.server.troubles.get(answer, [])
            status, headers = troubles.pop(0) if troubles else (200, {})
        reply = self.server.replies.get(answer, str(int(reference in answer)))
        content = {"choices": [{"message": {"role": "assistant", "content": reply}}]}
        text = json.dumps(content if status == 200 else {"error": f"no: {answer}"})
        text = self.server.bodies.get(answer, text).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with JudgeServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def judge(server, waits, tmp_path):
    return Judge(
        server.url,
        "big-model",
        tmp_path / "judge" / "v.sqlite",
        patience=Patience(timeout_s=5, first_wait_s=1, longest_wait_s=60),
        sleep=waits.append,
    )


def test_answers_are_judged_beside_question_and_reference(judge, server):
    assert judge.grade(ROWS, ["It is 4.", "London", "blue"]) == [1.0, 0.0, 1.0]
    body = next(r for r in server.requests if "It is 4." in r["messages"][-1]["content"])
    assert body["model"] == "big-model"
    assert body["temperature"] == 0
    assert "What is 2 + 2?" in body["messages"][-1]["content"]


def test_a_reply_that_is_no_verdict_is_left_out_and_asked_for_again(judge, server):
    server.replies["Paris!"] = "Score: 1"
    answers = ["4", "Paris!", "grey"]
    assert judge.grade(ROWS, answers) == [1.0, None, 0.0]
    assert len(server.requests) == 3
    del server.replies["Paris!"]
    assert judge.grade(ROWS, answers) == [1.0, 1.0, 0.0]
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("1", 1.0),
        (" 0\n", 0.0),
        ("1.", None),
        ("10", None),
        ("", None),
        ("The answer is correct: 1", None),
        ("yes", None),
        ("١", None),  # a digit, but no verdict
    ],
)
def test_only_the_bare_digit_is_a_verdict(reply, verdict):
    assert parse_verdict(reply) == verdict


def test_known_verdicts_are_not_asked_for_again(judge, server):
    judge.grade(ROWS, ["4", "Paris", "blue"])
    again = Judge(server.url, judge.model, judge.cache)
    assert again.grade(ROWS, ["4", "Paris", "red"]) == [1.0, 1.0, 0.0]
    assert len(server.requests) == 4
    other = Judge(server.url, "another-model", judge.cache)
    other.grade(ROWS[:1], ["4"])
    assert len(server.requests) == 5
    assert other.protocol_key(ROWS) != again.protocol_key(ROWS)


def test_no_text_is_kept_on_disk(judge):
    judge.grade(ROWS, ["4", "Paris", "London"])
    stored = judge.cache.read_bytes()
    assert not any(text in stored for text in (b"France", b"Paris", b"London"))


def test_equal_cases_cost_one_request_and_empty_answers_none(judge, server):
    assert judge.grade([ROWS[0]] * 3, ["4", "4", " "]) == [1.0, 1.0, 0.0]
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again_after_a_growing_wait(judge, server, waits):
    server.troubles["4"] = [(503, {}), (429, {"retry-after": "7"}), (500, {})]
    assert judge.grade(ROWS[:1], ["4"]) == [1.0]
    assert len(waits) == 3
    assert 0.5 <= waits[0] <= 1
    assert waits[1] == 7
    assert 2 <= waits[2] <= 4


def test_a_server_that_never_recovers_is_an_error_and_keeps_what_came_before(judge, server, waits):
    server.troubles["Paris"] = [(503, {})] * 9
    one_by_one = replace(judge, concurrency=1)
    with pytest.raises(JudgeError, match=r"5 tries \(last: status 503: no: Paris\).*--judge-url"):
        one_by_one.grade(ROWS, ["4", "Paris", "blue"])
    assert judge.grade(ROWS[:1], ["4"]) == [1.0]
    asked = [request["messages"][-1]["content"] for request in server.requests]
    assert sum("<candidate_answer>\n4\n" in case for case in asked) == 1


def test_a_refusal_is_not_repeated(judge, server, waits):
    server.troubles["4"] = [(404, {})]
    with pytest.raises(JudgeError, match=r"refused with status 404: .*no: 4"):
        judge.grade(ROWS[:1], ["4"])
    assert waits == []


def test_no_server_is_an_error_that_says_where_it_was_sought(judge, waits):
    with pytest.raises(JudgeError, match=r"http://127\.0\.0\.1:9 gave no answer.*refused"):
        replace(judge, url="http://127.0.0.1:9/v1").grade(ROWS[:1], ["4"])
    with pytest.raises(JudgeError, match="--judge-url ftp://somewhere: not an address"):
        replace(judge, url="ftp://somewhere").grade(ROWS[:1], ["4"])


def test_the_key_is_sent_and_shown_nowhere(judge, server):
    keyed = replace(judge, api_key="sk-very-secret")
    keyed.grade(ROWS[:1], ["4"])
    assert server.keys == ["Bearer sk-very-secret"]
    assert "secret" not in repr(keyed)
    assert "secret" not in keyed.protocol_key(ROWS)
    server.troubles["sk-very-secret"] = [(400, {}), (401, {})]
    for _ in range(2):
        with pytest.raises(JudgeError) as caught:
            keyed.grade(ROWS[:1], ["sk-very-secret"])
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("[1]", "answered with list, not an object"),
        ('{"choices": []}', "something else than a chat completion"),
        ('{"choices": [', r"5 tries \(last: the reply is not whole JSON"),
    ],
)
def test_something_else_than_a_chat_completion_is_an_error(judge, server, body, words):
    server.bodies["4"] = body
    with pytest.raises(JudgeError, match=words):
        judge.grade(ROWS[:1], ["4"])


def test_an_address_that_ends_otherwise_is_called_as_it_is(judge, server):
    replace(judge, url=server.url.removesuffix("v1") + "v1beta/openai/").grade(ROWS[:1], ["4"])
    judge.grade(ROWS[1:2], ["London"])
    assert server.paths == ["/v1beta/openai/chat/completions", "/v1/chat/completions"]
