"""What README and the pages under docs/ say to type, typed."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from adapt_lora.cli import app
from tests.conftest import write_tiny_adapter
from tests.roads.test_roads import write_rows
from tests.test_cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
# What no test runs, so that nothing is left out unseen. The title says why, to readers too.
NOT_RUN = {
    ("README.md", "Needs a network: it clones and installs"),
    ("README.md", "Needs a network: it installs"),
    ("docs/evaluation.md", "Needs a server: vLLM on another machine, or on this one"),
    ("docs/experiments.md", "Needs the public datasets and an hour"),
    ("docs/install.md", "Needs a network: it clones and installs"),
    ("docs/install.md", "Needs a network: it installs"),
    ("docs/own-adapters.md", "Needs an account on the Hugging Face Hub"),
    ("docs/registry.md", "Needs a browser: it starts a server and waits"),
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    title: str
    code: str

    @property
    def lines(self) -> list[str]:
        """Commands without their comments."""
        bare = (re.split(r"\s+#\s", line)[0].strip() for line in self.code.splitlines())
        return [line for line in bare if line]


def blocks(*languages, page=None):
    fence = re.compile(
        r'^```(\w*)(?: title="([^"\n]*)")?\n(.*?)^```$', flags=re.DOTALL | re.MULTILINE
    )
    found = [
        Block(name, *match.groups(default=""))
        for name, text in PAGES.items()
        for match in fence.finditer(text)
    ]
    return [b for b in found if b.language in languages and page in (None, b.page)]


def runnable(*languages, page=None):
    return [block for block in blocks(*languages, page=page) if not block.title]


@pytest.fixture(scope="module")
def home(tiny_base_dir, tmp_path_factory):
    """A working folder as a newcomer has it: a base model, a starter, a measured adapter, data."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "examples").symlink_to(ROOT / "examples")
    write_tiny_adapter(folder / "my-adapter")
    write_tiny_adapter(folder / "tickets", seed=7)
    (folder / "made").mkdir()
    write_rows(folder / "mine.jsonl", "choice", 24)
    write_rows(folder / "train.jsonl", "choice", 60)
    with pytest.MonkeyPatch.context() as patch:
        settle(patch, folder, tiny_base_dir)
        patch.setenv("MLFLOW_TRACKING_URI", str(folder / "maker"))
        for seed, name in enumerate(("snli", "paws"), start=1):
            write_tiny_adapter(folder / "made" / name, seed=seed)
            run(f"adapt register made/{name}")
        tasks = "--task examples/product_reviews --task examples/ticket_urgency --task mine.jsonl"
        run(f"adapt evaluate {tasks} --max-rows 12")
        run("adapt export starter")
        (folder / "starter" / "second_base").symlink_to(ROOT / "starter" / "second_base")
        patch.setenv("MLFLOW_TRACKING_URI", str(folder / "registry"))
        run("adapt import starter")
        run("adapt train examples/product_reviews --name reviews")
        tasks = "--task examples/customer_intent --task examples/ticket_urgency"
        run(f"adapt evaluate {tasks} --max-rows 60")
    return folder


@pytest.fixture
def desk(home, tiny_base_dir, monkeypatch):
    """The newcomer, sitting down in that folder."""
    settle(monkeypatch, home, tiny_base_dir)
    return home


def settle(patch, folder, base_dir):
    from adapt_lora.model import base as base_model
    from adapt_lora.roads import exchange

    tiny = base_model.locate_base_model(base_dir)
    patch.chdir(folder)
    patch.setenv("MLFLOW_TRACKING_URI", str(folder / "registry"))
    # The one base model of this machine, whatever its name, is the tiny one; so is the starter's.
    patch.setattr(base_model, "_installed_wheel", lambda: tiny)
    patch.setattr(base_model, "_named_source", lambda name: tiny)
    patch.setattr(exchange, "starter_folder", lambda: folder / "starter")


def run(line):
    """Type a command; what it prints to stdout."""
    line, _, redirected = line.partition(" > ")
    command, *arguments = shlex.split(line)
    assert command == "adapt", line
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, f"{line}\n{done.output}"
    if redirected:
        Path(redirected.strip()).write_text(done.stdout)
    return done.stdout


@pytest.mark.parametrize(
    "page", sorted({block.page for block in runnable("bash", "python")} - {"docs/json.md"})
)
def test_what_a_page_says_to_type_runs(page, desk):
    for block in runnable("bash", "python", page=page):
        if block.language == "python":
            exec(compile(block.code, page, "exec"), {})
        else:
            for line in block.lines:
                run(line)


