"""What a file holds, as bytes and as text."""

import gzip
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adapt_lora.data.files.encodings import Encoding, find_encoding
from adapt_lora.errors import DatasetError

_ARCHIVES = (b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"\xfd7zX", b"BZh", b"7z\xbc\xaf", b"Rar!")
# The pointer's first line, and that of its forerunner; a pointer is shorter than 1,024 bytes.
_LFS_POINTERS = (b"version https://git-lfs.github.com/", b"version https://hawser.github.com/")


@dataclass(frozen=True)
class Content:
    """A file, read whole."""

    path: Path
    """Where it lies, for messages."""
    data: bytes
    """Its bytes, unzipped."""
    split: str = "test"
    """The split that is wanted, where the file holds several."""

    @property
    def suffix(self) -> str:
        """The end of its name in lower case, `.gz` aside: ".csv"."""
        return Path(self.path.name.removesuffix(".gz")).suffix.lower()

    @cached_property
    def encoding(self) -> Encoding:
        """How its bytes are text."""
        return find_encoding(self.data)

    @property
    def is_binary(self) -> bool:
        """Whether its bytes are no text."""
        return not self.encoding.is_wide and b"\0" in self.data[:8192]

    @cached_property
    def text(self) -> str:
        """Its text; bytes that are not UTF-8 become lone surrogates, which cost only their rows.

        Raises:
            DatasetError: It is no text, a web page, or empty.
        """
        if self.data.startswith(_ARCHIVES):
            raise DatasetError(
                f"{self.path} is an archive (zip, xz, zstd or a spreadsheet): unpack it first."
            )
        if self.is_binary:
            raise DatasetError(
                f"{self.path} is a binary file, not text. Save the data as JSONL or CSV."
            )
        text = self.encoding.decode(self.data)
        if not text.strip():
            raise DatasetError(
                f"{self.path} is empty: it needs one row at least, a JSON object per line."
            )
        if text.lstrip()[:14].lower().startswith(("<!doctype html", "<html")):
            raise DatasetError(
                f"{self.path} is a web page, not data. Download the file itself (its raw form)."
            )
        return text


def read_content(path: Path, *, split: str = "test") -> Content:
    """The file's content, unzipped where it is a gzip file, whatever its name.

    Raises:
        DatasetError: It can't be read, is damaged, or only points to a file of Git LFS.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: the gzip file is damaged ({error}). Copy it again.") from error
    except OSError as error:
        raise DatasetError(
            f"{path} can't be read ({error.strerror}). Check its permissions."
        ) from error
    if is_lfs_pointer(data):
        raise DatasetError(
            f"{path} is a Git LFS pointer, not the data: the file itself was not fetched. "
            "Run `git lfs pull` in its repository, or download the file."
        )
    return Content(path, data, split)


def is_lfs_pointer(data: bytes) -> bool:
    """Whether a file's bytes only stand for a file that Git LFS keeps elsewhere."""
    return len(data) < 1024 and data.startswith(_LFS_POINTERS)
