from math import sqrt

import numpy as np
import pytest

from adapt_lora.errors import TaskError
from adapt_lora.evaluator import compare_with_base
from adapt_lora.evaluator.comparison import mcnemar, minimum_detectable_share
from adapt_lora.registry.records import Prediction


def _right(flags, gold=None, answers=None):
    return [
        Prediction(
            row=str(i),
            right=bool(flag),
            answer=None if answers is None else answers[i],
            log_likelihood=(),
            n_tokens=None,
            gold=None if gold is None else gold[i],
        )
        for i, flag in enumerate(flags)
    ]


def _graded(grades):
    return [Prediction(str(i), None, None, (), None, grade=g) for i, g in enumerate(grades)]


def _read(sums, tokens):
    return [
        Prediction(str(i), None, None, (s,), n)
        for i, (s, n) in enumerate(zip(sums, tokens, strict=True))
    ]


def test_mcnemar_looks_at_the_rows_on_which_the_two_differ():
    # 2 · P(X ≤ 1), X ~ Bin(8, ½): 2 · 9/256.
    assert mcnemar(7, 1) == pytest.approx(2 * 9 / 256)
    assert mcnemar(1, 7) == mcnemar(7, 1)
    assert mcnemar(3, 3) == 1
    assert mcnemar(0, 0) == 1


def test_right_and_wrong_are_compared_row_by_row_whatever_the_order():
    base = _right([1, 1, 0, 0, 0, 0, 0, 0, 0, 1])
    adapter = _right([1, 0, 1, 1, 1, 1, 1, 1, 1, 1])
    compared = compare_with_base(adapter, base[::-1], metric="accuracy")
    assert compared.gain == pytest.approx(0.6)
    assert compared.p_value == pytest.approx(mcnemar(7, 1))
    # Eight of ten differ, and half a row of the one that is added: ψ = 8.5/11, mean 6/11.
    assert compared.se == pytest.approx(sqrt((8.5 / 11 - (6 / 11) ** 2) / 12))
    assert compared.n == 10


def test_pairing_sees_what_two_independent_errors_would_not():
    rng = np.random.default_rng(0)
    base = rng.random(200) < 0.5
    adapter = base | (rng.random(200) < 0.08)
    compared = compare_with_base(_right(adapter), _right(base), metric="exact_match")
    independent = sqrt(0.5 * 0.5 / 200 * 2)
    assert compared.se < independent / 2
    assert compared.p_value < 0.05


def test_equal_answers_are_no_difference_and_still_leave_something_undetected():
    same = _right([1, 0] * 20)
    compared = compare_with_base(same, same, metric="accuracy")
    assert (compared.gain, compared.p_value) == (0, 1)
    assert 0.1 < compared.minimum_detectable_gain < 0.25


def test_the_minimum_detectable_share_is_shown_with_the_stated_power():
    discordance, n = 0.2, 200
    gain = minimum_detectable_share(discordance, n)
    rng = np.random.default_rng(0)
    better, worse = (discordance + gain) / 2, (discordance - gain) / 2
    draws = rng.multinomial(n, [better, worse, 1 - discordance], size=1000)
    shown = np.mean([mcnemar(int(b), int(w)) < 0.05 for b, w, _ in draws])
    # The exact test is somewhat shyer than the normal one that the formula is for.
    assert 0.68 < shown < 0.86


def test_the_minimum_detectable_share_never_exceeds_what_can_differ():
    gain = minimum_detectable_share(0.001, 100)
    assert sqrt(100 * gain) == pytest.approx(1.95996 + 0.84162 * sqrt(1 - gain), rel=1e-4)
    assert minimum_detectable_share(0.5, 3) is None
    assert minimum_detectable_share(0.3, 400) < minimum_detectable_share(0.3, 100)


