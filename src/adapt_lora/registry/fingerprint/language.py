"""Language statistics that need no model: diversity, compressibility, shares, task cues."""

import re
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from adapt_lora.registry.records import Fingerprint

MATTR_WINDOW = 50
"""Words per window; Covington & McFall 2010 use 500 for prose, far beyond most prompts."""

# The ratio of a short text is worse than that of a long one, so every dataset is judged by as much.
_ZLIB_BYTES = 65_536

_WORD = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)?")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_QUESTION = re.compile(r"\?+")
_SENTENCE_END = re.compile(r"[.!]+(?=\s|$)")
_COMPARISON_SIGN = re.compile(r"[<>≤≥]=?|[!=]=")
_COMPARISON_PHRASE = re.compile(r"\bas (?:many|much)\b")
_OPERATION_SIGN = re.compile(r"(?<=[\d)])\s?[-+*/×÷·^%−]\s?(?=[\d(.$])|=")
_CODE = re.compile(
    r"""\w+\(.*[),;:]*$            # a call: print(x)
    | ^[\w.]+\[.*\]                # an index: a[0]
    | [{};]$ | ^[{}]               # blocks and statement ends
    | ^(?:[=!<>]=|[-+*/%|&]=|=>|->|::|&&|\|\||=|//|\#include|</?\w+[^>]*>)$   # operators, tags
    | ^[a-z]+(?:_[a-z0-9]+)+\b     # snake_case
    | ^[a-z]+(?:[A-Z][a-z0-9]+)+\b # camelCase
    | ^(?:def|elif|lambda|endif|printf|println|struct|enum|nullptr|typedef|fn)$
    """,
    re.VERBOSE,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_COMPARISONS = _words(
    "than more less fewer greater larger smaller higher lower longer shorter older younger "
    "faster slower bigger taller heavier lighter cheaper twice thrice double triple half most "
    "least",
)
_OPERATIONS = _words(
    "plus minus times divided multiplied multiply divide add added subtract subtracted sum "
    "product total difference quotient remainder percent",
)
_CONDITIONALS = _words(
    "if unless when whenever otherwise suppose assuming assume provided given whether"
)
_UNITS_BY_DIMENSION = {
    "time": "second seconds sec minute minutes min hour hours day days week weeks month months "
    "year years decade decades century centuries",
    "length": "millimeter millimeters millimetres mm centimeter centimeters centimetres cm meter "
    "meters metre metres kilometer kilometers kilometres km inch inches foot feet yard yards "
    "mile miles",
    "mass": "milligram milligrams mg gram grams kilogram kilograms kg ounce ounces oz pound "
    "pounds lb lbs ton tons tonne tonnes",
    "volume": "milliliter milliliters ml liter liters litre litres cup cups pint pints quart "
    "quarts gallon gallons teaspoon teaspoons tablespoon tablespoons",
    "money": "cent cents dollar dollars penny pennies nickel nickels dime dimes",
    "count": "dozen dozens pair pairs",
}
_UNITS = {
    unit: dimension for dimension, units in _UNITS_BY_DIMENSION.items() for unit in units.split()
}
# Spellings of one unit: "hour" and "hours" are no conversion.
_PLURAL = re.compile(r"(?<=[a-z]{2})(?:es|s)$")


def language_part(prompts: Sequence[str], responses: Sequence[str]) -> Fingerprint:
    """Language statistics of rows.

    Args:
        prompts: One text per row; task cues (numbers, questions, steps, …) are counted in these.
        responses: One text per row, "" where there is none; shares and diversity cover both.
    """
    text = "\n".join(part for pair in zip(prompts, responses, strict=True) for part in pair if part)
    return Fingerprint(values=_diversity(text) | _shares(text) | _cues(prompts))


def moving_ttr(words: Sequence[str], window: int = MATTR_WINDOW) -> float:
    """Moving-average type-token ratio, in (0, 1]; the plain ratio of texts shorter than the window.

    Covington & McFall 2010, doi:10.1080/09296171003643098. A word counts once for every window that
    it is the first of its type in, so one pass over the text does for all windows.
    """
    n = len(words)
    window = min(window, n)
    types = {word: index for index, word in enumerate(dict.fromkeys(words))}
    ids = np.fromiter((types[word] for word in words), dtype=np.int64, count=n)
    order = np.argsort(ids, kind="stable")
    previous = np.full(n, -1, dtype=np.int64)
    repeats = ids[order[1:]] == ids[order[:-1]]
    previous[order[1:][repeats]] = order[:-1][repeats]
    position = np.arange(n)
    # Windows that start here or later hold this word but not its previous occurrence.
    first_start = np.maximum(np.maximum(previous + 1, position - window + 1), 0)
    last_start = np.minimum(position, n - window)
    firsts = np.maximum(last_start - first_start + 1, 0).sum()
    return float(firsts / (window * (n - window + 1)))


def compression_ratio(text: str) -> float:
    """Bytes after zlib over bytes before, of the first 64 KiB; lower is more repetitive."""
    raw = text.encode()[:_ZLIB_BYTES]
    return len(zlib.compress(raw, 6)) / len(raw)


def _diversity(text: str) -> dict[str, float]:
    values = {}
    words = _WORD.findall(text.lower())
    if words:
        values["mattr"] = moving_ttr(words)
    if text:
        values["zlib_ratio"] = compression_ratio(text)
    return values


def _shares(text: str) -> dict[str, float]:
    characters = Counter(text)
    visible = {c: n for c, n in characters.items() if not c.isspace()}
    n_visible = sum(visible.values())
    n_letters = sum(n for c, n in visible.items() if c.isalpha())
    if not n_visible:
        return {}
    values = {
        "share_digits": sum(n for c, n in visible.items() if c.isdigit()) / n_visible,
        "share_punctuation": sum(n for c, n in visible.items() if not c.isalnum()) / n_visible,
        "share_code": _code_share(text),
    }
    if n_letters:
        values["share_upper"] = sum(n for c, n in visible.items() if c.isupper()) / n_letters
    return values


def _code_share(text: str) -> float:
    tokens = Counter(text.split())
    return sum(n for token, n in tokens.items() if _CODE.search(token[:200])) / tokens.total()


def _cues(prompts: Sequence[str]) -> dict[str, float]:
    """Counts per row that hint at the work a prompt asks for.

    Krishna et al. 2025, App. F.1 (numbers, comparisons, unit conversions, questions), F.2 (steps).
    The paper gives no word lists; ours are English and stand at the head of this module.
    """
    lowered = [prompt.lower() for prompt in prompts]
    text = "\n".join(lowered)
    words = Counter(_WORD.findall(text))
    questions = len(_QUESTION.findall(text))
    comparisons = (
        _count(words, _COMPARISONS)
        + len(_COMPARISON_SIGN.findall(text))
        + len(_COMPARISON_PHRASE.findall(text))
    )
    operations = _count(words, _OPERATIONS) + len(_OPERATION_SIGN.findall(text))
    sentences = len(_SENTENCE_END.findall(text))
    conditionals = _count(words, _CONDITIONALS)
    totals = {
        "numbers_per_row": len(_NUMBER.findall(text)),
        "comparisons_per_row": comparisons,
        "unit_conversions_per_row": sum(_unit_conversions(prompt) for prompt in lowered),
        "questions_per_row": questions,
        "steps_per_row": questions + sentences + operations + comparisons + conditionals,
    }
    return {key: total / len(prompts) for key, total in totals.items()}


def _unit_conversions(lowered: str) -> int:
    """Units beyond the first of each dimension: "2 hours and 30 minutes" is one conversion."""
    units = _UNITS.keys() & set(_WORD.findall(lowered))
    kinds = {(_UNITS[unit], _PLURAL.sub("", unit)) for unit in units}
    return len(kinds) - len({dimension for dimension, _ in kinds})


def _count(words: Counter[str], wanted: frozenset[str]) -> int:
    return sum(words[word] for word in wanted)
