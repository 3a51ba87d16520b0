import json

import pytest

from adapt_lora.errors import MatrixError
from adapt_lora.registry.exchange.published import read_published
from adapt_lora.registry.records import BASE_ROW, MatrixRow

HEADER = (
    ",model_name,data_name,lora,epoch,data_size,lr_strategy,"
    "sums-4shot,sums-0shot,mtbench-total,Truthful_QA-0shot,quiz-0shot,facts-0shot,riddles-0shot"
)
RUNS = (
    # model, data, lora, epoch, rows, schedule, seven scores
    "0,Owl-1B,pretrain,None,0,0.0,,10.0,5.5,2.0,0.1,30,31,32",
    "1,Owl-1B,maths,true,10,1000.0,cosine,50.0,40.25,4.0,0.2,33,,35",
    "2,Owl-1B,maths,false,10,1000.0,cosine,55.0,45.0,3.5,0.15,30,40,35",
    "3,Owl-1B,w/o-maths,true,2,9500.0,constant,12.0,4.5,2.5,0.12,31,30,32",
    "4,Elk-2B,pretrain,None,0,0.0,None,20.0,5.5,2.0,0.1,30,31,33",
    "5,Elk-2B,maths,true,10,1000.0,cosine,60.0,50.0,5.0,0.3,40,41,42",
    "6,Fox-3B,pretrain,,0,0.0,,1.0,0.0,1.1,0.3,50,60,70",
    "7,Fox-3B,maths,False,10,1000.0,cosine,2.0,3.0,1.2,0.4,51,61,71",
)
META = {
    "groups": {"sums-4shot": "arithmetic", "sums-0shot": "arithmetic"},
    "in_domain": [["maths", "sums*"]],
}


def write(folder, runs=RUNS, *, header=HEADER, meta=None):
    path = folder / "field_guide_evaluation_result.csv"
    path.write_text("\n".join([header, *runs]) + "\n")
    if meta is not None:
        (folder / "field_guide_meta.json").write_text(json.dumps(meta))
    return path


def cells_of(matrix):
    return {(cell.row.id, cell.task): cell for cell in matrix.cells}


@pytest.fixture
def results(tmp_path):
    return read_published(write(tmp_path, meta=META))


def test_each_base_model_gets_a_matrix_of_its_runs(results):
    assert results.source == "field-guide"
    assert [matrix.base.name for matrix in results.matrices] == ["Owl-1B", "Elk-2B", "Fox-3B"]
    owl = results.matrices[0]
    assert [record.name for record in owl.adapters] == [
        "Owl-1B-maths-lora-1k-e10-cosine",
        "Owl-1B-maths-full-1k-e10-cosine",
        "Owl-1B-without-maths-lora-9500-e2-constant",
    ]
    assert [record.params["method"] for record in owl.adapters] == ["lora", "full", "lora"]
    assert [record.group for record in owl.adapters] == ["maths", "maths", "w/o-maths"]
    assert not any(record.has_weights for record in owl.adapters)
    assert owl.adapters[2].dataset.n_rows == 9500


def test_scores_are_shares_and_their_errors_are_unknown(results):
    owl = results.matrices[0]
    first = owl.adapters[0].adapter_id
    cell = owl.cell(MatrixRow(first), "sums-0shot")
    assert cell.score == pytest.approx(0.4025)
    assert (cell.se, cell.n, cell.protocol) == (None, None, "published: field-guide")
    assert owl.cell(MatrixRow(first), "mtbench-total").score == pytest.approx(0.4)
    assert owl.cell(MatrixRow(first), "Truthful_QA-0shot").score == pytest.approx(0.2)
    assert owl.cell(MatrixRow(first), "facts-0shot") is None
    assert owl.cell(BASE_ROW, "quiz-0shot").score == pytest.approx(0.3)
    assert {task.unit for task in owl.tasks} == {"points"}


def test_the_file_beside_it_gives_groups_and_in_domain_cells(results):
    owl = results.matrices[0]
    groups = {task.name: task.group for task in owl.tasks}
    assert groups["sums-4shot"] == groups["sums-0shot"] == "arithmetic"
    assert groups["mtbench-total"] == "mtbench"
    assert any("sums-4shot, sums-0shot" in warning for warning in owl.adapters[0].warnings)
    assert not any("sums" in warning for warning in owl.adapters[2].warnings)


def test_without_that_file_a_benchmark_is_its_own_group(tmp_path):
    owl = read_published(write(tmp_path)).matrices[0]
    assert {task.name: task.group for task in owl.tasks}["sums-4shot"] == "sums"


def test_bare_rows_that_are_copies_are_named_and_kept(results):
    (warning,) = results.warnings
    assert "Owl-1B and Elk-2B are equal on 5 of 7 benchmarks" in warning
    assert "mtbench-total" in warning
    assert "riddles-0shot" not in warning
    owl, elk, fox = results.matrices
    assert any("that of Elk-2B" in sentence for sentence in owl.adapters[0].warnings)
    assert any("that of Owl-1B" in sentence for sentence in elk.adapters[0].warnings)
    assert not any("published row" in sentence for sentence in fox.adapters[0].warnings)
    assert elk.cell(BASE_ROW, "sums-0shot").score == pytest.approx(0.055)


