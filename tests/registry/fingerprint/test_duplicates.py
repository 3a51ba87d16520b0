import random

import numpy as np
import pytest

from adapt_lora.registry.fingerprint import duplicates
from adapt_lora.registry.fingerprint.duplicates import (
    SKETCH_SIZE,
    duplicate_part,
    leak_report,
    near_duplicates,
    row_sketch,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["".join(random.Random(seed).choices(LETTERS, k=3 + seed % 6)) for seed in range(3_000)]


def sentences(n, *, seed=0, length=20):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=length)) for _ in range(n)]


def shares(prompts, responses=None):
    values = duplicate_part(prompts, responses or [""] * len(prompts)).values
    return values["exact_duplicate_share"], values["near_duplicate_share"]


def test_different_rows_are_no_duplicates():
    assert shares(sentences(200)) == (0, 0)


def test_case_spacing_and_unicode_form_make_no_difference():
    assert shares(["Café  au lait", "cafe\u0301 AU\nlait", "tea"]) == pytest.approx((1 / 3, 1 / 3))


def test_the_same_prompt_with_another_response_is_only_a_near_duplicate():
    assert shares(["why", "why"], ["a", "b"]) == (0, 0.5)


def test_all_rows_alike():
    assert shares(["same"] * 10) == (0.9, 0.9)


def test_a_row_with_one_word_changed_is_found():
    rows = sentences(100)
    changed = rows[7].split()
    changed[10] = "other"
    assert near_duplicates([*rows, " ".join(changed)]) == [False] * 100 + [True]


def test_half_a_row_in_common_is_not_a_near_duplicate():
    first, second = sentences(2)
    mixed = " ".join([*first.split()[:10], *second.split()[10:]])
    assert near_duplicates([first, second, mixed]) == [False] * 3


def test_a_template_that_all_rows_share_does_not_make_them_alike():
    template = "Answer with exactly one of the following labels: " + " ".join(sentences(3))
    rows = [f"{template}\n\nText: {row}\n\nAnswer:" for row in sentences(100, length=8)]
    assert not any(near_duplicates(rows))


def test_texts_too_short_to_judge_are_left_alone():
    assert near_duplicates(["", "a", "b", "ab"]) == [False] * 4


def test_near_duplicates_are_nearly_all_found():
    rows = sentences(300, seed=1, length=30)
    twins = []
    for row in rows:
        words = row.split()
        words[15] = "another"
        twins.append(" ".join(words))
    found = near_duplicates([*rows, *twins])
    assert not any(found[:300])
    assert sum(found[300:]) >= 297


def test_signatures_estimate_the_likeness_that_those_of_datasketch_do():
    minhash = pytest.importorskip("datasketch").MinHash
    texts = []
    for number, row in enumerate(sentences(40, seed=3, length=300)):
        n_kept = 7 * (number + 1)  # of 300 words: pairs from strangers to near twins
        other = sentences(1, seed=100 + number, length=300)[0].split()
        texts += [row, " ".join([*row.split()[:n_kept], *other[n_kept:]])]
    shingles, owner = duplicates._shingles(texts)
    ours = duplicates._signatures(shingles, owner, len(texts))
    sets = [np.unique(shingles[owner == index]) for index in range(len(texts))]
    theirs = [minhash(num_perm=ours.shape[1], seed=5) for _ in texts]
    for sketch, members in zip(theirs, sets, strict=True):
        sketch.update_batch([member.tobytes() for member in members])
    gaps, errors = [], []
    for left, right in zip(range(0, len(texts), 2), range(1, len(texts), 2), strict=True):
        n_shared = len(np.intersect1d(sets[left], sets[right]))
        likeness = n_shared / (len(sets[left]) + len(sets[right]) - n_shared)
        # Each estimate is a mean of 128 draws that are 1 with the probability of the likeness.
        variance = likeness * (1 - likeness) / ours.shape[1]
        estimate = (ours[left] == ours[right]).mean()
        assert estimate == pytest.approx(likeness, abs=4 * variance**0.5)
        gaps.append(estimate - theirs[left].jaccard(theirs[right]))
        errors.append((2 * variance) ** 0.5)
    assert (np.abs(gaps) < 4 * np.array(errors)).all()
    assert abs(np.mean(gaps)) < 3 * np.linalg.norm(errors) / len(errors)


def test_small_datasets_are_compared_exactly():
    first, second = sentences(100), sentences(100, seed=1)
    report = leak_report(row_sketch(first), row_sketch([*second, *first[:25]]))
    assert report is not None
    assert report.exact
    assert report.share_of_first == 0.25
    assert report.share_of_second == 25 / 125
    assert report.n_shared == 25


def test_large_datasets_are_compared_by_an_estimate():
    rows = [f"row {index}" for index in range(60_000)]
    first, second = row_sketch(rows[:40_000]), row_sketch(rows[30_000:])
    report = leak_report(first, second)
    assert len(first) == SKETCH_SIZE
    assert report is not None
    assert not report.exact
    assert report.share_of_first == pytest.approx(1 / 4, abs=0.03)
    assert report.share_of_second == pytest.approx(1 / 3, abs=0.03)


def test_a_small_set_inside_a_large_one_is_seen():
    rows = [f"row {index}" for index in range(20_000)]
    report = leak_report(row_sketch(rows[:2_000]), row_sketch(rows))
    assert report is not None
    assert report.share_of_first == 1
    assert 300 < report.n_first < 500  # those below the large sketch's end: 2,000 · 4,096/20,000


def test_strangers_share_nothing_and_nothing_can_be_said_of_an_empty_sketch():
    report = leak_report(row_sketch(["a", "b"]), row_sketch(["c"]))
    assert report is not None
    assert report.share_of_first == report.share_of_second == 0
    assert leak_report((), row_sketch(["c"])) is None


def test_a_sketch_does_not_depend_on_order_or_case():
    assert row_sketch(["One", "two"]) == row_sketch(["TWO", "one ", "one"])
