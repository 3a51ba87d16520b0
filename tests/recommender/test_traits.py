"""Traits: principal components with gaps, signs, names and a memory."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapt_lora.errors import ConfigError, MatrixError
from adapt_lora.recommender.components import principal_components
from adapt_lora.recommender.scores import measured_scores
from adapt_lora.recommender.traits import TraitMemory, Traits, fit_traits
from adapt_lora.report.plain import traits_json
from tests.recommender.conftest import MakeMatrix


@pytest.fixture(scope="module")
def published(shared_data: Path) -> dict:
    """Table 1 of Krishna et al. 2025 and the row that its appendix C adds."""
    path = shared_data / "golden" / "krishna2025_pca_rows.csv"
    if not path.exists():
        pytest.skip("the golden tables are not in the folder of shared data")
    rows = list(csv.reader(path.open(encoding="utf-8")))
    scores = np.array([[float(v) for v in row[1:]] for row in rows[1:]])
    return {"scores": scores, "adapters": [row[0] for row in rows[1:]], "tasks": rows[0][1:]}


def test_the_published_rows_give_the_published_shares(published: dict) -> None:
    shares = fit_traits(**published).explained_variance_ratio
    assert [round(share, 3) for share in shares] == [0.297, 0.201, 0.136, 0.114]
    assert round(sum(shares), 3) == 0.748


def positive(traits: Traits, number: int, *, at: str) -> set[str]:
    """Tasks with a positive loading, the sign turned so that `at` is one of them."""
    turn = np.sign(traits.loadings[at][number])
    return {name for name, row in traits.loadings.items() if turn * row[number] > 0}


def test_the_published_rows_give_the_published_signs(published: dict) -> None:
    traits = fit_traits(**published)
    assert positive(traits, 0, at="GSM8K") == {"GSM8K", "Goat", "Magicode", "Flipkart"}
    assert positive(traits, 1, at="IMDB") == {"PAWS", "Pile", "Flipkart", "Amazon", "IMDB"}
    nlu = {"GSM8K", "Magicode", "MNLI", "MNLI (E)", "Flipkart", "Amazon", "IMDB"}
    assert positive(traits, 2, at="MNLI") == nlu
    turn = np.sign(traits.loadings["Goat"][3])
    largest = sorted(traits.loadings, key=lambda name: -turn * traits.loadings[name][3])
    assert largest[:3] == ["Goat", "Magicode", "Amazon"]


ZERO_SHOT = (
    "math-0shot", "gsm8k-0shot", "humaneval-0shot", "mbpp-0shot", "BoolQ-0shot", "nq-0shot",
    "Truthful_QA-0shot", "mmlu-0shot", "cmmlu-0shot", "jmmlu-0shot", "mtbench-total",
    "alpaca_eval_v2-total",
)  # fmt: skip


@pytest.mark.parametrize(("lora", "share"), [("true", 0.942), ("false", 0.939)])
def test_five_components_explain_the_gains_of_ten_base_models(
    shared_data: Path, lora: str, share: float
) -> None:
    path = shared_data / "matrices" / "massive_sft_evaluation_result.csv"
    if not path.exists():
        pytest.skip("the results of massive-sft are not in the folder of shared data")
    runs = list(csv.DictReader(path.open(encoding="utf-8")))
    bare = {run["model_name"]: zero_shot(run) for run in runs if run["data_name"] == "pretrain"}
    chosen = {"lora": lora, "epoch": "10", "data_size": "1000.0", "lr_strategy": "cosine"}
    gains = np.array(
        [
            zero_shot(run) - bare[run["model_name"]]
            for run in runs
            if run["model_name"] != "Gemma2-9B" and chosen.items() <= run.items()
        ]
    )
    assert gains.shape == (100, 12)
    filled = np.where(np.isnan(gains), np.nanmean(gains, axis=0), gains)
    parts = principal_components(filled, n_components=5)
    assert round(float(parts.explained_variance_ratio.sum()), 3) == share


def zero_shot(run: dict[str, str]) -> np.ndarray:
    return np.array([float(run[name]) if run[name] else np.nan for name in ZERO_SHOT])


def rank_two(n: int = 12, t: int = 7, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 2)) @ rng.standard_normal((2, t))


def names(scores: np.ndarray) -> dict[str, list[str]]:
    n, t = scores.shape
    return {"adapters": [f"a{i}" for i in range(n)], "tasks": [f"t{j}" for j in range(t)]}


def test_two_components_explain_a_matrix_of_rank_two() -> None:
    scores = rank_two()
    traits = fit_traits(scores, n_components=4, **names(scores))
    assert sum(traits.explained_variance_ratio[:2]) == pytest.approx(1.0)


def test_scores_times_loadings_rebuild_the_standardised_matrix() -> None:
    scores = rank_two()
    traits = fit_traits(scores, n_components=2, **names(scores))
    rebuilt = np.array(list(traits.scores.values())) @ np.array(list(traits.loadings.values())).T
    standard = (scores - scores.mean(axis=0)) / scores.std(axis=0)
    np.testing.assert_allclose(rebuilt, standard, atol=1e-9)


def test_signs_do_not_depend_on_the_order_of_adapters() -> None:
    scores = rank_two()
    order = np.random.default_rng(1).permutation(len(scores))
    one, two = fit_traits(scores, **names(scores)), fit_traits(scores[order], **names(scores))
    np.testing.assert_allclose(
        np.array(list(one.loadings.values()))[:, :2],
        np.array(list(two.loadings.values()))[:, :2],
        atol=1e-9,
    )
    assert one.names[:2] == two.names[:2]


def test_a_constant_task_has_no_loading() -> None:
    scores = rank_two()
    scores[:, 3] = 0.5
    traits = fit_traits(scores, **names(scores))
    assert traits.loadings["t3"] == pytest.approx((0.0, 0.0))
    assert traits.notes == ("The same score everywhere, so no loading: t3.",)


def test_traits_without_variance_are_not_reported() -> None:
    scores = rank_two()
    assert fit_traits(scores, n_components=4, **names(scores)).keys == ("T1", "T2")
    with pytest.raises(MatrixError, match="the same score everywhere"):
        fit_traits(np.ones((3, 3)), **names(np.ones((3, 3))))


def test_names_say_the_poles_in_letters_that_storage_allows() -> None:
    line = np.linspace(-1, 1, 8)[:, None]
    noise = 0.01 * np.random.default_rng(0).standard_normal((8, 2))
    scores = np.hstack([line, -line]) + noise
    adapters = [f"a{i}" for i in range(8)]
    traits = fit_traits(scores, n_components=1, adapters=adapters, tasks=["MNLI (E)", "IMDB"])
    assert traits.names[0] in {"T1 MNLI-E vs IMDB", "T1 IMDB vs MNLI-E"}


def test_both_poles_are_named_where_tasks_stand_out() -> None:
    line = np.linspace(-1, 1, 12)
    noise = 0.05 * np.random.default_rng(0).standard_normal((12, 5))
    scores = np.column_stack([line, line, line, -line, np.zeros(12)]) + noise
    traits = fit_traits(scores, n_components=1, **names(scores))
    assert set(traits.poles[0].high) == {"t0", "t1", "t2"}
    assert traits.poles[0].low == ("t3",)
    assert traits.names[0].endswith("vs t3")


def test_the_order_of_rows_and_tasks_changes_nothing() -> None:
    scores = noisy(gaps=0.2)
    rows, columns = np.random.default_rng(1).permuted(np.arange(15)), [3, 0, 4, 1, 6, 5, 2]
    one = fit_traits(scores, **names(scores))
    two = fit_traits(
        scores[np.ix_(rows, columns)],
        adapters=[f"a{row}" for row in rows],
        tasks=[f"t{column}" for column in columns],
    )
    assert one.rank is not None
    assert one.rank == two.rank
    assert list(two.loadings) == [f"t{column}" for column in columns]
    for key, row in one.loadings.items():
        assert two.loadings[key] == pytest.approx(row, abs=1e-9)
    for key, row in one.scores.items():
        assert two.scores[key] == pytest.approx(row, abs=1e-9)


def noisy(n: int = 15, t: int = 7, *, gaps: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((n, 2)) * [3.0, 2.0]) @ rng.standard_normal((2, t))
    values += 0.5 * rng.standard_normal((n, t))
    values[rng.random((n, t)) < gaps] = np.nan
    return values


def turned(memory: TraitMemory, keys: dict[str, str], sign: float) -> TraitMemory:
    """The same traits under other keys and with other signs."""
    loadings = {
        keys[key]: {name: sign * value for name, value in row.items()}
        for key, row in memory.loadings.items()
    }
    return TraitMemory(loadings, {keys[key]: name for key, name in memory.names.items()})


def test_a_fit_takes_keys_signs_and_names_of_the_last_one() -> None:
    scores = noisy()
    first = fit_traits(scores, n_components=2, names={"T1": "reasoning"}, **names(scores))
    assert first.names[0] == "reasoning"
    last = turned(first.memory, {"T1": "T2", "T2": "T1"}, -1.0)
    again = fit_traits(scores, n_components=2, last=last, **names(scores))
    assert again.keys == ("T1", "T2")
    assert again.names[1] == "reasoning"
    assert again.explained_variance_ratio == first.explained_variance_ratio[::-1]
    for row in first.loadings:
        assert again.loadings[row] == pytest.approx([-v for v in first.loadings[row][::-1]])
    for row in first.scores:
        assert again.scores[row] == pytest.approx([-v for v in first.scores[row][::-1]])


def test_traits_are_matched_over_the_tasks_that_both_fits_know() -> None:
    scores = noisy(t=9)
    known = {"adapters": names(scores)["adapters"], "tasks": [f"t{j}" for j in range(7)]}
    first = fit_traits(scores[:, :7], n_components=2, **known)
    last = turned(first.memory, {"T1": "T1", "T2": "T2"}, -1.0)
    wider = fit_traits(scores[:, 2:], n_components=2, last=last, adapters=known["adapters"],
                       tasks=[f"t{j}" for j in range(2, 9)])  # fmt: skip
    for key in (0, 1):
        old = [-first.loadings[f"t{j}"][key] for j in range(2, 7)]
        new = [wider.loadings[f"t{j}"][key] for j in range(2, 7)]
        assert np.dot(old, new) > 0


def test_a_name_leaves_with_its_trait_and_the_note_says_so() -> None:
    one, two = noisy(seed=0), noisy(seed=5)
    first = fit_traits(one, n_components=1, names={"T1": "reasoning"}, **names(one))
    other = fit_traits(two, n_components=1, last=first.memory, **names(two))
    assert other.names[0].startswith("T1 ")
    assert "T1 is another trait than in the last fit" in other.notes[0]
    assert "'reasoning'" in other.notes[0]
    assert other.memory.names == {}


def test_fewer_traits_forget_nothing() -> None:
    scores = noisy()
    first = fit_traits(
        scores, n_components=3, names={"T3": "arithmetic", "T2": "tone"}, **names(scores)
    )
    narrow = fit_traits(scores, n_components=1, last=first.memory, **names(scores))
    assert narrow.keys == ("T1",)
    wide = fit_traits(scores, n_components=3, last=narrow.memory, **names(scores))
    assert wide.names[1:] == ("tone", "arithmetic")


def test_an_empty_name_goes_back_to_the_poles() -> None:
    scores = noisy()
    first = fit_traits(scores, names={"T1": "reasoning"}, **names(scores))
    again = fit_traits(scores, names={"T1": ""}, last=first.memory, **names(scores))
    assert again.names[0].startswith("T1 ")
    assert "T1" not in again.memory.names


def test_a_name_for_no_trait_is_refused() -> None:
    scores = noisy()
    with pytest.raises(ConfigError, match="no trait 'T9' to name: there are T1, T2"):
        fit_traits(scores, n_components=2, names={"T9": "x"}, **names(scores))


def test_the_memory_survives_storage() -> None:
    scores = noisy()
    memory = fit_traits(scores, names={"T1": "reasoning"}, **names(scores)).memory
    assert TraitMemory.from_json(json.loads(json.dumps(memory.to_json()))) == memory


def test_stability_names_the_row_that_a_trait_hangs_on() -> None:
    scores = 0.3 * np.random.default_rng(0).standard_normal((12, 6)) + rank_two(12, 6)
    scores[7, 4:] += 40.0
    traits = fit_traits(scores, n_components=2, **names(scores))
    worst = min(traits.stability, key=lambda one: one.minimum)
    assert worst.row == "a7"
    assert worst.minimum < 0.8 < worst.median <= 1.0


def test_errors_are_absent_and_missed_aloud_where_nothing_is_left_over() -> None:
    scores = noisy(4)
    traits = fit_traits(scores, n_components=3, **names(scores))
    assert traits.standard_errors == {}
    assert "standard_errors" not in traits_json(traits)
    assert "how sure the scores are" in traits.notes[-1]


def test_stability_is_absent_where_a_row_less_leaves_too_few() -> None:
    scores = noisy(4)
    assert fit_traits(scores, n_components=3, **names(scores)).stability == ()
    assert "stability" not in traits_json(fit_traits(scores, n_components=3, **names(scores)))
    assert len(fit_traits(scores, n_components=2, **names(scores)).stability) == 2


def test_rows_and_tasks_without_any_score_are_left_out_aloud() -> None:
    scores = noisy()
    scores[4], scores[:, 2] = np.nan, np.nan
    traits = fit_traits(scores, n_components=2, **names(scores))
    assert "a4" not in traits.scores
    assert "t2" not in traits.loadings
    assert "without any score: a4, t2." in traits.notes[0]


def test_an_adapter_measured_on_two_tasks_is_scored_with_a_wider_error() -> None:
    scores = noisy(30, 9)
    whole = fit_traits(scores, n_components=2, **names(scores))
    scores[3, 2:] = np.nan
    sparse = fit_traits(scores, n_components=2, last=whole.memory, **names(scores))
    assert sparse.n_imputed == 7
    for key in (0, 1):
        assert sparse.standard_errors["a3"][key] > 1.2 * sparse.standard_errors["a4"][key]
        off = abs(sparse.scores["a3"][key] - whole.scores["a3"][key])
        assert off < 2.5 * sparse.standard_errors["a3"][key]


def test_the_number_of_traits_does_not_decide_how_gaps_are_filled() -> None:
    scores = noisy(40, 10, gaps=0.2)
    one, four = (fit_traits(scores, n_components=k, **names(scores)) for k in (1, 4))
    assert one.rank is not None
    assert one.rank.n_components == 2
    assert one.explained_variance_ratio[0] == pytest.approx(four.explained_variance_ratio[0])
    assert "filled by 2 components" in one.notes[0]


def test_the_json_form_has_the_documented_keys_and_plain_numbers() -> None:
    scores = rank_two()
    found = traits_json(fit_traits(scores, n_components=2, **names(scores)))
    assert {"explained_variance_ratio", "loadings", "scores", "names"} <= set(found)
    json.dumps(found, allow_nan=False)
    assert len(found["loadings"]["t0"]) == len(found["scores"]["a0"]) == len(found["names"]) == 2
    assert all(type(value) is float for value in found["scores"]["a0"])


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (np.ones((1, 3)), "at least two rows and two tasks"),
        (np.array([[1.0, np.nan], [2.0, np.nan]]), "not 2 × 1.*without any score: t1"),
        (np.array([[np.nan, np.nan], [2.0, 1.0]]), "not 1 × 2.*without any score: a0"),
        (np.array([[np.inf, 1.0], [2.0, 1.0]]), "infinite"),
    ],
)
def test_too_little_is_said_in_words(scores: np.ndarray, words: str) -> None:
    with pytest.raises(MatrixError, match=words):
        fit_traits(scores, **names(scores))


def test_two_rows_of_one_name_are_refused() -> None:
    with pytest.raises(MatrixError, match="called 'a'"):
        fit_traits(noisy(3, 3), adapters=["a", "b", "a"], tasks=["x", "y", "z"])


def test_scores_of_a_registry_keep_the_base_row_and_what_nobody_measured(
    make_matrix: MakeMatrix,
) -> None:
    matrix = make_matrix(2, 3)
    one, two = matrix.adapters
    records = (one, replace(two, name="base"), replace(one, name="new", adapter_id="id-new"))
    table = measured_scores(replace(matrix, adapters=records))
    assert table.rows == ("base", "a0", "base/0", "new")
    assert np.isnan(table.values[3]).all()
    assert np.isfinite(table.values[:3]).all()
