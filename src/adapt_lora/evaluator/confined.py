"""The process in which code that a model wrote is run; `sandbox.py` starts it as a script.

It imports the standard library alone and must not import Adapt: it is started by a bare
interpreter, and whatever is loaded here lies open to the code that it runs. Two processes are at
work: the *keeper* lays the walls, keeps the time and reports; its child, the *cell*, gives up its
last rights and runs the program.

Input: one JSON object on stdin, as `sandbox.CodeRunner` writes it: the limits, the answer and its
tests, the files to be seen, whether bubblewrap started this process behind walls of its own, and
the layers of protection to leave out, with reasons. Output: one
JSON object on stdout: "status", "error" (an exception's name), "layers" (name to why it is not
there, "" where it is).
"""

import builtins
import ctypes
import json
import os
import platform
import secrets
import select
import signal
import stat
import struct
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False  # `typing` itself would cost a quarter of the start-up
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

    Job = dict[str, Any]

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_THREAD = 0x10000
MS_NOSUID, MS_NODEV, MS_REMOUNT = 0x2, 0x4, 0x20
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 0x1, 0x2, 0x4
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 24, 36, 38
SECCOMP_MODE_FILTER = 2

# The same on every architecture, like all system calls added since 2019.
SYS_MOUNT_SETATTR = 442
SYS_LANDLOCK_CREATE, SYS_LANDLOCK_ADD_RULE, SYS_LANDLOCK_RESTRICT = 444, 445, 446

EPERM, ENOSYS = 1, 38

