"""A registry's entries of one base model as a folder that can be passed on: figures, never rows.

`registry.json` holds records and cells, `vectors.safetensors` what is long (embeddings and row
sketches), `adapters/NAME/` the PEFT files of the adapters that may be passed on. Embeddings are
kept in half precision: a cosine changes by less than 0.001.
"""

import json
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adapt_lora.errors import AdapterError, RegistryError
from adapt_lora.model.base import BaseIdentity
from adapt_lora.registry.adapter import copy_adapter, read_adapter
from adapt_lora.registry.records import (
    BASE_ID,
    MAJORITY_ID,
    AdapterRecord,
    Cell,
    TaskRecord,
    TransferMatrix,
)
from adapt_lora.registry.stored import from_plain, to_plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXPORT_FILE = "registry.json"
VECTORS_FILE = "vectors.safetensors"
ADAPTERS_FOLDER = "adapters"
EXPORT_SCHEMA = 1

_DIGESTS = {"adapter_id", "protocol", "zero_shot"}
"""Fields of a cell that many cells share."""
_VECTORS = ("behaviour_vector", "behaviour_vector_mid")
"""Fields of an adapter that are kept among the arrays."""

_T = TypeVar("_T")
_Record = TypeVar("_Record", AdapterRecord, TaskRecord)


@dataclass(frozen=True, slots=True)
class Export:
    """What an exported folder holds."""

    matrix: TransferMatrix
    """Adapters, tasks and cells of one base model."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """PEFT folders by adapter id; adapters that are not among them are figures only."""
    trait_fit: Mapping[str, Any] | None = None
    """The fit that the adapters' traits come from, as the registry keeps it; None without one."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What the maker says of it: sources, licences, versions; shown, never computed with."""
    skipped: tuple[str, ...] = ()
    """What of a folder could not be taken, and why, a sentence each."""


