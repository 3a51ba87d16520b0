"""What is found in a matrix: traits, back-tests, and the papers' analyses."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from adapt_lora.registry.records import Unit
from adapt_lora.report.tables.style import (
    HARMS,
    HELPS,
    QUIET,
    date_text,
    error_text,
    name_text,
    new_table,
    share_or_gap,
    signed_text,
)
from adapt_lora.report.wording import GAP, MINUS, gain_text, one_line

if TYPE_CHECKING:
    from adapt_lora.analysis import GainCorrelations, SideEffects, TwinComparison
    from adapt_lora.analysis.effects import Effect, Outcome
    from adapt_lora.analysis.twins import MeanDifference, TaskDifference
    from adapt_lora.recommender.bench import BenchReport, Comparison
    from adapt_lora.recommender.track_record import PastRecommendation
    from adapt_lora.recommender.traits import Traits

_OUTCOMES: "tuple[Outcome, ...]" = ("helped", "harmed", "unclear")


def traits_table(traits: "Traits") -> RenderableType:
    """Poles, task loadings, adapter scores, notes."""
    ratios, errors = traits.explained_variance_ratio, traits.standard_errors
    loadings = new_table("Latent traits: loadings of tasks")
    scores = new_table(f"Scores of adapters{' ± standard error' if errors else ''}")
    for table, head in ((loadings, "task"), (scores, "adapter")):
        table.add_column(head, overflow="fold")
        for key in traits.keys:
            table.add_column(Text(key), justify="right")
    shares = [f"{100 * ratio:.1f} %" for ratio in ratios]
    loadings.add_row("explained variance", *shares, style="bold", end_section=True)
    for task, row in traits.loadings.items():
        loadings.add_row(name_text(task), *map(signed_text, row))
    for adapter, row in traits.scores.items():
        words = list(map(signed_text, row))
        if adapter in errors:
            words = [f"{w} ± {e:.2f}" for w, e in zip(words, errors[adapter], strict=True)]
        scores.add_row(name_text(adapter), *words)
    total = Text(f"Together {100 * sum(ratios):.1f} % of the variance.", style=QUIET)
    notes = [Text(one_line(note), style=QUIET) for note in traits.notes]
    return Group(_trait_names(traits), loadings, scores, total, *notes)


def _trait_names(traits: "Traits") -> RenderableType:
    """Which trait is which: its name, the tasks at its poles, how steady it is."""
    heads = ["", "name", "high scores: good at", "low scores: good at"]
    if traits.stability:
        heads.append("steady without a row (least)")
    table = new_table("Latent traits", heads)
    for number, (key, name, pole) in enumerate(
        zip(traits.keys, traits.names, traits.poles, strict=True)
    ):
        # An automatic name says the poles once more.
        own = GAP if name.startswith(f"{key} ") else one_line(name, limit=40)
        sides = (", ".join(map(one_line, side)) or GAP for side in (pole.high, pole.low))
        cells = [key, own, *sides]
        if traits.stability:
            one = traits.stability[number]
            least = f"{one.minimum:.2f} without {one_line(one.row, limit=30)}"
            cells.append(f"{one.median:.2f} ({least})")
        table.add_row(*map(Text, cells))
    return table


def bench_table(bench: "BenchReport") -> RenderableType:
    """A table per matrix, methods down, best in bold.

    Under each stand the differences of `default` to the best baseline with their 95 % intervals.
    """
    parts: list[RenderableType] = []
    for name, report in bench.matrices.items():
        metrics = list(dict.fromkeys(metric for row in report.methods.values() for metric in row))
        table = new_table(
            f"{one_line(name, limit=60)}: {report.n_targets} targets in "
            f"{report.n_groups} groups, {report.regime}"
        )
        table.add_column("method", no_wrap=True, min_width=19)
        for metric in metrics:
            table.add_column(metric, justify="right", overflow="fold")
        best = {metric: _best(report.methods, metric) for metric in metrics}
        for method, row in report.methods.items():
            chosen = " (chosen)" if method == report.chosen else ""
            cells = [_bench_cell(row.get(metric), best=best[metric]) for metric in metrics]
            table.add_row(Text(one_line(method) + chosen), *cells)
        parts.append(table)
        parts += [Text(one_line(warning, limit=400)) for warning in report.warnings]
        if report.ceiling:
            rho = report.ceiling["spearman_rho"]
            parts.append(Text(f"With scores this noisy, even the true order has ρ {rho:.2f}."))
        if paired := report.paired.get("default"):
            parts.append(_paired_table(paired))
    if bench.past:
        parts.append(_past_table(bench.past))
    return Group(*parts)


def _paired_table(paired: "Mapping[str, Comparison]") -> RenderableType:
    table = new_table("default − best baseline, 95 % interval over task groups")
    for head in ("metric", "baseline", "difference", "interval"):
        table.add_column(head, justify="left" if head in ("metric", "baseline") else "right")
    for metric, one in paired.items():
        better = one.high < 0 if _lower_is_better(metric) else one.low > 0
        worse = one.low > 0 if _lower_is_better(metric) else one.high < 0
        table.add_row(
            metric,
            one_line(one.baseline),
            signed_text(one.difference, digits=3),
            f"{signed_text(one.low, digits=3)} to {signed_text(one.high, digits=3)}",
            style=HELPS if better else HARMS if worse else "",
        )
    return table


def _past_table(past: "Sequence[PastRecommendation]") -> RenderableType:
    """Kept recommendations against what was measured since."""
    table = new_table("Past recommendations, measured since", ["target"])
    for head in ("made", "adapters", "mean error", "… of zero", "coverage", "ρ"):
        table.add_column(head, justify="right")
    for one in past:
        table.add_row(
            name_text(one.target),
            date_text(one.made_ms),
            str(one.n),
            f"{one.mae:.3f}",
            f"{one.mae_of_zero:.3f}",
            share_or_gap(one.coverage),
            GAP if one.spearman_rho is None else signed_text(one.spearman_rho),
        )
    return table


def _bench_cell(value: float | None, *, best: float | None) -> Text:
    if value is None:
        return Text(GAP, style=QUIET)
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


def correlations_table(found: "GainCorrelations") -> RenderableType:
    """What goes along with gains, and what could not be held against them."""
    heads = ("statistic", "unit", "rho", "interval", "n", "expected", "verdict")
    table = new_table(
        "What goes along with gains (Spearman)", heads, right=("rho", "interval", "n")
    )
    for row in found.rows:
        low, high = row.interval
        table.add_row(
            name_text(row.statistic),
            row.unit,
            signed_text(row.rho),
            f"{signed_text(low)} to {signed_text(high)}",
            str(row.n),
            GAP if row.claim is None else row.claim.sign,
            Text(row.verdict, style="bold" if row.verdict in {"agrees", "differs"} else ""),
        )
    skipped = [
        Text(f"{one_line(one.statistic)} ({one.unit}): {one.reason}", style=QUIET)
        for one in found.skipped
    ]
    return Group(table, *skipped)


def side_effects_table(found: "SideEffects") -> RenderableType:
    """Best and worst tasks per adapter, and the count by kinship."""
    heads = ("adapter", "helps most", "harms most", *_OUTCOMES)
    table = new_table("Side effects", heads, right=_OUTCOMES)
    for item in found.adapters:
        table.add_row(
            name_text(item.adapter),
            Text("\n".join(map(_effect_text, item.best)) or GAP),
            Text("\n".join(map(_effect_text, item.worst)) or GAP),
            *(str(item.counts[outcome]) for outcome in _OUTCOMES),
        )
    counts = new_table("Transfer by kinship")
    for head in ("kinship", *_OUTCOMES, "share harmed"):
        counts.add_column(head, justify="left" if head == "kinship" else "right")
    for kind in found.kinship:
        counts.add_row(
            name_text(kind.kinship),
            *(str(kind.counts[outcome]) for outcome in _OUTCOMES),
            share_or_gap(kind.share_harmed),
        )
    return Group(table, counts)


def _effect_text(effect: "Effect") -> str:
    gain = gain_text(effect.gain, effect.unit) + error_text(effect.se, effect.unit)
    return f"{one_line(effect.task, limit=24)} {gain}"


def twins_table(comparisons: "Sequence[TwinComparison]") -> RenderableType:
    """Twins one against the other."""
    if not comparisons:
        return Text("No two adapters of one group: `adapt data` makes changed copies of a dataset.")
    heads = ("first", "second", "unit", "score", "task groups", "largest", "own", "evenness")
    table = new_table(
        "Twins: the first adapter minus the second, on foreign tasks",
        heads,
        right=("score", "task groups", "evenness"),
    )
    for one in comparisons:
        table.add_row(
            name_text(one.first),
            name_text(one.second),
            one.unit,
            _mean_text(one.scores, partial(gain_text, unit=one.unit)),
            str(one.scores.n_task_groups),
            Text(
                "\n".join(_difference_text(difference, one.unit) for difference in one.foreign[:3])
            ),
            Text(
                "\n".join(_difference_text(difference, one.unit) for difference in one.own) or GAP
            ),
            GAP if one.evenness is None else _mean_text(one.evenness, signed_text),
        )
    note = "evenness: entropy of the labels it predicts, from 0 (always the same one) to 1"
    return Group(table, Text(note, style=QUIET))


def _mean_text(found: "MeanDifference", write: Callable[[float], str]) -> Text:
    if found.interval is None:
        return Text(write(found.mean))
    return Text(f"{write(found.mean)}\n{' to '.join(map(write, found.interval))}")


def _difference_text(one: "TaskDifference", unit: Unit) -> str:
    gain = gain_text(one.difference, unit) + error_text(one.se, unit)
    return f"{one_line(one.task, limit=30)} {gain}"
