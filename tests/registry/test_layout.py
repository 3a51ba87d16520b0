import base64
import json
import math
import subprocess
import sys
import zlib
from dataclasses import replace

import pytest

from adapt_lora.data import SkipReason
from adapt_lora.errors import BaseModelMismatch, ConfigError
from adapt_lora.registry import layout
from adapt_lora.registry.identity import compare_bases, find_base
from adapt_lora.registry.layout import StoredCell
from adapt_lora.registry.matrix import assemble_matrix
from adapt_lora.registry.records import (
    BASE_ID,
    AdapterRecord,
    DatasetRecord,
    Fingerprint,
    Histogram,
    Prediction,
    ReadingRecord,
)
from tests.registry.conftest import cell, task_named


@pytest.fixture
def full_record(base):
    """Every field filled, with what MLflow itself would cut, refuse or round."""
    return AdapterRecord(
        adapter_id="1" * 64,
        name="sst2",
        base=base,
        version=3,
        run_id="r" * 32,
        model_id="m-1",
        created_ms=1_700_000_000_000,
        dataset=DatasetRecord(
            "sst2 (train)",
            "f" * 64,
            "sst2",
            320,
            "sst2.jsonl",
            read=ReadingRecord(320, 3, "UTF-16", (SkipReason("'text' is empty", 3, (4, 7, 9)),)),
        ),
        group="sst2",
        fingerprint=Fingerprint(
            values={"n_rows": 320.0, "response_ppl": 1 / 3},
            vectors={"hidden_mid_mean": (0.1, -1e-12, 3.0)},
            histograms={"prompt_tokens": Histogram((0.0, 1.5), (7,))},
            label_shares={"007": 0.25, "naïve": 0.75},
            base_label_shares={"007": 1.0},
            row_sketches=(0, 2**64 - 1),
            base=base,
            notes=("No MiniLM here.",),
        ),
        weights={"delta_norm": 1.25},
        behaviour={"shift_norm": 0.5},
        behaviour_vector=(0.25, 0.5),
        traits={"trait 1: reading (top)": -0.3},
        params={"lora/r": "8", "recipe/notes": "x" * 9000},
        metrics={"train/loss": 0.4},
        tags={"vllm": "supported", "odd key?": "y" * 9000},
        warnings=("It adapts lm_head.",),
        has_weights=False,
    )


def test_an_adapter_survives_the_round_trip(full_record):
    assert layout.adapter_record(layout.adapter_items(full_record)) == full_record


def test_how_data_were_read_stands_on_the_pages_of_runs(full_record, task, base):
    told = {
        "data/n_rows": "320",
        "data/n_skipped": "3",
        "data/encoding": "UTF-16",
        "data/reasons": "3: 'text' is empty",
    }
    read = full_record.dataset.read
    of_task = replace(task, dataset=replace(task.dataset, read=read))
    for items in (layout.adapter_items(full_record), layout.task_items(of_task, base)):
        assert told.items() <= items.params.items()
    for item in (
        layout.adapter_items(full_record).dataset,
        layout.task_dataset_item(of_task, "protocol"),
    ):
        known = json.loads(item.profile)["read"]
        assert (known["n_skipped"], known["reasons"][0]["lines"]) == (3, [4, 7, 9])


def test_an_entry_from_before_readings_were_kept_is_read(full_record):
    items = layout.adapter_items(full_record)
    record = json.loads(items.artifacts[layout.RECORD_FILE])
    del record["dataset"]["read"]
    older = replace(items, artifacts={**items.artifacts, layout.RECORD_FILE: json.dumps(record)})
    assert layout.adapter_record(older) == replace(
        full_record, dataset=replace(full_record.dataset, read=None)
    )


def test_a_bare_adapter_survives_the_round_trip(base):
    record = AdapterRecord("1" * 64, "unknown", base)
    assert layout.adapter_record(layout.adapter_items(record)) == record


def test_a_task_survives_the_round_trip(task, base):
    assert layout.task_record(layout.task_items(task, base)) == task


