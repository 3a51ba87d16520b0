"""Evaluation end to end: what a run keeps, few-shot rows, kills, broken parts, foreign results."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from adapt_lora import roads
from adapt_lora.errors import ConfigError, DatasetError, MatrixError, NotFoundError, RegistryError
from adapt_lora.evaluator import EVERY, EvaluationRequest, TransformersBackend
from adapt_lora.registry import Registry
from adapt_lora.registry.records import BASE_ID, BASE_ROW, MAJORITY_ID, MAJORITY_ROW
from adapt_lora.report.confusion import cell_outcomes
from adapt_lora.report.plain import plan_json
from tests.roads.test_roads import write_rows


@pytest.fixture
def shelf(fresh_store, tmp_path):
    return Registry(fresh_store, cache_folder=tmp_path / "cache")


@pytest.fixture
def base_model(tiny_base_dir):
    return str(tiny_base_dir)


def folder_task(home: Path, name: str, kind: str = "mood") -> Path:
    """A folder with a test and a training split that share no row."""
    folder = home / name
    folder.mkdir()
    lines = write_rows(folder / "all.jsonl", kind, 40).read_text().splitlines(keepends=True)
    (folder / "all.jsonl").unlink()
    (folder / "test.jsonl").write_text("".join(lines[:16]))
    (folder / "train.jsonl").write_text("".join(lines[16:]))
    return folder


def artifacts(registry: Registry, base, row_id: str) -> set[str]:
    from mlflow import MlflowClient

    client = MlflowClient(registry.tracking_uri, registry_uri=registry.tracking_uri)
    experiment = client.get_experiment_by_name(f"evaluations/{base.name}")
    runs = client.search_runs([experiment.experiment_id], f"tags.`adapt.id` = '{row_id}'")
    return {
        item.path
        for run in runs
        for folder in ("plots", "predictions")
        for item in client.list_artifacts(run.info.run_id, folder)
    }


def test_a_cell_keeps_its_predictions_and_pictures_of_its_row(
    shelf, base_model, tiny_base, tmp_path
):
    tasks = [
        write_rows(tmp_path / "moods.jsonl", "mood"),
        write_rows(tmp_path / "sums.jsonl", "sum"),
    ]
    report = roads.evaluate(EvaluationRequest(tasks, base_model=base_model), registry=shelf).report
    assert not report.failures
    base, again = tiny_base.identity, Registry(shelf.tracking_uri, cache_folder=tmp_path / "other")
    predictions = again.predictions(base, BASE_ROW, "moods")
    (cell,) = [c for c in report.cells if (c.row.id, c.task) == (BASE_ID, "moods")]
    assert len(predictions) == cell.n == 24
    assert sum(p.right for p in predictions) / 24 == pytest.approx(cell.metrics["accuracy"])
    task = next(t for t in again.tasks(base) if t.name == "moods")
    outcomes = cell_outcomes(task, predictions)
    assert outcomes.confusion.sum() == 24
    assert outcomes.confusion.trace() == sum(p.right for p in predictions)
    assert sum(map(len, outcomes.lengths.values())) == 24
    written = again.predictions(base, BASE_ROW, "sums")
    assert {p.answer for p in written} == {None}
    assert all(p.finish in ("stop", "length") and p.answer_tokens >= 0 for p in written)
    found = artifacts(again, base, BASE_ID)
    assert {"plots/confusion.png", "plots/lengths.png"} <= found
    assert "predictions/moods" in found
    assert again.predictions(base, MAJORITY_ROW, "moods") == ()
    with pytest.raises(NotFoundError, match="No cell of base on nothing"):
        again.predictions(base, BASE_ROW, "nothing")


def test_rows_of_a_smaller_sample_are_not_read_again_for_a_larger_one(
    shelf, base_model, tiny_base, tmp_path, monkeypatch
):
    task = write_rows(tmp_path / "moods.jsonl", "mood", 24)
    roads.evaluate(EvaluationRequest([task], base_model=base_model, max_rows=8), registry=shelf)
    asked: list[int] = []
    plain = TransformersBackend.score_labels

    def counted(self, prompts, labels, **more):
        asked.append(len(prompts))
        return plain(self, prompts, labels, **more)

    monkeypatch.setattr(TransformersBackend, "score_labels", counted)
    request = EvaluationRequest([task], base_model=base_model, max_rows=20)
    plan = roads.plan_evaluation(request, registry=shelf)
    done = roads.evaluate(request, registry=shelf).report
    assert asked[-1] == 12
    (cell,) = [c for c in done.cells if c.row == BASE_ROW]
    assert (cell.n, cell.metrics["n_rows_known"]) == (20, 8)
    other = Registry(tmp_path / "other", cache_folder=tmp_path / "cache2")
    whole = roads.evaluate(request, registry=other)
    (afresh,) = [c for c in whole.report.cells if c.row == BASE_ROW]
    assert afresh.score == cell.score
    assert afresh.metrics["label_cross_entropy"] == pytest.approx(
        cell.metrics["label_cross_entropy"], rel=1e-5
    )
    full = roads.plan_evaluation(request, registry=Registry(tmp_path / "third"))
    tokens = [
        next(c.n_tokens for c in one.cells if c.adapter == "base model") for one in (plan, full)
    ]
    assert tokens[0] == pytest.approx(0.6 * tokens[1], abs=1)


def test_what_was_answered_before_and_cant_be_read_is_run_again(
    shelf, base_model, tiny_base, tmp_path, monkeypatch
):
    task = write_rows(tmp_path / "moods.jsonl", "mood", 24)
    roads.evaluate(EvaluationRequest([task], base_model=base_model, max_rows=8), registry=shelf)

    def broken(content):
        raise RegistryError("the disk is gone.")

    monkeypatch.setattr("adapt_lora.registry.layout.read_predictions", broken)
    done = roads.evaluate(
        EvaluationRequest([task], base_model=base_model, max_rows=20), registry=shelf
    )
    assert not done.report.failures
    assert "n_rows_known" not in done.report.cells[0].metrics
    assert any("so it is run again: the disk is gone" in warning for warning in done.warnings)


def test_text_is_kept_only_when_asked_for(shelf, base_model, tiny_base, tmp_path):
    task = write_rows(tmp_path / "sums.jsonl", "sum", 6)
    roads.evaluate(EvaluationRequest([task], base_model=base_model, keep_text=True), registry=shelf)
    kept = shelf.predictions(tiny_base.identity, BASE_ROW, "sums")
    assert all(isinstance(p.answer, str) for p in kept)


def test_a_few_shot_row_is_shown_but_never_recommended(
    shelf, base_model, tiny_base, tiny_adapter, tmp_path
):
    task = folder_task(tmp_path, "reviews")
    record = roads.register(tiny_adapter("one"), registry=shelf, base_model=base_model)
    request = EvaluationRequest([task], base_model=base_model, shots=2)
    done = roads.evaluate(request, registry=shelf)
    assert [done.names[c.row] for c in done.report.cells] == [
        "base model",
        MAJORITY_ID,
        "base model, 2 shots",
    ]
    of_adapter = roads.evaluate(replace(request, adapters=["one"]), registry=shelf).report
    row_id = f"{record.adapter_id}+2shot"
    assert [c.row.id for c in of_adapter.cells] == [row_id]
    # One column holds the bare base and both few-shot rows.
    rows = {cell.row.id for cell in done.matrix.cells}
    assert rows == {BASE_ID, MAJORITY_ID, "base+2shot"}
    matrix = shelf.transfer_matrix(tiny_base.identity)
    assert {cell.row.id for cell in matrix.cells} == {*rows, row_id}
    from adapt_lora.recommender.table import table_from_matrix

    table = table_from_matrix(matrix, unit="points")
    assert table.sources == (record.adapter_id,)
    assert not table.warnings
    assert "reviews" not in {t for t in table.targets if table.gains[0, 0] == table.gains[0, 0]}
    # A second look measures nothing, and what goes with the adapter goes.
    assert not roads.evaluate(request, registry=shelf).report.cells
    shelf.remove(record)
    left = shelf.transfer_matrix(tiny_base.identity)
    assert {cell.row.id for cell in left.cells} == rows


def test_a_file_needs_rows_to_show(shelf, base_model, tmp_path):
    task = write_rows(tmp_path / "moods.jsonl", "mood", 12)
    request = EvaluationRequest([task], base_model=base_model, shots=2)
    with pytest.raises(ConfigError, match=r"one --shots-from for each .*moods.jsonl"):
        roads.evaluate(request, registry=shelf)
    with pytest.raises(Exception, match="0 of 12 training rows may be shown"):
        roads.evaluate(replace(request, shots_from=[task]), registry=shelf)
    others = write_rows(tmp_path / "train.jsonl", "mood", 40)
    report = roads.evaluate(replace(request, shots_from=[others]), registry=shelf).report
    assert report.cells[-1].row.id == "base+2shot"


def test_a_plan_says_what_would_be_measured_and_writes_nothing(
    shelf, base_model, tiny_base, tiny_adapter, tmp_path
):
    task = write_rows(tmp_path / "moods.jsonl", "mood", 12)
    plan = roads.plan_evaluation(EvaluationRequest([task], base_model=base_model), registry=shelf)
    assert shelf.bases() == []
    assert [(c.adapter, c.task) for c in plan.cells] == [
        ("base model", "moods"),
        (MAJORITY_ID, "moods"),
    ]
    assert plan.estimated_s == pytest.approx(sum(c.estimated_s for c in plan.cells))
    assert plan.estimated_s > 0
    assert "2 cells (2 rows, 1 task) to measure, 0 there already" in plan.describe()
    said = []
    roads.evaluate(
        EvaluationRequest([task], base_model=base_model), registry=shelf, say=said.append
    )
    assert said[0].startswith("Backend: ")
    assert said[1].startswith("moods (moods.jsonl): JSONL, prompt/response/label")
    assert said[2].startswith("Plan: 2 cells")
    assert said[3].startswith("base model on moods: balanced_accuracy 0.")
    after = roads.plan_evaluation(EvaluationRequest([task], base_model=base_model), registry=shelf)
    assert after.describe() == "Plan: all 2 cells are measured already."
    assert "tokens_per_s" not in plan_json(after)


def test_broken_tasks_and_lost_files_are_named_and_the_others_go_on(
    shelf, base_model, tiny_base, tiny_adapter, tmp_path
):
    good = write_rows(tmp_path / "moods.jsonl", "mood", 12)
    bad = tmp_path / "bad.jsonl"
    bad.write_text("not json\n")
    far = tmp_path / "far.jsonl"
    row = {"prompt": "the film " * 900, "label": "yes"}
    far.write_text("".join(json.dumps(row | {"label": x}) + "\n" for x in ("yes", "no") * 6))
    kept = roads.register(tiny_adapter("kept", seed=1), registry=shelf, base_model=base_model)
    # Weights of its own: those that another test has used may lie in the cache.
    lost = roads.register(tiny_adapter("lost", seed=4711), registry=shelf, base_model=base_model)
    shutil.rmtree(next(Path(fresh(shelf)).rglob(f"*{lost.model_id}*")))
    done = roads.evaluate(
        EvaluationRequest([bad, far, good], base_model=base_model), registry=shelf
    )
    measured = {(c.row.id, c.task) for c in done.report.cells}
    assert {(BASE_ID, "moods"), (kept.adapter_id, "moods")} <= measured
    failures = {(f.row.id, f.task) for f in done.report.failures}
    assert (EVERY, "bad.jsonl") in failures
    assert (lost.adapter_id, EVERY) in failures
    assert any(f.task == "far" for f in done.report.failures)
    with pytest.raises(DatasetError, match=r"bad\.jsonl"):
        roads.evaluate(EvaluationRequest([bad], base_model=base_model), registry=shelf)


def test_a_base_whose_answers_cant_be_read_costs_a_test_and_not_the_cell(
    shelf, base_model, tiny_base, tiny_adapter, tmp_path, monkeypatch
):
    task = write_rows(tmp_path / "moods.jsonl", "mood", 12)
    request = EvaluationRequest([task], base_model=base_model)
    assert not roads.evaluate(request, registry=shelf).warnings
    record = roads.register(tiny_adapter("late", seed=3), registry=shelf, base_model=base_model)

    def predictions(self, *_, **__):
        raise RegistryError("the registry does not answer")

    monkeypatch.setattr(Registry, "predictions", predictions)
    done = roads.evaluate(request, registry=shelf)
    (cell,) = done.report.cells
    assert (cell.row, done.report.failures) == (record.row, ())
    assert "gain_vs_base" not in cell.metrics
    (warning,) = [w for w in done.warnings if "moods" in w]
    assert warning == (
        "What the base answered on moods can't be read, so gains over it are not tested row by "
        "row there: the registry does not answer"
    )


def fresh(registry: Registry) -> Path:
    """Folder of a SQLite registry."""
    return Path(registry.database).parent


SLOW_RUN = """
import sys, time
from adapt_lora import roads
from adapt_lora.evaluator import EvaluationRequest, TransformersBackend
from adapt_lora.registry import Registry

