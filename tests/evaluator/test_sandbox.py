"""Hostile code, behind each layer of protection alone and behind all of them.

A case that another machine's kernel can't hold back is skipped with the kernel's own reason.
"""

import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from adapt_lora.errors import CodeExecutionError
from adapt_lora.evaluator import confined, sandbox
from adapt_lora.evaluator.sandbox import Limits, Protection, extract_code, open_runner

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="the walls are Linux's")

LIMITS = Limits(cpu_s=1, wall_s=1.5)
BUBBLEWRAP = "bubblewrap"
WALLS = {
    "all layers": (),
    "without namespaces": ("namespaces",),  # what a container usually leaves
    "namespaces alone": ("landlock", "seccomp"),
    f"{BUBBLEWRAP} and all layers": (),
    f"{BUBBLEWRAP} alone": ("landlock", "seccomp"),
}


@pytest.fixture(scope="module", params=WALLS, ids=str)
def runner(request):
    left_out, in_bubble = WALLS[request.param], request.param.startswith(BUBBLEWRAP)
    if in_bubble and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    try:
        runner = open_runner(limits=LIMITS, without=left_out, own_walls=not in_bubble)
    except CodeExecutionError as error:
        pytest.skip(str(error))
    if in_bubble and runner.protection.bubblewrap is None:
        pytest.skip("bubblewrap is installed, but does not work on this machine")
    if set(runner.protection.missing) - set(left_out) and not left_out:
        pytest.skip(runner.protection.describe())
    return runner


@pytest.fixture(scope="module")
def open_door():
    """No wall at all: shows that a harmless twin of each hostile case would do its harm."""
    return open_runner(
        limits=LIMITS, without=("namespaces", "landlock", "seccomp"), accept_weak=True
    )


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        yield listening


def test_an_answer_passes_when_every_test_is_met(runner):
    assert runner.run("def double(x):\n    return 2 * x", ["assert double(2) == 4"]).passed
    outcome = runner.run("def double(x):\n    return x", ["assert double(2) == 4"])
    assert (outcome.status, outcome.error) == ("failed", "AssertionError")


def test_ordinary_code_finds_what_it_needs(runner):
    code = (
        "import asyncio, ctypes, decimal, hashlib, json, math, random, re, tempfile, threading\n"
        "thread = threading.Thread(target=print)\n"
        "thread.start()\nthread.join()\n"
        "asyncio.run(asyncio.sleep(0))\n"
        "with tempfile.TemporaryFile() as file:\n    file.write(b'x')\n"
    )
    assert runner.run(code, []).status == "passed"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("", "broken"),
        ("import os\nos._exit(0)", "ended early"),
        ("import sys\nsys.exit(0)", "broken"),
        ('print(\'{"status": "passed"}\')', "broken"),
        ("raise KeyboardInterrupt", "broken"),
    ],
    ids=["empty", "early exit", "system exit", "forged words", "interrupt"],
)
def test_an_answer_without_the_function_never_passes(runner, code, status):
    assert runner.run(code, ["assert double(2) == 4"]).status == status


def test_an_endless_loop_and_an_endless_sleep_are_ended(runner):
    assert runner.run("while True:\n    pass", []).status == "out of time"
    assert runner.run("import time\ntime.sleep(60)", []).status == "out of time"


def test_ten_gigabytes_are_refused(runner):
    outcome = runner.run("x = bytearray(10 * 2**30)", [])
    assert (outcome.status, outcome.error) == ("broken", "MemoryError")


def test_huge_output_goes_nowhere(runner):
    loud = "import os\nwhile True:\n    os.write(1, b'x' * 2**20)\n    os.write(2, b'x' * 2**20)"
    assert runner.run(loud, []).status == "out of time"
    outcome = runner.run("open('big', 'wb').write(bytes(2**27))", [])
    assert (outcome.status, outcome.error) == ("broken", "OSError")


def test_a_fork_bomb_leaves_nothing_behind(runner):
    name = _name()
    bomb = f"{_named(name)}\nimport os\nwhile True:\n    os.fork()"
    assert not runner.run(bomb, []).passed
    assert _running(name) == []


def _daemon(name: str) -> str:
    return (
        f"{_named(name)}\nimport os, time\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(60)\n"
        "    os._exit(0)\n"
    )


def test_a_daemon_does_not_outlive_its_answer(runner, open_door):
    for door in (runner, open_door):
        name = _name()
        door.run(_daemon(name), [])
        assert _running(name) == []


