"""The command line as a person meets it: what is printed, where, and with which exit code."""

import json
import random
import re
import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from adapt_lora.cli import app
from adapt_lora.data import read_dataset
from adapt_lora.data.suite import definitions
from tests.roads.test_roads import write_rows


def commands_of(group, words=()):
    """Every command that can be typed, those of groups too, by its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, (*words, name))
        else:
            yield (*words, name), command


COMMANDS = dict(commands_of(get_command(app)))


@pytest.fixture(scope="module")
def adapt(tiny_base_dir, tmp_path_factory):
    """Run `adapt` on a registry of two trained adapters and three measured tasks."""
    home = tmp_path_factory.mktemp("cli")
    environment = {
        "ADAPT_TRACKING_URI": str(home / "registry"),
        "ADAPT_BASE_MODEL": str(tiny_base_dir),
        "COLUMNS": "200",
    }

    def run(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments], env=environment)

    run.home = home
    for name, kind in (("moods", "mood"), ("choices", "choice")):
        data = write_rows(home / f"{name}.jsonl", kind)
        done = run("train", data, "--name", name, "--set", "learning_rate=0.02", "--json")
        assert done.exit_code == 0, done.output
    tasks = [write_rows(home / f"task_{k}.jsonl", k, 20) for k in ("mood", "choice")]
    tasks.append(write_rows(home / "other.jsonl", "choice", 22))
    done = run("evaluate", *(f"--task={task}" for task in tasks), "--json")
    assert done.exit_code == 0, done.output
    return run


def parsed(done):
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert content["schema_version"] == 1
    return content


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_prints_json(words):
    done = CliRunner().invoke(app, [*words, "--help"])
    assert done.exit_code == 0
    assert COMMANDS[words].help.splitlines()[0] in " ".join(done.stdout.split())
    assert "--json" in {written for p in COMMANDS[words].params for written in p.opts}


def test_help_imports_no_heavy_library():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom adapt_lora.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'peft', 'mlflow', 'sklearn', 'lightgbm', 'matplotlib', "
        "'numpy', 'pandas', 'scipy'}\nprint(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_recommend_prints_a_table_with_the_base_model_in_it(adapt):
    target = write_rows(adapt.home / "target.jsonl", "mood", 30)
    done = adapt("recommend", "--target", target)
    assert done.exit_code == 0, done.output
    assert "moods" in done.stdout
    assert "base model" in done.stdout


def test_recommend_takes_the_target_with_or_without_the_option(adapt):
    target = write_rows(adapt.home / "either.jsonl", "mood", 30)
    options = ("--verify", "0", "--json")
    (plain, option, both) = (
        parsed(adapt("recommend", *named, *options))
        for named in ((target,), ("--target", target), (target, "-t", target))
    )
    assert plain["ranking"] == option["ranking"] == both["ranking"]
    differ = adapt("recommend", target, "--target", adapt.home / "moods.jsonl")
    assert differ.exit_code == 2
    assert "Two targets are given" in " ".join(differ.stderr.split())
    neither = adapt("recommend")
    assert "adapt recommend mydata.csv" in " ".join(neither.stderr.split())


def test_a_target_that_is_set_for_good_gives_way_to_what_is_typed(adapt, monkeypatch):
    target = write_rows(adapt.home / "typed.jsonl", "mood", 30)
    monkeypatch.setenv("ADAPT_RECOMMEND_TARGET", str(adapt.home / "moods.jsonl"))
    content = parsed(adapt("recommend", target, "--verify", "0", "--json"))
    assert content["target"]["name"] == "typed"
    assert parsed(adapt("recommend", "--verify", "0", "--json"))["target"]["name"] == "moods"


@pytest.fixture(scope="module")
def prompts(adapt):
    """A target without answers."""
    path = adapt.home / "prompts.txt"
    path.write_text("".join(f"the film was good {i}\n\n" for i in range(12)))
    return path


def test_prompts_alone_get_a_ranking_for_each_kind_of_answers(adapt, prompts):
    done = adapt("recommend", prompts)
    assert done.exit_code == 0, done.output
    labels, text = done.stdout.split("If the answers are ")[1:]
    assert labels.startswith("labels (balanced accuracy, points):")
    assert text.startswith("written text (answer log likelihood, nats):")
    assert "--as labels or --as generation" in done.stderr
    content = parsed(adapt("recommend", prompts, "--json"))
    assert list(content["rankings"]) == ["labels", "generation"]
    assert content["rankings"]["labels"]["ranking"] == content["ranking"]
    metrics = {kind: each["metric"] for kind, each in content["rankings"].items()}
    units = {kind: each["model"]["unit"] for kind, each in content["rankings"].items()}
    assert metrics == {"labels": "balanced_accuracy", "generation": "answer_log_likelihood"}
    assert units == {"labels": "points", "generation": "nats"}
    said = json.dumps([each["ranking"] for each in content["rankings"].values()])
    assert "its labels" not in said
    names = adapt("recommend", prompts, "-q").stdout.splitlines()
    assert [name.partition(":")[0] for name in names] == ["labels", "generation"]


def test_the_kind_of_ranking_may_be_said(adapt, prompts):
    for kind, metric in (("labels", "balanced_accuracy"), ("generation", "answer_log_likelihood")):
        content = parsed(adapt("recommend", prompts, "--as", kind, "--json"))
        assert (content["target"]["metric"], "rankings" in content) == (metric, False)
    answered = write_rows(adapt.home / "as.jsonl", "mood", 30)
    content = parsed(adapt("recommend", answered, "--as", "generation", "--verify", "0", "--json"))
    assert content["target"]["metric"] == "exact_match"
    refused = adapt("recommend", prompts, "--as", "labels", "--metric", "exact_match")
    assert refused.exit_code == 1
    assert "do not go together" in refused.stderr


def test_two_rankings_are_two_pages(adapt, prompts):
    page = adapt.home / "two.html"
    assert adapt("recommend", prompts, "--report", page, "-q").exit_code == 0
    assert "balanced accuracy" in page.read_text()
    assert "log likelihood" in page.with_name("two-generation.html").read_text()


def test_recommend_json_has_the_promised_keys(adapt):
    target = write_rows(adapt.home / "target_json.jsonl", "mood", 30)
    content = parsed(adapt("recommend", "--target", target, "--json", "--top", "1"))
    assert {"target", "base_model", "base", "model", "ranking", "timing_s"} <= content.keys()
    assert content["target"]["fingerprint"]["n_rows"] == 30
    assert content["n_adapters"] == len(content["ranking"]) > 1  # --top is for the screen
    entry = content["ranking"][0]
    wanted = {"rank", "adapter", "adapter_id", "predicted_gain", "interval", "interval_level"}
    assert wanted | {"p_harm", "p_best", "reasons", "evidence", "warnings"} <= entry.keys()
    assert {"feature", "contribution", "text"} <= entry["reasons"][0].keys()
    assert {"name", "regime", "backtest"} <= content["model"].keys()


def test_many_skipped_rows_need_a_word_and_are_told_everywhere(adapt):
    file = write_rows(adapt.home / "holes.jsonl", "mood", 20)
    with file.open("a", encoding="utf-8") as rows:
        rows.write('{"prompt": "", "response": "positive"}\n' * 4)
    refused = adapt("evaluate", "--task", file)
    assert refused.exit_code == 1
    assert "4 of 24 rows" in " ".join(refused.stderr.split())
    assert "--allow-skips" in refused.stderr
    told = adapt("evaluate", "--task", file, "--allow-skips", "--dry-run")
    assert told.exit_code == 0, told.output
    content = parsed(adapt("evaluate", "--task", file, "--allow-skips", "--json"))
    read = content["read"]["holes"]
    assert (read["n_rows"], read["n_skipped"], read["encoding"]) == (20, 4, "UTF-8")
    assert read["reasons"][0]["lines"] == [21, 22, 23, 24]
    answer = parsed(
        adapt("recommend", "--target", file, "--allow-skips", "--verify", "0", "--json")
    )
    assert answer["target"]["n_skipped"] == 4
    shown = adapt("fingerprint", file, "--allow-skips", "--json")
    assert parsed(shown)["reasons"] == read["reasons"]
    copied = ("data", "subsample", file, "--rows", "8", "--allow-skips", "-o")
    told = adapt(*copied, adapt.home / "fewer")
    assert "20 of 24 rows used; skipped: line 21" in told.stderr
    content = parsed(adapt(*copied, adapt.home / "fewer-still", "--json"))
    assert content["read"] == {"holes": read}


def test_a_kept_recommendation_shows_in_the_bench_once_measured(adapt):
    target = write_rows(adapt.home / "kept.jsonl", "mood", 30, start=700)
    done = adapt("recommend", "--target", target, "--log", "--verify", "1")
    assert done.exit_code == 0, done.output
    assert "Kept as run" in done.stderr
    assert "measured" in done.stdout
    content = parsed(adapt("bench", "--json", "--workers", "1"))
    assert [past["n"] for past in content["past"] if past["target"] == "kept"] == [1]


def test_the_bench_draws_its_calibration(adapt):
    folder = adapt.home / "matrices"
    folder.mkdir()
    rng = random.Random(0)
    rows = [("base", 0.0), *((f"adapter{i}", i / 20) for i in range(6))]
    lines = [["source", *(f"task{i}" for i in range(6))]] + [
        [name, *(f"{0.4 + skill + rng.random() / 10:.3f}" for _ in range(6))]
        for name, skill in rows
    ]
    (folder / "small.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    picture = adapt.home / "bench.png"
    done = adapt("bench", "--matrices", folder, "--json", "--workers", "1", "--plot", picture)
    assert parsed(done)["matrices"]["small"]["calibration"]["harm"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_recommend_writes_a_page(adapt):
    target = write_rows(adapt.home / "target_page.jsonl", "mood", 30)
    page = adapt.home / "page.html"
    saved = adapt.home / "answer.json"
    done = adapt("recommend", "--target", target, "--report", page, "--save", saved, "--quiet")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() in {"moods", "choices", "base"}
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")
    assert len(json.loads(saved.read_text())["ranking"]) == 2


def test_fingerprint_prints_flat_keys_or_a_page(adapt):
    data = adapt.home / "moods.jsonl"
    content = parsed(adapt("fingerprint", data, "--json"))
    assert content["n_labels"] == 2
    assert content["response_ppl"] > 1
    page = adapt("fingerprint", data)
    assert page.exit_code == 0
    assert "perplexity" in page.stdout.lower()


def test_list_sorts_filters_and_keeps_quiet(adapt):
    by_name = adapt("list", "--sort", "name", "--quiet")
    assert by_name.stdout.split() == ["choices", "moods"]
    figures = parsed(adapt("list", "--sort", "fingerprint/response_ppl", "--json"))["adapters"]
    assert len(figures) == 2
    gains = parsed(adapt("list", "--sort", "gain", "--json"))["adapters"]
    means = [entry["gain"]["points"]["mean"] for entry in gains]
    assert means == sorted(means, reverse=True)
    shown = adapt("show", gains[0]["name"], "--json").stdout
    others = [gain for gain in json.loads(shown)["gains"] if not gain["own"]]
    expected = [gain["score"] - gain["base_score"] for gain in others]
    assert gains[0]["gain"]["points"]["n_tasks"] == len(others)
    assert means[0] == pytest.approx(sum(expected) / len(expected))
    assert "gain elsewhere" in adapt("list").stdout
    assert adapt("list", "--filter", "mood", "--quiet").stdout.split() == ["moods"]
    wrong = adapt("list", "--sort", "fingerprint/nonsense")
    assert wrong.exit_code == 1
    assert "no adapter has this figure" in wrong.stderr


def test_show_tells_all_about_one_adapter(adapt):
    content = parsed(adapt("show", "moods", "--json"))
    assert content["recipe/name"] == "quick"
    assert {"task_mood", "task_choice"} <= {gain["task"] for gain in content["gains"]}
    page, all_of_it = adapt("show", "moods").stdout, adapt("show", "moods", "--all").stdout
    assert len(page.splitlines()) < 40 < len(all_of_it.splitlines())
    for words in (
        "moods",
        "moods.jsonl",
        "task_choice",
        "adapt pull moods",
        "adapt show moods --all",
    ):
        assert words in page
    assert "delta_norm" not in page
    assert "delta_norm" in all_of_it


def test_pull_gives_the_peft_files(adapt):
    done = adapt("pull", "moods", adapt.home / "pulled")
    assert done.exit_code == 0, done.output
    names = {path.name for path in (adapt.home / "pulled").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names


def test_the_readme_of_a_pulled_adapter_tells_data_gains_and_how_to_use_it(
    adapt, tiny_base_dir, monkeypatch, capsys
):
    monkeypatch.chdir(adapt.home)
    folder = adapt.home / "told"
    for _ in range(2):  # pulling again renews it
        assert adapt("pull", "moods", "told").exit_code == 0
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.count("# moods\n") == text.count("## Use it") == 1
    assert "24 rows, from moods.jsonl" in text
    assert "| task\\_choice | balanced accuracy |" in text
    assert "Mean gain: " in text
    assert "base_model_relation: adapter" in text
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    base = re.search(r'^name = (".*")$', code, flags=re.MULTILINE)[1]
    exec(compile(code.replace(base, repr(str(tiny_base_dir))), "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_matrix_and_analyses_print_json_and_tables(adapt):
    cells = parsed(adapt("matrix", "--json"))["cells"]
    assert {cell["adapter"] for cell in cells} == {"base", "majority label", "moods", "choices"}
    assert "moods" in adapt("matrix").stdout
    assert adapt("analyse", "side-effects").exit_code == 0
    parsed(adapt("analyse", "correlations", "--json"))
    assert "adapt data" in adapt("analyse", "twins").stdout
    assert adapt("analyse", "horoscopes").exit_code == 2


def test_the_matrix_is_filtered_and_printed_as_csv(adapt):
    lines = adapt("matrix", "--csv", "--adapter", "moods", "--task", "task_*").stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == ["adapter", "moods"]
    assert lines[0] == "adapter,task_mood,task_choice"
    scores = adapt("matrix", "--csv", "--scores", "--errors").stdout.splitlines()
    assert [line.split(",")[0] for line in scores[1:3]] == ["base", "majority label"]
    assert "task_mood se" in scores[0]
    path = adapt.home / "scores.csv"
    path.write_text(adapt("matrix", "--csv", "--scores").stdout)
    assert parsed(adapt("traits", "--scores", path, "--components", 1, "--json"))["loadings"]
    assert "±" in adapt("matrix", "--errors").stdout
    assert adapt("matrix", "--csv", "--json").exit_code == 2
    plot = adapt.home / "matrix.png"
    assert adapt("matrix", "--plot", plot, "--quiet").exit_code == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    nobody = adapt("matrix", "--adapter", "nobody")
    assert (nobody.exit_code, "No adapter 'nobody'" in nobody.stderr) == (1, True)


def test_a_dry_run_shows_the_plan_and_measures_nothing(adapt):
    task = write_rows(adapt.home / "dry.jsonl", "mood", 12)
    task.write_text(task.read_text().replace(" was ", " has been "))
    plan = parsed(adapt("evaluate", "--task", task, "--dry-run", "--json"))
    assert (plan["n_cells"], plan["n_to_measure"], plan["n_skipped"]) == (4, 4, 0)
    assert {cell["adapter"] for cell in plan["cells"]} >= {"base model", "moods", "choices"}
    assert plan["n_there"] == 0
    assert plan["range_s"][0] <= plan["estimated_s"] <= plan["range_s"][1]
    assert plan["read"]["dry"] == {"n_rows": 12, "n_skipped": 0, "encoding": "UTF-8", "reasons": []}
    shown = adapt("evaluate", "--task", task, "--dry-run")
    assert "12 of 12 rows used" in shown.stderr
    assert "Cells to measure" in shown.stdout
    assert "4 cells (4 rows, 1 task) to measure, 0 there already; about" in shown.stdout
    assert "dry" not in {c["task"] for c in parsed(adapt("matrix", "--json"))["cells"]}
    known = write_rows(adapt.home / "known.jsonl", "mood", 12)
    free = adapt("evaluate", "--task", known, "--dry-run")
    assert (
        "(4 rows, 1 task) to measure, 0 there already; all their rows were answered" in free.stdout
    )


def test_an_evaluation_shows_what_it_was_asked_for_and_no_more(adapt):
    task = adapt.home / "task_mood.jsonl"
    shown = adapt("evaluate", "--task", task, "--adapter", "moods").stdout
    head = shown.partition("Gains over")[0]
    assert "task_mood" in head
    assert "task_choice" not in head
    assert "choices" not in head
    assert "0 cells measured, 3 were there" in shown


def test_the_default_registry_is_named_once_when_it_is_new(adapt, tmp_path, tiny_base_dir):
    elsewhere = {"ADAPT_DATA_DIR": str(tmp_path / "data"), "ADAPT_BASE_MODEL": str(tiny_base_dir)}
    elsewhere |= {"ADAPT_TRACKING_URI": "", "MLFLOW_TRACKING_URI": ""}

    def stderr(*words):
        done = CliRunner().invoke(app, list(words), env=elsewhere)
        assert done.exit_code == 0, done.output
        return done.stderr

    table = tmp_path / "mood.jsonl"
    write_rows(table, "mood", 12)
    assert f"Registry: sqlite:///{tmp_path / 'data'}" in stderr("evaluate", "--task", str(table))
    assert "Registry:" not in stderr("list")


def test_a_suites_tasks_are_measured_and_those_without_rows_named(adapt, monkeypatch, tmp_path):
    known = dict.fromkeys((task.name for task in definitions.suite_tasks()), (b"?",))
    (tmp_path / "sst2").mkdir()
    rows = read_dataset(write_rows(tmp_path / "sst2" / "test.jsonl", "mood", 12)).rows
    known["sst2"] = tuple(bytes.fromhex(row.digest[:16]) for row in rows)
    monkeypatch.setattr(definitions, "_digests", lambda: known)
    two = definitions.suite_tasks()[:2]
    monkeypatch.setattr(definitions, "_core", lambda: two)
    monkeypatch.setenv("ADAPT_SUITE_DIR", str(tmp_path))
    words = ("evaluate", "--suite", "core", "--adapter", "moods")
    plan = adapt(*words, "--dry-run")
    assert plan.exit_code == 1
    assert "A100 hours about" in plan.stdout
    assert "for a base of 8B parameters" in plan.stdout
    as_json = json.loads(adapt(*words, "--dry-run", "--json").stdout)
    assert as_json["n_tokens"] == sum(cell["n_tokens"] for cell in as_json["cells"])
    assert as_json["gpu_hours"]["8B"] == pytest.approx(8 * as_json["gpu_hours"]["1B"])
    done = adapt(*words)
    assert done.exit_code == 1
    assert "Failed: trec: trec: ADAPT_SUITE_DIR is" in done.stderr
    cells = [c for c in parsed(adapt("matrix", "--json"))["cells"] if c["task"] == "sst2"]
    assert {cell["metric"] for cell in cells} == {"balanced_accuracy"}
    assert len(cells) >= 2


def test_the_suites_tasks_are_listed(adapt):
    listed = parsed(adapt("suite", "--json"))
    shown = adapt("suite", "--name", "labels").stdout
    assert listed["suite"] == "core"
    assert {"repository", "commit", "files", "licence"} <= listed["tasks"][0].keys()
    assert "2 labels" in shown
    assert "gsm8k" not in shown
    assert "no suite 'mine'" in adapt("suite", "--name", "mine").stderr


def test_a_broken_task_is_named_and_the_exit_code_says_so(adapt):
    good = write_rows(adapt.home / "good.jsonl", "mood", 12)
    bad = adapt.home / "bad.jsonl"
    bad.write_text("no json\n")
    tasks = ("--task", bad, "--task", good, "--adapter", "moods")
    done = adapt("evaluate", *tasks)
    assert done.exit_code == 1
    assert "3 cells measured, 0 were there, 1 failed" in done.stdout
    assert "Failed: bad.jsonl: " in done.stderr
    assert "moods on good: balanced_accuracy" in done.stderr
    again = adapt("evaluate", *tasks, "--json")
    assert again.exit_code == 1
    content = json.loads(again.stdout)
    assert (content["measured"], content["skipped"]) == ([], 3)
    assert [failure["task"] for failure in content["failed"]] == ["bad.jsonl"]


def test_shots_make_a_row_of_their_own(adapt):
    task = write_rows(adapt.home / "asked.jsonl", "mood", 12)
    pool = write_rows(adapt.home / "shown.jsonl", "mood", 40)
    done = parsed(adapt("evaluate", "--task", task, "--shots", 2, "--shots-from", pool, "--json"))
    assert [cell["adapter"] for cell in done["measured"]] == [
        "base model",
        "majority label",
        "base model, 2 shots",
    ]
    assert "base, 2 shots" in adapt("matrix", "--task", "asked").stdout
    without = adapt("evaluate", "--task", task, "--shots", 2)
    assert (without.exit_code, "--shots-from" in without.stderr) == (1, True)


def test_traits_are_written_back_to_the_adapters(adapt):
    content = parsed(adapt("traits", "--components", "2", "--json"))
    assert len(content["names"]) == 2
    assert set(content["scores"]) == {"base", "moods", "choices"}
    shown = parsed(adapt("show", "moods", "--json"))
    assert [key for key in shown if key.startswith("trait/")]


def test_names_of_traits_are_remembered_and_pictures_are_drawn(adapt):
    folder = adapt.home / "traits"
    named = adapt("traits", "--components", "2", "--name", "T1=mood or choice", "--plot", folder)
    assert named.exit_code == 0, named.output
    assert "mood or choice" in named.stdout
    drawn = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    assert drawn == {"loadings.png", *(f"profiles/{n}.png" for n in ("base", "moods", "choices"))}
    again = parsed(adapt("traits", "--components", "2", "--plot", adapt.home / "t.png", "--json"))
    assert again["names"][0] == "mood or choice"
    assert again["keys"] == ["T1", "T2"]
    assert (adapt.home / "t.png").stat().st_size > 10_000
    kept = {path.name for path in (adapt.home / "registry").rglob("plots/trait*.png")}
    assert kept == {"traits.png", "trait_loadings.png"}
    assert len(list((adapt.home / "registry").rglob("plots/traits.png"))) == 3  # the base's too
    unknown = adapt("traits", "--components", "2", "--name", "T7=x")
    assert unknown.exit_code == 1
    assert "no trait 'T7'" in unknown.stderr


def test_adapters_that_nobody_measured_are_named_not_dropped(adapt, tiny_adapter):
    assert adapt("register", tiny_adapter("unmeasured", seed=5)).exit_code == 0
    content = parsed(adapt("traits", "--components", "1", "--json"))
    assert "unmeasured" not in content["scores"]
    assert "without any score: unmeasured" in content["notes"][0]
    assert adapt("remove", "unmeasured", "--yes").exit_code == 0


def test_register_and_remove_go_there_and_back(adapt, tiny_adapter):
    done = adapt("register", tiny_adapter("newcomer", seed=4), "--json")
    assert parsed(done)["name"] == "newcomer"
    assert "newcomer" in adapt("list", "--quiet").stdout
    assert adapt("remove", "newcomer", "--yes").exit_code == 0
    assert "newcomer" not in adapt("list", "--quiet").stdout


def test_what_is_not_checked_is_said_everywhere_and_checked_later(
    tiny_adapter, tiny_base_dir, fresh_store
):
    def plain(*arguments):
        """Without a base model in the environment, which would be taken for the adapter's."""
        own = {"ADAPT_TRACKING_URI": str(fresh_store), "COLUMNS": "200", "ADAPT_BASE_MODEL": None}
        return CliRunner().invoke(app, [str(one) for one in arguments], env=own)

    folder = tiny_adapter("far", seed=4)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "tiny/elsewhere"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    done = plain("register", folder)
    assert "far version 1 is registered, not checked." in done.stdout
    assert "Not checked: tiny/elsewhere: not on this disk" in done.stderr
    assert "`adapt register --check far/1`" in done.stderr
    assert "far (not checked)" in plain("list").stdout
    assert "Not checked on its base model" in plain("show", "far").stdout
    (listed,) = parsed(plain("list", "--json"))["adapters"]
    assert listed["not_checked"].startswith("not done: tiny/elsewhere")
    failed = plain("register", "--check")
    assert failed.exit_code == 1
    assert "far version 1: not checked: tiny/elsewhere" in failed.stderr
    mended = plain("register", "--check", "far", "--base-model", tiny_base_dir, "--json")
    assert [one["base_model"] for one in parsed(mended)["adapters"]] == ["tiny/llama"]
    (listed,) = parsed(plain("list", "--json"))["adapters"]
    assert "not_checked" not in listed
    assert "checked already" in plain("register", "--check").stdout
    assert plain("register", "--check", "--name", "x").exit_code == 2
    assert plain("register").exit_code == 2


