"""Running code that a model wrote: shut off, bounded, and honest about what protects the machine.

Such code is a stranger's. It is run only on request, each answer in a process of its own
(`confined.py`) behind as many layers as the machine allows:

- *namespaces*: another root folder that holds the interpreter's files, read-only, and an empty
  /tmp of bounded size; no network, no other processes, no rights. bubblewrap lays them where it is
  installed and works, we do where it isn't;
- *landlock*: the same file rules, asked of the kernel by the process itself;
- *seccomp*: no sockets, no new processes, no signals to others, no way into other processes;
- *limits*: processor time, memory, file size, open files.

Where neither network nor files can be shielded, nothing is run unless the caller insists.
"""

import json
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from adapt_lora.data import Row
from adapt_lora.errors import CodeExecutionError

if TYPE_CHECKING:
    from adapt_lora.model.scoring import Steps

Layer = Literal["namespaces", "landlock", "seccomp", "limits"]
Status = Literal["passed", "failed", "broken", "out of time", "ended early"]
"""Every test was met; one was not; the answer or a test raised; a limit on time; no last word."""

RUNNER_VERSION = "1"
"""Goes into the protocol; raise it when an answer could fare otherwise."""

# Each of the layers named keeps code from the thing alone; what is said where none of them holds.
_GUARDS: Mapping[str, tuple[tuple[Layer, ...], str]] = {
    "the network": (("namespaces", "seccomp"), "the network was"),
    "your files": (("namespaces", "landlock"), "your files were"),
    "other processes": (("namespaces", "seccomp"), "other processes were"),
    "memory": (("limits",), "all memory was"),
    "processor time": (("limits",), "all processor time was"),
}
_SCRIPT = Path(__file__).with_name("confined.py")
_GRACE_S = 10.0
_SYSTEM_FILES = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo"),
    *("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"),
)
_FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one answer may use."""

    cpu_s: int = 10
    """Processor time, seconds; a busy machine does not change what it decides."""
    wall_s: float = 30.0
    """Time on the clock, seconds; then everything that the answer started is killed."""
    memory_bytes: int = 1 << 30
    """Address space."""
    file_bytes: int = 16 << 20
    """Size of one file that it writes."""
    disk_bytes: int = 64 << 20
    """Size of all its files together; held in namespaces only."""
    n_processes: int = 64
    """Threads and processes; seccomp refuses processes altogether."""


@dataclass(frozen=True, slots=True)
class Protection:
    """What stands between the machine and the code that is run on it."""

    missing: Mapping[str, str]
    """Layers that could not be laid, each with the reason."""
    bubblewrap: str | None = None
    """The program that lays the namespaces; None where we do, or nobody can."""

    @property
    def in_force(self) -> tuple[str, ...]:
        """Layers that hold."""
        return tuple(name for name in get_args(Layer) if name not in self.missing)

    @property
    def shields_network(self) -> bool:
        """Whether code can't reach any network."""
        return bool(self._guards("the network"))

    @property
    def shields_files(self) -> bool:
        """Whether code sees no file but the interpreter's, and writes to its own folder alone."""
        return bool(self._guards("your files"))

    @property
    def is_enough(self) -> bool:
        """Whether code is run without the caller insisting."""
        return self.shields_network and self.shields_files and "limits" in self.in_force

    def describe(self) -> str:
        """One sentence for people: what holds, what it shields, and what does not."""
        text = f"Code ran in a process of its own behind {' + '.join(self.in_force) or 'nothing'}"
        if self.bubblewrap is not None:
            text = text.replace("namespaces", "namespaces (laid by bubblewrap)")
        shields = {what: self._guards(what) for what in _GUARDS}
        held = [f"{what} ({', '.join(by)})" for what, by in shields.items() if by]
        if held:
            text += f", which shield {', '.join(held)}"
        for what, by in shields.items():
            if not by:
                text += f"; {_GUARDS[what][1]} open to it"
        reasons = "; ".join(f"no {name}: {why}" for name, why in self.missing.items())
        return f"{text} ({reasons})." if reasons else f"{text}."

    def _guards(self, what: str) -> list[str]:
        """The layers in force that shield a thing."""
        return [layer for layer in _GUARDS[what][0] if layer in self.in_force]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one answer fared on its tests."""

    status: Status
    """In a word."""
    error: str
    """Name of the exception that ended it, else ""."""

    @property
    def passed(self) -> bool:
        """Whether every test was met."""
        return self.status == "passed"


@dataclass(frozen=True)
class CodeRunner:
    """Runs answers against their unit tests; grades pass@1.

    An answer that sets out to forge its own verdict can: it shares a process with its tests, as in
    every harness for such benchmarks. What it can't do is reach the machine.
    """

    limits: Limits = field(default_factory=Limits)
    """What one answer may use."""
    protection: Protection = field(default_factory=lambda: Protection({}))
    """What was found to hold on this machine, see `open_runner`."""
    accept_weak: bool = False
    """Whether to go on where network or files are not shielded."""
    n_workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Answers that are run at once."""

    def protocol_key(self, rows: Sequence[Row]) -> str:
        """What decides a grade beside the answer: tests, limits, and the Python that runs them."""
        tests = json.dumps([row.tests for row in rows])
        python = ".".join(map(str, sys.version_info[:2]))
        limits = f"{self.limits.cpu_s}s/{self.limits.memory_bytes >> 20}MiB"
        digest = sha256(tests.encode()).hexdigest()
        return f"code:{RUNNER_VERSION}:python{python}:{limits}:{digest}"

    def grade(
        self,
        rows: Sequence[Row],
        answers: Sequence[str],
        *,
        progress: "Steps | None" = None,
    ) -> list[float | None]:
        """1.0 for each answer that meets all tests of its row, else 0.0."""
        outcomes: list[float | None] = []
        with ThreadPoolExecutor(self.n_workers) as pool:
            jobs = pool.map(
                lambda pair: self.run(pair[0], pair[1].tests), zip(answers, rows, strict=True)
            )
            for outcome in jobs:
                outcomes.append(float(outcome.passed))
                if progress is not None:
                    progress(len(outcomes), len(rows))
        return outcomes

    def run(self, answer: str, tests: Sequence[str]) -> Outcome:
        """Run an answer, then its tests in order, in a fresh process.

        Raises:
            CodeExecutionError: The protection that was found at first does not hold any more.
        """
        verdict = _start(
            extract_code(answer), tests, self.limits, self.protection, weak=self.accept_weak
        )
        if verdict["status"] not in get_args(Status):
            raise CodeExecutionError(
                f"Code can't be run any more as it could at first ({verdict['status']}). Try again."
            )
        return Outcome(verdict["status"], str(verdict.get("error", ""))[:80])


