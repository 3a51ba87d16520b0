"""How the roads say how far they are."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapt_lora.model.scoring import Steps

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, in all); the unit is the step's own."""


def of_step(progress: Progress | None, step: str) -> "Steps | None":
    """What one step may call with how much of it is done; None where nobody listens."""
    if progress is None:
        return None
    return lambda done, total: progress(step, done, total)


def duration(seconds: float) -> str:
    """A time for people: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