def test_a_bad_entry_is_named_once_and_can_be_removed_or_repaired(
    adapt, tiny_adapter, tmp_path, fresh_store, monkeypatch
):
    own = ("--tracking-uri", fresh_store)
    for seed, name in enumerate(("good", "bad", "worse"), start=40):
        assert adapt("register", tiny_adapter(name, seed=seed), *own).exit_code == 0
    for record in (fresh_store / "artifacts").rglob("record.json"):
        if json.loads(record.read_text()).get("name") in ("bad", "worse"):
            record.unlink()
    monkeypatch.setenv("ADAPT_CACHE_DIR", str(tmp_path / "another machine"))
    listed = adapt("list", "--quiet", *own)
    assert listed.stdout.split() == ["good"]
    assert listed.stderr.count("can't be read and are left out: bad version 1, worse ver") == 1
    assert adapt("show", "good", "--json", *own).exit_code == 0
    shown = adapt("show", "bad", *own)
    assert (shown.exit_code, shown.stderr.splitlines()[-1].startswith("Error: bad ver")) == (
        1,
        True,
    )
    assert "bad version 1 is removed." in adapt("remove", "bad", "--yes", *own).stdout
    doctor = adapt("doctor", "--repair", *own)
    assert "worse version 1: read anew from its files" in doctor.stdout
    assert sorted(adapt("list", "--quiet", *own).stdout.split()) == ["good", "worse"]
    again = adapt("doctor", "--repair", "--quiet", *own)
    assert again.stdout == "Every entry of the registry is whole.\n"


