"""The transformers backend: one base model in memory, adapters merged in place, one at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from adapt_lora.data import Row
from adapt_lora.model import scoring
from adapt_lora.model.base import BaseModel
from adapt_lora.model.scoring import FloatArray, LabelScores, Steps


class TransformersBackend:
    """Scores and writes with a loaded base model, on whatever device it is on."""

    family = "transformers"

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self._n_tokens: dict[str, int] = {}  # the same prompts are counted for every adapter

    @property
    def template(self) -> str:
        """Kind of template, and a digest of the tokens that it puts around an empty turn."""
        frame = scoring.encode_row(self.base, "", "")
        tokens = repr((frame.prompt_ids, frame.response_ids))
        return f"{self.base.template}:{sha256(tokens.encode()).hexdigest()[:12]}"

    @contextmanager
    def adapted(self, folder: Path | None) -> Iterator[None]:
        """Have an adapter merged for the duration of a `with` block; None for the bare base."""
        if folder is None:
            yield
            return
        with self.base.adapted(folder):
            yield

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without a template."""
        new = [text for text in dict.fromkeys(texts) if text not in self._n_tokens]
        if new:
            encoded = self.base.tokenizer(new, add_special_tokens=False)
            self._n_tokens |= {
                text: len(ids) for text, ids in zip(new, encoded["input_ids"], strict=True)
            }
        return [self._n_tokens[text] for text in texts]

    def score_labels(
        self, prompts: Sequence[str], labels: Sequence[str], *, progress: Steps | None = None
    ) -> LabelScores:
        """Log-likelihood of each label as the answer to each prompt, from one pass per prompt."""
        return scoring.score_labels(self.base, prompts, labels, progress=progress)

    def answer_nll(self, rows: Sequence[Row], *, progress: Steps | None = None) -> list[FloatArray]:
        """Per row, nats per token of the reference response, without the template's tokens."""
        encoded = scoring.encode_rows(self.base, rows)
        read = scoring.read_pass(self.base, encoded, hidden=False, progress=progress)
        return [
            nll[: len(nll) - row.n_template_response]
            for nll, row in zip(read.response_nll, encoded, strict=True)
        ]

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int, progress: Steps | None = None
    ) -> Sequence[str]:
        """Greedy answers, in the order of the prompts."""
        return scoring.generate(
            self.base, prompts, max_new_tokens=max_new_tokens, progress=progress
        )
