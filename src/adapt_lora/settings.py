"""What a user has set for good: `[tool.adapt]` of a pyproject.toml, and ADAPT_* variables."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapt_lora.errors import ConfigError

ENVIRONMENT_PREFIX = "ADAPT"
"""Each option may be set by a variable that begins so."""

NEVER_CONFIGURED = ("allow_code_execution", "accept_weak_sandbox")
"""Options that let strangers' code run: whoever runs it says so."""


def wants_tracebacks() -> bool:
    """Whether an error is shown with all that led to it."""
    return bool(os.environ.get(f"{ENVIRONMENT_PREFIX}_DEBUG"))


def configured_defaults(
    start: Path, options: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, Any]]:
    """Defaults by command and parameter, from the nearest pyproject.toml that has any.

    Args:
        start: Folder to look in first; then those above it.
        options: By command: option as it is written, "_" for "-", to the name of its parameter.

    Raises:
        ConfigError: The file names an option that there is not, or one that no project may set.
    """
    path = next((p / "pyproject.toml" for p in (start, *start.parents) if _has_settings(p)), None)
    if path is None:
        return {}
    settings = dict(_read_toml(path).get("tool", {}).get("adapt", {}))
    tables = [value for value in settings.values() if isinstance(value, dict)]
    for key in (key for table in (settings, *tables) for key in table):
        if key.replace("-", "_") in NEVER_CONFIGURED:
            raise ConfigError(
                f"{path}: {key!r} can't be set by a project, which may be a stranger's. Say "
                f"--{key.replace('_', '-')} on the command line."
            )
    defaults: dict[str, dict[str, Any]] = {name: {} for name in options}
    for key, value in settings.items():
        if isinstance(value, dict) and key in options:
            continue
        wanted = [name for name in options if key.replace("-", "_") in options[name]]
        if not wanted:
            raise ConfigError(f"{path}, [tool.adapt]: no command has an option {key!r}.")
        for name in wanted:
            defaults[name][options[name][key.replace("-", "_")]] = value
    for name in options:
        for key, value in settings.get(name, {}).items():
            if key.replace("-", "_") not in options[name]:
                raise ConfigError(f"{path}, [tool.adapt.{name}]: no option {key!r}.")
            defaults[name][options[name][key.replace("-", "_")]] = value
    return defaults


def _has_settings(folder: Path) -> bool:
    path = folder / "pyproject.toml"
    return path.is_file() and "[tool.adapt" in path.read_text(encoding="utf-8", errors="replace")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as TOML ({error}).") from error
