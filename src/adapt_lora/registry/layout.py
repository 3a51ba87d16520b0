"""How records lie in MLflow: a record as plain items (params, tags, metrics, artifacts) and back.

MLflow cuts long values, forbids characters and keeps numbers only as metrics. So the truth of a
record is JSON (artifacts, and tags for what is small or changes later), and the rest is there for
people to see, sort and chart. Nothing here imports MLflow; keys change only together with SCHEMA.
"""

import base64
import hashlib
import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple

from adapt_lora.errors import ConfigError
from adapt_lora.model.base import BaseIdentity
from adapt_lora.registry.records import (
    AdapterRecord,
    Cell,
    DatasetRecord,
    Fingerprint,
    MatrixRow,
    Prediction,
    TaskRecord,
)
from adapt_lora.registry.stored import from_json, from_plain, to_json, to_plain

SCHEMA = "1"
"""Version of the keys below, stored with every entry."""

KIND = "adapt.kind"
"""Tag: what a run is about, "adapter", "base", "task", "cells" or "recommendation"."""
STATUS = "adapt.status"
"""Tag, written last: a run without it is a crashed registration, and listing skips it."""
READY = "ready"
ADAPTER_ID = "adapt.id"
TASK_ID = "adapt.task_id"
MODEL_ID = "adapt.model_id"
VERSION = "adapt.version"
TRAITS = "adapt.traits"
CHANGED = "adapt/changed_ms"
"""Metric: when an entry was changed after its registration, milliseconds since 1970.

A sync asks for what is new by time. Tags can't be compared by size, and a later end of the run
would make its duration grow."""
TARGET = "adapt.target"
"""Tag of a task's run: "true" where somebody asked about these rows and nothing more."""
TRAIT_FIT = "adapt.trait_fit"
"""Tag of the bare base's run: it keeps a fit of the traits in TRAITS_FILE."""
FEW_SHOT = "adapt.few_shot"
"""Tag of a logged model that stands for a few-shot row: the row's id."""
SHOWN_TO = "adapt.shown_to"
"""Tag of the same: the adapter that is on, or BASE_ID."""
NOTE = "mlflow.note.content"

RECOMMENDATION: Literal["recommendation"] = "recommendation"
TARGET_DIGEST, TARGET_GROUP = "adapt.target_digest", "adapt.target_group"

RECORD_FILE = "record.json"
RECOMMENDATION_FILE, RANKING_FILE = "recommendation.json", "ranking.json"
FINGERPRINT_FILE = "fingerprint.json"
TRAITS_FILE = "traits.json"
PREDICTIONS_FOLDER = "predictions"

_PARAM_LIMIT, TAG_LIMIT, _KEY_LIMIT = 6000, 8000, 250
# Bytes, not characters, count on some backends; ASCII JSON makes them the same.
_CHUNK = 7500
_CELL = "adapt.cell/"


@dataclass(frozen=True, slots=True)
class DatasetItem:
    """A dataset input of a run."""

    name: str
    """Name people use."""
    digest: str
    """At most 36 characters."""
    source: str
    """File name or Hub id."""
    profile: str
    """JSON for the datasets drawer."""
    context: str
    """"training" or "evaluation"."""


