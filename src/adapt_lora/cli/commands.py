"""The command line: every command in the order that help shows, and what an error becomes."""

import atexit
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from adapt_lora import __version__
from adapt_lora.cli import asking, data, exchange, measuring, shelf, suite, training
from adapt_lora.console import Console
from adapt_lora.errors import AdaptError, reason_of, refusal_of
from adapt_lora.settings import ENVIRONMENT_PREFIX, configured_defaults, wants_tracebacks


class _Commands(TyperGroup):
    """The one place where an error becomes a line and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except AdaptError as error:
            if wants_tracebacks():
                raise
            Console().say(f"Error: {error}", style="bold red")
            raise typer.Exit(1) from error
        except OSError as error:
            # A reader such as `head` that has seen enough is no error; Typer sees to it.
            if error.errno == errno.EPIPE or wants_tracebacks():
                raise
            Console().say(f"Error: {refusal_of(error)}", style="bold red")
            raise typer.Exit(1) from error
        # A bug of ours, or of a library: still one line, and the way to the rest of it. Typer's own
        # exceptions carry an exit code and mean something else.
        except Exception as error:
            if hasattr(error, "exit_code") or isinstance(error, typer.Abort) or wants_tracebacks():
                raise
            Console().say(
                f"Error: unexpected {type(error).__name__}: {reason_of(error)}. "
                "Set ADAPT_DEBUG=1 for the traceback.",
                style="bold red",
            )
            raise typer.Exit(1) from error


app = typer.Typer(
    name="adapt",
    cls=_Commands,
    no_args_is_help=True,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": ENVIRONMENT_PREFIX,
    },
    pretty_exceptions_enable=False,
    help="Which LoRA adapter will help on a new task, by how much, and how sure are we?",
    epilog="Options may also be set by ADAPT_* variables and by \\[tool.adapt] in pyproject.toml.",
)

_IN_ORDER: dict[str, Callable[..., None]] = {
    "recommend": asking.recommend,
    "fingerprint": asking.fingerprint,
    "train": training.train,
    "register": shelf.register,
    "evaluate": measuring.evaluate,
    "suite": suite.suite,
    "list": shelf.list_adapters,
    "show": shelf.show,
    "pull": shelf.pull,
    "push": shelf.push,
    "remove": shelf.remove,
    "matrix": measuring.matrix,
    "traits": measuring.traits,
    "analyse": measuring.analyse,
    "bench": measuring.bench,
    "export": exchange.export_registry,
    "import": exchange.import_results,
    "ui": shelf.ui,
    "doctor": exchange.doctor,
}
for name, command in _IN_ORDER.items():
    app.command(name)(command)
app.add_typer(data.data_app, name="data")


def _print_version(on: bool) -> None:
    if on:
        Console().print_line(f"adapt {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            show_envvar=False,
            help="Print the version.",
        ),
    ] = False,
) -> None:
    commands: dict[str, Any] = getattr(ctx.command, "commands", {})
    options = {name: _option_names(command) for name, command in commands.items()}
    ctx.default_map = configured_defaults(Path.cwd(), options)


def _option_names(command: Any) -> dict[str, str]:
    """Option as written, without dashes in front, to the name of its parameter."""
    return {
        written.lstrip("-").replace("-", "_"): parameter.name
        for parameter in command.params
        for written in parameter.opts
        if written.startswith("--")
    }


def main() -> None:
    """Entry point of the `adapt` command."""
    try:
        app(prog_name="adapt")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        # All that is left is to free torch's and the model's objects one by one, for two seconds.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
