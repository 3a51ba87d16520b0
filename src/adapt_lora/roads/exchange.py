"""Registries and results that come in from elsewhere, and a registry that goes out."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapt_lora.errors import AdaptError, ConfigError, MatrixError, NotFoundError
from adapt_lora.model.base import BaseIdentity
from adapt_lora.registry import Registry
from adapt_lora.registry.records import BASE_ROW, AdapterRecord, MatrixRow, TransferMatrix
from adapt_lora.results import Import
from adapt_lora.roads.bases import which_base
from adapt_lora.roads.evaluation import fetch_weights
from adapt_lora.roads.progress import Progress, of_step
from adapt_lora.roads.registration import entry_name

if TYPE_CHECKING:
    from adapt_lora.registry.exchange.lm_eval import HarnessCell, HarnessResults

STARTER = "starter"
"""What `import_results` takes for the registry that comes with Adapt."""


def import_results(
    path: str | Path,
    *,
    registry: Registry,
    adapter: str | None = None,
    base_model: str | None = None,
    pool: bool = False,
    progress: Progress | None = None,
) -> Import:
    """File results that others measured: published runs, or files of lm-evaluation-harness.

    A table of published runs becomes adapters whose weights live elsewhere, with their scores. A
    harness file becomes cells of a registered adapter, or of the bare base. What the registry has
    already is left as it is, so an import that was cut off can be repeated.

    Args:
        path: A CSV as `read_published` describes it, a results file of the harness, a folder with
            such files, a folder that `export_registry` wrote, or "starter" for the one that comes
            with Adapt.
        registry: Where it goes; each base model of a table gets a matrix of its own.
        adapter: Whose harness results they are; None asks the file: the adapter that its `peft=`
            leads to, else the bare base.
        base_model: Base model of harness results, where the registry does not know it by the
            file's `pretrained=`.
        pool: Put harness cells into the registry's own columns of the same tasks and metrics: you
            vouch for equal rows and prompts.
        progress: Told (“import BASE”, adapters written, in all) per base model.

    Raises:
        MatrixError: The file can't be read; nothing was written.
        NotFoundError: The harness measured an adapter that is not registered.
    """
    from adapt_lora.registry.exchange.lm_eval import lm_eval_files
    from adapt_lora.registry.exchange.portable import EXPORT_FILE
    from adapt_lora.registry.exchange.published import read_published

    started = time.perf_counter()
    folder = Path(path)
    if str(path) == STARTER or (folder / EXPORT_FILE).is_file():
        home = starter_folder() if str(path) == STARTER else folder
        return _import_export(home, registry, progress, started)
    if not folder.exists():
        raise MatrixError(
            f"{path}: no such file or folder. Give a CSV of published runs, results of "
            "lm-evaluation-harness, a folder that `adapt export` made, or the word starter."
        )
    files = lm_eval_files(path)
    if files:
        return _import_harness(files, registry, adapter, base_model, pool=pool)
    if Path(path).is_dir():
        raise MatrixError(f"{path}: no results_*.json of lm-evaluation-harness in this folder.")
    if adapter is not None or pool:
        raise ConfigError(
            f"--adapter and --pool are about results of lm-evaluation-harness; {path} is not such "
            "a file."
        )
    published = read_published(path)
    added = []
    for matrix in published.matrices:
        added.append(
            registry.add_matrix(matrix, progress=of_step(progress, f"import {matrix.base.name}"))
        )
        registry.ensure_views(matrix.base)
    n_new = sum(addition.n_adapters for addition in added)
    skipped = [sentence for addition in added for sentence in addition.skipped]
    return Import(
        source=published.source,
        bases=tuple(matrix.base.name for matrix in published.matrices),
        n_adapters=n_new,
        n_cells=sum(addition.n_cells for addition in added),
        n_known_adapters=sum(len(matrix.adapters) for matrix in published.matrices)
        - n_new
        - len(skipped),
        warnings=(*published.warnings, *skipped),
        seconds=time.perf_counter() - started,
    )


def starter_folder() -> Path:
    """Where the starter registry lies: in the installed package, or in a checkout of Adapt.

    Raises:
        NotFoundError: This installation came without it.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parents[1] / STARTER, package / STARTER):
        if (folder / "registry.json").is_file():
            return folder
    raise NotFoundError(
        "This installation came without a starter registry. `make starter` in a checkout of Adapt "
        "builds one; its folder `starter` can be imported from anywhere."
    )


def _import_export(
    folder: Path, registry: Registry, progress: Progress | None, started: float
) -> Import:
    from adapt_lora.registry.exchange.portable import read_export

    export = read_export(folder)
    base = export.matrix.base
    warning = registry.ensure_base(base)
    added = registry.add_matrix(
        export.matrix,
        folders=export.folders,
        progress=of_step(progress, f"import {base.name}"),
    )
    if export.trait_fit is not None and registry.trait_fit(base) is None:
        note = f"Traits as they came with {folder.name}; `adapt traits` fits them anew."
        registry.set_trait_fit(base, export.trait_fit, note=note, plots={})
    registry.ensure_views(base)
    return Import(
        source=folder.name,
        bases=(base.name,),
        n_adapters=added.n_adapters,
        n_cells=added.n_cells,
        n_known_adapters=len(export.matrix.adapters) - added.n_adapters - len(added.skipped),
        warnings=(*([warning] if warning else []), *export.skipped, *added.skipped),
        seconds=time.perf_counter() - started,
    )


