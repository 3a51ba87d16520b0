"""Sweeps: many trainings from one manifest, planned, timed, skipped where done, never all lost.

A manifest is a TOML file that crosses datasets, recipes, base models and seeds; docs/training.md
shows one. Running it again goes on where it stopped.
"""

import statistics
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt_lora import roads
from adapt_lora.cluster import spread
from adapt_lora.data import Dataset, read_dataset
from adapt_lora.errors import AdaptError, ConfigError, failure_reason
from adapt_lora.model.base import find_base_model, load_base_model
from adapt_lora.registry import Registry
from adapt_lora.results import Run, Sweep
from adapt_lora.roads.progress import Progress

if TYPE_CHECKING:
    from adapt_lora.model.base import BaseModel
    from adapt_lora.trainer import Recipe, TrainRequest

_KEYS = ("datasets", "recipes", "bases", "seeds", "name", "set")
_DATASET_KEYS = ("file", "name", "group", "map", "allow_skips")
# English text under common tokenizers; only the estimated time depends on it.
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class _Manifest:
    """A manifest as written, checked."""

    datasets: Sequence[Mapping[str, Any]]
    """Tables with "file" and, where they are given, "name", "group", "map" and "allow_skips"."""
    recipes: Sequence[tuple[str, "Recipe"]]
    """Each with the name that it goes by in the names of runs."""
    bases: Sequence[str]
    """Base models; none where the manifest names none."""
    seeds: Sequence[int]
    """Of the runs."""
    name: str
    """Template of the runs' names."""


def plan_sweep(
    manifest: Path,
    *,
    registry: Registry,
    base_model: str | None = None,
    allow_skips: bool = False,
    say: Callable[[str], None] | None = None,
) -> Sweep:
    """Every run of a manifest, with what is registered already marked and the others timed.

    A dataset or base model that can't be read is a failed run, not the end of the plan.

    Args:
        manifest: The TOML file; paths in it are seen from its folder.
        registry: Where the adapters are and will be.
        base_model: The base where the manifest names none; see `load_base_model`.
        allow_skips: Go on with datasets many of whose rows can't be used, where the manifest does
            not say.
        say: Told what was read.

    Raises:
        ConfigError: The manifest can't be read, or two runs would have one name.
    """
    from adapt_lora.trainer import TrainRequest

    crossed, folder = _read_manifest(manifest), manifest.parent
    datasets = []
    for given in crossed.datasets:
        entry = {"allow_skips": allow_skips, **given}
        rows = _read_rows(entry, folder)
        datasets.append((entry, rows))
        if say is not None and not isinstance(rows, AdaptError):
            say(rows.describe())
    bases: Sequence[str | None] = [_resolved(base, folder) for base in crossed.bases]
    speed = cache(partial(_tokens_per_s, registry))
    runs = []
    for base, (dataset, rows), (recipe_name, recipe), seed in product(
        bases or [base_model], datasets, crossed.recipes, crossed.seeds
    ):
        file = _resolved(str(dataset["file"]), folder)
        known_as = Path(file).stem if isinstance(rows, AdaptError) else rows.name
        words = {
            "dataset": dataset.get("name") or known_as,
            "recipe": recipe_name,
            "base": (base or "base").rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf"),
            "seed": seed,
        }
        request = TrainRequest(
            dataset=file,
            name=_filled(crossed.name, words),
            recipe=replace(recipe, seed=seed),
            base_model=base,
            mapping=dataset.get("map"),
            group=dataset.get("group"),
            allow_skips=dataset["allow_skips"],
        )
        runs.append(_planned(request, rows, registry, speed))
    _check_names(runs, manifest)
    return Sweep(tuple(runs))


