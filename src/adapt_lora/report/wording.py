"""How figures and names are written for people, the same on every page, table and picture."""

import math
import re
import unicodedata
from typing import TYPE_CHECKING

from adapt_lora.registry.records import Unit

if TYPE_CHECKING:
    from adapt_lora.recommender import Recommendation

UNIT_WORDS: dict[Unit, str] = {"points": "points", "nats": "nats per token"}
"""Units as axis titles and column heads say them."""

MINUS = "\u2212"
"""The sign for negative numbers: as wide as a digit, so that columns stay straight."""


GAP = "·"
"""What stands where nothing was measured."""


def gain_text(gain: float, unit: Unit = "points") -> str:
    """A signed gain: points of 100 with one decimal ("+9.4"), nats with three ("−0.120")."""
    digits = 1 if unit == "points" else 3
    text = f"{abs(_shown(gain, unit)):.{digits}f}"
    if float(text) == 0:
        return text
    return f"{'+' if gain > 0 else MINUS}{text}"


def score_text(score: float, unit: Unit = "points") -> str:
    """A score: points of 100 with one decimal ("63.5"), nats with three ("−1.250")."""
    digits = 1 if unit == "points" else 3
    return f"{_shown(score, unit):.{digits}f}".replace("-", MINUS)


def share_text(share: float) -> str:
    """A probability or share as whole percent; what rounds to 0 or 100 but is not says so."""
    if 0 < share < 0.005:
        return "< 1 %"
    if 0.995 < share < 1:
        return "> 99 %"
    return f"{share:.0%}".replace("%", " %")


def number_text(value: float) -> str:
    """Any statistic with three significant digits or more: "1,234", "12.4", "0.0031"."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "unbounded"
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}".replace("-", MINUS)
    size = abs(value)
    if size >= 1e7 or size < 1e-4:
        return f"{value:.2e}".replace("-", MINUS)
    if size >= 1000:
        return f"{value:,.0f}".replace("-", MINUS)
    text = f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", MINUS)


def count_text(count: int | None) -> str:
    """A number of rows: "1,234", or a gap where nobody says."""
    return GAP if count is None else f"{count:,}"


def one_line(text: str, *, limit: int = 0) -> str:
    """The text without line breaks and control characters, cut with an ellipsis after `limit`."""
    printable = "".join(
        " " if unicodedata.category(char) in {"Cc", "Zl", "Zp"} else char
        for char in text
        # Bidirectional overrides (Cf) and lone surrogates (Cs) can turn a line around or break it.
        if unicodedata.category(char) not in {"Cf", "Cs"}
    )
    line = re.sub(r"\s+", " ", printable).strip()
    return f"{line[: limit - 1]}…" if 0 < limit < len(line) else line


def interval_head(recommendation: "Recommendation") -> str:
    """What heads the column of intervals: "80 % interval"."""
    level = recommendation.interval_level
    if level is None or not any(entry.interval for entry in recommendation.ranking):
        return "interval"
    return f"{share_text(level)} interval"


def _shown(value: float, unit: Unit) -> float:
    return 100 * value if unit == "points" else value
