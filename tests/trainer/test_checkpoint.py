import torch

from adapt_lora.trainer.checkpoint import Checkpoint, read_checkpoint, write_checkpoint


def test_a_broken_checkpoint_means_an_earlier_one(tmp_path):
    weights = {"weights/a": torch.ones(2)}
    write_checkpoint(tmp_path, Checkpoint("key", 4, weights, {"before": 1.0}))
    broken = tmp_path / "step-00000009"
    broken.mkdir()
    (broken / "state.json").write_text("{")
    found = read_checkpoint(tmp_path, "key")
    assert found is not None
    assert (found.step, found.figures) == (4, {"before": 1.0})
    assert torch.equal(found.tensors["weights/a"], weights["weights/a"])
    assert read_checkpoint(tmp_path, "another") is None