def test_cells_survive_the_round_trip_side_by_side():
    many_labels = {f"label number {n}": 1 / 400 for n in range(400)}
    stored = [
        StoredCell(cell(BASE_ID, 0.5), "e" * 64, 1),
        StoredCell(cell("1" * 64, 0.7, selected=True), "e" * 64, 2),
        StoredCell(replace(cell(BASE_ID, 0.5, task="bank?"), predicted_shares=many_labels), "d", 3),
    ]
    tags = {key: value for item in stored for key, value in layout.cell_tags(item).items()}
    assert sorted(layout.cells_of(tags).cells, key=lambda item: item.measured_ms) == stored
    assert max(map(len, tags.values())) <= 8000


def test_a_cell_that_lost_a_piece_is_left_out():
    big = replace(cell(BASE_ID, 0.5), predicted_shares={f"label {n}": 0.1 for n in range(2000)})
    tags = layout.cell_tags(StoredCell(big, "e", 1))
    assert len(tags) > 1
    del tags[next(iter(tags))]
    assert layout.cells_of(tags).cells == []


def test_items_respect_what_mlflow_takes(full_record):
    from mlflow.utils.validation import (
        _validate_metric_name,
        _validate_param_name,
        _validate_tag_name,
    )

    items = layout.adapter_items(full_record)
    for key in items.metrics:
        _validate_metric_name(key)
    for key, value in items.params.items():
        _validate_param_name(key)
        assert len(value) <= 6000
    for key, value in items.tags.items():
        _validate_tag_name(key)
        assert len(value) <= 8000
    assert len(items.dataset.digest) <= 36
    assert items.metrics["fingerprint/n_rows"] == 320.0
    assert items.metrics["weights/delta_norm"] == 1.25
    assert items.metrics["behaviour/shift_norm"] == 0.5
    assert any(key.startswith("trait/") for key in items.metrics)


def test_what_is_not_a_number_is_absent(base):
    record = AdapterRecord(
        "1",
        "x",
        base,
        fingerprint=Fingerprint({"response_ppl": math.inf, "n_rows": 3.0}),
        weights={"delta_norm": math.nan},
    )
    items = layout.adapter_items(record)
    assert items.metrics == {"fingerprint/n_rows": 3.0}
    assert dict(layout.adapter_record(items).fingerprint.values) == {"n_rows": 3.0}


@pytest.mark.parametrize(
    "name",
    ["trec", "a (b)", "acc@1", "x" * 400, "..", "a//b", "/etc", "50 %", "ünï", "a/../b", "a/", "?"],
)
def test_every_name_becomes_a_legal_key_of_its_own(name):
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(layout.legal_key(name))
    assert len(layout.legal_key(name)) <= 250
    assert layout.legal_key(name) != layout.legal_key(f"{name}?")


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("sst2", "sst2"),
        ("org/name", "org--name"),
        ("a:b@c", "a-b-c"),
        (" tidy ", "tidy"),
        ("smollm2-1.7b", "smollm2-1.7b"),
    ],
)
def test_names_become_legal_by_a_plain_rule(name, legal):
    from mlflow.utils.validation import _validate_logged_model_name, _validate_model_name

    assert layout.registered_name(name) == legal
    _validate_model_name(legal)
    _validate_logged_model_name(layout.logged_model_name(legal))


@pytest.mark.parametrize("name", ["", "  ", "/", "..", "a\nb", "x" * 300, "base", "majority label"])
def test_names_that_can_not_be_used_get_a_sentence(name):
    with pytest.raises(ConfigError, match="name"):
        layout.registered_name(name)


def test_text_of_users_can_not_become_markup(base):
    record = AdapterRecord(
        "1", "x", base, params={"a|b": "<script>[x](http://y)"}, warnings=("`<b>`",)
    )
    assert not set("<[`") & set(layout.card_markdown(record).replace(f"`{base.name}`", ""))


