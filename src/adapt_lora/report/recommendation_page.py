"""A recommendation as one page to read, keep and send."""

from collections.abc import Mapping, Sequence
from typing import Any

from adapt_lora.registry.records import Unit
from adapt_lora.report.pages import GainSpan, IntervalBar, figure_rows, interval_bars, page
from adapt_lora.report.wording import (
    UNIT_WORDS,
    gain_text,
    number_text,
    one_line,
    recommendation_unit,
    score_text,
    share_text,
)

_NO_WEIGHTS = "Known by its figures: the registry does not have its weights."


def recommendation_html(recommendation: Mapping[str, Any]) -> str:
    """The object of `recommend --json` as a self-contained page: no script, nothing loaded.

    Every name and reason is escaped. The unit of the gains is read from `target.metric`; points
    where it is absent.
    """
    unit = recommendation_unit(recommendation)
    target = recommendation.get("target", {})
    model = recommendation.get("model", {})
    ranking: Sequence[Mapping[str, Any]] = recommendation.get("ranking", ())
    spans = [_span(entry) for entry in ranking if "predicted_gain" in entry]
    bars = iter(interval_bars(spans, unit))
    levels = {entry["interval_level"] for entry in ranking if "interval_level" in entry}
    return page(
        "recommendation.html",
        headline=_headline(recommendation, unit),
        target=one_line(str(target.get("name", "your data"))),
        base_model=_base_name(recommendation),
        unit=UNIT_WORDS[unit],
        key_facts=_key_facts(recommendation, unit),
        warnings=list(recommendation.get("warnings", ())),
        rows=[
            _row(entry, next(bars) if "predicted_gain" in entry else None, unit)
            for entry in ranking
        ],
        interval_head=f"{share_text(levels.pop())} interval" if len(levels) == 1 else "interval",
        verified=any("measured" in entry for entry in ranking),
        model=one_line(str(model.get("name", "unknown"))),
        backtest=figure_rows(model.get("backtest", {})),
        fingerprint=figure_rows(target.get("fingerprint", {})),
        timing=[
            (name, f"{value} s") for name, value in figure_rows(recommendation.get("timing_s", {}))
        ],
    )


def _span(entry: Mapping[str, Any]) -> GainSpan:
    measured = entry.get("measured")
    return GainSpan(
        entry["predicted_gain"],
        tuple(entry["interval"]) if "interval" in entry else None,
        measured["gain"] if measured else None,
    )


def _headline(recommendation: Mapping[str, Any], unit: Unit) -> str:
    ranking = recommendation.get("ranking", ())
    if recommendation.get("base", {}).get("recommended"):
        return "Stay with the base model: no adapter is likely to help"
    if not ranking:
        return "No adapter could be ranked"
    first = ranking[0]
    # Prediction and measurement together: the measured gain of a winner alone flatters it.
    gain = first.get("predicted_gain", first.get("measured", {}).get("gain"))
    if gain is None:
        return f"{one_line(first['adapter'])} comes first, but too little is measured to say more"
    said = "expected after measuring" if "measured" in first else "predicted"
    return f"{one_line(first['adapter'])}: {gain_text(gain, unit)} {UNIT_WORDS[unit]} {said}"


def _key_facts(recommendation: Mapping[str, Any], unit: Unit) -> list[tuple[str, str]]:
    base = recommendation.get("base", {})
    target = recommendation.get("target", {})
    facts = []
    if "score" in base:
        error = f" ± {score_text(base['se'], unit)}" if "se" in base else ""
        facts.append(("base model's score", score_text(base["score"], unit) + error))
    if "p_best" in base:
        facts.append(("chance that the base is best", share_text(base["p_best"])))
    if "metric" in target:
        facts.append(("metric", str(target["metric"]).replace("_", " ")))
    rows = target.get("fingerprint", {}).get("n_rows")
    if rows is not None:
        facts.append(("target rows", number_text(rows)))
    facts.append(("adapters ranked", str(len(recommendation.get("ranking", ())))))
    return facts


def _row(entry: Mapping[str, Any], bar: IntervalBar | None, unit: Unit) -> dict[str, Any]:
    measured = entry.get("measured")
    return {
        "rank": entry["rank"],
        "adapter": one_line(entry["adapter"]),
        "adapter_id": entry.get("adapter_id", ""),
        "gain": gain_text(entry["predicted_gain"], unit) if bar else "",
        "bar": bar,
        "p_harm": share_text(entry["p_harm"]) if "p_harm" in entry else "",
        "p_best": share_text(entry["p_best"]) if "p_best" in entry else "",
        "measured": _measured_words(measured, unit) + _alone_words(entry, unit) if measured else "",
        "reasons": [one_line(reason["text"]) for reason in entry.get("reasons", ())],
        "evidence": [_evidence_words(item, unit) for item in entry.get("evidence", ())],
        "warnings": [
            *(one_line(str(warning)) for warning in entry.get("warnings", ())),
            *([] if entry.get("has_weights", True) else [_NO_WEIGHTS]),
        ],
    }


def _measured_words(measured: Mapping[str, Any], unit: Unit) -> str:
    error = f" ± {score_text(measured['se'], unit)}" if "se" in measured else ""
    rows = f" ({measured['n']:,} rows)" if "n" in measured else ""
    return f"{gain_text(measured['gain'], unit)}{error}{rows}"


def _alone_words(entry: Mapping[str, Any], unit: Unit) -> str:
    if "predicted_alone" not in entry:
        return ""
    return f"; predicted alone: {gain_text(entry['predicted_alone'], unit)}"


def _evidence_words(item: object, unit: Unit) -> str:
    """A sentence as it is; a mapping as "task snli, gain +3.1", in the order of its keys."""
    if not isinstance(item, Mapping):
        return one_line(str(item))
    if "text" in item:
        return one_line(str(item["text"]))
    words = []
    for key, value in item.items():
        name = str(key).replace("_", " ")
        if not isinstance(value, int | float) or isinstance(value, bool):
            words.append(f"{name} {one_line(str(value))}")
        else:
            words.append(
                f"{name} {gain_text(value, unit) if key == 'gain' else number_text(value)}"
            )
    return ", ".join(words)


def _base_name(recommendation: Mapping[str, Any]) -> str:
    base = recommendation.get("base_model", "")
    return one_line(str(base.get("name", "") if isinstance(base, Mapping) else base))
