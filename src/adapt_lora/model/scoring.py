"""The one place that runs a model forward: log-likelihoods, hidden states, answers.

Every figure of Adapt that comes from a model comes through here, so that two of them can be
compared. A prompt and its response are tokenised apart and joined, so that no token straddles the
seam. All candidate answers of a prompt (its response and every label) are read in the same forward
pass, as branches that see the prompt and themselves. What all prompts of a call begin with, the
template and a task's instruction, is read once and kept as keys and values.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Cache, DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer

from adapt_lora.errors import ScoringError
from adapt_lora.model.base import BaseModel
from adapt_lora.model.head import POSITIONS_AT_ONCE, Head

if TYPE_CHECKING:
    from adapt_lora.data import Row

PROTOCOL_VERSION = "2"
"""Goes into every protocol digest; raise it when scores of this module change."""

MID_DEPTH = 0.6
"""Relative depth of the "mid" hidden states (massive-sft, RQ3: mid-layers change what matters)."""

# A beginning that rows share is read apart from this length on; a shorter one is not worth a pass.
_MIN_PREFIX = 8
_SENTINEL = "\u241fprompt\u241f"

Finish = Literal["stop", "length"]
"""How a written answer ended: by the model's own end mark, or cut at the limit."""

TemplateName = Literal["base", "plain", "question-answer"]
"""How a prompt is wrapped: the base's own chat template where it has one; a bare newline between
prompt and answer; massive-sft's "###Question: …" and "###Answer: …" (its App. D)."""

FloatArray = NDArray[np.float32]
Steps = Callable[[int, int], None]
"""Told (done, in all) now and then; the unit is the step's own."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as token ids."""

    prompt_ids: tuple[int, ...]
    """The rendered prompt, up to where the answer starts."""
    response_ids: tuple[int, ...]
    """The answer and its closing tokens; empty when the row has no response."""
    content: tuple[int, int]
    """Start and end of the user's own text inside `prompt_ids`; around it stands the template."""
    n_template_response: int
    """How many of the last response ids are closing tokens, which perplexity leaves out."""

    @property
    def n_tokens(self) -> int:
        """Tokens of prompt and response together."""
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True, slots=True)
class PassResult:
    """What one forward pass over the rows gave."""

    response_nll: tuple[FloatArray, ...]
    """Per row: nats per response token, closing token included; empty array without response."""
    prompt_nll: Mapping[int, FloatArray]
    """Per row asked for: nats per token of the user's text (not its first if nothing precedes)."""
    hidden: Mapping[str, FloatArray]
    """"mid" and "last": mean hidden state over the tokens of the user's text, (n_rows, d)."""
    label_log_likelihood: FloatArray | None
    """(n_rows, n_labels) nats: sum over label and closing tokens; None without labels."""
    label_greedy: NDArray[np.int64] | None = None
    """(n_rows,) index of the label that constrained greedy decoding writes; None without labels."""


@dataclass(frozen=True, slots=True)
class LabelScores:
    """How likely each label is as the whole answer to each prompt."""

    log_likelihood: FloatArray
    """(n_rows, n_labels), nats: sum over the label's tokens and the closing token."""
    n_tokens: NDArray[np.int64]
    """(n_labels,) tokens summed over, closing token included."""
    greedy: NDArray[np.int64] | None = None
    """(n_rows,) index of the label that greedy decoding writes when at each step only tokens that
    lead to a label may be written; None where the backend can't tell."""


class WrittenAnswer(str):
    """A written answer that knows how it ended; everywhere else it is its text."""

    n_tokens: int
    """Tokens the model wrote, its end mark left out."""
    finish: Finish
    """Whether the model stopped by itself or was cut at the limit."""

    def __new__(cls, text: str, *, n_tokens: int, finish: Finish) -> "WrittenAnswer":
        """Make one; a str takes its text before `__init__`."""
        answer = super().__new__(cls, text)
        answer.n_tokens, answer.finish = n_tokens, finish
        return answer


def encode_row(
    base: BaseModel, prompt: str, response: str | None, *, template: TemplateName = "base"
) -> Encoded:
    """Token ids of one row under a template; scores are always made under the base's own."""
    before, after, closing = _template_ids(base, template)
    content = _ids(base, prompt)
    start = len(before)
    answer = () if response is None else (*_ids(base, response), *closing)
    return Encoded(
        prompt_ids=(*before, *content, *after),
        response_ids=answer,
        content=(start, start + len(content)),
        n_template_response=len(closing) if response is not None else 0,
    )


