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
