import importlib.util

import pytest

from adapt_lora.errors import ConfigError
from adapt_lora.evaluator import (
    EvaluationRequest,
    ServerOptions,
    TransformersBackend,
    open_backend,
)


def asked(**options):
    return EvaluationRequest(["moods.jsonl"], **options)


@pytest.mark.parametrize("name", ["auto", "transformers"])
def test_without_a_gpu_transformers_measures(tiny_base, name):
    with open_backend(asked(backend=name), tiny_base, {}) as backend:
        assert isinstance(backend, TransformersBackend)


def test_auto_says_what_it_took(tiny_base):
    said: list[str] = []
    with open_backend(asked(), tiny_base, {}, say=said.append):
        pass
    assert "Backend: transformers on cpu" in said[0]


def test_a_server_is_asked_and_said(tiny_base, tiny_server):
    said: list[str] = []
    request = asked(backend="openai", server=ServerOptions(tiny_server.url))
    with open_backend(request, tiny_base, {}, say=said.append) as backend:
        assert backend.family == "openai:asked"
    assert tiny_server.url in said[0]


def test_the_key_for_the_server_comes_from_the_environment(tiny_base, tiny_server, monkeypatch):
    tiny_server.api_key = "right"
    monkeypatch.setenv("ADAPT_SERVER_API_KEY", "right")
    request = asked(backend="openai", server=ServerOptions(tiny_server.url))
    with open_backend(request, tiny_base, {}):
        pass


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_that_is_not_there_is_one_sentence(tiny_base):
    with (
        pytest.raises(ConfigError, match=r"not installed.*adapt-lora\[vllm\]"),
        open_backend(asked(backend="vllm"), tiny_base, {}),
    ):
        pass
