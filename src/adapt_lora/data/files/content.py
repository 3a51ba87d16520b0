"""What a file holds, as bytes and as text."""

import gzip
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adapt_lora.errors import DatasetError


@dataclass(frozen=True)
class Content:
    """A file, read whole."""

    path: Path
    """Where it lies, for messages."""
    data: bytes
    """Its bytes, unzipped."""

    @property
    def suffix(self) -> str:
        """The end of its name in lower case, `.gz` aside: ".csv"."""
        return Path(self.path.name.removesuffix(".gz")).suffix.lower()

    @cached_property
    def text(self) -> str:
        """Its text; bytes that are not UTF-8 become lone surrogates, which cost only their rows.

        Raises:
            DatasetError: It is no text, or empty.
        """
        is_utf16 = self.data[:2] in (b"\xff\xfe", b"\xfe\xff")
        if self.data[:4] in (b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"\xfd7zX"):
            raise DatasetError(
                f"{self.path} is an archive (zip, xz, zstd or a spreadsheet): unpack it first."
            )
        if not is_utf16 and b"\0" in self.data[:8192]:
            raise DatasetError(
                f"{self.path} is a binary file, not text. Save the data as JSONL or CSV."
            )
        encoding, errors = ("utf-16", "replace") if is_utf16 else ("utf-8-sig", "surrogateescape")
        text = self.data.decode(encoding, errors)
        if not text.strip():
            raise DatasetError(
                f"{self.path} is empty: it needs one row at least, a JSON object per line."
            )
        return text


def read_content(path: Path) -> Content:
    """The file's content, unzipped where it is a gzip file, whatever its name.

    Raises:
        DatasetError: It can't be read, or is damaged.
    """
    try:
        data = path.read_bytes()
        return Content(path, gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: the gzip file is damaged ({error}). Copy it again.") from error
    except OSError as error:
        raise DatasetError(
            f"{path} can't be read ({error.strerror}). Check its permissions."
        ) from error
