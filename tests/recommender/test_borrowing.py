"""Other base models as a prior: what is the same source and task, and what stays shut out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapt_lora.model.base import BaseIdentity
from adapt_lora.recommender import rank_adapters
from adapt_lora.recommender.bench import bench_registry
from adapt_lora.recommender.borrowing import translate
from adapt_lora.recommender.features import registry_table, table_for_target
from adapt_lora.recommender.model_cache import ModelCache
from adapt_lora.registry.records import (
    BASE_ROW,
    AdapterRecord,
    Cell,
    DatasetRecord,
    Fingerprint,
    MatrixRow,
    TransferMatrix,
)
from adapt_lora.report.plain import ranking_json
from tests.recommender.conftest import MakeMatrix

METRIC = "balanced_accuracy"
ELSEWHERE = BaseIdentity("other/base", "other-arch", "other-weights")


def under_another_base(matrix: TransferMatrix) -> TransferMatrix:
    """The same training data and tasks under a second base model, with ids of its own."""
    adapters = tuple(
        replace(a, adapter_id=f"their-{a.name}", name=f"their-{a.name}", base=ELSEWHERE)
        for a in matrix.adapters
    )
    ids = {a.adapter_id: b.adapter_id for a, b in zip(matrix.adapters, adapters, strict=True)}
    cells = tuple(replace(c, row=MatrixRow(ids.get(c.row.id, c.row.id))) for c in matrix.cells)
    return TransferMatrix(ELSEWHERE, adapters, matrix.tasks, cells)


def fresh(matrix: TransferMatrix) -> TransferMatrix:
    """The same adapters, nothing measured."""
    return replace(matrix, tasks=(), cells=())


def rescored(matrix: TransferMatrix, group: str, score: Callable[[Cell], float]) -> TransferMatrix:
    names = {task.name for task in matrix.tasks if task.group == group}
    cells = tuple(replace(c, score=score(c)) if c.task in names else c for c in matrix.cells)
    return replace(matrix, cells=cells)


def favouring(adapter_id: str) -> Callable[[Cell], float]:
    return lambda cell: 0.99 if cell.row.id == adapter_id else 0.01


def test_a_fresh_base_starts_from_what_others_know(
    make_matrix: MakeMatrix,
) -> None:
    matrix = make_matrix(8, 8)
    better = {f"their-a{i}": 0.02 * i for i in range(8)}
    other = under_another_base(matrix)
    cells = tuple(replace(c, score=0.4 + better.get(c.row.id, 0.0)) for c in other.cells)
    found = rank_adapters(
        fresh(matrix), Fingerprint(), metric=METRIC, others=[replace(other, cells=cells)]
    )
    assert [e.adapter for e in found.ranking] == [f"a{i}" for i in range(7, -1, -1)]
    borrowed = ranking_json(found)["model"]["borrowed"]
    assert borrowed == {
        "base_models": ["other/base"],
        "n_groups": 8,
        "n_adapters": 8,
        "share": 1.0,
    }
    assert all(e.predicted_gain is None and e.interval is None for e in found.ranking)
    assert any("other/base on 8 task group(s) stand in for" in said for said in found.warnings)
    assert any("under other base models" in r.text for r in found.ranking[0].reasons)
    assert not any("average adapter" in w for e in found.ranking for w in e.warnings)


def test_what_is_measured_here_takes_over_as_it_grows(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    matrix = make_matrix(8, 10)
    others = [under_another_base(matrix)]
    shares = []
    for n_groups in (3, 10):
        own = matrix.without_groups([f"g{j}" for j in range(n_groups, 10)])
        found = rank_adapters(own, target, metric=METRIC, others=others)
        assert found.model.borrowed is not None
        assert found.model.borrowed.n_groups == 10  # tasks that only the others know count too
        assert found.model.n_groups == n_groups
        shares.append(found.model.borrowed.share)
        assert any(f"start with {shares[-1]:.0%} of the weight" in said for said in found.warnings)
        assert all(e.predicted_gain is not None for e in found.ranking)
    assert shares == pytest.approx([12 / 15, 12 / 22])


@pytest.mark.parametrize("n_own", [0, 4])
def test_the_targets_group_has_no_say_under_any_base(
    make_matrix: MakeMatrix, target: Fingerprint, n_own: int
) -> None:
    matrix = make_matrix(8, 9)
    own = matrix.without_groups([f"g{j}" for j in range(n_own, 9)])
    honest = under_another_base(matrix)
    leak = rescored(honest, "g3", favouring("their-a5"))
    # The same rows under another name: known again by their digest.
    hidden = tuple(replace(t, name="x") if t.name == "t3" else t for t in leak.tasks)
    hidden_cells = tuple(replace(c, task="x") if c.task == "t3" else c for c in leak.cells)
    renamed = replace(leak, tasks=hidden, cells=hidden_cells)

    def ranked(other: TransferMatrix, group: str) -> dict[str, object]:
        found = rank_adapters(own, target, metric=METRIC, group=group, others=[other])
        return ranking_json(found)

    one = ranked(honest, "g3")
    assert one["model"]["borrowed"]["n_groups"] == 8  # type: ignore[index]
    assert one == ranked(leak, "g3")
    assert one == ranked(renamed, "g3")
    assert one == ranked(honest.without_groups(["g3"]), "g3")
    assert ranked(honest, "new") != ranked(leak, "new")  # elsewhere it is in use


def test_a_group_leaves_the_other_bases_in_each_fold(make_matrix: MakeMatrix) -> None:
    matrix = make_matrix(6, 6)
    table = registry_table(matrix, unit="points", others=[under_another_base(matrix)])
    assert table.elsewhere is not None
    assert table.elsewhere.lenders == ("other/base",)
    fold = table.hold_out(["g2"])
    assert fold.table.elsewhere is not None
    assert "g2" not in fold.table.elsewhere.groups
    assert fold.table.elsewhere.targets == ("t0", "t1", "t3", "t4", "t5")


def test_bench_on_a_registry_uses_other_bases(make_matrix: MakeMatrix) -> None:
    matrix = make_matrix(8, 7)
    methods = ("stack",)
    alone = bench_registry(matrix, methods=methods).matrices["registry"]
    helped = bench_registry(matrix, others=[under_another_base(matrix)], methods=methods)
    assert helped.matrices["registry"].methods["stack"] != alone.methods["stack"]


def test_own_cells_of_either_base_are_no_standing(make_matrix: MakeMatrix) -> None:
    matrix = make_matrix(6, 6)  # a0 and a1 were trained on g0 and g1
    table = registry_table(fresh(matrix), unit="points", others=[under_another_base(matrix)])
    assert table.elsewhere is not None
    own = np.isnan(table.elsewhere.scores)
    assert own.sum() == 2
    assert own[0, 0]
    assert own[1, 1]


def test_a_task_that_only_others_know_keeps_what_no_base_had_a_part_in(
    make_matrix: MakeMatrix, target: Fingerprint
) -> None:
    matrix = make_matrix(6, 6)
    table = table_for_target(
        matrix.without_groups(["g5"]),
        target,
        metric=METRIC,
        unit="points",
        group="new",
        others=[under_another_base(matrix)],
    )
    assert table.elsewhere is not None
    assert table.targets == ("t0", "t1", "t2", "t3", "t4", "(target)")
    assert table.elsewhere.targets == ("t0", "t1", "t2", "t3", "t4", "t5")
    features = table.elsewhere.target_features
    assert np.isfinite(features["prompt_tokens_mean"]).all()
    assert np.isfinite(features["response_ppl"]).tolist() == [True] * 5 + [False]
    assert np.isnan(table.elsewhere.target_vectors["hidden_mid_mean"][5]).all()


def adapter(name: str, data: DatasetRecord | None, **more: object) -> AdapterRecord:
    group = None if data is None else data.group
    return AdapterRecord(f"id-{name}", name, ELSEWHERE, dataset=data, group=group, **more)  # type: ignore[arg-type]


SST2 = DatasetRecord("sst2", "rows-1", "sst2", 400)


@pytest.mark.parametrize(
    ("mine", "theirs", "row"),
    [
        # the same rows win over the same name
        (adapter("m", SST2), [adapter("a", replace(SST2, digest="z")), adapter("b", SST2)], 1),
        # another draw of the same dataset is still the same source
        (adapter("m", SST2), [adapter("a", replace(SST2, digest="z", n_rows=9))], 0),
        # twins share a group, not the data
        (adapter("m", SST2), [adapter("m", DatasetRecord("sst2_balanced", "y", "sst2", 9))], None),
        # of two recipes the likest
        (
            adapter("m", SST2, params={"method": "lora", "e": "3"}),
            [
                adapter("a", SST2, params={"method": "full", "e": "3"}),
                adapter("b", SST2, params={"method": "lora", "e": "3"}),
            ],
            1,
        ),
        # where nobody knows the data, names must do; known data is never matched with unknown
        (adapter("m", None), [adapter("x", None), adapter("m", None)], 1),
        (adapter("m", SST2), [adapter("x", None)], None),
    ],
)
def test_adapters_of_one_training_set_are_the_same_source(
    make_matrix: MakeMatrix, mine: AdapterRecord, theirs: list[AdapterRecord], row: int | None
) -> None:
    matrix = make_matrix(2, 3)
    cells = tuple(
        Cell(a.row, "t0", METRIC, 0.1 * (i + 1), 0.01, 100, "p") for i, a in enumerate(theirs)
    )
    cells = (Cell(BASE_ROW, "t0", METRIC, 0.5, 0.01, 100, "p"), *cells)
    other = TransferMatrix(ELSEWHERE, tuple(theirs), matrix.tasks[:1], cells)
    found = translate(TransferMatrix(matrix.base, (mine,), (), ()), [other], unit="points").tables
    if row is None:
        assert found == {}
    else:
        table = found["other/base"]
        assert table.sources == (mine.adapter_id,)
        assert table.scores[0, 0] == pytest.approx(0.1 * (row + 1))


def test_tasks_of_one_name_but_other_rows_stay_apart(make_matrix: MakeMatrix) -> None:
    matrix = make_matrix(4, 3)
    other = under_another_base(matrix)
    strange = replace(
        other.tasks[0], group="elsewhere", dataset=replace(other.tasks[0].dataset, digest="new")
    )
    other = replace(other, tasks=(strange, *other.tasks[1:]))
    lent = translate(matrix, [other], unit="points")
    assert [t.name for t in lent.matrix.tasks] == ["t0", "t1", "t2", "t0 (other/base)"]
    assert lent.tables["other/base"].targets == ("t0 (other/base)", "t1", "t2")


def test_strangers_lend_nothing(make_matrix: MakeMatrix, target: Fingerprint) -> None:
    matrix = make_matrix(6, 6)
    strangers = under_another_base(matrix)
    data = [DatasetRecord(f"d{i}", f"other-{i}", f"o{i}", 9) for i in range(6)]
    adapters = zip(strangers.adapters, data, strict=True)
    strangers = replace(
        strangers, adapters=tuple(replace(a, dataset=d, group=d.group) for a, d in adapters)
    )
    plain = rank_adapters(matrix, target, metric=METRIC)
    assert rank_adapters(matrix, target, metric=METRIC, others=[strangers]) == plain
    assert "borrowed" not in ranking_json(plain)["model"]


def test_a_kept_model_is_not_used_once_other_bases_have_changed(
    make_matrix: MakeMatrix, target: Fingerprint, tmp_path: Path
) -> None:
    matrix, cache = make_matrix(8, 5), ModelCache(tmp_path)
    other = under_another_base(matrix)
    changed = rescored(other, "g1", favouring("their-a5"))
    for others in ([], [other], [other], [changed]):
        found = rank_adapters(matrix, target, metric=METRIC, others=others, cache=cache)
        assert found == rank_adapters(matrix, target, metric=METRIC, others=others)
    assert len(list(tmp_path.glob("*.json"))) == 3