plain, said = TransformersBackend.score_labels, []
def score_labels(self, prompts, labels, **more):
    if len(said) == 9:
        time.sleep(300)  # the cell in hand, until the kill
    return plain(self, prompts, labels, **more)
TransformersBackend.score_labels = score_labels
def say(line):
    said.append(line)
    print(line, flush=True)

store, cache, base, *tasks = sys.argv[1:]
roads.evaluate(
    EvaluationRequest(tasks, base_model=base),
    registry=Registry(store, cache_folder=cache),
    say=say,
)
"""


def test_a_killed_run_loses_the_cell_in_hand_and_goes_on_from_there(
    fresh_store, base_model, tiny_base, tiny_adapter, tmp_path
):
    registry = Registry(fresh_store, cache_folder=tmp_path / "cache")
    roads.register(tiny_adapter("lora"), registry=registry, base_model=base_model, name="lora")
    tasks = [
        write_rows(tmp_path / f"{name}.jsonl", kind, 12)
        for name, kind in (("moods", "mood"), ("choices", "choice"))
    ]
    command = [sys.executable, "-c", SLOW_RUN, fresh_store, tmp_path / "cache", base_model, *tasks]
    running = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    done = []
    for line in running.stdout:
        # After what was read and the plan: two cells of the base, two of the majority label, one of
        # the adapter.
        done += [line.strip()] if " on " in line.partition(":")[0] else []
        if len(done) == 5:
            os.kill(running.pid, signal.SIGKILL)
            break
    running.wait()
    assert running.returncode == -signal.SIGKILL
    said = {line.partition(":")[0] for line in done}
    assert {"base model on moods", "lora on moods"} <= said
    left = roads.plan_evaluation(EvaluationRequest(tasks, base_model=base_model), registry=registry)
    assert (left.n_cells, len(left.cells)) == (6, 1)
    assert not said & {f"{c.adapter} on {c.task}" for c in left.cells}
    report = roads.evaluate(
        EvaluationRequest(tasks, base_model=base_model), registry=registry
    ).report
    assert (len(report.cells), report.n_skipped, report.failures) == (1, 5, ())
    # What was there before the kill has its predictions, too.
    assert len(registry.predictions(tiny_base.identity, BASE_ROW, "moods")) == 12


# ---- Results of lm-evaluation-harness ------------------------------------------------------------


def harness_file(folder: Path, *, peft: str = "", score: float = 0.75) -> Path:
    """A results file as its version 0.4.13 writes it, with samples, in our own figures."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = "pretrained=tiny/llama" + (f",peft={peft}" if peft else "")
    content = {
        "results": {
            "quiz": {
                "name": "quiz",
                "alias": "quiz",
                "sample_len": 4,
                "acc,none": score,
                "acc_stderr,none": 0.2,
                "acc_norm,none": 0.5,
                "acc_norm_stderr,none": "N/A",
            }
        },
        "group_subtasks": {"quiz": []},
        "configs": {"quiz": {"task": "quiz", "output_type": "multiple_choice"}},
        "versions": {"quiz": 1.0},
        "n-shot": {"quiz": 0},
        "higher_is_better": {"quiz": {"acc": True, "acc_norm": True}},
        "n-samples": {"quiz": {"original": 100, "effective": 4}},
        "config": {"model": "hf", "model_args": arguments, "limit": 4.0},
        "lm_eval_version": "0.4.13",
    }
    path = folder / "results_2026-02-03T04-05-06.789.json"
    path.write_text(json.dumps(content))
    lines = [
        {
            "doc_id": i,
            "doc": {"question": "secret"},
            "target": "1",
            "resps": [[["-2.0", "False"]], [["-1.0" if i < 3 else "-3.0", "True"]]],
            "filtered_resps": [["-2.0", "False"], ["-1.0" if i < 3 else "-3.0", "True"]],
            "filter": "none",
            "doc_hash": f"hash{i}",
            "acc": float(i < 3),
        }
        for i in range(4)
    ]
    samples = folder / "samples_quiz_2026-02-03T04-05-06.789.jsonl"
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_harness_results_become_cells_of_the_adapter_they_name(
    shelf, base_model, tiny_base, tiny_adapter, tmp_path
):
    adapter = tiny_adapter("known")
    record = roads.register(adapter, registry=shelf, name="mine", base_model=base_model)
    bare = harness_file(tmp_path / "out" / "base", score=0.5)
    tuned = harness_file(tmp_path / "out" / "tuned", peft=str(adapter))
    done = roads.import_results(tmp_path / "out", registry=shelf)
    assert (done.source, done.n_cells, done.n_known_adapters) == ("lm-evaluation-harness", 2, 1)
    matrix = shelf.transfer_matrix(tiny_base.identity)
    cell = matrix.cell(record.row, "lm-eval/quiz")
    assert (cell.metric, cell.score, cell.se, cell.n) == ("accuracy", 0.75, 0.2, 4)
    assert cell.metrics == {"acc_norm,none": 0.5}
    assert matrix.cell(BASE_ROW, "lm-eval/quiz").score == 0.5
    predictions = shelf.predictions(tiny_base.identity, record.row, "lm-eval/quiz")
    assert [(p.row, p.right, p.answer, p.gold) for p in predictions[2:]] == [
        ("hash2", True, "1", "1"),
        ("hash3", False, "0", "1"),
    ]
    assert roads.import_results(tuned, registry=shelf).n_cells == 0
    assert roads.import_results(bare, registry=shelf).n_cells == 0


