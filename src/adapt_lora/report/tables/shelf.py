"""What is on the shelf, and what is about to be: adapters, planned cells, trainings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from adapt_lora.registry.records import AdapterRecord
from adapt_lora.report.tables.style import (
    FIGURES_ONLY,
    FIGURES_ONLY_MARK,
    HARMS,
    QUIET,
    date_text,
    name_text,
    new_table,
)
from adapt_lora.report.wording import GAP, count_text, number_text, one_line

if TYPE_CHECKING:
    from adapt_lora.results import EvaluationPlan, PlannedCell, Sweep


def adapters_table(records: Sequence[AdapterRecord]) -> RenderableType:
    """The registry's adapters, one a line."""
    heads = ("adapter", "version", "base model", "trained on", "rows", "perplexity", "rank")
    right = ("version", "rows", "perplexity", "rank")
    n = len(records)
    table = new_table(f"{n} adapter{'' if n == 1 else 's'}", heads, right=right)
    table.add_column("registered (UTC)")
    for record in records:
        perplexity = record.fingerprint.values.get("response_ppl")
        table.add_row(
            name_text(record.name + ("" if record.has_weights else FIGURES_ONLY_MARK))
            + Text("" if record.unchecked is None else " (not checked)", style="yellow"),
            str(record.version) if record.version else GAP,
            name_text(record.base.name),
            name_text(record.dataset.name) if record.dataset else Text("unknown", style=QUIET),
            count_text(record.dataset.n_rows if record.dataset else None),
            GAP if perplexity is None else number_text(perplexity),
            name_text(record.params.get("lora/r", GAP)),
            date_text(record.created_ms) if record.created_ms else GAP,
        )
    warned: dict[str, list[str]] = {}
    for record in records:
        for warning in record.warnings:
            warned.setdefault(one_line(warning), []).append(one_line(record.name))
    notes = [
        Text(f"{', '.join(names)}: {warning}", style="yellow") for warning, names in warned.items()
    ]
    if any(record.unchecked for record in records):
        late = "Not checked: the base model was not at hand, or the check failed; `adapt show`"
        notes.append(Text(f"{late} says why, `adapt register --check` checks.", style="yellow"))
    if not all(record.has_weights for record in records):
        notes.append(Text(f"{FIGURES_ONLY_MARK} {FIGURES_ONLY}.", style=QUIET))
    return Group(table, *notes)


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
