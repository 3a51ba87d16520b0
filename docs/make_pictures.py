"""Draw the terminal pictures of README and of the pages from what the commands really print.

`python docs/make_pictures.py` fills a registry of its own from the starter, types each command of
PICTURES and saves what a terminal would show as docs/images/NAME.svg.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"


@dataclass(frozen=True)
class Picture:
    """A command and the picture of its output."""

    name: str
    """Name of the file, without .svg."""
    command: str
    """What is typed, in the repository's root."""
    columns: int
    """Width of the terminal."""


PICTURES = (
    Picture("recommend", "adapt recommend --target examples/mydata.jsonl --verify 3 --top 5", 114),
    Picture(
        "matrix",
        "adapt matrix --task 's*' --task trec --task ag_news --task imdb --task goat_arithmetic",
        108,
    ),
)

# Dark, with colours that keep their contrast on it.
THEME = TerminalTheme(
    (22, 27, 34),
    (230, 237, 243),
    [
        (72, 79, 88),
        (255, 123, 114),
        (86, 211, 100),
        (227, 179, 65),
        (121, 192, 255),
        (210, 168, 255),
        (86, 212, 221),
        (177, 186, 196),
    ],
)
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def main() -> None:
    """Draw all pictures, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="Pictures to draw; all by default.")
    parser.add_argument(
        "--source", default="starter", help="What `adapt import` fills the registry from."
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="adapt-pictures-") as scratch:
        _type(f"adapt import {options.source}", 100, registry=Path(scratch))
        for picture in PICTURES:
            if not options.names or picture.name in options.names:
                output = _type(picture.command, picture.columns, registry=Path(scratch))
                svg = draw(picture.command, output, columns=picture.columns)
                (IMAGES / f"{picture.name}.svg").write_text(svg, encoding="utf-8")


def draw(command: str, output: str, *, columns: int) -> str:
    """A terminal with the command and its output (ANSI colours allowed) as an SVG.

    It names fonts that are on the reader's machine and fetches none.
    """
    console = Console(record=True, width=columns, file=StringIO(), legacy_windows=False)
    console.print(Text.assemble(("$ ", "green"), (command, "bold")))
    console.print(Text.from_ansi(output.rstrip()))
    svg = console.export_svg(title="adapt", theme=THEME)
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", FONTS)
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


def _type(command: str, columns: int, *, registry: Path) -> str:
    """What a command writes to stdout on a terminal of this width."""
    environment = {
        **os.environ,
        "ADAPT_TRACKING_URI": str(registry),
        "COLUMNS": str(columns),
        "FORCE_COLOR": "1",
        "TERM": "xterm-256color",
    }
    words = [sys.executable, "-m", "adapt_lora.cli", *shlex.split(command)[1:]]
    done = subprocess.run(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


if __name__ == "__main__":
    main()