@dataclass(frozen=True, slots=True)
class RunItems:
    """One entry as MLflow keeps it."""

    name: str
    """Run name."""
    params: Mapping[str, str] = field(default_factory=dict)
    """Immutable strings to search."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Strings that may change."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Finite numbers to sort and chart; "/" makes sections."""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    """JSON text by file name."""
    dataset: DatasetItem | None = None
    """Input of the run."""
    run_id: str = ""
    """Given by MLflow; "" before."""
    created_ms: int = 0
    """Start of the run, milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class StoredCell:
    """A cell, and what tells two measurements of one cell apart."""

    cell: Cell
    """The measurement."""
    dataset_digest: str
    """Of the scored rows."""
    measured_ms: int
    """When it was stored; the latest of two equal measurements counts."""


def adapter_items(record: AdapterRecord) -> RunItems:
    """An adapter's entry; the inverse of `adapter_record`."""
    plain = to_plain(record)
    fingerprint = plain.pop("fingerprint")
    for key in ("traits", "run_id", "model_id", "version", "created_ms"):
        del plain[key]
    tags = {
        KIND: "adapter",
        ADAPTER_ID: record.adapter_id,
        **_base_tags(record.base),
        MODEL_ID: record.model_id,
        VERSION: str(record.version),
        TRAITS: to_json(_finite(record.traits)),
        NOTE: card_markdown(record),
    }
    if record.group is not None:
        tags["adapt.group"] = record.group
    if record.dataset is not None:
        tags["adapt.dataset"] = record.dataset.name
        tags["adapt.dataset_digest"] = record.dataset.digest
    tags |= {f"check.{legal_key(key)}": value for key, value in record.tags.items()}
    metrics = {
        **_section("fingerprint", record.fingerprint.values),
        **_section("weights", record.weights),
        **_section("behaviour", record.behaviour),
        **trait_metrics(record.traits),
        **{legal_key(key): value for key, value in _finite(record.metrics).items()},
    }
    return RunItems(
        name=record.name,
        params={
            legal_key(key): value[:_PARAM_LIMIT]
            for key, value in {**_read_params(record.dataset), **record.params}.items()
        },
        tags={key: value[:TAG_LIMIT] for key, value in tags.items()},
        metrics=metrics,
        artifacts={RECORD_FILE: to_json(plain), FINGERPRINT_FILE: to_json(fingerprint)},
        dataset=None if record.dataset is None else dataset_item(record.dataset, "training"),
        run_id=record.run_id,
        created_ms=record.created_ms,
    )


def adapter_record(items: RunItems) -> AdapterRecord:
    """The adapter that an entry holds.

    Raises:
        KeyError, ValueError, TypeError: The entry is damaged.
    """
    return from_plain(
        AdapterRecord,
        {
            **_record_and_fingerprint(items),
            "traits": json.loads(items.tags.get(TRAITS, "{}")),
            "run_id": items.run_id,
            "created_ms": items.created_ms,
            "model_id": items.tags[MODEL_ID],
            "version": int(items.tags[VERSION]),
        },
    )


def adapter_remains(items: RunItems, profile: Mapping[str, Any]) -> AdapterRecord:
    """What an adapter's run says of it where its record can't be read: no vectors, no warnings.

    Args:
        items: Name, tags, params and metrics of the run.
        profile: Of its training data, as `dataset_item` makes it; {} of none.

    Raises:
        KeyError, ValueError: The run lacks what an adapter is filed by.
    """
    tags = items.tags
    dataset = None
    if "adapt.dataset" in tags:
        dataset = {
            "name": tags["adapt.dataset"],
            "digest": tags["adapt.dataset_digest"],
            "group": profile.get("group", tags.get("adapt.group", "")),
            "n_rows": profile.get("num_rows"),
            "parent": profile.get("parent", ""),
            "read": profile.get("read"),
        }
    return from_plain(
        AdapterRecord,
        {
            "adapter_id": tags[ADAPTER_ID],
            "name": items.name,
            "base": to_plain(base_from_tags(tags)),
            "dataset": dataset,
            "group": tags.get("adapt.group"),
            "fingerprint": {"values": _out_of_section("fingerprint", items.metrics)},
            "weights": _out_of_section("weights", items.metrics),
            "behaviour": _out_of_section("behaviour", items.metrics),
            "metrics": {
                key: value for key, value in items.metrics.items() if key.startswith("train/")
            },
            "params": {k: v for k, v in items.params.items() if not k.startswith("data/")},
            "tags": {
                key.removeprefix("check."): value
                for key, value in tags.items()
                if key.startswith("check.")
            },
            "traits": json.loads(tags.get(TRAITS, "{}")),
            "run_id": items.run_id,
            "created_ms": items.created_ms,
            "model_id": tags[MODEL_ID],
            "version": int(tags[VERSION]),
        },
    )