def encode_rows(
    base: BaseModel, rows: "Sequence[Row]", *, template: TemplateName = "base"
) -> list[Encoded]:
    """Token ids of rows, in their order."""
    return [encode_row(base, row.prompt, row.response, template=template) for row in rows]


def label_ids(base: BaseModel, labels: Sequence[str]) -> list[tuple[int, ...]]:
    """Token ids of each label as a whole answer, closing token included."""
    closing = _template_ids(base, "base").closing
    return [(*_ids(base, label), *closing) for label in labels]


def shared_beginning(prompts: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all prompts begin with, if reading them once is worth it; else 0.

    The last token of each prompt is left: what follows it is predicted from its own state.
    """
    # Whatever lies between two sequences in order begins as both of them do.
    first, last = (order(ids[:-1] for ids in prompts) for order in (min, max))
    same = [one == other for one, other in zip(first, last, strict=False)]
    n_shared = same.index(False) if False in same else len(same)
    return n_shared if n_shared >= _MIN_PREFIX else 0


def token_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Row indices in batches of similar length, longest first.

    Args:
        lengths: Tokens per row.
        max_tokens: Upper bound of rows × longest row of a batch; a longer row stands alone.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    for index in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def read_pass(
    base: BaseModel,
    encoded: Sequence[Encoded],
    *,
    labels: Sequence[str] = (),
    hidden: bool = True,
    prompt_nll_rows: Collection[int] = (),
    max_batch_tokens: int = 2048,
    progress: Steps | None = None,
) -> PassResult:
    """Read all rows once and return everything that a fingerprint or a score needs.

    Args:
        base: The model, with or without an adapter on.
        encoded: Rows from `encode_rows`.
        labels: Candidate answers that every prompt is scored against.
        hidden: Whether to average hidden states.
        prompt_nll_rows: Rows whose prompt tokens are scored too; each costs one head row per token.
        max_batch_tokens: Bound on padded tokens of a batch.
        progress: Told (rows done, rows in all) after each batch.

    Raises:
        ScoringError: A row is longer than the model can read.
    """
    _check_lengths(base, encoded)
    candidates = label_ids(base, labels)
    plans = [
        _plan_row(row, candidates, index in prompt_nll_rows) for index, row in enumerate(encoded)
    ]
    n_prefix = 0 if hidden or prompt_nll_rows else _shared_prefix(base, plans)
    reader = _Reader(base, hidden=hidden, prefix_ids=plans[0].ids[:n_prefix] if n_prefix else ())
    plans = [
        replace(plan, ids=plan.ids[n_prefix:], n_prompt=plan.n_prompt - n_prefix) for plan in plans
    ]
    scored: list[_RowScores | None] = [None] * len(plans)
    done = 0
    for batch in token_batches([len(plan.ids) for plan in plans], max_batch_tokens):
        for index, scores in zip(batch, reader.read([plans[i] for i in batch]), strict=True):
            scored[index] = scores
        done += len(batch)
        if progress is not None:
            progress(done, len(plans))
    return _collect([row for row in scored if row is not None], encoded, candidates, hidden)


def score_labels(
    base: BaseModel,
    prompts: Sequence[str],
    labels: Sequence[str],
    *,
    max_batch_tokens: int = 2048,
    progress: Steps | None = None,
) -> LabelScores:
    """Log-likelihood of every label as the whole answer to every prompt."""
    encoded = [encode_row(base, prompt, None) for prompt in prompts]
    result = read_pass(
        base,
        encoded,
        labels=labels,
        hidden=False,
        max_batch_tokens=max_batch_tokens,
        progress=progress,
    )
    assert result.label_log_likelihood is not None
    lengths = np.array([len(ids) for ids in label_ids(base, labels)], dtype=np.int64)
    return LabelScores(result.label_log_likelihood, lengths, result.label_greedy)


def generate(
    base: BaseModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    max_batch_tokens: int = 4096,
    progress: Steps | None = None,
) -> list[WrittenAnswer]:
    """Greedy answers, in the order of the prompts, without closing tokens."""
    encoded = [encode_row(base, prompt, None) for prompt in prompts]
    _check_lengths(base, encoded)
    answers = [WrittenAnswer("", n_tokens=0, finish="stop")] * len(prompts)
    done = 0
    lengths = [len(row.prompt_ids) + max_new_tokens for row in encoded]
    for batch in token_batches(lengths, max_batch_tokens):
        texts = _generate_batch(base, [encoded[i].prompt_ids for i in batch], max_new_tokens)
        for index, text in zip(batch, texts, strict=True):
            answers[index] = text
        done += len(batch)
        if progress is not None:
            progress(done, len(prompts))
    return answers


@dataclass(frozen=True, slots=True)
class _RowPlan:
    """One row laid out for a forward pass: the prompt, then branches that see it and themselves."""

    ids: tuple[int, ...]
    n_prompt: int
    branches: tuple[tuple[int, ...], ...]
    content: tuple[int, int]
    with_prompt_nll: bool


@dataclass(frozen=True, slots=True)
class _RowScores:
    branches: tuple[FloatArray, ...]
    """Nats per token of each branch."""
    prompt: FloatArray | None
    hidden: Mapping[str, FloatArray]


def _plan_row(row: Encoded, candidates: Sequence[tuple[int, ...]], with_prompt: bool) -> _RowPlan:
    branches = list(candidates)
    # A response that is one of the labels is read once, as that label.
    if row.response_ids and row.response_ids not in branches:
        branches.append(row.response_ids)
    # A branch's last token is only predicted, never read.
    tail = [token for branch in branches for token in branch[:-1]]
    return _RowPlan(
        ids=(*row.prompt_ids, *tail),
        n_prompt=len(row.prompt_ids),
        branches=tuple(branches),
        content=row.content,
        with_prompt_nll=with_prompt,
    )


def _shared_prefix(base: BaseModel, plans: Sequence[_RowPlan]) -> int:
    """How many tokens all prompts begin with, if reading them once is worth it; else 0."""
    config = base.model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if len(plans) < 2 or not kinds <= {"full_attention", "sliding_attention"}:
        return 0
    return shared_beginning([plan.ids[: plan.n_prompt] for plan in plans])


def _collect(
    scored: Sequence[_RowScores],
    encoded: Sequence[Encoded],
    candidates: Sequence[tuple[int, ...]],
    hidden: bool,
) -> PassResult:
    nothing = np.zeros(0, dtype=np.float32)
    responses: list[FloatArray] = []
    for row, scores in zip(encoded, scored, strict=True):
        if not row.response_ids:
            responses.append(nothing)
        elif row.response_ids in candidates:
            responses.append(scores.branches[candidates.index(row.response_ids)])
        else:
            responses.append(scores.branches[-1])
    likelihood = greedy = None
    if candidates:
        sums = [[-row.branches[k].sum() for k in range(len(candidates))] for row in scored]
        likelihood = np.array(sums, dtype=np.float32).reshape(len(scored), len(candidates))
        chosen = [greedy_candidate(candidates, row.branches[: len(candidates)]) for row in scored]
        greedy = np.array(chosen, dtype=np.int64)
    states: dict[str, FloatArray] = {}
    if hidden and scored:
        states = {key: np.stack([row.hidden[key] for row in scored]) for key in ("mid", "last")}
    prompts = {i: row.prompt for i, row in enumerate(scored) if row.prompt is not None}
    return PassResult(tuple(responses), prompts, states, likelihood, greedy)


def greedy_candidate(candidates: Sequence[tuple[int, ...]], nll: Sequence[FloatArray]) -> int:
    """Which candidate greedy decoding writes when it may write nothing but the candidates.

    Args:
        candidates: Token ids, closing token included, so that none is the start of another.
        nll: Per candidate, nats of each of its tokens after the prompt and its own earlier tokens.

    A long candidate is not punished by its length, but one that starts badly is never looked at
    again: the walk down the tree of prefixes takes the likeliest token at each fork.
    """
    alive = list(range(len(candidates)))
    place = 0
    while len({candidates[k] for k in alive}) > 1:
        best = min(alive, key=lambda k: float(nll[k][place]))
        token = candidates[best][place]
        alive = [k for k in alive if candidates[k][place] == token]
        place += 1
    return alive[0]


class _Reader:
    """Forward passes of one model over planned rows; keeps the head's copy and the prefix."""

    def __init__(self, base: BaseModel, *, hidden: bool, prefix_ids: Sequence[int] = ()) -> None:
        self.base = base
        self.hidden = hidden
        self.decoder = base.model.get_decoder()
        self.head = Head(base.model, exact=True)
        self.mid_layer = base.layers[max(0, round(MID_DEPTH * base.n_layers) - 1)]
        self.n_prefix = len(prefix_ids)
        self.prefix = self._read_prefix(prefix_ids) if prefix_ids else None

    def read(self, plans: Sequence[_RowPlan]) -> list[_RowScores]:
        with torch.inference_mode():
            last, mid = self._states(plans)
            wanted = [_predictions(plan) for plan in plans]
            # One product with the head for all rows: row by row its weights would be read anew.
            nll = _token_nll(
                self.head,
                last.flatten(0, 1),
                [
                    row * last.shape[1] + at
                    for row, (places, _) in enumerate(wanted)
                    for at in places
                ],
                [target for _, targets in wanted for target in targets],
            )
            ends = np.cumsum([len(targets) for _, targets in wanted])
            rows = enumerate(zip(plans, np.split(nll, ends[:-1]), strict=True))
            return [
                _RowScores(*_split_row(plan, row_nll), self._mean_states(plan, last, mid, row))
                for row, (plan, row_nll) in rows
            ]

    def _read_prefix(self, ids: Sequence[int]) -> Cache:
        """Keys and values of what all rows begin with."""
        cache = DynamicCache()
        with torch.inference_mode():
            self.decoder(
                input_ids=torch.tensor([ids], device=self.base.model.device),
                past_key_values=cache,
                use_cache=True,
            )
        return Cache(layers=[_PrefixLayer(layer) for layer in cache.layers])

    def _states(self, plans: Sequence[_RowPlan]) -> tuple[torch.Tensor, torch.Tensor | None]:
        ids, positions, mask = _layout(self.base, plans, self.n_prefix)
        kept: list[torch.Tensor] = []
        hook = None
        if self.hidden:
            hook = self.mid_layer.register_forward_hook(
                lambda _module, _inputs, output: kept.append(
                    output[0] if isinstance(output, tuple) else output
                )
            )
        try:
            out = self.decoder(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=self.prefix,
                use_cache=self.prefix is not None,
            )
        finally:
            if hook is not None:
                hook.remove()
        return out.last_hidden_state, kept[0] if kept else None  # (rows, longest, d)

    def _mean_states(
        self, plan: _RowPlan, last: torch.Tensor, mid: torch.Tensor | None, row: int
    ) -> dict[str, FloatArray]:
        if mid is None:
            return {}
        depths = (("mid", mid), ("last", last))
        # An empty prompt has no tokens of its own; the template's stand in for them.
        start, end = plan.content if plan.content[1] > plan.content[0] else (0, plan.n_prompt)
        return {
            key: states[row, start:end].float().mean(dim=0).cpu().numpy() for key, states in depths
        }


def _split_row(plan: _RowPlan, nll: FloatArray) -> tuple[tuple[FloatArray, ...], FloatArray | None]:
    """A row's nats per token, as (branches, prompt)."""
    parts = np.split(nll, np.cumsum([len(branch) for branch in plan.branches]))
    return tuple(parts[:-1]), parts[-1] if plan.with_prompt_nll else None


class _PrefixLayer(DynamicLayer):
    """One layer's keys and values of a prefix, the same for every row; it never grows."""

    def __init__(self, read: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers leaves it bare
        self.lazy_initialization(read.keys, read.values)
        self.keys: torch.Tensor = read.keys  # (1, heads, n_prefix, d_head)
        self.values: torch.Tensor = read.values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The prefix's keys and values before those of every row."""
        n_rows = len(key_states)
        keys = self.keys.expand(n_rows, -1, -1, -1)
        values = self.values.expand(n_rows, -1, -1, -1)
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)


def _predictions(plan: _RowPlan) -> tuple[list[int], list[int]]:
    """Positions whose next-token distribution is wanted, and the tokens wanted there."""
    sources: list[int] = []
    targets: list[int] = []
    at = plan.n_prompt
    for branch in plan.branches:
        sources += [plan.n_prompt - 1, *range(at, at + len(branch) - 1)]
        targets += branch
        at += len(branch) - 1
    if plan.with_prompt_nll:
        start, end = max(plan.content[0], 1), plan.content[1]
        sources += range(start - 1, end - 1)
        targets += plan.ids[start:end]
    return sources, targets


def _token_nll(
    head: Head, states: torch.Tensor, sources: Sequence[int], targets: Sequence[int]
) -> FloatArray:
    """-log p(targets[i] | what stands up to sources[i]), nats. `states`: (length, d)."""
    # Branches that start at one position share its distribution, so it is computed once.
    places, which = np.unique(np.array(sources, dtype=np.int64), return_inverse=True)
    wanted = np.array(targets, dtype=np.int64)
    nll = np.zeros(len(wanted), dtype=np.float32)
    for at in range(0, len(places), POSITIONS_AT_ONCE):
        end = at + POSITIONS_AT_ONCE
        logits = head.logits(states[torch.from_numpy(places[at:end])])
        here = np.flatnonzero((which >= at) & (which < end))
        rows = torch.from_numpy(which[here] - at).to(logits.device)
        columns = torch.from_numpy(wanted[here]).to(logits.device)
        picked = logits[rows, columns] - torch.logsumexp(logits, dim=1)[rows]
        nll[here] = -picked.cpu().numpy()
    return nll


def _layout(
    base: BaseModel, plans: Sequence[_RowPlan], n_prefix: int = 0
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | dict[str, torch.Tensor] | None]:
    """Padded ids, position ids and attention mask of a batch.

    Rows with one branch need only the causal mask, which the model makes itself. Others, and rows
    that go on after a prefix, get a mask of four dimensions in which a branch sees the prompt and
    itself, never its sisters.
    """
    longest = max(len(plan.ids) for plan in plans)
    pad = base.tokenizer.pad_token_id
    ids = torch.full((len(plans), longest), int(pad), dtype=torch.long)
    positions = torch.zeros((len(plans), longest), dtype=torch.long)
    branch_of = torch.full((len(plans), longest), -1, dtype=torch.long)  # -1 is padding
    for row, plan in enumerate(plans):
        places, marks = list(range(plan.n_prompt)), [0] * plan.n_prompt
        for number, branch in enumerate(plan.branches, start=1):
            places += range(plan.n_prompt, plan.n_prompt + len(branch) - 1)
            marks += [number] * (len(branch) - 1)
        ids[row, : len(plan.ids)] = torch.tensor(plan.ids)
        positions[row, : len(plan.ids)] = torch.tensor(places)
        branch_of[row, : len(plan.ids)] = torch.tensor(marks)
    device = base.model.device
    if not n_prefix and all(len(plan.branches) <= 1 for plan in plans):
        # Padding stands on the right, where a causal mask already hides it from every real token.
        # No position ids: transformers would take the padding's for the start of a packed sequence.
        return ids.to(device), None, None
    mask = _branch_mask(base, branch_of, positions, n_prefix)
    return ids.to(device), (positions + n_prefix).to(device), mask


def _branch_mask(
    base: BaseModel, branch_of: torch.Tensor, positions: torch.Tensor, n_prefix: int
) -> torch.Tensor | dict[str, torch.Tensor]:
    length = branch_of.shape[1]
    order = torch.arange(length)
    seen, sees = branch_of[:, None, :], branch_of[:, :, None]
    allowed = (order[None, :] <= order[:, None]) & ((seen == 0) | (seen == sees)) & (seen >= 0)
    allowed |= torch.eye(length, dtype=torch.bool)  # a padding token sees itself: no NaN rows
    before = torch.ones((*allowed.shape[:2], n_prefix), dtype=torch.bool)
    allowed = torch.cat([before, allowed], dim=2)  # (rows, longest, n_prefix + longest)
    full = _additive(base, allowed)
    config = base.model.config.get_text_config()
    if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
        return full
    seen_at = torch.arange(n_prefix).expand(len(positions), -1)
    seen_at = torch.cat([seen_at, positions + n_prefix], dim=1)
    distance = (positions + n_prefix)[:, :, None] - seen_at[:, None, :]
    near = allowed & (distance < config.sliding_window)
    return {"full_attention": full, "sliding_attention": _additive(base, near)}


def _additive(base: BaseModel, allowed: torch.Tensor) -> torch.Tensor:
    blocked = torch.finfo(base.dtype).min
    mask = torch.zeros(allowed.shape, dtype=base.dtype).masked_fill_(~allowed, blocked)
    return mask[:, None].to(base.model.device)  # (rows, 1, longest, n_prefix + longest)


def _generate_batch(
    base: BaseModel, prompts: Sequence[tuple[int, ...]], max_new_tokens: int
) -> list[WrittenAnswer]:
    longest = max(len(ids) for ids in prompts)
    pad = int(base.tokenizer.pad_token_id)
    ids = torch.full((len(prompts), longest), pad, dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    stops = {base.tokenizer.eos_token_id, *_template_ids(base, "base").closing} - {None}
    # The model's own settings may hold penalties that no protocol mentions, and `generate` fills
    # what a given config leaves open from them: so ours stands in their place.
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=sorted(int(stop) for stop in stops),
        pad_token_id=pad,
    )
    own, base.model.generation_config = base.model.generation_config, greedy
    try:
        with torch.inference_mode():
            out = base.model.generate(
                ids.to(base.model.device), attention_mask=mask.to(base.model.device)
            )
    finally:
        base.model.generation_config = own
    written = out[:, longest:]
    texts = base.tokenizer.batch_decode(written, skip_special_tokens=True)
    return [
        _ended_answer(str(text).strip(), ids, greedy.eos_token_id)
        for text, ids in zip(texts, written.tolist(), strict=True)
    ]


def _ended_answer(text: str, ids: Sequence[int], stops: Collection[int]) -> WrittenAnswer:
    """An answer from its ids; what follows the first end mark is padding."""
    n_tokens = next((i for i, token in enumerate(ids) if token in stops), None)
    if n_tokens is None:
        return WrittenAnswer(text, n_tokens=len(ids), finish="length")
    return WrittenAnswer(text, n_tokens=n_tokens, finish="stop")


def _check_lengths(base: BaseModel, encoded: Sequence[Encoded]) -> None:
    limit = base.context_length
    for index, row in enumerate(encoded):
        if limit is not None and row.n_tokens > limit:
            raise ScoringError(
                f"row {index + 1} has {row.n_tokens:,} tokens, but {base.identity.name} reads at "
                f"most {limit:,}; shorten the row or leave it out."
            )


def _ids(base: BaseModel, text: str) -> tuple[int, ...]:
    return tuple(base.tokenizer(text, add_special_tokens=False)["input_ids"])


class _TemplateIds(NamedTuple):
    """Token ids that a template puts around a row."""

    before: tuple[int, ...]
    """Before the user's text."""
    after: tuple[int, ...]
    """Between it and the answer."""
    closing: tuple[int, ...]
    """After the answer."""


# Weak, or a base model would stay in memory for as long as its template is remembered.
_KNOWN_TEMPLATES: "WeakKeyDictionary[BaseModel, dict[TemplateName, _TemplateIds]]" = (
    WeakKeyDictionary()
)


def _template_ids(base: BaseModel, template: TemplateName) -> _TemplateIds:
    known = _KNOWN_TEMPLATES.setdefault(base, {})
    if template not in known:
        before, after, closing = _template_texts(base, template)
        # Templates close a turn by a token and perhaps a newline; only the token ends the answer.
        end = _ids(base, closing)[:1]
        known[template] = _TemplateIds(_ids(base, before), _ids(base, after), end)
    return known[template]


def _template_texts(base: BaseModel, template: TemplateName) -> tuple[str, str, str]:
    tokenizer = base.tokenizer
    start, end = tokenizer.bos_token or "", tokenizer.eos_token or "\n"
    if template == "question-answer":
        return f"{start}###Question: ", "\n###Answer: ", end
    if template == "plain" or base.template == "plain":
        return start, "\n", end
    user = [{"role": "user", "content": _SENTINEL}]
    opened = tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
    before, _, after = str(opened).partition(_SENTINEL)
    turns = [*user, {"role": "assistant", "content": _SENTINEL}]
    whole = str(tokenizer.apply_chat_template(turns, tokenize=False))
    closing = whole.rpartition(_SENTINEL)[2]
    return before, after, closing or str(tokenizer.eos_token)
