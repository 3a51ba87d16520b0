"""A verdict in words: what to use, what it scores, how that is known, and the command for it."""

import shlex
from typing import TYPE_CHECKING

from adapt_lora.registry.records import Measurement, Unit
from adapt_lora.report.wording import gain_text, one_line, score_text

if TYPE_CHECKING:
    from adapt_lora.recommender.answer import RankedAdapter, Recommendation, Verdict
    from adapt_lora.results import TargetRanking

_NAME = 40
_TIES = 3


def verdict_text(answer: "TargetRanking") -> str:
    """The verdict in absolute terms where the base's score is known, with the command at its end.

    A command stands in backticks.
    """
    found = answer.recommendation
    verdict = found.verdict
    chosen = next((e for e in found.ranking if e.adapter_id == verdict.adapter_id), None)
    name = "" if chosen is None else one_line(chosen.adapter, limit=_NAME)
    if verdict.use == "try":
        return (
            f"Try {name} first: too little is measured to say more than an order. "
            "--verify measures the best on your rows."
        )
    if verdict.use == "base":
        return f"Use the base model: no adapter is likely to help{_base_words(found)}."
    if verdict.use == "train":
        return _train_words(answer)
    reached = _reached(verdict, answer)
    if verdict.use == "base_unbiased":
        return (
            f"Use the base model with its label bias removed: {reached}. Take each label's offset "
            "off its log-likelihood (--json: base.unbiased.offsets)."
        )
    assert chosen is not None
    bias = " with its label bias removed" if verdict.use == "adapter_unbiased" else ""
    return f"Use {name}{bias}: {reached}.{_ties(verdict)} {_command(chosen, answer)}"


def _reached(verdict: "Verdict", answer: "TargetRanking") -> str:
    """Such as "50.0 → about 74.1 balanced accuracy (measured on 125 rows; chance 50.0)"."""
    found, unit = answer.recommendation, answer.recommendation.model.unit
    metric = answer.metric.replace("_", " ")
    known = "predicted" if verdict.n_measured is None else f"measured on {verdict.n_measured} rows"
    chance = "" if verdict.chance is None else f"; chance {score_text(verdict.chance, unit)}"
    if verdict.score is None or found.base.score is None:
        gain = gain_text(verdict.gain or 0.0, unit)
        return f"about {gain} {_unit(unit)} of {metric} over the base ({known}{chance})"
    before, after = score_text(found.base.score, unit), score_text(verdict.score, unit)
    return f"{before} → about {after} {metric} ({known}{chance})"


def _base_words(found: "Recommendation") -> str:
    unit, base, chance = found.model.unit, found.base, found.verdict.chance
    if base.score is None:
        return ""
    beside = "" if chance is None else f"; chance {score_text(chance, unit)}"
    metric = found.model.metric.replace("_", " ")
    return f" (it scores {score_text(base.score, unit)} {metric}{beside})"


def _train_words(answer: "TargetRanking") -> str:
    found, unit = answer.recommendation, answer.recommendation.model.unit
    own = found.own_training
    assert own is not None
    start = 0.0 if found.base.score is None else found.base.score
    words = gain_text if found.base.score is None else score_text
    low, middle, high = (
        words(start + gain, unit) for gain in (own.interval[0], own.gain, own.interval[1])
    )
    return (
        f"None of these: train your own, which on about {own.n_rows:,} rows of this task may reach "
        f"{middle} ({low} to {high}) {answer.metric.replace('_', ' ')}{_minutes(own.seconds)}. "
        "`adapt train --data TRAIN.jsonl --name NAME`"
    )


def training_text(answer: "TargetRanking") -> str | None:
    """What training on the target's own rows might give; None where too little is known."""
    own, unit = answer.recommendation.own_training, answer.recommendation.model.unit
    if own is None or answer.recommendation.verdict.use == "train":
        return None
    low, high = (gain_text(end, unit) for end in own.interval)
    return (
        f"An adapter trained on about {own.n_rows:,} rows of this very task would gain about "
        f"{gain_text(own.gain, unit)} ({low} to {high}) {_unit(unit)}{_minutes(own.seconds)}, by "
        f"{own.n_trainings} trainings that were measured on their own task."
    )


def reference_rows(answer: "TargetRanking") -> list[tuple[str, float, Measurement | None]]:
    """(name, gain over the base as it is, measurement) of all that stands beside the adapters.

    Models without their label bias, the base shown examples, and the commonest label.
    """
    found = answer.recommendation
    base, rows = found.base, list[tuple[str, float, Measurement | None]]()
    biases = [("base model", base.unbiased)]
    biases += [(one_line(entry.adapter, limit=60), entry.unbiased) for entry in found.ranking]
    for name, bias in biases:
        if bias is not None and bias.gain is not None:
            rows.append((f"{name}, label bias removed", bias.gain.gain, bias.gain))
    if base.score is not None:
        rows += [(name, score - base.score, None) for name, score in base.few_shot.items()]
        if base.majority is not None:
            rows.append(("commonest label", base.majority - base.score, None))
    return rows


def _minutes(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f", in about {max(round(seconds / 60), 1)} min at the pace of those trained here"


def _ties(verdict: "Verdict") -> str:
    if not verdict.ties:
        return ""
    named = [one_line(name, limit=_NAME) for name in verdict.ties[:_TIES]]
    more = len(verdict.ties) - len(named)
    rest = f" and {more} more" if more else ""
    return f" A tie: it can't be told from {', '.join(named)}{rest}."


def _command(chosen: "RankedAdapter", answer: "TargetRanking") -> str:
    if chosen.adapter_id not in answer.figures_only:
        return _pull(chosen)
    there = [
        entry
        for entry in answer.recommendation.ranking
        if entry.adapter_id not in answer.figures_only
    ]
    if not there:
        return "The registry has no weights of it, nor of any other here."
    return f"The registry has no weights of it; the best that can be had: {_pull(there[0])}"


def _pull(entry: "RankedAdapter") -> str:
    name = one_line(entry.adapter)
    folder = f"./{name.replace('/', '-')}"
    return f"`adapt pull {shlex.quote(name)} {shlex.quote(folder)}`"


def _unit(unit: Unit) -> str:
    return "points" if unit == "points" else "nats per token"