def test_the_same_run_has_the_same_id_in_every_reading(tmp_path, results):
    again = read_published(write(tmp_path, RUNS[::-1], meta=META))
    ids = {record.name: record.adapter_id for m in results.matrices for record in m.adapters}
    for matrix in again.matrices:
        for record in matrix.adapters:
            assert ids[record.name] == record.adapter_id
    assert len(set(ids.values())) == 5


@pytest.mark.parametrize(
    ("runs", "header", "words"),
    [
        (RUNS, "source,sst2", "line 1: no column data_name, data_size, epoch"),
        (RUNS[:1], HEADER, "no run of fine-tuning"),
        ((), HEADER, "no run of fine-tuning"),
        (("1,Owl,maths,maybe,10,1000,cosine,1,1,1,0,1,1,1",), HEADER, "lora is 'maybe'"),
        (("1,Owl,maths,true,ten,1000,cosine,1,1,1,0,1,1,1",), HEADER, "epoch is 'ten'"),
        (("1,Owl,maths,true,10,inf,cosine,1,1,1,0,1,1,1",), HEADER, "data_size is 'inf'"),
        (("1,Owl,maths,true,10,1000,cosine,x,1,1,0,1,1,1",), HEADER, "sums-4shot is 'x'"),
        (("1,Owl,maths,true,10,1000,cosine,101,1,1,0,1,1,1",), HEADER, "between 0 and 100"),
        (("1,Owl,maths,true,10,1000,cosine,nan,1,1,0,1,1,1",), HEADER, "between 0 and 100"),
        (("1,,maths,true,10,1000,cosine,1,1,1,0,1,1,1",), HEADER, "must not be empty"),
        ((RUNS[1], RUNS[1]), HEADER, "line 3: the same run as line 2"),
    ],
)
def test_a_file_that_is_not_one_is_refused_in_a_sentence(tmp_path, runs, header, words):
    with pytest.raises(MatrixError, match=words):
        read_published(write(tmp_path, runs, header=header))


def test_a_file_that_is_not_there_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(MatrixError, match=r"nowhere\.csv can't be read"):
        read_published(tmp_path / "nowhere.csv")


def test_a_matrix_comes_back_from_the_registry_as_it_was_read(open_registry, results):
    written = results.matrices[0]
    added = open_registry().add_matrix(written)
    assert (added.n_adapters, added.n_cells) == (3, 27)
    stored = open_registry().transfer_matrix(written.base)
    assert cells_of(stored) == cells_of(written)
    assert {r.adapter_id: r.params for r in stored.adapters} == {
        r.adapter_id: r.params for r in written.adapters
    }
    assert {task.name: task for task in stored.tasks} == {task.name: task for task in written.tasks}


def test_writing_a_matrix_twice_adds_nothing(open_registry, results):
    for matrix in results.matrices:
        open_registry().add_matrix(matrix)
    registry = open_registry()
    again = [registry.add_matrix(matrix) for matrix in results.matrices]
    assert [(added.n_adapters, added.n_cells) for added in again] == [(0, 0)] * 3
    # Bases known by their names alone are still three.
    assert [base.name for base in registry.bases()] == ["Elk-2B", "Fox-3B", "Owl-1B"]
    assert len(registry.adapters()) == 5


def test_an_import_that_broke_off_is_completed(open_registry, results, monkeypatch):
    from adapt_lora.registry.store.cells import Cells

    matrix = results.matrices[0]
    registry = open_registry()
    write_cells = Cells.add

    def fail_on_second(self, home, adapter, cells):
        if adapter != BASE_ROW and adapter.name.endswith("full-1k-e10-cosine"):
            raise KeyboardInterrupt
        write_cells(self, home, adapter, cells)

    monkeypatch.setattr(Cells, "add", fail_on_second)
    with pytest.raises(KeyboardInterrupt):
        registry.add_matrix(matrix)
    monkeypatch.undo()
    added = open_registry().add_matrix(matrix)
    assert (added.n_adapters, added.n_cells) == (1, 27 - 6)
    assert cells_of(open_registry().transfer_matrix(matrix.base)) == cells_of(matrix)


@pytest.mark.slow
def test_the_published_file_is_imported_whole(shared_data, open_registry):
    from adapt_lora.roads import import_results

    path = shared_data / "matrices" / "massive_sft_evaluation_result.csv"
    done = import_results(path, registry=open_registry())
    assert (done.n_adapters, len(done.bases)) == (1016, 11)
    assert len(done.warnings) == 2
    assert "Mistral-7B-v0.1 and Chinese-Mistral-7B-v0.1 are equal on all 29" in " ".join(
        done.warnings
    )
    assert "LLM-jp-3-7B and OLMo-7B-hf are equal on 12 of 29" in " ".join(done.warnings)
    again = import_results(path, registry=open_registry())
    assert (again.n_adapters, again.n_cells, again.n_known_adapters) == (0, 0, 1016)
    matrix = open_registry().transfer_matrix(next(b for b in open_registry().bases()))
    assert matrix.cell(BASE_ROW, "gsm8k-0shot") is not None
