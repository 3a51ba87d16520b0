"""An adapter beside its base on the same rows: how sure the gain is, how small one would show.

Both answered the same rows, so what is tested is the difference row by row: most of the spread
between rows is common to both and drops out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from adapt_lora.errors import TaskError
from adapt_lora.evaluator.metrics import N_BOOTSTRAP, FloatArray, IntArray

if TYPE_CHECKING:
    from adapt_lora.registry.records import Prediction

SIGNIFICANCE, POWER = 0.05, 0.8
"""Two-sided level and power that the minimum detectable gain is stated for."""

_Z_LEVEL, _Z_POWER = 1.959964, 0.841621
"""Normal quantiles of 1 − SIGNIFICANCE / 2 and of POWER."""


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """A gain measured on rows that adapter and base both answered."""

    gain: float
    """Adapter minus base in the ruling metric, over the common rows."""
    se: float
    """Standard error of the gain over draws of rows, of the paired differences."""
    p_value: float
    """Two-sided, of no difference between the two: exact McNemar or paired bootstrap."""
    minimum_detectable_gain: float | None
    """Smallest true gain that as many rows would show at 5 % two-sided with 80 % power; None where
    no gain is large enough, or the rows say nothing about the spread."""
    n: int
    """Common rows."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """As figures beside a cell's score; what is not known is absent."""
        figures = {
            "gain_vs_base": self.gain,
            "gain_vs_base_se": self.se,
            "p_value_vs_base": self.p_value,
            "n_rows_vs_base": float(self.n),
        }
        if self.minimum_detectable_gain is not None:
            figures["minimum_detectable_gain"] = self.minimum_detectable_gain
        return figures


def compare_with_base(
    adapter: Sequence["Prediction"],
    base: Sequence["Prediction"],
    *,
    metric: str,
    seed: int = 0,
) -> PairedComparison:
    """Test an adapter's gain over its base on the rows that both were scored on.

    Accuracy, exact and numeric match, pass@1 and verdicts of a judge are right or wrong: exact
    McNemar (1947, doi:10.1007/BF02295996) on the rows that one alone got right. All else by paired
    bootstrap: token F1 and ROUGE-L over rows, balanced accuracy over the rows of each label, so
    that every label keeps its number of rows, macro-F1 over triples of gold, adapter's and base's
    label, log-likelihood over rows with their tokens.

    Args:
        adapter: Predictions with the adapter on.
        base: Predictions of the bare base under the same protocol, in any order.
        metric: The metric that rules; one of METRIC_UNITS.
        seed: Decides the resamples.

    Raises:
        TaskError: No row was scored for both, or the predictions lack what the metric needs.
    """
    graded = metric != "answer_log_likelihood"
    pairs = [
        pair
        for pair in _pairs(adapter, base)
        if not graded or all(_grade(prediction) is not None for prediction in pair)
    ]
    if not pairs:
        raise TaskError(
            "Adapter and base have no scored row in common, so they can't be compared. Measure "
            "both under one protocol."
        )
    rng = np.random.default_rng(seed)
    if metric == "macro_f1":
        return _compare_macro_f1(pairs, rng)
    if metric == "balanced_accuracy":
        return _compare_recalls(pairs, rng)
    if metric == "answer_log_likelihood":
        return _compare_likelihoods(pairs, rng)
    differences = _differences(pairs)
    if metric in ("token_f1", "rouge_l"):
        return _compare_grades(differences, rng)
    return _compare_right(differences)


def mcnemar(n_better: int, n_worse: int) -> float:
    """Two-sided p of McNemar's exact test; 1 where the two never differ.

    Args:
        n_better: Rows that the adapter alone got right.
        n_worse: Rows that the base alone got right.
    """
    from scipy.stats import binomtest

    n = n_better + n_worse
    return float(binomtest(n_better, n, 0.5).pvalue) if n else 1.0


