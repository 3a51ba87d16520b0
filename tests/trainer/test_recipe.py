from dataclasses import replace

import pytest

from adapt_lora.errors import ConfigError
from adapt_lora.trainer import RECIPES, Recipe, find_recipe, override_recipe


def test_quick_is_rank_8_on_the_seven_projections_with_a_bounded_cost():
    quick = find_recipe("quick")
    assert (quick.r, quick.lora_alpha, quick.learning_rate, quick.epochs) == (8, 16, 5e-4, 1)
    assert len(quick.target_modules) == 7
    assert quick.max_rows == 320
    assert quick.max_tokens is not None


def test_every_recipe_is_listed_under_its_own_name():
    assert all(recipe.name == name for name, recipe in RECIPES.items())


def test_an_unknown_recipe_is_an_error_that_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"no recipe 'quik'.*'quick'"):
        find_recipe("quik")


def test_a_misspelt_setting_is_an_error_that_guesses_the_right_one():
    with pytest.raises(ConfigError, match=r"no setting 'learning_rat'.*'learning_rate'"):
        find_recipe("quick", {"learning_rat": 1e-4})


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("r", "16", 16),
        ("target_modules", "q_proj, v_proj", ("q_proj", "v_proj")),
        ("max_rows", "none", None),
        ("lr_schedule", "constant", "constant"),
    ],
)
def test_overrides_given_as_text_are_read_as_the_fields_type(key, text, value):
    assert getattr(find_recipe("quick", {key: text}), key) == value


def test_an_override_leaves_the_other_fields_alone():
    quick = RECIPES["quick"]
    assert override_recipe(quick, {"seed": 3}) == replace(quick, seed=3)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("r", 0, "rank of at least 1"),
        ("r", 2.5, "a whole number"),
        ("epochs", True, "a whole number"),
        ("r", "eight", "a whole number"),
        ("learning_rate", 0.0, r"\(0, 1\)"),
        ("learning_rate", float("nan"), r"\(0, 1\)"),
        ("learning_rate", "fast", "a number"),
        ("lora_dropout", 1.0, r"\[0, 1\)"),
        ("warmup_ratio", -0.1, r"\[0, 1\)"),
        ("lr_schedule", "linear", "'cosine' or 'constant'"),
        ("dtype", "float16", "'auto' or 'float32' or 'bfloat16'"),
        ("target_modules", (), "at least one layer name"),
        ("batch_size", 0, "at least one row"),
        ("max_rows", 0, "at least one row"),
        ("max_tokens", -1, "at least one token"),
        ("seed", -1, "0 or more"),
    ],
)
def test_a_value_that_cannot_be_used_is_an_error_that_says_what_can(field, value, words):
    with pytest.raises(ConfigError, match=f"{field} is .*{words}"):
        override_recipe(RECIPES["quick"], {field: value})


def test_params_are_flat_strings_without_unset_fields():
    params = Recipe(name="mine", target_modules=("q_proj", "v_proj")).params
    assert params["recipe/name"] == "mine"
    assert params["recipe/target_modules"] == "q_proj,v_proj"
    assert "recipe/max_rows" not in params
    assert all(isinstance(value, str) for value in params.values())
