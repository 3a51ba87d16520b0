"""The protocol: all that decides a score besides adapter and task, under one digest."""

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256

from adapt_lora.evaluator.metrics import LabelDecision


@dataclass(frozen=True)
class Protocol:
    """How a task's rows become a score; two cells are comparable when their digests are equal."""

    metric: str
    """The metric that rules the cell."""
    rows: str
    """Digest of the scored rows, in order."""
    labels: tuple[str, ...]
    """The label set, in order; empty for generation tasks."""
    template: str
    """How prompts are wrapped: "chat" (the base's own template) or "plain"."""
    scoring: str
    """Version of the scoring code."""
    decision: LabelDecision | None
    """How a label is chosen; None for generation tasks."""
    max_new_tokens: int | None
    """Tokens that a greedy answer may have; None where nothing is generated."""
    backend: str
    """Backend family: "transformers" for all that run the base's own weights here and differ by
    rounding alone, vLLM too; "openai:…" for servers, whose weights nobody here can know."""
    grader: str | None = None
    """What grades answers beside their references: the judge and its rubric, or the unit tests and
    how they are run; None where the references alone do."""

    shots: int | None = None
    """Examples that each prompt shows; None for none."""
    shots_seed: int | None = None
    """What decided which examples."""
    shots_digest: str | None = None
    """Digest of the examples as they stand in the prompt."""

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) over every field; grader and shots count only where there are any."""
        fields = {
            name: value
            for name, value in asdict(self).items()
            if value is not None or not name.startswith(("grader", "shots"))
        }
        text = json.dumps(fields, sort_keys=True, ensure_ascii=True)
        return sha256(text.encode()).hexdigest()

    @property
    def zero_shot(self) -> "Protocol":
        """The same protocol without examples in the prompt."""
        return replace(self, shots=None, shots_seed=None, shots_digest=None)
