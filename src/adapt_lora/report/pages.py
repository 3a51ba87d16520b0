"""What all HTML pages share: rendering with every value escaped, and small inline pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite
from typing import TYPE_CHECKING, Any

from adapt_lora.registry.records import Histogram, Unit
from adapt_lora.report.wording import gain_text, number_text

if TYPE_CHECKING:
    from jinja2 import Environment

_BAR_WIDTH = 180
_PICTURE_WIDTH, _PICTURE_HEIGHT = 240, 92


@dataclass(frozen=True, slots=True)
class IntervalBar:
    """A gain with its interval as places on a strip that all rows of a table share."""

    zero: float
    """Where no gain lies, pixels from the left; as all places here."""
    middle: float
    """Where the gain lies."""
    low: float | None
    """Where the interval begins; None without an interval."""
    high: float | None
    """Where the interval ends; None without an interval."""
    measured: float | None
    """Where the measured gain lies; None where it was not measured."""
    kind: str
    """CSS class: "good", "bad", or "open" when the interval holds zero."""
    words: str
    """The interval in words, for screen readers and below the strip."""


@dataclass(frozen=True, slots=True)
class GainSpan:
    """A gain to be drawn: all in one unit."""

    gain: float
    """The gain."""
    interval: tuple[float, float] | None = None
    """Its interval; None where none is known."""
    measured: float | None = None
    """The measured gain beside a predicted one."""


def page(template: str, **values: Any) -> str:
    """The template filled in; every value is escaped, and a missing one is an error."""
    return _environment().get_template(template).render(**values)


def interval_bars(spans: Sequence[GainSpan], unit: Unit) -> list[IntervalBar]:
    """Strips on one common scale that holds all spans and zero."""
    ends = [0.0]
    for span in spans:
        ends += [span.gain, *(span.interval or ())]
        ends += [] if span.measured is None else [span.measured]
    low, high = min(ends), max(ends)
    margin = 0.05 * (high - low) or 1.0
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return round(_BAR_WIDTH * (value - low) / (high - low), 1)

    bars = []
    for span in spans:
        ends_of_span = span.interval or (span.gain, span.gain)
        kind = "good" if ends_of_span[0] > 0 else "bad" if ends_of_span[1] < 0 else "open"
        words = " to ".join(gain_text(end, unit) for end in ends_of_span) if span.interval else ""
        bars.append(
            IntervalBar(
                zero=place(0.0),
                middle=place(span.gain),
                low=place(span.interval[0]) if span.interval else None,
                high=place(span.interval[1]) if span.interval else None,
                measured=None if span.measured is None else place(span.measured),
                kind=kind,
                words=words,
            )
        )
    return bars


def histogram_picture(title: str, histogram: Histogram, unit: str) -> dict[str, Any]:
    """A histogram as rectangles for the `histogram` macro; empty bins have no height."""
    low, high = histogram.edges[0], histogram.edges[-1]
    spread = (high - low) or 1.0
    tallest = max(histogram.counts, default=0) or 1
    bars = []
    for left, right, count in zip(
        histogram.edges, histogram.edges[1:], histogram.counts, strict=False
    ):
        height = round(_PICTURE_HEIGHT * count / tallest, 1)
        bars.append(
            {
                "x": round(_PICTURE_WIDTH * (left - low) / spread, 1),
                "y": round(_PICTURE_HEIGHT + 3 - height, 1),
                "width": round(max(_PICTURE_WIDTH * (right - left) / spread - 0.8, 0.4), 1),
                "height": height,
            }
        )
    return {
        "title": title,
        "unit": unit,
        "bars": bars,
        "low": number_text(low),
        "high": number_text(high),
    }


def figure_rows(values: Any) -> list[tuple[str, str]]:
    """(name, figure) pairs of a mapping's finite numbers in its order; all else is left out."""
    return [
        (str(name).replace("_", " "), number_text(value))
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    ]


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("adapt_lora.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