def task_items(task: TaskRecord, base: BaseIdentity) -> RunItems:
    """A task's entry; the inverse of `task_record`."""
    plain = to_plain(task)
    fingerprint = plain.pop("fingerprint")
    n_rows = task.dataset.n_rows
    return RunItems(
        name=task.name,
        params={
            "task/metric": task.metric,
            "task/group": task.group[:_PARAM_LIMIT],
            "task/family": task.family[:_PARAM_LIMIT],
            "task/labels": ", ".join(task.labels)[:_PARAM_LIMIT],
            **({} if n_rows is None else {"task/rows": str(n_rows)}),
            **_read_params(task.dataset),
        },
        tags={
            KIND: "task",
            TASK_ID: task_id(task),
            **({TARGET: "true"} if task.is_target else {}),
            **_base_tags(base),
        },
        metrics=_section("fingerprint", task.fingerprint.values),
        artifacts={RECORD_FILE: to_json(plain), FINGERPRINT_FILE: to_json(fingerprint)},
        dataset=dataset_item(task.dataset, "evaluation"),
    )


def task_record(items: RunItems) -> TaskRecord:
    """The task that an entry holds; errors as for `adapter_record`."""
    return from_plain(TaskRecord, _record_and_fingerprint(items))


def _record_and_fingerprint(items: RunItems) -> dict[str, Any]:
    """The two files of an entry as the fields of one record."""
    fingerprint = from_json(Fingerprint, items.artifacts[FINGERPRINT_FILE])
    return {**json.loads(items.artifacts[RECORD_FILE]), "fingerprint": fingerprint}


def task_id(task: TaskRecord) -> str:
    """Identity of a task: its name, rows, metric and label set, and that it is a mere target."""
    kind = ["target"] if task.is_target else []
    return _digest([task.name, task.dataset.digest, task.metric, *task.labels, *kind])[:32]


def cell_items(row: MatrixRow, base: BaseIdentity) -> RunItems:
    """The entry that a row's cells of one evaluation job are added to."""
    return RunItems(
        name=row.label,
        tags={KIND: "cells", ADAPTER_ID: row.id, **_base_tags(base)},
        params={"adapter": row.label[:_PARAM_LIMIT], "adapter_id": row.id},
    )


def recommendation_items(
    content: Mapping[str, Any], base: BaseIdentity, *, digest: str, group: str
) -> RunItems:
    """A kept recommendation; `content` is what `recommend --json` prints."""
    target, model, chosen = content["target"], content["model"], content["base"]
    name = str(target.get("name", "target"))
    ranking = {entry["adapter"]: entry for entry in content["ranking"]}
    predicted = {a: e["predicted_gain"] for a, e in ranking.items() if "predicted_gain" in e}
    measured = {a: e["measured"]["gain"] for a, e in ranking.items() if "measured" in e}
    figures = {key: float(chosen[key]) for key in ("score", "se", "p_best") if key in chosen}
    first = content["ranking"][0]["adapter"] if content["ranking"] else ""
    params = {
        "target": name[:_PARAM_LIMIT],
        "metric": str(target.get("metric", "")),
        "method": str(model.get("name", "")),
        "recommended": "base model" if chosen.get("recommended") else first[:_PARAM_LIMIT],
    }
    return RunItems(
        name=f"recommendation for {name}"[:_KEY_LIMIT],
        tags={
            KIND: RECOMMENDATION,
            TARGET_DIGEST: digest,
            TARGET_GROUP: group[:TAG_LIMIT],
            **_base_tags(base),
        },
        params=params,
        metrics=_section("predicted_gain", predicted)
        | _section("measured_gain", measured)
        | _section("base", figures),
        artifacts={RECOMMENDATION_FILE: json.dumps(content, indent=1)},
    )


