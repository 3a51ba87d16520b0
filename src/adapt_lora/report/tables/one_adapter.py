"""One adapter on one page: what it is, where it helps and harms, how to have it."""

import shlex
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from adapt_lora.registry.records import AdapterRecord
from adapt_lora.report.card import summary_text
from adapt_lora.report.tables.style import (
    FIGURES_ONLY,
    QUIET,
    date_text,
    error_text,
    gain_style,
    name_text,
    new_table,
)
from adapt_lora.report.transfer import TaskGain, summarise_gains
from adapt_lora.report.wording import (
    UNIT_WORDS,
    count_text,
    gain_text,
    number_text,
    one_line,
    score_text,
)

# Gains that are shown of each end, where there are more than both.
_ENDS = 5
_STATISTICS = {
    "n_labels": "labels {}",
    "prompt_tokens_mean": "prompts of {} tokens",
    "response_tokens_mean": "responses of {}",
    "response_ppl": "perplexity under the base {}",
    "base_score": "balanced accuracy of the base {}",
}
_SETTINGS = {
    "lora/r": "rank {}",
    "lora/alpha": "alpha {}",
    "lora/parameters": "{} parameters",
    "recipe/name": "recipe {}",
    "recipe/learning_rate": "learning rate {}",
    "recipe/epochs": "epochs {}",
}


def adapter_page(record: AdapterRecord, gains: Sequence[TaskGain]) -> RenderableType:
    """What matters about an adapter, on one screen; its card has every figure."""
    version = f" version {record.version}" if record.version else ""
    told = list(record.warnings)
    if record.unchecked is not None:
        told.insert(0, f"Not checked on its base model: {record.unchecked}")
    lines = [
        Text(f"{one_line(record.name, limit=60)}{version}", style="bold"),
        Text(f"{record.kind} for {one_line(record.base.name)}{_when(record)}"),
        *(Text(f"! {one_line(warning)}", style="yellow") for warning in told),
        Text(),
        Text(f"Trained on {_data_words(record)}"),
    ]
    values = record.fingerprint.values
    statistics = {key: number_text(values[key]) for key in _STATISTICS if key in values}
    settings = {
        key: one_line(record.params[key], limit=30) for key in _SETTINGS if key in record.params
    }
    for words, known in ((_STATISTICS, statistics), (_SETTINGS, settings)):
        if known:
            said = ", ".join(words[key].format(value) for key, value in known.items())
            lines.append(Text(f"  {said}"))
    name = shlex.quote(one_line(record.name))
    have = f"adapt pull {name} ./adapter" if record.has_weights else f"{FIGURES_ONLY}."
    return Group(
        *lines,
        Text(),
        *_gain_lines(gains),
        Text(f"To have it: {have}"),
        Text(f"Every figure and setting: adapt show {name} --all", style=QUIET),
    )


def _when(record: AdapterRecord) -> str:
    return f", registered {date_text(record.created_ms)} (UTC)" if record.created_ms else ""


def _data_words(record: AdapterRecord) -> str:
    data = record.dataset
    if data is None:
        return "unknown data: registered without it."
    source = f", from {one_line(data.source, limit=60)}" if data.source else ""
    parent = f", made from {one_line(data.parent, limit=60)}" if data.parent else ""
    return f"{one_line(data.name, limit=60)}: {count_text(data.n_rows)} rows{source}{parent}"


def _gain_lines(gains: Sequence[TaskGain]) -> list[RenderableType]:
    """Its mean gains, and its best and worst tasks."""
    if not gains:
        return [Text("Not measured on any task yet: adapt evaluate --task FILE"), Text()]
    units = list(UNIT_WORDS)
    ranked = sorted(gains, key=lambda gain: (units.index(gain.unit), -gain.gain))
    shown = ranked
    if len(ranked) > 2 * _ENDS + 1:
        ends = {*_ends(ranked, "points"), *_ends(ranked, "nats")}
        shown = [gain for gain in ranked if gain.task in ends]
    title = f"Gain over the base model, {len(shown)} of {len(ranked)} tasks"
    table = new_table(
        title if len(shown) < len(ranked) else "Gain over the base model",
        ("task", "metric", "base", "adapter", "gain"),
        right=("base", "adapter", "gain"),
    )
    for gain in shown:
        sure = gain.se is not None and abs(gain.gain) > 2 * gain.se
        words = gain_text(gain.gain, gain.unit) + error_text(gain.se, gain.unit)
        table.add_row(
            name_text(gain.task + (" (own)" if gain.own else "")),
            gain.metric.replace("_", " "),
            score_text(gain.base_score, gain.unit),
            score_text(gain.score, gain.unit),
            Text(words, style=gain_style(gain.gain, sure=sure)),
        )
    return [*(Text(summary_text(one)) for one in summarise_gains(gains)), Text(), table]


def _ends(ranked: Sequence[TaskGain], unit: str) -> list[str]:
    """Names of the best and worst tasks of a unit, and of the adapter's own."""
    of_unit = [gain for gain in ranked if gain.unit == unit]
    n = _ENDS if unit == ranked[0].unit else 2
    own = [gain.task for gain in of_unit if gain.own]
    return [gain.task for gain in (*of_unit[:n], *of_unit[-n:])] + own
