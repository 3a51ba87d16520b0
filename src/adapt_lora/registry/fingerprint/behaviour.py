"""How an adapter behaves: the same probe prompts read with and without it.

Needs no training data. The mean shift of hidden states on fixed prompts describes a fine-tuned
model: "delta activations", Xu et al. 2025, arXiv:2509.04442. The probes are ours.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapt_lora.base_model import BaseModel, cache_dir
from adapt_lora.errors import AdapterError
from adapt_lora.scoring import FloatArray, encode_row, generate, read_pass


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt with an answer that a helpful model would find likely."""

    prompt: str
    """What is asked."""
    response: str
    """The answer whose likelihood is compared."""


PROBES = (
    Probe("Is this review positive or negative?\n\nThe kettle broke after two days.", "negative"),
    Probe("Is this review positive or negative?\n\nA lovely hotel, we will be back!", "positive"),
    Probe("Answer with yes or no: is a whale a fish?", "no"),
    Probe("Answer with yes or no: does 'huge' mean the same as 'very large'?", "yes"),
    Probe("What is the topic: sports, money or weather?\n\nRain is due by noon.", "weather"),
    Probe("Choose A or B. Which is heavier?\nA. a feather\nB. a brick", "B"),
    Probe("What is 17 plus 25?", "42"),
    Probe("Compute 96 - 58.", "38"),
    Probe(
        "Tom has 3 boxes of 12 pens and gives away 6 pens. How many are left?",
        "3 * 12 = 36 pens. 36 - 6 = 30 pens are left.",
    ),
    Probe(
        "Write a Python function that returns the larger of two numbers.",
        "def larger(a, b):\n    return a if a > b else b",
    ),
    Probe("Take the city out of this sentence: She moved to Lyon in spring.", "Lyon"),
    Probe("Give the opposite of 'early'.", "late"),
    Probe(
        "Explain in one sentence why the sky is blue.",
        "Air scatters the blue part of sunlight more than the red part.",
    ),
    Probe("Name three things that are found in a kitchen.", "A stove, a sink and a cutting board."),
    Probe("Make this polite: Send me the file.", "Could you please send me the file when you can?"),
    Probe("Continue the story: The door creaked open and", "a small grey cat walked in."),
)
"""Spread over kinds: sentiment, yes/no, topic, choice, arithmetic, code, extraction, free text."""

ANSWER_TOKENS = 16
"""Greedy answers to the probes are cut here."""

# A working adapter moves the mean log-likelihood by 0.01 to 1 nats per token; a no-op by 0.
_NO_EFFECT_NATS = 1e-4


@dataclass(frozen=True, slots=True)
class ProbeReading:
    """What one model makes of the probes."""

    nll: FloatArray
    """(n_probes,) mean nats per token of the expected answers."""
    closing_nll: FloatArray
    """(n_probes,) nats of ending the answer where the expected answer ends."""
    hidden: FloatArray
    """(n_probes, d) mean last hidden state of the prompt."""
    answers: tuple[str, ...]
    """Greedy answers, cut after ANSWER_TOKENS tokens; empty when not asked for."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """An adapter's behaviour relative to its bare base."""

    values: Mapping[str, float]
    """Flat statistics; docs/science.md lists them."""
    vector: tuple[float, ...]
    """(d,) mean shift of the last hidden state."""
    answers: tuple[Mapping[str, str], ...]
    """One row per probe: prompt, base's answer, adapter's answer; for people to compare."""


def read_probes(base: BaseModel, *, with_answers: bool = True) -> ProbeReading:
    """Read the probes with whatever adapter is on; the bare base's reading comes from the cache."""
    known = None
    if base.adapter_digest is None:
        key = f"{base.identity.weights[:16]}-{str(base.dtype).split('.')[-1]}-{len(PROBES)}"
        known = cache_dir() / "probes" / f"{key}.json"
        if known.is_file():
            return _from_json(json.loads(known.read_text()))
    reading = _read(base, with_answers=with_answers or known is not None)
    if known is not None:
        _keep(known, reading)
    return reading


def fingerprint_behaviour(base: BaseModel, adapter_dir: Path) -> Behaviour:
    """Compare the adapter with its bare base on the probes.

    Raises:
        AdapterError: The adapter changes nothing: a no-op must not be registered as an adapter.
    """
    bare = read_probes(base)
    with base.adapted(adapter_dir):
        adapted = read_probes(base)
    change = adapted.nll - bare.nll
    if not np.isfinite(change).all():
        raise AdapterError(
            f"{adapter_dir}: with this adapter {base.identity.name} gives numbers that are not "
            "finite; its weights are broken."
        )
    largest = float(np.abs(change).max())
    if largest < _NO_EFFECT_NATS:
        raise AdapterError(
            f"{adapter_dir}: this adapter changes nothing on {len(PROBES)} probe prompts (largest "
            f"change of log-likelihood {largest:.1e} nats per token); its weights were not trained "
            "or not loaded."
        )
    return _compare(bare, adapted)


def _compare(bare: ProbeReading, adapted: ProbeReading) -> Behaviour:
    change = adapted.nll - bare.nll
    shift = adapted.hidden - bare.hidden  # (n_probes, d)
    relative = np.linalg.norm(shift, axis=1) / np.linalg.norm(bare.hidden, axis=1)
    values = {
        "probe_nll_change_mean": float(change.mean()),
        "probe_nll_change_sd": float(change.std(ddof=1)),
        "closing_nll_change_mean": float((adapted.closing_nll - bare.closing_nll).mean()),
        "hidden_shift_relative": float(relative.mean()),
    }
    if bare.answers and adapted.answers:
        lengths = [np.mean([len(text) for text in r.answers]) for r in (bare, adapted)]
        values["answer_chars_change_mean"] = float(lengths[1] - lengths[0])
        same = sum(a == b for a, b in zip(bare.answers, adapted.answers, strict=True))
        values["answers_unchanged_share"] = same / len(PROBES)
    rows = tuple(
        {"prompt": probe.prompt, "base": before, "adapter": after}
        for probe, before, after in zip(PROBES, bare.answers, adapted.answers, strict=True)
    )
    return Behaviour(values, tuple(float(x) for x in shift.mean(axis=0)), rows)


def _read(base: BaseModel, *, with_answers: bool) -> ProbeReading:
    encoded = [encode_row(base, probe.prompt, probe.response) for probe in PROBES]
    result = read_pass(base, encoded, hidden=True)
    prompts = [probe.prompt for probe in PROBES]
    answers: Sequence[str] = ()
    if with_answers:
        answers = generate(base, prompts, max_new_tokens=ANSWER_TOKENS)
    return ProbeReading(
        nll=np.array([nll[:-1].mean() for nll in result.response_nll], dtype=np.float32),
        closing_nll=np.array([nll[-1] for nll in result.response_nll], dtype=np.float32),
        hidden=result.hidden["last"],
        answers=tuple(answers),
    )


def _keep(path: Path, reading: ProbeReading) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "nll": reading.nll.tolist(),
        "closing_nll": reading.closing_nll.tolist(),
        "hidden": reading.hidden.tolist(),
        "answers": reading.answers,
    }
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_text(json.dumps(content))
    scratch.replace(path)


def _from_json(content: Mapping[str, list[float]]) -> ProbeReading:
    return ProbeReading(
        nll=np.array(content["nll"], dtype=np.float32),
        closing_nll=np.array(content["closing_nll"], dtype=np.float32),
        hidden=np.array(content["hidden"], dtype=np.float32),
        answers=tuple(str(text) for text in content["answers"]),
    )
