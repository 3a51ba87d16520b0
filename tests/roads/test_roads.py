"""The three roads end to end, on a tiny base model and a real registry."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from adapt_lora import roads
from adapt_lora.errors import (
    ConfigError,
    DatasetError,
    MatrixError,
    NotFoundError,
    RecommendError,
    RegistryError,
    TaskError,
)
from adapt_lora.evaluator import EvaluationRequest
from adapt_lora.model.base import BaseIdentity
from adapt_lora.registry import Registry
from adapt_lora.registry.records import BASE_ID, BASE_ROW, MAJORITY_ID, MatrixRow
from adapt_lora.report.plain import recommendation_json, versioned
from adapt_lora.trainer import TrainRequest, find_recipe

MOODS = ("good", "bad", "fine", "poor", "like", "dull")
CITIES = ("a city", "the film", "the food", "this review", "the capital", "question one")


def write_rows(path: Path, kind: str, n: int = 24, *, start: int = 0) -> Path:
    """A small dataset: "mood" (positive/negative), "choice" (yes/no) or "sum" (a number)."""
    rows = []
    for i in range(start, start + n):
        if kind == "mood":
            label = "positive" if i % 2 else "negative"
            word = MOODS[i % 6]
            rows.append(
                {"prompt": f"{CITIES[i % 5]} was {word} {i}", "response": label, "label": label}
            )
        elif kind == "choice":
            label = "yes" if i % 3 else "no"
            prompt = f"is {CITIES[i % 6]} {MOODS[i % 4]} {i}"
            rows.append({"prompt": prompt, "response": label, "label": label})
        else:
            rows.append({"prompt": f"add {i} and {i % 5}", "response": str(i + i % 5)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def shelf(tiny_base_dir, tmp_path_factory):
    """A registry with three trained adapters, measured on four tasks."""
    home = tmp_path_factory.mktemp("shelf")
    registry = Registry(home / "registry", cache_folder=home / "cache")
    recipe = find_recipe("quick", {"learning_rate": 0.02, "held_out_rows": 2})
    for name, kind in (("moods", "mood"), ("choices", "choice"), ("sums", "sum")):
        rows = write_rows(home / f"{name}.jsonl", kind)
        request = TrainRequest(rows, name, recipe, base_model=str(tiny_base_dir))
        roads.train(request, registry=registry)
    tasks = [
        write_rows(home / f"{task}.jsonl", kind, 20)
        for task, kind in (
            ("task_a", "mood"),
            ("task_b", "choice"),
            ("task_c", "mood"),
            ("task_d", "choice"),
        )
    ]
    evaluation = roads.evaluate(
        EvaluationRequest(tasks, base_model=str(tiny_base_dir)), registry=registry
    )
    assert not evaluation.report.failures
    return home, registry, tasks


def test_trained_adapters_carry_every_fingerprint(shelf):
    _, registry, _ = shelf
    record = registry.adapter("moods")
    assert record.dataset is not None
    assert record.dataset.n_rows == 24
    assert record.fingerprint.values["response_ppl"] > 1
    assert record.weights["delta_norm_relative"] > 0
    assert record.behaviour["hidden_shift_relative"] > 0
    assert record.params["recipe/learning_rate"] == "0.02"
    assert record.tags["effect_check"] == "passed"
    assert record.metrics["train/final_loss"] > 0


def test_training_the_same_again_trains_nothing(shelf, tiny_base_dir):
    home, registry, _ = shelf
    recipe = find_recipe("quick", {"learning_rate": 0.02, "held_out_rows": 2})
    request = TrainRequest(home / "moods.jsonl", "moods", recipe, base_model=str(tiny_base_dir))
    again = roads.train(request, registry=registry)
    assert again.result is None
    assert again.record == registry.adapter("moods")


def test_the_matrix_has_base_majority_and_adapter_rows(shelf, tiny_base):
    _, registry, _ = shelf
    matrix = registry.transfer_matrix(tiny_base.identity)
    rows = {cell.row.id for cell in matrix.cells}
    assert {BASE_ID, MAJORITY_ID} < rows
    assert len(rows) == 5
    assert len(matrix.tasks) == 4
    assert all(task.fingerprint.values["n_rows"] == 20 for task in matrix.tasks)


def test_evaluating_again_measures_nothing(shelf, tiny_base_dir):
    _, registry, tasks = shelf
    again = roads.evaluate(
        EvaluationRequest(tasks, base_model=str(tiny_base_dir)), registry=registry
    )
    assert again.report.cells == ()
    assert again.report.n_skipped == 20


def asked(target, base_dir, **more):
    return roads.RecommendRequest(target, base_model=str(base_dir), **more)


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"verify": -1}, ConfigError, "--verify is 0 or more"),
        ({"budget_s": -5.0}, ConfigError, "--budget is 0 or more"),
        ({"max_rows": 1}, ConfigError, "--max-rows is 2 or more"),
        ({"verify": "3"}, ConfigError, "verify is '3'"),
        ({"target": 3}, ConfigError, "The target is 3"),
        ({"kind": "text"}, ConfigError, "no ranking for 'text'; --as is labels or generation"),
        ({"kind": "labels", "metric": "rouge_l"}, ConfigError, "do not go together"),
        ({"method": "magic"}, RecommendError, "Unknown method 'magic'"),
        ({"metric": "rouge"}, RecommendError, "Unknown metric 'rouge'"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_where_it_is_made(more, error, words):
    with pytest.raises(error, match=words):
        roads.RecommendRequest(**{"target": "target.jsonl", **more})


def test_a_request_names_the_rows_that_it_holds():
    rows = [{"prompt": "a long one " * 99}] * 99
    asked_for = roads.RecommendRequest(rows, verify=2, kind="generation")
    assert repr(asked_for) == "RecommendRequest(target=list, verify=2, kind='generation')"
    assert repr(EvaluationRequest([rows, "a/moods.jsonl"], max_rows=9)).startswith(
        "EvaluationRequest(tasks=list, moods.jsonl, max_rows=9"
    )
    assert len(repr(TrainRequest(rows, "n", find_recipe("quick")))) <= 120


def test_a_dataset_alone_is_a_request_with_all_defaults(shelf, tiny_base, monkeypatch):
    home, registry, _ = shelf
    monkeypatch.setattr("adapt_lora.roads.recommendation.open_base_model", {None: tiny_base}.get)
    target = write_rows(home / "alone.jsonl", "mood", 30)
    answer = roads.recommend(target, registry=registry)
    same = roads.recommend(roads.RecommendRequest(target), registry=registry)
    assert answer.recommendation == same.recommendation


def test_recommend_ranks_every_adapter_and_the_base_competes(shelf, tiny_base_dir):
    home, registry, _ = shelf
    target = write_rows(home / "target.jsonl", "mood", 30)
    answer = recommendation_json(roads.recommend(asked(target, tiny_base_dir), registry=registry))
    assert [entry["rank"] for entry in answer["ranking"]] == [1, 2, 3]
    assert {"score", "se", "p_best", "recommended"} <= answer["base"].keys()
    for entry in answer["ranking"]:
        low, high = entry["interval"]
        assert low <= entry["predicted_gain"] <= high
        assert entry["reasons"]
    json.dumps(answer, allow_nan=False)


def test_an_unlabelled_target_is_ranked_without_base_score(shelf, tiny_base_dir):
    home, registry, _ = shelf
    target = home / "unlabelled.jsonl"
    target.write_text(
        "".join(json.dumps({"prompt": f"was {m} {i}"}) + "\n" for i, m in enumerate(MOODS * 3))
    )
    answer = recommendation_json(roads.recommend(asked(target, tiny_base_dir), registry=registry))
    assert len(answer["ranking"]) == 3
    assert "score" not in answer["base"]
    with pytest.raises(
        DatasetError, match="--verify measures adapters on the target's own answers"
    ):
        roads.recommend(asked(target, tiny_base_dir, verify=1), registry=registry)


PROMPTS = [f"was {mood} {i}" for i, mood in enumerate(MOODS * 3)]


def test_prompts_alone_are_no_label_task(shelf, tiny_base_dir):
    _, registry, _ = shelf
    answer = roads.recommend(asked(PROMPTS, tiny_base_dir), registry=registry)
    assert [each.kind for each in answer.rankings] == ["labels", "generation"]
    assert [each.recommendation.model.unit for each in answer.rankings] == ["points", "nats"]
    frame = answer.top(2).to_pandas()
    assert list(frame["answers"]) == ["labels"] * 2 + ["generation"] * 2
    assert answer._repr_html_().count("If the answers are") == 2
    # The target has no labels that an adapter's could be like.
    reasons = {
        reason.feature
        for each in answer.rankings
        for entry in each.recommendation.ranking
        for reason in entry.reasons
    }
    assert not reasons & {"label_match", "habit_match", "habit_pull", "prior_shift_on_habit"}


@pytest.mark.parametrize(
    ("rows", "more", "metric"),
    [
        (PROMPTS, {"kind": "labels"}, "balanced_accuracy"),
        (PROMPTS, {"kind": "generation"}, "answer_log_likelihood"),
        (PROMPTS, {"metric": "exact_match"}, "exact_match"),
        ([{"prompt": p, "response": f"it was {p}, they said"} for p in PROMPTS], {}, None),
        ([{"prompt": p, "label": "ab"[len(p) % 2]} for p in PROMPTS], {}, "balanced_accuracy"),
    ],
)
def test_where_rows_or_request_say_which_one_ranking_is_given(
    shelf, tiny_base_dir, rows, more, metric
):
    _, registry, _ = shelf
    answer = roads.recommend(asked(rows, tiny_base_dir, verify=0, **more), registry=registry)
    assert answer.other is None
    assert answer.metric == (metric or "answer_log_likelihood")


def test_labels_are_not_made_of_free_text(shelf, tiny_base_dir):
    _, registry, _ = shelf
    rows = [{"prompt": p, "response": f"it was {p}, they said"} for p in PROMPTS]
    with pytest.raises(DatasetError, match=r"--as labels .* its answers are free text"):
        roads.recommend(asked(rows, tiny_base_dir, kind="labels"), registry=registry)


def test_a_known_target_is_not_read_again(shelf, tiny_base_dir, tmp_path, monkeypatch):
    home, registry, _ = shelf
    monkeypatch.setenv("ADAPT_CACHE_DIR", str(tmp_path))
    target = write_rows(home / "known.jsonl", "mood", 30)
    first = roads.recommend(asked(target, tiny_base_dir, verify=0), registry=registry)
    for name in ("_model_parts", "minilm_part"):
        monkeypatch.delattr(f"adapt_lora.registry.fingerprint.dataset.{name}")
    monkeypatch.delattr("transformers.AutoModelForCausalLM.from_pretrained")
    again = roads.recommend(asked(target, tiny_base_dir, verify=0), registry=registry)
    assert again.recommendation == first.recommendation
    assert again.fingerprint == first.fingerprint


def test_rows_that_python_holds_are_a_target_and_a_task(shelf, tiny_base_dir, tmp_path):
    import pandas as pd

    home, registry, _ = shelf
    path = write_rows(home / "held.jsonl", "mood", 30)
    frame = pd.read_json(path, lines=True)
    held = roads.recommend(asked(frame, tiny_base_dir, verify=0, name="held"), registry=registry)
    file = roads.recommend(asked(path, tiny_base_dir, verify=0), registry=registry)
    assert held.recommendation == file.recommendation
    assert held.target.digest == file.target.digest
    copy = roads.recommend(asked(file.target, tiny_base_dir, verify=0), registry=registry)
    assert copy.recommendation == file.recommendation
    plan = roads.plan_evaluation(
        EvaluationRequest([frame, path], base_model=str(tiny_base_dir)), registry=registry
    )
    names = {cell.task for cell in plan.cells}
    assert names == {"held", f"DataFrame-{held.target.digest[:8]}"}


def test_results_show_themselves_in_a_line(shelf, tiny_base_dir, tiny_base):
    _, registry, tasks = shelf
    answer = roads.recommend(asked(PROMPTS, tiny_base_dir), registry=registry)
    matrix = registry.transfer_matrix(tiny_base.identity)
    done = roads.evaluate(
        EvaluationRequest(tasks, base_model=str(tiny_base_dir)), registry=registry
    )
    moods = registry.adapter("moods")
    records = [
        answer,
        answer.recommendation,
        answer.recommendation.ranking[0],
        answer.fingerprint,
        moods,
        moods.fingerprint,
        matrix,
        matrix.tasks[0],
        matrix.cells[0],
        done,
    ]
    for record in records:
        text = repr(record)
        assert text.startswith(f"{type(record).__name__}(")
        assert len(text) <= 120
        assert "\n" not in text
    assert "3 adapters × " in repr(matrix)
    assert repr(moods).startswith(f"AdapterRecord('moods' version 1, id {moods.adapter_id[:8]}")
    assert "balanced_accuracy: " in repr(answer)


def test_a_fresh_base_starts_from_the_registrys_other_base(
    shelf, tiny_base_dir, tiny_base, tmp_path
):
    _, registry, _ = shelf
    measured = registry.transfer_matrix(tiny_base.identity)
    here = [replace(a, has_weights=False, run_id="", model_id="") for a in measured.adapters]
    other = BaseIdentity("other/base", "other-architecture", "other-weights")
    there = [
        replace(a, adapter_id=f"o-{a.adapter_id}", name=f"o-{a.name}", base=other) for a in here
    ]
    ids = {a.adapter_id: f"o-{a.adapter_id}" for a in here}
    cells = [replace(c, row=MatrixRow(ids.get(c.row.id, c.row.id))) for c in measured.cells]
    both = Registry(tmp_path / "registry", cache_folder=tmp_path / "cache")
    both.add_matrix(replace(measured, adapters=tuple(here), tasks=(), cells=()))
    both.add_matrix(replace(measured, base=other, adapters=tuple(there), cells=tuple(cells)))
    target = write_rows(tmp_path / "unseen.jsonl", "mood", 30)
    ask = asked(target, tiny_base_dir, verify=0)
    answer = recommendation_json(roads.recommend(ask, registry=both))
    assert answer["model"]["borrowed"]["base_models"] == ["other/base"]
    assert answer["model"]["borrowed"]["n_adapters"] == 3
    assert any("other/base" in warning for warning in answer["warnings"])
    # The target's own group is not looked at there either.
    same_group = replace(ask, group=measured.tasks[0].group)
    one_less = recommendation_json(roads.recommend(same_group, registry=both))
    groups = [a["model"]["borrowed"]["n_groups"] for a in (answer, one_less)]
    assert groups[1] == groups[0] - 1


def test_verification_shows_measured_beside_predicted(shelf, tiny_base_dir, tiny_base):
    home, registry, _ = shelf
    target = write_rows(home / "verified.jsonl", "choice", 26, start=100)
    answer = recommendation_json(
        roads.recommend(asked(target, tiny_base_dir, verify=2), registry=registry)
    )
    measured = [entry for entry in answer["ranking"] if "measured" in entry]
    assert len(measured) == 2
    assert all(entry["measured"]["n"] == 26 for entry in measured)
    matrix = registry.transfer_matrix(tiny_base.identity)
    assert "verified" not in {task.name for task in matrix.tasks}  # it is a target, not a task


def test_an_empty_registry_says_what_to_do(tiny_base_dir, tmp_path):
    registry = Registry(tmp_path / "empty", cache_folder=tmp_path / "cache")
    target = write_rows(tmp_path / "t.jsonl", "mood")
    with pytest.raises(RecommendError, match="holds no adapter for tiny/llama"):
        roads.recommend(asked(target, tiny_base_dir), registry=registry)


def test_no_register_leaves_a_folder_that_peft_loads(shelf, tiny_base_dir, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    home, _, _ = shelf
    request = TrainRequest(
        home / "moods.jsonl",
        "plain",
        find_recipe("quick", {"max_rows": 16}),
        base_model=str(tiny_base_dir),
        output=tmp_path / "plain",
    )
    training = roads.train(request, registry=None)
    assert training.record is None
    model = AutoModelForCausalLM.from_pretrained(tiny_base_dir)
    loaded = PeftModel.from_pretrained(model, training.folder)
    assert loaded.peft_config["default"].base_model_name_or_path == "tiny/llama"


def test_an_unknown_adapter_name_is_listed_against_the_known_ones(shelf, tiny_base_dir):
    _, registry, tasks = shelf
    with pytest.raises(NotFoundError, match=r"No adapter named 'nobody'.*choices, moods, sums"):
        roads.evaluate(
            EvaluationRequest(tasks[:1], adapters=["nobody"], base_model=str(tiny_base_dir)),
            registry=registry,
        )


def test_another_setting_of_the_recipe_is_another_training(shelf, tiny_base_dir):
    home, registry, _ = shelf
    recipe = find_recipe("quick", {"learning_rate": 0.02, "held_out_rows": 2, "max_tokens": None})
    request = TrainRequest(home / "moods.jsonl", "moods", recipe, base_model=str(tiny_base_dir))
    again = roads.train(request, registry=registry)
    assert again.result is not None
    assert again.record == registry.adapter("moods")  # the same weights came out: one entry


def test_verification_reads_its_own_protocol_not_an_older_column(shelf, tiny_base_dir, tiny_base):
    home, registry, _ = shelf
    target = write_rows(home / "twice.jsonl", "choice", 30, start=200)
    roads.evaluate(
        EvaluationRequest([target], base_model=str(tiny_base_dir), max_rows=10), registry=registry
    )
    answer = recommendation_json(
        roads.recommend(asked(target, tiny_base_dir, verify=1), registry=registry)
    )
    rows = [entry["measured"]["n"] for entry in answer["ranking"] if "measured" in entry]
    assert sorted(rows) == [10, 10, 30]  # the column's ten count, and the best has answered all


def test_a_bad_name_is_refused_before_any_work(shelf, tmp_path):
    _, registry, _ = shelf
    missing = tmp_path / "never-read.jsonl"
    with pytest.raises(ConfigError, match="base"):
        roads.train(TrainRequest(missing, "base", find_recipe("quick")), registry=registry)


def test_measured_gains_stand_on_the_card(shelf):
    _, registry, _ = shelf
    note = registry._client.mlflow.get_run(registry.adapter("moods").run_id).data.tags
    assert r"task\_a" in note["mlflow.note.content"]


def test_an_exported_registry_is_the_same_matrix_in_an_empty_one(shelf, tmp_path):
    _, registry, _ = shelf
    written = roads.export_registry(tmp_path / "export", registry=registry)
    other = Registry(tmp_path / "other", cache_folder=tmp_path / "cache")
    done = roads.import_results(tmp_path / "export", registry=other)
    assert (done.n_adapters, done.n_cells) == (3, len(written.cells))
    matrix = other.transfer_matrix(written.base)
    scores = {(c.row.id, c.task): c.score for c in matrix.cells}
    was = {(c.row.id, c.task): c.score for c in written.cells}
    assert scores == pytest.approx(was, rel=1e-5)
    assert {BASE_ID, MAJORITY_ID} <= {c.row.id for c in matrix.cells}
    pulled = other.pull(other.adapter("moods"), tmp_path / "moods")
    assert (pulled / "adapter_model.safetensors").is_file()
    again = roads.import_results(tmp_path / "export", registry=other)
    assert (again.n_adapters, again.n_cells, again.n_known_adapters) == (0, 0, 3)


def test_few_shot_rows_of_the_base_and_of_an_adapter_are_passed_on_too(
    shelf, tmp_path, tiny_base_dir
):
    home, registry, tasks = shelf
    roads.export_registry(tmp_path / "first", registry=registry)
    other = Registry(tmp_path / "other", cache_folder=tmp_path / "cache")
    roads.import_results(tmp_path / "first", registry=other)
    for adapters in ([], ["moods"]):
        roads.evaluate(
            EvaluationRequest(
                tasks[:1],
                adapters=adapters,
                base_model=str(tiny_base_dir),
                shots=2,
                shots_from=[home / "moods.jsonl"],
            ),
            registry=other,
        )
    written = roads.export_registry(tmp_path / "second", registry=other)
    third = Registry(tmp_path / "third", cache_folder=tmp_path / "cache")
    roads.import_results(tmp_path / "second", registry=third)
    rows = {cell.row for cell in third.transfer_matrix(written.base).cells}
    assert {row.model for row in rows if row.shots} == {
        BASE_ID,
        registry.adapter("moods").adapter_id,
    }


def test_figures_can_be_passed_on_without_the_weights(shelf, tmp_path):
    _, registry, _ = shelf
    roads.export_registry(tmp_path / "export", registry=registry, with_weights=False)
    other = Registry(tmp_path / "other", cache_folder=tmp_path / "cache")
    roads.import_results(tmp_path / "export", registry=other)
    record = other.adapter("moods")
    assert not record.has_weights
    assert record.behaviour_vector
    with pytest.raises(RegistryError, match="figures only"):
        other.pull(record, tmp_path / "moods")


def test_importing_what_is_not_there_says_what_can_be_imported(tmp_path):
    with pytest.raises(MatrixError, match=r"no such file or folder. Give a CSV .* word starter"):
        roads.import_results(tmp_path / "nothing.csv", registry=Registry(tmp_path / "registry"))


def test_a_registry_without_anything_of_that_base_has_no_export(tmp_path, tiny_base_dir):
    registry = Registry(tmp_path / "registry", cache_folder=tmp_path / "cache")
    with pytest.raises(NotFoundError, match="holds nothing of"):
        roads.export_registry(tmp_path / "e", registry=registry, base_model=str(tiny_base_dir))


def test_three_are_measured_by_default_where_there_are_answers_and_time(shelf, tiny_base_dir):
    home, registry, _ = shelf
    target = write_rows(home / "unasked.jsonl", "mood", 60, start=300)
    said: list[str] = []
    ask = asked(target, tiny_base_dir)
    answer = roads.recommend(ask, registry=registry, say=said.append)
    assert "Measuring the best 3 on up to 60 of the target's rows" in said[0]
    assert answer.verification is not None
    assert answer.verification.rounds[0] == (3, 50)
    content = recommendation_json(answer)
    assert content["verification"]["n_rows"] == 60
    first = next(entry for entry in content["ranking"] if "measured" in entry)
    assert {"predicted_alone", "predicted_gain"} <= first.keys()
    again = roads.recommend(ask, registry=registry)
    for was, now in zip(answer.recommendation.ranking, again.recommendation.ranking, strict=True):
        for name in was.__dataclass_fields__:
            assert getattr(was, name) == getattr(now, name), name  # cells were looked up
    assert answer.to_pandas().shape[0] == 3
    assert "<table" in answer._repr_html_()


def test_a_budget_that_is_too_small_leaves_a_prediction_and_says_so(shelf, tiny_base_dir):
    home, registry, _ = shelf
    target = write_rows(home / "hurry.jsonl", "choice", 50, start=400)
    said: list[str] = []
    hurry = asked(target, tiny_base_dir, budget_s=0.001)
    answer = roads.recommend(hurry, registry=registry, say=said.append)
    assert answer.verification is None
    assert "over the budget of 0 s" in said[0]
    assert not any("measured" in entry for entry in recommendation_json(answer)["ranking"])


def test_what_cannot_be_measured_leaves_a_prediction_with_the_reason(
    shelf, tiny_base_dir, monkeypatch
):
    from adapt_lora.evaluator import TargetMeter

    home, registry, _ = shelf
    target = write_rows(home / "broken.jsonl", "mood", 50, start=500)

    def fail(self, adapter_ids, rows):
        raise TaskError("the disk is full")

    monkeypatch.setattr(TargetMeter, "measure", fail)
    answer = roads.recommend(asked(target, tiny_base_dir), registry=registry)
    assert answer.verification is None
    assert any("the disk is full" in warning for warning in answer.warnings)
    assert len(answer.recommendation.ranking) == 3


def test_a_kept_recommendation_is_judged_once_its_target_is_measured(
    shelf, tiny_base_dir, tiny_base
):
    from adapt_lora.recommender.track_record import judge_past

    home, registry, _ = shelf
    target = write_rows(home / "later.jsonl", "mood", 22, start=600)
    answer = roads.recommend(asked(target, tiny_base_dir, verify=0), registry=registry)
    run_id = roads.keep_recommendation(answer, registry=registry)
    (kept,) = registry.recommendations(tiny_base.identity)
    assert kept.run_id == run_id
    assert kept.content == json.loads(json.dumps(versioned(recommendation_json(answer))))
    assert "was good" not in json.dumps(kept.content)  # no row of the target
    assert judge_past([kept], registry.transfer_matrix(tiny_base.identity)) == ()
    matrix = roads.evaluate(
        EvaluationRequest([target], base_model=str(tiny_base_dir)), registry=registry
    ).matrix
    (past,) = judge_past([kept], matrix)
    entries = {entry.adapter_id: entry for entry in answer.recommendation.ranking}
    gains = {
        cell.row.id: cell.score - matrix.cell(BASE_ROW, "later").score
        for cell in matrix.cells
        if cell.task == "later" and cell.row.id in entries
    }
    errors = [abs(gains[name] - entries[name].predicted_gain) for name in gains]
    assert past.n == 3
    assert past.mae == pytest.approx(sum(errors) / 3)
