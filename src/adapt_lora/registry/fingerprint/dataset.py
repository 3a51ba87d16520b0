"""The fingerprint of a dataset, joined from its parts by one pass of the base model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from adapt_lora.data import Dataset, Row
from adapt_lora.errors import DatasetError
from adapt_lora.model.base import BaseModel
from adapt_lora.registry.fingerprint.duplicates import duplicate_part, row_sketch
from adapt_lora.registry.fingerprint.embedding import hidden_part, minilm_part
from adapt_lora.registry.fingerprint.labels import (
    base_label_part,
    label_length_part,
    label_part,
)
from adapt_lora.registry.fingerprint.language import language_part
from adapt_lora.registry.fingerprint.lengths import length_part, token_counts
from adapt_lora.registry.fingerprint.linguistics import english_pipeline, linguistics_part
from adapt_lora.registry.fingerprint.perplexity import perplexity_part, total_perplexity_part
from adapt_lora.registry.fingerprint.probe import probe_part
from adapt_lora.registry.records import Fingerprint

if TYPE_CHECKING:
    from adapt_lora.model.scoring import Encoded, PassResult

EncoderChoice = Literal["auto", "none"]
LinguisticsChoice = Literal["auto", "none"]

# Lengths and language: more rows would hardly change them, and these take a second.
_MAX_TEXT_ROWS = 2_000
_MAX_TEXT_CHARACTERS = 1_000_000
_MAX_DUPLICATE_ROWS = 10_000
# A row longer than this is cut around the seam of prompt and response, where answers are decided.
_MAX_ROW_CHARACTERS = 20_000
# A budget of few long rows says nothing about their spread.
_MIN_PASS_ROWS = 8
_MIN_ROW_TOKENS = 64
# Every prompt token scored costs a row of the head; a quarter of the budget is enough for a mean.
_PROMPT_NLL_SHARE = 0.25


def fingerprint_dataset(
    dataset: Dataset,
    *,
    base: BaseModel | None,
    max_tokens: int = 8_000,
    seed: int = 0,
    encoder: EncoderChoice = "auto",
    linguistics: LinguisticsChoice = "none",
    progress: Callable[[int, int], None] | None = None,
) -> Fingerprint:
    """Statistics of a dataset; those relative to a base model come from one pass over a sample.

    Args:
        dataset: The rows.
        base: The base model; None leaves out all that needs one or its tokenizer.
        max_tokens: Tokens that the base reads at most, candidate labels included; eight rows are
            always read, each cut to an eighth of this.
        seed: Of the shuffle whose first rows are the sample.
        encoder: "auto" adds the MiniLM centroid where that encoder is on disk, "none" never.
        linguistics: "auto" adds parts of speech and dependencies where spaCy has an English
            pipeline; a second or two then.
        progress: Called with (rows read, rows to read) by the base model's pass.

    Returns:
        What could be computed; the rest is absent, and `notes` says why. docs/science.md lists
        the keys.

    Raises:
        DatasetError: The dataset has no rows.
    """
    if not dataset.rows:
        raise DatasetError(f"{dataset.name}: no usable rows, so there is nothing to fingerprint.")
    order = np.random.default_rng(seed).permutation(len(dataset.rows))
    rows = [_cut_text(dataset.rows[index]) for index in order]
    parts = [
        Fingerprint(values={"n_rows": float(len(rows))}),
        *_text_parts(rows, base),
        _gold_part(rows, dataset.labels),
    ]
    if base is None:
        parts.append(_note("No base model was given: no token lengths, perplexity or base score."))
    else:
        parts += _model_parts(
            rows, dataset.labels, base=base, max_tokens=max_tokens, progress=progress
        )
    if encoder == "auto":
        parts.append(minilm_part([row.prompt for row in rows]))
    if linguistics == "auto":
        parts.append(linguistics_part(*_texts(rows), pipeline=english_pipeline()))
    return replace(_join(parts), base=base.identity if base else None)


@dataclass(frozen=True, slots=True)
class _Sample:
    """The rows that the base model reads."""

    rows: tuple[Row, ...]
    encoded: "tuple[Encoded, ...]"
    n_cut: int
    """Rows that were longer than the share of the budget that one row may take."""

    @property
    def n_tokens(self) -> int:
        return sum(len(row.prompt_ids) + len(row.response_ids) for row in self.encoded)


def _text_parts(rows: Sequence[Row], base: BaseModel | None) -> list[Fingerprint]:
    """Lengths, language and duplicates, each over as many rows as it needs."""
    parts: list[Fingerprint] = []
    duplicate_rows = rows[:_MAX_DUPLICATE_ROWS]
    parts.append(duplicate_part(*_texts(duplicate_rows)))
    parts.append(Fingerprint(row_sketches=row_sketch([row.prompt for row in rows])))
    text_rows = _text_sample(rows)
    prompts, responses = _texts(text_rows)
    parts.append(language_part(prompts, responses))
    if base is not None:
        lengths = token_counts(base, prompts)
        answered = np.array([row.response is not None for row in text_rows])
        parts.append(length_part(lengths, token_counts(base, responses), answered))
        parts.append(label_length_part([row.label for row in text_rows], lengths))
    if len(text_rows) < len(rows):
        parts.append(
            _note(f"Lengths and language are of {len(text_rows):,} rows drawn from {len(rows):,}.")
        )
    if len(duplicate_rows) < len(rows):
        parts.append(
            _note(f"Duplicates were sought among {len(duplicate_rows):,} rows of {len(rows):,}.")
        )
    return parts


def _gold_part(rows: Sequence[Row], labels: Sequence[str]) -> Fingerprint:
    if labels:
        return label_part(labels, [row.label for row in rows])
    if any(row.response is not None for row in rows):
        return Fingerprint(values={"is_classification": 0.0})
    return _note("No responses and no label set: nothing is known about labels.")


def _model_parts(
    rows: Sequence[Row],
    labels: Sequence[str],
    *,
    base: BaseModel,
    max_tokens: int,
    progress: Callable[[int, int], None] | None,
) -> list[Fingerprint]:
    """All that one pass of the base model over a sample tells."""
    from adapt_lora.model.scoring import label_ids, read_pass

    parts: list[Fingerprint] = []
    label_lengths = [len(ids) for ids in label_ids(base, labels)]
    if sum(label_lengths) > max_tokens // _MIN_PASS_ROWS:
        parts.append(
            _note(
                f"The {len(labels)} labels have {sum(label_lengths):,} tokens, too many to score "
                f"on every row within {max_tokens:,}: no base score."
            )
        )
        labels, label_lengths = (), []
    sample = _draw(rows, base=base, max_tokens=max_tokens, label_lengths=label_lengths)
    prompt_rows = _first_rows(sample.encoded, int(_PROMPT_NLL_SHARE * max_tokens))
    result = read_pass(
        base, sample.encoded, labels=labels, prompt_nll_rows=prompt_rows, progress=progress
    )
    parts += [
        Fingerprint(
            values={"n_rows_sampled": len(sample.rows), "n_tokens_sampled": sample.n_tokens}
        ),
        *_perplexity_parts(base, sample, result, prompt_rows),
        hidden_part(result.hidden),
    ]
    if result.label_log_likelihood is not None:
        gold = [row.label for row in sample.rows]
        parts.append(base_label_part(result.label_log_likelihood, labels, gold))
        if any(gold):
            prompts = [row.prompt for row in sample.rows]
            parts.append(probe_part(result.hidden, prompts, gold))
    if sample.n_cut:
        parts.append(
            _note(f"{sample.n_cut} of {len(sample.rows)} rows were cut before the base read them.")
        )
    return parts


def _perplexity_parts(
    base: BaseModel, sample: _Sample, result: "PassResult", prompt_rows: Sequence[int]
) -> list[Fingerprint]:
    responses = [
        nll[: len(nll) - row.n_template_response]
        for nll, row in zip(result.response_nll, sample.encoded, strict=True)
    ]
    response_bytes = [
        _n_bytes(base, row.response_ids[: len(row.response_ids) - row.n_template_response])
        for row in sample.encoded
    ]
    prompts = [result.prompt_nll[index] for index in prompt_rows]
    prompt_bytes = [
        _n_bytes(base, sample.encoded[index].prompt_ids[slice(*sample.encoded[index].content)])
        for index in prompt_rows
    ]
    parts = [
        perplexity_part("response", responses, response_bytes),
        perplexity_part("prompt", prompts, prompt_bytes),
        total_perplexity_part(prompts, [responses[index] for index in prompt_rows]),
    ]
    if not parts[0].values:
        parts.append(_note("No response text: response and total perplexity are absent."))
    n_broken = sum(not np.isfinite(nll).all() for nll in (*responses, *prompts))
    if n_broken:
        parts.append(
            _note(f"The base model gave {n_broken} texts no finite likelihood; they are left out.")
        )
    return parts


def _draw(
    rows: Sequence[Row], *, base: BaseModel, max_tokens: int, label_lengths: Sequence[int]
) -> _Sample:
    """The first rows that fit the budget, at least eight (or all there are)."""
    from adapt_lora.model.scoring import encode_row

    share = max(_MIN_ROW_TOKENS, max_tokens // _MIN_PASS_ROWS)
    window = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    taken: list[Encoded] = []
    n_cut = used = 0
    for row in rows:
        encoded = encode_row(base, row.prompt, row.response)
        longest = share
        if window is not None:
            # A label is read in the response's place.
            overhead = _n_template(encoded) + max(label_lengths, default=0)
            longest = min(share, window - overhead)
        fitted = _cut_tokens(encoded, longest)
        used += len(fitted.prompt_ids) + len(fitted.response_ids) + sum(label_lengths)
        if used > max_tokens and len(taken) >= _MIN_PASS_ROWS:
            break
        taken.append(fitted)
        n_cut += fitted is not encoded
    return _Sample(tuple(rows[: len(taken)]), tuple(taken), n_cut)


def _cut_tokens(row: "Encoded", longest: int) -> "Encoded":
    """The row with at most `longest` tokens of text: the prompt's end and the response's start."""
    from adapt_lora.model.scoring import Encoded

    start, end = row.content
    n_closing = row.n_template_response
    n_response = len(row.response_ids) - n_closing
    excess = (end - start) + n_response - longest
    if excess <= 0:
        return row
    kept_response = min(n_response, max(longest // 2, longest - (end - start)))
    kept_prompt = longest - kept_response
    content = row.prompt_ids[end - kept_prompt : end]
    return Encoded(
        prompt_ids=(*row.prompt_ids[:start], *content, *row.prompt_ids[end:]),
        # A response that was cut does not end where it was cut: no closing token.
        response_ids=row.response_ids
        if kept_response == n_response
        else row.response_ids[:kept_response],
        content=(start, start + len(content)),
        n_template_response=n_closing if kept_response == n_response else 0,
    )


def _n_template(row: "Encoded") -> int:
    start, end = row.content
    return len(row.prompt_ids) - (end - start) + row.n_template_response


def _first_rows(encoded: "Sequence[Encoded]", max_tokens: int) -> list[int]:
    """The first rows whose prompts fit into so many tokens; at least two, for the error's sake."""
    ends = np.cumsum([row.content[1] - row.content[0] for row in encoded])
    n = int(np.searchsorted(ends, max_tokens, side="right"))
    return list(range(min(len(encoded), max(2, n))))


