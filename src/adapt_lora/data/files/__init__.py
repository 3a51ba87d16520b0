"""Files as tables, a reader for each format: JSON, CSV and TSV, Parquet; each plain or gzipped."""

from adapt_lora.data.files.formats import SUFFIXES, read_file

__all__ = ["SUFFIXES", "read_file"]
