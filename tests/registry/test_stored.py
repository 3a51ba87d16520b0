import json
import math
from dataclasses import replace

import numpy as np
import pytest

from adapt_lora.registry.layout import StoredCell
from adapt_lora.registry.records import (
    BASE_ID,
    AdapterRecord,
    Cell,
    Fingerprint,
    Histogram,
    MatrixRow,
    TaskRecord,
)
from adapt_lora.registry.stored import from_json, from_plain, to_json, to_plain
from tests.registry.conftest import cell

OLD_CELL = (
    '{"cell":{"adapter_id":"base+3shot-seed1","metric":"accuracy","metrics":{"macro_f1":0.5},"n":100,'
    '"predicted_shares":{},"protocol":"p1","score":1,"se":null,"selected":false,"task":"trec",'
    '"zero_shot":"p0"},"dataset_digest":"d","measured_ms":17}'
)
OLD_TASK = (
    '{"dataset":{"digest":"d","group":"trec","n_rows":null,"name":"trec","parent":"","source":""},'
    '"family":"","fingerprint":{"base":null,"base_label_shares":{},"histograms":{"prompt_tokens":'
    '{"counts":[7],"edges":[0,1.5]}},"label_shares":{"007":1},"notes":[],'
    '"row_sketches":[18446744073709551615],"values":{"n_rows":7},"vectors":{"minilm_mean":[0.5]}},'
    '"group":"trec","labels":["007"],"metric":"accuracy","name":"trec"}'
)


def test_what_earlier_versions_stored_is_read_and_written_alike():
    stored = from_json(StoredCell, OLD_CELL)
    row = MatrixRow(BASE_ID, shots=3, seed=1)
    few_shot = Cell(row, "trec", "accuracy", 1.0, None, 100, "p1", {"macro_f1": 0.5})
    assert stored == StoredCell(replace(few_shot, zero_shot="p0"), "d", 17)
    task = from_json(TaskRecord, OLD_TASK)
    assert task.fingerprint == Fingerprint(
        {"n_rows": 7.0},
        vectors={"minilm_mean": (0.5,)},
        histograms={"prompt_tokens": Histogram((0.0, 1.5), (7,))},
        label_shares={"007": 1.0},
        row_sketches=(2**64 - 1,),
    )
    # What is told since then: what a dataset is a mixture of and how it was read, the base's label
    # bias, and whether a task is a mere target.
    told = json.loads(OLD_TASK) | {"is_target": False}
    told["dataset"] |= {"parts": [], "read": None}
    told["fingerprint"] |= {"base_label_offsets": {}}
    for record, plain in ((stored, json.loads(OLD_CELL)), (task, told)):
        again = json.loads(to_json(to_plain(record)))
        assert again == plain
        assert list(again) == sorted(plain)


def test_a_row_goes_by_its_id_under_the_old_key():
    plain = to_plain(replace(cell(BASE_ID, 0.5), row=MatrixRow("1" * 64, 2, name="sst2")))
    assert next(iter(plain.items())) == ("adapter_id", f"{'1' * 64}+2shot")
    assert "row" not in plain


def test_what_is_not_a_number_is_an_absent_key(base):
    record = AdapterRecord(
        "1",
        "x",
        base,
        weights={"delta_norm": math.nan, "rank": np.float32(2), "n": np.int64(3)},
        behaviour={"shift": math.inf},
        behaviour_vector=(np.float32(0.5),),
    )
    plain = to_plain(record)
    assert plain["weights"] == {"rank": 2.0, "n": 3}
    assert plain["behaviour"] == {}
    assert plain["behaviour_vector"] == [0.5]
    assert from_plain(AdapterRecord, plain).weights == {"rank": 2.0, "n": 3.0}
    json.loads(to_json(plain))


def test_a_damaged_record_is_one_line():
    with pytest.raises(ValueError, match=r"^cell\.adapter_id: Field required$"):
        from_json(StoredCell, '{"cell":{"task":"trec"},"dataset_digest":"d","measured_ms":1}')
    with pytest.raises(ValueError, match=r"^Invalid JSON: [^\n]+$"):
        from_json(StoredCell, "{")
    with pytest.raises(ValueError, match=r"^score: Input should be a valid number[^\n]*$"):
        from_plain(Cell, to_plain(cell(BASE_ID, 0.5)) | {"score": "many"})