def minimum_detectable_share(discordance: float, n: int) -> float | None:
    """Smallest gain in a share of rows that McNemar's test would show on n rows; None if none is.

    With a share ψ of rows on which the two differ, a true gain δ is shown at the two-sided level α
    with the power 1 − β where √n·δ = z₁₋α⸝₂·√ψ + z₁₋β·√(ψ − δ²) (Connor 1987, doi:10.2307/2531961),
    which is solved for δ. A gain can't exceed the share of rows that differ: where ψ is too small
    for any gain to be shown, it is the gain that would be if all differing rows were gains (ψ = δ).

    Args:
        discordance: ψ, in (0, 1].
        n: Rows.
    """
    level, power = _Z_LEVEL, _Z_POWER
    if n <= level**2:  # even if every row were a gain
        return None
    root = power * sqrt(n + power**2 - level**2)
    gain = sqrt(discordance) * (level * sqrt(n) + root) / (n + power**2)
    if gain <= discordance:
        return gain
    # ψ = δ: √(n·δ) = z₁₋α⸝₂ + z₁₋β·√(1 − δ), squared and halved until it stands still.
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        shown = sqrt(n * middle) >= level + power * sqrt(1 - middle)
        low, high = (low, middle) if shown else (middle, high)
    return high


def _pairs(
    adapter: Sequence["Prediction"], base: Sequence["Prediction"]
) -> list[tuple["Prediction", "Prediction"]]:
    """Predictions on the same row; rows that repeat are paired in their order."""
    waiting: dict[str, list[Prediction]] = {}
    for prediction in base:
        waiting.setdefault(prediction.row, []).append(prediction)
    pairs = []
    for prediction in adapter:
        there = waiting.get(prediction.row)
        if there:
            pairs.append((prediction, there.pop(0)))
    return pairs


def _grade(prediction: "Prediction") -> float | None:
    if prediction.grade is not None:
        return prediction.grade
    return None if prediction.right is None else float(prediction.right)


def _differences(pairs: Sequence[tuple["Prediction", "Prediction"]]) -> FloatArray:
    """Adapter minus base per row, (n_rows,)."""
    return np.array([(_grade(a) or 0.0) - (_grade(b) or 0.0) for a, b in pairs])


def _compare_right(differences: FloatArray) -> PairedComparison:
    n = len(differences)
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    discordance = _discordance(better + worse, n)
    return PairedComparison(
        gain=(better - worse) / n,
        se=sqrt(_gain_variance(better, worse, n)),
        p_value=mcnemar(better, worse),
        minimum_detectable_gain=minimum_detectable_share(discordance, n),
        n=n,
    )


def _discordance(n_differing: int, n: int) -> float:
    """Share of rows on which the two differ, with half a row of each kind added.

    Two that never differed on ten rows may still differ on the eleventh.
    """
    return (n_differing + 0.5) / (n + 1)


def _gain_variance(n_better: int, n_worse: int, n: int) -> float:
    """Variance of the mean difference over draws of n rows.

    As for `mean_grade`: the Bayesian bootstrap's, with one row added that is half a tie and a
    quarter each a row won and a row lost.
    """
    mean = (n_better - n_worse) / (n + 1)
    return (_discordance(n_better + n_worse, n) - mean**2) / (n + 2)


def _compare_grades(differences: FloatArray, rng: np.random.Generator) -> PairedComparison:
    n = len(differences)
    draws = differences[rng.integers(0, n, size=(N_BOOTSTRAP, n))].mean(axis=1)
    return _from_draws(float(differences.mean()), draws, n)


def _compare_likelihoods(
    pairs: Sequence[tuple["Prediction", "Prediction"]], rng: np.random.Generator
) -> PairedComparison:
    if any(a.n_tokens is None for a, _ in pairs):
        raise TaskError(
            "These predictions hold no number of response tokens, so log-likelihoods per token "
            "can't be compared. Measure the cells anew."
        )
    # The closing tokens of a row are the same for both, so the ratios share their denominator.
    differences = np.array([a.log_likelihood[0] - b.log_likelihood[0] for a, b in pairs])
    tokens = np.array([float(a.n_tokens or 0) for a, _ in pairs])
    n = len(pairs)
    chosen = rng.integers(0, n, size=(N_BOOTSTRAP, n))
    draws = differences[chosen].sum(axis=1) / np.maximum(tokens[chosen].sum(axis=1), 1)
    return _from_draws(float(differences.sum() / tokens.sum()), draws, n)