def export_registry(
    dest: Path,
    *,
    registry: Registry,
    base_model: str | None = None,
    with_weights: bool = True,
    warn: Callable[[str], None] | None = None,
) -> TransferMatrix:
    """Write a base model's adapters, tasks and cells into a folder that `adapt import` reads.

    Figures and, where the registry has them, PEFT files; never rows of anybody's data.

    Args:
        dest: The folder; an export in it is replaced.
        registry: What to export.
        base_model: As for `which_base`.
        with_weights: Whether adapters' files go along.
        warn: Told which adapters go without their files, since those can't be read; None for
            Python's own warnings.

    Returns:
        What was written.

    Raises:
        NotFoundError: The registry holds nothing of that base.
        RegistryError: The folder can't be written.
    """
    from adapt_lora.registry.adapter import read_adapter
    from adapt_lora.registry.exchange.portable import Export, write_export

    base = which_base(registry, base_model)
    matrix = registry.transfer_matrix(base)
    if not matrix.adapters and not matrix.cells:
        raise NotFoundError(f"The registry holds nothing of {base.name}, so there is no export.")
    folders, adapters = {}, []
    for record in matrix.adapters:
        has_files = record.has_weights
        if with_weights and has_files:
            try:
                place = fetch_weights(registry, record)
                read_adapter(place, base_model=base.name)
                folders[record.adapter_id] = place
            except AdaptError as error:
                has_files = False
                (warn or warnings.warn)(f"{record.name} goes without its files: {error}")
        adapters.append(replace(record, has_weights=has_files))
    matrix = replace(matrix, adapters=tuple(adapters))
    write_export(Export(matrix, folders, registry.trait_fit(base)), dest)
    return matrix


def pull(record: AdapterRecord, folder: Path, *, registry: Registry) -> Path:
    """Copy an adapter's PEFT files into a folder, with a README of its data, gains and use.

    Raises:
        RegistryError: It has no files, the folder is in use, or the files were changed.
    """
    from adapt_lora.registry.exchange.hub import write_readme
    from adapt_lora.report.card import adapter_card_markdown
    from adapt_lora.report.transfer import adapter_gains

    pulled = registry.pull(record, folder)
    gains = adapter_gains(registry.transfer_matrix(record.base), record)
    write_readme(pulled, record, adapter_card_markdown(record, gains, folder=str(folder)))
    return pulled


def _import_harness(
    files: Sequence[Path],
    registry: Registry,
    adapter: str | None,
    base_model: str | None,
    *,
    pool: bool,
) -> Import:
    from adapt_lora.registry.exchange.lm_eval import read_lm_eval

    started = time.perf_counter()
    read = [read_lm_eval(file) for file in files]
    models = [_harness_model(results, registry, adapter, base_model) for results in read]
    cells = [
        _pooled(registry, identity, results) if pool else results.cells
        for results, (identity, _) in zip(read, models, strict=True)
    ]
    n_new = 0
    for (identity, model), found in zip(models, cells, strict=True):
        registry.ensure_base(identity)
        measured = registry.measured(identity)
        row = model if isinstance(model, MatrixRow) else model.row
        for one in found:
            if (row, one.cell.task, one.cell.protocol) not in measured:
                cell = replace(one.cell, row=row)
                registry.add_cells(identity, model, one.task, [cell], one.predictions)
                n_new += 1
    bases = {identity.name: identity for identity, _ in models}
    for identity in bases.values():
        registry.update_scores(identity)
        registry.ensure_views(identity)
    known = {model.row for _, model in models if isinstance(model, AdapterRecord)}
    return Import(
        source="lm-evaluation-harness",
        bases=tuple(bases),
        n_adapters=0,
        n_cells=n_new,
        n_known_adapters=len(known),
        warnings=tuple(warning for results in read for warning in results.warnings),
        seconds=time.perf_counter() - started,
    )


def _harness_model(
    results: "HarnessResults", registry: Registry, adapter: str | None, base_model: str | None
) -> tuple[BaseIdentity, AdapterRecord | MatrixRow]:
    """Whose results they are: a registered adapter, or the bare base."""
    identity = which_base(registry, base_model) if base_model else None
    if adapter is not None:
        record = registry.adapter(adapter, identity)
        return record.base, record
    if not results.peft:
        found = identity or which_base(registry, results.pretrained or None)
        return found, BASE_ROW
    records = registry.adapters(identity)
    try:
        from adapt_lora.registry.adapter import read_adapter

        digest = read_adapter(Path(results.peft), base_model=results.pretrained).adapter_id
        fitting = [record for record in records if record.adapter_id == digest]
    except AdaptError:  # the path is another machine's, or a Hub id: the name must do
        name = entry_name(results.peft)
        fitting = [record for record in records if record.name == name]
    if len({record.adapter_id for record in fitting}) != 1:
        raise NotFoundError(
            f"{results.source} was measured with the adapter {results.peft}, which is not "
            "registered by its content or name. Register it first (adapt register), or say which "
            "registered one it is: --adapter NAME."
        )
    return fitting[0].base, fitting[0]


def _pooled(
    registry: Registry, identity: BaseIdentity, results: "HarnessResults"
) -> "list[HarnessCell]":
    """The cells as if they had been measured in the registry's own columns of these tasks."""
    matrix = registry.transfer_matrix(identity)
    own = {task.name: task for task in matrix.tasks}
    columns = {cell.task: cell.column for cell in matrix.cells}
    pooled = []
    for one in results.cells:
        name = one.task.dataset.name
        task = own.get(name)
        if task is None or task.metric != one.cell.metric:
            metric = "no such column" if task is None else f"one in {task.metric}"
            raise MatrixError(
                f"{results.source}: {name} in {one.cell.metric} can't be pooled, since the "
                f"registry has {metric}. Import without --pool, or measure that column first."
            )
        cell = replace(one.cell, task=name, protocol=columns[name])
        pooled.append(replace(one, task=task, cell=cell))
    return pooled
