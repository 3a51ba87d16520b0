"""How all tables look: heads, names, signs and colours."""

from collections.abc import Collection, Sequence
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
