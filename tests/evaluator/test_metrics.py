from decimal import Decimal
from math import exp, log, sqrt

import numpy as np
import pytest

from adapt_lora.evaluator.metrics import (
    accuracy,
    answer_log_likelihood,
    balanced_accuracy,
    count_confusion,
    final_number,
    is_exact_match,
    is_numeric_match,
    label_cross_entropy,
    label_scores,
    macro_f1,
    mean_grade,
    rouge_l,
    share_right,
    token_f1,
)

# Gold: 4 of label 0, 2 of label 1. Right: 3 of 4 and 1 of 2.
GOLD = [0, 0, 0, 0, 1, 1]
PREDICTED = [0, 0, 0, 1, 1, 0]


@pytest.fixture
def confusion():
    return count_confusion(GOLD, PREDICTED, 2)


def test_the_confusion_has_gold_in_rows_and_predictions_in_columns(confusion):
    assert confusion.counts.tolist() == [[3, 1], [1, 1]]
    assert confusion.gold.tolist() == [4, 2]
    assert confusion.predicted.tolist() == [4, 2]


def test_balanced_accuracy_is_the_mean_recall_worked_by_hand(confusion):
    estimate = balanced_accuracy(confusion)
    assert estimate.value == pytest.approx((3 / 4 + 1 / 2) / 2)
    # Jeffreys: Beta(3.5, 1.5) and Beta(1.5, 1.5).
    variances = 3.5 * 1.5 / (5**2 * 6) + 1.5 * 1.5 / (3**2 * 4)
    assert estimate.se == pytest.approx(sqrt(variances) / 2)


def test_a_constant_answer_has_balanced_accuracy_one_over_labels_without_error():
    estimate = balanced_accuracy(count_confusion([0] * 90 + [1] * 7 + [2] * 3, [0] * 100, 3))
    assert estimate.value == pytest.approx(1 / 3)
    assert estimate.se == 0


def test_labels_that_never_occur_in_gold_do_not_pull_balanced_accuracy_down():
    estimate = balanced_accuracy(count_confusion([0, 0, 1, 1], [0, 0, 1, 1], 5))
    assert estimate.value == 1
    assert 0 < estimate.se < 0.2


def test_accuracy_is_the_share_right_and_never_counts_as_certain(confusion):
    assert accuracy(confusion).value == pytest.approx(4 / 6)
    all_right = share_right(20, 20)
    assert all_right.value == 1
    assert all_right.se == pytest.approx(sqrt(20.5 * 0.5 / (21**2 * 22)))
    assert share_right(50, 100).se == pytest.approx(0.05, rel=0.02)


def test_metrics_agree_with_scikit_learn_on_random_answers():
    from sklearn import metrics as sk

    rng = np.random.default_rng(0)
    gold = rng.integers(0, 3, size=60).tolist()
    predicted = rng.integers(0, 4, size=60).tolist()
    confusion = count_confusion(gold, predicted, 5)
    assert macro_f1(confusion).value == pytest.approx(sk.f1_score(gold, predicted, average="macro"))
    assert accuracy(confusion).value == pytest.approx(sk.accuracy_score(gold, predicted))
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        expected = sk.balanced_accuracy_score(gold, predicted)
    assert balanced_accuracy(confusion).value == pytest.approx(expected)


@pytest.mark.parametrize("metric", [balanced_accuracy, accuracy, macro_f1])
def test_standard_errors_are_near_the_spread_over_fresh_samples(metric):
    rng = np.random.default_rng(1)
    estimates = []
    for _ in range(300):
        gold = rng.choice(3, size=120, p=[0.6, 0.3, 0.1])
        right = rng.random(120) < 0.7
        predicted = np.where(right, gold, rng.integers(0, 3, size=120))
        estimates.append(metric(count_confusion(gold.tolist(), predicted.tolist(), 3)))
    spread = np.std([estimate.value for estimate in estimates])
    assert np.mean([estimate.se for estimate in estimates]) == pytest.approx(spread, rel=0.2)


def test_answer_log_likelihood_is_the_total_over_all_tokens():
    estimate = answer_log_likelihood([2.0, 6.0], [4, 4])
    assert estimate.value == -1.0
    # Residuals are +2 and -2: sqrt(8 · 2/1) / 8.
    assert estimate.se == pytest.approx(0.5)


def test_answer_log_likelihood_weighs_rows_by_their_tokens():
    assert answer_log_likelihood([1.0, 9.0], [1, 3]).value == -2.5
    assert answer_log_likelihood([3.0, 9.0], [1, 3]).se == 0


def test_label_cross_entropy_is_log_k_for_a_model_that_knows_nothing():
    estimate = label_cross_entropy(np.full((10, 4), -7.0), [0, 1, 2, 3, 0, 1, 2, 3, 0, 1])
    assert estimate.value == pytest.approx(log(4))
    assert estimate.se == pytest.approx(0)


def test_label_cross_entropy_looks_at_the_gold_label_alone():
    log_odds = np.array([[0.0, -2.0], [0.0, -2.0]])
    losses = [log(1 + exp(-2)), 2 + log(1 + exp(-2))]
    estimate = label_cross_entropy(log_odds, [0, 1])
    assert estimate.value == pytest.approx(np.mean(losses))
    assert estimate.se == pytest.approx(1.0)  # they differ by 2: sd √2, over √2


