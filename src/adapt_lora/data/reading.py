"""The one reader of user files: any recognised shape in, a dataset out.

docs/data.md lists the shapes, the detection rules and what happens with each kind of dirt.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from adapt_lora.data.dataset import Dataset, Row
from adapt_lora.data.fields import detect_fields
from adapt_lora.data.files import read_file
from adapt_lora.data.hub import HubId, read_hub
from adapt_lora.data.labels import settle_labels, settle_role
from adapt_lora.data.meta import Meta, read_meta
from adapt_lora.data.places import find_place, group_of
from adapt_lora.data.rows import read_rows
from adapt_lora.data.values import listed


def read_dataset(
    source: str | Path,
    *,
    mapping: Mapping[str, str] | None = None,
    group: str | None = None,
    name: str | None = None,
    split: str = "test",
) -> Dataset:
    """Read rows from a file, a folder with meta.json, or a Hub dataset.

    Args:
        source: A file (JSONL, JSON, CSV, TSV, Parquet; each also gzipped), a folder with
            `{split}.jsonl`, or a Hub id `org/name[:config][@revision][#split]`.
        mapping: Role to field ("prompt", "response", "label"), where detection should not decide;
            "a+b" joins fields, "" switches a role off.
        group: What twins share; the default comes from meta.json, else from the name.
        name: What people call it; the default comes from meta.json, else from the file.
        split: Which file of a folder or split of a Hub dataset: "test" to score, "train" to learn.

    Raises:
        DatasetError: Nothing is there, it can't be read, no field looks like a prompt, or more than
            half of the rows can't be used.
    """
    place = find_place(source, split)
    if isinstance(place.at, HubId):
        table, meta = read_hub(place.at, split), Meta()
    else:
        table, meta = read_file(place.at), read_meta(place.at)
    fields = detect_fields(table, mapping or {}, place.shown)
    draft = read_rows(table, fields)
    settle_role(draft, "label")
    settle_role(draft, "response")
    labels = settle_labels(draft, field=fields.label, known=meta.labels)
    skipped = tuple(sorted(draft.skipped, key=lambda row: row.line))
    if not draft.rows or 2 * len(skipped) > table.n_read:
        raise table.refusal(skipped, place.shown)
    unused = fields.unused(table.field_counts)
    final_name = name or meta.name or place.name
    return Dataset(
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
            *([f"fields not used: {listed(unused)}"] if unused else []),
            *meta.notes,
            *draft.notes,
            *_oddities(draft.rows, labels),
        ),
        parent=meta.parent,
    )


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
