"""What a file holds, as bytes and as text."""

import gzip
import re
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adapt_lora.data.files.encodings import Encoding, find_encoding
from adapt_lora.data.files.foreign import describe_foreign
from adapt_lora.errors import DatasetError

_GZ = re.compile(r"(?i)\.gz$")


@dataclass(frozen=True)
class Pointer:
    """A short text in place of a file that something keeps elsewhere."""

    keeper: str
    """What keeps the file: "Git LFS"."""
    command: str
    """What fetches it, typed in its repository."""

    def describe(self, wanted: str) -> str:
        """The end of a sentence about the path: what it is instead of what was wanted."""
        return (
            f"a {self.keeper} pointer, not {wanted}: the file itself was not fetched. "
            f"Run `{self.command}` in its repository, or download the file."
        )


# What a pointer begins with; each is shorter than 1 KiB.
_POINTERS = {
    b"version https://git-lfs.github.com/": Pointer("Git LFS", "git lfs pull"),
    b"version https://hawser.github.com/": Pointer("Git LFS", "git lfs pull"),
    b"# xet version": Pointer("Xet", "git xet install && git lfs pull"),
    b"/annex/objects/": Pointer("git-annex", "git annex get ."),
}


@dataclass(frozen=True)
class Content:
    """A file, read whole."""

    path: Path
    """Where it lies, for messages."""
    data: bytes
    """Its bytes, unzipped."""
    split: str = "test"
    """The split that is wanted, where the file holds several."""
    is_zipped: bool = False
    """Whether it lies there as a gzip file."""

    @property
    def suffix(self) -> str:
        """The end of its name in lower case, `.gz` aside: ".csv"."""
        return suffix_of(self.path)

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
        foreign = describe_foreign(self.data, name=self.path.name, suffix=self.suffix)
        if foreign is not None:
            raise DatasetError(f"{self.path} is {foreign}")
        if self.is_binary:
            raise DatasetError(
                f"{self.path} is a binary file, not text. Save the data as JSONL or CSV."
            )
        # Files that were joined have a byte-order mark each.
        text = self.encoding.decode(self.data).replace("\n\ufeff", "\n")
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
        DatasetError: It can't be read, is damaged, or only points to a file that is kept elsewhere.
    """
    try:
        data = path.read_bytes()
        is_zipped = data[:2] == b"\x1f\x8b"
        if is_zipped:
            data = gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: the gzip file is damaged ({error}). Copy it again.") from error
    except OSError as error:
        raise DatasetError(
            f"{path} can't be read ({error.strerror}). Check its permissions."
        ) from error
    pointer = find_pointer(data)
    if pointer is not None:
        raise DatasetError(f"{path} is {pointer.describe('the data')}")
    return Content(path, data, split, is_zipped)


def stem_of(path: Path) -> str:
    """A file's name without its suffix, `.gz` aside."""
    return Path(_GZ.sub("", path.name)).stem


def suffix_of(path: Path) -> str:
    """The end of a file's name in lower case, `.gz` aside: ".csv"."""
    return Path(_GZ.sub("", path.name)).suffix.lower()


def find_pointer(data: bytes) -> Pointer | None:
    """What keeps the file that these bytes only stand for; None where they are the file."""
    found = (kept for mark, kept in _POINTERS.items() if data.startswith(mark))
    return next(found, None) if len(data) < 1024 else None
