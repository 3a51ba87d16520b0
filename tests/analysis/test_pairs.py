import math
from dataclasses import replace

import pytest

from adapt_lora.analysis.pairs import pair_distances, transfer_pairs
from adapt_lora.model.base import BaseIdentity
from adapt_lora.registry.records import BASE_ID, Fingerprint

BASE = BaseIdentity("a", "arch", "w")


def test_own_cells_and_gaps_are_no_transfer_pairs(matrix):
    pairs = {(pair.adapter.name, pair.task.name) for pair in transfer_pairs(matrix)}
    assert ("sentiment", "sst2-test") not in pairs
    assert ("nli", "snli-test") not in pairs
    assert ("math", "snli-test") not in pairs
    assert len(pairs) == 6 * 5 - 3


def test_a_pair_holds_gain_and_both_scores_errors(matrix):
    pair = next(p for p in transfer_pairs(matrix) if p.task.name == "rotten")
    assert pair.gain == pytest.approx(0.30)
    assert pair.se == pytest.approx(math.hypot(0.02, 0.02))


def test_a_task_without_base_row_gives_no_pair(matrix):
    cells = tuple(cell for cell in matrix.cells if cell.row.id != BASE_ID)
    assert transfer_pairs(replace(matrix, cells=cells)) == ()


def test_distances_are_logs_of_ratios_and_alike_both_ways():
    one = Fingerprint(values={"response_tokens_mean": 2.0, "response_ppl": 5.0}, base=BASE)
    other = Fingerprint(values={"response_tokens_mean": 20.0}, base=BASE)
    assert pair_distances(one, other) == {"response_length_distance": pytest.approx(math.log(10))}
    assert pair_distances(other, one) == {"response_length_distance": pytest.approx(math.log(10))}


def test_label_sets_of_other_names_compare_by_balance_only():
    one = Fingerprint(label_shares={"positive": 0.8, "negative": 0.2})
    other = Fingerprint(label_shares={"toxic": 0.3, "fine": 0.7})
    assert pair_distances(one, other) == {"label_shape_distance": pytest.approx(0.1)}


def test_label_sets_that_differ_in_case_compare_by_name():
    one = Fingerprint(label_shares={"Yes": 0.8, "No": 0.2})
    other = Fingerprint(label_shares={"yes": 0.2, "no": 0.8})
    found = pair_distances(one, other)
    assert found["label_share_distance"] == pytest.approx(0.6)
    assert found["label_shape_distance"] == pytest.approx(0.0)


def test_what_two_bases_see_is_never_compared():
    vectors = {"hidden_mid_mean": (1.0, 0.0), "minilm_mean": (1.0, 0.0)}
    one = Fingerprint(values={"response_ppl": 5.0}, vectors=vectors, base=BASE)
    other = replace(one, base=BaseIdentity("b", "other", "w"))
    assert pair_distances(one, one) == {
        "perplexity_distance": 0.0,
        "hidden_mid_cosine": 1.0,
        "minilm_cosine": 1.0,
    }
    assert pair_distances(one, other) == {"minilm_cosine": 1.0}