def test_per_token_lets_a_long_label_win_that_the_sum_would_refuse():
    likelihood = np.array([[-2.0, -3.0]])
    assert label_scores(likelihood, [1, 3], "sum").argmax() == 0
    assert label_scores(likelihood, [1, 3], "per_token").argmax() == 1


def test_prior_correction_undoes_a_liking_for_one_label():
    # Label 0 is liked by 3 nats everywhere; the evidence is ±1 around that.
    evidence = np.array([1.0, -1.0, 1.0, -1.0])
    likelihood = np.stack([3 + evidence / 2, -evidence / 2], axis=1)
    assert label_scores(likelihood, [1, 1], "sum").argmax(axis=1).tolist() == [0, 0, 0, 0]
    corrected = label_scores(likelihood, [1, 1], "prior_corrected").argmax(axis=1)
    assert corrected.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("Paris", "paris", True),
        ('  "Paris". ', "Paris", True),
        ("“Paris”", "'Paris'", True),
        ('"Paris."', "Paris", True),
        ("3338  R 46\n", "3338 R 46", True),
        ("New\u00a0York.", "new york", True),
        ("ﬁne", "fine", True),  # NFKC takes the ligature apart
        ("The answer is Paris", "Paris", False),
        ("", "Paris", False),
    ],
)
def test_exact_match_forgives_case_space_quotes_and_a_full_stop(answer, gold, same):
    assert is_exact_match(answer, gold) is same


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("He ran 16 miles.\n#### 16", "16"),
        ("#### 1,234 dollars, not 7", "1234"),
        ("3 + 4 = 7", "7"),
        ("7-3", "3"),
        ("it is -3", "-3"),
        ("it is −3.5%", "-3.5"),
        ("$1,000,000.25", "1000000.25"),
        ("1,2", "2"),
        ("40081.", "40081"),
        ("(−2)", "-2"),
        ("none", None),
    ],
)
def test_the_final_number_of_a_text(text, number):
    assert final_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("The answer is 42.0", "#### 42", True),
        ("41.99", "42", False),
        ("0", "0.0", True),
        ("I do not know", "42", False),
        ("1,234", "1234", True),
    ],
)
def test_numeric_match_compares_final_numbers(answer, gold, same):
    assert is_numeric_match(answer, gold) is same


@pytest.mark.parametrize(
    ("answer", "gold", "f1"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1.0),
        ("in Paris, France", "Paris", 0.5),  # precision 1/3, recall 1
        ("Paris Paris", "Paris", 2 / 3),  # a word counts as often as it stands in both
        ("London", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("the", "a", 1.0),  # neither has a word left
    ],
)
def test_token_f1_is_squads(answer, gold, f1):
    assert token_f1(answer, gold) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "gold", "f1"),
    [
        # The first two are Lin's own example (2004, §3.1); all are what rouge-score 0.1.2 gives.
        ("police killed the gunman", "police kill the gunman", 0.75),
        ("the gunman kill police", "police kill the gunman", 0.5),
        (
            "The quick brown fox jumps over the lazy dog.",
            "A quick brown dog jumps on the log",
            0.47058823529411764,
        ),
        ("one two three four", "three four one two", 0.5),
        ("", "x", 0.0),
        ("Hello, World! 42", "hello world", 0.8),
        ("a b c d e f g a b", "a c b g b a", 0.5333333333333333),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(answer, gold, f1):
    assert rouge_l(answer, gold) == pytest.approx(f1)


def test_rouge_l_reads_other_scripts_than_latin():
    assert rouge_l("Москва большой город", "москва большой") == pytest.approx(0.8)


def test_rouge_l_agrees_with_the_textbook_table_on_random_words():
    rng = np.random.default_rng(0)
    for _ in range(20):
        left, right = (rng.choice(list("abcd"), size=n).tolist() for n in rng.integers(1, 80, 2))
        table = np.zeros((len(left) + 1, len(right) + 1), dtype=int)
        for i, a in enumerate(left, 1):
            for j, b in enumerate(right, 1):
                table[i, j] = (
                    table[i - 1, j - 1] + 1 if a == b else max(table[i - 1, j], table[i, j - 1])
                )
        expected = 2 * table[-1, -1] / (len(left) + len(right))
        assert rouge_l(" ".join(left), " ".join(right)) == pytest.approx(expected)


def test_the_error_of_a_mean_grade_is_that_of_a_share_where_grades_are_0_and_1():
    for grades in ([1.0, 1.0, 0.0], [1.0] * 5, [0.0]):
        graded, share = mean_grade(grades), share_right(int(sum(grades)), len(grades))
        assert graded.value == pytest.approx(share.value)
        assert graded.se == pytest.approx(share.se)


def test_the_error_of_a_mean_grade_is_near_the_spread_over_fresh_samples():
    rng = np.random.default_rng(0)
    samples = rng.beta(2, 3, size=(400, 50))
    errors = [mean_grade(sample).se for sample in samples]
    assert np.mean(errors) == pytest.approx(samples.mean(axis=1).std(), rel=0.15)
