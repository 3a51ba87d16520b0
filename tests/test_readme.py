"""What the README says to type, typed."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapt_lora.cli import app
from tests.test_cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Lines of the install block that a test can't type: they fetch things or take minutes.
NOT_HERE = ("git clone", "make demo", "pip install")


def bash_lines():
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]


def test_every_command_has_a_line_in_the_readme():
    missing = [name for name in COMMANDS if f"`adapt {name}" not in README]
    assert missing == []


def test_every_link_to_a_file_leads_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_adapt_command_of_the_readme_runs(tiny_base_dir, tiny_adapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    tiny_adapter("my-adapter")
    (tmp_path / "train.jsonl").write_text('{"prompt": "good", "response": "yes"}\n' * 5)
    environment = {
        "ADAPT_BASE_MODEL": str(tiny_base_dir),
        "MLFLOW_TRACKING_URI": str(tmp_path / "registry"),
    }
    lines = [line for line in bash_lines() if line and not line.startswith(NOT_HERE)]
    assert len(lines) >= 10
    for line in lines:
        command, *arguments = shlex.split(line)
        assert command == "adapt", line
        done = CliRunner().invoke(app, arguments, env=environment)
        assert done.exit_code == 0, f"{line}\n{done.output}"


def test_the_python_of_the_readme_compiles():
    for code in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        compile(code, "README.md", "exec")


@pytest.mark.parametrize("name", ["Registry", "recommend", "register", "train", "evaluate"])
def test_the_public_names_are_there(name):
    import adapt_lora

    assert getattr(adapt_lora, name) is not None
