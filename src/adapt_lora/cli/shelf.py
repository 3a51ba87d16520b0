"""What is on the shelf: adapters filed, shown, fetched, passed on and taken off."""

import contextlib
import signal
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapt_lora.cli.options import (
    AllowSkipsFlag,
    BaseModelOption,
    GroupOption,
    JsonFlag,
    MapOption,
    NameArgument,
    QuietFlag,
    RegistryOption,
    named_base,
    open_registry,
    read_mapping,
)
from adapt_lora.console import Console
from adapt_lora.errors import NotFoundError

if TYPE_CHECKING:
    from adapt_lora.registry import Registry
    from adapt_lora.registry.records import AdapterRecord
    from adapt_lora.report.transfer import GainSummary


def register(
    source: Annotated[
        str | None, typer.Argument(help="Folder, Hub id, models:/… or runs:/….")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Its training data, if known.")] = None,
    group: GroupOption = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Name of the entry.")] = None,
    base_model: BaseModelOption = None,
    mapping: MapOption = None,
    allow_skips: AllowSkipsFlag = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Check a registered adapter, named in place of the source, or all of them that "
            "were registered while their base model was not at hand.",
        ),
    ] = False,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Check an adapter and file it in the registry."""
    from adapt_lora import roads
    from adapt_lora.report.plain import adapter_json

    console = Console(as_json, quiet)
    if check:
        if dataset or group or name or mapping or allow_skips:
            raise typer.BadParameter("--check takes a name, --base-model, and nothing else.")
        _check(source, base_model, open_registry(tracking_uri, console), console)
        return
    if source is None:
        raise typer.BadParameter("Missing argument 'SOURCE'.")
    notes: list[str] = []
    with console.progress() as progress:
        record = roads.register(
            source,
            registry=open_registry(tracking_uri, console),
            dataset=dataset,
            group=group,
            name=name,
            base_model=base_model,
            mapping=read_mapping(mapping),
            allow_skips=allow_skips,
            progress=progress,
            say=console.listener,
            warn=notes.append,
        )
    if as_json:
        console.print_json({**adapter_json(record), "notes": notes})
        return
    state = "is registered." if record.unchecked is None else "is registered, not checked."
    console.print_line(record.name if quiet else f"{record.name} version {record.version} {state}")
    if record.unchecked is not None:
        again = f"`adapt register --check {record.name}/{record.version}`"
        notes.append(
            f"Not checked: {record.unchecked.partition(': ')[2]} Once the base model is on this "
            f"disk, {again} checks it."
        )
    console.warn([*notes, *record.warnings])


def _check(
    reference: str | None, base_model: str | None, registry: "Registry", console: Console
) -> None:
    """Check adapters that were registered without their base model, and say what came of it."""
    from adapt_lora import roads
    from adapt_lora.report.plain import adapter_json

    with console.progress() as progress:
        done = roads.check_registered(
            [reference] if reference else [],
            registry=registry,
            base_model=base_model,
            progress=progress,
            warn=lambda sentence: console.warn([sentence]),
        )
    failed = [one for one in done if one.failure is not None]
    if console.as_json:
        adapters = [
            {**adapter_json(one.record), **({"failure": one.failure} if one.failure else {})}
            for one in done
        ]
        console.print_json({"adapters": adapters})
    elif not done:
        console.print_line("Every adapter is checked already.")
    for one in done:
        what = f"{one.record.name} version {one.record.version}"
        if one.failure is not None:
            console.say(f"{what}: {one.failure}", style="red")
        elif not console.as_json:
            console.print_line(f"{what} is checked.")
    if failed:
        raise typer.Exit(1)


def list_adapters(
    base_model: BaseModelOption = None,
    sort: Annotated[
        str,
        typer.Option(
            help="name, created, gain (elsewhere, best first), or a figure such as "
            "fingerprint/response_ppl."
        ),
    ] = "created",
    contains: Annotated[
        str,
        typer.Option("--filter", envvar="ADAPT_LIST_FILTER", help="Part of a name or group."),
    ] = "",
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show the registered adapters."""
    from adapt_lora.report.plain import adapter_json, gains_json
    from adapt_lora.report.tables import adapters_table
    from adapt_lora.report.transfer import gain_summaries

    console = Console(as_json, quiet)
    registry = open_registry(tracking_uri, console)
    found = registry.adapters(named_base(registry, base_model))
    gains: dict[str, Sequence[GainSummary]] = {}
    for base in dict.fromkeys(record.base for record in found):
        gains |= gain_summaries(registry.transfer_matrix(base))
    records = _sorted_records(
        [r for r in found if contains in r.name or contains in (r.group or "")], sort, gains
    )
    if as_json:
        content = []
        for record in records:
            known = gains_json(gains.get(record.adapter_id, ()))
            content.append({**adapter_json(record), **({"gain": known} if known else {})})
        console.print_json({"adapters": content})
    elif quiet:
        for record in records:
            console.print_line(record.name)
    else:
        console.show(adapters_table(records, gains=gains, width=console.width))


def _sorted_records(
    records: "list[AdapterRecord]", key: str, gains: "Mapping[str, Sequence[GainSummary]]"
) -> "list[AdapterRecord]":
    if key == "name":
        return sorted(records, key=lambda record: record.name)
    if key == "created":
        return sorted(records, key=lambda record: record.created_ms)
    if key == "gain":
        return sorted(records, key=lambda record: _by_gain(gains.get(record.adapter_id, ())))
    figures = {record.adapter_id: _figures(record) for record in records}
    have = [record for record in records if key in figures[record.adapter_id]]
    if not have and records:
        known = sorted({name for figure in figures.values() for name in figure})
        raise NotFoundError(
            f"--sort {key}: no adapter has this figure. There are, among others: "
            f"name, created, gain, {', '.join(known[:6])}."
        )
    lacking = [record for record in records if key not in figures[record.adapter_id]]
    return sorted(have, key=lambda record: figures[record.adapter_id][key]) + lacking


