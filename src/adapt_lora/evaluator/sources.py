"""Tasks, and the examples that their prompts show, from the sources that a request names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapt_lora.data import Dataset, Echo, read_dataset
from adapt_lora.errors import AdaptError, ConfigError
from adapt_lora.evaluator.cells import EVERY_ROW, CellFailure
from adapt_lora.evaluator.fewshot import Shots, draw_shots
from adapt_lora.evaluator.grading import check_gradable
from adapt_lora.evaluator.request import EvaluationRequest
from adapt_lora.evaluator.tasks import Task, make_task


@dataclass(frozen=True, slots=True)
class ReadTask:
    """A task that can be scored, and what it was made from."""

    source: str | Path
    """As the request names it."""
    dataset: Dataset
    """All its rows, those that are not scored included."""
    task: Task
    """The rows that are scored, and the metric."""


@dataclass(frozen=True, slots=True)
class ReadTasks:
    """What became of the sources of a request."""

    usable: tuple[ReadTask, ...]
    """Tasks that can be scored as asked."""
    shots: Mapping[str, Shots] | None
    """Examples that the prompts show, by task; None where none are asked for."""
    failures: tuple[CellFailure, ...]
    """Why other tasks can't be scored, or have no examples to show."""
    pools: tuple[Dataset, ...] = ()
    """The rows that examples were drawn from."""

    @property
    def tasks(self) -> list[Task]:
        """The tasks that can be scored."""
        return [read.task for read in self.usable]

    @property
    def echoes(self) -> dict[str, Echo]:
        """What the reader made of the usable sources, by task."""
        return {read.task.record.name: read.dataset.echo for read in self.usable}


def read_tasks(request: EvaluationRequest) -> ReadTasks:
    """The tasks of a request that can be scored as asked, and why the others can't.

    Raises:
        AdaptError: There is no task that can be scored as asked.
        ConfigError: Sources of examples are missing.
    """
    usable: list[ReadTask] = []
    failures: list[CellFailure] = []
    for source in request.tasks:
        name = Path(source).name
        try:
            dataset = read_dataset(source, mapping=request.mapping, allow_skips=request.allow_skips)
            task = make_task(
                dataset, metric=request.metric, max_rows=request.max_rows, seed=request.seed
            )
            name = task.record.name
            check_gradable(task, request.grading.graded_metrics)
        except AdaptError as error:
            failures.append(CellFailure(EVERY_ROW, name, str(error)))
            last = error
        else:
            usable.append(ReadTask(source, dataset, task))
    if not usable:
        raise last
    if request.shots is None:
        return ReadTasks(tuple(usable), None, tuple(failures))
    pools: list[Dataset] = []
    shots, lost = _draw_examples(usable, request, request.shots, pools)
    return ReadTasks(tuple(usable), shots, (*failures, *lost), tuple(pools))


def _draw_examples(
    tasks: Sequence[ReadTask], request: EvaluationRequest, n_shots: int, pools: list[Dataset]
) -> tuple[dict[str, Shots], list[CellFailure]]:
    """Examples by task, and the tasks that have none to show; `pools` gets what was read."""
    files = [read.source for read in tasks if Path(read.source).is_file()]
    if len(request.shots_from) != len(files):
        raise ConfigError(
            f"--shots needs one --shots-from for each task that is a file "
            f"({', '.join(Path(file).name for file in files) or 'none is'}), in their "
            f"order, but {len(request.shots_from)} are given. Folders bring their own train.jsonl."
        )
    given = dict(zip(files, request.shots_from, strict=True))
    shots: dict[str, Shots] = {}
    failures: list[CellFailure] = []
    for read in tasks:
        name, taken = read.task.record.name, {row.digest for row in read.dataset.rows}
        try:
            source = given.get(read.source, read.source)
            pool = read_dataset(
                source,
                mapping=request.mapping,
                split="train",
                allow_skips=request.allow_skips,
            )
            pools.append(pool)
            shots[name] = draw_shots(pool.rows, read.task, n_shots, seed=request.seed, taken=taken)
        except AdaptError as error:
            if len(tasks) == 1:
                raise
            failures.append(CellFailure(EVERY_ROW, name, str(error)))
    return shots, failures