def open_runner(
    *,
    limits: Limits | None = None,
    accept_weak: bool = False,
    without: Sequence[Layer] = (),
    own_walls: bool = False,
    n_workers: int | None = None,
) -> CodeRunner:
    """A runner that knows what protection this machine gives.

    Args:
        limits: What one answer may use.
        accept_weak: Run code even where network or files can't be shielded.
        without: Layers to leave out, to see what the others do alone.
        own_walls: Lay the namespaces ourselves, even where bubblewrap is installed.
        n_workers: Answers that are run at once; all processors by default.

    Raises:
        CodeExecutionError: Network or files can't be shielded and `accept_weak` is not set, or the
            machine can't run such a process at all.
    """
    limits = limits or Limits()
    missing: dict[str, str] = {name: "left out" for name in without}
    bubblewrap = None if own_walls or "namespaces" in missing else shutil.which("bwrap")
    verdict = _start("", (), limits, Protection(missing, bubblewrap), weak=True)
    # It may be too old, or the machine may not let it: only a program that ran behind it tells.
    if bubblewrap is not None and verdict.get("layers", {}).get("namespaces") != "":
        bubblewrap = None
        verdict = _start("", (), limits, Protection(missing), weak=True)
    if verdict["status"] == "no namespaces":
        missing["namespaces"] = verdict["layers"]["namespaces"]
        verdict = _start("", (), limits, Protection(missing), weak=True)
    if "layers" not in verdict:
        raise CodeExecutionError(
            f"Code can't be run on this machine ({verdict['status']}), so it can't be scored by "
            "pass@1. Choose another metric."
        )
    layers = {name: why for name, why in verdict["layers"].items() if why}
    found = Protection(layers, bubblewrap)
    if not (found.is_enough or accept_weak):
        open_to = [
            what
            for what, shielded in (
                ("the network", found.shields_network),
                ("your files", found.shields_files),
            )
            if not shielded
        ]
        reasons = "; ".join(f"{name}: {why}" for name, why in found.missing.items())
        raise CodeExecutionError(
            f"Code that a model wrote would have {' and '.join(open_to) or 'no limits'} open to it "
            f"on this machine ({reasons}). Run it in a container or virtual machine that you can "
            "lose and pass --accept-weak-sandbox there."
        )
    workers = n_workers or os.cpu_count() or 1
    return CodeRunner(limits, found, accept_weak, workers)


