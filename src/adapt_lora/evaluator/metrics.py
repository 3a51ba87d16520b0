"""Metrics and their standard errors: plain arrays in, an `Estimate` out; no model, no files."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LabelDecision = Literal["sum", "per_token", "prior_corrected", "unbiased", "choice"]
"""How a label is chosen; `label_scores` says what the first four mean. "choice" is what greedy
decoding writes when it may only write labels (`scoring.LabelScores.greedy`)."""

WHOLE_SET_DECISIONS: tuple[LabelDecision, ...] = ("prior_corrected", "unbiased")
"""Decisions in which the answer to a row depends on the other rows."""

N_BOOTSTRAP = 1000
"""Resamples behind a bootstrapped standard error; its own error is then about 2 %."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure measured on a sample of rows."""

    value: float
    """The figure."""
    se: float
    """Its standard error over draws of rows, same unit."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often each gold label was answered with each label."""

    counts: IntArray
    """Rows gold, columns predicted, both in the label set's order, (n_labels, n_labels)."""

    @property
    def n(self) -> int:
        """Rows counted."""
        return int(self.counts.sum())

    @property
    def gold(self) -> IntArray:
        """Rows of each gold label, (n_labels,)."""
        return np.asarray(self.counts.sum(axis=1))

    @property
    def predicted(self) -> IntArray:
        """Rows answered with each label, (n_labels,)."""
        return np.asarray(self.counts.sum(axis=0))


def count_confusion(gold: Sequence[int], predicted: Sequence[int], n_labels: int) -> Confusion:
    """Count pairs of gold and predicted label indices."""
    counts = np.zeros((n_labels, n_labels), dtype=np.int64)
    np.add.at(counts, (np.asarray(gold, dtype=np.int64), np.asarray(predicted, dtype=np.int64)), 1)
    return Confusion(counts)


def balanced_accuracy(confusion: Confusion) -> Estimate:
    """Mean recall over the labels that occur in gold, in [0, 1].

    The error is that of a stratified mean: (Σ var_c)½ / n_labels, with var_c the Jeffreys posterior
    variance of the recall of label c, so that a label seen three times and always right does not
    count as certain. A constant answer has recall 1 and 0 whatever rows are drawn: its error is 0.
    """
    gold = confusion.gold
    seen = gold > 0
    hits = np.diag(confusion.counts)[seen]
    value = float((hits / gold[seen]).mean())
    if (confusion.predicted > 0).sum() == 1:
        return Estimate(value, 0.0)
    variance = _jeffreys_variance(hits, gold[seen])
    return Estimate(value, float(np.sqrt(variance.sum()) / seen.sum()))


def accuracy(confusion: Confusion) -> Estimate:
    """Share of rows answered right, in [0, 1]; error from the Jeffreys posterior."""
    return share_right(int(np.diag(confusion.counts).sum()), confusion.n)


def macro_f1(confusion: Confusion, *, seed: int = 0) -> Estimate:
    """Mean F1 over the labels that occur in gold or among the answers, in [0, 1].

    scikit-learn's `f1_score(average="macro")`. The error is bootstrapped; resampling rows is the
    same as drawing the confusion counts from a multinomial, which needs no rows.
    """
    gold, predicted = np.nonzero(confusion.counts)
    counts = confusion.counts[gold, predicted]  # (n_cells,), those that occur
    draws = np.random.default_rng(seed).multinomial(
        confusion.n, counts / confusion.n, size=N_BOOTSTRAP
    )  # (n_bootstrap, n_cells)
    label = np.eye(len(confusion.counts))
    occurrences = label[gold] + label[predicted]  # (n_cells, n_labels)
    hits = label[gold] * (gold == predicted)[:, None]
    value = _mean_f1(counts[None] @ hits, counts[None] @ occurrences)[0]
    return Estimate(float(value), float(_mean_f1(draws @ hits, draws @ occurrences).std()))


def share_right(n_right: int, n: int) -> Estimate:
    """A share of n rows, in [0, 1], with the spread of its Jeffreys posterior as error."""
    variance = _jeffreys_variance(np.array([n_right]), np.array([n]))
    return Estimate(n_right / n, float(np.sqrt(variance[0])))


