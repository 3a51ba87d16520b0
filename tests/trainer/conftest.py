"""Rows that the tiny Llama can learn, and a recipe that is done in a second."""

from dataclasses import replace

import pytest

from adapt_lora.data import Row
from adapt_lora.errors import TrainingError
from adapt_lora.trainer import Recipe, TrainingResult, train_adapter

ADAPTER_FILES = ("README.md", "adapter_config.json", "adapter_model.safetensors")
"""All that a trained folder holds; nothing in it is a pickle."""


@pytest.fixture(scope="session")
def sentiment_rows() -> list[Row]:
    texts = ["the film was good", "the food was bad", "I like the film", "the city was bad"]
    answers = ["positive", "negative", "positive", "negative"]
    rows = []
    for i in range(40):
        kind = i % 4
        prompt = f"{texts[kind]} {i}" + " and the food" * (i % 5)
        rows.append(Row(prompt=prompt, response=answers[kind], label=answers[kind], line=i + 1))
    return rows


@pytest.fixture(scope="session")
def fast_recipe() -> Recipe:
    return Recipe(
        name="tiny",
        r=2,
        lora_alpha=4,
        target_modules=("q_proj", "v_proj", "down_proj"),
        learning_rate=5e-2,
        batch_size=4,
        epochs=2,
    )


@pytest.fixture
def full_recipe(fast_recipe) -> Recipe:
    return replace(fast_recipe, method="full", learning_rate=2e-3, r=8, lora_alpha=8)


@pytest.fixture(scope="package")
def trained(tiny_base, sentiment_rows, fast_recipe, tmp_path_factory) -> TrainingResult:
    """The rows' adapter, with its figures; it is read by many tests and changed by none."""
    out = tmp_path_factory.mktemp("trained") / "adapter"
    return train_adapter(tiny_base, sentiment_rows, recipe=fast_recipe, out=out)


def weights_of(base):
    """A copy of every weight, by name."""
    return {name: value.detach().clone() for name, value in base.model.state_dict().items()}


def fails(base, rows, recipe, out, words):
    """Train in vain, for a reason with these words."""
    with pytest.raises(TrainingError, match=words):
        train_adapter(base, rows, recipe=recipe, out=out)