def test_the_home_folder_cant_be_read(runner, open_door, tmp_path):
    secret = tmp_path / "id_rsa"
    secret.write_text("secret")
    steal = f"text = open({str(secret)!r}).read()"
    assert open_door.run(steal, []).passed
    assert runner.run(steal, []).error in ("FileNotFoundError", "PermissionError")


def test_nothing_outside_can_be_written(runner, open_door, tmp_path):
    tmp_path.chmod(0o777)
    planted = tmp_path / "planted"
    plant = f"open({str(planted)!r}, 'w').write('x')"
    assert not runner.run(plant, []).passed
    assert not planted.exists()
    assert open_door.run(plant, []).passed
    assert planted.exists()


def test_what_is_written_has_bounds_and_devices_stay_as_they_are(runner):
    if "namespaces" not in runner.protection.in_force:
        pytest.skip("held in namespaces only")
    many = "for i in range(5000):\n    open(f'f{i}', 'w').close()"
    assert (runner.run(many, []).status, runner.run(many, []).error) == ("broken", "OSError")
    much = "for i in range(9):\n    open(f'f{i}', 'wb').write(bytes(2**23))"
    assert runner.run(much, []).error == "OSError"
    before = os.stat("/dev/null").st_mode
    # The mode that it has: were it let through, nothing would be lost.
    assert runner.run(f"import os\nos.chmod('/dev/null', {before & 0o777})", []).error == "OSError"
    assert runner.run("open('/dev/null', 'w').write('x')", []).passed


def test_no_socket_leads_out(runner, open_door, server):
    call = (
        "import socket\n"
        f"socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=1)"
    )
    assert not runner.run(call, []).passed
    with pytest.raises(BlockingIOError):
        server.accept()
    assert open_door.run(call, []).passed
    server.accept()


def test_no_process_outside_can_be_killed(runner):
    victim = subprocess.Popen(["sleep", "60"])
    try:
        kill = f"import os\nos.kill({victim.pid}, 9)"
        assert runner.run(kill, []).error in ("PermissionError", "ProcessLookupError")
        # In a process namespace the parent's number is 0, which means the own group.
        assert runner.run("import os\nos.kill(os.getppid(), 9)\nwhile True: pass", []).status in (
            "broken",
            "out of time",
            "ended early",
        )
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_keys_in_the_environment_are_out_of_reach(runner, monkeypatch):
    monkeypatch.setenv("ADAPT_JUDGE_API_KEY", "sk-secret")
    assert runner.run("import os", ["assert 'sk-secret' not in str(os.environ)"]).passed
    peek = f"open('/proc/{os.getpid()}/environ', 'rb').read()"
    assert not runner.run(peek, []).passed


def test_without_walls_nothing_is_run_unless_one_insists():
    with pytest.raises(CodeExecutionError, match=r"network and your files.*--accept-weak-sandbox"):
        open_runner(without=("namespaces", "landlock", "seccomp"))


def test_a_runner_never_goes_on_behind_less_than_it_found(runner):
    every = ("namespaces", "landlock", "seccomp")
    fallen = replace(runner, protection=Protection(dict.fromkeys(every, "gone")))
    with pytest.raises(CodeExecutionError, match="refused"):
        fallen.run("pass", [])


@pytest.mark.parametrize("ending", ["exit 1", "exec sleep 60"], ids=["refuses", "never answers"])
def test_a_bubblewrap_that_does_not_work_is_done_without(tmp_path, monkeypatch, ending):
    (tmp_path / "bwrap").write_text(f"#!/bin/sh\n{ending}\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sandbox, "_GRACE_S", 0.5)
    try:
        runner = open_runner(limits=LIMITS)
    except CodeExecutionError as error:
        pytest.skip(str(error))
    assert runner.protection.bubblewrap is None
    assert runner.run("x = 1", []).passed


def test_protection_says_what_holds_and_what_does_not():
    whole = Protection({})
    assert whole.is_enough
    assert "behind namespaces + landlock + seccomp + limits, which shield the" in whole.describe()
    for held in (
        "the network (namespaces, seccomp)",
        "your files (namespaces, landlock)",
        "other processes (namespaces, seccomp)",
        "memory (limits)",
        "processor time (limits).",
    ):
        assert held in whole.describe()
    assert "namespaces (laid by bubblewrap) + " in Protection({}, "/usr/bin/bwrap").describe()
    no_limits = Protection({"limits": "not here"})
    assert not no_limits.is_enough
    assert "all memory was open to it; all processor time was open to it" in no_limits.describe()
    no_walls = dict.fromkeys(("namespaces", "landlock"), "the kernel says no")
    files_open = Protection(no_walls)
    assert files_open.shields_network
    assert not files_open.is_enough
    assert "your files were open to it" in files_open.describe()
    assert "no landlock: the kernel says no" in files_open.describe()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("x = 1", "x = 1"),
        ("Here:\n```python\nx = 1\n```\nand\n```\ny\n```", "x = 1"),
        ("```sh\npip install x\n```\n```py\nx = 1\n```", "x = 1"),
        ("```python\nx = 1\ny = 2", "x = 1\ny = 2"),  # cut at the limit
    ],
)
def test_the_program_is_the_first_fenced_block_of_python(answer, code):
    assert extract_code(answer) == code