def run_sweep(
    plan: Sweep,
    *,
    registry: Registry,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Sweep:
    """Train what is to be trained, one run after another; a failure never stops the rest.

    Args:
        plan: From `plan_sweep`; its failed runs are tried again.
        registry: Where the adapters go.
        progress: Told about the steps of each run.
        say: Told about each run's start, notes and end.
    """
    started = time.perf_counter()
    tell = say or (lambda _: None)
    runs, base = list(plan.runs), _Loaded()
    for index, run in enumerate(runs):
        if run.status == "registered":
            continue
        tell(f"{run.name} ({index + 1} of {len(runs)})")
        runs[index] = done = _train(run, base, registry, progress, say)
        if done.reason is not None:
            tell(f"{run.name} failed: {done.reason}")
        runs = _retimed(runs, done)
        if any(left.status == "to train" for left in runs):
            tell(Sweep(tuple(runs)).describe())
    return Sweep(tuple(runs), time.perf_counter() - started)


def spread_sweep(
    plan: Sweep,
    *,
    registry: Registry,
    address: str,
    say: Callable[[str], None] | None = None,
) -> Sweep:
    """Train what is to be trained on a Ray cluster, several runs at a time.

    Each worker holds the base model of its last run, and runs of the same base go to it first.
    Nodes read datasets and bases by the paths of the plan, and write to the registry themselves.

    Args:
        plan: From `plan_sweep`; its failed runs are tried again.
        registry: Where the adapters go; each node must reach it by its address.
        address: Of the cluster, as for `spread`.
        say: Told about each run's end.

    Raises:
        ConfigError: No cluster can be used there.
    """
    started = time.perf_counter()
    tell = say or (lambda _: None)
    runs = list(plan.runs)
    places = [index for index, run in enumerate(runs) if run.status != "registered"]
    finished = spread(
        [runs[index] for index in places],
        partial(_sweep_worker, registry.tracking_uri),
        address=address,
        key=lambda run: (run.request.base_model, run.request.recipe.dtype),
    )
    for number, end in enumerate(finished, start=1):
        index = places[end.index]
        lost = replace(runs[index], status="failed", reason=end.reason)
        runs[index] = done = end.result or lost
        outcome = done.status if done.reason is None else f"failed: {done.reason}"
        tell(f"{done.name} {outcome} ({number} of {len(places)}, on {end.worker})")
    return Sweep(tuple(runs), time.perf_counter() - started)


def _sweep_worker(tracking_uri: str) -> Callable[[Run], Run]:
    """What trains runs in a worker of a cluster."""
    loaded, registry = _Loaded(), Registry(tracking_uri)
    return lambda run: _train(run, loaded, registry, None, None)


class _Loaded:
    """The base model that the last run used, kept for the next."""

    def __init__(self) -> None:
        self._key: tuple[str | None, str] | None = None
        self._base: BaseModel | None = None

    def get(self, base_model: str | None, dtype: str) -> "BaseModel":
        if self._base is None or self._key != (base_model, dtype):
            self._base = None  # its memory is needed for the next one
            self._base = load_base_model(base_model, dtype=dtype)
            self._key = (base_model, dtype)
        return self._base


def _train(
    run: Run,
    loaded: _Loaded,
    registry: Registry,
    progress: Progress | None,
    say: Callable[[str], None] | None,
) -> Run:
    started = time.perf_counter()
    try:
        base = loaded.get(run.request.base_model, run.request.recipe.dtype)
        training = roads.train(
            run.request, registry=registry, base=base, progress=progress, say=say
        )
    # Whatever breaks one run, a library's bug among it, must not cost the night's other runs.
    except Exception as error:
        spent = time.perf_counter() - started
        return replace(run, status="failed", reason=failure_reason(error), seconds=spent)
    result, record = training.result, training.record
    return replace(
        run,
        status="registered" if result is None else "trained",
        seconds=None if result is None else time.perf_counter() - started,
        n_tokens=run.n_tokens if result is None else result.n_tokens,
        held_out_loss=None if result is None else result.held_out_loss,
        version=None if record is None else record.version,
        reason=None,
    )


def _retimed(runs: Sequence[Run], done: Run) -> list[Run]:
    """The runs with estimates where there were none, from what has just been measured."""
    if done.status != "trained" or not done.seconds or not done.n_tokens:
        return list(runs)
    speed = done.n_tokens / done.seconds
    return [
        replace(run, estimated_s=run.n_tokens / speed)
        if run.status == "to train"
        and run.estimated_s is None
        and run.request.base_model == done.request.base_model
        else run
        for run in runs
    ]


def _read_rows(entry: Mapping[str, Any], folder: Path) -> Dataset | AdaptError:
    """The rows of a manifest's dataset, or why they can't be had."""
    file = _resolved(str(entry["file"]), folder)
    try:
        return read_dataset(
            file,
            mapping=entry.get("map"),
            group=entry.get("group"),
            split="train",
            allow_skips=entry["allow_skips"],
        )
    except AdaptError as error:
        return error


def _tokens_per_s(registry: Registry, base_model: str | None) -> float | None:
    """Median speed of the trainings that the registry knows of this base; None without any."""
    figures = [record.metrics for record in registry.adapters(find_base_model(base_model))]
    speeds = [
        figure["train/n_tokens"] / figure["train/seconds"]
        for figure in figures
        if figure.get("train/seconds", 0) > 0 and "train/n_tokens" in figure
    ]
    return statistics.median(speeds) if speeds else None


def _planned(
    request: "TrainRequest",
    rows: Dataset | AdaptError,
    registry: Registry,
    speed: Callable[[str | None], float | None],
) -> Run:
    """Where a run stands before anything is done."""
    if isinstance(rows, AdaptError):
        return Run(request, "failed", reason=str(rows))
    try:
        record = roads.find_training(request, rows, registry=registry)
        tokens_per_s = speed(request.base_model)
    except AdaptError as error:
        return Run(request, "failed", reason=str(error), read=rows.echo)
    if record is not None:
        loss = record.metrics.get("train/held_out_loss")
        return Run(
            request, "registered", version=record.version, held_out_loss=loss, read=rows.echo
        )
    n_tokens = _estimated_tokens(rows, request.recipe)
    estimated_s = None if tokens_per_s is None else n_tokens / tokens_per_s
    return Run(request, n_tokens=n_tokens, estimated_s=estimated_s, read=rows.echo)


def _estimated_tokens(rows: Dataset, recipe: "Recipe") -> int:
    lengths = [len(row.prompt) + len(row.response or "") for row in rows.rows]
    share = min(1.0, (recipe.max_rows or len(lengths)) / len(lengths))
    per_epoch = share * sum(lengths) / _CHARACTERS_PER_TOKEN
    return round(recipe.epochs * min(per_epoch, recipe.max_tokens or per_epoch))


def _read_manifest(path: Path) -> _Manifest:
    from adapt_lora.trainer import find_recipe, override_recipe, read_recipe

    content = _read_toml(path)
    stray = sorted(set(content) - set(_KEYS))
    if stray:
        raise ConfigError(f"{path}: unknown key {stray[0]!r}. Known are {', '.join(_KEYS)}.")
    datasets = [_dataset_entry(entry, path) for entry in _list(content, "datasets", path)]
    settings = content.get("set", {})
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: 'set' must be a table of recipe fields.")
    recipes = []
    for text in map(str, _list(content, "recipes", path, ["quick"])):
        if text.endswith(".toml"):
            recipe = read_recipe(path.parent / text, "quick")
        else:
            recipe = find_recipe(text)
        recipes.append((Path(text).stem, override_recipe(recipe, settings)))
    bases = [str(base) for base in _list(content, "bases", path, [])]
    seeds = _list(content, "seeds", path, [0])
    if not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds):
        raise ConfigError(f"{path}: 'seeds' must be whole numbers, not {seeds!r}.")
    default_name = "{dataset}-{recipe}"
    default_name += "-{base}" if len(bases) > 1 else ""
    default_name += "-s{seed}" if len(seeds) > 1 else ""
    return _Manifest(
        datasets=datasets,
        recipes=recipes,
        bases=bases,
        seeds=seeds,
        name=str(content.get("name", default_name)),
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror}). Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as TOML ({error}).") from error


