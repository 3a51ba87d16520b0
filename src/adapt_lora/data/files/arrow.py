"""Arrow files, folders of `datasets.save_to_disk`, and Parquet files: all tables of Arrow."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapt_lora.data.files.content import Content, read_content
from adapt_lora.data.table import Table
from adapt_lora.data.values import listed
from adapt_lora.errors import DatasetError, reason_of

# `datasets` leaves its features in the schema, under this name; -1 is its missing label.
_FEATURES_KEY = b"huggingface"
FEATHER_1 = b"FEA1"
"""What files of Feather's first version begin with; those of the second are Arrow files."""


def read_arrow(content: Content) -> Table:
    """Rows of an Arrow file, written as a stream (as `datasets` does) or for random access.

    Raises:
        DatasetError: It is damaged, or two columns have one name.
    """
    info = content.path.parent / "dataset_info.json"
    features = _read_json(info).get("features") if info.is_file() else None
    return rows_of_arrow("Arrow", [_arrow_table(content)], content.path, features=features)


def read_parquet(content: Content) -> Table:
    """Rows of a Parquet file.

    Raises:
        DatasetError: It is damaged, or two columns have one name.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        # Unlike `read_table`, this reads columns of one name too, which we name.
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content.data)).read()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _damaged("Parquet", content.path, error) from error
    return rows_of_arrow("Parquet", [table], content.path)


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote this folder, for one split."""
    state = folder / "state.json"
    return state.is_file() and (
        b'"_data_files"' in read_content(state).data or any(folder.glob("data-*.arrow"))
    )


def read_saved_splits(folder: Path) -> list[str]:
    """The splits that `datasets.save_to_disk` wrote into a folder; none where it did not.

    Raises:
        DatasetError: Its list of them can't be read.
    """
    listing = folder / "dataset_dict.json"
    if not listing.is_file():
        return []
    names = _read_json(listing).get("splits", [])
    if not isinstance(names, list):
        raise DatasetError(f"{listing}: its 'splits' are no list of names. Copy it again.")
    return [str(name) for name in names]


def read_saved_dataset(folder: Path) -> Table:
    """Rows of a folder that `datasets.save_to_disk` wrote, all its shards in their order.

    Raises:
        DatasetError: A shard is missing or damaged, or it holds a selection of its rows only.
    """
    state = _read_json(folder / "state.json")
    info = folder / "dataset_info.json"
    features = _read_json(info).get("features") if info.is_file() else None
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise DatasetError(
            f"{folder} holds a selection of its rows by their indices. Save it once more after "
            "`dataset.flatten_indices()`, or with a newer `datasets`."
        )
    try:
        shards = [folder / file["filename"] for file in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise DatasetError(
            f"{folder / 'state.json'}: its list of files can't be read. Copy it again, or pass the "
            ".arrow file itself."
        ) from error
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise DatasetError(f"{folder}: {listed(missing)} is missing. Copy the folder again, whole.")
    tables = [_arrow_table(read_content(shard)) for shard in shards]
    table = rows_of_arrow("Arrow", tables, folder, features=features) if tables else None
    if table is None or not table.n_read:
        raise DatasetError(f"{folder} holds no rows. Save it again with some.")
    return table


def rows_of_arrow(
    file_format: str, tables: Sequence[Any], shown: object, *, features: object = None
) -> Table:
    """Rows of pyarrow tables, class numbers as their names.

    Args:
        file_format: As in `Table.file_format`.
        tables: Of one schema, in order; one at least.
        shown: What messages call their source.
        features: What `datasets` says of the fields, where the schema does not.

    Raises:
        DatasetError: Two columns have one name.
    """
    fields = tables[0].column_names
    twice = sorted({field for field in fields if fields.count(field) > 1})
    if twice:
        raise DatasetError(
            f"{shown}: two columns are called {listed(twice[:1])!r}, so which is meant can't be "
            "told. Rename one of them."
        )
    notes: tuple[str, ...] = ()
    stored = (tables[0].schema.metadata or {}).get(_FEATURES_KEY)
    if stored:
        try:
            info = json.loads(stored)["info"]
            features = None if info is None else info["features"]
        except (ValueError, TypeError, KeyError):
            notes = ("what `datasets` noted of the columns can't be read: classes stay numbers",)
    names = _class_names(features)
    rows = (row for table in tables for row in _read_rows(table, shown))
    records = list(enumerate(_with_names(rows, names), start=1))
    return Table(file_format, records, notes=notes)


def _class_name(value: object, names: Sequence[str] | None) -> object:
    """The name of a class number, or of each in a list; None where -1 says that it is hidden."""
    if names is None:
        return value
    if isinstance(value, list):
        return [_class_name(item, names) for item in value]
    if not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def _arrow_table(content: Content) -> Any:
    """The pyarrow table of a file."""
    import pyarrow
    import pyarrow.feather
    import pyarrow.ipc

    is_file = content.data.startswith(b"ARROW1")
    open_it = pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream
    try:
        if content.data.startswith(FEATHER_1):
            return pyarrow.feather.read_table(pyarrow.BufferReader(content.data))
        return open_it(pyarrow.BufferReader(content.data)).read_all()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _damaged("Arrow", content.path, error) from error


def _read_rows(table: Any, shown: object) -> Iterator[Mapping[str, object]]:
    """The rows of a pyarrow table as plain values."""
    names = table.column_names
    columns = [_plain_values(table.column(name), f"{shown}, {name!r}") for name in names]
    for cells in zip(*columns, strict=True):
        yield dict(zip(names, cells, strict=True))


def _plain_values(column: Any, where: str) -> list[object]:
    """A column's values; as text where Python can't say them, such as times to the nanosecond.

    Raises:
        DatasetError: They can't be said as text either.
    """
    import pyarrow

    try:
        return list(column.to_pylist())
    except (pyarrow.ArrowException, ValueError, OverflowError, LookupError):
        pass
    try:
        if pyarrow.types.is_timestamp(column.type):  # one of an unknown time zone, in UTC
            column = column.cast(pyarrow.timestamp(column.type.unit))
        return list(column.cast(pyarrow.string()).to_pylist())
    except (pyarrow.ArrowException, ValueError, OverflowError, LookupError) as error:
        raise DatasetError(
            f"{where}: values of type {column.type} can't be read ({reason_of(error)}). "
            "Drop that column, or write it as text."
        ) from error


def _class_names(features: object) -> dict[str, Sequence[str]]:
    """The names of the classes, for each field that holds class numbers."""
    found = {}
    for field, kind in features.items() if isinstance(features, Mapping) else ():
        while isinstance(kind, list) and kind:  # one way to say "a list of"
            kind = kind[0]
        while isinstance(kind, Mapping) and isinstance(kind.get("feature"), Mapping):
            kind = kind["feature"]
        if isinstance(kind, Mapping) and kind.get("_type") == "ClassLabel" and kind.get("names"):
            found[field] = kind["names"]
    return found


def _with_names(
    rows: Iterable[Mapping[str, object]], names: Mapping[str, Sequence[str]]
) -> Iterator[Mapping[str, object]]:
    for row in rows:
        yield {field: _class_name(value, names.get(field)) for field, value in row.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_content(path).data)
    except ValueError as error:
        raise DatasetError(f"{path}: can't be read as JSON ({error}). Copy it again.") from error
    if not isinstance(value, dict):
        raise DatasetError(f"{path}: not a JSON object. Copy it again.")
    return value


def _damaged(file_format: str, path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"{path}: damaged {file_format} file ({reason_of(error)}). Write it again.")