def ranking_columns(content: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The ranking of a recommendation by columns, as MLflow's table artifact takes it."""
    entries = content["ranking"]
    return {
        "rank": [entry["rank"] for entry in entries],
        "adapter": [entry["adapter"] for entry in entries],
        "predicted_gain": [entry.get("predicted_gain") for entry in entries],
        "low": [entry.get("interval", [None, None])[0] for entry in entries],
        "high": [entry.get("interval", [None, None])[1] for entry in entries],
        "p_harm": [entry.get("p_harm") for entry in entries],
        "p_best": [entry.get("p_best") for entry in entries],
        "measured_gain": [entry.get("measured", {}).get("gain") for entry in entries],
        "first_reason": [entry["reasons"][0]["text"] for entry in entries],
        "warnings": [" ".join(entry.get("warnings", ())) for entry in entries],
    }


def cell_tags(stored: StoredCell) -> dict[str, str]:
    """A cell as tags of its run, in pieces where one tag is too short; see `cells_of`."""
    text = to_json(to_plain(stored))
    stem = f"{_CELL}{cell_key(stored.cell, stored.dataset_digest)}"
    pieces = [text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK)]
    # The count stands in the key, so that a shorter second measurement can't be mixed with the
    # first.
    return {
        f"{stem}/{len(pieces)}.{index}.{stored.measured_ms}": piece
        for index, piece in enumerate(pieces)
    }


def cell_key(cell: Cell, dataset_digest: str) -> str:
    """What names a cell among those of its run: the task, and a digest of what tells it apart."""
    digest = _digest([cell.task, dataset_digest, cell.protocol, cell.row.id])[:12]
    return f"{legal_key(cell.task)[:200]}/{digest}"


def predictions_file(cell: Cell, dataset_digest: str) -> str:
    """Where a cell's predictions lie among the artifacts of its run."""
    return f"{PREDICTIONS_FOLDER}/{cell_key(cell, dataset_digest)}.parquet"


def predictions_parquet(predictions: Sequence[Prediction]) -> bytes:
    """Predictions as a Parquet file, a row each; the inverse of `read_predictions`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("row", pa.string()),
            ("right", pa.bool_()),
            ("answer", pa.string()),
            ("log_likelihood", pa.list_(pa.float64())),
            ("n_tokens", pa.int32()),
            ("gold", pa.string()),
            ("grade", pa.float64()),
            ("prompt_tokens", pa.int32()),
            ("answer_tokens", pa.int32()),
            ("finish", pa.string()),
        ]
    )
    table = pa.Table.from_pylist([asdict(one) for one in predictions], schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def read_predictions(content: bytes) -> tuple[Prediction, ...]:
    """The predictions in a file that `predictions_parquet` made."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return tuple(
        Prediction(**{**row, "log_likelihood": tuple(row["log_likelihood"])})
        for row in pq.read_table(pa.BufferReader(content)).to_pylist()
    )


class CellTags(NamedTuple):
    """What the tags of a run hold."""

    cells: list[StoredCell]
    """Its measurements."""
    broken: tuple[str, ...]
    """Tags of measurements that can't be read."""


def cells_of(tags: Mapping[str, str]) -> CellTags:
    """All cells in the tags of a run; pieces without the rest of their cell are left out."""
    groups: dict[tuple[str, int, str], dict[int, str]] = {}
    broken: list[str] = []
    for key, piece in tags.items():
        if key.startswith(_CELL):
            stem, _, last = key.rpartition("/")
            match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", last)
            if match is None:
                broken.append(key)
                continue
            count, index, measured = match.groups()
            groups.setdefault((stem, int(count), measured), {})[int(index)] = piece
    cells = []
    for (stem, count, measured), pieces in groups.items():
        if len(pieces) == count:
            try:
                cells.append(from_json(StoredCell, "".join(pieces[i] for i in range(count))))
            except (KeyError, ValueError):
                broken += [f"{stem}/{count}.{index}.{measured}" for index in pieces]
    return CellTags(cells, tuple(broken))


