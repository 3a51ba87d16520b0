"""How an adapter behaves: the same probe prompts read with and without it.

Needs no training data. The mean shift of hidden states on fixed prompts describes a fine-tuned
model: "delta activations", Xu et al. 2025, arXiv:2509.04442. The probes are ours.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np

from adapt_lora.errors import AdapterError
from adapt_lora.model.base import BaseModel, cache_dir
from adapt_lora.model.scoring import PROTOCOL_VERSION, FloatArray, encode_row, generate, read_pass


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt with an answer that a helpful model would find likely."""

    kind: str
    """What it asks for; probes of one kind share a label set or have none."""
    prompt: str
    """What is asked."""
    response: str
    """The answer whose likelihood is compared."""


LABEL_SETS: Mapping[str, tuple[str, ...]] = {
    "sentiment": ("positive", "negative"),
    "yes_no": ("yes", "no"),
    "topic": ("sports", "money", "weather"),
    "choice": ("A", "B"),
    "entailment": ("true", "false", "unknown"),
}
"""Kinds of probes whose answers are labels. Gold labels are spread evenly in each kind."""

_MOOD = "Is this review positive or negative?\n\n"
_TOPIC = "What is the topic: sports, money or weather?\n\n"
_FOLLOWS = "Does the second sentence follow from the first: true, false or unknown?\n\n"

PROBES = (
    Probe("sentiment", f"{_MOOD}The kettle broke after two days.", "negative"),
    Probe("sentiment", f"{_MOOD}A lovely hotel, we will be back!", "positive"),
    Probe("sentiment", f"{_MOOD}The soup came cold and nobody said sorry.", "negative"),
    Probe("sentiment", f"{_MOOD}Quiet, light, easy to clean: my best fan so far.", "positive"),
    Probe("yes_no", "Answer with yes or no: is a whale a fish?", "no"),
    Probe("yes_no", "Answer with yes or no: does 'huge' mean the same as 'very large'?", "yes"),
    Probe("yes_no", "Answer with yes or no: can ice float on water?", "yes"),
    Probe("yes_no", "Answer with yes or no: is Tuesday the day after Wednesday?", "no"),
    Probe("topic", f"{_TOPIC}Rain is due by noon.", "weather"),
    Probe("topic", f"{_TOPIC}The keeper saved two penalties.", "sports"),
    Probe("topic", f"{_TOPIC}The bank put its rates up again.", "money"),
    Probe("choice", "Choose A or B. Which is heavier?\nA. a feather\nB. a brick", "B"),
    Probe("choice", "Choose A or B. Which is colder?\nA. snow\nB. steam", "A"),
    Probe("entailment", f"{_FOLLOWS}1. Mia has two cats.\n2. Mia has a cat.", "true"),
    Probe("entailment", f"{_FOLLOWS}1. All shops are shut.\n2. The bakery is open.", "false"),
    Probe("entailment", f"{_FOLLOWS}1. Leo is reading.\n2. Leo is reading a novel.", "unknown"),
    Probe("arithmetic", "What is 17 plus 25?", "42"),
    Probe("arithmetic", "Compute 96 - 58.", "38"),
    Probe(
        "arithmetic",
        "Tom has 3 boxes of 12 pens and gives away 6 pens. How many are left?",
        "3 * 12 = 36 pens. 36 - 6 = 30 pens are left.",
    ),
    Probe(
        "arithmetic",
        "A train leaves at 9:40 and rides for 75 minutes. When does it arrive?",
        "75 minutes are 1 hour and 15 minutes. 9:40 plus 1:15 is 10:55.",
    ),
    Probe(
        "code",
        "Write a Python function that returns the larger of two numbers.",
        "def larger(a, b):\n    return a if a > b else b",
    ),
    Probe(
        "code",
        "Write a SQL query that counts the rows of the table orders.",
        "SELECT COUNT(*) FROM orders;",
    ),
    Probe("extraction", "Take the city out of this sentence: She moved to Lyon in spring.", "Lyon"),
    Probe(
        "extraction",
        "Write this as JSON with the keys name and age: Ida is 34.",
        '{"name": "Ida", "age": 34}',
    ),
    Probe("knowledge", "Give the opposite of 'early'.", "late"),
    Probe(
        "knowledge",
        "Explain in one sentence why the sky is blue.",
        "Air scatters the blue part of sunlight more than the red part.",
    ),
    Probe(
        "rewriting",
        "Make this polite: Send me the file.",
        "Could you please send me the file when you can?",
    ),
    Probe(
        "rewriting",
        "Say this in five words or fewer: The meeting that was planned for Monday has been moved "
        "to Thursday because the room is taken.",
        "Meeting moved to Thursday.",
    ),
    Probe(
        "rewriting", "Translate into French: Good evening, how are you?", "Bonsoir, comment ça va ?"
    ),
    Probe(
        "writing",
        "Name three things that are found in a kitchen.",
        "A stove, a sink and a cutting board.",
    ),
    Probe(
        "writing", "Continue the story: The door creaked open and", "a small grey cat walked in."
    ),
    Probe(
        "writing",
        "A friend writes: I failed my exam. Write one kind sentence back.",
        "I'm sorry to hear that, and I'm sure the next one will go better.",
    ),
)
"""Spread over kinds, so that a shift of any of them shows."""

