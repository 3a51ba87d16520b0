"""Show a registry in the browser: find a running MLflow server, or start one on this machine."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from adapt_lora.errors import RegistryError
from adapt_lora.model.base import BaseIdentity
from adapt_lora.registry.store import Registry

_START_TIMEOUT_S = 90


@dataclass(frozen=True, slots=True)
class Page:
    """A registry's page in a browser."""

    link: str
    """Address to open."""
    server: str
    """Address of the MLflow server."""
    process: "subprocess.Popen[bytes] | None"
    """The server, where this call started it; None where it was there already."""


def serve_ui(
    registry: Registry, base: BaseIdentity | None = None, *, port: int | None = None
) -> Page:
    """Find or start the MLflow server of a registry, reachable from this machine only.

    Args:
        registry: What to show.
        base: Whose adapters to open; None for the first base model.
        port: Of a server that has to be started; None for any free one.

    Raises:
        RegistryError: The server does not come up.
    """
    bases = [base] if base is not None else registry.bases()[:1]
    for shown in bases:
        registry.ensure_base(shown)
        registry.ensure_views(shown)
    server, process = _server(registry, port)
    link = (
        registry.ui_link(bases[0], server) if bases else f"{server}/?workflowType=machine_learning"
    )
    return Page(link=link, server=server, process=process)


def _server(registry: Registry, port: int | None) -> "tuple[str, subprocess.Popen[bytes] | None]":
    uri = registry.shown_uri
    if uri.startswith(("http://", "https://")):
        return uri, None
    if registry.database is None:
        raise RegistryError(f"No page for {uri}; start `mlflow server` for it and use its address.")
    note = registry.database.with_suffix(".server.json")
    running = _running_server(note)
    if running is not None:
        return running, None
    process, address = _start_server(
        registry.tracking_uri,
        port or _free_port(),
        artifacts=registry.database.parent / "artifacts",
        log=note.with_suffix(".log"),
    )
    note.write_text(json.dumps({"address": address, "pid": process.pid}), encoding="utf-8")
    return address, process


def _running_server(note: Path) -> str | None:
    """Address of the server that an earlier call started, if it is still that one."""
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
        os.kill(int(noted["pid"]), 0)
        address = str(noted["address"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return address if _is_healthy(address) else None


def _start_server(
    uri: str, port: int, *, artifacts: Path, log: Path
) -> "tuple[subprocess.Popen[bytes], str]":
    address = f"http://127.0.0.1:{port}"
    # The job runner is for chat traces; it would cost a second process of its size.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri),
                *("--default-artifact-root", artifacts.as_uri()),
                *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            ],
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if _is_healthy(address):
            return process, address
        if process.poll() is not None:
            break
        time.sleep(0.25)
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    raise RegistryError(f"The MLflow server did not start at {address}; its words are in {log}.")


def _is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
