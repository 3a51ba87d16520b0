"""Few-shot rows: the same task with examples of its training split shown in every prompt."""

import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from adapt_lora.data import Row
from adapt_lora.errors import TaskError
from adapt_lora.evaluator.tasks import Task


@dataclass(frozen=True, slots=True)
class Shots:
    """Examples that every prompt of a task shows before its own question."""

    examples: tuple[Row, ...]
    """Answered rows, in the order they are shown."""
    seed: int
    """Decided which rows and in which order."""

    @property
    def preamble(self) -> str:
        """The text before the question: prompt, answer, blank line, and so on."""
        return "".join(f"{row.prompt}\n{row.response}\n\n" for row in self.examples)

    @property
    def digest(self) -> str:
        """sha256 (hex) of all that the examples put into a prompt."""
        return sha256(self.preamble.encode()).hexdigest()

    def shown(self, task: Task) -> Task:
        """The task with the examples in its prompts; its record is left as it is."""
        preamble = self.preamble
        rows = tuple(replace(row, prompt=preamble + row.prompt) for row in task.rows)
        return replace(task, rows=rows)


def draw_shots(
    pool: Sequence[Row], task: Task, shots: int, *, seed: int = 0, taken: Collection[str] = ()
) -> Shots:
    """Draw examples for a task's prompts, evenly over the labels where it has some.

    The paper's few-shot row (Krishna et al. 2025, App. C) shows 2 to 5 examples a task: as many as
    a task has classes, or 3. It does not say how they are chosen or laid out, so here: labels take
    turns in a drawn order, one row each, and the chosen rows are shuffled; as many shots as labels
    show every label once.

    Args:
        pool: Answered rows of the task's training split; none of the scored ones is ever taken.
        task: What the examples are for.
        shots: How many, at least one.
        seed: Decides every draw.
        taken: Digests of further rows that must not be shown, such as test rows left unscored.

    Raises:
        TaskError: Too few rows are left to draw from.
    """
    if shots < 1:
        raise TaskError(f"--shots {shots}: at least one example is needed.")
    name = task.record.name
    digests = {*taken, *(row.digest for row in task.rows)}
    prompts = {_plain(row.prompt) for row in task.rows}
    known = set(task.record.labels)
    free: dict[str, list[Row]] = defaultdict(list)
    for row in dict.fromkeys(pool):
        # A scored question is not to be shown either, whatever answer stands beside it.
        if row.digest in digests or _plain(row.prompt) in prompts:
            continue
        # Label tasks score labels, so labels are the answers to show.
        answer = row.label if task.is_label_task else row.response
        if answer and (not task.is_label_task or answer in known):
            free[answer if task.is_label_task else ""].append(replace(row, response=answer))
    n_free = sum(map(len, free.values()))
    if n_free < shots:
        raise TaskError(
            f"{name}: {shots} examples are asked for, but only {n_free} of {len(pool)} training "
            "rows may be shown (answered, of a known label, and not among the test rows). Give "
            "other rows with --shots-from, or ask for fewer."
        )
    rng = random.Random(seed)
    labels = sorted(free)
    rng.shuffle(labels)
    for label in labels:
        rng.shuffle(free[label])
    chosen: list[Row] = []
    while len(chosen) < shots:
        for label in labels:
            if free[label] and len(chosen) < shots:
                chosen.append(free[label].pop())
    rng.shuffle(chosen)
    return Shots(tuple(chosen), seed)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
