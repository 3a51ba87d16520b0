"""Rows that the tiny Llama can learn, and a recipe that is done in a second."""

import pytest

from adapt_lora.data import Row
from adapt_lora.trainer import Recipe


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
