"""Parquet files."""

import io

from adapt_lora.data.files.content import Content
from adapt_lora.data.table import Table
from adapt_lora.errors import DatasetError


def read_parquet(content: Content) -> Table:
    """Rows of a Parquet file.

    Raises:
        DatasetError: It is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(io.BytesIO(content.data)).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise DatasetError(
            f"{content.path}: damaged Parquet file ({first}). Write it again."
        ) from error
    return Table("Parquet", list(enumerate(rows, start=1)))