def mean_grade(grades: Sequence[float]) -> Estimate:
    """Mean of grades in [0, 1], one per row.

    The error is the exact spread of the Bayesian bootstrap of the mean (Rubin 1981,
    doi:10.1214/aos/1176345338), to which half a row of grade 0 and half a row of grade 1 are added,
    so that a few equal grades do not count as certain. For grades of 0 and 1 alone that is
    `share_right`.
    """
    values = np.asarray(grades, dtype=np.float64)
    weight = len(values) + 1.0
    mean = (values.sum() + 0.5) / weight
    variance = ((values**2).sum() + 0.5) / weight - mean**2
    return Estimate(float(values.mean()), float(np.sqrt(variance / (weight + 1))))


def answer_log_likelihood(nll_sums: Sequence[float], n_tokens: Sequence[int]) -> Estimate:
    """Mean log-likelihood of the answers, nats per token; higher is better, at most 0.

    Total over all tokens by the number of tokens, so that −log perplexity comes out. Tokens of a
    row hang together: the error is the ratio estimator's over rows (Cochran 1977, Sampling
    Techniques, §6.4). A single row has no spread to measure; its error is as large as the value.
    """
    nll = np.asarray(nll_sums, dtype=np.float64)
    tokens = np.asarray(n_tokens, dtype=np.float64)
    value = -nll.sum() / tokens.sum()
    if len(nll) < 2:
        return Estimate(float(value), float(abs(value)))
    residuals = -nll - value * tokens
    n = len(nll)
    se = np.sqrt((residuals**2).sum() * n / (n - 1)) / tokens.sum()
    return Estimate(float(value), float(se))


def label_cross_entropy(log_likelihood: FloatArray, gold: Sequence[int]) -> Estimate:
    """Mean −log of the gold label's share of the label set's probability, nats; lower is better.

    Args:
        log_likelihood: Of each label after each prompt, (n_rows, n_labels).
        gold: Index of the gold label of each row.

    It still tells adapters apart where every one of them answers at chance.
    """
    losses = -_log_softmax(log_likelihood)[np.arange(len(gold)), np.asarray(gold, dtype=np.int64)]
    return Estimate(float(losses.mean()), _mean_error(losses))


def gold_label_probability(log_likelihood: FloatArray, gold: Sequence[int]) -> Estimate:
    """Mean share of the label set's probability that the gold label has, in [0, 1].

    Unlike the cross-entropy it is bounded, so a few confident errors don't rule it. Arguments as
    for `label_cross_entropy`.
    """
    shares = np.exp(_log_softmax(log_likelihood))
    of_gold = shares[np.arange(len(gold)), np.asarray(gold, dtype=np.int64)]
    return Estimate(float(of_gold.mean()), _mean_error(of_gold))


def label_scores(
    log_likelihood: FloatArray, n_tokens: Sequence[int], decision: LabelDecision
) -> FloatArray:
    """What each label is chosen by: the largest in a row wins, (n_rows, n_labels).

    "sum" is the log-likelihood of all the label's tokens and the end of turn; "per_token" divides
    it by their number; "prior_corrected" takes off the log of the label's mean probability over
    these rows, so that a label liked whatever the prompt gains nothing (batch calibration: Zhou et
    al. 2023, arXiv:2309.17249); "unbiased" takes off the label's mean log-likelihood instead, which
    is the same in logs and needs no gold label either. Both weaken on fewer than some 30 rows, and
    where the true labels are very uneven.
    """
    values = np.asarray(log_likelihood, dtype=np.float64)
    if decision == "per_token":
        return np.asarray(values / np.asarray(n_tokens, dtype=np.float64))
    if decision == "prior_corrected":
        shares = _log_softmax(values)
        prior = np.logaddexp.reduce(shares, axis=0) - np.log(len(shares))  # (n_labels,)
        return np.asarray(shares - prior)
    if decision == "unbiased":
        return np.asarray(values - values.mean(axis=0))
    return values


def label_metrics(confusion: Confusion) -> Mapping[str, Estimate]:
    """The metrics of a label task that need only the confusion counts."""
    return {
        "balanced_accuracy": balanced_accuracy(confusion),
        "accuracy": accuracy(confusion),
        "macro_f1": macro_f1(confusion),
    }


