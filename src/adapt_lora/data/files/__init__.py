"""Files as tables, a reader for each format: JSON, CSV and TSV, Parquet and Arrow."""

from adapt_lora.data.files.arrow import (
    class_name,
    is_saved_dataset,
    read_saved_dataset,
    read_saved_splits,
)
from adapt_lora.data.files.formats import SUFFIXES, read_file

__all__ = [
    "SUFFIXES",
    "class_name",
    "is_saved_dataset",
    "read_file",
    "read_saved_dataset",
    "read_saved_splits",
]
