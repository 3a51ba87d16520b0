"""Pages of the site that are made from the code at hand, so that they can't fall behind it.

MkDocs calls `on_files` (mkdocs.yml names this file under `hooks`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.main import get_command

from adapt_lora.cli import app

ROOT = Path(__file__).resolve().parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference of the command line, and the changelog."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for name, text in (("commands.md", commands_page()), ("changelog.md", changelog)):
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> None:
    """Give a page that stands alone the room of a column that would only repeat its name."""
    if page.parent is None:
        page.meta.setdefault("hide", ["navigation"])


def commands_page() -> str:
    """The reference of the command line as Markdown: every command with all its options."""
    parts = [
        "# Command line",
        "Results go to stdout, progress and warnings to stderr. `--json` prints one object and "
        "nothing else ([JSON outputs](json.md)), `--help` says what stands here. The exit code is "
        "0, or 1 for an error, or 2 for wrong usage; `ADAPT_DEBUG=1` shows an error's traceback, "
        "and `adapt --install-completion` sets up your shell.",
        "An option also comes from its environment variable, which is named beside it, or from "
        "`pyproject.toml` in the working directory or above it; what is typed rules, then the "
        "variable, then the file:",
        '```toml\n[tool.adapt]\nbase-model = "HuggingFaceTB/SmolLM2-135M-Instruct"\n\n'
        "[tool.adapt.recommend]\ntop = 5\n```",
        "Options that let a model's code run are never taken from a file.",
    ]
    for words, command in _commands(get_command(app), ("adapt",)):
        parts += _command_section(words, command)
    return "\n\n".join(parts) + "\n"


def _commands(group: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it, as they stand in the code."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*words, name))
        else:
            yield (*words, name), command


def _command_section(words: tuple[str, ...], command: Any) -> list[str]:
    prefix = "_".join(words).upper()
    context = command.make_context(words[-1], [], resilient_parsing=True, auto_envvar_prefix=prefix)
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    rows = [f"| `{_argument_words(p)}` | {_cell(p.help)} | |" for p in arguments]
    for option in options:
        if "--help" in option.opts:
            continue
        shown = _cell(option.get_help_record(context)[0])
        needed = " (required)" if option.required else ""
        rows.append(
            f"| `{shown}`{needed} | {_cell(option.help)}<br>{_variables(option, prefix)} "
            f"| {_default(option)} |"
        )
    usage = " ".join([*words, *(_argument_words(p) for p in arguments), "[OPTIONS]"])
    head = "| | meaning, variable | default |\n|---|---|---|\n"
    return [f"## {' '.join(words)}", command.help, f"```text\n{usage}\n```", head + "\n".join(rows)]


def _argument_words(argument: Any) -> str:
    name = argument.name.upper() + ("…" if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _default(option: Any) -> str:
    plain = option.default is None or option.default is False or callable(option.default)
    if plain or option.required or option.default in ("", [], ()):
        return ""
    if option.default is True:
        return f"`{option.opts[0]}`"
    value = getattr(option.default, "value", option.default)
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _variables(option: Any, prefix: str) -> str:
    named = option.envvar or f"{prefix}_{option.name}".upper()
    names = [named] if isinstance(named, str) else named
    return " ".join(f"`{name}`" for name in names)


def _cell(text: str | None) -> str:
    """Text that can stand between two bars of a table."""
    return " ".join((text or "").split()).replace("|", "\\|")
