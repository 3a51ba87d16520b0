"""A recommendation as one page to read, keep and send."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapt_lora.registry.records import Unit
from adapt_lora.report.pages import GainSpan, IntervalBar, figure_rows, interval_bars, page
from adapt_lora.report.wording import (
    UNIT_WORDS,
    gain_text,
    interval_head,
    number_text,
    one_line,
    score_text,
    share_text,
)

if TYPE_CHECKING:
    from adapt_lora.recommender import Recommendation
    from adapt_lora.recommender.answer import Evidence, RankedAdapter
    from adapt_lora.results import TargetRanking

_NO_WEIGHTS = "Known by its figures: the registry does not have its weights."


def recommendation_html(answer: "TargetRanking") -> str:
    """A recommendation as a self-contained page: no script, nothing loaded.

    Every name and reason is escaped.
    """
    found, unit = answer.recommendation, answer.recommendation.model.unit
    spans = [
        GainSpan(
            entry.predicted_gain,
            (entry.interval.low, entry.interval.high) if entry.interval else None,
            entry.measured.gain if entry.measured else None,
        )
        for entry in found.ranking
        if entry.predicted_gain is not None
    ]
    bars = iter(interval_bars(spans, unit))
    seconds = {step: round(value, 3) for step, value in answer.timing_s.items()}
    return page(
        "recommendation.html",
        headline=_headline(found, unit),
        target=one_line(answer.target.name),
        base_model=one_line(answer.base.name),
        unit=UNIT_WORDS[unit],
        key_facts=_key_facts(answer, unit),
        warnings=[*found.warnings, *answer.warnings],
        rows=[
            _row(
                entry,
                next(bars) if entry.predicted_gain is not None else None,
                unit,
                has_weights=entry.adapter_id not in answer.figures_only,
            )
            for entry in found.ranking
        ],
        interval_head=interval_head(found),
        verified=any(entry.measured for entry in found.ranking),
        model=one_line(found.model.name),
        backtest=figure_rows(found.model.backtest),
        fingerprint=figure_rows(answer.fingerprint.values),
        timing=[(step, f"{value} s") for step, value in figure_rows(seconds)],
    )


def _headline(found: "Recommendation", unit: Unit) -> str:
    if found.base.recommended:
        return "Stay with the base model: no adapter is likely to help"
    if not found.ranking:
        return "No adapter could be ranked"
    first = found.ranking[0]
    name, gain = one_line(first.adapter), first.predicted_gain
    # Prediction and measurement together: the measured gain of a winner alone flatters it.
    if gain is None and first.measured is not None:
        gain = first.measured.gain
    if gain is None:
        return f"{name} comes first, but too little is measured to say more"
    said = "predicted" if first.measured is None else "expected after measuring"
    return f"{name}: {gain_text(gain, unit)} {UNIT_WORDS[unit]} {said}"


def _key_facts(answer: "TargetRanking", unit: Unit) -> list[tuple[str, str]]:
    base = answer.recommendation.base
    facts = []
    if base.score is not None:
        error = "" if base.se is None else f" ± {score_text(base.se, unit)}"
        facts.append(("base model's score", score_text(base.score, unit) + error))
    if base.p_best is not None:
        facts.append(("chance that the base is best", share_text(base.p_best)))
    facts.append(("metric", answer.metric.replace("_", " ")))
    rows = answer.fingerprint.values.get("n_rows")
    if rows is not None:
        facts.append(("target rows", number_text(rows)))
    facts.append(("adapters ranked", str(len(answer.recommendation.ranking))))
    return facts


def _row(
    entry: "RankedAdapter", bar: IntervalBar | None, unit: Unit, *, has_weights: bool
) -> Mapping[str, Any]:
    gain = entry.predicted_gain
    warnings = [one_line(warning) for warning in entry.warnings]
    return {
        "rank": entry.rank,
        "adapter": one_line(entry.adapter),
        "adapter_id": entry.adapter_id,
        "gain": "" if gain is None else gain_text(gain, unit),
        "bar": bar,
        "p_harm": "" if entry.p_harm is None else share_text(entry.p_harm),
        "p_best": "" if entry.p_best is None else share_text(entry.p_best),
        "measured": _measured_words(entry, unit),
        "reasons": [one_line(reason.text) for reason in entry.reasons],
        "evidence": [_evidence_words(item, unit) for item in entry.evidence],
        "warnings": warnings if has_weights else [*warnings, _NO_WEIGHTS],
    }


def _measured_words(entry: "RankedAdapter", unit: Unit) -> str:
    found = entry.measured
    if found is None:
        return ""
    words = f"{gain_text(found.gain, unit)} ± {score_text(found.se, unit)} ({found.n:,} rows)"
    if entry.predicted_alone is not None:
        words += f"; predicted alone: {gain_text(entry.predicted_alone, unit)}"
    return words


def _evidence_words(item: "Evidence", unit: Unit) -> str:
    """A line such as "task snli, gain +3.1, similarity 0.8"."""
    words = f"task {one_line(item.task)}, gain {gain_text(item.gain, unit)}"
    return (
        words if item.similarity is None else f"{words}, similarity {number_text(item.similarity)}"
    )
