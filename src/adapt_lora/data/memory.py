"""Rows that Python holds already: read as a file of the same rows would be."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path, PurePath
from reprlib import Repr
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union
from uuid import UUID

from adapt_lora.data.dataset import Dataset
from adapt_lora.data.files import SUFFIXES, columns_as_rows, rows_of_arrow, table_of_values
from adapt_lora.data.short import short_repr
from adapt_lora.data.table import Table
from adapt_lora.data.values import Number, listed
from adapt_lora.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa


class HubDataset(Protocol):
    """What is used of a `datasets.Dataset`: the library need not be there."""

    @property
    def features(self) -> Any:
        """The kinds of its fields, class names among them."""

    def with_format(self, type: str) -> Any:
        """The same rows, in another form."""

    def __len__(self) -> int: ...


DataSource: TypeAlias = Union[
    str,
    Path,
    Dataset,
    "pd.DataFrame",
    "pd.Series[Any]",
    "pa.Table",
    "np.ndarray[Any, Any]",
    HubDataset,
    Sequence[str],
    Sequence[Mapping[str, Any]],
    Mapping[str, Any],
]
"""Where rows are read from: a path, a Hub id, or what Python holds."""

# Values that a file would hold as their text.
_WRITTEN_AS_TEXT = (date, time, timedelta, Decimal, Fraction, UUID, PurePath)
_FORMS = "a DataFrame, a datasets.Dataset, or a list of dicts or of strings"


@dataclass(frozen=True, slots=True)
class HeldRows:
    """What was found in rows that Python holds."""

    table: Table
    """The rows."""
    kind: str
    """What they are called where they have no name: "DataFrame"."""
    group: str = ""
    """The benchmark that they were loaded from; "" where nothing says so."""


def check_source(source: object, what: str) -> None:
    """Nothing where rows may be read from this: a path, a Hub id, or rows that Python holds.

    Raises:
        ConfigError: It is something else; `what` says whose value it is.
    """
    if not isinstance(source, str | Path | Dataset) and not holds_rows(source):
        raise ConfigError(
            f"{what} is {_short(source)}, but must be a path, a Hub id, {_FORMS}."
            f"{_instead_of(source)}"
        )


def holds_rows(source: object) -> bool:
    """Whether these are rows (or columns, or splits) themselves, and not where to find some."""
    if isinstance(source, str | Path | bytes):
        return False
    return (
        isinstance(source, list | tuple | Mapping)
        or _is_a(source, "numpy", "ndarray")
        or _is_a(source, "pandas", "DataFrame", "Series")
        or _is_a(source, "pyarrow", "Table")
        or _is_a(source, "datasets", "Dataset")
    )


def source_name(source: DataSource) -> str:
    """What to call a source before it is read."""
    if isinstance(source, str | Path):
        return Path(source).name
    return source.name if isinstance(source, Dataset) else type(source).__name__


def request_repr(request: Any, *sources: str) -> str:
    """A request in one line: its sources by their names, and what is not as by default.

    Args:
        request: A dataclass.
        sources: Its fields that hold a source, or a tuple of some.
    """
    said = []
    for field in fields(request):
        value = getattr(request, field.name)
        if field.name in sources:
            several = value if isinstance(value, tuple) else (value,)
            said += [f"{field.name}={', '.join(map(source_name, several))}"] if several else []
        elif field.default is not value and value not in (field.default, None):
            said.append(f"{field.name}={value!r}")
    return short_repr(request, *said)


def read_held(source: Any) -> HeldRows:
    """The records of a DataFrame, a Dataset, or a list.

    Raises:
        DatasetError: It holds no rows, splits rather than rows, or things that are no rows.
    """
    if _is_a(source, "datasets", "Dataset"):
        held = _held_dataset(source)
    elif _is_a(source, "pyarrow", "Table"):
        held = HeldRows(rows_of_arrow("Arrow table", [source], "Arrow table"), "table")
    elif _is_a(source, "pandas", "DataFrame"):
        held = HeldRows(_frame_table(source), "DataFrame")
    elif isinstance(source, Mapping):
        held = HeldRows(_column_table(source), "columns")
    else:
        held = _held_list(source if isinstance(source, list | tuple) else source.tolist())
    if not held.table.n_read:
        raise DatasetError(f"The {held.table.file_format} holds no rows. Add some.")
    return held


def dataset_table(loaded: HubDataset, file_format: str) -> Table:
    """The rows of a `datasets.Dataset`, class numbers as their names.

    They are taken as Arrow holds them: images and sounds beside the text are not decoded, and what
    `select` or `shuffle` chose is what is read.
    """
    if not len(loaded):
        return Table(file_format, [])
    table = loaded.with_format("arrow")[:].replace_schema_metadata(None)
    return rows_of_arrow(file_format, [table], file_format, features=loaded.features.to_dict())


def _held_dataset(dataset: Any) -> HeldRows:
    table = dataset_table(dataset, "datasets.Dataset")
    name, builder = (getattr(dataset.info, f"{key}_name", None) for key in ("dataset", "builder"))
    # What was loaded from a file is called after its format.
    return HeldRows(table, "Dataset", name if name and name != builder else "")


def _frame_table(frame: Any) -> Table:
    named = [name for name in frame.index.names if name is not None]
    if named and not {*named} & {*frame.columns}:
        frame = frame.reset_index()  # a CSV file of it has a named index as a column
    fields = [str(field) for field in frame.columns]
    twice = sorted({field for field in fields if fields.count(field) > 1})
    if twice:
        raise DatasetError(
            f"DataFrame: two columns are called {listed(twice[:1])!r}, so which is meant can't be "
            "told. Rename one of them."
        )
    columns = [frame.iloc[:, place].tolist() for place in range(len(fields))]
    rows = (
        {field: _plain(cell) for field, cell in zip(fields, cells, strict=True)}
        for cells in zip(*columns, strict=True)
    )
    return table_of_values("DataFrame", enumerate(rows, start=1))


def _column_table(columns: Mapping[Any, Any]) -> Table:
    splits = [field for field, column in columns.items() if _is_split(column)]
    if splits:
        names = [str(split) for split in splits]
        raise DatasetError(
            f"There are {len(names)} splits ({listed(names)}), and which is meant can't be told. "
            f"Pass one of them, for example data[{names[0]!r}]."
            if len(names) > 1
            else f"The rows lie under {names[0]!r}. Pass data[{names[0]!r}]."
        )
    plain = {str(field): _plain(column) for field, column in columns.items()}
    rows = columns_as_rows(plain, fewest=1)
    if rows is None:
        raise DatasetError(
            f"A dict with {listed(plain) or 'no keys'} is neither rows nor columns of one length. "
            "Pass a list of dicts, one for each row."
        )
    return table_of_values("dict of columns", enumerate(rows, start=1))


def _held_list(values: Sequence[Any]) -> HeldRows:
    for number, value in enumerate(values, start=1):
        if not isinstance(value, str | Mapping) and _plain(value) is not None:
            raise DatasetError(
                f"Item {number} of the list is {_short(value)} ({type(value).__name__}), but each "
                "must be a dict of fields, or each a prompt."
            )
    names = [value for value in values if isinstance(value, str) and _names_file(value)]
    if names:
        raise DatasetError(
            f"{listed(names[:1])} in the list is the name of a file, where prompts were expected. "
            "Pass the path itself, one at a time."
        )
    are_prompts = all(isinstance(value, str) for value in values)
    file_format = "list of strings" if are_prompts else "list of dicts"
    table = table_of_values(file_format, enumerate(map(_plain, values), start=1))
    return HeldRows(table, "prompts" if are_prompts else "rows")


def _plain(value: Any) -> object:
    """A value as a reader of JSON would give it.

    What no file could hold becomes an empty object, so that only rows which need it are lost.
    """
    if value is None or isinstance(value, bool | bytes) or type(value) is str:
        return value
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int) or _is_a(value, "numpy", "integer"):
        return Number(int(value))
    if isinstance(value, float):
        return Number(repr(float(value))) if math.isfinite(value) else None
    if _is_a(value, "numpy", "floating"):
        return _plain(float(str(value)))  # in as many digits as the smaller type has
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, _WRITTEN_AS_TEXT):
        return str(value)
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # arrays and tensors, and the scalars of their libraries
        return _plain(value.tolist())
    return {}


def _is_split(value: Any) -> bool:
    """Whether a value of a dict holds rows of its own."""
    if isinstance(value, list | tuple):
        return bool(value) and isinstance(value[0], Mapping) and not {"role", "from"} & {*value[0]}
    is_frame = _is_a(value, "pandas", "DataFrame") or _is_a(value, "pyarrow", "Table")
    return is_frame or _is_a(value, "datasets", "Dataset", "IterableDataset")


def _is_a(value: object, library: str, *names: str) -> bool:
    """Whether it is of one of these classes; a library that nobody imported has made nothing."""
    module = sys.modules.get(library)
    kinds = tuple(getattr(module, name) for name in names if hasattr(module, name))
    return isinstance(value, kinds)


def _names_file(text: str) -> bool:
    return text.endswith((*SUFFIXES, ".gz")) and len(text.split()) == 1


def _instead_of(source: object) -> str:
    """What to do with things that people often have in hand, as a sentence; "" for others."""
    if _is_a(source, "datasets", "IterableDataset") or hasattr(source, "__next__"):
        return " Take the rows that you mean first: list(rows)."
    if hasattr(source, "to_pandas"):
        return " Its to_pandas() gives one."
    return ""


def _short(value: object) -> str:
    shortener = Repr()
    shortener.maxother = shortener.maxstring = 60
    return " ".join(shortener.repr(value).split())
