"""What comes and goes: `export`, `import`; and what this machine lacks: `doctor`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapt_lora.cli.options import (
    BaseModelOption,
    JsonFlag,
    QuietFlag,
    RegistryOption,
    open_registry,
)
from adapt_lora.console import Console

if TYPE_CHECKING:
    from adapt_lora.roads.doctor import Repair


def export_registry(
    folder: Annotated[Path, typer.Argument(help="Where to write; an export there is replaced.")],
    base_model: BaseModelOption = None,
    with_weights: Annotated[
        bool, typer.Option("--weights/--no-weights", help="Whether adapters' files go along.")
    ] = True,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a base model's adapters and figures into a folder that `adapt import` reads."""
    from adapt_lora import roads

    console = Console(as_json, quiet)
    matrix = roads.export_registry(
        folder,
        registry=open_registry(tracking_uri, console),
        base_model=base_model,
        with_weights=with_weights,
        warn=lambda sentence: console.warn([sentence]),
    )
    n_files = sum(record.has_weights for record in matrix.adapters) if with_weights else 0
    if as_json:
        console.print_json(
            {
                "folder": str(folder),
                "base_model": matrix.base.name,
                "adapters": len(matrix.adapters),
                "with_weights": n_files,
                "cells": len(matrix.cells),
            }
        )
    elif quiet:
        console.print_line(folder)
    else:
        console.print_line(
            f"{len(matrix.adapters):,} adapters of {matrix.base.name}, {n_files:,} of them with "
            f"their weights, and {len(matrix.cells):,} scores are in {folder}. `adapt import "
            f"{folder}` reads them."
        )


def import_results(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV of published results, a line per run; a results_*.json of "
            "lm-evaluation-harness, or a folder of such files; a folder that `adapt export` made; "
            "or the word starter, for the measured adapters that come with Adapt."
        ),
    ],
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", help="Whose harness results they are; the file says by default."),
    ] = None,
    base_model: BaseModelOption = None,
    pool: Annotated[
        bool,
        typer.Option(
            "--pool", help="Put harness scores into your own columns: you vouch that they compare."
        ),
    ] = False,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """File what others measured: an exported registry, published runs, harness results."""
    from adapt_lora import roads
    from adapt_lora.report.plain import known_fields

    console = Console(as_json, quiet)
    with console.progress() as progress:
        done = roads.import_results(
            file,
            registry=open_registry(tracking_uri, console),
            adapter=adapter,
            base_model=base_model,
            pool=pool,
            progress=progress,
        )
    if as_json:
        console.print_json(known_fields(done))
    elif quiet:
        console.print_line(done.n_cells)
    else:
        console.print_line(
            f"{done.n_adapters:,} adapters and {done.n_cells:,} scores of {len(done.bases)} base "
            f"model{'s' * (len(done.bases) != 1)} from {done.source} are new, "
            f"{done.n_known_adapters:,} adapters were there, "
            f"{done.seconds:.0f} s."
        )
    console.warn(done.warnings)


def doctor(
    base_model: BaseModelOption = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Mend the registry's entries that are not whole, or take them out."
        ),
    ] = False,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Say what this machine has and lacks, and the command that mends each lack."""
    from adapt_lora.report.plain import known_fields
    from adapt_lora.roads.doctor import examine

    console = Console(as_json, quiet)
    repaired = _repair(tracking_uri, console) if repair else []
    checks = examine(tracking_uri, base_model)
    failed = [check for check in checks if check.status == "missing"]
    if as_json:
        content = {"checks": [known_fields(check) for check in checks]}
        done = {"repaired": [known_fields(one) for one in repaired]} if repair else {}
        console.print_json({**content, **done})
    else:
        from rich.table import Table
        from rich.text import Text

        table = Table("", "what", "found", "to mend it", box=None, padding=(0, 2, 0, 0))
        marks = {"ok": "[green]ok[/]", "missing": "[red]missing[/]", "note": "[yellow]note[/]"}
        for check in failed if quiet else checks:
            table.add_row(marks[check.status], check.name, Text(check.detail), Text(check.mend))
        if table.row_count:
            console.show(table)
    if failed:
        raise typer.Exit(1)


def _repair(tracking_uri: str | None, console: Console) -> "list[Repair]":
    """Mend the registry, and say what was done."""
    import tempfile

    from adapt_lora.registry import Registry
    from adapt_lora.roads.doctor import repair

    with tempfile.TemporaryDirectory(prefix="adapt-repair-") as scratch:
        # Nothing that was read before counts: every entry is looked at.
        registry = Registry(tracking_uri, cache_folder=Path(scratch), warn=lambda _: None)
        done = repair(registry)
    if not console.as_json:
        for one in done:
            console.print_line(f"{one.entry}: {one.outcome}")
        if not done:
            console.print_line("Every entry of the registry is whole.")
    return done
