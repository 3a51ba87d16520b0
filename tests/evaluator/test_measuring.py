"""Cells measured in order, named where they fail, tested against the base."""

import json
import pickle
from dataclasses import replace

import pytest
import torch

from adapt_lora.evaluator import (
    CellResult,
    Measuring,
    TransformersBackend,
)
from adapt_lora.registry.records import BASE_ID, MAJORITY_ID, MatrixRow
from tests.evaluator.scripted import A, B, ScriptedBackend, Shelf, measure


def test_the_base_comes_first_then_the_majority_label_then_each_adapter(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0, A: 1}, ["12"])
    report = measure(backend, [("a", A)], [reviews, sums], shelf)
    assert [(c.row.id, c.task) for c in report.cells] == [
        (BASE_ID, "reviews"),
        (BASE_ID, "sums"),
        (MAJORITY_ID, "reviews"),
        ("a", "reviews"),
        ("a", "sums"),
    ]
    assert [r.cell for r in shelf.results] == list(report.cells)
    assert report.failures == ()


def test_nothing_is_measured_twice_under_the_same_protocol(shelf, reviews, sums):
    first = measure(ScriptedBackend({None: 0, A: 1}, ["12"]), [("a", A)], [reviews, sums], shelf)
    backend = ScriptedBackend({None: 0, A: 1}, ["12"])
    second = measure(backend, [("a", A)], [reviews, sums], shelf)
    assert (len(first.cells), second.cells, second.n_skipped) == (5, (), 5)
    assert backend.calls == []


def test_a_killed_run_loses_only_the_cell_in_hand(shelf, reviews, sums):
    class Killed(BaseException):
        pass

    def save_two(result: CellResult) -> None:
        if len(shelf.results) == 2:
            raise Killed
        shelf.save(result)

    favourites = {None: 0, A: 1, B: 1}
    adapters = [("a", A), ("b", B)]
    with pytest.raises(Killed):
        measure(
            ScriptedBackend(favourites, ["12"]), adapters, [reviews, sums], shelf, save=save_two
        )
    assert len(shelf.results) == 2
    report = measure(ScriptedBackend(favourites, ["12"]), adapters, [reviews, sums], shelf)
    assert (report.n_skipped, len(report.cells)) == (2, 5)


def test_a_bad_adapter_is_named_and_the_others_go_on(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0, A: 1}, ["12"])
    report = measure(backend, [("b", B), ("a", A)], [reviews, sums], shelf)
    assert [(f.row.id, f.task, f.reason) for f in report.failures] == [
        ("b", "reviews", "b: broken"),
        ("b", "sums", "b: broken"),
    ]
    assert shelf.cell("a", "sums").score == 0.5


def test_a_bad_task_is_named_and_the_others_go_on(shelf, reviews, sums):
    class BreaksOnLabels(ScriptedBackend):
        def score_labels(self, prompts, labels, *, progress=None):
            raise RuntimeError("out of memory\nlong trace")

    backend = BreaksOnLabels({None: 0, A: 1}, ["12"])
    report = measure(backend, [("a", A)], [reviews, sums], shelf)
    assert [(f.row.id, f.task) for f in report.failures] == [
        (BASE_ID, "reviews"),
        ("a", "reviews"),
    ]
    assert report.failures[0].reason == "RuntimeError: out of memory long trace"
    assert shelf.cell("a", "sums").score == 0.5


def test_an_adapter_without_effect_is_a_failure(shelf, reviews):
    backend = ScriptedBackend({None: 0, A: 0})
    report = measure(backend, [("a", A)], [reviews], shelf)
    assert [f.row.id for f in report.failures] == ["a"]
    assert "not active" in report.failures[0].reason


def test_what_saving_raises_goes_through(reviews):
    def registry_is_down(_result):
        raise ConnectionError("registry is down")

    with pytest.raises(ConnectionError):
        measure(ScriptedBackend({None: 0}), [], [reviews], Shelf(), save=registry_is_down)


def test_progress_runs_from_nothing_to_the_planned_tokens(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0, A: 1}, ["12"])
    seen: list[tuple[int, int]] = []
    plan = Measuring(backend).plan([(MatrixRow("a"), A)], [reviews, sums], measured=shelf.measured)
    measure(
        backend,
        [("a", A)],
        [reviews, sums],
        shelf,
        progress=lambda *steps: seen.append(steps),
    )
    assert seen[-1] == (plan.n_tokens, plan.n_tokens)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_real_model_with_real_adapters_fills_the_matrix(
    tiny_base, tiny_adapter, model_tasks, shelf
):
    before = {k: v.clone() for k, v in tiny_base.model.state_dict().items()}
    adapters = [
        ("one", tiny_adapter("one", seed=1)),
        ("two", tiny_adapter("two", seed=2)),
    ]
    report = measure(TransformersBackend(tiny_base), adapters, model_tasks, shelf)
    assert report.failures == ()
    assert len(report.cells) == 3 * 3 + 1
    base, one = shelf.cell(BASE_ID, "essays"), shelf.cell("one", "essays")
    assert base.score < 0
    assert base.score != one.score
    assert base.se > 0
    assert "answer_log_likelihood" in shelf.cell("two", "capitals").metrics
    assert all(torch.equal(before[k], v) for k, v in tiny_base.model.state_dict().items())