def _by_gain(summaries: "Sequence[GainSummary]") -> tuple[int, float]:
    """Where an adapter stands by its mean gain elsewhere: points before nats, unknown ones last."""
    for summary in summaries:
        if summary.mean is not None:
            return (0 if summary.unit == "points" else 1), -summary.mean
    return 2, 0.0


def _figures(record: "AdapterRecord") -> dict[str, float]:
    """What an adapter can be sorted by: every number, settings such as "lora/r" among them."""
    from adapt_lora.report.plain import adapter_json

    found = {}
    for name, value in adapter_json(record, whole=True).items():
        with contextlib.suppress(TypeError, ValueError):
            if "/" in name:
                found[name] = float(value)
    return found


def show(
    name: NameArgument,
    everything: Annotated[
        bool,
        typer.Option("--all", envvar="ADAPT_SHOW_ALL", help="Every figure and setting there is."),
    ] = False,
    base_model: BaseModelOption = None,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show what matters about one adapter, or all that is known."""
    from rich.markdown import Markdown

    from adapt_lora.report.card import adapter_card_markdown
    from adapt_lora.report.plain import adapter_json, known_fields
    from adapt_lora.report.tables import adapter_page
    from adapt_lora.report.transfer import adapter_gains

    console = Console(as_json, quiet)
    registry = open_registry(tracking_uri, console)
    record = registry.adapter(name, named_base(registry, base_model))
    gains = adapter_gains(registry.transfer_matrix(record.base), record)
    if as_json:
        measured = [known_fields(gain) for gain in gains]
        console.print_json({**adapter_json(record, whole=True), "gains": measured})
    elif everything:
        console.show(Markdown(adapter_card_markdown(record, gains)))
    else:
        console.show(adapter_page(record, gains))


def pull(
    name: NameArgument,
    folder: Annotated[Path, typer.Argument(help="Folder to put the PEFT files into.")],
    base_model: BaseModelOption = None,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Copy an adapter's PEFT files into a folder, with a README of data, gains and usage."""
    from adapt_lora import roads

    console = Console(as_json, quiet)
    registry = open_registry(tracking_uri, console)
    record = registry.adapter(name, named_base(registry, base_model))
    pulled = roads.pull(record, folder, registry=registry)
    if as_json:
        console.print_json({"adapter": name, "folder": str(pulled)})
    else:
        console.print_line(str(pulled))


def push(
    name: NameArgument,
    repo: Annotated[str, typer.Argument(help="Hub repository, org/name.")],
    public: Annotated[bool, typer.Option(help="Create it public; private by default.")] = False,
    base_model: BaseModelOption = None,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Upload an adapter with its card and fingerprint to the Hub; never rows of data."""
    import tempfile

    from adapt_lora.registry.exchange.hub import push_adapter
    from adapt_lora.report.card import adapter_card_markdown
    from adapt_lora.report.transfer import adapter_gains

    console = Console(as_json, quiet)
    registry = open_registry(tracking_uri, console)
    record = registry.adapter(name, named_base(registry, base_model))
    gains = adapter_gains(registry.transfer_matrix(record.base), record)
    with tempfile.TemporaryDirectory(prefix="adapt-push-") as scratch:
        folder = registry.pull(record, Path(scratch) / "adapter")
        body = adapter_card_markdown(record, gains, folder=repo)
        link = push_adapter(record, folder, repo, body=body, private=not public)
    if as_json:
        console.print_json({"adapter": name, "repo": repo, "link": str(link)})
    else:
        console.print_line(str(link))


def remove(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    base_model: BaseModelOption = None,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Take an adapter and its cells out of the registry."""
    from adapt_lora.registry.records import DamagedEntry

    console = Console(as_json, quiet)
    registry = open_registry(tracking_uri, console)
    record = registry.entry(name, named_base(registry, base_model))
    if not yes:
        typer.confirm(f"Remove {record.name} version {record.version} and its scores?", abort=True)
    if isinstance(record, DamagedEntry):
        registry.remove_damaged(record)
    else:
        registry.remove(record)
    if as_json:
        console.print_json({"removed": record.name, "version": record.version})
    else:
        console.print_line(f"{record.name} version {record.version} is removed.")


def ui(
    base_model: BaseModelOption = None,
    port: Annotated[int | None, typer.Option(help="Port of a server to be started.")] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the link.")] = False,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Open the registry in MLflow's own pages."""
    from adapt_lora.registry.ui import serve_ui

    console = Console(as_json, quiet)
    registry = open_registry(tracking_uri, console)
    console.remark(f"Registry: {registry.tracking_uri}", style="dim")
    page = serve_ui(registry, named_base(registry, base_model), port=port)
    if as_json:
        console.print_json({"link": page.link, "server": page.server})
    else:
        console.print_line(page.link)
    sys.stdout.flush()  # a caller that reads the link waits for it, not for the server's end
    if not no_browser:
        webbrowser.open(page.link)
    if page.process is not None:
        console.say("The server runs until you press Ctrl-C.")
        # A plain kill must take the server along, too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            page.process.wait()
        except KeyboardInterrupt:
            pass
        finally:
            page.process.terminate()
            page.process.wait()
