import json
from dataclasses import asdict, replace
from hashlib import sha256

import pytest

from adapt_lora.evaluator import Protocol

PROTOCOL = Protocol(
    metric="balanced_accuracy",
    rows="ab12",
    labels=("yes", "no"),
    template="chat:0",
    scoring="1",
    decision="sum",
    max_new_tokens=None,
    backend="transformers",
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("metric", "accuracy"),
        ("rows", "ab13"),
        ("labels", ("no", "yes")),  # the order breaks ties
        ("template", "plain:0"),
        ("scoring", "2"),
        ("decision", "per_token"),
        ("max_new_tokens", 32),
        ("backend", "vllm"),
        ("grader", "judge:m:rubric1"),
    ],
)
def test_every_field_changes_the_digest(field, value):
    assert replace(PROTOCOL, **{field: value}).digest != PROTOCOL.digest


def test_equal_protocols_have_equal_digests_on_every_machine():
    assert replace(PROTOCOL).digest == PROTOCOL.digest
    # Stored cells are found by this digest: if it changes, all of them are measured again.
    assert PROTOCOL.digest.startswith("3dd664f789c9")


def test_protocols_without_examples_have_the_digest_they_always_had():
    fields = {k: v for k, v in asdict(PROTOCOL).items() if not k.startswith(("grader", "shots"))}
    text = json.dumps(fields, sort_keys=True, ensure_ascii=True)
    assert PROTOCOL.digest == sha256(text.encode()).hexdigest()