def test_balanced_accuracy_is_compared_within_each_label():
    gold = ["a"] * 40 + ["b"] * 10
    base = _right([1] * 40 + [0] * 10, gold)
    adapter = _right([1] * 36 + [0] * 4 + [1] * 8 + [0] * 2, gold)
    compared = compare_with_base(adapter, base, metric="balanced_accuracy")
    assert compared.gain == pytest.approx((-0.1 + 0.8) / 2)
    assert compared.p_value < 0.01
    variances = (4.5 / 41 - (4 / 41) ** 2) / 42, (8.5 / 11 - (8 / 11) ** 2) / 12
    assert compared.se == pytest.approx(sqrt(sum(variances)) / 2)


def test_macro_f1_is_compared_as_scikit_learn_counts_it():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    gold = rng.choice(["a", "b", "c"], size=60).tolist()
    said = [np.where(rng.random(60) < p, gold, "a").tolist() for p in (0.9, 0.2)]
    adapter, base = (
        _right([g == s for g, s in zip(gold, words, strict=True)], gold, words) for words in said
    )
    compared = compare_with_base(adapter, base, metric="macro_f1")
    scores = [f1_score(gold, words, average="macro") for words in said]
    assert compared.gain == pytest.approx(scores[0] - scores[1])
    assert compared.p_value < 0.01


def test_graded_answers_are_compared_by_paired_bootstrap():
    rng = np.random.default_rng(0)
    base = rng.random(100)
    adapter = np.clip(base + rng.normal(0.05, 0.1, 100), 0, 1)
    compared = compare_with_base(_graded(adapter), _graded(base), metric="rouge_l")
    spread = (adapter - base).std(ddof=1) / 10
    assert compared.gain == pytest.approx((adapter - base).mean())
    assert compared.se == pytest.approx(spread, rel=0.1)
    assert compared.minimum_detectable_gain == pytest.approx(2.8016 * spread, rel=0.1)
    assert compared.p_value < 0.01


def test_log_likelihoods_are_compared_per_token():
    tokens = [2, 4, 6, 8] * 5
    base = _read([-2.0 * n for n in tokens], tokens)
    adapter = _read([-1.5 * n - (i % 2) for i, n in enumerate(tokens)], tokens)
    compared = compare_with_base(adapter, base, metric="answer_log_likelihood")
    assert compared.gain == pytest.approx(0.5 - 10 / 100)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1", "token_f1"])
def test_chance_alone_is_called_a_gain_no_more_often_than_stated(metric):
    rng = np.random.default_rng(0)
    low = 0
    for seed in range(150):
        gold = rng.choice(["a", "b"], size=80, p=[0.7, 0.3])
        said = [np.where(rng.random(80) < 0.7, gold, "c").tolist() for _ in range(2)]
        if metric == "token_f1":
            pair = [_graded(rng.random(80)) for _ in range(2)]
        else:
            pair = [_right(gold == words, gold, words) for words in said]
        low += compare_with_base(*pair, metric=metric, seed=seed).p_value < 0.05
    assert low / 150 < 0.11


def test_rows_without_a_grade_and_rows_of_one_side_alone_are_left_out():
    adapter = _graded([1.0, None, 0.0, 1.0])
    base = _graded([0.0, 1.0, None, 0.0, 1.0])
    assert compare_with_base(adapter, base, metric="judge_accuracy").n == 2
    with pytest.raises(TaskError, match="no scored row in common"):
        compare_with_base(_graded([None]), _graded([1.0]), metric="judge_accuracy")


def test_a_metric_over_labels_needs_gold_labels():
    with pytest.raises(TaskError, match="no gold label"):
        compare_with_base(_right([1]), _right([1]), metric="balanced_accuracy")


def test_what_is_not_known_is_absent_from_the_figures():
    compared = compare_with_base(_graded([0.5]), _graded([0.5]), metric="token_f1")
    assert "minimum_detectable_gain" not in compared.metrics
    assert compared.metrics["p_value_vs_base"] == 1
