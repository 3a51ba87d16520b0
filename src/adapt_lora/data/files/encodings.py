"""How bytes are text: UTF-8, UTF-16 or UTF-32; of anything else what it looks like."""

import codecs
import re
import unicodedata
from dataclasses import dataclass

_MARKS = (
    # UTF-32's mark of low byte first begins with UTF-16's.
    (codecs.BOM_UTF32_LE, "UTF-32", "utf-32"),
    (codecs.BOM_UTF32_BE, "UTF-32", "utf-32"),
    (codecs.BOM_UTF16_LE, "UTF-16", "utf-16"),
    (codecs.BOM_UTF16_BE, "UTF-16", "utf-16"),
)
# Of scripts with thousands of signs: what texts in an encoding are full of, and others are not when
# taken for it, and which share it has at least of what is beyond ASCII. The first that fits wins.
_WIDE_SCRIPTS = (
    ("SHIFT_JIS", "shift_jis", "[ぁ-んァ-ヶー]{2,}", 0.3),
    ("EUC-JP", "euc_jp", "[ぁ-んァ-ヶー]{2,}", 0.3),
    ("EUC-KR", "euc_kr", "[가-힣]+", 0.9),
    ("GB18030", "gb2312", "[一-龥，。、：？！]{2,}", 0.5),
    ("BIG5", "big5", "[一-龥，。、：？！]{2,}", 0.5),
)
# Both tables of Chinese signs begin with the common ones, sorted apart; these lead bytes end them.
_LAST_COMMON = {"gb2312": 0xD7, "big5": 0xC6}
# Of scripts with few letters: words in one, and its most common letters, accents aside. That whose
# common letters are the largest share wins: each can take the other's bytes for letters too.
_CYRILLIC = ("[А-Яа-яё][а-яё]{2,}|[А-ЯЁ]{3,}", "оеаинтсрвл")
_GREEK = r"\b[\u0386-\u03ce][\u03ac-\u03ce]+\b|\b[\u0386-\u03ab]{2,}\b"
_ALPHABETS = (
    ("WINDOWS-1251", "cp1251", *_CYRILLIC),
    ("KOI8-R", "koi8_r", *_CYRILLIC),
    ("CP866", "cp866", *_CYRILLIC),
    ("WINDOWS-1253", "cp1253", _GREEK, "αοιετσνηυρ"),
    ("WINDOWS-1256", "cp1256", "[ء-ي]{2,}", "اليمنوترب"),
    ("WINDOWS-1255", "cp1255", "[א-ת]{2,}", "יוהלאתמרש"),
)
_JAPANESE_ESCAPE = re.compile(rb"\x1b\$[@B]|\x1b\([JI]")
_KOREAN_ESCAPE = b"\x1b$)C"
# Control characters, and code points that have no meaning of their own.
_NO_TEXT = ("Cc", "Cn", "Co", "Cs")
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
    """Whether it is known for certain and read, which only Unicode's own are."""
    is_seven_bit: bool = False
    """Whether it spells other letters in ASCII, so that no byte shows which rows are concerned."""

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
            text = line.decode(self.codec, "replace").strip()
            if not text.isascii():
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
    if data.isascii():
        return _seven_bit_encoding(data) or UTF_8
    try:
        data.decode()
    except UnicodeDecodeError:
        text = data.decode("utf-8", "surrogateescape")
        n_bad = len(_SURROGATE.findall(text))
        n_beyond = len(_BEYOND_ASCII.findall(text))
        return UTF_8 if n_beyond > 2 * n_bad else _legacy_encoding(data)
    return UTF_8


