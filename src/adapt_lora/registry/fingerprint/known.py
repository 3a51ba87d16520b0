"""Fingerprints by content: rows that a base model has read are not read again."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from adapt_lora import data, model
from adapt_lora.data import Dataset
from adapt_lora.model.base import BaseModel, cache_dir
from adapt_lora.registry.fingerprint.dataset import fingerprint_dataset
from adapt_lora.registry.fingerprint.embedding import encoder_at_hand
from adapt_lora.registry.kept import KeptTexts, code_digest
from adapt_lora.registry.records import Fingerprint
from adapt_lora.registry.stored import from_json, to_json, to_plain

_KEPT = 256
"""Fingerprints in the cache folder; one is some 100 kB."""

_LIBRARIES = ("adapt-lora", "numpy", "tokenizers", "torch", "transformers")


def known_fingerprint(
    dataset: Dataset,
    *,
    base: BaseModel,
    max_tokens: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Fingerprint:
    """As `fingerprint_dataset`, from the cache where the base has read these rows before.

    The weights of the base are not touched then. Arguments as there.
    """
    kept = KeptTexts(cache_dir() / "fingerprints", most=_KEPT)
    key = _key(dataset, base, max_tokens=max_tokens, seed=seed)
    found = _revived(kept.load(key))
    if found is None:
        found = fingerprint_dataset(
            dataset, base=base, max_tokens=max_tokens, seed=seed, progress=progress
        )
        kept.save(key, to_json(to_plain(found)))
        # The first answer is that of the file too.
        found = _revived(kept.load(key)) or found
    # The same model may have got another name since.
    return replace(found, base=base.identity)


def _key(dataset: Dataset, base: BaseModel, *, max_tokens: int, seed: int) -> str:
    """Digest of all that decides a fingerprint: rows to the letter, base, settings, and the code.

    The rows' own digest would not do: it takes white space at line ends for nothing.
    """
    digest = hashlib.sha256(_code_digest())
    settings = {
        "base": base.content_digest,
        "dtype": str(base.dtype),
        "device": base.device,
        "labels": dataset.labels,
        "max_tokens": max_tokens,
        "seed": seed,
        "encoder": encoder_at_hand(),
    }
    digest.update(json.dumps(settings).encode())
    for row in dataset.rows:
        digest.update(json.dumps([row.prompt, row.response, row.label]).encode())
    return digest.hexdigest()


@cache
def _code_digest() -> bytes:
    """Of the rooms that make a fingerprint."""
    homes = [Path(__file__).parent, *(Path(room.__path__[0]) for room in (data, model))]
    return code_digest([path for home in homes for path in home.rglob("*.py")], _LIBRARIES)


def _revived(text: str | None) -> Fingerprint | None:
    if text is None:
        return None
    try:
        return from_json(Fingerprint, text)
    except ValueError:  # of a release whose records were other ones
        return None
