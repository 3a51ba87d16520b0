import pytest

from adapt_lora.errors import ConfigError
from adapt_lora.trainer import TrainRequest, find_recipe


@pytest.mark.parametrize("name", ["", "  "])
def test_a_training_without_a_name_is_refused_before_any_work(name):
    with pytest.raises(ConfigError, match="can't be an adapter's name: use letters"):
        TrainRequest("data.jsonl", name, find_recipe("quick"))


def test_a_recipe_s_name_is_no_recipe_and_the_way_to_one_is_told():
    with pytest.raises(ConfigError, match=r'find_recipe\("quick"\) gives one'):
        TrainRequest("data.jsonl", "moods", "quick")
