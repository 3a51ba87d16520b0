"""Every feature that a ranking may look at, each with its formula, its source and its words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from adapt_lora.registry.records import Unit

BASE_SCORE = "base_score"
"""The target feature that says how well the bare base does there (other rows than the gains')."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing a ranking looks at."""

    name: str
    """Key in tables, contributions and reasons."""
    side: Literal["adapter", "target", "pair"]
    """What it describes."""
    formula: str
    """How it is computed, in a line."""
    source: str
    """Paper or measurement that speaks for it."""
    high: str = ""
    """Words for a reason when the adapter stands high in it; "" of a target's features, which say
    the same of every adapter."""
    low: str = ""
    """Words for a reason when it stands low."""
    nonnegative: bool = True
    """More of it is never held against an adapter; False: the data say which way it works."""
    ratios: tuple[str, ...] = ()
    """Fingerprint values of training data and target that are compared as −|ln ratio|."""
    differences: tuple[str, ...] = ()
    """Those that are compared as −|difference|."""


FEATURES: Mapping[str, Feature] = {
    f.name: f
    for f in (
        Feature(
            "popularity",
            "pair",
            "20 % trimmed mean of z[s,·] over the other groups' tasks, × n/(n+1), n = cells",
            "experiments.md, findings 1-4",
            "it beat most adapters on the other measured tasks",
            "it fell behind most adapters on the other measured tasks",
        ),
        Feature(
            "similarity",
            "pair",
            "the pivot's similarity; else mean of cosines of the embeddings (`hidden_mid_mean`, "
            "`hidden_last_mean`, `minilm_mean`), each minus its mean over the known tasks (from 3 "
            "tasks on)",
            "Poth et al. 2021, arXiv:2104.08247; experiments.md, finding 2",
            "its training data resembles the target",
            "its training data is unlike the target",
        ),
        Feature(
            "neighbours",
            "pair",
            "Σ_t w_t clip(z[s,t], ±2)/Σ w_t − mean_t z[s,t]; w_t = exp(standardised similarity of "
            "t to the target), at most 20 × the median",
            "experiments.md, finding 3",
            "it does better on the tasks nearest to the target than elsewhere",
            "it does worse on the tasks nearest to the target than elsewhere",
        ),
        Feature(
            "related_tasks",
            "pair",
            "best linear prediction from the measured columns (above), z clipped to ±2.5, gaps 0",
            "Cressie 1993, section 3.2; experiments.md, learned likeness",
            "it does well on the tasks that should rank adapters as the target does",
            "it does badly on the tasks that should rank adapters as the target does",
        ),
        Feature(
            "elsewhere",
            "adapter",
            "20 % trimmed mean of z under other bases over the other groups' tasks",
            "experiments.md, finding 7",
            "the same training data helped other base models on other tasks",
            "the same training data helped other base models little on other tasks",
        ),
        Feature(
            "traits",
            "pair",
            "the adapter's trait scores × the target's predicted loadings; of the method "
            "`trait_regression` alone",
            "Krishna et al. 2025, §5.1; Ruan et al. 2024, arXiv:2405.10938",
            "its traits are those that the target is expected to need",
            "its traits are not those that the target is expected to need",
        ),
        Feature(
            "length_match",
            "pair",
            "−|ln ratio| of `prompt_tokens_mean`, `response_tokens_mean`, `response_prompt_ratio`",
            "Krishna et al. 2025, §5.3",
            "prompts and answers of its training data are about as long as the target's",
            "prompts and answers of its training data differ in length from the target's",
            ratios=("prompt_tokens_mean", "response_tokens_mean", "response_prompt_ratio"),
        ),
        Feature(
            "label_match",
            "pair",
            "Jaccard overlap of the label sets; −½Σ|p − q| of the label shares where sets "
            "overlap; −|difference| of `is_classification`, `label_entropy_normalised`, "
            "`label_share_max`; −|ln ratio| of `n_labels`",
            "Krishna et al. 2025, §5.4",
            "its labels and their balance are like the target's",
            "its labels or their balance differ from the target's",
            ratios=("n_labels",),
            differences=("is_classification", "label_entropy_normalised", "label_share_max"),
        ),
        Feature(
            "language_match",
            "pair",
            "−|difference| of `mattr`, `zlib_ratio`, `share_digits`, `share_punctuation`, "
            "`share_code`",
            "Krishna et al. 2025, App. F",
            "its training text has the target's mix of words, digits and code",
            "its training text has another mix of words, digits and code than the target",
            differences=("mattr", "zlib_ratio", "share_digits", "share_punctuation", "share_code"),
        ),
        Feature(
            "perplexity_match",
            "pair",
            "−|ln ratio| of `response_ppl` and of `prompt_ppl`",
            "Harada et al. 2025, RQ2",
            "the base model finds its training data about as hard as the target",
            "the base model finds its training data harder or easier than the target",
            ratios=("response_ppl", "prompt_ppl"),
        ),
        Feature(
            "perplexity",
            "adapter",
            "−ln `response_ppl` of the training data",
            "Harada et al. 2025, RQ2",
            "the base model was at home in its training data (low perplexity)",
            "its training data was hard for the base model (high perplexity)",
            nonnegative=False,
        ),
        Feature(
            "training_rows",
            "adapter",
            "ln rows",
            "Harada et al. 2025, RQ2",
            "it saw more training rows than the others",
            "it saw fewer training rows than the others",
            nonnegative=False,
        ),
        Feature(
            "response_length",
            "adapter",
            "ln `response_tokens_mean`",
            "Krishna et al. 2025, §5.3",
            "it learned to answer at length",
            "it learned to answer briefly",
            nonnegative=False,
        ),
        Feature(
            "weight_change",
            "adapter",
            "ln `delta_norm_relative`, else ln `delta_norm`",
            "Harada et al. 2025, RQ3",
            "it changes the base model more than the others",
            "it changes the base model less than the others",
            nonnegative=False,
        ),
        Feature(
            "behaviour_change",
            "adapter",
            "ln `hidden_shift_relative` on the probe prompts",
            "delta activations, arXiv:2509.04442",
            "it shifts the base model's behaviour on the probes more than the others",
            "it shifts the base model's behaviour on the probes less than the others",
            nonnegative=False,
        ),
        Feature(
            "habit_match",
            "pair",
            "−|difference| of `base_label_share_max`, `base_label_entropy_normalised`, "
            "`base_label_tv`, the bare base on the training data and on the target",
            "experiments.md, the base model's habits",
            "the base model answers its training data as one-sidedly as the target",
            "the base model answers its training data more or less one-sidedly than the target",
            differences=("base_label_share_max", "base_label_entropy_normalised", "base_label_tv"),
        ),
        Feature(
            "habit_pull",
            "pair",
            "½Σ|q − p|, q = the base's picks on the target, p = gold label shares of the training "
            "data, where both have the same labels",
            "experiments.md, the base model's habits; Krishna et al. 2025, §5.4",
            "it learned other label shares than the base model answers with on the target",
            "it learned the label shares that the base model answers with on the target anyway",
            nonnegative=False,
        ),
        Feature(
            "prior_shift",
            "adapter",
            "`label_prior_tv` on the probes",
            "experiments.md, the base model's habits",
            "it moves the shares of labels on the probes more than the others",
            "it moves the shares of labels on the probes less than the others",
            nonnegative=False,
        ),
        Feature(
            "prior_shift_on_habit",
            "pair",
            "z of `prior_shift` × (q_max − 1/K)/(1 − 1/K): 0 where the base answers evenly, 1 × "
            "where it says one of the K labels to everything; not standardised again",
            "experiments.md, the base model's habits",
            "it moves label shares, and the base model answers the target with one label",
            "it hardly moves label shares, and the base model answers the target with one label",
            nonnegative=False,
        ),
    )
}
"""Every feature of adapters and pairs that is computed from the registry. Others come from a
matrix's pairs file."""

_AS_IS = "as in the fingerprint"
_LIKENESS = "experiments.md, learned likeness"
_HABITS = "experiments.md, the base model's habits"
_LEVEL = "experiments.md, the level of a target"

TARGET_FEATURES: Mapping[str, Feature] = {
    f.name: f
    for f in (
        Feature(
            BASE_SCORE,
            "target",
            "balanced accuracy of the bare base on *other rows* than those of the gains: mean "
            "over training data of the task's group with the same labels (the adapters' "
            "fingerprints hold it), altered copies left out; absent without one. Of the target "
            "itself, of which no gain is known: on its own rows",
            "experiments.md, P(harm)",
        ),
        Feature("base_label_share_max", "target", _AS_IS, _HABITS),
        Feature("base_label_entropy_normalised", "target", _AS_IS, _HABITS),
        Feature("base_label_tv", "target", "as in the fingerprint; needs labels", _HABITS),
        Feature("prompt_tokens_mean", "target", _AS_IS, _LIKENESS),
        Feature("response_tokens_mean", "target", _AS_IS, _LIKENESS),
        Feature("response_ppl", "target", _AS_IS, _LIKENESS),
        Feature("n_labels", "target", _AS_IS, _LIKENESS),
        Feature("label_entropy_normalised", "target", _AS_IS, _LIKENESS),
        Feature("is_classification", "target", _AS_IS, _LIKENESS),
        Feature("mattr", "target", _AS_IS, _LIKENESS),
        Feature("zlib_ratio", "target", _AS_IS, _LIKENESS),
        Feature("share_digits", "target", _AS_IS, _LIKENESS),
        Feature("share_code", "target", _AS_IS, _LIKENESS),
    )
}
"""What is known of a task itself: how alike two tasks are, and how much there is to win."""

LEVEL_FEATURES: Mapping[Unit, Mapping[str, Feature]] = {
    "points": {
        f.name: f
        for f in (
            Feature(
                "probe_margin",
                "target",
                "`probe_score` − `base_score`: what a linear probe reads from the base's hidden "
                "states and the base does not say",
                _LEVEL,
            ),
            Feature(
                "bias_margin",
                "target",
                "`base_unbiased` − `base_score`: what the base wins by losing its label bias alone",
                _LEVEL,
            ),
        )
    },
    "nats": {
        "response_nll": Feature(
            "response_nll",
            "target",
            "`response_nll_mean`: how surprising the answers are to the base; for gains in nats, "
            "the two above for points",
            _LEVEL,
        )
    },
}
"""What may tell how much a target allows, by the unit of its gains."""

FROM_SCORES = ("popularity", "neighbours", "related_tasks", "traits")
"""Features that come from scores of the table that was learned from."""

_SIMILARITY_WORDS = ("similarity", "minilm", "cosine", "overlap")


def similarity_name(names: Sequence[str]) -> str | None:
    """Which pair feature is *the* similarity: the one called so, else the first that sounds so.

    Parts of the registry's own features ("label_match/overlap") are none: there it comes from
    embeddings.
    """
    if "similarity" in names:
        return "similarity"
    return next((n for n in names if "/" not in n and _sounds_similar(n)), None)


def is_nonnegative(name: str) -> bool:
    """Whether more of a feature is never held against an adapter."""
    if name in FEATURES:
        return FEATURES[name].nonnegative
    return _sounds_similar(name)


def _sounds_similar(name: str) -> bool:
    return any(word in name for word in _SIMILARITY_WORDS)
