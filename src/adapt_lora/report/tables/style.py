"""How all tables look: heads, names, signs and colours."""

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from adapt_lora.registry.records import Unit
from adapt_lora.report.wording import GAP, MINUS, one_line, score_text, share_text

FIGURES_ONLY_MARK = "†"
"""Follows the name of an adapter whose weights the registry does not have."""

FIGURES_ONLY = "known by its figures: the registry does not have its weights"

HELPS, HARMS, QUIET = "green", "red", "dim"


def new_table(title: str, heads: Sequence[str] = (), *, right: Collection[str] = ()) -> Table:
    """An empty table; columns of `right` are flush right, and all fold what is too long."""
    from rich.box import SIMPLE_HEAD

    table = Table(
        title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    for head in heads:
        table.add_column(head, justify="right" if head in right else "left", overflow="fold")
    return table


def column_room(widths: Sequence[int]) -> int:
    """Columns of the screen that a table of these columns takes."""
    return sum(widths) + 3 * len(widths)


def shared_notes(
    warnings: Iterable[tuple[str, Sequence[str]]],
    *,
    figures_only: Collection[str],
    instead: str = "",
) -> list[Text]:
    """What is to be said of several adapters, each sentence once.

    Args:
        warnings: (Name of the adapter, what is odd about it) pairs.
        figures_only: Names that bear the mark of adapters without weights; what is said of just
            those is said beside what the mark means.
        instead: What follows the meaning of the mark.
    """
    named: dict[str, list[str]] = {}
    for name, sentences in warnings:
        for sentence in sentences:
            named.setdefault(one_line(sentence), []).append(name)
    marked = [sentence for sentence, names in named.items() if {*names} == {*figures_only}]
    notes = [
        Text(
            f"! {', '.join(one_line(name, limit=40) for name in names)}: {sentence}", style="yellow"
        )
        for sentence, names in named.items()
        if sentence not in marked
    ]
    if figures_only:
        said = " ".join([f"{FIGURES_ONLY_MARK} {FIGURES_ONLY}{instead}.", *marked])
        notes.append(Text(said, style=QUIET))
    return notes


def name_text(name: str) -> Text:
    """A user's name as plain text: square brackets in it are no markup."""
    return Text(one_line(name, limit=60))


def gain_style(gain: float, *, sure: bool) -> str:
    """The colour of a gain; none where it may be chance."""
    if not sure or gain == 0:
        return ""
    return HELPS if gain > 0 else HARMS


def error_text(se: float | None, unit: Unit) -> str:
    """What follows a figure of this error; nothing where it is unknown."""
    return "" if se is None else f" ± {score_text(se, unit)}"


def share_or_gap(share: float | None) -> str:
    """A share, or a gap where it is unknown."""
    return GAP if share is None else share_text(share)


def signed_text(value: float, digits: int = 2) -> str:
    """A figure with its sign."""
    # Adding 0 takes the sign off a zero.
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", MINUS)


def date_text(created_ms: int) -> str:
    """A time since 1970 as day and minute (UTC)."""
    return datetime.fromtimestamp(created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