def write_export(export: Export, dest: Path) -> None:
    """Write a folder; an export that is there already is replaced, once the new one is whole.

    Args:
        export: The adapters' `run_id`, `model_id` and `version` stay behind: a registry's own.
        dest: The folder; other files in it stay.

    Raises:
        RegistryError: The folder can't be written.
    """
    import numpy as np
    from safetensors.numpy import save

    arrays: dict[str, Any] = {}
    adapters = [
        _pack(
            replace(record, run_id="", model_id="", version=0, created_ms=0),
            _adapter_place(record.adapter_id),
            arrays,
        )
        for record in export.matrix.adapters
    ]
    tasks = [_pack(task, f"task/{task.name}", arrays) for task in export.matrix.tasks]
    digests: dict[str, int] = {}
    content = {
        "schema": EXPORT_SCHEMA,
        "about": dict(export.about),
        "base": to_plain(export.matrix.base),
        "regime": export.matrix.regime,
        "adapters": adapters,
        "tasks": tasks,
        "cells": [_pack_cell(cell, digests) for cell in export.matrix.cells],
        "digests": list(digests),
        "trait_fit": None if export.trait_fit is None else dict(export.trait_fit),
    }
    places = _places(export.matrix.adapters)
    scratch = dest.parent / f".{dest.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        dest.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(parents=True)
        lines = _lines(content)
        (scratch / EXPORT_FILE).write_text(lines, encoding="utf-8")
        plain = {key: np.asarray(value) for key, value in arrays.items()}
        # Not `save_file`: what it writes, only its owner can read.
        (scratch / VECTORS_FILE).write_bytes(save(plain))
        for adapter_id, folder in export.folders.items():
            base_name = export.matrix.base.name
            adapter = read_adapter(folder, base_model=base_name)
            copy_adapter(adapter, scratch / ADAPTERS_FOLDER / places[adapter_id])
        shutil.rmtree(dest / ADAPTERS_FOLDER, ignore_errors=True)
        for made in scratch.iterdir():
            made.replace(dest / made.name)
    except OSError as error:
        raise RegistryError(
            f"{dest}: the export can't be written ({error.strerror or error}). Make room there, or "
            "choose another folder."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_export(folder: Path) -> Export:
    """What `write_export` wrote; adapters whose files are missing are figures only.

    What of it can't be read is left out and named in `skipped`.

    Raises:
        RegistryError: No export, a later version's, or damaged all through.
    """
    path = folder / EXPORT_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != EXPORT_SCHEMA:
            raise RegistryError(
                f"{path}: made by another version of Adapt (schema {content['schema']}, this one "
                f"reads {EXPORT_SCHEMA}). Update Adapt, or export it again."
            )
        arrays, skipped = _read_arrays(folder / VECTORS_FILE)
        matrix = _read_matrix(content, arrays, skipped)
    except FileNotFoundError as error:
        raise RegistryError(
            f"{error.filename}: not there, so {folder} is no exported registry. `adapt export DIR` "
            "makes one."
        ) from error
    except OSError as error:
        raise RegistryError(f"{path}: can't be read ({error.strerror or error}).") from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        if isinstance(error, RegistryError):
            raise
        raise RegistryError(
            f"{path}: damaged ({type(error).__name__}: {error}). Get a fresh copy of the folder."
        ) from error
    return Export(
        matrix=matrix,
        folders=_read_folders(folder, matrix, skipped),
        trait_fit=content.get("trait_fit"),
        about=content.get("about", {}),
        skipped=tuple(skipped),
    )


def _read_matrix(
    content: Mapping[str, Any], arrays: Mapping[str, "NDArray[Any]"], skipped: list[str]
) -> TransferMatrix:
    """The records and cells of an export; those that can't be read are named and left out."""
    adapters = _read_each(
        content["adapters"],
        lambda plain: _unpack(AdapterRecord, plain, _adapter_place(plain["adapter_id"]), arrays),
        "adapter",
        skipped,
    )
    tasks = _read_each(
        content["tasks"],
        lambda plain: _unpack(TaskRecord, plain, f"task/{plain['name']}", arrays),
        "task",
        skipped,
    )
    cells = _read_each(
        content["cells"], lambda plain: _unpack_cell(plain, content["digests"]), "score", skipped
    )
    models = {BASE_ID, MAJORITY_ID, *(record.adapter_id for record in adapters)}
    names = {task.name for task in tasks}
    return TransferMatrix(
        base=from_plain(BaseIdentity, content["base"]),
        adapters=tuple(adapters),
        tasks=tuple(tasks),
        cells=tuple(cell for cell in cells if cell.row.model in models and cell.task in names),
        regime=content["regime"],
    )


def _read_each(
    plain: Sequence[Any], read: Callable[[Any], _T], kind: str, skipped: list[str]
) -> list[_T]:
    """Each of these that can be read; where it is none, the fault is not in one of them."""
    found = []
    faults: list[tuple[str, Exception]] = []
    for place, one in enumerate(plain, start=1):
        try:
            found.append(read(one))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            name = one.get("name") if isinstance(one, Mapping) else None
            faults.append((str(name or f"number {place}"), error))
    if faults and not found:
        raise faults[0][1]
    skipped += [
        f"The {kind} {name} can't be read and is left out ({type(error).__name__}: {error})."
        for name, error in faults
    ]
    return found


def _read_folders(folder: Path, matrix: TransferMatrix, skipped: list[str]) -> dict[str, Path]:
    folders, places = {}, _places(matrix.adapters)
    for record in matrix.adapters:
        place = folder / ADAPTERS_FOLDER / places[record.adapter_id]
        if record.has_weights and place.is_dir():
            try:
                found = read_adapter(place, base_model=matrix.base.name).adapter_id
            except AdapterError as error:
                skipped.append(f"{record.name} comes without its files: {error}")
                continue
            if found != record.adapter_id:
                skipped.append(
                    f"{record.name} comes without its files: in {place} are not the weights that "
                    f"the figures belong to (identity {found[:12]}, not {record.adapter_id[:12]}). "
                    "Get a fresh copy of the folder."
                )
                continue
            folders[record.adapter_id] = place
    return folders


def _places(adapters: Sequence[AdapterRecord]) -> dict[str, str]:
    """Name of each adapter's folder by id; versions of one name are told apart by their ids."""
    n_called = Counter(record.name for record in adapters)
    return {
        record.adapter_id: record.name
        if n_called[record.name] == 1
        else f"{record.name}-{record.adapter_id[:8]}"
        for record in adapters
    }


def _pack(
    record: AdapterRecord | TaskRecord, at: str, arrays: dict[str, "NDArray[Any]"]
) -> dict[str, Any]:
    """A record as plain values, with what is long put among the arrays, under names from `at`."""
    import numpy as np

    plain = to_plain(record)
    fingerprint = plain["fingerprint"]
    vectors = {f"{at}/fingerprint/{key}": x for key, x in fingerprint.pop("vectors").items()}
    vectors |= {f"{at}/{key}": plain.pop(key) for key in _VECTORS if key in plain}
    for key, vector in vectors.items():
        array = np.array(vector, dtype=np.float32)
        # Not finite is not known. What half precision can't hold is kept in single.
        if array.size and np.isfinite(array).all():
            is_small = np.abs(array).max() <= np.finfo(np.float16).max
            arrays[key] = array.astype(np.float16) if is_small else array
    if sketches := fingerprint.pop("row_sketches"):
        arrays[f"{at}/row_sketches"] = np.array(sketches, dtype=np.uint64)
    return _dense(plain)


def _unpack(
    kind: type[_Record], plain: Mapping[str, Any], at: str, arrays: Mapping[str, "NDArray[Any]"]
) -> _Record:
    """The inverse of `_pack`."""
    start = f"{at}/fingerprint/"
    vectors = {name.removeprefix(start): x for name, x in arrays.items() if name.startswith(start)}
    fingerprint = {
        **plain["fingerprint"],
        "vectors": {key: vector.tolist() for key, vector in vectors.items()},
        "row_sketches": _listed(arrays.get(f"{at}/row_sketches")),
    }
    long = {key: _listed(arrays.get(f"{at}/{key}")) for key in _VECTORS}
    return from_plain(kind, {**plain, **long, "fingerprint": fingerprint})


def _listed(array: "NDArray[Any] | None") -> list[float]:
    return [] if array is None else array.tolist()


def _adapter_place(adapter_id: str) -> str:
    return f"adapter/{adapter_id[:16]}"


def _pack_cell(cell: Cell, digests: dict[str, int]) -> dict[str, Any]:
    """A cell without what it lacks, its digests as places in a list: they are half of its text."""
    plain = {key: value for key, value in to_plain(cell).items() if value}
    plain |= {key: getattr(cell, key) for key in ("score", "se", "n")}
    for key in _DIGESTS & plain.keys():
        plain[key] = digests.setdefault(plain[key], len(digests))
    return _dense(plain)


def _unpack_cell(plain: Mapping[str, Any], digests: Sequence[str]) -> Cell:
    whole = {key: digests[plain[key]] for key in _DIGESTS & plain.keys()}
    return from_plain(Cell, {**plain, **whole})


def _read_arrays(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The arrays by name, and which of them are left out and why."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.exists():
        raise FileNotFoundError(2, "No such file", str(path))
    try:
        arrays: dict[str, Any] = load_file(path)
    except SafetensorError as error:
        raise RegistryError(f"{path}: damaged ({error}). Get a fresh copy.") from error
    read, skipped = {}, []
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            skipped.append(f"The vector {name} holds infinite numbers and is left out.")
        else:
            read[name] = array.astype(np.float32) if array.dtype == np.float16 else array
    return read, skipped


def _dense(plain: dict[str, Any]) -> dict[str, Any]:
    """Figures with six digits, which is more than any of them is known to."""
    return {key: _rounded(value) for key, value in plain.items()}


def _rounded(plain: Any) -> Any:
    if isinstance(plain, float):
        return float(f"{plain:.6g}")
    if isinstance(plain, dict):
        return _dense(plain)
    return [_rounded(value) for value in plain] if isinstance(plain, list) else plain


def _lines(content: Mapping[str, Any]) -> str:
    """JSON with one record a line, so that a change shows where it is."""

    def parts() -> Iterator[str]:
        for key, value in content.items():
            if isinstance(value, list) and value:
                rows = ",\n".join(_compact(row) for row in value)
                yield f"{_compact(key)}:[\n{rows}\n]"
            else:
                yield f"{_compact(key)}:{_compact(value)}"

    return "{\n" + ",\n".join(parts()) + "\n}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
