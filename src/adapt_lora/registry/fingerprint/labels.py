"""Label distributions: is it classification, how even, and does length give a label away."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adapt_lora.registry.fingerprint.lengths import Counts
from adapt_lora.registry.records import Fingerprint

# Per-label lengths are keyed by label, one figure each: beyond this they swamp every table.
_MAX_LABELS_WITH_LENGTH = 20


def label_part(names: Sequence[str], gold: Sequence[str | None]) -> Fingerprint:
    """How the gold labels are spread.

    Args:
        names: The label set.
        gold: Label of each row; None where it has none.

    Entropy is in nats (Shannon 1948); the imbalance ratio is the commonest label's count over that
    of the rarest one that occurs.
    """
    counts = Counter(label for label in gold if label is not None)
    names = tuple(dict.fromkeys((*names, *sorted(counts))))
    values = {"is_classification": 1.0, "n_labels": float(len(names))}
    if not counts:
        note = "No row carries a label: gold shares and base score are absent."
        return Fingerprint(values=values, notes=(note,))
    shares = {name: counts[name] / counts.total() for name in names}
    values["label_entropy"] = entropy(list(shares.values()))
    if len(names) > 1:
        values["label_entropy_normalised"] = values["label_entropy"] / math.log(len(names))
    values["label_share_max"] = max(shares.values())
    values["label_imbalance_ratio"] = max(counts.values()) / min(counts.values())
    return Fingerprint(values=values, label_shares=shares)


def label_length_part(gold: Sequence[str | None], lengths: Counts) -> Fingerprint:
    """How far a prompt's length gives its label away.

    Args:
        gold: Label of each row; None where it has none.
        lengths: Prompt tokens of the same rows, (n,).

    η² = between-label sum of squares / total sum of squares, in [0, 1]. Krishna et al. 2025 (§5.3,
    Fig. 7) see the length bias of labels learned and carried over.
    """
    groups = {
        name: lengths[[label == name for label in gold]]
        for name in sorted({label for label in gold if label is not None})
    }
    if not groups:
        return Fingerprint()
    values: dict[str, float] = {}
    everyone = np.concatenate(list(groups.values()))
    total = float(((everyone - everyone.mean()) ** 2).sum())
    if len(groups) > 1 and total > 0:
        between = sum(
            len(group) * float(group.mean() - everyone.mean()) ** 2 for group in groups.values()
        )
        values["label_length_eta2"] = between / total
    if len(groups) > _MAX_LABELS_WITH_LENGTH:
        note = (
            f"Mean prompt length per label is kept for at most {_MAX_LABELS_WITH_LENGTH} labels; "
            f"here are {len(groups)}."
        )
        return Fingerprint(values=values, notes=(note,))
    for name, group in groups.items():
        values[f"label_prompt_tokens_mean/{name}"] = float(group.mean())
    return Fingerprint(values=values)


def base_label_part(
    log_likelihood: NDArray[np.floating], names: Sequence[str], gold: Sequence[str | None]
) -> Fingerprint:
    """What the bare base model makes of the label set.

    Args:
        log_likelihood: Nats per row and label, (n, n_labels).
        names: The labels of its columns.
        gold: Label of each row; None where it has none.

    The base's shares are over all rows; score, cross-entropy and total variation over the rows with
    a gold label. Balanced accuracy is the mean recall over the labels that occur, of the base as it
    is, and with each label's mean log-likelihood taken off (as the decision "unbiased" does).
    """
    picked = log_likelihood.argmax(axis=1)
    shares = np.bincount(picked, minlength=len(names)) / len(picked)
    values = {"base_label_share_max": float(shares.max())}
    if len(names) > 1:
        values["base_label_entropy_normalised"] = entropy(shares.tolist()) / math.log(len(names))
    place = {name: index for index, name in enumerate(names)}
    known = np.array([label in place for label in gold])
    if known.any():
        truth = np.array([place[label] for label in gold if label in place])
        values |= _base_scores(log_likelihood[known].astype(np.float64), truth)
        # The mean is over all rows: it needs no gold label.
        unbiased = (log_likelihood - log_likelihood.mean(axis=0)).argmax(axis=1)
        score, variance = _mean_recall(unbiased[known], truth, len(names))
        values |= {"base_unbiased": score, "base_unbiased_se": math.sqrt(variance)}
    liked = log_likelihood.astype(np.float64).mean(axis=0)
    offsets = liked - liked.mean()
    return Fingerprint(
        values=values,
        base_label_shares=dict(zip(names, map(float, shares), strict=True)),
        base_label_offsets=dict(zip(names, map(float, offsets), strict=True)),
    )


def entropy(shares: Sequence[float]) -> float:
    """Shannon entropy of shares that sum to one, in nats."""
    return -sum(share * math.log(share) for share in shares if share > 0) + 0.0


def total_variation(left: Sequence[float], right: Sequence[float]) -> float:
    """Half the summed absolute difference of two share vectors, in [0, 1]."""
    return 0.5 * sum(abs(a - b) for a, b in zip(left, right, strict=True))


def _base_scores(log_likelihood: NDArray[np.float64], truth: NDArray[np.int64]) -> dict[str, float]:
    n, n_labels = log_likelihood.shape
    picked = log_likelihood.argmax(axis=1)
    n_gold = np.bincount(truth, minlength=n_labels)
    score, variance = _mean_recall(picked, truth, n_labels)
    highest = log_likelihood.max(axis=1, keepdims=True)
    log_total = highest[:, 0] + np.log(np.exp(log_likelihood - highest).sum(axis=1))
    base_shares = np.bincount(picked, minlength=n_labels) / n
    return {
        "base_score": score,
        "base_score_se": math.sqrt(variance),
        "base_label_cross_entropy": float((log_total - log_likelihood[np.arange(n), truth]).mean()),
        "base_label_tv": total_variation(base_shares.tolist(), (n_gold / n).tolist()),
    }


def _mean_recall(
    picked: NDArray[np.int64], truth: NDArray[np.int64], n_labels: int
) -> tuple[float, float]:
    """Mean recall over the labels that occur, and its sampling variance."""
    n_gold = np.bincount(truth, minlength=n_labels)
    n_right = np.bincount(truth[picked == truth], minlength=n_labels)
    occurs = n_gold > 0
    recall = n_right[occurs] / n_gold[occurs]
    # (k + 1)/(n + 2) in the variance only: a label seen once would else claim no error at all.
    smoothed = (n_right[occurs] + 1) / (n_gold[occurs] + 2)
    variance = (smoothed * (1 - smoothed) / n_gold[occurs]).sum() / occurs.sum() ** 2
    return float(recall.mean()), float(variance)
