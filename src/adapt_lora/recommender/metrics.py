"""How good a ranking of one target's candidates was: what was true against what was predicted."""

from collections.abc import Mapping

import numpy as np
from scipy.special import comb
from scipy.stats import rankdata, weightedtau

from adapt_lora.recommender.columns import Array
from adapt_lora.recommender.table import TransferTable

MIN_CANDIDATES = 3
"""A target with fewer measured candidates has no ranking to judge."""

_TIE_DRAWS = 64
_LANGRANK_GRADES = 10


def judge_scores(table: TransferTable, scores: Array) -> dict[str, float]:
    """Every ranking metric of out-of-fold scores, mean over the targets that can be judged."""
    found: dict[str, list[float]] = {}
    for t in range(len(table.targets)):
        true = table.transfer_scores[:, t]
        kept = np.isfinite(true) & np.isfinite(scores[:, t])
        if kept.sum() < MIN_CANDIDATES:
            continue
        judged = ranking_metrics(true[kept], scores[kept, t], points=table.unit == "points")
        for metric, value in judged.items():
            found.setdefault(metric, []).append(value)
    return {metric: float(np.mean(values)) for metric, values in found.items()}


def judged_targets(table: TransferTable) -> tuple[int, ...]:
    """Columns with enough measured candidates to judge a ranking by."""
    enough = np.isfinite(table.transfer_scores).sum(axis=0) >= MIN_CANDIDATES
    return tuple(int(t) for t in np.flatnonzero(enough))


def ranking_metrics(true: Array, predicted: Array, *, points: bool) -> dict[str, float]:
    """Every metric of one target's ranking; those of scores themselves for points alone."""
    found = {
        "spearman_rho": spearman(true, predicted),
        "weighted_kendall_tau": weighted_kendall(true, predicted),
        "ndcg_at_3": ndcg_at(3, true, predicted),
        "ndcg_at_3_langrank": ndcg_at_langrank(3, true, predicted),
        "ndcg_taskshop": ndcg_taskshop(true, predicted),
        "regret_at_1_spread": regret_at_spread(1, true, predicted),
        "regret_at_3_spread": regret_at_spread(3, true, predicted),
    }
    if points:
        found |= {
            "regret_at_1": regret_at(1, true, predicted),
            "regret_at_3": regret_at(3, true, predicted),
            "top5_regret_taskshop": top5_regret_taskshop(true, predicted),
        }
    return found


def means_over_targets(found: Mapping[str, Array], weights: Array) -> dict[str, Array]:
    """Mean of each metric in every draw, (n_draws,); NaN where a draw has no judged target.

    Of what would explode as a ratio per target (`verified_share`, `brier_skill`), the ratio of the
    means. Metrics whose name begins with "_" serve these alone.

    Args:
        found: Metric → (n_targets,), NaN where a target could not be judged.
        weights: (n_draws, n_targets), how often each target counts.
    """
    sums = {name: weights @ np.where(np.isfinite(x), x, 0.0) for name, x in found.items()}
    with np.errstate(invalid="ignore", divide="ignore"):
        means = {
            name: total / (weights @ np.isfinite(found[name]))
            for name, total in sums.items()
            if not name.startswith("_")
        }
        if "_best_gain" in sums:
            means["verified_share"] = sums["_verified_gain"] / sums["_best_gain"]
        if "_brier_climate" in sums:
            means["brier_skill"] = 1.0 - sums["brier"] / sums["_brier_climate"]
    return means


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


def ndcg_at_langrank(k: int, true: Array, predicted: Array) -> float:
    """Gain 2^γ − 1, γ = 10 for the best candidate down to 1 for the tenth, else 0; first k.

    The form of LangRank (Lin et al. 2019, arXiv:1905.12688). Candidates that are equally good
    share the better grade.
    """
    grade = np.maximum(_LANGRANK_GRADES + 1 - rankdata(-true, method="min"), 0.0)
    return _discounted(np.exp2(grade) - 1.0, predicted, k)


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
    chosen = float(_by_place(true_scores, predicted)[:5].mean())
    return (best - chosen) / best if best > 0 else 0.0


def sign_accuracy(true_gains: Array, predicted_gains: Array) -> float:
    """Share of candidates whose predicted gain has the true one's sign; 0 counts as no gain."""
    return float(np.mean((true_gains > 0) == (predicted_gains > 0)))


def coverage(true_gains: Array, low: Array, high: Array) -> float:
    """Share of true gains inside their interval, ends included."""
    return float(np.mean((true_gains >= low) & (true_gains <= high)))


def brier(harmed: Array, p_harm: Array) -> float:
    """Mean squared difference of P(harm) and what happened (1 = the adapter did harm)."""
    return float(np.mean((p_harm - harmed) ** 2))


def leading(k: int, predicted: Array) -> list[list[int]]:
    """The k that are predicted best; where ties leave a choice, 64 draws of it."""
    tie = _ties(predicted)
    last = np.sort(tie)[: k + 1]
    if len(last) <= k or last[k - 1] < last[k]:
        return [np.argsort(tie, kind="stable")[:k].tolist()]
    rng = np.random.default_rng(0)
    return [np.lexsort((rng.random(len(tie)), tie))[:k].tolist() for _ in range(_TIE_DRAWS)]


# Ties of a prediction may be broken in any order: each figure is its mean over all of these orders,
# so that who ties everything earns exactly what chance does.


def _ties(predicted: Array) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Number of each candidate's tie, 0 for those predicted best."""
    return np.unique(-predicted, return_inverse=True)[1]


def _by_place(values: Array, predicted: Array) -> Array:
    """Expected value at each place, best predicted first: the mean over those that tie for it."""
    tie = _ties(predicted)
    mean = np.bincount(tie, weights=values) / np.bincount(tie)
    placed: Array = mean[np.sort(tie)]
    return placed


def _best_of_top(k: int, true: Array, predicted: Array) -> float:
    """Expected best of the first k."""
    tie = _ties(predicted)
    k = min(k, len(tie))
    last = np.sort(tie)[k - 1]
    sure, tied = true[tie < last], np.sort(true[tie == last])
    # m of the n that tie for the last places come in: the i-th smallest of them is the best in
    # C(i − 1, m − 1) of C(n, m) cases.
    m = k - len(sure)
    chance = comb(np.arange(len(tied)), m - 1) / comb(len(tied), m)
    return float(chance @ np.maximum(tied, sure.max(initial=-np.inf)))


def _discounted(relevance: Array, predicted: Array, k: int) -> float:
    discount = 1.0 / np.log2(np.arange(2, len(relevance) + 2))
    discount[k:] = 0.0
    ideal = float(np.sort(relevance)[::-1] @ discount)
    return float(_by_place(relevance, predicted) @ discount) / ideal
