"""Datasets as people bring them: read, sampled, described, and copied with one thing changed."""

from adapt_lora.data.dataset import Dataset, Echo, Row, SkipReason, sample_rows
from adapt_lora.data.fields import parse_mapping
from adapt_lora.data.memory import DataSource, check_source, request_repr, source_name
from adapt_lora.data.reading import read_dataset
from adapt_lora.data.short import clipped, counted, short_repr

__all__ = [
    "DataSource",
    "Dataset",
    "Echo",
    "Row",
    "SkipReason",
    "check_source",
    "clipped",
    "counted",
    "parse_mapping",
    "read_dataset",
    "request_repr",
    "sample_rows",
    "short_repr",
    "source_name",
]