def _compare_recalls(
    pairs: Sequence[tuple["Prediction", "Prediction"]], rng: np.random.Generator
) -> PairedComparison:
    gold = _gold(pairs)
    differences = _differences(pairs)
    gains, variances, draws = [], [], np.zeros(N_BOOTSTRAP)
    labels = np.unique(gold)
    for label in labels:
        of_label = differences[gold == label]
        counts = np.array([(of_label == value).sum() for value in (-1, 0, 1)])
        n = len(of_label)
        drawn = rng.multinomial(n, counts / n, size=N_BOOTSTRAP)
        draws += (drawn[:, 2] - drawn[:, 0]) / n / len(labels)
        gains.append((counts[2] - counts[0]) / n)
        variances.append(_gain_variance(int(counts[2]), int(counts[0]), n))
    gain, se = float(np.mean(gains)), sqrt(sum(variances)) / len(labels)
    return PairedComparison(
        gain=gain,
        se=se,
        p_value=_p_value(gain, draws),
        minimum_detectable_gain=_detectable(se, most=1.0),
        n=len(pairs),
    )


def _compare_macro_f1(
    pairs: Sequence[tuple["Prediction", "Prediction"]], rng: np.random.Generator
) -> PairedComparison:
    gold = _gold(pairs)
    said = [np.array([pair[side].answer or "" for pair in pairs]) for side in (0, 1)]
    labels, codes = np.unique(np.concatenate([gold, *said]), return_inverse=True)
    triples, counts = np.unique(codes.reshape(3, -1).T, axis=0, return_counts=True)
    n = len(pairs)
    draws = np.vstack([counts, rng.multinomial(n, counts / n, size=N_BOOTSTRAP)])
    one_hot = np.eye(len(labels))
    f1 = [_macro_f1(draws, one_hot, triples[:, 0], triples[:, side]) for side in (1, 2)]
    gains = f1[0] - f1[1]  # (1 + n_bootstrap,), the measured one first
    return _from_draws(float(gains[0]), gains[1:], n)


def _macro_f1(counts: IntArray, one_hot: FloatArray, gold: IntArray, said: IntArray) -> FloatArray:
    """Macro-F1 per row of counts (n_draws, n_triples), over labels that are gold or said there."""
    occurrences = counts @ (one_hot[gold] + one_hot[said])  # (n_draws, n_labels)
    hits = counts @ (one_hot[gold] * (gold == said)[:, None])
    f1 = 2 * hits / np.maximum(occurrences, 1)
    return np.asarray(f1.sum(axis=1) / (occurrences > 0).sum(axis=1))


def _gold(pairs: Sequence[tuple["Prediction", "Prediction"]]) -> np.ndarray:
    labels = [a.gold for a, _ in pairs]
    if any(label is None for label in labels):
        raise TaskError(
            "These predictions hold no gold label, so a metric over labels can't be compared with "
            "the base. Measure the cells anew."
        )
    return np.array(labels)


def _from_draws(gain: float, draws: FloatArray, n: int) -> PairedComparison:
    se = float(draws.std(ddof=1))
    return PairedComparison(gain, se, _p_value(gain, draws), _detectable(se), n)


def _p_value(gain: float, draws: FloatArray) -> float:
    """How often a resample strays from the measured gain as far as that lies from none.

    The resampled gains, shifted to have no gain on average, stand for what chance alone would give
    (Efron & Tibshirani 1993, *An Introduction to the Bootstrap*, §16.4); the measured one counts as
    a draw of its own, so p is never 0.
    """
    # Sums of equal terms in another order differ in the last digit; that is not a smaller gain.
    as_far = (np.abs(draws - gain) >= abs(gain) - 1e-12).sum()
    return float((as_far + 1) / (len(draws) + 1))


def _detectable(se: float, *, most: float = float("inf")) -> float | None:
    """(z₁₋α⸝₂ + z₁₋β)·se: what a normal test shows with the stated power; None if nothing can be.

    Bloom 1995, doi:10.1177/0193841X9501900504.
    """
    gain = (_Z_LEVEL + _Z_POWER) * se
    return gain if 0 < gain <= most else None
