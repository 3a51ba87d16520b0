"""Tasks, and the examples that their prompts show, from the sources that a request names."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from adapt_lora.data import Dataset, DataSource, Echo, read_dataset, source_name
from adapt_lora.data.suite import (
    GITHUB_HOST,
    RowSource,
    SourceFetcher,
    SuiteTask,
    read_suite_task,
    suite_tasks,
)
from adapt_lora.errors import AdaptError, ConfigError
from adapt_lora.evaluator.cells import EVERY_ROW, CellFailure
from adapt_lora.evaluator.fewshot import Shots, draw_shots
from adapt_lora.evaluator.grading import check_gradable
from adapt_lora.evaluator.request import EvaluationRequest
from adapt_lora.evaluator.tasks import Task, make_task
from adapt_lora.model.base import cache_dir


@dataclass(frozen=True, slots=True)
class ReadTask:
    """A task that can be scored, and what it was made from."""

    source: DataSource
    """As the request names it; of a suite's task, its name."""
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


def read_tasks(
    request: EvaluationRequest, *, say: Callable[[str], None] | None = None
) -> ReadTasks:
    """The tasks of a request that can be scored as asked, and why the others can't.

    Args:
        request: Names files and folders, or a suite.
        say: Told which tasks of a suite are fetched.

    Raises:
        AdaptError: There is no task that can be scored as asked.
        ConfigError: Sources of examples are missing.
    """
    usable: list[ReadTask] = []
    failures: list[CellFailure] = []
    for name, read in _readers(request, say):
        try:
            done = read()
            name = done.task.record.name
            check_gradable(done.task, request.grading.graded_metrics)
        except AdaptError as error:
            failures.append(CellFailure(EVERY_ROW, name, str(error)))
            last = error
        else:
            usable.append(done)
    if not usable:
        raise last
    if request.shots is None:
        return ReadTasks(tuple(usable), None, tuple(failures))
    pools: list[Dataset] = []
    shots, lost = _draw_examples(usable, request, request.shots, pools)
    return ReadTasks(tuple(usable), shots, (*failures, *lost), tuple(pools))


def _readers(
    request: EvaluationRequest, say: Callable[[str], None] | None
) -> Iterator[tuple[str, Callable[[], ReadTask]]]:
    """What a task is called before it is read, and how it is read; files first, then the suite."""
    for source in request.tasks:
        yield source_name(source), partial(_read_source, request, source)
    if request.suite is not None:
        rows = _suite_rows()
        for definition in suite_tasks(request.suite):
            if say is not None and rows.needs_network(definition):
                say(f"Fetching {definition.name} from {definition.source}")
            yield definition.name, partial(_read_definition, request, definition, rows)


def _read_source(request: EvaluationRequest, source: DataSource) -> ReadTask:
    dataset = read_dataset(source, mapping=request.mapping, allow_skips=request.allow_skips)
    task = make_task(dataset, metric=request.metric, max_rows=request.max_rows, seed=request.seed)
    return ReadTask(source, dataset, task)


def _read_definition(
    request: EvaluationRequest, definition: SuiteTask, rows: RowSource
) -> ReadTask:
    dataset = read_suite_task(definition, rows, max_rows=request.max_rows, seed=request.seed)
    return ReadTask(definition.name, dataset, make_task(dataset, metric=request.metric))


def _suite_rows() -> RowSource:
    """Where rows of suites come from, as the environment says.

    Raises:
        ConfigError: ADAPT_SUITE_DIR is no folder.
    """
    named = os.environ.get("ADAPT_SUITE_DIR")
    folder = Path(named).expanduser() if named else None
    if folder is not None and not folder.is_dir():
        raise ConfigError(
            f"ADAPT_SUITE_DIR is {folder}, which is no folder. Name one that holds "
            "NAME/test.jsonl of each task, or leave the variable out to fetch the public files."
        )
    host = os.environ.get("ADAPT_SUITE_HOST") or GITHUB_HOST
    return RowSource(SourceFetcher(cache_dir() / "suite", host=host), folder)


def _draw_examples(
    tasks: Sequence[ReadTask], request: EvaluationRequest, n_shots: int, pools: list[Dataset]
) -> tuple[dict[str, Shots], list[CellFailure]]:
    """Examples by task, and the tasks that have none to show; `pools` gets what was read."""
    # Folders and Hub datasets have a split to learn from; a file and rows held here have none.
    alone = [read for read in tasks if _stands_alone(read.source)]
    if len(request.shots_from) != len(alone):
        raise ConfigError(
            f"--shots needs one --shots-from for each task that is a file "
            f"({', '.join(source_name(read.source) for read in alone) or 'none is'}), in their "
            f"order, but {len(request.shots_from)} are given. Folders bring their own train.jsonl."
        )
    given = dict(zip(map(id, alone), request.shots_from, strict=True))
    shots: dict[str, Shots] = {}
    failures: list[CellFailure] = []
    for read in tasks:
        name, taken = read.task.record.name, {row.digest for row in read.dataset.rows}
        try:
            source = given.get(id(read), read.source)
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


def _stands_alone(source: DataSource) -> bool:
    return not isinstance(source, str | Path) or Path(source).is_file()
