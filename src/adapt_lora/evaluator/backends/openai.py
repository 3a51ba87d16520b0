"""The server backend: an OpenAI-compatible server that knows adapters by name.

Prompts go out as token ids, so that the server's own template and tokenizer decide nothing. What a
server can do is tried once, with the first question of each kind.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from adapt_lora.data import Row
from adapt_lora.errors import AdapterError, ScoringError, ServerError
from adapt_lora.evaluator.backends.delegating import DelegatingBackend
from adapt_lora.evaluator.backends.endpoint import Endpoint
from adapt_lora.evaluator.backends.served import describe_served
from adapt_lora.evaluator.backends.tokens import TokenTree, score_paths, stop_ids
from adapt_lora.model import scoring
from adapt_lora.model.base import BaseModel
from adapt_lora.model.scoring import FloatArray, LabelScores, Steps

Road = Literal["asked", "echo"]
"""How log-probabilities come: "asked" names the tokens that are wanted after a prompt (vLLM's
`logprob_token_ids`); "echo" has the prompt read back with the log-probability of each token."""

# Prompts of one request: the server batches across requests anyway.
_PROMPTS_PER_REQUEST = 16
# vLLM's own limit on the tokens that one request may ask for.
_MAX_ASKED_TOKENS = 128


class OpenAIBackend(DelegatingBackend):
    """Scores and writes through a server, adapters by the names it knows or loads.

    What a server would not run as PEFT does goes to transformers, on this machine.

    Attributes:
        model: The name that the server gives the base model.
        road: How it gives log-probabilities.
        warnings: Sentences about adapters that the server did not measure.
    """

    def __init__(
        self,
        base: BaseModel,
        endpoint: Endpoint,
        *,
        model: str | None = None,
        names: Mapping[Path, str] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """Ask the server what it serves and how it gives log-probabilities.

        Args:
            base: The same base model: its tokenizer and template make the prompts.
            endpoint: The server.
            model: Name of the base model there; may be left out where it serves one.
            names: Names that the server may have for adapters already, by folder. What it has under
                none of these goes by the name of its content, and the server is asked to load it.
            warn: Told what the server does not measure, as it arises.

        Raises:
            ServerError: It can't be reached, serves another model, or gives no log-probabilities.
        """
        super().__init__(base, warn=warn)
        self.endpoint = endpoint
        self._names = dict(names or {})
        self._loaded: list[str] = []
        self._served = self._list_models()
        self.model = self._choose_model(model)
        self.road = self._find_road()
        self._on: str = self.model

    @property
    def family(self) -> str:
        """Names the road: a server may hold other weights (quantised, say) than the base's own."""
        return f"openai:{self.road}"

    def close(self) -> None:
        """Have the server forget the adapters that it loaded for us, and hang up."""
        for name in self._loaded:
            try:
                self.endpoint.command("/v1/unload_lora_adapter", {"lora_name": name})
            except ServerError:
                break  # it is gone, or keeps what it has; nothing of ours depends on it
        self._loaded.clear()
        self.endpoint.close()

    def _refusal(self, folder: Path) -> str | None:
        if self._names.get(folder) in self._served:
            return None
        return describe_served(folder).refusal

    def _describe_refusal(self, reason: str) -> str:
        return (
            f"a server does not run this adapter as PEFT does ({reason}); it was measured by "
            "transformers on this machine, while its base was measured by the server: its gain "
            "holds as far as the two agree on the base."
        )

    @contextmanager
    def _engaged(self, folder: Path | None) -> Iterator[None]:
        self._on = self.model if folder is None else self._adapter_name(folder)
        try:
            yield
        finally:
            self._on = self.model

    def _ask_labels(
        self, prompts: Sequence[str], labels: Sequence[str], progress: Steps | None
    ) -> LabelScores:
        tree = TokenTree.of(scoring.label_ids(self.base, labels))
        encoded = [scoring.encode_row(self.base, prompt, None).prompt_ids for prompt in prompts]
        if self.road == "asked":
            return tree.scores(self._read_forks(encoded, tree, progress))
        texts = [(*ids, *label) for ids in encoded for label in tree.labels]
        lengths = [len(label) for _ in encoded for label in tree.labels]
        read = iter(self._read_back(texts, lengths, progress))
        return score_paths(tree.labels, [[next(read) for _ in tree.labels] for _ in encoded])

    def _ask_nll(self, rows: Sequence[Row], progress: Steps | None) -> list[FloatArray]:
        encoded = scoring.encode_rows(self.base, rows)
        texts = [(*row.prompt_ids, *row.response_ids) for row in encoded]
        lengths = [len(row.response_ids) for row in encoded]
        read = self._read_back(texts, lengths, progress)
        return [
            -values[: len(values) - row.n_template_response]
            for values, row in zip(read, encoded, strict=True)
        ]

    def _ask_texts(
        self, prompts: Sequence[str], max_new_tokens: int, progress: Steps | None
    ) -> Sequence[str]:
        encoded = [scoring.encode_row(self.base, prompt, None).prompt_ids for prompt in prompts]
        stops = stop_ids(self.base)
        wanted = {
            "max_tokens": max_new_tokens,
            "stop": decode_stops(self.base, stops),
            "stop_token_ids": stops,
        }
        choices = self._complete(encoded, wanted, progress)
        return [str(choice.get("text", "")).strip() for choice in choices]

    def _read_forks(
        self, encoded: Sequence[tuple[int, ...]], tree: TokenTree, progress: Steps | None
    ) -> list[dict[tuple[int, ...], dict[int, float]]]:
        """Per prompt, log-probability of every token that may follow at every fork."""
        rows: list[dict[tuple[int, ...], dict[int, float]]] = [{} for _ in encoded]
        for number, (start, tokens) in enumerate(tree.forks.items()):
            for row in rows:
                row[start] = {}
            for at in range(0, len(tokens), _MAX_ASKED_TOKENS):
                asked = tokens[at : at + _MAX_ASKED_TOKENS]
                wanted = {
                    "max_tokens": 1,
                    "logprobs": 1,
                    "logprob_token_ids": list(asked),
                    "return_tokens_as_token_ids": True,
                }
                choices = self._complete([(*ids, *start) for ids in encoded], wanted, None)
                for row, choice in zip(rows, choices, strict=True):
                    row[start] |= _asked_logprobs(choice, asked)
            if progress is not None:
                progress(len(rows) * (number + 1) // len(tree.forks), len(rows))
        return rows

    def _read_back(
        self, texts: Sequence[tuple[int, ...]], lengths: Sequence[int], progress: Steps | None
    ) -> list[FloatArray]:
        """Log-probabilities (nats) of the last `lengths` tokens of each text."""
        wanted = {"max_tokens": 1, "echo": True, "logprobs": 1}
        choices = self._complete(texts, wanted, progress)
        return [
            _echoed_logprobs(choice, len(ids))[len(ids) - n :]
            for choice, ids, n in zip(choices, texts, lengths, strict=True)
        ]

    def _complete(
        self,
        prompts: Sequence[tuple[int, ...]],
        wanted: Mapping[str, Any],
        progress: Steps | None,
    ) -> list[dict[str, Any]]:
        """The server's choice for each prompt."""
        portions = [
            [list(ids) for ids in prompts[at : at + _PROMPTS_PER_REQUEST]]
            for at in range(0, len(prompts), _PROMPTS_PER_REQUEST)
        ]
        bodies = [
            {"model": self._on, "prompt": portion, "temperature": 0, **wanted}
            for portion in portions
        ]

        def done(number: int) -> None:
            if progress is not None:
                progress(min(number * _PROMPTS_PER_REQUEST, len(prompts)), len(prompts))

        answers = self.endpoint.post_all("/v1/completions", bodies, done=done)
        choices: list[dict[str, Any]] = []
        for portion, answer in zip(portions, answers, strict=True):
            found = answer.get("choices")
            if not isinstance(found, list) or len(found) != len(portion):
                got = len(found) if isinstance(found, list) else "no"
                raise ServerError(
                    f"The server at {self.endpoint.url} gave {got} completions to {len(portion)} "
                    "prompts; it may not take prompts as token ids."
                )
            choices += sorted(found, key=lambda choice: int(choice.get("index", 0)))
        return choices

    def _list_models(self) -> dict[str, dict[str, Any]]:
        listed = self.endpoint.get("/v1/models").get("data")
        models = {str(m["id"]): m for m in listed or [] if isinstance(m, dict) and "id" in m}
        if not models:
            raise ServerError(f"The server at {self.endpoint.url} lists no model.")
        return models

    def _choose_model(self, wanted: str | None) -> str:
        # vLLM gives an adapter the name of its base as "parent".
        bare = [name for name, model in self._served.items() if not model.get("parent")]
        if wanted is not None and wanted in self._served:
            return wanted
        for name in (self.base.identity.name, str(self.base.folder)):
            if wanted is None and name in bare:
                return name
        if wanted is None and len(bare) == 1:
            return bare[0]
        what = f"does not serve {wanted!r}" if wanted else "serves several models"
        raise ServerError(
            f"The server at {self.endpoint.url} {what} (it has: {', '.join(sorted(bare)[:8])}). "
            "Name the base model with --server-model."
        )

    def _find_road(self) -> Road:
        probe = scoring.encode_row(self.base, "2 + 3 =", "5")
        ids = (*probe.prompt_ids, *probe.response_ids)
        self._on = self.model
        tree = TokenTree.of([probe.response_ids])
        refusals = []
        try:
            self._read_forks([probe.prompt_ids], tree, None)
        except (ServerError, ScoringError) as error:
            refusals.append(str(error))
        else:
            return "asked"
        try:
            self._read_back([ids], [1], None)
        except (ServerError, ScoringError) as error:
            refusals.append(str(error))
        else:
            return "echo"
        raise ServerError(
            f"The server at {self.endpoint.url} gives no log-probabilities of given tokens, which "
            "scores are made of; `vllm serve` does. It said: " + " / ".join(refusals)
        )

    def _adapter_name(self, folder: Path) -> str:
        known = self._names.get(folder)
        if known in self._served:
            return known
        served = describe_served(folder)
        if served.name in self._served:
            return served.name
        try:
            self.endpoint.command(
                "/v1/load_lora_adapter",
                {"lora_name": served.name, "lora_path": str(served.folder)},
            )
        except ServerError as error:
            raise AdapterError(
                f"{folder}: {error} Start `vllm serve` with --enable-lora, a --max-lora-rank of "
                f"{served.rank} or more and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True where it can "
                f"read this folder, or serve the adapter under the name {known or served.name}."
            ) from error
        self._served[served.name] = {"id": served.name, "parent": self.model}
        self._names[folder] = served.name
        self._loaded.append(served.name)
        return served.name


def decode_stops(base: BaseModel, stops: Sequence[int]) -> list[str]:
    """Stop tokens as texts, for servers that know no `stop_token_ids`."""
    texts = [str(base.tokenizer.decode([token])) for token in stops]
    return [text for text in texts if text][:4]


def _asked_logprobs(choice: Mapping[str, Any], asked: Sequence[int]) -> dict[int, float]:
    try:
        said = choice["logprobs"]["top_logprobs"][0]
        return {token: float(said[f"token_id:{token}"]) for token in asked}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ScoringError(
            "The server's completion lacks the log-probabilities of the tokens asked for "
            "(logprob_token_ids)."
        ) from error


def _echoed_logprobs(choice: Mapping[str, Any], n_prompt: int) -> FloatArray:
    """Log-probability of each prompt token, (n_prompt,); the first has none and is 0."""
    try:
        said = choice["logprobs"]["token_logprobs"]
        if said[0] is not None or len(said) < n_prompt:
            raise ValueError(f"{len(said)} values for {n_prompt} tokens")
        return np.array([0.0, *map(float, said[1:n_prompt])], dtype=np.float32)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ScoringError(
            "The server's completion lacks the log-probabilities of the prompt (echo with "
            f"logprobs): {error}"
        ) from error
