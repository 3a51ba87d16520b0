"""A recommendation as a table: the ranking, the base, notes below."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from adapt_lora.registry.records import Unit
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
from adapt_lora.report.wording import (
    GAP,
    UNIT_WORDS,
    gain_text,
    interval_head,
    number_text,
    one_line,
    score_text,
)

if TYPE_CHECKING:
    from adapt_lora.recommender.answer import BaseChoice, ModelSummary, RankedAdapter
    from adapt_lora.results import TargetRanking, VerificationReport


def recommendation_table(answer: "TargetRanking") -> RenderableType:
    """The ranking with the base model in it, the reasons, and what the reader must know."""
    found, unit = answer.recommendation, answer.recommendation.model.unit
    verified = any(entry.measured for entry in found.ranking)
    table = new_table(f"Adapters for {one_line(answer.target.name, limit=60)}")
    table.add_column("rank", justify="right")
    table.add_column("adapter", overflow="fold")
    table.add_column(f"gain ({UNIT_WORDS[unit]})", justify="right")
    table.add_column(interval_head(found), justify="center")
    for head in ("P(harm)", "P(best)", *(("predicted alone", "measured") if verified else ())):
        table.add_column(head, justify="right")
    rows = [(_ranking_row(entry, answer, unit, verified=verified), "") for entry in found.ranking]
    shared = _shared_warnings(found.ranking, answer)
    best = share_or_gap(found.base.p_best)
    base = ["", "base model", gain_text(0.0, unit), "", "", best, *(["", ""] if verified else [])]
    if found.base.recommended:
        rows.insert(0, (base, "bold"))
    else:
        rows.append((base, QUIET))
    for row, style in rows:
        table.add_row(*row, style=style)
    return Group(
        table,
        *(line for entry in found.ranking for line in _why(entry, shared)),
        *_common_notes(found.ranking, answer, shared),
        *_verification_note(answer.verification),
        *_base_note(found.base, unit),
        _model_note(found.model),
        *(
            Text(f"! {one_line(warning)}", style="yellow")
            for warning in (*found.warnings, *answer.warnings)
        ),
    )


def _ranking_row(
    entry: "RankedAdapter", answer: "TargetRanking", unit: Unit, *, verified: bool
) -> Sequence[RenderableType]:
    mark = FIGURES_ONLY_MARK if entry.adapter_id in answer.figures_only else ""
    row: list[RenderableType] = [
        str(entry.rank),
        name_text(entry.adapter + mark),
        *_predicted(entry, unit),
        Text(share_or_gap(entry.p_harm), style=HARMS if (entry.p_harm or 0.0) >= 0.5 else ""),
        share_or_gap(entry.p_best),
    ]
    if not verified:
        return row
    alone, measured = entry.predicted_alone, entry.measured
    row.append(GAP if alone is None else gain_text(alone, unit))
    if measured is None:
        return [*row, Text(GAP, style=QUIET)]
    sure = abs(measured.gain) > 2 * measured.se
    words = gain_text(measured.gain, unit) + error_text(measured.se, unit)
    return [*row, Text(words, style=gain_style(measured.gain, sure=sure))]


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


def _why(entry: "RankedAdapter", shared: Collection[str]) -> list[Text]:
    """The two largest reasons of one adapter, and the warnings that are about it alone."""
    reasons = "; ".join(one_line(reason.text) for reason in entry.reasons[:2])
    return [
        Text(f"{entry.rank:>3}  {one_line(entry.adapter, limit=40)}: {reasons}"),
        *(
            Text(f"     ! {one_line(warning)}", style="yellow")
            for warning in entry.warnings
            if warning not in shared
        ),
    ]


def _shared_warnings(
    ranking: "Sequence[RankedAdapter]", answer: "TargetRanking"
) -> Collection[str]:
    """Warnings of several adapters, or of all that there are no weights of: said once, below."""
    warned: dict[str, set[str]] = {}
    for entry in ranking:
        for warning in entry.warnings:
            warned.setdefault(warning, set()).add(entry.adapter_id)
    marked = {entry.adapter_id for entry in ranking} & answer.figures_only
    return {warning for warning, ids in warned.items() if len(ids) > 1 or ids == marked}


def _common_notes(
    ranking: "Sequence[RankedAdapter]", answer: "TargetRanking", shared: Collection[str]
) -> list[Text]:
    """What is to be said of several adapters; and whom one can have for those without weights."""
    marked = [entry.adapter for entry in ranking if entry.adapter_id in answer.figures_only]
    with_weights = [e.adapter for e in ranking if e.adapter_id not in answer.figures_only]
    warnings = [
        (entry.adapter, [warning for warning in entry.warnings if warning in shared])
        for entry in ranking
    ]
    instead = ""
    if with_weights:
        instead = f"; the best that can be pulled is {one_line(with_weights[0], limit=40)}"
    return shared_notes(warnings, figures_only=marked, instead=instead)


def _verification_note(report: "VerificationReport | None") -> list[Text]:
    """How the measurement was made, and what the gain of a measured adapter is made of."""
    if report is None:
        return []
    rounds = ", then ".join(f"{n} up to row {rows}" for n, rows in report.rounds)
    return [
        Text(
            f"Measured on the target: {rounds}. A measured adapter's gain weighs prediction and "
            "measurement by their errors, so the luck of having been the best of several is taken "
            "off; the others moved by what the measurements say about the target's level."
        )
    ]


def _base_note(base: "BaseChoice", unit: Unit) -> list[Text]:
    said = "Use the base model: no adapter is likely to help. " if base.recommended else ""
    if base.score is not None:
        score = score_text(base.score, unit) + error_text(base.se, unit)
        said += f"The base model scores {score} on the target."
    return [Text(said.strip(), style="bold" if base.recommended else "")] if said else []


def _model_note(model: "ModelSummary") -> Text:
    backtest = ", ".join(
        f"{key.replace('_at_', '@').replace('_', ' ')} {number_text(value)}"
        for key, value in model.backtest.items()
        if isinstance(value, int | float)
    )
    said = f"back-test: {backtest}" if backtest else "no back-test was possible"
    return Text(f"Ranked by {one_line(model.name)} ({model.regime}); {said}", style=QUIET)