def test_doctor_names_what_it_found(adapt):
    checks = {c["name"]: c for c in parsed(adapt("doctor", "--json"))["checks"]}
    assert checks["torch"]["status"] == "ok"
    assert "moods" not in checks
    assert "tiny/llama: 2" in checks["registry"]["detail"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("recommend", "--target", "nowhere.jsonl"), "nowhere.jsonl"),
        (("fingerprint", "nowhere.jsonl"), "nowhere.jsonl"),
        (("show", "nobody"), "nobody"),
        (("pull", "nobody", "x"), "nobody"),
        (("register", "no-such-folder"), "no-such-folder"),
        (("train", "nowhere.jsonl", "--name", "x"), "nowhere.jsonl"),
        (("train", "nowhere.jsonl", "--name", "x", "--set", "speed=9"), "no setting 'speed'"),
        (("train", "nowhere.jsonl", "--name", "x", "--set", "speed"), "expected field=value"),
        (("recommend", "--target", "x.jsonl", "--map", "nonsense"), "nonsense"),
        (("traits", "--scores", "nowhere.csv"), "nowhere.csv"),
        (("bench", "--matrices", "nowhere"), "nowhere"),
        (("import", "nowhere.csv"), "nowhere.csv: no such file"),
        (("doctor", "--base-model", "no-such-model"), ""),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(adapt, arguments, words):
    done = adapt(*arguments)
    assert done.exit_code == 1, done.output
    assert words in done.stderr
    assert "Traceback" not in done.output
    assert "unexpected" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 1