def is_exact_match(answer: str, gold: str) -> bool:
    """Whether two texts are equal once normalised.

    Normalised: Unicode NFKC, lower case (casefold), runs of white space to one space, quotation
    marks at either end and full stops at the end taken off.
    """
    return _normalise(answer) == _normalise(gold)


def is_numeric_match(answer: str, gold: str) -> bool:
    """Whether the final numbers of two texts are equal; False where the answer has none.

    The final number is the first one after the last "####" (GSM8K's mark), else the last of the
    text. "1,234.50" is 1234.5, "−" is a minus, units and signs of currency are passed over.
    Equal means within a relative 1e-6.
    """
    left, right = final_number(answer), final_number(gold)
    if left is None or right is None:
        return False
    return abs(left - right) <= Decimal("1e-6") * max(abs(left), abs(right))


def token_f1(answer: str, gold: str) -> float:
    """F1 of the words that answer and reference share, in [0, 1].

    Words as in SQuAD's evaluation (Rajpurkar et al. 2016, arXiv:1606.05250): lower case, without
    ASCII punctuation and the articles a, an, the. Where a side has no word left, 1 if neither has
    one, else 0.
    """
    said, wanted = _squad_words(answer), _squad_words(gold)
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))


def rouge_l(answer: str, gold: str) -> float:
    """F1 of the longest common subsequence of words, in [0, 1]; 0 where a side has no word.

    ROUGE-L over the whole text with recall and precision weighed alike (Lin 2004, W04-1013, §3).
    Words are runs of letters and digits, in lower case, not stemmed; for ASCII texts these are the
    figures of Google's `rouge-score`. Kept by hand, since that one drops all other letters.
    """
    said, wanted = _words(answer), _words(gold)
    if not said or not wanted:
        return 0.0
    return 2 * _common_length(said, wanted) / (len(said) + len(wanted))


def final_number(text: str) -> Decimal | None:
    """The number that a text ends up with (see `is_numeric_match`), or None."""
    plain = unicodedata.normalize("NFKC", text).replace("−", "-")
    _, mark, rest = plain.rpartition("####")
    found = _NUMBER.findall(rest if mark else plain)
    if not found:
        return None
    try:
        return Decimal((found[0] if mark else found[-1]).replace(",", ""))
    except InvalidOperation:
        return None


# A minus belongs to the number only where nothing to subtract from stands before it: "7-3" ends
# in 3. Commas count as thousands separators only in groups of three: "1,2" are two numbers.
_NUMBER = re.compile(r"(?:(?<![\w).])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")


def _squad_words(text: str) -> list[str]:
    plain = text.lower().translate(_WITHOUT_PUNCTUATION)
    return [word for word in plain.split() if word not in ("a", "an", "the")]


_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _common_length(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence; a bit per word of `left` (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for i, word in enumerate(left):
        places[word] = places.get(word, 0) | 1 << i
    every = (1 << len(left)) - 1
    open_places = every
    for word in right:
        hit = open_places & places.get(word, 0)
        open_places = ((open_places + hit) | (open_places - hit)) & every
    return len(left) - open_places.bit_count()


_QUOTES = " \"'`“”‘’"


def _normalise(text: str) -> str:
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.lstrip(_QUOTES).rstrip(_QUOTES + ".")


def _mean_f1(hits: FloatArray, occurrences: FloatArray) -> FloatArray:
    """Mean F1 per sample, from hits and occurrences per label, both (n_samples, n_labels)."""
    f1 = 2 * hits / np.maximum(occurrences, 1)
    return np.asarray(f1.sum(axis=1) / (occurrences > 0).sum(axis=1))


def _jeffreys_variance(hits: IntArray, n: IntArray) -> FloatArray:
    """Variance of Beta(hits + ½, misses + ½)."""
    mean = (hits + 0.5) / (n + 1)
    return np.asarray(mean * (1 - mean) / (n + 2))


def _mean_error(values: FloatArray) -> float:
    """Standard error of a mean; of a single value, as large as the value."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else float(values[0])
    return spread / float(np.sqrt(len(values)))


def _log_softmax(values: FloatArray) -> FloatArray:
    doubles = np.asarray(values, dtype=np.float64)
    return np.asarray(doubles - np.logaddexp.reduce(doubles, axis=1, keepdims=True))
