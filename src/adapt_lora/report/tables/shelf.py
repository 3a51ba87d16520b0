"""What is on the shelf, and what is about to be: adapters, planned cells, trainings."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from rich.console import Group, RenderableType
from rich.text import Text

from adapt_lora.data.suite import SuiteTask
from adapt_lora.registry.records import AdapterRecord
from adapt_lora.report.tables.style import (
    FIGURES_ONLY_MARK,
    HARMS,
    QUIET,
    column_room,
    date_text,
    name_text,
    new_table,
    shared_notes,
)
from adapt_lora.report.transfer import GainSummary
from adapt_lora.report.wording import GAP, count_text, gain_text, number_text, one_line

if TYPE_CHECKING:
    from adapt_lora.results import EvaluationPlan, PlannedCell, Sweep


# What a narrow screen does without, the first first.
_LEFT_OUT_FIRST = ("registered (UTC)", "base model", "version", "rank", "perplexity", "rows")


def adapters_table(
    records: Sequence[AdapterRecord],
    *,
    gains: Mapping[str, Sequence[GainSummary]] | None = None,
    width: int | None = None,
) -> RenderableType:
    """The registry's adapters, one a line.

    Args:
        records: What to show.
        gains: What is known of their gains, by adapter id; None for a table without.
        width: Columns of the screen; what has no room there is left out, and named below. None for
            everything, however wide.
    """
    columns = _shelf_columns(records, gains)
    bases = {record.base.name for record in records}
    title = f"{len(records)} adapter{'' if len(records) == 1 else 's'}"
    if len(bases) == 1 and width is not None:
        title += f" of {one_line(*bases, limit=60)}"
        del columns["base model"]
    needed = {"version"} if any(record.version > 1 for record in records) else set()
    left_out = []
    for head in _LEFT_OUT_FIRST:
        if width is None or _room(columns) <= width:
            break
        if head in columns and head not in needed:
            del columns[head]
            left_out.append(head)
    right = ("version", "gain elsewhere", "own gain", "rows", "perplexity", "rank")
    table = new_table(title, list(columns), right=right)
    for line in zip(*columns.values(), strict=True):
        table.add_row(*line)
    notes = []
    if gains is not None:
        notes.append(Text(_GAIN_NOTE, style=QUIET))
    if left_out:
        said = f"Left out for lack of room: {', '.join(left_out)}; `adapt list --json` has all."
        notes.append(Text(said, style=QUIET))
    marked = [record.name for record in records if not record.has_weights]
    warnings = [(record.name, record.warnings) for record in records]
    if any(record.unchecked for record in records):
        late = "Not checked: the base model was not at hand, or the check failed; `adapt show`"
        notes.append(Text(f"{late} says why, `adapt register --check` checks.", style="yellow"))
    return Group(table, *notes, *shared_notes(warnings, figures_only=marked))


_GAIN_NOTE = (
    "gain elsewhere: mean gain over the base model, in points where no unit stands beside it, on "
    "all measured tasks but the adapter's own"
)


def _shelf_columns(
    records: Sequence[AdapterRecord], gains: Mapping[str, Sequence[GainSummary]] | None
) -> dict[str, list[Text]]:
    """What the table of adapters may show: head to a text for each adapter."""
    perplexities = [record.fingerprint.values.get("response_ppl") for record in records]
    columns = {
        "adapter": [
            name_text(record.name + ("" if record.has_weights else FIGURES_ONLY_MARK))
            + Text("" if record.unchecked is None else " (not checked)", style="yellow")
            for record in records
        ],
        "version": [Text(str(record.version or GAP)) for record in records],
    }
    if gains is not None:
        known = [gains.get(record.adapter_id, ()) for record in records]
        columns["gain elsewhere"] = [_mean_text(each, "mean") for each in known]
        columns["own gain"] = [_mean_text(each, "own") for each in known]
    return columns | {
        "base model": [name_text(record.base.name) for record in records],
        "trained on": [
            name_text(record.dataset.name) if record.dataset else Text("unknown", style=QUIET)
            for record in records
        ],
        "rows": [
            Text(count_text(record.dataset.n_rows if record.dataset else None))
            for record in records
        ],
        "perplexity": [Text(GAP if x is None else number_text(x)) for x in perplexities],
        "rank": [name_text(record.params.get("lora/r", GAP)) for record in records],
        "registered (UTC)": [
            Text(date_text(record.created_ms) if record.created_ms else GAP) for record in records
        ],
    }


def _mean_text(summaries: Sequence[GainSummary], what: Literal["mean", "own"]) -> Text:
    """A mean gain, in points where there are any; the unit is said where it is another."""
    for summary in summaries:
        gain = summary.mean if what == "mean" else summary.own
        if gain is not None:
            unit = "" if summary.unit == "points" else f" {summary.unit}"
            return Text(gain_text(gain, summary.unit) + unit)
    return Text(GAP, style=QUIET)


def _room(columns: Mapping[str, Sequence[Text]]) -> int:
    return column_room([max(len(head), *map(len, texts), 0) for head, texts in columns.items()])


def suite_table(name: str, tasks: Sequence[SuiteTask]) -> RenderableType:
    """The tasks of a suite, one a line."""
    heads = ("task", "family", "answers", "metric", "rows", "licence", "source")
    table = new_table(f"Suite {name}: {len(tasks)} tasks", heads, right=("rows",))
    for task in tasks:
        answers = f"{len(task.labels)} labels" if task.is_label_task else "text"
        table.add_row(
            name_text(task.name),
            name_text(task.family),
            answers,
            task.metric,
            count_text(task.n_rows),
            name_text(task.licence),
            name_text(task.source),
        )
    return table


def plan_table(plan: "EvaluationPlan") -> RenderableType:
    """The cells that would be measured and the time they should take, by row."""
    table = new_table(f"Cells to measure on {one_line(plan.base, limit=60)}")
    for head in ("row", "tasks", "tokens", "time"):
        table.add_column(head, justify="left" if head in {"row", "tasks"} else "right")
    rows: dict[str, list[PlannedCell]] = {}
    for cell in plan.cells:
        rows.setdefault(cell.adapter, []).append(cell)
    for name, cells in rows.items():
        table.add_row(
            name_text(name),
            name_text(", ".join(cell.task for cell in cells)),
            f"{sum(cell.n_tokens for cell in cells):,}",
            f"{sum(cell.estimated_s for cell in cells):.0f} s",
        )
    return table


def sweep_table(sweep: "Sweep") -> RenderableType:
    """A line per run, why runs failed below."""
    heads = ("adapter", "recipe", "seed", "status", "version", "held-out loss", "time")
    right = ("seed", "version", "held-out loss", "time")
    n = len(sweep.runs)
    table = new_table(f"{n} run{'' if n == 1 else 's'}", heads, right=right)
    for run in sweep.runs:
        seconds = f"{run.seconds:.0f} s" if run.seconds else GAP
        planned = run.status == "to train" and run.estimated_s
        table.add_row(
            name_text(run.name),
            name_text(run.request.recipe.name),
            str(run.request.recipe.seed),
            Text(run.status, style=HARMS if run.status == "failed" else ""),
            str(run.version or GAP),
            f"{run.held_out_loss:.3f}" if run.held_out_loss else GAP,
            f"about {run.estimated_s:.0f} s" if planned else seconds,
        )
    reasons = [
        Text(f"{one_line(run.name)}: {run.reason}", style=HARMS)
        for run in sweep.runs
        if run.reason is not None
    ]
    return Group(table, *reasons)
