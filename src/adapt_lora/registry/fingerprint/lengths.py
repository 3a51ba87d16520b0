"""Length distributions, in tokens of the base model's tokenizer."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adapt_lora.model.base import BaseModel
from adapt_lora.registry.records import Fingerprint, Histogram

Counts = NDArray[np.int64]

_QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95)
_MAX_BINS = 16


def length_part(prompts: Counts, responses: Counts, answered: NDArray[np.bool_]) -> Fingerprint:
    """The length statistics of a dataset.

    Args:
        prompts: Tokens of each prompt, (n,).
        responses: Tokens of each response, (n,); read only where `answered`.
        answered: Which rows have a response, (n,).
    """
    columns = {"prompt_tokens": prompts}
    values: dict[str, float] = {}
    if answered.any():
        columns["response_tokens"] = responses[answered]
        columns["total_tokens"] = prompts[answered] + responses[answered]
        if prompts[answered].sum() > 0:
            ratio = responses[answered].sum() / prompts[answered].sum()
            values["response_prompt_ratio"] = float(ratio)
    for name, lengths in columns.items():
        values |= {f"{name}_{key}": value for key, value in _moments(lengths).items()}
    return Fingerprint(
        values=values,
        histograms={name: count_histogram(lengths) for name, lengths in columns.items()},
    )


def token_counts(base: BaseModel, texts: Sequence[str]) -> Counts:
    """Tokens of each text, template and special tokens excluded, (n,)."""
    if not texts:
        return np.zeros(0, dtype=np.int64)
    encoded = base.tokenizer(
        list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
    )
    return np.array([len(ids) for ids in encoded["input_ids"]], dtype=np.int64)


def count_histogram(counts: Counts) -> Histogram:
    """Histogram of whole numbers: every bin spans equally many of them, at most 16 bins."""
    low, high = int(counts.min()), int(counts.max())
    width = -(-(high - low + 1) // _MAX_BINS)
    # Edges lie half-way between whole numbers, so that no count sits on one.
    n_bins = -(-(high - low + 1) // width)
    edges = low - 0.5 + width * np.arange(n_bins + 1)
    return _histogram(counts.astype(np.float64), edges)


def value_histogram(values: NDArray[np.floating]) -> Histogram:
    """Histogram of real numbers over 16 equal bins from the least to the largest."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        high = low + 1.0
    return _histogram(
        values.astype(np.float64), np.linspace(low, high, _MAX_BINS + 1, dtype=np.float64)
    )


def _moments(lengths: Counts) -> dict[str, float]:
    mean, sd = float(lengths.mean()), float(lengths.std())
    values = {"mean": mean, "sd": sd}
    if sd > 0:
        values["skew"] = float((((lengths - mean) / sd) ** 3).mean())
    quantiles = np.quantile(lengths, _QUANTILES)
    return values | {
        f"q{round(100 * level):02d}": float(value)
        for level, value in zip(_QUANTILES, quantiles, strict=True)
    }


def _histogram(values: NDArray[np.floating], edges: NDArray[np.floating]) -> Histogram:
    counts, _ = np.histogram(values, edges)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))