def cell_metrics(cell: Cell) -> dict[str, float]:
    """A cell's figures as metrics of its run: "<metric>/<task>", "se/<task>"."""
    task = legal_key(cell.task)
    values = {**cell.metrics, cell.metric: cell.score}
    if cell.se is not None:
        values["se"] = cell.se
    return {
        legal_key(f"{legal_key(name)}/{task}"): value for name, value in _finite(values).items()
    }


def summary_metrics(
    scores: Mapping[str, float], base_scores: Mapping[str, float]
) -> dict[str, float]:
    """An adapter's scores by task and its gains over the base's, as metrics of its own run."""
    gains = {
        task: score - base_scores[task] for task, score in scores.items() if task in base_scores
    }
    return _section("score", scores) | _section("gain", gains)


def trait_metrics(traits: Mapping[str, float]) -> dict[str, float]:
    """Trait scores as metrics of an adapter's run."""
    return _section("trait", traits)


def trait_tag(traits: Mapping[str, float]) -> str:
    """Trait scores as the tag that is read back."""
    return to_json(_finite(traits))


def dataset_item(dataset: DatasetRecord, context: str) -> DatasetItem:
    """A dataset as a run's input: counts and names, never rows."""
    profile: dict[str, Any] = {"group": dataset.group, "sha256": dataset.digest}
    if dataset.n_rows is not None:
        profile["num_rows"] = dataset.n_rows
    if dataset.parent:
        profile["parent"] = dataset.parent
    if dataset.read is not None:
        profile["read"] = to_plain(dataset.read)
    return DatasetItem(
        name=dataset.name[:500],
        digest=dataset.digest[:36],
        source=dataset.source or dataset.name,
        profile=to_json(profile),
        context=context,
    )


def _read_params(dataset: DatasetRecord | None) -> dict[str, str]:
    """How a run's data were read, for its page: counts, encoding, and why rows were skipped."""
    if dataset is None or dataset.read is None:
        return {}
    read = dataset.read
    params = {
        "data/n_rows": str(read.n_rows),
        "data/n_skipped": str(read.n_skipped),
        "data/encoding": read.encoding,
    }
    if read.reasons:
        params["data/reasons"] = "; ".join(f"{one.n_rows}: {one.reason}" for one in read.reasons)
    return {key: value[:_PARAM_LIMIT] for key, value in params.items()}


def task_dataset_item(task: TaskRecord, protocol: str) -> DatasetItem:
    """The dataset that heads a task's column in the Models tab.

    That tab keeps the first value it ever saw for a dataset, so the protocol is part of the digest.
    """
    digest = _digest([task.dataset.digest, task.metric, protocol])[:32]
    return replace(dataset_item(task.dataset, "evaluation"), name=task.name[:500], digest=digest)


def base_tags(base: BaseIdentity) -> dict[str, str]:
    """Tags that say which base an experiment is about; the inverse of `base_from_tags`."""
    return {"adapt.schema": SCHEMA, **_base_tags(base)}


def base_from_tags(tags: Mapping[str, str]) -> BaseIdentity:
    """The base model that an experiment is about."""
    return BaseIdentity(
        tags["adapt.base"], tags["adapt.base_architecture"], tags["adapt.base_weights"]
    )


def registered_name(name: str) -> str:
    """A name as the model registry takes it: "/" becomes "--", ":" and "@" become "-".

    Raises:
        ConfigError: Nothing readable is left, or the name is too long.
    """
    legal = name.strip().replace("/", "--")
    legal = re.sub(r"[:@]", "-", legal)
    if not legal or not legal.isprintable() or set(legal) <= {".", "-"}:
        raise ConfigError(f"{name!r} can't be an adapter's name: use letters, digits and dashes.")
    if len(legal) > _KEY_LIMIT:
        raise ConfigError(
            f"An adapter's name may have {_KEY_LIMIT} characters; {name[:40]!r}… has {len(name)}."
        )
    if not MatrixRow.parse(legal).is_candidate:
        raise ConfigError(
            f"{name!r} is the name of a row of its own in every matrix; choose another."
        )
    return legal


