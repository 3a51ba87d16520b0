"""A suite's task with its rows: those that everybody scores, wherever they are read from."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adapt_lora.data.dataset import Dataset, Row
from adapt_lora.data.reading import read_dataset
from adapt_lora.data.suite.definitions import DIGEST_BYTES, SuiteTask
from adapt_lora.data.suite.fetching import SourceFetcher
from adapt_lora.data.suite.formats import read_records
from adapt_lora.data.suite.rows import build_rows
from adapt_lora.errors import DatasetError

_MIN_SHARE_FOUND = 0.9


@dataclass(frozen=True, slots=True)
class RowSource:
    """Where rows of suites come from."""

    fetcher: SourceFetcher
    """Gets the public files."""
    folder: Path | None = None
    """Holds NAME/test.jsonl, whose rows are taken instead; None to fetch the public files."""

    def needs_network(self, task: SuiteTask) -> bool:
        """Whether the rows of a task have to be fetched, from a host that may be there."""
        if self.folder is not None or self.fetcher.unreachable:
            return False
        return not self.fetcher.has(task)


def read_suite_task(
    task: SuiteTask, source: RowSource, *, max_rows: int | None = None, seed: int = 0
) -> Dataset:
    """The rows of a task that are scored, and no others.

    Args:
        task: Its definition.
        source: Where its rows come from.
        max_rows: As many of the test rows, drawn by the seed; None for the usual number.
        seed: Decides the draw.

    Raises:
        DatasetError: The rows can't be had, or fewer than nine in ten of them are there.
    """
    if source.folder is not None:
        rows: Iterable[Row] = _folder_rows(task, source.folder)
    else:
        rows = _fetched_rows(task, source.fetcher)
    by_digest: dict[bytes, Row] = {}
    for row in rows:
        by_digest.setdefault(bytes.fromhex(row.digest[: 2 * DIGEST_BYTES]), row)
    wanted = task.measured_digests(max_rows, seed=seed)
    found = tuple(by_digest[digest] for digest in wanted if digest in by_digest)
    where = task.source if source.folder is None else f"{source.folder}/{task.name}"
    if len(found) < _MIN_SHARE_FOUND * len(wanted):
        if source.folder is None:
            source.fetcher.forget(task)
        raise DatasetError(
            f"{task.name}: only {len(found):,} of the {len(wanted):,} rows of the suite are in "
            f"{where} ({len(by_digest):,} other or same rows read), so it is another copy of the "
            "data and its scores would not compare. Go on without it, or set ADAPT_SUITE_DIR to "
            f"a folder that holds the right {task.name}/test.jsonl."
        )
    lost = len(wanted) - len(found)
    return Dataset(
        name=task.name,
        rows=found,
        group=task.group,
        source=task.source if source.folder is None else "test.jsonl",
        shape="suite",
        mapping=_mapping(task),
        n_read=len(wanted),
        skipped=(),
        labels=task.labels,
        metric=task.metric,
        family=task.family,
        file_format=task.format if source.folder is None else "JSONL",
        notes=(
            (
                f"{lost:,} of the {len(wanted):,} rows of the suite are not in {where}: its scores "
                "compare with others only nearly",
            )
            if lost
            else ()
        ),
    )


def _folder_rows(task: SuiteTask, folder: Path) -> tuple[Row, ...]:
    place = folder / task.name
    if not place.is_dir():
        raise DatasetError(
            f"{task.name}: ADAPT_SUITE_DIR is {folder}, which has no folder {task.name} with a "
            "test.jsonl. Put it there, or leave the variable out to fetch the public files."
        )
    return read_dataset(place, split="test", allow_skips=True).rows


def _fetched_rows(task: SuiteTask, fetcher: SourceFetcher) -> list[Row]:
    contents = fetcher.fetch(task)
    try:
        return list(build_rows(task, read_records(task, contents)))
    except DatasetError:
        fetcher.forget(task)
        raise


def _mapping(task: SuiteTask) -> dict[str, str]:
    """Role to field, as for people: template names such as {options} are no fields."""
    ours = {"labels", "letters", "options", "optional"}
    named = [name for name in re.findall(r"\{([\w.]+)\}", task.prompt) if name not in ours]
    roles = {"prompt": "+".join(dict.fromkeys(named)), "response": task.response}
    if task.label:
        roles["label"] = task.label
    return {role: field for role, field in roles.items() if field}
