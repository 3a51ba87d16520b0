"""What every reader of files gives: records, before anything is known about their fields."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from adapt_lora.data.dataset import SkippedRow
from adapt_lora.errors import DatasetError

HEADER_AGAIN = "the header line once more"
"""Why a row is skipped that is none: nothing is lost with it."""


@dataclass(frozen=True)
class Table:
    """The records of a file or Hub dataset."""

    file_format: str
    """What it was read as, in the words of `Dataset.file_format`."""
    records: Sequence[tuple[int, Mapping[str, object]]]
    """Each with its line, or with its number where a format has no lines; counted from 1."""
    skipped: Sequence[SkippedRow] = ()
    """What was no record."""
    encoding: str = "UTF-8"
    """As in `Dataset.encoding`."""
    notes: tuple[str, ...] = ()
    """What a person should know of how it was read, one sentence each."""

    @property
    def n_read(self) -> int:
        """Records and skipped rows together."""
        return len(self.records) + len(self.skipped)

    @cached_property
    def field_counts(self) -> Counter[str]:
        """In how many records each field stands, in the order of the file."""
        return Counter(key for _, record in self.records for key in record)

    def values(self, field: str) -> list[object]:
        """What the records hold in a field; None where one lacks it."""
        return [record.get(field) for _, record in self.records]

    def refusal(self, skipped: Sequence[SkippedRow], shown: str, what_next: str) -> DatasetError:
        """The error of a table too many of whose rows had to be skipped.

        Args:
            skipped: All of them, by line.
            shown: What the message calls the source.
            what_next: What to do about it, as the sentences after the first.
        """
        if not skipped:
            return DatasetError(
                f"{shown}: none of its {self.n_read:,} rows has a field. "
                "Each needs a prompt at least."
            )
        parts = [row.describe(self.file_format) for row in skipped[:3]]
        more = "; ..." if len(skipped) > 3 else ""
        return DatasetError(
            f"{shown}: {len(skipped):,} of {self.n_read:,} rows can't be used "
            f"({'; '.join(parts)}{more}). {what_next}"
        )
