import json

import numpy as np
import pytest

from adapt_lora.data import Row
from adapt_lora.errors import AdapterError, ServerError
from adapt_lora.evaluator import TransformersBackend, make_task
from adapt_lora.evaluator.backends.endpoint import Endpoint, Patience
from adapt_lora.evaluator.backends.openai import OpenAIBackend
from adapt_lora.registry.records import BASE_ID
from tests.evaluator.scripted import Shelf, measure

PROMPTS = ["the film was good", "the food was bad", "what is the capital of a city"] * 7
LABELS = ["positive", "negative", "no"]
ROWS = [Row(prompt, answer, None, 1) for prompt, answer in zip(PROMPTS, LABELS * 7, strict=True)]


@pytest.fixture
def connect(tiny_server, tiny_base):
    made = []

    def connect(**options):
        endpoint = Endpoint(tiny_server.url, patience=Patience(n_tries=3), sleep=lambda _: None)
        made.append(OpenAIBackend(tiny_base, endpoint, **options))
        return made[-1]

    yield connect
    for backend in made:
        backend.close()


@pytest.mark.parametrize("road", ["asked", "echo"])
def test_scores_are_those_of_transformers(connect, tiny_server, tiny_base, tiny_adapter, road):
    tiny_server.offers = {road} if road == "echo" else {"asked", "echo"}
    server, local = connect(), TransformersBackend(tiny_base)
    assert server.family == f"openai:{road}"
    for folder in (None, tiny_adapter()):
        with server.adapted(folder):
            labels = server.score_labels(PROMPTS, LABELS)
            nll = server.answer_nll(ROWS)
            written = server.generate(PROMPTS[:3], max_new_tokens=4)
        with local.adapted(folder):
            expected = local.score_labels(PROMPTS, LABELS)
            np.testing.assert_allclose(labels.log_likelihood, expected.log_likelihood, rtol=1e-4)
            assert labels.n_tokens.tolist() == expected.n_tokens.tolist()
            assert labels.greedy.tolist() == expected.greedy.tolist()
            for got, wanted in zip(nll, local.answer_nll(ROWS), strict=True):
                np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
            assert list(written) == local.generate(PROMPTS[:3], max_new_tokens=4)


def test_a_matrix_is_measured_through_trouble(connect, tiny_server, make_dataset, tiny_adapter):
    backend = connect()
    tiny_server.faults.extend([429, "cut", 503, "drop"])
    adapters = [("a", tiny_adapter("a")), ("b", tiny_adapter("b", seed=1))]
    report = measure(backend, adapters, [make_task(make_dataset())], Shelf())
    assert report.failures == ()
    assert {cell.row.id for cell in report.cells} >= {BASE_ID, "a", "b"}


def test_adapters_are_loaded_by_their_content_and_unloaded_at_the_end(
    connect, tiny_server, tiny_adapter
):
    backend, folder = connect(), tiny_adapter("My Reviews")
    for _ in range(2):
        with backend.adapted(folder):
            pass
    loaded = [body for path, body in tiny_server.requests if path == "/v1/load_lora_adapter"]
    assert len(loaded) == 1
    assert loaded[0]["lora_name"].startswith("my-reviews-")
    assert loaded[0]["lora_path"] == str(folder)
    backend.close()
    assert list(tiny_server.models) == ["tiny/llama"]


def test_an_adapter_that_the_server_has_is_used_by_its_name(connect, tiny_server, tiny_adapter):
    folder = tiny_adapter()
    tiny_server.models["reviews"] = folder
    backend = connect(names={folder: "reviews"})
    with backend.adapted(folder):
        backend.score_labels(PROMPTS[:1], LABELS)
    assert tiny_server.requests[-1][1]["model"] == "reviews"
    backend.close()
    assert "reviews" in tiny_server.models


def test_an_adapter_whose_name_the_server_lacks_is_loaded(connect, tiny_server, tiny_adapter):
    folder = tiny_adapter()
    backend = connect(names={folder: "reviews"})
    with backend.adapted(folder):
        assert tiny_server.requests[-1][1]["lora_name"].startswith("adapter-")


def test_a_server_that_loads_no_adapters_says_how_to_start_it(connect, tiny_server, tiny_adapter):
    backend = connect()
    tiny_server.faults.append(403)
    with (
        pytest.raises(AdapterError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
        backend.adapted(tiny_adapter()),
    ):
        pass


def test_what_a_server_would_run_otherwise_goes_to_transformers_and_is_said(
    connect, tiny_server, tiny_base, tiny_adapter
):
    folder, said = tiny_adapter(), []
    config = json.loads((folder / "adapter_config.json").read_text())
    # vLLM gives all modules one scale.
    changed = config | {"alpha_pattern": {"v_proj": 9}}
    (folder / "adapter_config.json").write_text(json.dumps(changed))
    backend, local = connect(warn=said.append), TransformersBackend(tiny_base)
    n_before = len(tiny_server.requests)
    with backend.adapted(folder):
        labels = backend.score_labels(PROMPTS, LABELS)
        nll, written = backend.answer_nll(ROWS[:2]), backend.generate(PROMPTS[:1], max_new_tokens=2)
    with local.adapted(folder):
        expected = local.score_labels(PROMPTS, LABELS)
        np.testing.assert_array_equal(labels.log_likelihood, expected.log_likelihood)
        assert len(nll) == 2
        assert list(written) == list(local.generate(PROMPTS[:1], max_new_tokens=2))
    assert len(tiny_server.requests) == n_before
    assert len(said) == 1
    assert "alpha_pattern" in said[0]
    assert "by transformers on this machine" in said[0]
    assert backend.warnings == said


def test_of_several_models_one_must_be_named(connect, tiny_server):
    tiny_server.models = {"one": None, "two": None}
    with pytest.raises(ServerError, match=r"several models.*one, two.*--server-model"):
        connect()
    assert connect(model="two").model == "two"
    with pytest.raises(ServerError, match="does not serve 'three'"):
        connect(model="three")


def test_a_server_without_log_probabilities_is_refused_at_the_start(connect, tiny_server):
    tiny_server.offers = set()
    with pytest.raises(ServerError, match="gives no log-probabilities"):
        connect()


def test_completions_that_do_not_match_the_prompts_are_refused(connect, tiny_server):
    backend = connect()
    answer = tiny_server.answer
    tiny_server.answer = lambda path, body: (200, {"choices": answer(path, body)[1]["choices"][:1]})
    with pytest.raises(ServerError, match="1 completions to 3 prompts"):
        backend.generate(PROMPTS[:3], max_new_tokens=1)