def test_the_saved_view_unpacks_to_the_columns_that_matter():
    view = json.loads(layout.saved_view("Adapters", now_ms=5))
    kind, _, packed = view["state"].partition(";")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert kind == "deflate"
    assert "metrics.`fingerprint/response_ppl`" in state["selectedColumns"]
    assert len(json.dumps(view)) < 20_000


def test_a_task_under_another_protocol_heads_a_column_of_its_own(task):
    first = layout.task_dataset_item(task, "p1")
    second = layout.task_dataset_item(task, "p2")
    assert first.name == second.name
    assert first.digest != second.digest


def test_the_matrix_takes_one_protocol_per_column(base, task):
    adapters = [AdapterRecord(name, name, base, created_ms=n) for n, name in enumerate("ab")]
    cells = [
        StoredCell(cell(BASE_ID, 0.5), task.dataset.digest, 1),
        StoredCell(cell("a", 0.6), task.dataset.digest, 2),
        StoredCell(cell("b", 0.7), task.dataset.digest, 3),
        StoredCell(cell("a", 0.9, protocol="p2"), task.dataset.digest, 4),
        StoredCell(cell("b", 0.8), task.dataset.digest, 5),  # measured again: the latest counts
        StoredCell(cell("b", 0.1), "other rows", 6),  # the task changed under its name
        StoredCell(cell("removed", 1.0), task.dataset.digest, 7),
    ]
    matrix = assemble_matrix(base, adapters=adapters, tasks=[task], cells=cells)
    assert {c.row.id: c.score for c in matrix.cells} == {BASE_ID: 0.5, "a": 0.6, "b": 0.8}
    only = assemble_matrix(base, adapters=adapters, tasks=[task], cells=cells, protocol="p2")
    assert [c.score for c in only.cells] == [0.9]


def test_tasks_stand_in_order_of_first_measurement(base):
    tasks = [task_named("late"), task_named("early")]
    cells = [
        StoredCell(cell(BASE_ID, 0.5, task="late"), "e" * 64, 9),
        StoredCell(cell(BASE_ID, 0.5, task="early"), "e" * 64, 3),
    ]
    matrix = assemble_matrix(base, adapters=[], tasks=tasks, cells=cells)
    assert [task.name for task in matrix.tasks] == ["early", "late"]


def test_other_weights_warn_and_another_architecture_is_refused(base, other_base):
    assert compare_bases(base, base) is None
    assert "near, not equal" in compare_bases(base, replace(base, weights="c" * 64))
    with pytest.raises(BaseModelMismatch, match="another architecture or tokenizer"):
        compare_bases(base, replace(other_base, name=base.name))


def test_a_base_under_another_name_is_found_by_its_content(base, other_base):
    renamed = replace(base, name="my-folder")
    assert find_base([other_base, base], renamed) == base
    # A fine-tuned twin has the same architecture, and is another model all the same.
    assert find_base([base], replace(renamed, weights="9" * 64)) is None


def test_the_face_imports_nothing_heavy():
    code = (
        "import sys; from adapt_lora.registry import Registry, read_adapter; "
        "import adapt_lora.registry.layout; "
        "print([m for m in ('mlflow', 'torch', 'transformers', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_predictions_survive_parquet():
    predictions = (
        Prediction("d" * 64, True, "yes", (-0.25, -1.5), None, "yes", None, 12),
        Prediction("e" * 64, None, None, (-3.0,), 4, None, 0.5, 7, 9, "length"),
        Prediction("f" * 64, False, "ünï\n", (), None),
    )
    assert layout.read_predictions(layout.predictions_parquet(predictions)) == predictions


def test_no_adapter_can_take_the_name_of_a_few_shot_row():
    with pytest.raises(ConfigError, match="a row of its own"):
        layout.registered_name("base+3shot")


def test_layout_keys_stay_what_old_registries_hold():
    assert (layout.SCHEMA, layout.STATUS, layout.KIND, layout.ADAPTER_ID) == (
        "1",
        "adapt.status",
        "adapt.kind",
        "adapt.id",
    )