def test_what_is_not_run_is_listed_and_says_what_it_needs():
    titled = [block for block in blocks("bash", "python") if block.title]
    assert {(block.page, block.title) for block in titled} == NOT_RUN
    assert all(block.title.startswith("Needs ") for block in titled)


def test_no_command_hides_in_another_kind_of_block():
    others = blocks("", "text", "console", "shell", "sh")
    assert [b for b in others if re.search(r"^\$? *(adapt|pip|make) ", b.code, re.MULTILINE)] == []


def test_commands_in_passing_name_options_that_there_are():
    spoken = [
        (page, words)
        for page, text in PAGES.items()
        for words in re.findall(r"(?<!`)`(adapt [^`]+)`", text)
    ]
    typed = [(b.page, line) for b in blocks("bash") for line in b.lines if line[:6] == "adapt "]
    assert len(spoken) > 30
    assert [(page, words) for page, words in spoken + typed if not is_understood(words)] == []


def is_understood(words):
    command = get_command(app)
    for word in words.split()[1:]:
        if word.startswith("--"):
            known = {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)}
            if word.partition("=")[0].rstrip("…,;") not in known:
                return False
        elif hasattr(command, "commands") and word != "…":
            if word not in command.commands:
                return False
            command = command.commands[word]
    return True


JSON_PAGE = re.compile(
    r"^```bash\n(?P<code>[^`]*)```\n\n\| key \| holds \|\n\|[-|]+\|\n(?P<rows>(?:\|.*\n)+)",
    flags=re.MULTILINE,
)


@pytest.mark.parametrize(
    "match",
    [
        pytest.param(match, id=match["code"].split(" --")[0].strip())
        for match in JSON_PAGE.finditer(PAGES["docs/json.md"])
    ],
)
def test_the_printed_object_has_the_keys_that_the_page_says(match, desk):
    printed = json.loads(run(match["code"].strip()))
    assert printed.pop("schema_version") == 1
    always, sometimes = set(), set()
    for row in match["rows"].splitlines():
        first = row.split("|")[1]
        (sometimes if "sometimes" in first else always).update(re.findall(r"`([^`]+)`", first))
    assert {key for key in always if not key.endswith("…")} <= printed.keys()
    beginnings = tuple(key[:-1] for key in always | sometimes if key.endswith("…"))
    unknown = printed.keys() - always - sometimes
    assert [key for key in unknown if not key.startswith(beginnings)] == []


def test_every_block_of_the_json_page_is_followed_by_its_keys():
    blocks_there = runnable("bash", "python", page="docs/json.md")
    assert len(JSON_PAGE.findall(PAGES["docs/json.md"])) == len(blocks_there)


def test_what_a_newcomer_is_told_to_pull_comes_with_its_weights():
    starter = json.loads((ROOT / "starter" / "registry.json").read_text(encoding="utf-8"))
    with_weights = {entry["name"] for entry in starter["adapters"] if entry["has_weights"]}
    pages = ("README.md", "docs/first-recommendation.md")
    lines = [line for page in pages for b in blocks("bash", page=page) for line in b.lines]
    pulled = {line.split()[2] for line in lines if line.startswith("adapt pull ")}
    assert pulled
    assert pulled <= with_weights


def test_every_command_has_a_line_in_the_readme():
    lines = README.splitlines()
    missing = [
        words
        for words in COMMANDS
        if not any(f"`adapt {words[0]}" in line and words[-1] in line for line in lines)
    ]
    assert missing == []


def test_the_reference_holds_every_command_and_option():
    page = commands_page()
    group = get_command(app)
    for name, command in group.commands.items():
        if not hasattr(command, "commands"):
            assert f"\n## adapt {name}\n" in page
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[0] in page
    assert "\n## adapt data balance\n" in page
    assert "None" not in page


def commands_page():
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "generated_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.commands_page()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_leads_somewhere(page):
    made = {"commands.md", "changelog.md"}  # by the site's own hook
    links = {link for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[page])}
    assert [link for link in links - made if not (ROOT / page).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize(
    "name", ["RecommendRequest", "Registry", "recommend", "register", "train", "evaluate"]
)
def test_the_public_names_are_there(name):
    import adapt_lora

    assert getattr(adapt_lora, name) is not None


def test_a_users_type_checker_sees_the_types(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "from adapt_lora import Registry, recommend\n"
        'answer = recommend("mydata.jsonl", registry=Registry())\n'
        "reveal_type(answer.recommendation.ranking[0].predicted_gain)\n"
        "answer.nothing_of_the_kind\n"
    )
    # The cache of `make check`: without it every library would be read anew, for a minute.
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'Revealed type is "float | None"' in done.stdout
    assert '"TargetRanking" has no attribute "nothing_of_the_kind"' in done.stdout
    assert "Found 1 error" in done.stdout