def test_import_files_published_results_under_their_own_base_models(adapt):
    store = ("--tracking-uri", adapt.home / "published")
    shelf = (*store, "--base-model", "Owl-1B")
    table = adapt.home / "leaderboard.csv"
    table.write_text(
        "model_name,data_name,lora,epoch,data_size,lr_strategy,sums-0shot,quiz-0shot\n"
        "Owl-1B,pretrain,,0,0,,10,20\nOwl-1B,maths,true,3,500,cosine,30,15\n"
        "Owl-1B,maths,false,3,500,cosine,40,25\n"
    )
    first = parsed(adapt("import", table, *store, "--json"))
    assert (first["n_adapters"], first["n_cells"], first["bases"]) == (2, 6, ["Owl-1B"])
    again = adapt("import", table, *store)
    assert "0 adapters and 0 scores" in again.stdout
    assert "2 adapters were there" in again.stdout
    cells = parsed(adapt("matrix", *shelf, "--json"))["cells"]
    assert len(cells) == 6
    assert not any("se" in cell or "n" in cell for cell in cells)
    assert "Owl-1B-maths-lora-500-e3-cosine" in adapt("matrix", *shelf).stdout.replace("\n", "")
    gains = parsed(adapt("show", "Owl-1B-maths-lora-500-e3-cosine", *shelf, "--json"))["gains"]
    assert {gain["task"]: gain["score"] for gain in gains} == {
        "quiz-0shot": 0.15,
        "sums-0shot": 0.3,
    }
    assert not any("se" in gain for gain in gains)
    assert "20.0" in adapt("show", "Owl-1B-maths-lora-500-e3-cosine", *shelf).stdout
    effects = adapt("analyse", "side-effects", *shelf)
    assert effects.exit_code == 0, effects.output
    pulled = adapt("pull", "Owl-1B-maths-lora-500-e3-cosine", adapt.home / "nothing", *shelf)
    assert "figures only" in pulled.stderr


