"""What backends share that are spoken to in token ids: labels as a tree, and where answers end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adapt_lora.model import scoring
from adapt_lora.model.base import BaseModel
from adapt_lora.model.scoring import Finish, FloatArray, LabelScores, WrittenAnswer

Start = tuple[int, ...]
"""The first tokens of a label, none at the root."""


@dataclass(frozen=True, slots=True)
class TokenTree:
    """Labels as paths of tokens from one root: those that begin alike share their beginning."""

    labels: tuple[tuple[int, ...], ...]
    """Token ids of each label, closing token included."""
    forks: Mapping[Start, tuple[int, ...]]
    """Tokens that may follow each beginning, sorted."""

    @classmethod
    def of(cls, labels: Sequence[tuple[int, ...]]) -> "TokenTree":
        """The tree of the labels' token ids (`scoring.label_ids`)."""
        forks: dict[Start, set[int]] = {}
        for label in labels:
            for place, token in enumerate(label):
                forks.setdefault(label[:place], set()).add(token)
        return cls(tuple(labels), {start: tuple(sorted(nexts)) for start, nexts in forks.items()})

    def scores(self, rows: Sequence[Mapping[Start, Mapping[int, float]]]) -> LabelScores:
        """Log-likelihood of each label.

        Args:
            rows: Per prompt, log-probability (nats) of each token of each fork.
        """
        return score_paths(
            self.labels,
            [
                [
                    np.array([row[label[:n]][token] for n, token in enumerate(label)])
                    for label in self.labels
                ]
                for row in rows
            ],
        )


def score_paths(
    labels: Sequence[tuple[int, ...]], rows: Sequence[Sequence[FloatArray]]
) -> LabelScores:
    """What a choice between labels needs, from the log-probability of each of their tokens.

    Args:
        labels: Token ids of each label, closing token included.
        rows: Per prompt and label, nats of each of its tokens.
    """
    sums = [[float(values.sum()) for values in row] for row in rows]
    greedy = [scoring.greedy_candidate(labels, [-values for values in row]) for row in rows]
    return LabelScores(
        np.array(sums, dtype=np.float32).reshape(len(rows), len(labels)),
        np.array([len(label) for label in labels], dtype=np.int64),
        np.array(greedy, dtype=np.int64),
    )


def stop_ids(base: BaseModel) -> list[int]:
    """Tokens that end an answer: the template's closing token and the base's own, sorted."""
    closing = scoring.encode_row(base, "", "").response_ids
    own = base.tokenizer.eos_token_id
    return sorted({int(token) for token in (*closing[:1], own) if token is not None})


def decode_answers(base: BaseModel, written: Sequence[Sequence[int]]) -> list[WrittenAnswer]:
    """Answers from written token ids, without special tokens and white space around them."""
    stops = stop_ids(base)
    texts = base.tokenizer.batch_decode([list(ids) for ids in written], skip_special_tokens=True)
    answers = []
    for text, ids in zip(texts, written, strict=True):
        end = next((place for place, token in enumerate(ids) if token in stops), None)
        finish: Finish = "length" if end is None else "stop"
        n_tokens = len(ids) if end is None else end
        answers.append(WrittenAnswer(str(text).strip(), n_tokens=n_tokens, finish=finish))
    return answers
