"""Tables for the terminal, as rich renderables: from records, or from the objects of `--json`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from adapt_lora.registry.records import (
    BASE_ROW,
    MAJORITY_ROW,
    AdapterRecord,
    Cell,
    MatrixRow,
    TaskRecord,
    TransferMatrix,
    Unit,
)
from adapt_lora.report.gains import (
    MatrixValues,
    cells_by_place,
    figure_of,
    gain_of,
    gain_rows,
    is_own_cell,
)
from adapt_lora.report.wording import (
    GAP,
    MINUS,
    UNIT_WORDS,
    count_text,
    gain_text,
    number_text,
    one_line,
    recommendation_unit,
    score_text,
    share_text,
)

OWN_MARK = "°"
"""What follows a gain on the adapter's own training data."""

FIGURES_ONLY_MARK = "†"
"""Follows the name of an adapter whose weights the registry does not have."""

_FIGURES_ONLY = "known by its figures: the registry does not have its weights"

_HELPS, _HARMS, _QUIET = "green", "red", "dim"
_POLES = ("high", "low")


def recommendation_table(recommendation: Mapping[str, Any]) -> RenderableType:
    """A recommendation as `recommend --json` gives it: the ranking, the base, notes below.

    The unit of the gains is read from `target.metric`; points where it is absent.
    """
    unit = recommendation_unit(recommendation)
    ranking: Sequence[Mapping[str, Any]] = recommendation["ranking"]
    verified = any("measured" in entry for entry in ranking)
    table = _table(f"Adapters for {one_line(str(_target_name(recommendation)), limit=60)}")
    table.add_column("rank", justify="right")
    table.add_column("adapter", overflow="fold")
    table.add_column(f"gain ({UNIT_WORDS[unit]})", justify="right")
    table.add_column(_interval_head(ranking), justify="center")
    table.add_column("P(harm)", justify="right")
    table.add_column("P(best)", justify="right")
    if verified:
        table.add_column("predicted alone", justify="right")
        table.add_column("measured", justify="right")
    base = recommendation.get("base", {})
    if base.get("recommended"):
        table.add_row(*_base_row(base, unit, verified=verified), style="bold")
    for entry in ranking:
        table.add_row(*_ranking_row(entry, unit, verified=verified))
    if base and not base.get("recommended"):
        table.add_row(*_base_row(base, unit, verified=verified), style=_QUIET)
    why = [line for entry in ranking for line in _why(entry)]
    return Group(table, *why, *_recommendation_notes(recommendation))


def matrix_table(
    matrix: TransferMatrix,
    *,
    values: MatrixValues = "gain",
    errors: bool = False,
    width: int | None = None,
) -> RenderableType:
    """Gains of adapters over tasks, coloured; base and majority rows give scores.

    Gaps are `·`, own cells carry `°`. Gains smaller than two standard errors stay without colour.

    Args:
        matrix: What to show.
        values: Gains, or scores everywhere; colours say the same of both.
        errors: Write standard errors beside the figures.
        width: Columns of the screen; tasks that do not fit go on in further tables below. None
            for one table, however wide.
    """
    cells = cells_by_place(matrix)
    references = [row for row in matrix.rows if row.is_reference]
    rows = gain_rows(matrix)
    beside = " (score)" if values == "gain" else ""
    names = {row: row.label for row in rows}
    names |= {BASE_ROW: f"base model{beside}", MAJORITY_ROW: f"{MAJORITY_ROW.label}{beside}"}
    adapters = {adapter.row: adapter for adapter in matrix.adapters}
    columns: list[_MatrixColumn] = []
    for task in matrix.tasks:
        words = {
            row: _matrix_words(cells, row, task, None, values="score", errors=errors)
            for row in references
        }
        for row in rows:
            words[row] = _matrix_words(
                cells, row, task, adapters.get(row), values=values, errors=errors
            )
        columns.append(_MatrixColumn(one_line(task.name, limit=20), words))
    tables: list[RenderableType] = []
    title = f"Transfer on {one_line(matrix.base.name, limit=60)}"
    blocks = _blocks(columns, names=list(names.values()), width=width)
    done = 0
    for block in blocks:
        part = f", tasks {done + 1}-{done + len(block)} of {len(columns)}"
        table = _table(title + (part if len(blocks) > 1 else ""))
        table.add_column("adapter", overflow="fold")
        for column in block:
            table.add_column(
                Text(column.head), justify="right", overflow="fold", width=column.width
            )
        for row in references:
            table.add_row(_name(names[row]), *(c.words[row] for c in block), style=_QUIET)
        table.add_section()
        for row in rows:
            table.add_row(_name(names[row]), *(column.words[row] for column in block))
        tables.append(table)
        done += len(block)
    units = [unit for unit in UNIT_WORDS if any(task.unit == unit for task in matrix.tasks)]
    counted = " or ".join(UNIT_WORDS[unit] for unit in units) or "points"
    what = "Gains over the base model" if values == "gain" else "Scores"
    return Group(
        *tables,
        Text(
            f"{what} in {counted}; coloured where the gain is beyond two standard errors.  "
            f"{OWN_MARK} own training data  {GAP} not measured",
            style=_QUIET,
        ),
    )