def logged_model_name(name: str) -> str:
    """A name as MLflow's Models tab takes it: no "/", ":", ".", "%" or quotes."""
    return re.sub(r"[/:.%\"']", "_", name)


def legal_key(name: str) -> str:
    """A metric, param or tag name as MLflow takes it.

    Letters, digits and "_-./ " stay, all else becomes "_"; a changed name ends in a digest of the
    first one, so that two names never become one.
    """
    legal = re.sub(r"[^\w\-./ ]", "_", name)
    # MLflow refuses what isn't a plain relative path ("a//b", "../a", "a/").
    legal = "/".join(
        part if part.strip(".") else part.replace(".", "_") for part in legal.split("/") if part
    )
    if legal == name and len(legal) <= _KEY_LIMIT:
        return legal
    return f"{legal[: _KEY_LIMIT - 7]}-{_digest([name])[:6]}"


def card_markdown(record: AdapterRecord) -> str:
    """A short page about an adapter, for MLflow's description field."""
    lines = [f"{record.kind} of `{_plain(record.base.name)}`", ""]
    if record.dataset is None:
        lines.append("Training data: not known.")
    else:
        data = record.dataset
        rows = "" if data.n_rows is None else f", {data.n_rows:,} rows"
        lines.append(f"Trained on **{_plain(data.name)}**{rows}.")
    lines += [f"> {_plain(warning)}" for warning in record.warnings]
    lines += ["", "| setting | value |", "|---|---|"]
    lines += [f"| {_plain(key)} | {_plain(value)[:200]} |" for key, value in record.params.items()]
    lines += [f"| {_plain(key)} | {value:.4g} |" for key, value in record.metrics.items()]
    return "\n".join(lines)[:TAG_LIMIT]


def saved_view(name: str, *, now_ms: int) -> str:
    """A saved view of MLflow's runs table: the columns that matter, adapters only.

    MLflow keeps these as experiment tags; the format is not documented, so this is best effort.
    """
    columns = [
        "attributes.`Dataset`",
        "params.`lora/r`",
        *(
            f"metrics.`{key}`"
            for key in (
                "fingerprint/n_rows",
                "fingerprint/prompt_tokens_mean",
                "fingerprint/response_tokens_mean",
                "fingerprint/n_labels",
                "fingerprint/label_entropy_normalised",
                "fingerprint/response_ppl",
                "fingerprint/base_score",
                "weights/delta_norm_relative",
                "weights/effective_rank_mean",
            )
        ),
    ]
    state = {
        "searchFilter": f"tags.`{STATUS}` = '{READY}'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "viewMaximized": True,
        "runListHidden": False,
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    view = {"name": name, "createdAt": now_ms, "updatedAt": now_ms, "state": f"deflate;{packed}"}
    return json.dumps(view)


def _base_tags(base: BaseIdentity) -> dict[str, str]:
    return {
        "adapt.base": base.name,
        "adapt.base_architecture": base.architecture,
        "adapt.base_weights": base.weights,
    }


def _section(name: str, values: Mapping[str, float]) -> dict[str, float]:
    return {legal_key(f"{name}/{key}"): value for key, value in _finite(values).items()}


def _out_of_section(name: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """The inverse of `_section`, but for what is not legal in a key."""
    start = f"{name}/"
    return {k.removeprefix(start): x for k, x in metrics.items() if k.startswith(start)}


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    """Without NaN and infinities: an unknown quantity is an absent key."""
    return {key: float(value) for key, value in values.items() if math.isfinite(value)}


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()


def _plain(text: str) -> str:
    """Text that can't become markup inside a markdown table."""
    return re.sub(r"[|`<>\[\]\r\n]", " ", text)


def probe_table(probes: Sequence[Mapping[str, str]]) -> str:
    """Probe prompts and answers as MLflow's table artifact, compared side by side across runs."""
    columns = list(dict.fromkeys(key for row in probes for key in row))
    return json.dumps(
        {"columns": columns, "data": [[row.get(c) for c in columns] for row in probes]}
    )
