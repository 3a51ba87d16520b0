"""How bytes are text: UTF-8, UTF-16 or UTF-32; of anything else what it looks like."""

import codecs
import re
from dataclasses import dataclass

_MARKS = (
    # UTF-32's mark of low byte first begins with UTF-16's.
    (codecs.BOM_UTF32_LE, "UTF-32", "utf-32"),
    (codecs.BOM_UTF32_BE, "UTF-32", "utf-32"),
    (codecs.BOM_UTF16_LE, "UTF-16", "utf-16"),
    (codecs.BOM_UTF16_BE, "UTF-16", "utf-16"),
)
# Runs of letters that texts in each are full of, and others are not when taken for it, and which
# share they have at least of what is beyond ASCII. The first that fits wins.
_LEGACY = (
    ("SHIFT_JIS", "shift_jis", "[ぁ-んァ-ヶー]{2,}", 0.3),
    ("EUC-JP", "euc_jp", "[ぁ-んァ-ヶー]{2,}", 0.3),
    ("EUC-KR", "euc_kr", "[가-힣]+", 0.9),
    ("GB18030", "gb2312", "[一-龥，。、：？！]{2,}", 0.5),
    ("BIG5", "big5", "[一-龥，。、：？！]{2,}", 0.5),
    ("WINDOWS-1251", "cp1251", "[А-Яа-яё][а-яё]{2,}", 0.5),
    ("KOI8-R", "koi8_r", "[А-Яа-яё][а-яё]{2,}", 0.5),
)
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_SURROGATE = re.compile(r"[\udc80-\udcff]")


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a file's bytes are text."""

    name: str
    """Its common name, as iconv knows it: "UTF-8"; a guess where it is not a Unicode one."""
    codec: str
    """Python's name for it."""
    is_unicode: bool = True
    """Whether it is known for certain, which only Unicode's own are."""

    @property
    def is_wide(self) -> bool:
        """Whether plain letters have zero bytes."""
        return self.name != "UTF-8" and self.is_unicode

    def decode(self, data: bytes) -> str:
        """The text; a byte that is not UTF-8 becomes a lone surrogate, which no row may hold."""
        if self.is_wide:
            return data.decode(self.codec, "replace").removeprefix("\ufeff")
        return data.decode("utf-8-sig", "surrogateescape")

    def preview(self, data: bytes) -> str:
        """How the first line that is not ASCII would read, with its number."""
        for number, line in enumerate(data.splitlines(), start=1):
            if not line.isascii():
                text = line.decode(self.codec, "replace").strip()
                start = max(0, next(_BEYOND_ASCII.finditer(text)).start() - 30)
                return f"line {number} would read {text[start : start + 60]!r}"
        return ""


UTF_8 = Encoding("UTF-8", "utf-8")


def find_encoding(data: bytes) -> Encoding:
    """The encoding of a file: by its byte-order mark, by where its zeros stand, else by its bytes.

    A few bytes that are not UTF-8 among many that are make a damaged file, still UTF-8.
    """
    for mark, name, codec in _MARKS:
        if data.startswith(mark):
            return Encoding(name, codec)
    if b"\0" in data[:8192]:
        return _wide_encoding(data) or UTF_8
    try:
        data.decode()
    except UnicodeDecodeError:
        text = data.decode("utf-8", "surrogateescape")
        n_bad = len(_SURROGATE.findall(text))
        n_beyond = len(_BEYOND_ASCII.findall(text))
        return UTF_8 if n_beyond > 2 * n_bad else _legacy_encoding(data)
    return UTF_8


def _wide_encoding(data: bytes) -> Encoding | None:
    """UTF-16 without its mark: nearly all zeros at even places, or at odd ones."""
    head = data[:8192]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if len(data) % 2 or max(even, odd) < 0.2 * len(head) or min(even, odd) > 0.01 * len(head):
        return None
    codec = "utf-16-be" if even > odd else "utf-16-le"
    try:
        data.decode(codec)
    except UnicodeDecodeError:
        return None
    return Encoding("UTF-16", codec)


def _legacy_encoding(data: bytes) -> Encoding:
    """What bytes that are no Unicode look like; nothing in them says it, so it stays a guess."""
    for name, codec, letters, share in _LEGACY:
        try:
            text = data.decode(codec)
        except UnicodeDecodeError:
            continue
        if sum(map(len, re.findall(letters, text))) > share * len(_BEYOND_ASCII.findall(text)):
            return Encoding(name, codec, is_unicode=False)
    return Encoding("WINDOWS-1252", "cp1252", is_unicode=False)