def test_talk_after_the_code_is_cut_off(runner):
    answer = "def double(x):\n    return 2 * x\n\nThis function doubles its argument."
    assert runner.run(answer, ["assert double(2) == 4"]).passed


def test_pass_at_1_of_right_and_wrong_answers(runner):
    from adapt_lora.data import Row

    rows = [Row("q", None, None, i, ("assert f() == 1",)) for i in range(3)]
    seen = []
    grades = runner.grade(
        rows,
        ["def f(): return 1", "", "def f(): return 2"],
        progress=lambda done, n: seen.append((done, n)),
    )
    assert grades == [1.0, 0.0, 0.0]
    assert seen[-1] == (3, 3)
    other = [Row("q", None, None, 0, ("assert f() == 2",))]
    assert runner.protocol_key(rows) != runner.protocol_key(other)


def _name() -> str:
    return f"adapt{secrets.token_hex(4)}"


def _named(name: str) -> str:
    """Code by which a process names itself, so that it and its children can be found."""
    return f"import ctypes\nctypes.CDLL(None).prctl(15, b{name!r}, 0, 0, 0)"


def _running(name: str) -> list[int]:
    """Processes of that name; the kernel may need a moment to take a killed one off the list."""
    found: list[int] = []
    for _ in range(50):
        found = []
        for process in Path("/proc").iterdir():
            try:
                if process.name.isdigit() and (process / "comm").read_text().strip() == name:
                    found.append(int(process.name))
            except OSError:
                continue
        if not found:
            break
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("walls", WALLS)
def test_an_ordinary_user_has_the_same_walls(walls):
    """The other cases show it where the tests are run by one; root becomes one here."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if os.geteuid() != 0 or python is None:
        pytest.skip("not root, or no interpreter that another user can reach")
    bubblewrap = shutil.which("bwrap") if walls.startswith(BUBBLEWRAP) else None
    if bubblewrap is None and walls.startswith(BUBBLEWRAP):
        pytest.skip("bubblewrap is not installed")
    with tempfile.TemporaryDirectory() as place:
        os.chown(place, 65534, 65534)
        script = shutil.copy(Path(confined.__file__), place)
        where = "import json, sysconfig as s; p = s.get_paths(); print(p['stdlib'])"
        done = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True)
        job = {
            **asdict(LIMITS),
            "tests": [],
            "without": dict.fromkeys(WALLS[walls], "left out"),
            "bubble": bubblewrap is not None,
            "weak": False,
            "folder": place,
            "readable": sorted({done.stdout.strip(), *sandbox._SYSTEM_FILES}),
        }

        command = [python, "-B", "-S", "-s", script]
        if bubblewrap is not None:
            command = sandbox._in_bubble(bubblewrap, command, job["readable"])
            if subprocess.run([bubblewrap, "--ro-bind", "/", "/", "true"], user=65534).returncode:
                pytest.skip("bubblewrap is installed, but does not work on this machine")

        def status(answer: str) -> str:
            done = subprocess.run(
                command,
                input=json.dumps({**job, "answer": answer}),
                capture_output=True,
                text=True,
                cwd=place,
                user=65534,
                group=65534,
                extra_groups=[],
                start_new_session=True,
                check=True,
            )
            return json.loads(done.stdout)["status"]

        if status("x = 1") in ("refused", "no namespaces"):
            pytest.skip("the kernel does not let an ordinary user build them")
        assert status("x = 1") == "passed"
        assert status("open('/etc/passwd').read()") == "broken"
        assert status(f"import os\nos.kill({os.getpid()}, 0)") == "broken"
        assert status("import os\nwhile True:\n    os.fork()") == "broken"
