import pytest

from adapt_lora.errors import ServerError
from adapt_lora.evaluator.backends.endpoint import Endpoint, Patience


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def endpoint(tiny_server, waits):
    patience = Patience(n_tries=4, timeout_s=0.5, first_wait_s=0.5, longest_wait_s=8)
    made = Endpoint(f"{tiny_server.url}/v1/", patience=patience, sleep=waits.append)
    yield made
    made.close()


@pytest.mark.parametrize("fault", [408, 409, 429, 500, 502, 503, 504, "cut", "drop", "slow"])
def test_what_may_pass_is_asked_again(endpoint, tiny_server, fault):
    tiny_server.faults.extend([fault, fault])
    assert endpoint.get("/v1/models")["data"][0]["id"] == "tiny/llama"
    assert len(tiny_server.requests) == 3


def test_waits_double_with_jitter_and_never_exceed_the_longest(endpoint, tiny_server, waits):
    tiny_server.faults.extend([500, 500, 500])
    endpoint.get("/v1/models")
    ceilings = [0.5, 1.0, 2.0]
    assert all(top / 2 <= wait <= top for wait, top in zip(waits, ceilings, strict=True))
    other = Endpoint(tiny_server.url, sleep=waits.append, seed=1)
    tiny_server.faults.append(500)
    other.get("/v1/models")
    assert waits[0] != waits[3]


@pytest.mark.parametrize(("asked", "waited"), [("3", 3.0), ("900", 8.0)])
def test_a_servers_own_wish_for_a_pause_counts(endpoint, tiny_server, waits, asked, waited):
    tiny_server.retry_after = asked
    tiny_server.faults.append(429)
    endpoint.get("/v1/models")
    assert waits == [waited]


def test_a_date_as_pause_is_no_reason_to_fail(endpoint, tiny_server, waits):
    tiny_server.retry_after = "Wed, 21 Oct 2026 07:28:00 GMT"
    tiny_server.faults.append(429)
    endpoint.get("/v1/models")
    assert len(waits) == 1


def test_trouble_that_stays_is_told_with_its_last_cause(endpoint, tiny_server, waits):
    tiny_server.faults.extend([500, "drop", "cut", 503])
    with pytest.raises(ServerError, match=r"no answer in 4 tries.*status 503: too busy.*v1/models"):
        endpoint.get("/v1/models")
    assert len(waits) == 3


def test_a_timeout_is_named(tiny_server):
    short = Endpoint(tiny_server.url, patience=Patience(n_tries=1, timeout_s=0.2))
    tiny_server.faults.append("slow")
    with pytest.raises(ServerError, match=r"no answer within 0\.2 s"):
        short.get("/v1/models")


def test_a_refusal_is_not_repeated_and_keeps_its_status(endpoint, tiny_server):
    with pytest.raises(ServerError, match="refused with status 404: no model nobody") as refused:
        endpoint.post("/v1/completions", {"model": "nobody"})
    assert refused.value.status == 404
    assert len(tiny_server.requests) == 1


def test_no_server_there_is_one_sentence(waits):
    nobody = Endpoint("http://127.0.0.1:9", patience=Patience(n_tries=2), sleep=waits.append)
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9 gave no answer in 2 tries"):
        nobody.get("/v1/models")


def test_a_place_that_is_no_address_is_refused_at_once():
    with pytest.raises(ServerError, match="http://HOST:PORT"):
        Endpoint("localhost:8000")


def test_the_key_is_sent_and_never_shown(tiny_server):
    tiny_server.api_key = "right"
    assert Endpoint(tiny_server.url, api_key="right").get("/v1/models")
    with pytest.raises(ServerError, match="status 401") as refused:
        Endpoint(tiny_server.url, api_key="s3cret").get("/v1/models")
    # A server that masks a key shows a part of it: nothing that it says about keys is passed on.
    assert str(refused.value).endswith("refused with status 401 (asked for /v1/models).")


def test_no_more_requests_are_under_way_than_allowed(tiny_server):
    tiny_server.hold_s = 0.05
    done: list[int] = []
    bodies = [{"model": "tiny/llama", "prompt": [[n]], "max_tokens": 0} for n in range(3, 13)]
    endpoint = Endpoint(tiny_server.url, concurrency=3)
    tiny_server.complete = lambda ids, body: {"text": str(ids[0])}
    answers = endpoint.post_all("/v1/completions", bodies, done=done.append)
    assert [a["choices"][0]["text"] for a in answers] == [str(n) for n in range(3, 13)]
    assert tiny_server.most_running == 3
    assert done == list(range(1, 11))
