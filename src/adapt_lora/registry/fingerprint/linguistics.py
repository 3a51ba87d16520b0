"""Part-of-speech and dependency shares, where the user has an English spaCy pipeline."""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol

from adapt_lora.registry.records import Fingerprint

HOW_TO_GET = (
    "No English spaCy pipeline is installed: part-of-speech and dependency shares are absent. "
    "`pip install 'adapt-lora[linguistics]'` and `python -m spacy download en_core_web_sm` add "
    "them."
)

PARTS_OF_SPEECH = (
    "adj", "adp", "adv", "aux", "cconj", "det", "intj", "noun", "num", "part", "pron", "propn",
    "punct", "sconj", "sym", "verb", "x",
)  # fmt: skip
"""The universal tags (Petrov et al. 2012, arXiv:1104.2086, as Universal Dependencies has them)."""

DEPENDENCIES = (
    "root", "nsubj", "nsubjpass", "dobj", "iobj", "pobj", "attr", "prep", "det", "amod", "nummod",
    "compound", "poss", "advmod", "neg", "aux", "auxpass", "mark", "cc", "conj", "ccomp", "xcomp",
    "advcl", "acl", "relcl", "appos", "punct",
)  # fmt: skip
"""The commonest relations of spaCy's English pipelines; the rest is `dep_share_other`."""

# A minute of parsing would buy digits that nobody reads: 100 rows are some 5,000 words.
_MAX_ROWS = 100
_MAX_CHARACTERS = 1_000


class Token(Protocol):
    """A word with what the pipeline found about it; "" where it has no such part."""

    @property
    def pos_(self) -> str:
        """Universal part of speech, e.g. "NOUN"."""

    @property
    def dep_(self) -> str:
        """Relation to its head, e.g. "nsubj"."""

    @property
    def is_space(self) -> bool:
        """Whether it is white space only."""


class Pipeline(Protocol):
    """What is asked of spaCy's `Language`."""

    def pipe(self, texts: Iterable[str]) -> Iterator[Iterable[Token]]:
        """Each text's tokens."""


def linguistics_part(
    prompts: Sequence[str], responses: Sequence[str], *, pipeline: Pipeline | None
) -> Fingerprint:
    """Shares of the tokens of the first rows, prompts and responses joined.

    Args:
        prompts: Texts; at most 100 rows are read, 1,000 characters of each.
        responses: One per prompt, "" where there is none.
        pipeline: From `english_pipeline`; None gives a note that says how to get one.
    """
    if pipeline is None:
        return Fingerprint(notes=(HOW_TO_GET,))
    texts = [
        f"{prompt}\n{response}"[:_MAX_CHARACTERS]
        for prompt, response in zip(prompts[:_MAX_ROWS], responses[:_MAX_ROWS], strict=True)
    ]
    tokens = [token for text in pipeline.pipe(texts) for token in text if not token.is_space]
    speech = _shares("pos", [token.pos_.lower() for token in tokens], PARTS_OF_SPEECH, rest="x")
    relations = _shares("dep", [token.dep_.lower() for token in tokens], DEPENDENCIES, rest="other")
    notes = [
        f"The spaCy pipeline has no {what}: its shares are absent."
        for what, shares in (("tagger", speech), ("parser", relations))
        if tokens and not shares
    ]
    return Fingerprint(values=speech | relations, notes=tuple(notes))


def english_pipeline() -> Pipeline | None:
    """The smallest installed English pipeline of spaCy, or None; without one nothing is imported.

    Pipelines are packages that say so by an entry point, which is how spaCy finds them too.
    """
    names = [point.name for point in entry_points(group="spacy_models")]
    english = sorted((name for name in names if name.startswith("en_")), key=_size)
    return _load(english[0]) if english else None


@functools.lru_cache(maxsize=1)
def _load(name: str) -> Pipeline | None:
    try:
        import spacy

        # Names and lemmas are not counted, and cost as much as all the rest.
        pipeline: Any = spacy.load(name, exclude=["ner", "lemmatizer"])
    # A pipeline of another spaCy's version, or one whose package is broken.
    except (ImportError, OSError, ValueError):
        return None
    loaded: Pipeline = pipeline
    return loaded


def _size(name: str) -> tuple[int, str]:
    sizes = ("sm", "md", "lg", "trf")
    ending = name.rpartition("_")[2]
    return (sizes.index(ending) if ending in sizes else len(sizes), name)


def _shares(
    kind: str, found: Sequence[str], known: Sequence[str], *, rest: str
) -> dict[str, float]:
    """Share of each known tag among the tokens that have one; nothing where none has."""
    tags = [tag if tag in known else rest for tag in found if tag]
    if not tags:
        return {}
    counts = Counter(tags)
    return {f"{kind}_share_{tag}": counts[tag] / len(tags) for tag in dict.fromkeys([*known, rest])}
