"""Texts in a cache folder: whole, or as good as not there."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


class KeptTexts:
    """What was worked out once, in a folder, one file each; safe for several processes at once.

    A file holds its key, a checksum of the text, and the text. The longest unused go first.

    Args:
        folder: Where they lie; made when the first is kept.
        most: Files that stay.
    """

    def __init__(self, folder: Path, *, most: int) -> None:
        self._folder, self._most = folder, most

    def path(self, key: str) -> Path:
        """File of a text."""
        return self._folder / f"{key}.json"

    def load(self, key: str) -> str | None:
        """The text under a key; None where it is not there, or was changed or cut off."""
        path = self.path(key)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            content: str = stored["content"]
            if stored["key"] != key or stored["checksum"] != _checksum(content):
                return None
        # Whatever is wrong with a cache, no answer may depend on it.
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return content

    def save(self, key: str, content: str) -> None:
        """Keep a text; one that can't be written is only worked out again next time."""
        part: Path | None = None
        try:
            text = json.dumps({"key": key, "checksum": _checksum(content), "content": content})
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=self._folder, suffix=".part", delete=False
            ) as file:
                part = Path(file.name)
                file.write(text)
            part.replace(self.path(key))  # readers see the old file or the new one, never half
            self._forget_oldest()
        except (OSError, ValueError, TypeError):
            if part is not None:
                part.unlink(missing_ok=True)

    def _forget_oldest(self) -> None:
        files = sorted(self._folder.glob("*.json"), key=lambda path: -path.stat().st_mtime)
        for path in files[self._most :]:
            path.unlink(missing_ok=True)


def code_digest(modules: Iterable[Path], libraries: Iterable[str]) -> bytes:
    """sha256 of code and of the releases of the libraries under it: other code, other results."""
    digest = hashlib.sha256()
    for path in sorted(modules):
        digest.update(path.read_bytes())
    for library in libraries:
        try:
            release = version(library)
        except PackageNotFoundError:
            release = "none"
        digest.update(f"{library} {release}\n".encode())
    return digest.digest()


def _checksum(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()
