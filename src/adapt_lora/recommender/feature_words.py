"""The words of a feature for one target: nothing is said of labels or answers that it lacks."""

import math

import numpy as np

from adapt_lora.recommender.catalogue import Feature
from adapt_lora.recommender.table import Query

# (standing high, standing low) where the target has no label set.
_WITHOUT_LABELS = {
    "label_match": (
        "it was trained on written answers rather than on a choice from a few",
        "it was trained on a choice from a few answers rather than on written ones",
    ),
    "prior_shift": (
        "it changes what is chosen on the probes more than the others",
        "it changes what is chosen on the probes less than the others",
    ),
}
# The same where it has no answers at all.
_WITHOUT_ANSWERS = {
    "length_match": (
        "prompts of its training data are about as long as the target's",
        "prompts of its training data differ in length from the target's",
    ),
}


def feature_words(feature: Feature, query: Query, *, is_high: bool) -> str:
    """What standing high or low in a feature means, for this target."""
    said = (feature.high, feature.low)
    if _lacks(query, "n_labels"):
        said = _WITHOUT_LABELS.get(feature.name, said)
    if _lacks(query, "response_tokens_mean"):
        said = _WITHOUT_ANSWERS.get(feature.name, said)
    return said[0] if is_high else said[1]


def is_silent(name: str, query: Query) -> bool:
    """Whether a feature compares with something that the target does not have.

    It is 0 for everybody then, and yet trees give it a part of what others decide.
    """
    if name == "prior_shift_on_habit":
        return _lacks(query, "n_labels")
    parts = [part for key, part in query.pair_features.items() if key.split("/")[0] == name]
    return bool(parts) and not any(np.isfinite(part).any() for part in parts)


def _lacks(query: Query, statistic: str) -> bool:
    """Whether a fingerprint was looked at, and does not have this."""
    return math.isnan(query.target_features.get(statistic, 0.0))
