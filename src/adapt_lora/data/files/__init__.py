"""Files as tables, a reader for each format: JSON, CSV and TSV, Parquet and Arrow, plain text."""

from adapt_lora.data.files.arrow import (
    is_saved_dataset,
    read_saved_dataset,
    read_saved_splits,
    rows_of_arrow,
)
from adapt_lora.data.files.content import stem_of, suffix_of
from adapt_lora.data.files.formats import SUFFIXES, read_shards
from adapt_lora.data.files.json import columns_as_rows, table_of_values

__all__ = [
    "SUFFIXES",
    "columns_as_rows",
    "is_saved_dataset",
    "read_saved_dataset",
    "read_saved_splits",
    "read_shards",
    "rows_of_arrow",
    "stem_of",
    "suffix_of",
    "table_of_values",
]