def _wide_encoding(data: bytes) -> Encoding | None:
    """UTF-16 or UTF-32 without a mark: the one by which all is text, with an end of line in it."""
    for name, codec, size in (
        *(("UTF-32", f"utf-32-{end}", 4) for end in ("le", "be")),
        *(("UTF-16", f"utf-16-{end}", 2) for end in ("le", "be")),
    ):
        try:
            text = data.decode(codec)
        except UnicodeDecodeError:
            continue
        # With the bytes of each letter the other way round, ASCII becomes signs that are rare.
        n_ascii = len(text) - len(_BEYOND_ASCII.findall(text))
        is_text = all(unicodedata.category(c) not in _NO_TEXT or c in "\t\r\n" for c in text[:4096])
        if len(data) % size == 0 and is_text and n_ascii > 0.02 * len(text):
            return Encoding(name, codec)
    return None


def _seven_bit_encoding(data: bytes) -> Encoding | None:
    """An encoding that spells other letters by escapes within ASCII; None of plain ASCII."""
    for name, codec, is_there in (
        ("ISO-2022-JP", "iso2022_jp", _JAPANESE_ESCAPE.search(data) is not None),
        ("ISO-2022-KR", "iso2022_kr", _KOREAN_ESCAPE in data),
        ("UTF-7", "utf-7", b"+" in data),
    ):
        try:
            text = data.decode(codec) if is_there else ""
        except UnicodeDecodeError:
            continue
        # In UTF-7 every plus opens an escape, and each must end where a letter does: nothing else
        # with several of them would decode.
        letters = [c for c in text if not c.isascii()]
        if len(letters) > 2 and not any(unicodedata.category(c) in _NO_TEXT for c in letters):
            return Encoding(name, codec, is_unicode=False, is_seven_bit=True)
    return None


def _legacy_encoding(data: bytes) -> Encoding:
    """What bytes that are no Unicode look like; nothing in them says it, so it stays a guess."""
    alphabets = [_alphabet_share(data, *alphabet[1:]) for alphabet in _ALPHABETS]
    share, place = max((share, -index) for index, share in enumerate(alphabets))
    name, codec, words, _ = _ALPHABETS[-place]
    likely = Encoding(name, codec, is_unicode=False)
    # Signs of two bytes are no words of letters when taken apart, but letters may pair to signs.
    if share > 0.55 and _share_of(words, _decoded(data, codec)) > 0.9:
        return likely
    for name, codec, letters, least in _WIDE_SCRIPTS:
        text = _decoded(data, codec)
        beyond = _BEYOND_ASCII.findall(text)
        last = _LAST_COMMON.get(codec, 0xFF)
        n_common = sum(sign.encode(codec)[0] <= last for sign in beyond)
        if _share_of(letters, text) > least and n_common > 0.8 * len(beyond):
            return Encoding(name, codec, is_unicode=False)
    if share > 0.4:
        return likely
    western, central = (
        sum(map(str.isalpha, _BEYOND_ASCII.findall(data.decode(codec, "replace"))))
        for codec in ("cp1252", "cp1250")
    )
    # Polish letters are signs such as ¿ and ³ when taken for western ones.
    if central > 1.2 * western:
        return Encoding("WINDOWS-1250", "cp1250", is_unicode=False)
    return Encoding("WINDOWS-1252", "cp1252", is_unicode=False)


def _alphabet_share(data: bytes, codec: str, words: str, common: str) -> float:
    """Which share the common letters have of all beyond ASCII, times that of words; else 0."""
    text = _decoded(data, codec)
    in_words = min(1.0, _share_of(words, text))
    if in_words <= 0.5:
        return 0.0
    signs = _BEYOND_ASCII.findall(text)
    if sum(map(str.isupper, signs)) > 0.5 * len(signs):  # else capitals begin words only
        signs = _BEYOND_ASCII.findall(text.lower())
    beyond = [unicodedata.normalize("NFD", sign)[0] for sign in signs]
    return in_words * sum(letter in common for letter in beyond) / len(beyond)


def _share_of(pattern: str, text: str) -> float:
    """Which share of the letters beyond ASCII stand in what the pattern finds."""
    n_beyond = len(_BEYOND_ASCII.findall(text))
    return sum(map(len, re.findall(pattern, text))) / n_beyond if n_beyond else 0.0


def _decoded(data: bytes, codec: str) -> str:
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        return ""