def _list(
    content: Mapping[str, Any], key: str, path: Path, default: list[Any] | None = None
) -> list[Any]:
    found = content.get(key, default)
    if not isinstance(found, list) or (not found and key in content) or found is None:
        raise ConfigError(f'{path}: {key!r} must be a list of at least one, e.g. {key} = ["…"].')
    return found


def _dataset_entry(entry: object, path: Path) -> dict[str, Any]:
    table = {"file": entry} if isinstance(entry, str) else entry
    if not isinstance(table, dict) or "file" not in table or set(table) - set(_DATASET_KEYS):
        raise ConfigError(
            f"{path}: dataset {entry!r} must be a path, or a table with 'file' and, if need be, "
            "'name', 'group', 'map' and 'allow_skips'."
        )
    if not isinstance(table.get("allow_skips", False), bool):
        raise ConfigError(
            f"{path}: dataset {table['file']!r}: 'allow_skips' is {table['allow_skips']!r}, but "
            "must be true or false."
        )
    return table


def _resolved(text: str, folder: Path) -> str:
    """A path seen from the manifest's folder; a Hub id, or a path that is nowhere, as it is."""
    beside = folder / Path(text).expanduser()
    return str(beside) if beside.exists() else text


def _filled(template: str, words: Mapping[str, object]) -> str:
    try:
        return template.format(**words)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"name = {template!r} can't be filled ({error}). Use {{dataset}}, {{recipe}}, {{base}} "
            "and {seed}."
        ) from error


def _check_names(runs: Sequence[Run], path: Path) -> None:
    counts = Counter((run.name, run.request.base_model) for run in runs)
    for (name, _), count in counts.items():
        if count > 1:
            raise ConfigError(
                f"{path}: {count} runs would be called {name!r}. Put {{dataset}}, {{recipe}}, "
                "{base} or {seed} into 'name', or name the datasets."
            )
