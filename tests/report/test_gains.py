from dataclasses import replace

import pytest

from adapt_lora.registry.records import BASE_ID
from adapt_lora.report.gains import adapter_gains


def test_an_adapters_gains_are_scores_over_the_base_and_mark_its_own_task(matrix, record):
    gains = adapter_gains(matrix, record)
    assert [gain.task for gain in gains if gain.own] == ["sst2-test"]
    first = gains[0]
    assert first.gain == pytest.approx(0.371)
    assert first.se == pytest.approx(0.03 * 2**0.5)
    assert first.unit == "points"


def test_a_gap_gives_no_gain(matrix):
    tasks = [gain.task for gain in adapter_gains(matrix, matrix.adapters[1])]
    assert "legal-abstracts" not in tasks


def test_an_adapter_of_unknown_data_has_no_own_cell(matrix):
    assert not any(gain.own for gain in adapter_gains(matrix, matrix.adapters[3]))


def test_scores_under_another_protocol_than_the_bases_give_no_gain(matrix, record):
    cells = tuple(
        replace(cell, protocol="other") if cell.adapter_id == BASE_ID else cell
        for cell in matrix.cells
    )
    assert adapter_gains(replace(matrix, cells=cells), record) == ()
