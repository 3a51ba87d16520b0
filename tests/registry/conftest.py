import json
import shutil

import numpy as np
import pytest

from adapt_lora.model.base import BaseIdentity
from adapt_lora.registry import Registry, read_adapter
from adapt_lora.registry.records import (
    AdapterRecord,
    Cell,
    DatasetRecord,
    Fingerprint,
    Histogram,
    MatrixRow,
    TaskRecord,
)

HIDDEN, LAYERS = 12, 3
PROJECTIONS = ("self_attn.q_proj", "mlp.down_proj")


@pytest.fixture
def base():
    return BaseIdentity("org/tiny-llama", architecture="a" * 64, weights="b" * 64)


@pytest.fixture
def other_base():
    return BaseIdentity("org/other", architecture="c" * 64, weights="d" * 64)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    """Weights of a bare base: what a transformers folder holds, without the model."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("base")
    rng = np.random.default_rng(0)
    weights = {"model.embed_tokens.weight": rng.normal(size=(20, HIDDEN)).astype(np.float32)}
    for layer in range(LAYERS):
        for projection in PROJECTIONS:
            name = f"model.layers.{layer}.{projection}.weight"
            weights[name] = rng.normal(size=(HIDDEN, HIDDEN)).astype(np.float32)
    save_file(weights, folder / "model.safetensors")
    return folder


def lora_tensors(*, seed=0, rank=2, hidden=HIDDEN, layers=LAYERS, dtype=np.float32):
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        for projection in PROJECTIONS:
            stem = f"base_model.model.model.layers.{layer}.{projection}"
            tensors[f"{stem}.lora_A.weight"] = rng.normal(size=(rank, hidden)).astype(dtype)
            tensors[f"{stem}.lora_B.weight"] = rng.normal(size=(hidden, rank)).astype(dtype)
    return tensors


@pytest.fixture
def adapter_folder(tmp_path):
    """Writes a PEFT folder: adapter_folder(seed=1, tensors=…, use_dora=True, …)."""

    def write(name="adapter", *, seed=0, tensors=None, without=(), **config):
        from safetensors.numpy import save_file

        folder = tmp_path / name
        folder.mkdir()
        settings = {
            "peft_type": "LORA",
            "r": 2,
            "lora_alpha": 4,
            "target_modules": ["q_proj", "down_proj"],
            "base_model_name_or_path": "org/tiny-llama",
            **config,
        }
        for key in without:
            del settings[key]
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        save_file(
            lora_tensors(seed=seed) if tensors is None else tensors,
            folder / "adapter_model.safetensors",
        )
        return folder

    return write


@pytest.fixture
def adapter_record(base):
    """Describes a folder as a record: adapter_record(folder, "sst2")."""

    def describe(folder, name, *, of=base):
        adapter = read_adapter(folder)
        return AdapterRecord(
            adapter.adapter_id,
            name,
            of,
            dataset=DatasetRecord(name, "f" * 64, name, 320, f"{name}.jsonl"),
            group=name,
            fingerprint=Fingerprint({"n_rows": 320.0, "response_ppl": 12.5}, base=of),
            weights={"delta_norm": 1.25},
            params=adapter.params,
            tags=adapter.tags,
        )

    return describe


@pytest.fixture
def task():
    return task_named("trec")


def task_named(name, *, digest="e" * 64, metric="balanced_accuracy"):
    return TaskRecord(
        name=name,
        group=name,
        metric=metric,
        dataset=DatasetRecord(name, digest, name, 100, f"{name}.jsonl"),
        labels=("yes", "no"),
        fingerprint=Fingerprint(
            {"n_rows": 100.0},
            vectors={"hidden_mid_mean": (0.1, -0.2)},
            histograms={"prompt_tokens": Histogram((0.0, 1.5, 3.0), (40, 60))},
        ),
        family="question type",
    )


def cell(adapter_id, score, *, task="trec", protocol="p1", **more):
    return Cell(
        MatrixRow(adapter_id),
        task,
        "balanced_accuracy",
        score,
        se=0.05,
        n=100,
        protocol=protocol,
        metrics={"accuracy": 0.6, "label_cross_entropy": 1.1},
        predicted_shares={"yes": 0.75, "no": 0.25},
        **more,
    )


@pytest.fixture
def open_registry(tmp_path, migrated_store):
    """Opens the test's own store, each time as a new process would: open_registry()."""
    folder = tmp_path / "store"
    folder.mkdir()
    shutil.copyfile(migrated_store, folder / "mlflow.db")
    return lambda: Registry(folder, cache_folder=tmp_path / "cache")


@pytest.fixture
def registry(open_registry):
    return open_registry()
