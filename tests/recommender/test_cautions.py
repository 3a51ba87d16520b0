"""What is said beside an adapter."""

import re
from dataclasses import replace

import pytest

from adapt_lora.recommender.cautions import adapter_notes, overlap_share
from adapt_lora.recommender.table import table_from_matrix
from adapt_lora.registry.records import AdapterRecord, Fingerprint, TransferMatrix
from tests.recommender.conftest import MakeMatrix

TARGET = Fingerprint(values={"response_tokens_mean": 4.0}, label_shares={"yes": 0.5, "no": 0.5})


def notes(matrix: TransferMatrix, target: Fingerprint = TARGET) -> list[list[str]]:
    return adapter_notes(matrix, table_from_matrix(matrix, unit="points"), target, group=None)


def with_adapter(matrix: TransferMatrix, s: int, **changes: object) -> TransferMatrix:
    adapters: list[AdapterRecord] = list(matrix.adapters)
    adapters[s] = replace(adapters[s], **changes)  # type: ignore[arg-type]
    return replace(matrix, adapters=tuple(adapters))


def test_a_sound_adapter_that_fits_is_passed_without_a_word(make_matrix: MakeMatrix) -> None:
    matrix = make_matrix(6, 6, noise=0.1)
    assert notes(matrix)[0] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"behaviour": {"hidden_shift_relative": 1e-6}}, "hardly changes the base model"),
        ({"metrics": {"train/final_loss": float("nan")}}, "without a finite final loss"),
        ({"metrics": {"train/held_out_loss": float("inf")}}, "without a finite held out loss"),
        (
            {"fingerprint": Fingerprint(values={"response_tokens_mean": 40.0})},
            "learned answers of 40 tokens on average, the target's have 4: .* too long",
        ),
        (
            {"fingerprint": Fingerprint(values={"response_tokens_mean": 1.0})},
            "too short",
        ),
        (
            {"fingerprint": Fingerprint(label_shares={"yes": 0.9, "no": 0.1})},
            "90% of its training rows say 'yes', 50% of the target's do",
        ),
        ({"warnings": ("dropped from a card",)}, "dropped from a card"),
    ],
)
def test_a_fault_or_mismatch_is_named_beside_its_adapter_alone(
    make_matrix: MakeMatrix, changes: dict[str, object], words: str
) -> None:
    found = notes(with_adapter(make_matrix(6, 6, noise=0.1), 0, **changes))
    assert any(re.search(words, said) for said in found[0])
    assert not any(re.search(words, said) for said in found[1])


def test_collapsed_answers_are_told_from_tasks_where_the_base_does_the_same(
    make_matrix: MakeMatrix,
) -> None:
    matrix = make_matrix(5, 6)
    constant, mixed = {"yes": 1.0, "no": 0.0}, {"yes": 0.6, "no": 0.4}

    def answered(base: dict[str, float]) -> TransferMatrix:
        shares = {"id-a1": constant, "base": base}
        return replace(
            matrix,
            cells=tuple(
                replace(c, predicted_shares=shares.get(c.row.id, mixed)) for c in matrix.cells
            ),
        )

    assert any("same label on 6 of 6" in said for said in notes(answered(mixed))[1])
    assert not any("same label" in said for said in notes(answered(constant))[1])
    assert not any("same label" in said for said in notes(answered(mixed))[2])


def test_far_behind_all_others_looks_broken(make_matrix: MakeMatrix) -> None:
    matrix = make_matrix(8, 6)
    cells = tuple(
        replace(c, score=c.score - 2.0) if c.row.id == "id-a3" else c for c in matrix.cells
    )
    found = notes(replace(matrix, cells=cells))
    assert any("below the other adapters" in said for said in found[3])
    assert sum(any("below the other" in said for said in mine) for mine in found) == 1


def test_cells_of_another_protocol_and_thin_evidence_are_said(make_matrix: MakeMatrix) -> None:
    matrix = make_matrix(5, 4)
    cells = tuple(
        replace(c, protocol="other") if c.row.id == "id-a1" and c.task != "t0" else c
        for c in matrix.cells
    )
    found = notes(replace(matrix, cells=cells))
    assert any("3 of its cells were measured under another protocol" in x for x in found[1])
    assert any("one other task only" in said for said in found[1])
    assert not any("protocol" in said for said in found[2])


def test_sketches_estimate_how_much_of_the_target_was_trained_on() -> None:
    source = Fingerprint(row_sketches=(1, 5, 9, 13))
    half = Fingerprint(row_sketches=(1, 2, 9, 10))
    assert overlap_share(source, half) == pytest.approx(0.5)
    assert overlap_share(Fingerprint(), half) == 0.0
