"""Adapters that are made: `train`, one or a whole sweep."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapt_lora.cli.options import (
    AllowSkipsFlag,
    BaseModelOption,
    GroupOption,
    JsonFlag,
    MapOption,
    QuietFlag,
    RegistryOption,
    open_registry,
    read_mapping,
    read_pairs,
)
from adapt_lora.console import Console

if TYPE_CHECKING:
    from adapt_lora.results import Training

FileArgument = Annotated[str | None, typer.Argument(help="Training data: file, folder or Hub id.")]
NameOption = Annotated[str | None, typer.Option("--name", "-n", help="Name of the adapter.")]
ManifestOption = Annotated[
    Path | None,
    typer.Option(help="TOML file of a sweep: datasets × recipes × bases × seeds."),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Spread --manifest over this Ray cluster: HOST:PORT, ray://HOST:PORT or auto.",
    ),
]
PlanFlag = Annotated[
    bool, typer.Option("--plan", help="Only show what --manifest would train, and how long.")
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        help="quick (the default), latent-traits, massive-sft, massive-sft-full; "
        "docs/training.md has each setting with its source."
    ),
]
ConfigOption = Annotated[
    Path | None, typer.Option(help="TOML file of recipe fields; it may name its recipe.")
]
FromOption = Annotated[
    str | None, typer.Option("--from", help="Take the recipe of this registered adapter.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", envvar="ADAPT_TRAIN_SET", help="Override a recipe field: learning_rate=1e-4."
    ),
]
OutputOption = Annotated[Path | None, typer.Option(help="Also keep the PEFT folder here.")]
NoRegisterFlag = Annotated[
    bool, typer.Option("--no-register", help="Leave a plain PEFT folder, touch no registry.")
]


def train(
    file: FileArgument = None,
    name: NameOption = None,
    base_model: BaseModelOption = None,
    manifest: ManifestOption = None,
    ray: RayOption = None,
    plan: PlanFlag = False,
    recipe: RecipeOption = None,
    config: ConfigOption = None,
    from_adapter: FromOption = None,
    override: SetOption = None,
    output: OutputOption = None,
    mapping: MapOption = None,
    allow_skips: AllowSkipsFlag = False,
    group: GroupOption = None,
    no_register: NoRegisterFlag = False,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train a LoRA adapter and register it with its fingerprints, or a whole sweep of them."""
    if manifest is not None:
        if any((file, name, recipe, config, from_adapter, override, output, mapping, group)):
            raise typer.BadParameter(
                "--manifest says all that is to be trained; leave FILE and the other options out."
            )
        console = Console(as_json, quiet)
        _train_sweep(
            manifest,
            tracking_uri,
            base_model,
            allow_skips=allow_skips,
            only_plan=plan,
            ray=ray,
            console=console,
        )
        return
    if file is None or name is None or plan or ray is not None:
        raise typer.BadParameter(
            "Say adapt train FILE --name NAME, or adapt train --manifest SWEEP.toml [--plan] "
            "[--ray ADDRESS]."
        )
    # Of several processes that a launcher started, the first speaks for all.
    is_first = os.environ.get("RANK", "0") == "0"
    console = Console(as_json, quiet or not is_first)
    from adapt_lora import roads
    from adapt_lora.report.plain import training_json
    from adapt_lora.trainer import TrainRequest, find_recipe, override_recipe, read_recipe

    if from_adapter is not None:
        if recipe is not None or config is not None:
            raise typer.BadParameter("--from brings its recipe; leave --recipe and --config out.")
        shelf = open_registry(tracking_uri, console)
        chosen = roads.stored_recipe(from_adapter, shelf, base_model)
    elif config is not None:
        chosen = read_recipe(config, recipe or "quick")
    else:
        chosen = find_recipe(recipe or "quick")
    chosen = override_recipe(chosen, read_pairs(override or [], "--set"))
    request = TrainRequest(
        dataset=file,
        name=name,
        recipe=chosen,
        base_model=base_model,
        output=output or (Path(name) if no_register else None),
        mapping=read_mapping(mapping),
        group=group,
        allow_skips=allow_skips,
    )
    keeps = is_first and not no_register
    with console.progress() as progress:
        training = roads.train(
            request,
            registry=open_registry(tracking_uri, console) if keeps else None,
            progress=progress,
            say=console.listener,
        )
    if not is_first:
        return
    if as_json:
        console.print_json(training_json(name, training))
    else:
        console.say(training.dataset.describe())
        console.print_line(name if quiet else _training_line(name, training))


def _training_line(name: str, training: "Training") -> str:
    record, result = training.record, training.result
    version = None if record is None else record.version
    where = training.folder or f"registered as {name} v{version}"
    if result is None:
        return f"{name} was trained on these rows by this recipe before: {where}."
    held_out = result.held_out_loss
    beside = "" if held_out is None else f", held out {held_out:.3f}"
    return (
        f"{name}: loss {result.train_loss:.3f}{beside} nats per token, "
        f"{result.tokens_per_s:.0f} tokens/s, {result.seconds:.0f} s; {where}."
    )


def _train_sweep(
    manifest: Path,
    tracking_uri: str | None,
    base_model: str | None,
    *,
    allow_skips: bool,
    only_plan: bool,
    ray: str | None,
    console: Console,
) -> None:
    from adapt_lora.report.plain import sweep_json
    from adapt_lora.report.tables import sweep_table
    from adapt_lora.sweep import plan_sweep, run_sweep, spread_sweep

    registry = open_registry(tracking_uri, console)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise typer.BadParameter(
            "A launcher's processes train one adapter together; spread a manifest with --ray."
        )
    sweep = plan_sweep(
        manifest,
        registry=registry,
        base_model=base_model,
        allow_skips=allow_skips,
        say=console.listener,
    )
    if not only_plan:
        console.remark(sweep.describe())
        if ray is not None:
            sweep = spread_sweep(sweep, registry=registry, address=ray, say=console.listener)
        else:
            with console.progress() as progress:
                sweep = run_sweep(sweep, registry=registry, progress=progress, say=console.listener)
    if console.as_json:
        console.print_json(sweep_json(sweep))
    else:
        if not console.quiet:
            console.show(sweep_table(sweep))
        console.print_line(sweep.describe())
    if sweep.n_failed:
        raise typer.Exit(1)
