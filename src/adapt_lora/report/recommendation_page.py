"""A recommendation as one page to read, keep and send."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapt_lora.registry.records import Measurement, Unit
from adapt_lora.report.pages import GainSpan, IntervalBar, figure_rows, interval_bars, page
from adapt_lora.report.verdict import reference_rows, training_text, verdict_text
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
    headline, _, command = verdict_text(answer).partition("`")
    seconds = {step: round(value, 3) for step, value in answer.timing_s.items()}
    return page(
        "recommendation.html",
        headline=headline.strip(),
        command=command.rstrip("`"),
        metric=answer.metric.replace("_", " "),
        has_score=found.base.score is not None,
        target=one_line(answer.target.name),
        base_model=one_line(answer.base.name),
        unit=UNIT_WORDS[unit],
        key_facts=_key_facts(answer, unit),
        warnings=[*found.warnings, *answer.warnings],
        rows=[
            _row(entry, next(bars) if entry.predicted_gain is not None else None, answer)
            for entry in found.ranking
        ],
        references=_references(answer),
        training=training_text(answer),
        interval_head=interval_head(found),
        verified=any(entry.measured for entry in found.ranking),
        model=one_line(found.model.name),
        backtest=figure_rows(found.model.backtest),
        fingerprint=figure_rows(answer.fingerprint.values),
        timing=[(step, f"{value} s") for step, value in figure_rows(seconds)],
    )


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
    entry: "RankedAdapter", bar: IntervalBar | None, answer: "TargetRanking"
) -> Mapping[str, Any]:
    unit, base = answer.recommendation.model.unit, answer.recommendation.base
    gain, alone = entry.predicted_gain, entry.predicted_alone
    warnings = [one_line(warning) for warning in entry.warnings]
    if entry.adapter_id in answer.figures_only:
        warnings.append(_NO_WEIGHTS)
    known = gain is not None and base.score is not None
    return {
        "rank": entry.rank,
        "adapter": one_line(entry.adapter),
        "score": score_text((base.score or 0.0) + (gain or 0.0), unit) if known else "",
        "gain": "" if gain is None else gain_text(gain, unit),
        "bar": bar,
        "p_harm": "" if entry.p_harm is None else share_text(entry.p_harm),
        "p_best": "" if entry.p_best is None else share_text(entry.p_best),
        "measured": _measured_words(entry.measured, unit),
        "alone": "" if alone is None else f"predicted alone: {gain_text(alone, unit)}",
        "reasons": [one_line(reason.text) for reason in entry.reasons],
        "evidence": [_evidence_words(item, unit) for item in entry.evidence],
        "warnings": warnings,
    }


def _references(answer: "TargetRanking") -> list[Mapping[str, str]]:
    """The base's own rows, and measured adapters without their label bias."""
    found = answer.recommendation
    unit, base = found.model.unit, found.base

    def row(name: str, gain: float, measured: Measurement | None = None) -> Mapping[str, str]:
        return {
            "name": name,
            "score": "" if base.score is None else score_text(base.score + gain, unit),
            "gain": gain_text(gain, unit),
            "p_best": "",
            "measured": _measured_words(measured, unit),
        }

    best = "" if base.p_best is None else share_text(base.p_best)
    return [
        {**row("base model", 0.0), "p_best": best},
        *(row(name, gain, measured) for name, gain, measured in reference_rows(answer)),
    ]


def _measured_words(found: Measurement | None, unit: Unit) -> str:
    if found is None:
        return ""
    return f"{gain_text(found.gain, unit)} ± {score_text(found.se, unit)} ({found.n:,} rows)"


def _evidence_words(item: "Evidence", unit: Unit) -> str:
    """A line such as "task snli, gain +3.1, similarity 0.8"."""
    words = f"task {one_line(item.task)}, gain {gain_text(item.gain, unit)}"
    return (
        words if item.similarity is None else f"{words}, similarity {number_text(item.similarity)}"
    )