@dataclass(frozen=True, slots=True)
class _MatrixColumn:
    head: str
    words: Mapping[MatrixRow, Text]
    """By row."""

    @property
    def width(self) -> int:
        """Characters; a longer head is folded, figures never."""
        return max(6, min(len(self.head), 12), *(len(text) for text in self.words.values()))


def _matrix_words(
    cells: Mapping[tuple[MatrixRow, str], Cell],
    row: MatrixRow,
    task: TaskRecord,
    adapter: AdapterRecord | None,
    *,
    values: MatrixValues,
    errors: bool,
) -> Text:
    figure = figure_of(cells, row, task, values=values)
    if figure is None:
        return Text(GAP, style=_QUIET)
    write = gain_text if values == "gain" else score_text
    text = write(figure.value, task.unit)
    if errors and figure.se is not None:
        text += f" ± {score_text(figure.se, task.unit)}"
    mark = OWN_MARK if adapter is not None and is_own_cell(adapter, task) else ""
    gain = None if row.is_reference else gain_of(cells, row, task)
    if gain is None:
        return Text(text + mark)
    sure = gain.se is not None and abs(gain.gain) > 2 * gain.se
    return Text(text + mark, style=_gain_style(gain.gain, sure=sure))


def _blocks(
    columns: Sequence[_MatrixColumn], *, names: Sequence[str], width: int | None
) -> list[list[_MatrixColumn]]:
    """Columns in runs that fit the screen beside the names, at least one each."""
    if width is None:
        return [list(columns)]
    # Three spaces stand between columns; names longer than a third of the screen are folded.
    room = width - min(max(map(len, ["adapter", *names])), max(width // 3, 12)) - 2
    blocks: list[list[_MatrixColumn]] = [[]]
    used = 0
    for column in columns:
        if blocks[-1] and used + column.width + 3 > room:
            blocks.append([])
            used = 0
        blocks[-1].append(column)
        used += column.width + 3
    return blocks


def plan_table(plan: Mapping[str, Any]) -> RenderableType:
    """A plan as `evaluate --dry-run --json` gives it: cells and time by row."""
    table = _table(f"Cells to measure on {one_line(plan['base_model'], limit=60)}")
    for head in ("row", "tasks", "tokens", "at most"):
        table.add_column(head, justify="left" if head in {"row", "tasks"} else "right")
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for cell in plan["cells"]:
        rows.setdefault(cell["adapter"], []).append(cell)
    for name, cells in rows.items():
        table.add_row(
            _name(name),
            _name(", ".join(cell["task"] for cell in cells)),
            f"{sum(cell['n_tokens'] for cell in cells):,}",
            f"{sum(cell['estimated_s'] for cell in cells):.0f} s",
        )
    return table


def adapters_table(records: Sequence[AdapterRecord]) -> RenderableType:
    """The registry's adapters, one a line."""
    table = _table(f"{len(records)} adapter{'' if len(records) == 1 else 's'}")
    for head in ("adapter", "version", "base model", "trained on", "rows", "perplexity", "rank"):
        right = head in {"version", "rows", "perplexity", "rank"}
        table.add_column(head, justify="right" if right else "left", overflow="fold")
    table.add_column("registered (UTC)")
    for record in records:
        perplexity = record.fingerprint.values.get("response_ppl")
        table.add_row(
            _name(record.name + ("" if record.has_weights else FIGURES_ONLY_MARK)),
            str(record.version) if record.version else GAP,
            _name(record.base.name),
            _name(record.dataset.name) if record.dataset else Text("unknown", style=_QUIET),
            count_text(record.dataset.n_rows if record.dataset else None),
            GAP if perplexity is None else number_text(perplexity),
            _name(record.params.get("lora/r", GAP)),
            _date_text(record.created_ms) if record.created_ms else GAP,
        )
    warned: dict[str, list[str]] = {}
    for record in records:
        for warning in record.warnings:
            warned.setdefault(one_line(warning), []).append(one_line(record.name))
    notes = [
        Text(f"{', '.join(names)}: {warning}", style="yellow") for warning, names in warned.items()
    ]
    if not all(record.has_weights for record in records):
        notes.append(Text(f"{FIGURES_ONLY_MARK} {_FIGURES_ONLY}.", style=_QUIET))
    return Group(table, *notes)


def traits_table(traits: Mapping[str, Any]) -> RenderableType:
    """Traits as `traits --json` gives them: poles, task loadings, adapter scores, notes."""
    ratios: Sequence[float] = traits["explained_variance_ratio"]
    names: Sequence[str] = traits.get("names") or [f"trait {i + 1}" for i in range(len(ratios))]
    heads: Sequence[str] = traits.get("keys") or names
    errors: Mapping[str, Sequence[float]] = traits.get("standard_errors", {})
    tables: list[RenderableType] = []
    if "poles" in traits:
        tables.append(_trait_names(traits))
    for title, head, rows in (
        ("Latent traits: loadings of tasks", "task", traits.get("loadings", {})),
        (f"Scores of adapters{' ± standard error' if errors else ''}", "adapter", traits["scores"])
        if "scores" in traits
        else ("", "", {}),
    ):
        if not rows:
            continue
        table = _table(title)
        table.add_column(head, overflow="fold")
        for name in heads:
            table.add_column(Text(one_line(str(name), limit=24)), justify="right")
        if head == "task":
            shares = [f"{100 * ratio:.1f} %" for ratio in ratios]
            table.add_row("explained variance", *shares, style="bold", end_section=True)
        for name, row in rows.items():
            words = [_signed(value) for value in row]
            if head == "adapter" and name in errors:
                words = [f"{w} ± {e:.2f}" for w, e in zip(words, errors[name], strict=True)]
            table.add_row(_name(str(name)), *words)
        tables.append(table)
    total = Text(f"Together {100 * sum(ratios):.1f} % of the variance.", style=_QUIET)
    notes = [Text(one_line(note), style=_QUIET) for note in traits.get("notes", ())]
    return Group(*tables, total, *notes)


def _trait_names(traits: Mapping[str, Any]) -> RenderableType:
    """Which trait is which: its name, the tasks at its poles, how steady it is."""
    table = _table("Latent traits")
    for head in ("", "name", "high scores: good at", "low scores: good at"):
        table.add_column(head, overflow="fold")
    stability: Sequence[Mapping[str, Any]] = traits.get("stability", ())
    if stability:
        table.add_column("steady without a row (least)", overflow="fold")
    for number, key in enumerate(traits["keys"]):
        name, pole = traits["names"][number], traits["poles"][number]
        # An automatic name says the poles once more.
        own = GAP if name.startswith(f"{key} ") else one_line(name, limit=40)
        cells = [key, own, *(", ".join(map(one_line, pole[side])) or GAP for side in _POLES)]
        if stability:
            one = stability[number]
            least = f"{one['min']:.2f} without {one_line(one['row'], limit=30)}"
            cells.append(f"{one['median']:.2f} ({least})")
        table.add_row(*map(Text, cells))
    return table


def sweep_table(sweep: Mapping[str, Any]) -> RenderableType:
    """A sweep as `train --manifest … --json` gives it: a line per run, why runs failed below."""
    runs: Sequence[Mapping[str, Any]] = sweep["runs"]
    table = _table(f"{len(runs)} run{'' if len(runs) == 1 else 's'}")
    for head in ("adapter", "recipe", "seed", "status", "version", "held-out loss", "time"):
        right = head in {"seed", "version", "held-out loss", "time"}
        table.add_column(head, justify="right" if right else "left", overflow="fold")
    for run in runs:
        loss, seconds = run.get("held_out_loss"), run.get("seconds")
        estimate = run.get("estimated_s") if run["status"] == "to train" else None
        spent = GAP if seconds is None else f"{seconds:.0f} s"
        table.add_row(
            _name(run["name"]),
            _name(run["recipe"]),
            str(run["seed"]),
            Text(run["status"], style=_HARMS if run["status"] == "failed" else ""),
            str(run.get("version", GAP)),
            GAP if loss is None else f"{loss:.3f}",
            spent if estimate is None else f"about {estimate:.0f} s",
        )
    reasons = [
        Text(f"{one_line(run['name'])}: {run['reason']}", style=_HARMS)
        for run in runs
        if "reason" in run
    ]
    return Group(table, *reasons)


def bench_table(bench: Mapping[str, Any]) -> RenderableType:
    """Back-tests as `bench --json` gives them: a table per matrix, methods down, best in bold.

    Under each stand the differences of `default` to the best baseline with their 95 % intervals.
    """
    tables: list[RenderableType] = []
    for name, result in bench["matrices"].items():
        methods: Mapping[str, Mapping[str, float]] = result["methods"]
        metrics = list(dict.fromkeys(metric for row in methods.values() for metric in row))
        table = _table(
            f"{one_line(str(name), limit=60)}: {result['n_targets']} targets in "
            f"{result['n_groups']} groups, {result['regime']}"
        )
        table.add_column("method", no_wrap=True, min_width=19)
        for metric in metrics:
            table.add_column(metric, justify="right", overflow="fold")
        best = {metric: _best(methods, metric) for metric in metrics}
        for method, row in methods.items():
            chosen = " (chosen)" if method == result.get("chosen") else ""
            cells = [_bench_cell(row.get(metric), best=best[metric]) for metric in metrics]
            table.add_row(Text(one_line(method) + chosen), *cells)
        tables += [table, *_bench_notes(result)]
    if bench.get("past"):
        tables.append(_past_table(bench["past"]))
    return Group(*tables)


def _bench_notes(result: Mapping[str, Any]) -> list[RenderableType]:
    notes: list[RenderableType] = []
    if "ceiling" in result:
        rho = result["ceiling"]["spearman_rho"]
        notes.append(Text(f"With scores this noisy, even the true order has ρ {rho:.2f}."))
    paired = result.get("paired", {}).get("default", {})
    if not paired:
        return notes
    table = _table("default − best baseline, 95 % interval over task groups")
    for head in ("metric", "baseline", "difference", "interval"):
        table.add_column(head, justify="left" if head in ("metric", "baseline") else "right")
    for metric, entry in paired.items():
        low, high = entry["interval"]
        better = high < 0 if _lower_is_better(metric) else low > 0
        worse = low > 0 if _lower_is_better(metric) else high < 0
        table.add_row(
            metric,
            one_line(entry["baseline"]),
            _signed(entry["difference"], digits=3),
            f"{_signed(low, digits=3)} to {_signed(high, digits=3)}",
            style=_HELPS if better else _HARMS if worse else "",
        )
    return [*notes, table]


def _past_table(past: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Kept recommendations against what was measured since."""
    table = _table("Past recommendations, measured since")
    table.add_column("target", overflow="fold")
    for head in ("made", "adapters", "mean error", "… of zero", "coverage", "ρ"):
        table.add_column(head, justify="right")
    for one in past:
        table.add_row(
            _name(one["target"]),
            _date_text(one["made_ms"]),
            str(one["n"]),
            f"{one['mae']:.3f}",
            f"{one['mae_of_zero']:.3f}",
            _share_or_gap(one.get("coverage")),
            _signed(one["spearman_rho"]) if "spearman_rho" in one else GAP,
        )
    return table


def correlations_table(result: Mapping[str, Any]) -> RenderableType:
    """What goes along with gains, as `analyse correlations --json` gives it."""
    table = _table("What goes along with gains (Spearman)")
    for head in ("statistic", "unit", "rho", "interval", "n", "expected", "verdict"):
        right = head in {"rho", "interval", "n"}
        table.add_column(head, justify="right" if right else "left", overflow="fold")
    for row in result["rows"]:
        low, high = row["interval"]
        table.add_row(
            _name(row["statistic"]),
            row["unit"],
            _signed(row["rho"]),
            f"{_signed(low)} to {_signed(high)}",
            str(row["n"]),
            row.get("expected", GAP),
            Text(row["verdict"], style="bold" if row["verdict"] in {"agrees", "differs"} else ""),
        )
    skipped = [
        Text(f"{one_line(s['statistic'])} ({s['unit']}): {s['reason']}", style=_QUIET)
        for s in result.get("skipped", ())
    ]
    return Group(table, *skipped)


def side_effects_table(result: Mapping[str, Any]) -> RenderableType:
    """Best and worst tasks per adapter, as `analyse side-effects --json` gives them."""
    table = _table("Side effects")
    for head in ("adapter", "helps most", "harms most", "helped", "harmed", "unclear"):
        right = head in {"helped", "harmed", "unclear"}
        table.add_column(head, justify="right" if right else "left", overflow="fold")
    for row in result["adapters"]:
        table.add_row(
            _name(row["adapter"]),
            Text("\n".join(_effect_text(effect) for effect in row["best"]) or GAP),
            Text("\n".join(_effect_text(effect) for effect in row["worst"]) or GAP),
            *(str(row[key]) for key in ("n_helped", "n_harmed", "n_unclear")),
        )
    counts = _table("Transfer by kinship")
    for head in ("kinship", "helped", "harmed", "unclear", "share harmed"):
        counts.add_column(head, justify="left" if head == "kinship" else "right")
    for row in result["kinship"]:
        counts.add_row(
            _name(row["kinship"]),
            *(str(row[key]) for key in ("n_helped", "n_harmed", "n_unclear")),
            share_text(row["share_harmed"]) if "share_harmed" in row else GAP,
        )
    return Group(table, counts)


def twins_table(result: Mapping[str, Any]) -> RenderableType:
    """Twins one against the other, as `analyse twins --json` gives them."""
    if not result["twins"]:
        return Text("No two adapters of one group: `adapt data` makes changed copies of a dataset.")
    table = _table("Twins: the first adapter minus the second, on foreign tasks")
    heads = ("first", "second", "unit", "score", "task groups", "largest", "own", "evenness")
    for head in heads:
        right = head in {"score", "task groups", "evenness"}
        table.add_column(head, justify="right" if right else "left", overflow="fold")
    for row in result["twins"]:
        unit: Unit = row["unit"]
        evenness = row.get("evenness")
        table.add_row(
            _name(row["first"]),
            _name(row["second"]),
            unit,
            _mean_text(row["scores"], partial(gain_text, unit=unit)),
            str(row["scores"]["n_task_groups"]),
            Text("\n".join(_difference_text(one, unit) for one in row["foreign"][:3])),
            Text("\n".join(_difference_text(one, unit) for one in row["own"]) or GAP),
            GAP if evenness is None else _mean_text(evenness, _signed),
        )
    note = "evenness: entropy of the labels it predicts, from 0 (always the same one) to 1"
    return Group(table, Text(note, style=_QUIET))


def _mean_text(found: Mapping[str, Any], write: Callable[[float], str]) -> Text:
    low, high = found.get("interval", (None, None))
    span = "" if low is None or high is None else f"\n{write(low)} to {write(high)}"
    return Text(f"{write(found['mean'])}{span}")


def _difference_text(one: Mapping[str, Any], unit: Unit) -> str:
    error = f" ± {score_text(one['se'], unit)}" if "se" in one else ""
    return f"{one_line(one['task'], limit=30)} {gain_text(one['difference'], unit)}{error}"


def _ranking_row(
    entry: Mapping[str, Any], unit: Unit, *, verified: bool
) -> list[RenderableType | None]:
    p_harm = entry.get("p_harm")
    row: list[RenderableType | None] = [
        str(entry["rank"]),
        _name(entry["adapter"] + ("" if entry.get("has_weights", True) else FIGURES_ONLY_MARK)),
        *_predicted(entry, unit),
        Text(_share_or_gap(p_harm), style=_HARMS if (p_harm or 0.0) >= 0.5 else ""),
        _share_or_gap(entry.get("p_best")),
    ]
    if verified:
        alone = entry.get("predicted_alone")
        row.append(GAP if alone is None else gain_text(alone, unit))
        measured = entry.get("measured")
        row.append(_measured_text(measured, unit) if measured else Text(GAP, style=_QUIET))
    return row


def _why(entry: Mapping[str, Any]) -> list[Text]:
    """The two largest reasons of one adapter, and its warnings, for below the table."""
    reasons = "; ".join(one_line(reason["text"]) for reason in entry["reasons"][:2])
    lines = [Text(f"{entry['rank']:>3}  {one_line(entry['adapter'], limit=40)}: {reasons}")]
    return lines + [
        Text(f"     ! {one_line(warning)}", style="yellow") for warning in entry.get("warnings", ())
    ]


def _predicted(entry: Mapping[str, Any], unit: Unit) -> tuple[Text, Text]:
    """Gain and interval; gaps where too few tasks are measured to know them."""
    low, high = entry.get("interval", (None, None))
    if "predicted_gain" not in entry:
        return Text(GAP, style=_QUIET), Text(GAP, style=_QUIET)
    gain = entry["predicted_gain"]
    if low is None or high is None:
        style = _gain_style(gain, sure=False)
        return Text(gain_text(gain, unit), style=style), Text(GAP, style=_QUIET)
    style = _gain_style(gain, sure=low > 0 or high < 0)
    span = f"{gain_text(low, unit)} to {gain_text(high, unit)}"
    return Text(gain_text(gain, unit), style=style), Text(span)


def _share_or_gap(share: float | None) -> str:
    return GAP if share is None else share_text(share)


def _base_row(base: Mapping[str, Any], unit: Unit, *, verified: bool) -> list[RenderableType]:
    best = _share_or_gap(base.get("p_best"))
    row: list[RenderableType] = ["", "base model", gain_text(0.0, unit), "", "", best]
    return [*row, *(["", ""] if verified else [])]


def _base_note(base: Mapping[str, Any], unit: Unit) -> list[Text]:
    said = "Use the base model: no adapter is likely to help. " if base.get("recommended") else ""
    if "score" in base:
        error = f" ± {score_text(base['se'], unit)}" if "se" in base else ""
        said += f"The base model scores {score_text(base['score'], unit)}{error} on the target."
    return [Text(said.strip(), style="bold" if base.get("recommended") else "")] if said else []


def _verification_note(verification: Mapping[str, Any] | None) -> list[Text]:
    """How the measurement was made, and what the gain of a measured adapter is made of."""
    if verification is None:
        return []
    rounds = ", then ".join(
        f"{one['n_adapters']} up to row {one['n_rows']}" for one in verification["rounds"]
    )
    return [
        Text(
            f"Measured on the target: {rounds}. A measured adapter's gain weighs prediction and "
            "measurement by their errors, so the luck of having been the best of several is taken "
            "off; the others moved by what the measurements say about the target's level."
        )
    ]


def _figures_only_note(ranking: Sequence[Mapping[str, Any]]) -> list[Text]:
    """What the mark at a name means, where one bears it, and whom one can have instead."""
    if all(entry.get("has_weights", True) for entry in ranking):
        return []
    said = f"{FIGURES_ONLY_MARK} {_FIGURES_ONLY}"
    first = next((entry for entry in ranking if entry.get("has_weights", True)), None)
    if first is not None:
        said += f"; the best that can be pulled is {one_line(first['adapter'], limit=40)}"
    return [Text(f"{said}.", style=_QUIET)]


def _recommendation_notes(recommendation: Mapping[str, Any]) -> list[Text]:
    model = recommendation.get("model", {})
    notes = _figures_only_note(recommendation["ranking"])
    notes += _verification_note(recommendation.get("verification"))
    notes += _base_note(recommendation.get("base", {}), recommendation_unit(recommendation))
    if model:
        backtest = ", ".join(
            f"{key.replace('_at_', '@').replace('_', ' ')} {number_text(value)}"
            for key, value in model.get("backtest", {}).items()
            if isinstance(value, int | float)
        )
        said = f"back-test: {backtest}" if backtest else "no back-test was possible"
        regime = f" ({model['regime']})" if "regime" in model else ""
        notes.append(
            Text(f"Ranked by {one_line(str(model['name']))}{regime}; {said}", style=_QUIET)
        )
    notes += [
        Text(f"! {one_line(str(warning))}", style="yellow")
        for warning in recommendation.get("warnings", ())
    ]
    return notes


def _target_name(recommendation: Mapping[str, Any]) -> object:
    return recommendation.get("target", {}).get("name", "the target")


def _interval_head(ranking: Sequence[Mapping[str, Any]]) -> str:
    levels = {entry["interval_level"] for entry in ranking if "interval_level" in entry}
    return f"{share_text(levels.pop())} interval" if len(levels) == 1 else "interval"


def _measured_text(measured: Mapping[str, Any], unit: Unit) -> Text:
    gain = measured["gain"]
    error = f" ± {score_text(measured['se'], unit)}" if "se" in measured else ""
    sure = abs(gain) > 2 * measured.get("se", 0.0)
    return Text(gain_text(gain, unit) + error, style=_gain_style(gain, sure=sure))


def _effect_text(effect: Mapping[str, Any]) -> str:
    unit: Unit = effect["unit"]
    error = f" ± {score_text(effect['se'], unit)}" if "se" in effect else ""
    return f"{one_line(effect['task'], limit=24)} {gain_text(effect['gain'], unit)}{error}"


def _bench_cell(value: float | None, *, best: float | None) -> Text:
    if value is None:
        return Text(GAP, style=_QUIET)
    text = f"{value:.3f}".replace("-", MINUS)
    return Text(text, style="bold" if value == best else "")


def _best(methods: Mapping[str, Mapping[str, float]], metric: str) -> float | None:
    """The best value of a metric among methods; None where no direction is best."""
    values = [row[metric] for row in methods.values() if metric in row]
    if metric.startswith(("coverage", "width")) or not values:
        return None
    return min(values) if _lower_is_better(metric) else max(values)


def _lower_is_better(metric: str) -> bool:
    return "regret" in metric or metric in ("brier", "mae")


def _gain_style(gain: float, *, sure: bool) -> str:
    if not sure or gain == 0:
        return ""
    return _HELPS if gain > 0 else _HARMS


def _signed(value: float, digits: int = 2) -> str:
    # Adding 0 takes the sign off a zero.
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", MINUS)


def _date_text(created_ms: int) -> str:
    return datetime.fromtimestamp(created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _name(text: str) -> Text:
    """A user's name as plain text: square brackets in it are no markup."""
    return Text(one_line(text, limit=60))


def _table(title: str) -> Table:
    from rich.box import SIMPLE_HEAD

    return Table(
        title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