# What the program may not ask of the kernel. Sockets: no network, whatever else stands or falls.
# New processes: no fork bomb, and nothing that outlives the cell. Memory that no limit counts
# (System V, memfd). The rest: other processes' memory, mounts, keys, and kernel features with a
# record of holes.
_REFUSED = {
    "x86_64": (
        0xC000003E,
        {
            **{"socket": 41, "connect": 42, "bind": 49, "listen": 50, "fork": 57, "vfork": 58},
            **{"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "unshare": 272},
            **{"setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161},
            **{"bpf": 321, "perf_event_open": 298, "keyctl": 250, "add_key": 248},
            **{"request_key": 249, "userfaultfd": 323, "open_by_handle_at": 304},
            **{"init_module": 175, "finit_module": 313, "rt_sigqueueinfo": 129},
            **{"rt_tgsigqueueinfo": 297, "tkill": 200, "shmget": 29, "semget": 64, "msgget": 68},
            **{"memfd_create": 319, "reboot": 169, "syslog": 103, "personality": 135},
        },
        {"clone": 56, "kill": 62, "tgkill": 234, "prlimit64": 302},
    ),
    "aarch64": (
        0xC00000B7,
        {
            **{"socket": 198, "connect": 203, "bind": 200, "listen": 201},
            **{"ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "unshare": 97},
            **{"setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51},
            **{"bpf": 280, "perf_event_open": 241, "keyctl": 219, "add_key": 217},
            **{"request_key": 218, "userfaultfd": 282, "open_by_handle_at": 265},
            **{"init_module": 105, "finit_module": 273, "rt_sigqueueinfo": 138},
            **{"rt_tgsigqueueinfo": 240, "tkill": 130, "shmget": 194, "semget": 190},
            **{"msgget": 186, "memfd_create": 279, "reboot": 142, "syslog": 116},
            **{"personality": 92},
        },
        {"clone": 220, "kill": 129, "tgkill": 131, "prlimit64": 261},
    ),
}
_REFUSED_EVERYWHERE = {
    **{"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427},
    **{"pidfd_send_signal": 424, "pidfd_open": 434, "pidfd_getfd": 438, "open_tree": 428},
    **{"move_mount": 429, "fsopen": 430, "mount_setattr": SYS_MOUNT_SETATTR},
}
_SYS_CLONE3 = 435


class _Refused(Exception):
    """The kernel does not give a layer of protection here; the text says why."""


def main() -> None:
    """Read the job, confine and run it, report."""
    job = json.load(sys.stdin)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    layers: dict[str, str] = dict(job["without"])
    if "namespaces" not in layers:
        lay = _finish_bubble if job["bubble"] else _enter_namespaces
        layers["namespaces"] = _tried(lambda: lay(libc, job))
        if layers["namespaces"]:
            # Half-built walls can't be taken down here: whoever called starts anew without them.
            json.dump({"status": "no namespaces", "layers": layers}, sys.stdout)
            return
    told, tell = os.pipe()
    nonce = secrets.token_hex(16)
    keeper = os.getpid()
    cell = os.fork()
    if cell == 0:
        os.close(told)
        _live_in_cell(libc, job, layers, tell, nonce, keeper)
        os._exit(0)
    os.close(tell)
    words, in_time = _listen(told, job["wall_s"])
    used_s = _kill(cell)
    if layers["namespaces"]:
        _kill_orphans()
    # The kernel kills before the time that it reports reaches the limit: on a busy machine, where
    # it counts in ticks that others had, by more than a tenth.
    in_time = in_time and used_s < 0.7 * job["cpu_s"]
    json.dump(_verdict(words, nonce, in_time), sys.stdout)


def _tried(step: "Callable[[], None]") -> str:
    """Why a layer could not be laid; nothing where it could."""
    try:
        step()
    except _Refused as refusal:
        return str(refusal)
    except (OSError, AttributeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


# ---- The keeper ------------------------------------------------------------------------------


def _listen(pipe: int, wall_s: float) -> "tuple[bytes, bool]":
    """All that the cell says until it ends, and whether it ended in time."""
    deadline, words = time.monotonic() + wall_s, b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            return words, False
        piece = os.read(pipe, 4096)
        if not piece or len(words) > 8192:
            return words, True
        words += piece


def _kill(cell: int) -> float:
    """End the cell and all that is in it; returns the processor time that it took, seconds."""
    # In a PID namespace the cell is the first process: the kernel kills all others with it.
    for stop in (os.kill, os.killpg):
        with suppress(OSError):  # it has ended, or never came to lead a group
            stop(cell, signal.SIGKILL)
    used = os.wait4(cell, 0)[2]
    return used.ru_utime + used.ru_stime


def _kill_orphans() -> None:
    """Kill what the cell left behind: as their reaper the keeper is their parent now."""
    for _ in range(200):
        orphans = _children()
        for orphan in orphans:
            with suppress(OSError):
                os.kill(orphan, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _children() -> "list[int]":
    own, found = os.getpid(), []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        try:
            with open(f"/proc/{int(name)}/stat") as file:
                after_name = file.read().rpartition(")")[2].split()
        except (ValueError, OSError):
            continue
        if int(after_name[1]) == own:
            found.append(int(name))
    return found


def _verdict(words: bytes, nonce: str, in_time: bool) -> "Job":
    """The cell's last words, believed only with the nonce that it was given."""
    verdict: Job = {"status": "running"}
    for line in words.decode("utf-8", "replace").splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and said.pop("nonce", None) == nonce:
            verdict.update(said)
    if verdict["status"] == "running":
        verdict["status"] = "ended early" if in_time else "out of time"
    return verdict


# ---- Namespaces: another root, no network, no other processes -------------------------------


def _enter_namespaces(libc: ctypes.CDLL, job: "Job") -> None:
    """Become owner of fresh namespaces whose root holds the interpreter, read-only, and a /tmp."""
    user, group = os.geteuid(), os.getegid()
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    _check(libc.unshare(flags), "unshare")
    for path, text in (
        ("/proc/self/setgroups", "deny"),
        ("/proc/self/uid_map", f"{user} {user} 1"),
        ("/proc/self/gid_map", f"{group} {group} 1"),
    ):
        with open(path, "w") as file:
            file.write(text)
    root = job["folder"]
    _check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount /")
    _mount_tmpfs(libc, root, "size=1m,nr_inodes=1024,mode=755")
    os.mkdir(f"{root}/tmp")
    # An interpreter that lives below /tmp is shown in there.
    _mount_tmpfs(libc, f"{root}/tmp", f"{_bounds(job)},mode=700")
    for path in job["readable"]:
        _show_inside(libc, path, root)
    os.chdir(root)
    _check(libc.pivot_root(b".", b"."), "pivot_root")
    _check(libc.umount2(b".", MNT_DETACH), "umount2")
    os.chdir("/tmp")
    _seal(libc, "/", 0)


def _finish_bubble(libc: ctypes.CDLL, job: "Job") -> None:
    """What bubblewrap has no options for, with the rights that it left the keeper for this."""
    for path in job["readable"]:
        # It shows a device so that its owner, who may be root outside too, could change its rights.
        if os.path.exists(path) and stat.S_ISCHR(os.stat(path).st_mode):
            _seal(libc, path)
    _check(
        libc.mount(None, b"/tmp", None, MS_REMOUNT | MS_NOSUID | MS_NODEV, _bounds(job).encode()),
        "bound /tmp",
    )
    # The keeper stays outside of what the cell sees, and so can't be stopped from there.
    _check(libc.unshare(CLONE_NEWPID), "unshare")


def _bounds(job: "Job") -> str:
    """Of /tmp, the only place to write to: the size and number of all files of a program."""
    return f"size={job['disk_bytes']},nr_inodes=4096"


def _mount_tmpfs(libc: ctypes.CDLL, place: str, options: str) -> None:
    flags = MS_NOSUID | MS_NODEV
    _check(
        libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", flags, options.encode()),
        f"mount {place}",
    )


def _show_inside(libc: ctypes.CDLL, path: str, root: str) -> None:
    """Make a path of the machine appear at the same place in the new root, read-only."""
    inside = root + path
    if not os.path.lexists(path) or os.path.lexists(inside):
        return
    os.makedirs(os.path.dirname(inside), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), inside)
        return
    if os.path.isdir(path):
        os.mkdir(inside)
    else:
        os.close(os.open(inside, os.O_CREAT | os.O_WRONLY, 0o444))
    source, target = os.fsencode(path), os.fsencode(inside)
    _check(libc.mount(source, target, None, MS_BIND | MS_REC, None), f"mount {path}")
    _seal(libc, inside)


def _seal(libc: ctypes.CDLL, place: str, reach: int = AT_RECURSIVE) -> None:
    """Let nothing be changed in a mounted place, nor in what is mounted below it."""
    attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID
    if not stat.S_ISCHR(os.stat(place).st_mode):
        attributes |= MOUNT_ATTR_NODEV
    sealed = struct.pack("=QQQQ", attributes, 0, 0, 0)
    _check(
        libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, os.fsencode(place), reach, sealed, len(sealed)),
        f"seal {place}",
    )


# ---- The cell --------------------------------------------------------------------------------


def _live_in_cell(
    libc: ctypes.CDLL,
    job: "Job",
    layers: "dict[str, str]",
    tell: int,
    nonce: str,
    keeper: int,
) -> None:
    """Give up all rights but to compute, then run the program and say how it went."""
    os.setsid()
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if layers["namespaces"] and os.getppid() != keeper:
        return  # the keeper died before the line above
    own = job["folder"] if layers["namespaces"] else "/tmp"
    os.chdir(own)
    os.environ.update(HOME=own, TMPDIR=own)
    void = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(void, stream)
    # Nothing that the keeper or its parents left open may be had by number.
    os.closerange(3, tell)
    os.closerange(tell + 1, 4096)
    layers["limits"] = _tried(lambda: _limit(job))
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    _drop_capabilities(libc)
    if "landlock" not in layers:
        layers["landlock"] = _tried(lambda: _lock_files(libc, job["readable"], own))
    if "seccomp" not in layers:
        layers["seccomp"] = _tried(lambda: _filter_calls(libc))
    # In namespaces only what runs in the cell counts; elsewhere all that the user runs, so it is
    # left alone where new processes are refused anyhow. The kernel exempts root.
    if not layers["namespaces"] or layers["seccomp"]:
        with suppress(ValueError, OSError):
            _bound("RLIMIT_NPROC", job["n_processes"])
    held = {name for name, refusal in layers.items() if not refusal}
    no_network = bool(held & {"namespaces", "seccomp"})
    no_files = bool(held & {"namespaces", "landlock"})

    def say(status: str, error: str = "") -> None:
        words = {"nonce": nonce, "status": status, "error": error, "layers": layers}
        os.write(tell, json.dumps(words).encode() + b"\n")

    if not (no_network and no_files and "limits" in held) and not job["weak"]:
        say("refused")
        return
    say("running")
    say(*_run(job["answer"], job["tests"]))


def _limit(job: "Job") -> None:
    _bound("RLIMIT_CORE", 0)
    _bound("RLIMIT_AS", job["memory_bytes"])
    _bound("RLIMIT_DATA", job["memory_bytes"])
    _bound("RLIMIT_FSIZE", job["file_bytes"])
    _bound("RLIMIT_NOFILE", 64)
    _bound("RLIMIT_CPU", job["cpu_s"])


def _bound(name: str, value: int) -> None:
    import resource

    what = getattr(resource, name, None)
    if what is not None:
        hard = resource.getrlimit(what)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (bound, bound))


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = struct.pack("=Ii", 0x20080522, 0)  # version 3, this process
    libc.capset(header, bytes(24))


# ---- Landlock: files and TCP, by an ordinary process's own wish -------------------------------


def _lock_files(libc: ctypes.CDLL, readable: "list[str]", own: str) -> None:
    """Leave only the interpreter's files to be read and the job's own folder to be written."""
    version = libc.syscall(SYS_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        raise _Refused("the kernel has no Landlock, or it is switched off")
    everything = (1 << 13) - 1
    everything |= (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    everything |= 1 << 15 if version >= 5 else 0
    network = 3 if version >= 4 else 0
    scoped = 3 if version >= 6 else 0  # abstract UNIX sockets, signals to others
    rules = struct.pack("=QQQ", everything, network, scoped)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(SYS_LANDLOCK_CREATE, rules, ctypes.c_size_t(size), 0)
    _check(ruleset, "landlock_create_ruleset")
    read = 1 | 1 << 2 | 1 << 3  # execute, read a file, list a folder
    places = [(path, read) for path in readable]
    places += [(own, everything & ~(1 << 6 | 1 << 9 | 1 << 11)), ("/dev/null", read | 1 << 1)]
    for path, rights in places:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not os.path.isdir(path):
            rights &= 1 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
        rule = struct.pack("=Qi", rights & everything, place)
        _check(libc.syscall(SYS_LANDLOCK_ADD_RULE, ruleset, 1, rule, 0), f"landlock {path}")
        os.close(place)
    _check(libc.syscall(SYS_LANDLOCK_RESTRICT, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


# ---- seccomp: which system calls the program may make -----------------------------------------


def _filter_calls(libc: ctypes.CDLL) -> None:
    machine = platform.machine()
    if machine not in _REFUSED:
        raise _Refused(f"no list of system calls for {machine}")
    program = _filter_program(machine, os.getpid())
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    passed = ctypes.create_string_buffer(header, len(header))
    _check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, passed, 0, 0), "seccomp")


def _filter_program(machine: str, own: int) -> bytes:
    """Classic BPF over `struct seccomp_data`: number at 0, architecture at 4, arguments from 16."""
    load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, allow, error = 0x80000000, 0x7FFF0000, 0x00050000
    architecture, refused, by_argument = _REFUSED[machine]
    steps: list[tuple[int, int, int, int]] = [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (answer, 0, 0, kill),
        (load, 0, 0, 0),
        # Numbers from here on are the x32 way into the same kernel.
        (at_least, 0, 1, 0x40000000),
        (answer, 0, 0, kill),
        # Its arguments lie in memory, out of a filter's reach; libc falls back to clone.
        (equal, 0, 1, _SYS_CLONE3),
        (answer, 0, 0, error | ENOSYS),
    ]
    for number in sorted({*refused.values(), *_REFUSED_EVERYWHERE.values()}):
        steps += [(equal, 0, 1, number), (answer, 0, 0, error | EPERM)]
    # Threads only.
    steps += [
        (equal, 0, 4, by_argument["clone"]),
        (load, 0, 0, 16),
        (any_bit, 0, 1, CLONE_THREAD),
        (answer, 0, 0, allow),
        (answer, 0, 0, error | EPERM),
    ]
    # Signals to itself, limits of its own.
    for name, target in (("kill", own), ("tgkill", own), ("prlimit64", 0)):
        steps += [
            (equal, 0, 4, by_argument[name]),
            (load, 0, 0, 16),
            (equal, 0, 1, target),
            (answer, 0, 0, allow),
            (answer, 0, 0, error | EPERM),
        ]
    steps.append((answer, 0, 0, allow))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


# ---- The program -----------------------------------------------------------------------------


def _run(answer: str, tests: "list[str]") -> "tuple[str, str]":
    """How the answer fares: "passed", "failed" (a test is not met) or "broken", and the error."""
    space = {"__name__": "answer", "__builtins__": builtins.__dict__}
    try:
        exec(_compiled(answer), space)
        for test in tests:
            exec(compile(test, "<test>", "exec"), space)
    except AssertionError:
        return "failed", "AssertionError"
    except BaseException as error:
        return "broken", type(error).__name__[:80]
    return "passed", ""


def _compiled(answer: str) -> "CodeType":
    """The longest run of whole lines from the top that is Python: models talk on after the code."""
    lines = answer.splitlines()
    for end in range(len(lines), max(len(lines) - 200, 0), -1):
        try:
            return compile("\n".join(lines[:end]) + "\n", "<answer>", "exec")
        except (SyntaxError, ValueError):
            continue
    raise SyntaxError("no line of it is Python")


if __name__ == "__main__":
    main()
