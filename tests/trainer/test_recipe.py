from dataclasses import replace
from pathlib import Path

import pytest

from adapt_lora.errors import ConfigError
from adapt_lora.trainer import (
    RECIPES,
    Recipe,
    find_recipe,
    override_recipe,
    read_recipe,
    recipe_from_params,
)
from adapt_lora.trainer.recipe import OURS, SOURCES


def test_quick_is_rank_8_on_the_seven_projections_with_a_bounded_cost():
    quick = find_recipe("quick")
    assert (quick.r, quick.lora_alpha, quick.learning_rate, quick.epochs) == (8, 16, 5e-4, 1)
    assert len(quick.target_modules) == 7
    assert quick.max_rows == 320
    assert quick.max_tokens is not None


def test_latent_traits_is_what_the_paper_says():
    recipe = find_recipe("latent-traits")
    assert (recipe.r, recipe.lora_alpha, recipe.max_rows) == (64, 32, 10_000)
    assert len(recipe.target_modules) == 7
    assert recipe.lr_schedule == "cosine"
    assert recipe.gradient_checkpointing
    assert recipe.sources["r"] == "Krishna et al. 2025, §4 and A.2"
    assert recipe.sources["learning_rate"] == OURS


def test_massive_sft_is_what_the_paper_says():
    recipe = find_recipe("massive-sft")
    assert (recipe.learning_rate, recipe.batch_size, recipe.weight_decay) == (2e-6, 128, 0.0)
    assert (recipe.epochs, recipe.keep_epochs, recipe.max_rows) == (10, True, 1_000)
    assert (recipe.lr_schedule, recipe.template) == ("cosine", "question-answer")
    assert recipe.sources["r"] == OURS


def test_dora_has_no_meaning_where_every_weight_is_trained():
    with pytest.raises(ConfigError, match="method is 'full', but must be 'lora' for use_dora"):
        find_recipe("massive-sft-full", {"use_dora": "true"})


def test_a_setting_that_the_user_changed_no_longer_cites_the_paper():
    sources = find_recipe("latent-traits", {"r": 32}).sources
    assert sources["r"] == "set by the user"
    assert sources["lora_alpha"].startswith("Krishna")


def test_sources_name_only_settings_that_exist():
    for name, said in SOURCES.items():
        assert said.keys() <= RECIPES[name].sources.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_whole_from_its_params(name):
    recipe = find_recipe(name, {"use_rslora": "true", "target_modules": "q_proj,v_proj"})
    assert recipe_from_params({**recipe.params, "lora/r": "8"}) == recipe


def test_params_of_an_older_version_take_the_defaults_of_newer_settings():
    params = find_recipe("quick", {"max_rows": "none"}).params
    older = {key: value for key, value in params.items() if key != "recipe/use_dora"}
    assert recipe_from_params(older) == find_recipe("quick", {"max_rows": "none"})


def test_params_without_a_recipe_say_that_nothing_was_trained_here():
    with pytest.raises(ConfigError, match="registered, not trained here"):
        recipe_from_params({"lora/r": "8"})


def test_a_toml_file_starts_from_a_recipe_and_overrides_its_fields(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'recipe = "massive-sft"\nepochs = 3\nuse_rslora = true\ntarget_modules = ["q_proj"]\n'
    )
    wanted = {"epochs": 3, "use_rslora": True, "target_modules": ("q_proj",)}
    assert read_recipe(path, "quick") == replace(RECIPES["massive-sft"], **wanted)
    path.write_text("seed = 4\n")
    assert read_recipe(path, "quick") == replace(RECIPES["quick"], seed=4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs = ", "not readable as TOML"),
        ("epoch = 3", "no setting 'epoch'.*'epochs'"),
        ('recipe = "slow"', "no recipe 'slow'"),
        ('use_dora = "maybe"', "use_dora is 'maybe', but must be true or false"),
        ("use_dora = 1", "use_dora is 1, but must be true or false"),
    ],
)
def test_a_toml_file_that_cannot_be_used_is_named_in_the_error(tmp_path, text, words):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"mine.toml: .*{words}"):
        read_recipe(path, "quick")


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
        ("use_dora", "True", True),
        ("keep_epochs", "no", False),
        ("micro_batch_size", "4", 4),
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
        ("method", "qlora", "'lora' or 'full'"),
        ("batch_size", 0, "at least one row"),
        ("micro_batch_size", 0, "at least one row"),
        ("template", "alpaca", "'base' or 'plain' or 'question-answer'"),
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


@pytest.mark.parametrize("name", ["latent-traits", "massive-sft", "massive-sft-full"])
def test_the_page_about_training_has_every_setting_with_its_source(name):
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    section = page.partition(f"### {name}\n")[2].partition("\n##")[0]
    recipe = RECIPES[name]
    for key, source in recipe.sources.items():
        value = recipe.params.get(f"recipe/{key}")
        shown = "the seven projections" if key == "target_modules" else f"`{value}`"
        line = f"| `{key}` | {shown} | {source.removesuffix(': no paper says')} |"
        assert value is None or line in section
