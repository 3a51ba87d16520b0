"""A model without its label bias: what it wins on a target, and when that is not to be trusted."""

from collections.abc import Mapping
from math import hypot

from adapt_lora.recommender.answer import LabelBias
from adapt_lora.registry.records import Fingerprint, Measurement

MIN_PROMPTS = 30
"""From fewer prompts a label's mean log-likelihood is not well known."""

_UNEVEN = 0.8  # gold share of one label from which likings and shares can't be told apart


def label_bias(
    gain: Measurement, offsets: Mapping[str, float], label_shares: Mapping[str, float]
) -> LabelBias:
    """A measured gain over the base as it is, with what speaks against trusting it.

    Args:
        gain: Of the model without its bias over the base as it is.
        offsets: What is taken off each label's log-likelihood, nats.
        label_shares: Of the target's gold labels.
    """
    caution = None
    largest = max(label_shares, key=lambda label: label_shares[label], default="")
    if gain.n < MIN_PROMPTS:
        caution = f"The bias is known from {gain.n} prompts only; {MIN_PROMPTS} are the least."
    elif label_shares.get(largest, 0.0) >= _UNEVEN:
        caution = (
            f"{label_shares[largest]:.0%} of the target's rows are {largest!r}, so what looks like "
            "bias may be right."
        )
    return LabelBias(gain, offsets, caution)


def bias_of_base(target: Fingerprint) -> LabelBias | None:
    """The base's, from the pass that read the target; None without labels."""
    values, offsets = target.values, target.base_label_offsets
    if not offsets:
        return None
    if "base_unbiased" not in values:
        return LabelBias(None, offsets)
    # As if the two were independent: the rows are the same, so the true error is no larger.
    gain = Measurement(
        values["base_unbiased"] - values["base_score"],
        hypot(values["base_unbiased_se"], values["base_score_se"]),
        int(values["n_rows_sampled"]),
    )
    return label_bias(gain, offsets, target.label_shares)
