"""Datasets as people bring them: read, sampled, described, and copied with one thing changed."""

from adapt_lora.data.reading import Dataset, Row, parse_mapping, read_dataset, sample_rows

__all__ = ["Dataset", "Row", "parse_mapping", "read_dataset", "sample_rows"]
