"""Datasets as people bring them: read, sampled, described, and copied with one thing changed."""

from adapt_lora.data.dataset import Dataset, Echo, Row, SkipReason, sample_rows
from adapt_lora.data.fields import parse_mapping
from adapt_lora.data.reading import read_dataset

__all__ = [
    "Dataset",
    "Echo",
    "Row",
    "SkipReason",
    "parse_mapping",
    "read_dataset",
    "sample_rows",
]
