"""What a command says and where: results to stdout, progress and warnings to stderr."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from adapt_lora.errors import ConfigError, refusal_of, without_credentials

if TYPE_CHECKING:
    from rich.console import RenderableType

_PLAIN_WIDTH = 160


@dataclass(frozen=True, slots=True)
class Console:
    """One command's way to speak to whoever called it."""

    as_json: bool = False
    """Print one JSON object, nothing else."""
    quiet: bool = False
    """Print only the essential."""

    @property
    def is_hushed(self) -> bool:
        """Whether remarks and progress are kept back."""
        return self.as_json or self.quiet

    def print_json(self, content: Mapping[str, Any]) -> None:
        """Print the object with the version of its schema."""
        self.print_line(json_text(content))

    def print_line(self, text: object, *, end: str = "\n") -> None:
        """Print a line of the result as it is."""
        typer.echo(f"{text}{end}", nl=False)

    def show(self, what: "RenderableType") -> None:
        """Print a table or a page."""
        from rich.console import Console as Terminal

        Terminal(width=self.width).print(what)

    @property
    def width(self) -> int:
        """Columns of the terminal; a pipe or a file has none, and 80 would break every table."""
        from rich.console import Console as Terminal

        if sys.stdout.isatty() or "COLUMNS" in os.environ:
            return Terminal().width
        return _PLAIN_WIDTH

    def say(self, text: str, style: str | None = None) -> None:
        """Say on stderr what must be heard."""
        from rich.console import Console as Terminal
        from rich.text import Text

        line = Text(without_credentials(text), style=style or "")
        Terminal(stderr=True).print(line, soft_wrap=True)

    def remark(self, text: str, style: str | None = None) -> None:
        """Say on stderr what is good to know; nothing where the caller wants little."""
        if not self.is_hushed:
            self.say(text, style)

    @property
    def listener(self) -> Callable[[str], None] | None:
        """Who a road may tell its remarks to; None where nobody wants them."""
        return None if self.is_hushed else self.say

    def warn(self, warnings: Iterable[str]) -> None:
        """Say each warning."""
        for warning in warnings:
            self.say(f"Warning: {warning}", style="yellow")

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, int, int], None]]:
        """Bars on stderr, one per step; nothing where stderr is no terminal."""
        if self.is_hushed or not sys.stderr.isatty():
            yield lambda step, done, total: None
            return
        from rich.console import Console as Terminal
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            "[progress.description]{task.description}",
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
        )
        times = (TimeElapsedColumn(), "left:", TimeRemainingColumn())
        with Progress(*columns, *times, console=Terminal(stderr=True)) as bars:
            steps: dict[str, Any] = {}

            def update(step: str, done: int, total: int) -> None:
                # "evaluate: moods on sst2" is one bar, whose words change.
                name = step.partition(":")[0]
                if name not in steps:
                    steps[name] = bars.add_task(step, total=total)
                bars.update(steps[name], description=step, completed=done, total=total)

            yield update


def json_text(content: Mapping[str, Any]) -> str:
    """The object with the version of its schema, in one line."""
    from adapt_lora.report.plain import versioned

    return json.dumps(versioned(content), allow_nan=False)


def write_text(path: Path, text: str) -> None:
    """Write a file that the user named.

    Raises:
        ConfigError: It can't be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(refusal_of(error)) from error
