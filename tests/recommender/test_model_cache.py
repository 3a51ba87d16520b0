"""Fitted models on disk: read back exactly, and never trusted when damaged."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapt_lora.recommender import ranking
from adapt_lora.recommender.model_cache import ModelCache, model_key
from adapt_lora.recommender.models import METHODS
from adapt_lora.recommender.ranking import rank_adapters
from adapt_lora.registry.records import Fingerprint
from tests.recommender.conftest import MakeMatrix, MakeTable

METRIC = "balanced_accuracy"


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "models")


def the_only_file(cache: ModelCache) -> Path:
    (path,) = cache.path("x").parent.glob("*.json")
    return path


@pytest.mark.parametrize("method", ["default", *METHODS])
def test_a_model_read_back_answers_as_the_fitted_one(
    make_matrix: MakeMatrix, target: Fingerprint, cache: ModelCache, method: str
) -> None:
    matrix = make_matrix(6, 11)
    fitted = rank_adapters(matrix, target, metric=METRIC, method=method, cache=cache)
    again = rank_adapters(matrix, target, metric=METRIC, method=method, cache=cache)
    assert again == fitted
    bare = rank_adapters(matrix, target, metric=METRIC, method=method)
    assert [e.adapter for e in bare.ranking] == [e.adapter for e in fitted.ranking]
    assert [e.predicted_gain for e in bare.ranking] == pytest.approx(
        [e.predicted_gain for e in fitted.ranking], abs=1e-12
    )


def test_nothing_is_refitted_when_nothing_changed(
    make_matrix: MakeMatrix,
    target: Fingerprint,
    cache: ModelCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix = make_matrix(5, 5)
    first = rank_adapters(matrix, target, metric=METRIC, cache=cache)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was fitted again")

    monkeypatch.setattr(ranking, "_learn", refuse)
    assert rank_adapters(matrix, target, metric=METRIC, cache=cache) == first
    other = Fingerprint(values={**target.values, "n_labels": 3.0}, vectors=target.vectors)
    assert rank_adapters(matrix, other, metric=METRIC, cache=cache).ranking  # another target
    with pytest.raises(AssertionError, match="fitted again"):
        rank_adapters(matrix, target, metric=METRIC, cache=cache, seed=1)
    with pytest.raises(AssertionError, match="fitted again"):
        rank_adapters(matrix, target, metric=METRIC, cache=cache, group="g3")
    cells = (replace(matrix.cells[1], score=0.9), *matrix.cells[2:])
    with pytest.raises(AssertionError, match="fitted again"):
        rank_adapters(replace(matrix, cells=cells), target, metric=METRIC, cache=cache)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],  # cut off
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace("0.1", "0.2", 1),  # one figure changed
        lambda text: json.dumps({**json.loads(text), "key": "of another content"}),
        lambda text: json.dumps({**json.loads(text), "content": "{}"}),
    ],
)
def test_a_damaged_file_is_ignored_and_written_anew(
    make_matrix: MakeMatrix, target: Fingerprint, cache: ModelCache, damage: object
) -> None:
    matrix = make_matrix(5, 5)
    first = rank_adapters(matrix, target, metric=METRIC, cache=cache)
    path = the_only_file(cache)
    good = path.read_text()
    path.write_text(damage(good))  # type: ignore[operator]
    assert rank_adapters(matrix, target, metric=METRIC, cache=cache) == first
    assert path.read_text() == good


def test_the_files_are_plain_json_without_rows_or_pickles(
    make_matrix: MakeMatrix, target: Fingerprint, cache: ModelCache
) -> None:
    rank_adapters(make_matrix(6, 11), target, metric=METRIC, cache=cache)
    content = json.loads(json.loads(the_only_file(cache).read_text())["content"])
    assert set(content) == {"method", "ranker", "gains", "backtest"}
    assert "tree" in json.dumps(content["ranker"])  # LightGBM's own text


def test_several_at_once_leave_one_good_file(
    make_matrix: MakeMatrix, target: Fingerprint, cache: ModelCache
) -> None:
    matrix = make_matrix(5, 5)
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(rank_adapters, matrix, target, metric=METRIC, cache=cache) for _ in range(8)
        ]
        answers = [job.result() for job in jobs]
    assert all(answer == answers[0] for answer in answers)
    folder = the_only_file(cache).parent
    assert [path.suffix for path in folder.iterdir()] == [".json"]


def test_a_folder_that_cannot_be_written_only_costs_time(
    make_matrix: MakeMatrix, target: Fingerprint, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = ModelCache(tmp_path / "file" / "models")
    assert rank_adapters(make_matrix(4, 4), target, metric=METRIC, cache=cache).ranking


def test_only_the_newest_models_are_kept(
    make_matrix: MakeMatrix,
    target: Fingerprint,
    cache: ModelCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("adapt_lora.recommender.model_cache._KEPT", 2)
    cache = ModelCache(cache.path("x").parent)
    matrix = make_matrix(4, 3)
    for seed in range(4):
        rank_adapters(matrix, target, metric=METRIC, cache=cache, seed=seed)
    assert len(list(cache.path("x").parent.iterdir())) == 2


def test_the_key_follows_every_number(make_table: MakeTable) -> None:
    scores = np.random.default_rng(0).random((4, 3))
    table, settings = make_table(scores), {"method": "stack", "seed": 0}
    key = model_key(table, settings)
    assert key == model_key(make_table(scores.copy()), settings)
    scores = scores.copy()
    scores[0, 0] += 1e-15
    assert key != model_key(make_table(scores), settings)
    assert key != model_key(table, {**settings, "seed": 1})
    assert key != model_key(make_table(table.scores, groups=("a", "a", "b")), settings)
