"""The one reader of user files: any recognised shape in, a dataset out.

docs/data.md lists the shapes, the detection rules and what happens with each kind of dirt.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from adapt_lora.data.cells import unfold_cells
from adapt_lora.data.dataset import Dataset, Row
from adapt_lora.data.fields import detect_fields
from adapt_lora.data.files import read_saved_dataset, read_shards
from adapt_lora.data.hub import HubId, read_hub
from adapt_lora.data.labels import settle_labels, settle_role
from adapt_lora.data.memory import DataSource, check_source, read_held
from adapt_lora.data.meta import Meta, read_meta
from adapt_lora.data.places import Place, find_place, group_of
from adapt_lora.data.rows import read_rows
from adapt_lora.data.skips import check_skips
from adapt_lora.data.splits import rows_of_split
from adapt_lora.data.table import Table
from adapt_lora.data.values import listed
from adapt_lora.errors import ConfigError


def read_dataset(
    source: DataSource,
    *,
    mapping: Mapping[str, str] | None = None,
    group: str | None = None,
    name: str | None = None,
    split: str = "test",
    allow_skips: bool = False,
) -> Dataset:
    """Read rows from a file, a folder with meta.json, a Hub dataset, or from what Python holds.

    Args:
        source: A file (JSONL, JSON, CSV, TSV, Parquet, Arrow, text with a prompt on each line; each
            also gzipped), a folder with `{split}.jsonl` or of `datasets.save_to_disk`, or a Hub id
            `org/name[:config][@revision][#split]`. Or the rows: a pandas DataFrame, a list of dicts
            or of prompts, a dict of columns, a `datasets.Dataset`, a pyarrow Table. They are read
            as a file of them would be. A `Dataset` is given back as it is.
        mapping: Role to field ("prompt", "response", "label"), where detection should not decide;
            "a+b" joins fields, "" switches a role off.
        group: What twins share; the default comes from meta.json, else from the name.
        name: What people call it; the default comes from meta.json, else from the file. Rows that
            Python holds are called after what holds them and their digest ("DataFrame-3fa2c1d0").
        split: Which file of a folder, part of a file or split of a Hub dataset: "test" to score,
            "train" to learn.
        allow_skips: Whether more may be skipped than a few rows that are like the others.

    Raises:
        ConfigError: There can't be rows in such a source.
        DatasetError: Nothing is there, it can't be read, no field looks like a prompt, or more than
            one in twenty rows would be skipped, a whole class, or all that are not ASCII.
    """
    if isinstance(source, Dataset):
        return _as_named(source, name, group, mapping)
    check_source(source, "The source of the rows")
    place, table, meta = _open(source, split, allow_skips)
    if "split" not in (mapping or {}).values():
        table = rows_of_split(table, split, place.shown)
    table = unfold_cells(table, place.shown)
    fields = detect_fields(table, mapping or {}, place.shown)
    draft = read_rows(table, fields)
    settle_role(draft, "label")
    settle_role(draft, "response")
    labels = settle_labels(draft, field=fields.label, known=meta.labels)
    skipped = tuple(sorted(draft.skipped, key=lambda row: row.line))
    check_skips(table, draft, skipped, fields=fields, shown=place.shown, allow=allow_skips)
    unused = [field for field in fields.unused(table.field_counts) if field.strip()]
    final_name = name or meta.name or place.name
    dataset = Dataset(
        name=final_name,
        rows=tuple(draft.rows),
        group=group or meta.group or group_of(final_name),
        source=place.source,
        shape=fields.shape,
        mapping=fields.mapping,
        n_read=table.n_read,
        skipped=skipped,
        labels=labels,
        metric=meta.metric,
        family=meta.family,
        file_format=table.file_format,
        notes=(
            *([place.note] if place.note else []),
            *table.notes,
            *fields.notes,
            *([f"fields not used: {listed(unused)}"] if unused else []),
            *meta.notes,
            *draft.notes,
            *_oddities(draft.rows, labels),
        ),
        parent=meta.parent,
        parts=meta.parts,
        encoding=table.encoding,
    )
    if name or place.at is not None:
        return dataset
    # Two data frames are two datasets; the same one is known again.
    own_name = f"{place.name}-{dataset.digest[:8]}"
    return replace(dataset, name=own_name, group=group or meta.group or own_name)


def _open(source: DataSource, split: str, allow_skips: bool) -> tuple[Place, Table, Meta]:
    """Where the rows lie, the rows, and what stands beside them."""
    if not isinstance(source, str | Path):
        held = read_held(source)
        shown = held.table.file_format
        return (
            Place(None, held.group or held.kind, shown, shown),
            held.table,
            Meta(group=held.group),
        )
    place = find_place(source, split)
    if isinstance(place.at, HubId):
        return place, read_hub(place.at, split), Meta()
    assert place.at is not None
    if place.at.is_dir():
        table = read_saved_dataset(place.at)
    else:
        table = read_shards(place.files, split=split, allow_skips=allow_skips)
    return place, table, read_meta(place.at)


def _as_named(
    dataset: Dataset, name: str | None, group: str | None, mapping: Mapping[str, str] | None
) -> Dataset:
    """A dataset that was read already, called otherwise where that is asked for."""
    if mapping:
        raise ConfigError(
            f"{dataset.name} was read already, so a mapping of its fields has no effect. Give it "
            "to read_dataset."
        )
    return replace(dataset, name=name or dataset.name, group=group or dataset.group)


def _oddities(rows: Sequence[Row], labels: Sequence[str]) -> Iterator[str]:
    """What does not stop the reading but will bend the figures, a sentence each."""
    n_distinct = len({(row.prompt, row.response, row.label) for row in rows})
    if len(rows) == 1:
        yield "one row only: nothing can be said about spread or error"
    elif n_distinct == 1:
        yield f"all {len(rows):,} rows are the same row: figures will mean little"
    elif n_distinct < len(rows):
        yield f"{len(rows) - n_distinct:,} rows repeat an earlier one; they are kept"
    if len(labels) == 1:
        yield f"every row has the label {labels[0]!r}: balanced accuracy says nothing"
    n_tested = sum(bool(row.tests) for row in rows)
    if n_tested:
        yield f"{n_tested:,} rows carry unit tests"
    differing = sum(row.label is not None and row.response != row.label for row in rows)
    if differing:
        yield f"label and response differ in {differing:,} rows; both are kept"
