"""How surprising a dataset is to the base model, with the sampling error of the figure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adapt_lora.registry.fingerprint.lengths import value_histogram
from adapt_lora.registry.records import Fingerprint

MAX_MEAN_NLL = 30.0
"""Nats per token; exp(30) = 1e13 is beyond any vocabulary, and keeps broken models finite."""

_QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95)

FloatArray = NDArray[np.floating]
Side = Literal["prompt", "response"]


@dataclass(frozen=True, slots=True)
class MeanNll:
    """Nats per token over rows, and how far another sample of rows might lie off."""

    mean: float
    """Total nats / total tokens."""
    se: float | None
    """Standard error, tokens clustered by row; None with fewer than two rows."""

    @property
    def perplexity(self) -> float:
        """exp(mean), finite."""
        return math.exp(min(self.mean, MAX_MEAN_NLL))

    @property
    def perplexity_se(self) -> float | None:
        """Standard error of the perplexity by the delta method: d exp(x) = exp(x) dx."""
        return None if self.se is None else self.perplexity * self.se


def perplexity_part(
    side: Side, token_nll: Sequence[FloatArray], n_bytes: Sequence[int]
) -> Fingerprint:
    """Perplexity of one side of the rows.

    Args:
        side: Which side the tokens are of; the prefix of all keys.
        token_nll: Per row, nats of each of its tokens.
        n_bytes: Per row, UTF-8 bytes of the text those tokens spell.
    """
    rows = _countable(token_nll)
    if not rows:
        return Fingerprint()
    nll = mean_nll(rows)
    values = {f"{side}_nll_mean": nll.mean, **_perplexities(side, nll)}
    total_bytes = sum(
        size for tokens, size in zip(token_nll, n_bytes, strict=True) if _is_countable(tokens)
    )
    if total_bytes > 0:
        total_nats = sum(float(row.sum(dtype=np.float64)) for row in rows)
        values[f"{side}_bits_per_byte"] = total_nats / math.log(2) / total_bytes
    if side == "prompt":
        return Fingerprint(values=values)
    pooled = np.concatenate(rows)
    for level, value in zip(_QUANTILES, np.quantile(pooled, _QUANTILES), strict=True):
        values[f"response_nll_q{round(100 * level):02d}"] = float(value)
    return Fingerprint(values=values, histograms={"response_nll": value_histogram(pooled)})


def total_perplexity_part(
    prompt_nll: Sequence[FloatArray], response_nll: Sequence[FloatArray]
) -> Fingerprint:
    """Perplexity of prompt and response together, over rows that have both."""
    both = [
        np.concatenate([prompt, response])
        for prompt, response in zip(prompt_nll, response_nll, strict=True)
        if _is_countable(prompt) and _is_countable(response)
    ]
    return Fingerprint(values=_perplexities("total", mean_nll(both)) if both else {})


def mean_nll(rows: Sequence[FloatArray]) -> MeanNll:
    """Nats per token and its standard error.

    Rows differ in length, so the mean is a ratio R = Σy/Σx of nats y to tokens x, and its variance
    the ratio estimator's, n/(n − 1) · Σ(y − R·x)² / (Σx)² (Cochran 1977, Sampling Techniques, §6).
    """
    nats = np.array([row.sum(dtype=np.float64) for row in rows])
    tokens = np.array([len(row) for row in rows], dtype=np.float64)
    mean = float(nats.sum() / tokens.sum())
    n = len(rows)
    if n < 2:
        return MeanNll(mean, None)
    residual = float(((nats - mean * tokens) ** 2).sum())
    return MeanNll(mean, math.sqrt(n / (n - 1) * residual) / float(tokens.sum()))


def _perplexities(side: str, nll: MeanNll) -> dict[str, float]:
    values = {f"{side}_ppl": nll.perplexity}
    if nll.perplexity_se is not None:
        values[f"{side}_ppl_se"] = nll.perplexity_se
    return values


def _countable(token_nll: Sequence[FloatArray]) -> list[FloatArray]:
    return [tokens for tokens in token_nll if _is_countable(tokens)]


def _is_countable(tokens: FloatArray) -> bool:
    return len(tokens) > 0 and bool(np.isfinite(tokens).all())