KINDS = tuple(dict.fromkeys(probe.kind for probe in PROBES))

ANSWERED = PROBES[::2]
"""Probes that are answered too, of every kind; writing costs several times what reading does."""

ANSWER_TOKENS = 24
"""Greedy answers are cut here."""

# A working adapter moves the mean log-likelihood by 0.01 to 1 nats per token; a no-op by 0.
_NO_EFFECT_NATS = 1e-4
_MOST_LABELS = max(len(labels) for labels in LABEL_SETS.values())


@dataclass(frozen=True, slots=True)
class ProbeReading:
    """What one model makes of the probes."""

    nll: FloatArray
    """(n_probes,) mean nats per token of the expected answers."""
    closing_nll: FloatArray
    """(n_probes,) nats of ending the answer where the expected answer ends."""
    label_shares: FloatArray
    """(n_probes, most labels) probability of each label among its set; NaN beyond the set."""
    hidden: FloatArray
    """(n_probes, d) mean last hidden state of the prompt."""
    hidden_mid: FloatArray
    """(n_probes, d) the same at relative depth 0.6."""
    answers: tuple[str, ...]
    """Greedy answers to ANSWERED, cut after ANSWER_TOKENS tokens."""
    answer_tokens: FloatArray
    """(n_answered,) their tokens."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """An adapter's behaviour relative to its bare base."""

    values: Mapping[str, float]
    """Flat statistics; docs/science.md lists them."""
    vector: tuple[float, ...]
    """(d,) mean shift of the last hidden state."""
    vector_mid: tuple[float, ...]
    """(d,) mean shift of the hidden state at relative depth 0.6."""
    answers: tuple[Mapping[str, str], ...]
    """One row per answered probe: prompt, base's answer, adapter's answer; for people."""
    warnings: tuple[str, ...] = ()
    """Sentences to show beside the adapter."""


def read_probes(base: BaseModel) -> ProbeReading:
    """Read the probes with whatever adapter is on; the bare base's reading comes from the cache."""
    if base.adapter_digest is not None:
        return _read(base)
    key = f"{base.identity.weights[:16]}-{str(base.dtype).split('.')[-1]}-{_probes_digest()}"
    cached = cache_dir() / "probes" / f"{key}.npz"
    try:
        return _load(cached)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # not there yet, or damaged: both are mended by reading again
    reading = _read(base)
    _keep(cached, reading)
    return reading


def fingerprint_behaviour(base: BaseModel, adapter_dir: Path) -> Behaviour:
    """Compare the adapter with its bare base on the probes.

    Raises:
        AdapterError: The adapter changes nothing: a no-op must not be registered as an adapter.
    """
    bare = read_probes(base)
    with base.adapted(adapter_dir):
        adapted = read_probes(base)
        idle = base.idle_modules
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
    compared = _compare(bare, adapted)
    return replace(compared, warnings=(_idle_warning(idle),)) if idle else compared


def _idle_warning(modules: tuple[str, ...]) -> str:
    kinds = ", ".join(sorted({module.rsplit(".", 1)[-1] for module in modules}))
    return (
        f"Its config targets {len(modules)} modules that its file has no tensors for ({kinds}): "
        "as in PEFT, they do nothing."
    )


def _compare(bare: ProbeReading, adapted: ProbeReading) -> Behaviour:
    shift = adapted.hidden - bare.hidden  # (n_probes, d)
    shift_mid = adapted.hidden_mid - bare.hidden_mid
    closing = adapted.closing_nll - bare.closing_nll
    characters = [np.mean([len(text) for text in r.answers]) for r in (bare, adapted)]
    same = [a == b for a, b in zip(bare.answers, adapted.answers, strict=True)]
    values = {
        **_likelihood_values(adapted.nll - bare.nll),
        "closing_nll_change_mean": float(closing.mean()),
        "hidden_shift_relative": _relative_shift(shift, bare.hidden),
        "hidden_shift_relative_mid": _relative_shift(shift_mid, bare.hidden_mid),
        **_label_values(bare.label_shares, adapted.label_shares),
        "answer_tokens_mean": float(adapted.answer_tokens.mean()),
        "answer_tokens_change_mean": float((adapted.answer_tokens - bare.answer_tokens).mean()),
        "answer_chars_change_mean": float(characters[1] - characters[0]),
        "answers_unchanged_share": float(np.mean(same)),
    }
    rows = tuple(
        {"prompt": probe.prompt, "base": before, "adapter": after}
        for probe, before, after in zip(ANSWERED, bare.answers, adapted.answers, strict=True)
    )
    return Behaviour(values, _mean_vector(shift), _mean_vector(shift_mid), rows)


