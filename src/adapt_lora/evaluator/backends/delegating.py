"""Backends with an engine elsewhere: what it would not run as PEFT does goes to transformers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Self

from adapt_lora.data import Row
from adapt_lora.evaluator.backends.transformers import TransformersBackend
from adapt_lora.model.base import BaseModel
from adapt_lora.model.scoring import FloatArray, LabelScores, Steps


class DelegatingBackend(ABC):
    """A backend whose engine takes some adapters; the others are measured by transformers here.

    Use it in a `with` block, or call `close`: an engine outlives the questions put to it.

    Attributes:
        warnings: Sentences about adapters that the engine did not measure.
    """

    def __init__(self, base: BaseModel, *, warn: Callable[[str], None] | None = None) -> None:
        """Prepare both roads.

        Args:
            base: The base model; its tokenizer and template make the prompts, and the model itself
                serves adapters that the engine refuses.
            warn: Told what the engine does not measure, as it arises.
        """
        self.base = base
        self.warnings: list[str] = []
        self._tell = warn
        self._plain = TransformersBackend(base)
        self._delegated = False

    @property
    def template(self) -> str:
        """The transformers backend's: the same token ids go in."""
        return self._plain.template

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Let go of the engine."""

    @contextmanager
    def adapted(self, folder: Path | None) -> Iterator[None]:
        """Have an adapter on for the duration of a `with` block; None for the bare base.

        Raises:
            AdapterError: Its files are broken, or neither road can put it on.
        """
        reason = None if folder is None else self._refusal(folder)
        if folder is None or reason is None:
            with self._engaged(folder):
                yield
            return
        self._warn(f"{folder.name}: {self._describe_refusal(reason)}")
        with self._plain.adapted(folder):
            self._delegated = True
            try:
                yield
            finally:
                self._delegated = False

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without a template."""
        return self._plain.count_tokens(texts)

    def score_labels(
        self, prompts: Sequence[str], labels: Sequence[str], *, progress: Steps | None = None
    ) -> LabelScores:
        """Log-likelihood of each label, end of turn included, as the answer to each prompt."""
        if self._delegated:
            return self._plain.score_labels(prompts, labels, progress=progress)
        return self._ask_labels(prompts, labels, progress)

    def answer_nll(self, rows: Sequence[Row], *, progress: Steps | None = None) -> list[FloatArray]:
        """Per row, nats per token of the reference response, without the template's tokens."""
        if self._delegated:
            return self._plain.answer_nll(rows, progress=progress)
        return self._ask_nll(rows, progress)

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int, progress: Steps | None = None
    ) -> Sequence[str]:
        """Greedy answers, in the order of the prompts."""
        if self._delegated:
            return self._plain.generate(prompts, max_new_tokens=max_new_tokens, progress=progress)
        return self._ask_texts(prompts, max_new_tokens, progress)

    @abstractmethod
    def _refusal(self, folder: Path) -> str | None:
        """Why the engine would not run an adapter as PEFT does; None where it would."""

    @abstractmethod
    def _describe_refusal(self, reason: str) -> str:
        """The sentence that a person is told, without the adapter's name."""

    @abstractmethod
    def _engaged(self, folder: Path | None) -> AbstractContextManager[None]:
        """Have the engine answer under an adapter that it takes, or as the bare base."""

    @abstractmethod
    def _ask_labels(
        self, prompts: Sequence[str], labels: Sequence[str], progress: Steps | None
    ) -> LabelScores:
        """`score_labels` by the engine."""

    @abstractmethod
    def _ask_nll(self, rows: Sequence[Row], progress: Steps | None) -> list[FloatArray]:
        """`answer_nll` by the engine."""

    @abstractmethod
    def _ask_texts(
        self, prompts: Sequence[str], max_new_tokens: int, progress: Steps | None
    ) -> Sequence[str]:
        """`generate` by the engine."""

    def _warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)
            if self._tell is not None:
                self._tell(sentence)