def extract_code(answer: str) -> str:
    """The program in an answer: the first fenced block that may be Python, else the whole text."""
    for language, code in _FENCE.findall(answer):
        if language.lower() in ("", "python", "python3", "py"):
            return str(code)
    return answer


def _start(
    answer: str, tests: Sequence[str], limits: Limits, protection: Protection, *, weak: bool
) -> dict[str, Any]:
    """What `confined.py` reports about one program."""
    if platform.system() == "Windows":
        return {"status": "Windows has none of the protections; use WSL"}
    bubblewrap = protection.bubblewrap
    with tempfile.TemporaryDirectory(prefix="adapt-code-", ignore_cleanup_errors=True) as folder:
        job = {
            **asdict(limits),
            "answer": answer,
            "tests": list(tests),
            "without": dict(protection.missing),
            "bubble": bubblewrap is not None,
            "weak": weak,
            "folder": os.path.realpath(folder),
            "readable": _readable(),
        }
        # -P and -S: neither this package's folder nor installed packages can be imported there.
        command = [sys.executable, "-B", "-P", "-S", "-s", str(_SCRIPT)]
        if bubblewrap is not None:
            command = _in_bubble(bubblewrap, command, job["readable"])
        return _report(command, job, folder, limits.wall_s + _GRACE_S)


def _in_bubble(bubblewrap: str, command: Sequence[str], readable: Sequence[str]) -> list[str]:
    """The command line that runs an interpreter on `confined.py` behind bubblewrap's walls.

    No new session is asked for: the process is given one of its own, without a terminal.
    """
    python = os.path.realpath(command[0])
    walls = [bubblewrap, "--die-with-parent", "--unshare-user", "--unshare-ipc", "--unshare-pid"]
    walls += ["--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    # Rights inside the walls alone, with which the keeper finishes them; the program has none.
    walls += ["--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SETPCAP"]
    walls += ["--tmpfs", "/tmp"]
    shown: list[str] = []
    for path in [*readable, python]:
        if not os.path.lexists(path) or any(path.startswith(f"{place}/") for place in shown):
            continue
        if os.path.islink(path):
            walls += ["--symlink", os.readlink(path), path]
            continue
        is_device = stat.S_ISCHR(os.stat(path).st_mode)
        walls += ["--dev-bind" if is_device else "--ro-bind", path, path]
        shown.append(path)
    inside = f"/{_SCRIPT.name}"
    walls += ["--ro-bind", command[-1], inside, "--remount-ro", "/", "--chdir", "/tmp"]
    return [*walls, "--", python, *command[1:-1], inside]


def _report(
    command: Sequence[str], job: Mapping[str, Any], folder: str, timeout_s: float
) -> dict[str, Any]:
    # The hash seed makes the order of sets, and so a verdict, the same in every run.
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "TZ": "UTC"},
        start_new_session=True,
    )
    try:
        out, problem = process.communicate(json.dumps(job).encode(), timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return {"status": "out of time"}
    finally:
        _end_group(process)
    try:
        verdict: dict[str, Any] = json.loads(out)
    except ValueError:
        last = problem.decode(errors="replace").strip().rpartition("\n")[2][:200]
        return {"status": last or "ended early"}
    return verdict


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill all that is left of a process and of what it started in its session."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _readable() -> list[str]:
    """Files and folders that an interpreter needs to see, and nothing of a person's."""
    own = [
        sysconfig.get_paths(vars=_base_variables())["stdlib"],
        sysconfig.get_paths(vars=_base_variables())["platstdlib"],
        sysconfig.get_config_var("LIBDIR"),
    ]
    homes = [Path.home().resolve(), *Path.home().resolve().parents]
    # As the interpreter spells them and as they really lie, folders before what is in them.
    both = [spelt for path in own if path for spelt in (path, os.path.realpath(path))]
    shown = [path for path in both if os.path.isdir(path) and Path(path).resolve() not in homes]
    return sorted({*shown, *_SYSTEM_FILES})


def _base_variables() -> dict[str, str]:
    """The installation behind a virtual environment, whose own folder holds no standard library."""
    return {
        "base": sys.base_prefix,
        "installed_base": sys.base_prefix,
        "platbase": sys.base_exec_prefix,
        "installed_platbase": sys.base_exec_prefix,
    }