def _likelihood_values(change: FloatArray) -> dict[str, float]:
    values = {
        "probe_nll_change_mean": float(change.mean()),
        "probe_nll_change_sd": float(change.std(ddof=1)),
    }
    for kind in KINDS:
        values[f"probe_nll_change_{kind}"] = float(change[_of_kind(kind)].mean())
    return values


def _label_values(bare: FloatArray, adapted: FloatArray) -> dict[str, float]:
    """How far the shares of the labels moved, whatever the right labels are."""
    moved, n_changed, n_probes = {}, 0, 0
    for kind, labels in LABEL_SETS.items():
        before, after = (x[_of_kind(kind), : len(labels)] for x in (bare, adapted))  # (n, k)
        moved[f"label_prior_tv_{kind}"] = float(
            0.5 * np.abs(after.mean(axis=0) - before.mean(axis=0)).sum()
        )
        n_changed += int((before.argmax(axis=1) != after.argmax(axis=1)).sum())
        n_probes += len(before)
    return {
        "label_prior_tv": float(np.mean(list(moved.values()))),
        **moved,
        "label_picks_changed_share": n_changed / n_probes,
    }


def _relative_shift(shift: FloatArray, bare: FloatArray) -> float:
    return float((np.linalg.norm(shift, axis=1) / np.linalg.norm(bare, axis=1)).mean())


def _mean_vector(shift: FloatArray) -> tuple[float, ...]:
    return tuple(float(x) for x in shift.mean(axis=0))


def _of_kind(kind: str) -> list[int]:
    return [index for index, probe in enumerate(PROBES) if probe.kind == kind]


def _read(base: BaseModel) -> ProbeReading:
    n = len(PROBES)
    nll, closing = np.zeros(n, np.float32), np.zeros(n, np.float32)
    shares = np.full((n, _MOST_LABELS), np.nan, np.float32)
    hidden: dict[str, list[FloatArray]] = {"mid": [], "last": []}
    order: list[int] = []
    # Probes of one label set are read together: their labels come out of the same pass.
    for labels in dict.fromkeys(LABEL_SETS.get(kind, ()) for kind in KINDS):
        rows = [i for i, probe in enumerate(PROBES) if LABEL_SETS.get(probe.kind, ()) == labels]
        encoded = [encode_row(base, PROBES[i].prompt, PROBES[i].response) for i in rows]
        result = read_pass(base, encoded, labels=labels, hidden=True)
        nll[rows] = [tokens[:-1].mean() for tokens in result.response_nll]
        closing[rows] = [tokens[-1] for tokens in result.response_nll]
        if result.label_log_likelihood is not None:
            shares[rows, : len(labels)] = _softmax(result.label_log_likelihood)
        for depth, states in hidden.items():
            states.append(result.hidden[depth])
        order += rows
    back = np.argsort(order)
    answers = generate(base, [probe.prompt for probe in ANSWERED], max_new_tokens=ANSWER_TOKENS)
    # A text that was cut inside a character has more tokens than were generated.
    lengths = [
        min(ANSWER_TOKENS, len(base.tokenizer(text, add_special_tokens=False)["input_ids"]))
        for text in answers
    ]
    return ProbeReading(
        nll=nll,
        closing_nll=closing,
        label_shares=shares,
        hidden=np.concatenate(hidden["last"])[back],
        hidden_mid=np.concatenate(hidden["mid"])[back],
        answers=tuple(answers),
        answer_tokens=np.array(lengths, np.float32),
    )


def _softmax(log_likelihood: FloatArray) -> FloatArray:
    odds = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    shares: FloatArray = odds / odds.sum(axis=1, keepdims=True)
    return shares


def _probes_digest() -> str:
    """Changes with all that decides a reading but the model."""
    probes = [[astuple(probe) for probe in chosen] for chosen in (PROBES, ANSWERED)]
    decided = [PROTOCOL_VERSION, ANSWER_TOKENS, LABEL_SETS, probes]
    return hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:16]


def _keep(path: Path, reading: ProbeReading) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part.npz")
    np.savez(
        part,
        nll=reading.nll,
        closing_nll=reading.closing_nll,
        label_shares=reading.label_shares,
        hidden=reading.hidden,
        hidden_mid=reading.hidden_mid,
        answers=np.array(json.dumps(reading.answers)),
        answer_tokens=reading.answer_tokens,
    )
    part.replace(path)


def _load(path: Path) -> ProbeReading:
    with np.load(path, allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in kept.files}
    answers = tuple(str(text) for text in json.loads(str(arrays.pop("answers"))))
    try:
        return ProbeReading(answers=answers, **arrays)
    except TypeError as error:
        raise ValueError(f"{path} lacks a part") from error
