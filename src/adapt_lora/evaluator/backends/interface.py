"""What measuring asks of a backend."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

from adapt_lora.data import Row
from adapt_lora.model.scoring import FloatArray, LabelScores, Steps


class Backend(Protocol):
    """A base model that can take adapters, score texts and write answers."""

    @property
    def family(self) -> str:
        """Backends of one family give scores that may be compared; goes into the protocol."""
        ...

    @property
    def template(self) -> str:
        """Names the prompt template and its tokens; goes into the protocol."""
        ...

    def adapted(self, folder: Path | None) -> AbstractContextManager[None]:
        """Have an adapter on for the duration of a `with` block; None for the bare base.

        Raises AdapterError where the adapter can't be used.
        """
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without a template."""
        ...

    def score_labels(
        self, prompts: Sequence[str], labels: Sequence[str], *, progress: Steps | None = None
    ) -> LabelScores:
        """Log-likelihood of each label, end of turn included, as the answer to each prompt."""
        ...

    def answer_nll(self, rows: Sequence[Row], *, progress: Steps | None = None) -> list[FloatArray]:
        """Per row, nats per token of the reference response, without the template's tokens."""
        ...

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int, progress: Steps | None = None
    ) -> Sequence[str]:
        """Greedy answers, in the order of the prompts; `WrittenAnswer`s where it knows the end."""
        ...


@runtime_checkable
class MixingBackend(Backend, Protocol):
    """A backend that answers for many adapters in one batch, and checks itself that each is on."""

    def together(self, folders: Sequence[Path | None]) -> AbstractContextManager[None]:
        """Until the block ends, a question put under one of these may be asked of all at once.

        The caller still puts adapters on one by one (`adapted`) and asks the same question under
        each; the answers are the same as without this block.
        """
        ...