def test_wrong_usage_is_exit_code_2(adapt):
    assert adapt("recommend").exit_code == 2
    assert adapt("recommend", "--target", "x", "--top", "0").exit_code == 2
    assert adapt("no-such-command").exit_code == 2


def test_debug_shows_the_traceback(adapt, monkeypatch):
    monkeypatch.setenv("ADAPT_DEBUG", "1")
    done = adapt("show", "nobody")
    assert done.exception is not None
    assert "nobody" in str(done.exception)


def test_options_come_from_pyproject_then_environment_then_the_command_line(
    adapt, tmp_path, monkeypatch
):
    (tmp_path / "pyproject.toml").write_text('[tool.adapt.list]\nsort = "name"\nfilter = "mood"\n')
    monkeypatch.chdir(tmp_path)
    assert adapt("list", "--quiet").stdout.split() == ["moods"]
    monkeypatch.setenv("ADAPT_LIST_FILTER", "choice")
    assert adapt("list", "--quiet").stdout.split() == ["choices"]
    assert adapt("list", "--quiet", "--filter", "mood").stdout.split() == ["moods"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tool.adapt]\nbase-modl = 'x'\n", "no command has an option 'base-modl'"),
        ("[tool.adapt.list]\nsorted = 'x'\n", "no option 'sorted'"),
        ("[tool.adapt\n", "not readable as TOML"),
        ("[tool.adapt]\nallow-code-execution = true\n", "can't be set by a project"),
        ("[tool.adapt.evaluate]\naccept_weak_sandbox = true\n", "can't be set by a project"),
    ],
)
def test_a_bad_configuration_names_file_and_key(adapt, tmp_path, monkeypatch, text, words):
    (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    done = adapt("list")
    assert done.exit_code == 1
    assert words in done.stderr
    assert "pyproject.toml" in done.stderr
