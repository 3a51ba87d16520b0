"""Changed copies of datasets: `data balance` and its siblings."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from adapt_lora.cli.options import (
    AllowSkipsFlag,
    FileArgument,
    FilesArgument,
    JsonFlag,
    MapOption,
    OutputOption,
    RowsEachOption,
    SeedOption,
    SplitOption,
    read_mapping,
)
from adapt_lora.console import Console
from adapt_lora.errors import ConfigError

if TYPE_CHECKING:
    from adapt_lora.data import Dataset
    from adapt_lora.data.surgery import DerivedRows


data_app = typer.Typer(
    no_args_is_help=True,
    help="Make copies of datasets with one thing changed, for experiments on what matters.",
)


@data_app.command("balance")
def data_balance(
    file: FileArgument,
    output: OutputOption,
    split: SplitOption = "train",
    mapping: MapOption = None,
    allow_skips: AllowSkipsFlag = False,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """Draw as many rows of every label as the rarest label has."""
    from adapt_lora.data.surgery import balance_labels

    console = Console(as_json)
    parents = _datasets([file], split, mapping, allow_skips=allow_skips, console=console)
    _write_derived(balance_labels(parents[0], seed=seed), parents, output, split, console)


@data_app.command("mislabel")
def data_mislabel(
    file: FileArgument,
    output: OutputOption,
    share: Annotated[float, typer.Option(help="Share of the rows that get a wrong label.")] = 1.0,
    split: SplitOption = "train",
    mapping: MapOption = None,
    allow_skips: AllowSkipsFlag = False,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """Give rows a wrong label on purpose, and the answer that goes with it."""
    from adapt_lora.data.surgery import mislabel_rows

    console = Console(as_json)
    parents = _datasets([file], split, mapping, allow_skips=allow_skips, console=console)
    _write_derived(
        mislabel_rows(parents[0], share=share, seed=seed), parents, output, split, console
    )


@data_app.command("shuffle")
def data_shuffle(
    file: FileArgument,
    output: OutputOption,
    split: SplitOption = "train",
    mapping: MapOption = None,
    allow_skips: AllowSkipsFlag = False,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """Give every prompt the answer of another row."""
    from adapt_lora.data.surgery import shuffle_answers

    console = Console(as_json)
    parents = _datasets([file], split, mapping, allow_skips=allow_skips, console=console)
    _write_derived(shuffle_answers(parents[0], seed=seed), parents, output, split, console)


@data_app.command("subsample")
def data_subsample(
    file: FileArgument,
    output: OutputOption,
    rows: Annotated[int, typer.Option(min=1, help="Rows to keep.")],
    keep: Annotated[
        Literal["random", "shortest", "longest"],
        typer.Option(help="Which: drawn, or by the length of the response."),
    ] = "random",
    split: SplitOption = "train",
    mapping: MapOption = None,
    allow_skips: AllowSkipsFlag = False,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """Keep some of the rows: drawn ones, or those with the shortest or longest responses."""
    from adapt_lora.data.surgery import subsample_rows

    console = Console(as_json)
    parents = _datasets([file], split, mapping, allow_skips=allow_skips, console=console)
    _write_derived(
        subsample_rows(parents[0], rows, seed=seed, keep=keep), parents, output, split, console
    )


@data_app.command("mix")
def data_mix(
    files: FilesArgument,
    output: OutputOption,
    rows_each: RowsEachOption = None,
    split: SplitOption = "train",
    mapping: MapOption = None,
    allow_skips: AllowSkipsFlag = False,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """Shuffle several datasets into one."""
    from adapt_lora.data.surgery import mix_datasets

    console = Console(as_json)
    parents = _datasets(files, split, mapping, allow_skips=allow_skips, console=console)
    mixed = mix_datasets(parents, rows_each=rows_each, seed=seed)
    _write_derived(mixed, parents, output, split, console)


@data_app.command("holdout")
def data_holdout(
    files: FilesArgument,
    output: OutputOption,
    rows_each: RowsEachOption = None,
    split: SplitOption = "train",
    mapping: MapOption = None,
    allow_skips: AllowSkipsFlag = False,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """For each dataset make the mixture of all others, in OUTPUT/without-NAME."""
    from adapt_lora.data.surgery import leave_one_out_mixtures
    from adapt_lora.report.plain import echo_json

    console = Console(as_json)
    parents = _datasets(files, split, mapping, allow_skips=allow_skips, console=console)
    mixtures = leave_one_out_mixtures(parents, rows_each=rows_each, seed=seed)
    folders = {name: output / f"without-{name}" for name in mixtures}
    for folder in folders.values():
        if folder.exists():
            raise ConfigError(
                f"{folder} exists already. Choose another --output, or remove it first."
            )
    for name, derived in mixtures.items():
        _write_derived(derived, parents, folders[name], split, Console(quiet=as_json))
    if as_json:
        made = {name: str(folder) for name, folder in folders.items()}
        read = {parent.name: echo_json(parent.echo) for parent in parents}
        console.print_json({"mixtures": made, "read": read})


def _datasets(
    files: Sequence[str],
    split: str,
    mapping: str | None,
    *,
    allow_skips: bool,
    console: Console,
) -> "list[Dataset]":
    """The rows of these sources, with a word on how each was read."""
    from adapt_lora.data import read_dataset

    fields = read_mapping(mapping)
    datasets = []
    for file in files:
        datasets.append(read_dataset(file, mapping=fields, split=split, allow_skips=allow_skips))
        console.remark(datasets[-1].describe())
    return datasets


def _write_derived(
    derived: "DerivedRows",
    parents: "Sequence[Dataset]",
    folder: Path,
    split: str,
    console: Console,
) -> None:
    from adapt_lora.data import read_dataset
    from adapt_lora.data.surgery import write_derived
    from adapt_lora.report.plain import echo_json

    write_derived(derived, folder, name=folder.resolve().name, split=split)
    made = read_dataset(folder, split=split)
    if console.as_json:
        content = {"name": made.name, "folder": str(folder), "rows": len(made.rows)}
        read = {parent.name: echo_json(parent.echo) for parent in parents}
        known = {**content, "digest": made.digest, "parent": made.parent, "read": read}
        console.print_json(known)
    elif not console.quiet:
        console.print_line(made.describe())
