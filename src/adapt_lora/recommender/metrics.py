"""How good a ranking of one target's candidates was: what was true against what was predicted."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata, weightedtau

from adapt_lora.recommender.table import Array

_TIE_DRAWS = 64


def spearman(true: Array, predicted: Array) -> float:
    """Spearman's ρ with mean ranks for ties; 0 where either side does not rank at all."""
    a, b = rankdata(true), rankdata(predicted)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else 0.0


def weighted_kendall(true: Array, predicted: Array) -> float:
    """Scipy's `weightedtau` (hyperbolic weights, mean of both orders); 0 where undefined."""
    tau = float(weightedtau(true, predicted).statistic)
    return tau if np.isfinite(tau) else 0.0


def ndcg_at(k: int, true: Array, predicted: Array) -> float:
    """Gain (g − min g)/(max g − min g), discount 1/log2(rank + 1), first k, over the ideal order.

    1 where all candidates are equally good: no order can be wrong.
    """
    spread = float(true.max() - true.min())
    if spread == 0:
        return 1.0
    return _discounted((true - true.min()) / spread, predicted, k)


def ndcg_taskshop(true: Array, predicted: Array) -> float:
    """Gain 2^r − 1 with r = number of candidates that are worse, over the whole list.

    The form of TaskShop (Kim et al. 2023, arXiv:2305.13256).
    """
    worse = (true[:, None] > true[None, :]).sum(axis=1).astype(np.float64)
    if worse.max() == 0:
        return 1.0
    return _discounted(np.exp2(worse) - 1.0, predicted, len(true))


def regret_at(k: int, true_scores: Array, predicted: Array) -> float:
    """(best score − best score among the predicted top k) / best score; a fraction.

    Of scores rather than gains: a gain's zero point would make the ratio explode. 0 where the
    best score is not positive.
    """
    best = float(true_scores.max())
    return (best - _best_of_top(k, true_scores, predicted)) / best if best > 0 else 0.0


def regret_at_spread(k: int, true: Array, predicted: Array) -> float:
    """(max g − max over the predicted top k) / (max g − min g); 0 where all are equal."""
    best, spread = float(true.max()), float(true.max() - true.min())
    return (best - _best_of_top(k, true, predicted)) / spread if spread > 0 else 0.0


def top5_regret_taskshop(true_scores: Array, predicted: Array) -> float:
    """(mean of the true five best scores − mean over the predicted five) / the former."""
    best = float(np.sort(true_scores)[::-1][:5].mean())
    chosen = [float(true_scores[order[:5]].mean()) for order in _orders(predicted)]
    return (best - float(np.mean(chosen))) / best if best > 0 else 0.0


def sign_accuracy(true_gains: Array, predicted_gains: Array) -> float:
    """Share of candidates whose predicted gain has the true one's sign; 0 counts as no gain."""
    return float(np.mean((true_gains > 0) == (predicted_gains > 0)))


def coverage(true_gains: Array, low: Array, high: Array) -> float:
    """Share of true gains inside their interval, ends included."""
    return float(np.mean((true_gains >= low) & (true_gains <= high)))


def brier(harmed: Array, p_harm: Array) -> float:
    """Mean squared difference of P(harm) and what happened (1 = the adapter did harm)."""
    return float(np.mean((p_harm - harmed) ** 2))


def brier_skill(harmed: Array, p_harm: Array, climatology: float) -> float:
    """1 − Brier score / Brier score of always saying `climatology`; 0 where that is perfect."""
    reference = brier(harmed, np.full(harmed.shape, climatology))
    return 1.0 - brier(harmed, p_harm) / reference if reference > 0 else 0.0


def _best_of_top(k: int, true: Array, predicted: Array) -> float:
    return float(np.mean([true[order[:k]].max() for order in _orders(predicted)]))


def _discounted(relevance: Array, predicted: Array, k: int) -> float:
    discount = 1.0 / np.log2(np.arange(2, len(relevance) + 2))
    discount[k:] = 0.0
    ideal = float(np.sort(relevance)[::-1] @ discount)
    found = [float(relevance[order] @ discount) for order in _orders(predicted)]
    return float(np.mean(found)) / ideal


def _orders(predicted: Array) -> Sequence[np.ndarray[tuple[int], np.dtype[np.intp]]]:
    """Best first. Ties are broken at random, 64 times: who ties everything earns chance level."""
    if len(np.unique(predicted)) == len(predicted):
        return [np.argsort(-predicted)]
    rng = np.random.default_rng(0)
    return [np.lexsort((rng.random(len(predicted)), -predicted)) for _ in range(_TIE_DRAWS)]
