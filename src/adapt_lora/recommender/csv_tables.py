"""CSV files as people write them: fields by line, and figures with gaps."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from adapt_lora.errors import MatrixError, refusal_of
from adapt_lora.recommender.columns import Array


def read_fields(path: Path) -> pd.DataFrame:
    """The fields of a CSV file as they stand there; the index says on which line.

    Raises:
        MatrixError: Not readable, empty, or a line has not as many fields as the header.
    """
    try:
        # The engine that tells a field that is missing from one that is empty.
        rows = pd.read_csv(
            path,
            header=None,
            dtype=object,
            keep_default_na=False,
            encoding="utf-8-sig",
            engine="python",
        )
    except pd.errors.EmptyDataError:
        rows = pd.DataFrame()
    except pd.errors.ParserError as error:
        wide = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if wide is None:
            raise MatrixError(f"{path} can't be read as CSV: {error}.") from error
        raise _ragged(path, int(wide[2]), int(wide[3]), int(wide[1])) from error
    except OSError as error:
        raise MatrixError(refusal_of(error)) from error
    except UnicodeDecodeError as error:
        raise MatrixError(
            f"{path} can't be read as CSV: it is not UTF-8 text ({error.reason} at byte "
            f"{error.start}). Save it as UTF-8."
        ) from error
    if len(rows) < 2:
        raise MatrixError(f"{path} is empty: a header line and at least one row are needed.")
    rows.index += 1
    n_fields = rows.notna().sum(axis="columns")
    for line in rows.index[n_fields < rows.shape[1]]:
        raise _ragged(path, line, n_fields[line], rows.shape[1])
    return rows.iloc[1:].set_axis(rows.iloc[0].tolist(), axis="columns")


def _ragged(path: Path, line: int, n_fields: int, width: int) -> MatrixError:
    return MatrixError(f"{path}, line {line}: {n_fields} fields, but the header has {width}.")


def read_numbers(
    path: Path, fields: pd.DataFrame, *, advice: str = "Leave unmeasured cells empty."
) -> Array:
    """Fields of `read_fields` as figures, NaN where one is empty.

    Raises:
        MatrixError: One is no number; `advice` ends the sentence.
    """
    numbers = np.full(fields.shape, np.nan)
    for place, (line, texts) in enumerate(zip(fields.index, fields.to_numpy(), strict=True)):
        try:
            numbers[place] = [float(text) if text.strip() else np.nan for text in texts]
        except ValueError as error:
            raise MatrixError(f"{path}, line {line}: {error}. {advice}") from error
    return numbers
