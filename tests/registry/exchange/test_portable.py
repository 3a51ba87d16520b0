"""A registry's entries as a folder: written, read back, refused when damaged."""

import json
from dataclasses import replace

import pytest

from adapt_lora.errors import RegistryError
from adapt_lora.registry.exchange.portable import Export, read_export, write_export
from adapt_lora.registry.records import BASE_ID, Fingerprint, TransferMatrix
from tests.registry.conftest import cell, task_named


@pytest.fixture
def export(base, adapter_folder, adapter_record):
    shipped, kept = adapter_folder("shipped", seed=1), adapter_folder("kept", seed=2)
    print_ = Fingerprint(
        {"n_rows": 320.0, "response_ppl": 12.3456789},
        vectors={"hidden_mid_mean": (0.5, -0.25, 0.125)},
        row_sketches=(7, 2**63 + 11),
        label_shares={"yes": 0.5, "no": 0.5},
        base=base,
    )
    first = replace(
        adapter_record(shipped, "shipped"),
        fingerprint=print_,
        behaviour_vector=(0.25, 0.5),
        run_id="a run",
        version=3,
        traits={"T1": 0.5},
    )
    second = replace(adapter_record(kept, "kept"), has_weights=False)
    tasks = (task_named("trec"), task_named("sst2", digest="9" * 64))
    cells = (
        cell(BASE_ID, 0.5),
        cell(first.adapter_id, 0.75),
        cell(second.adapter_id, 0.25, task="sst2"),
    )
    matrix = TransferMatrix(base, (first, second), tasks, cells)
    return Export(
        matrix,
        {first.adapter_id: shipped},
        trait_fit={"rank": 2},
        about={"sources": {"trec": "somewhere"}},
    )


def test_an_export_comes_back_as_it_was_but_for_what_belongs_to_a_registry(export, tmp_path):
    write_export(export, tmp_path / "out")
    back = read_export(tmp_path / "out")
    first, second = back.matrix.adapters
    was = export.matrix.adapters[0]
    assert (first.run_id, first.version) == ("", 0)
    assert first.fingerprint.vectors == was.fingerprint.vectors
    assert first.fingerprint.row_sketches == was.fingerprint.row_sketches
    assert first.fingerprint.values["response_ppl"] == pytest.approx(12.3456789, rel=1e-5)
    assert (first.behaviour_vector, first.traits) == (was.behaviour_vector, was.traits)
    assert replace(second, created_ms=0) == replace(export.matrix.adapters[1], created_ms=0)
    assert back.matrix.tasks[1].fingerprint.histograms
    assert back.matrix.cells == export.matrix.cells
    assert (back.trait_fit, back.about) == (export.trait_fit, export.about)


def test_only_the_adapters_that_may_be_passed_on_have_files(export, tmp_path):
    write_export(export, tmp_path / "out")
    back = read_export(tmp_path / "out")
    names = {r.adapter_id: r.name for r in back.matrix.adapters}
    assert [names[adapter_id] for adapter_id in back.folders] == ["shipped"]
    assert {p.name for p in (tmp_path / "out" / "adapters").iterdir()} == {"shipped"}


def test_a_second_export_replaces_the_first_and_leaves_other_files(export, tmp_path):
    out = tmp_path / "out"
    write_export(export, out)
    (out / "notes.md").write_text("mine")
    write_export(replace(export, folders={}), out)
    assert read_export(out).folders == {}
    assert (out / "notes.md").read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir() if p.name.startswith(".out")} == set()


def test_figures_without_the_files_can_be_read(export, tmp_path):
    import shutil

    write_export(export, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "adapters")
    assert read_export(tmp_path / "out").folders == {}


def test_files_that_can_t_be_taken_leave_the_figures(export, tmp_path, adapter_folder):
    import shutil

    write_export(export, tmp_path / "out")
    other = adapter_folder("other", seed=9)
    place = tmp_path / "out" / "adapters" / "shipped"
    name = "adapter_model.safetensors"
    shutil.copyfile(other / name, place / name)
    back = read_export(tmp_path / "out")
    assert (len(back.matrix.adapters), dict(back.folders)) == (2, {})
    assert "not the weights that the figures belong to" in back.skipped[0]
    (place / name).write_bytes(b"x")
    (sentence,) = read_export(tmp_path / "out").skipped
    assert "shipped comes without its files" in sentence


def test_one_bad_entry_leaves_the_others(export, tmp_path):
    write_export(export, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "registry.json").read_text())
    first, second = content["adapters"]
    _edit(tmp_path / "out", adapters=[{**first, "params": 5}, second])
    back = read_export(tmp_path / "out")
    assert [record.name for record in back.matrix.adapters] == ["kept"]
    assert {cell.row.model for cell in back.matrix.cells} == {BASE_ID, second["adapter_id"]}
    (sentence,) = back.skipped
    assert sentence.startswith("The adapter shipped can't be read and is left out")


@pytest.mark.filterwarnings("error")
def test_numbers_that_half_precision_can_t_hold_come_back(export, tmp_path):
    first, *rest = export.matrix.adapters
    wide = replace(first, behaviour_vector=(1e6, -2.0), behaviour_vector_mid=(float("inf"), 1.0))
    matrix = replace(export.matrix, adapters=(wide, *rest))
    write_export(replace(export, matrix=matrix), tmp_path / "out")
    back = read_export(tmp_path / "out").matrix.adapters[0]
    assert back.behaviour_vector == (1e6, -2.0)
    assert back.behaviour_vector_mid == ()


def test_infinite_numbers_in_an_older_export_are_left_out_and_named(export, tmp_path):
    import numpy as np
    from safetensors.numpy import load_file, save_file

    write_export(export, tmp_path / "out")
    arrays = load_file(tmp_path / "out" / "vectors.safetensors")
    (name,) = (name for name in arrays if name.endswith("/behaviour_vector"))
    arrays[name] = np.array([np.inf, 1], np.float16)
    save_file(arrays, tmp_path / "out" / "vectors.safetensors")
    back = read_export(tmp_path / "out")
    assert back.matrix.adapters[0].behaviour_vector == ()
    assert "holds infinite numbers" in back.skipped[0]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda out: (out / "registry.json").unlink(), "no exported registry"),
        (lambda out: (out / "vectors.safetensors").unlink(), "no exported registry"),
        (lambda out: (out / "registry.json").write_text("{"), "damaged"),
        (lambda out: (out / "vectors.safetensors").write_bytes(b"x"), "damaged"),
        (lambda out: _edit(out, schema=2), "another version of Adapt"),
        (lambda out: _edit(out, tasks=[{}]), "damaged"),
        (lambda out: _edit(out, digests=[]), "damaged"),
    ],
    ids=["no file", "no vectors", "cut off", "broken vectors", "newer", "wrong shape", "no digest"],
)
def test_what_is_no_export_is_one_clear_sentence(export, tmp_path, damage, words):
    write_export(export, tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(RegistryError, match=words):
        read_export(tmp_path / "out")


def _edit(out, **changes):
    content = json.loads((out / "registry.json").read_text())
    (out / "registry.json").write_text(json.dumps(content | changes))
