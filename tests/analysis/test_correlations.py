import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from adapt_lora.analysis import GainCorrelations, gain_correlations
from adapt_lora.analysis.correlations import Correlation
from adapt_lora.model.base import BaseIdentity
from adapt_lora.registry.records import BASE_ID, MatrixRow, TransferMatrix
from adapt_lora.report.plain import correlations_json


def test_lower_perplexity_goes_with_gains_as_the_paper_says(matrix):
    row = by_name(gain_correlations(matrix))["response_ppl"]
    assert row.rho < -0.8
    assert row.interval[0] <= row.rho <= row.interval[1] < 0
    assert row.interval[1] > -0.9, "six adapters in perfect order are no certainty"
    assert row.verdict == "agrees"
    assert (row.n, row.n_adapters, row.n_task_groups) == (6, 6, 5)


def test_a_relation_the_other_way_round_differs_from_the_claim(matrix):
    flipped = tuple(
        replace(a, fingerprint=replace(a.fingerprint, values={"response_ppl": -v}))
        for a in matrix.adapters
        for v in [a.fingerprint.values["response_ppl"]]
    )
    row = by_name(gain_correlations(replace(matrix, adapters=flipped)))["response_ppl"]
    assert row.verdict == "differs"


def test_weights_are_held_against_gains(matrix):
    found = gain_correlations(matrix)
    assert by_name(found)["weights/delta_norm_relative_at_06"].verdict == "agrees"
    reasons = {s.statistic: s.reason for s in found.skipped}
    assert reasons["weights/rank_used_share"] == "the same for all adapters"


def test_statistics_of_pairs_count_cells(matrix):
    row = by_name(gain_correlations(matrix))["response_length_distance"]
    assert row.n == 27
    assert row.claim is not None
    assert row.claim.sign == "negative"


def test_own_cells_do_not_count(matrix):
    """A huge gain at home must not move any correlation."""
    cells = tuple(
        replace(c, score=5.0) if (c.row.id, c.task) == ("nli", "snli-test") else c
        for c in matrix.cells
    )
    assert gain_correlations(replace(matrix, cells=cells)) == gain_correlations(matrix)


def test_perplexity_under_another_base_is_left_out(matrix):
    other = BaseIdentity("org/other", "other-arch", "w")
    adapters = tuple(
        replace(a, fingerprint=replace(a.fingerprint, base=other)) for a in matrix.adapters
    )
    found = gain_correlations(replace(matrix, adapters=adapters))
    assert "response_ppl" not in by_name(found)
    reasons = {s.statistic: s.reason for s in found.skipped}
    assert reasons["response_ppl"] == "not known for any adapter with measured gains"


def test_too_few_adapters_are_said_not_correlated(matrix):
    found = gain_correlations(replace(matrix, adapters=matrix.adapters[:4]))
    assert "response_ppl" not in by_name(found)
    reasons = {s.statistic: s.reason for s in found.skipped}
    assert reasons["response_ppl"] == "known for 4 groups of adapters; at least 5 are needed"


def test_twins_of_one_group_widen_the_interval(matrix):
    """Copies of an adapter add no knowledge: clusters are drawn, not points."""
    twins = tuple(replace(a, adapter_id=f"{a.adapter_id}-twin") for a in matrix.adapters)
    copied = tuple(
        replace(c, row=MatrixRow(f"{c.row.id}-twin")) for c in matrix.cells if c.row.id != BASE_ID
    )
    doubled = replace(matrix, adapters=matrix.adapters + twins, cells=(*matrix.cells, *copied))
    once = by_name(gain_correlations(matrix))["response_ppl"]
    twice = by_name(gain_correlations(doubled))["response_ppl"]
    assert twice.n == 2 * once.n
    width, doubled_width = (row.interval[1] - row.interval[0] for row in (once, twice))
    assert doubled_width == pytest.approx(width, abs=0.1)


def test_rho_agrees_with_scipy_on_ties(matrix):
    rng = np.random.default_rng(3)
    x = dict(zip([a.adapter_id for a in matrix.adapters], rng.integers(0, 3, 6), strict=True))
    adapters = tuple(replace(a, weights={"x": float(x[a.adapter_id])}) for a in matrix.adapters)
    row = by_name(gain_correlations(replace(matrix, adapters=adapters)))["weights/x"]
    standing = standings(matrix)
    assert row.rho == pytest.approx(
        spearmanr([x[name] for name in standing], list(standing.values()))[0]
    )


def test_the_same_seed_gives_the_same_table(matrix):
    assert gain_correlations(matrix, seed=1) == gain_correlations(matrix, seed=1)
    assert gain_correlations(matrix, seed=1) != gain_correlations(matrix, seed=2)


def test_noise_is_seldom_called_a_finding(matrix):
    """Statistics drawn at random: a 90 % interval should rarely miss zero."""
    found = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        adapters = tuple(replace(a, weights={"x": float(rng.normal())}) for a in matrix.adapters)
        row = by_name(gain_correlations(replace(matrix, adapters=adapters), n_resamples=300))
        low, high = row["weights/x"].interval
        found += not low <= 0 <= high
    assert found <= 9


def test_the_json_has_no_null_and_reads_back(matrix):
    text = json.dumps(correlations_json(gain_correlations(matrix)), allow_nan=False)
    assert "null" not in text
    first = json.loads(text)["rows"][0]
    assert first["expected"] in {"positive", "negative"}
    assert first["verdict"] in {"agrees", "differs", "open"}


def by_name(found: GainCorrelations) -> dict[str, Correlation]:
    return {row.statistic: row for row in found.rows}


def standings(matrix: TransferMatrix) -> dict[str, float]:
    """Mean z of each adapter over foreign tasks, by plain loops."""
    score = {(c.row.id, c.task): c.score for c in matrix.cells}
    collected: dict[str, list[float]] = {a.adapter_id: [] for a in matrix.adapters}
    for task in matrix.tasks:
        column = {
            a.adapter_id: score[a.adapter_id, task.name]
            for a in matrix.adapters
            if a.group != task.group and (a.adapter_id, task.name) in score
        }
        values = np.array(list(column.values()))
        for name, value in column.items():
            collected[name].append((value - values.mean()) / values.std())
    return {name: float(np.mean(values)) for name, values in collected.items()}