def _n_bytes(base: BaseModel, ids: Sequence[int]) -> int:
    text = base.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    return len(str(text).encode("utf-8", "replace"))


def _text_sample(rows: Sequence[Row]) -> Sequence[Row]:
    sizes = [len(row.prompt) + len(row.response or "") for row in rows[:_MAX_TEXT_ROWS]]
    n = int(np.searchsorted(np.cumsum(sizes), _MAX_TEXT_CHARACTERS, side="right"))
    return rows[: max(1, n)]


def _texts(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    return [row.prompt for row in rows], [row.response or "" for row in rows]


def _cut_text(row: Row) -> Row:
    if len(row.prompt) + len(row.response or "") <= _MAX_ROW_CHARACTERS:
        return row
    half = _MAX_ROW_CHARACTERS // 2
    response = None if row.response is None else row.response[:half]
    return replace(row, prompt=row.prompt[-half:], response=response)


def _note(sentence: str) -> Fingerprint:
    return Fingerprint(notes=(sentence,))


def _join(parts: Sequence[Fingerprint]) -> Fingerprint:
    """One fingerprint with everything that the parts hold; later parts win."""
    return Fingerprint(
        values={key: float(value) for part in parts for key, value in part.values.items()},
        vectors={key: vector for part in parts for key, vector in part.vectors.items()},
        histograms={key: histogram for part in parts for key, histogram in part.histograms.items()},
        label_shares={key: share for part in parts for key, share in part.label_shares.items()},
        base_label_shares={
            key: share for part in parts for key, share in part.base_label_shares.items()
        },
        base_label_offsets={
            key: offset for part in parts for key, offset in part.base_label_offsets.items()
        },
        row_sketches=next((part.row_sketches for part in parts if part.row_sketches), ()),
        notes=tuple(note for part in parts for note in part.notes),
    )