def test_an_adapter_of_zeros_is_found_not_active(tiny_base, tiny_adapter, model_tasks, shelf):
    report = measure(
        TransformersBackend(tiny_base),
        [
            ("zero", tiny_adapter("zero", scale=0.0)),
            ("one", tiny_adapter("one", seed=1)),
        ],
        model_tasks[:1],
        shelf,
    )
    assert [f.row.id for f in report.failures] == ["zero"]
    assert "not active" in report.failures[0].reason
    assert shelf.cell("one", "reviews").n == 12


def test_a_missing_and_a_foreign_adapter_are_named(
    tiny_base, tiny_adapter, model_tasks, shelf, tmp_path
):
    foreign = tiny_adapter("foreign")
    config = json.loads((foreign / "adapter_config.json").read_text())
    config["target_modules"] = ["query_key_value"]
    (foreign / "adapter_config.json").write_text(json.dumps(config))
    report = measure(
        TransformersBackend(tiny_base),
        [
            ("gone", tmp_path / "gone"),
            ("foreign", foreign),
            ("one", tiny_adapter("one", seed=1)),
        ],
        model_tasks[:1],
        shelf,
    )
    assert [f.row.id for f in report.failures] == ["gone", "foreign"]
    # By its name: its folder may be a copy in a cache.
    assert [f.reason.split(": ")[0].split("/")[0] for f in report.failures] == ["gone", "foreign"]
    assert shelf.cell("one", "reviews").n == 12


def test_a_row_too_long_for_the_model_fails_its_task_alone(tiny_base, model_tasks, shelf):
    task = model_tasks[0]
    long = replace(task.rows[0], prompt="the film was good " * 300)
    broken = replace(task, record=replace(task.record, name="long"), rows=(long, *task.rows[1:]))
    report = measure(TransformersBackend(tiny_base), [], [broken, task], shelf)
    assert [(f.row.id, f.task) for f in report.failures] == [(BASE_ID, "long")]
    assert shelf.cell(BASE_ID, "reviews").n == 12


def test_a_gain_over_the_base_is_tested_on_the_same_rows(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0, A: 1}, ["12"])
    measure(backend, [("a", A)], [reviews, sums], shelf)
    cell, base = shelf.cell("a", "reviews"), shelf.cell(BASE_ID, "reviews")
    assert cell.metrics["gain_vs_base"] == pytest.approx(cell.score - base.score)
    assert cell.metrics["n_rows_vs_base"] == 12
    assert 0 < cell.metrics["p_value_vs_base"] <= 1
    assert cell.metrics["minimum_detectable_gain"] > 0
    assert shelf.cell("a", "sums").metrics["p_value_vs_base"] == 1
    assert "p_value_vs_base" not in base.metrics
    assert "p_value_vs_base" not in shelf.cell(MAJORITY_ID, "reviews").metrics


def test_the_bases_predictions_of_an_earlier_run_serve_too(shelf, reviews):
    backend = ScriptedBackend({None: 0, A: 1})
    measure(backend, [], [reviews], shelf)
    first = shelf.results[0]

    def find(task, protocol):
        assert (task, protocol) == ("reviews", first.cell.protocol)
        return first.predictions

    measure(backend, [("a", A)], [reviews], shelf, base_predictions=find)
    assert "p_value_vs_base" in shelf.cell("a", "reviews").metrics


def test_units_can_be_measured_anywhere_in_any_parts(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0, A: 1}, ["12"])
    plan = Measuring(backend).plan([(MatrixRow("a"), A)], [reviews, sums], measured=shelf.measured)
    halves = [plan.units[::2], plan.units[1::2]]
    there = [pickle.loads(pickle.dumps(half)) for half in halves]
    found = {
        (r.cell.row.id, r.cell.task): r.cell.score
        for half in there
        for r in Measuring(ScriptedBackend({None: 0, A: 1}, ["12"])).outcomes(half)
    }
    measure(backend, [("a", A)], [reviews, sums], shelf)
    assert found == {(r.cell.row.id, r.cell.task): r.cell.score for r in shelf.results}


def test_what_others_measured_waits_for_the_bases_rows_beside_it(shelf, reviews, sums):
    backend = ScriptedBackend({None: 0, A: 1}, ["12"])
    here = Shelf()
    measure(backend, [("a", A)], [reviews, sums], here)
    measuring = Measuring(backend)
    plan = measuring.plan([(MatrixRow("a"), A)], [reviews, sums])
    ended = [
        (unit, next(iter(Measuring(backend).outcomes([unit])))) for unit in reversed(plan.units)
    ]
    assert all("gain_vs_base" not in result.cell.metrics for _, result in ended)
    told: list[tuple[int, int]] = []
    report = measuring.run(
        plan, shelf.save, progress=lambda *steps: told.append(steps), elsewhere=iter(ended)
    )
    assert told[-1] == (plan.n_tokens, plan.n_tokens)
    for cell in report.cells:
        alone = here.cell(cell.row.id, cell.task)
        assert without_time(cell.metrics) == without_time(alone.metrics)
    rows = [(c.row.id, c.task) for c in report.cells]
    assert rows.index((BASE_ID, "reviews")) < rows.index(("a", "reviews"))


def test_what_the_base_said_can_be_lost_and_its_cells_are_named(shelf, reviews):
    backend = ScriptedBackend({None: 0, A: 1})
    measure(backend, [], [reviews], shelf)

    def broken(task, protocol):
        raise RuntimeError("gone")

    report = measure(backend, [("a", A)], [reviews], shelf, base_predictions=broken)
    assert [(f.row.id, f.reason) for f in report.failures] == [("a", "RuntimeError: gone")]


def without_time(metrics):
    return {name: value for name, value in metrics.items() if name != "seconds"}
