"""A recommendation as a table: the verdict, the ranking, the base's own rows, notes below."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from adapt_lora.registry.records import Measurement, Unit
from adapt_lora.report.tables.style import (
    FIGURES_ONLY_MARK,
    HARMS,
    QUIET,
    error_text,
    gain_style,
    name_text,
    new_table,
    share_or_gap,
    shared_notes,
)
from adapt_lora.report.verdict import reference_rows, training_text, verdict_text
from adapt_lora.report.wording import (
    GAP,
    UNIT_WORDS,
    gain_text,
    interval_head,
    number_text,
    one_line,
    score_text,
    share_text,
)

if TYPE_CHECKING:
    from adapt_lora.recommender.answer import Evidence, ModelSummary, RankedAdapter
    from adapt_lora.results import TargetRanking


def recommendation_table(answer: "TargetRanking", *, explain: str | None = None) -> RenderableType:
    """The verdict, the ranking with the base's rows in it, and what the reader must know.

    Args:
        answer: The recommendation.
        explain: Name of an adapter whose reasons and evidence are said too, or "all".
    """
    found, unit = answer.recommendation, answer.recommendation.model.unit
    metric, name = answer.metric.replace("_", " "), one_line(answer.target.name, limit=60)
    table = new_table(f"Adapters for {name}: {metric}, gains in {UNIT_WORDS[unit]}")
    heads = ["", "score", "gain", interval_head(found), "P(harm)", "measured"]
    has_score = found.base.score is not None
    table.add_column(heads[0], justify="right", no_wrap=True)
    table.add_column("adapter", overflow="fold")
    for head in heads[1:] if has_score else heads[2:]:
        table.add_column(head, justify="right", no_wrap=True)
    rows = [(_ranking_row(entry, answer), "") for entry in found.ranking]
    base = _reference_row("base model", 0.0, answer)
    references = [
        (_reference_row(name, gain, answer, measured=measured), QUIET)
        for name, gain, measured in reference_rows(answer)
    ]
    first, last = ([(base, "bold")], []) if found.base.recommended else ([], [(base, QUIET)])
    for row, style in (*first, *rows, *last, *references):
        table.add_row(*(row if has_score else [*row[:2], *row[3:]]), style=style)
    shown = _explained(found.ranking, explain)
    training = training_text(answer)
    return Group(
        Text(verdict_text(answer), style="bold"),
        table,
        *(line for entry in shown for line in _why(entry, unit)),
        *_warnings(answer),
        *([Text(training)] if training else []),
        *_bias_notes(answer),
        _model_note(found.model),
        *([] if shown else [Text("--explain NAME (or all) says why.", style=QUIET)]),
        *(
            Text(f"! {one_line(warning)}", style="yellow")
            for warning in (*found.warnings, *answer.warnings)
        ),
    )


def _ranking_row(entry: "RankedAdapter", answer: "TargetRanking") -> Sequence[RenderableType]:
    unit, base = answer.recommendation.model.unit, answer.recommendation.base
    mark = FIGURES_ONLY_MARK if entry.adapter_id in answer.figures_only else ""
    gain = entry.predicted_gain
    score = GAP if gain is None or base.score is None else score_text(base.score + gain, unit)
    return [
        str(entry.rank),
        name_text(entry.adapter + mark),
        score,
        *_predicted(entry, unit),
        Text(share_or_gap(entry.p_harm), style=HARMS if (entry.p_harm or 0.0) >= 0.5 else ""),
        _measured_text(entry.measured, unit),
    ]


def _reference_row(
    name: str,
    gain: float,
    answer: "TargetRanking",
    *,
    measured: Measurement | None = None,
) -> Sequence[RenderableType]:
    unit, base = answer.recommendation.model.unit, answer.recommendation.base
    score = GAP if base.score is None else score_text(base.score + gain, unit)
    said = Text("") if measured is None else _measured_text(measured, unit)
    return ["", name, score, gain_text(gain, unit), "", "", said]


def _measured_text(measured: Measurement | None, unit: Unit) -> Text:
    if measured is None:
        return Text(GAP, style=QUIET)
    sure = abs(measured.gain) > 2 * measured.se
    words = gain_text(measured.gain, unit) + error_text(measured.se, unit)
    return Text(words, style=gain_style(measured.gain, sure=sure))


def _predicted(entry: "RankedAdapter", unit: Unit) -> tuple[Text, Text]:
    """Gain and interval; gaps where too few tasks are measured to know them."""
    gain, interval = entry.predicted_gain, entry.interval
    gap = Text(GAP, style=QUIET)
    if gain is None:
        return gap, gap
    if interval is None:
        return Text(gain_text(gain, unit)), gap
    sure = interval.low > 0 or interval.high < 0
    span = f"{gain_text(interval.low, unit)} to {gain_text(interval.high, unit)}"
    return Text(gain_text(gain, unit), style=gain_style(gain, sure=sure)), Text(span)


def _explained(
    ranking: "Sequence[RankedAdapter]", explain: str | None
) -> "Sequence[RankedAdapter]":
    if explain is None or explain == "all":
        return ranking if explain else ()
    return [entry for entry in ranking if entry.adapter == explain]


def _why(entry: "RankedAdapter", unit: Unit) -> list[Text]:
    """The reasons of one adapter, and what it gained elsewhere."""
    reasons = "; ".join(one_line(reason.text) for reason in entry.reasons)
    lines = [f"{entry.rank:>3}  {one_line(entry.adapter, limit=40)}: {reasons}"]
    if entry.p_best is not None:
        lines.append(f"     the best of all, the base among them, with {share_text(entry.p_best)}")
    if entry.measured is not None and entry.predicted_alone is not None:
        lines.append(
            f"     measured on {entry.measured.n:,} rows; predicted before that: "
            f"{gain_text(entry.predicted_alone, unit)}"
        )
    if entry.evidence:
        said = "; ".join(_evidence_text(item, unit) for item in entry.evidence)
        lines.append(f"     measured elsewhere: {said}")
    return [Text(line) for line in lines]


def _evidence_text(item: "Evidence", unit: Unit) -> str:
    return f"{one_line(item.task, limit=40)} {gain_text(item.gain, unit)}"


def _warnings(answer: "TargetRanking") -> list[Text]:
    """Each warning of the rows once; and whom one can have for those without weights."""
    ranking = answer.recommendation.ranking
    marked = [entry.adapter for entry in ranking if entry.adapter_id in answer.figures_only]
    with_weights = [e.adapter for e in ranking if e.adapter_id not in answer.figures_only]
    instead = ""
    if with_weights:
        instead = f"; the best that can be pulled is {one_line(with_weights[0], limit=40)}"
    said = [(entry.adapter, entry.warnings) for entry in ranking]
    return shared_notes(said, figures_only=marked, instead=instead)


def _bias_notes(answer: "TargetRanking") -> list[Text]:
    """Why a removed label bias is not to be trusted here."""
    bias = answer.recommendation.base.unbiased
    if bias is None or bias.caution is None:
        return []
    return [Text(f"! Label bias removed: {bias.caution}", style="yellow")]


def _model_note(model: "ModelSummary") -> Text:
    """How well this way of ranking did on tasks that it had not seen, in one sentence."""
    how, tested = f"Ranked by {one_line(model.name)} ({model.regime})", model.backtest
    if "spearman_rho" not in tested:
        return Text(f"{how}; no back-test was possible.", style=QUIET)
    regrets = [
        share_text(tested[f"regret_at_{k}_spread"])
        for k in (1, 3)
        if f"regret_at_{k}_spread" in tested
    ]
    lost = (
        f"; its first choice lay {regrets[0]} of the way from the best adapter to the worst, the "
        f"best of its first three {regrets[1]}"
        if len(regrets) == 2
        else ""
    )
    return Text(
        f"{how}. On {tested['n_targets']} measured tasks, each ranked as if unseen, its order had "
        f"a mean ρ of {number_text(tested['spearman_rho'])} with the measured one{lost}.",
        style=QUIET,
    )