def test_harness_results_of_an_unknown_adapter_say_what_to_do(
    shelf, base_model, tiny_base, tiny_adapter, tmp_path
):
    file = harness_file(tmp_path / "out", peft="/elsewhere/theirs")
    record = roads.register(tiny_adapter("known"), registry=shelf, base_model=base_model)
    with pytest.raises(NotFoundError, match=r"not registered by its content or name.*--adapter"):
        roads.import_results(file, registry=shelf)
    assert roads.import_results(file, registry=shelf, adapter="known").n_cells == 1
    matrix = shelf.transfer_matrix(tiny_base.identity)
    assert matrix.cell(record.row, "lm-eval/quiz") is not None
    named = harness_file(tmp_path / "again", peft="/elsewhere/known", score=0.25)
    assert roads.import_results(named, registry=shelf).n_cells == 0  # measured already


def test_harness_scores_share_our_column_only_when_told_to(
    shelf, base_model, tiny_base, tiny_adapter, tmp_path
):
    roads.register(tiny_adapter("known"), registry=shelf, base_model=base_model)
    task = write_rows(tmp_path / "quiz.jsonl", "choice", 12)
    request = EvaluationRequest([task], adapters=[], base_model=base_model, metric="accuracy")
    roads.evaluate(request, registry=shelf)
    file = harness_file(tmp_path / "out")
    own = {"adapter": "known", "registry": shelf}
    roads.import_results(file, **own)
    matrix = shelf.transfer_matrix(tiny_base.identity)
    assert [t.name for t in matrix.tasks] == ["quiz", "lm-eval/quiz"]
    roads.import_results(file, pool=True, **own)
    pooled = shelf.transfer_matrix(tiny_base.identity)
    column = {c.protocol for c in pooled.cells if c.task == "quiz"}
    assert len(column) == 1
    assert {c.row.id for c in pooled.cells if c.task == "quiz"} > {BASE_ID, MAJORITY_ID}
    content = json.loads(file.read_text())
    content["results"]["other"] = content["results"].pop("quiz")
    file.write_text(json.dumps(content))
    with pytest.raises(MatrixError, match=r"other in accuracy can't be pooled.*no such column"):
        roads.import_results(file, pool=True, **own)


def test_a_folder_without_harness_files_is_said(shelf, tmp_path):
    with pytest.raises(MatrixError, match="no results_"):
        roads.import_results(tmp_path, registry=shelf)
    table = tmp_path / "table.csv"
    table.write_text("a,b\n")
    with pytest.raises(ConfigError, match="--adapter and --pool"):
        roads.import_results(table, registry=shelf, pool=True)
