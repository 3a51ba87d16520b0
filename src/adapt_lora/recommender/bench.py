"""Every method on every matrix of a folder, each target unseen: the table behind `adapt bench`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from adapt_lora.errors import MatrixError
from adapt_lora.recommender.backtest import Backtest, backtest, merge_backtests
from adapt_lora.recommender.calibration import OutOfFold
from adapt_lora.recommender.choice import DEFAULT
from adapt_lora.recommender.columns import Array
from adapt_lora.recommender.features import registry_table
from adapt_lora.recommender.metrics import (
    MIN_CANDIDATES,
    judged_targets,
    means_over_targets,
    spearman,
)
from adapt_lora.recommender.models import METHODS
from adapt_lora.recommender.pivots import read_matrices
from adapt_lora.recommender.ranking import without_selected_columns
from adapt_lora.recommender.table import TransferTable
from adapt_lora.recommender.track_record import PastRecommendation
from adapt_lora.registry.records import TransferMatrix, Unit

BASELINES = (
    "random",
    "majority",
    "popularity",
    "popularity_trimmed",
    "nearest_task",
    "semantic",
    "minilm",
    "perplexity",
)
"""Methods that learn no weights; a matrix's rivals count among them."""

_N_BOOTSTRAP = 2_000
_TAIL = 0.025
_N_CEILING_DRAWS = 200
_NO_DIRECTION = ("coverage", "width")


@dataclass(frozen=True, slots=True)
class Comparison:
    """A method against a baseline on the same targets."""

    baseline: str
    """What it is compared with."""
    difference: float
    """The method's mean minus the baseline's, in the metric's unit."""
    low: float
    """Lower end of the 95 % interval, from resampled task groups."""
    high: float
    """Upper end."""


Comparisons = Mapping[str, Mapping[str, Comparison]]
"""Method → metric → comparison."""


@dataclass(frozen=True, slots=True)
class MatrixReport:
    """How each method ranked the targets of one matrix."""

    n_targets: int
    """Targets that could be judged (at least three measured candidates)."""
    n_groups: int
    """Task groups among them."""
    regime: str
    """How the adapters were used."""
    chosen: str
    """What `default` used most often over the folds."""
    methods: Mapping[str, Mapping[str, float]]
    """Method → metric → mean over targets. Metrics without meaning there are absent."""
    paired: Comparisons = field(default_factory=dict)
    """Each method that learns, by metric, against the baseline that is best in that metric."""
    paired_popularity: Comparisons = field(default_factory=dict)
    """The same against trimmed popularity."""
    ceiling: Mapping[str, float] = field(default_factory=dict)
    """What a ranking by the true scores would reach against these noisy ones; empty where no
    errors are known."""
    unit: Unit = "points"
    """What gains are counted in."""
    cells: tuple[OutOfFold, ...] = ()
    """What `default` said of each measured gain; not part of the JSON."""
    warnings: tuple[str, ...] = ()
    """What was left out of the matrix and why, one sentence each."""


@dataclass(frozen=True, slots=True)
class BenchReport:
    """The reports of a folder."""

    matrices: Mapping[str, MatrixReport]
    """By the name of the matrix."""
    past: tuple[PastRecommendation, ...] = ()
    """Kept recommendations of a registry whose targets were measured."""


def bench_registry(
    matrix: TransferMatrix,
    past: Sequence[PastRecommendation] = (),
    *,
    others: Sequence[TransferMatrix] = (),
    methods: Sequence[str] = tuple(METHODS),
    seed: int = 0,
    n_workers: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> BenchReport:
    """Back-test every method on a registry's own matrix, with all its fingerprints as features.

    Tasks in the commoner unit are judged (points where both are as common): the two never mix.

    Args:
        matrix: Everything measured.
        past: How good kept recommendations were, to stand beside the methods (`judge_past`).
        others: What was measured under other base models, a prior; a group leaves it too.
        methods: Names in METHODS; `default` is always added.
        seed: The same seed gives the same report.
        n_workers: As for `bench_tables`.
        progress: As for `bench_tables`.

    Raises:
        MatrixError: Too little was measured to rank anywhere, and no past one can be judged.
    """
    units = [task.unit for task in matrix.tasks]
    unit: Unit = "nats" if units.count("nats") > units.count("points") else "points"
    lent = [without_selected_columns(other) for other in others]
    table = registry_table(without_selected_columns(matrix), unit=unit, others=lent)
    tables = {"registry": table}
    try:
        report = bench_tables(
            tables, methods=methods, seed=seed, n_workers=n_workers, progress=progress
        )
    except MatrixError:
        if not past:
            raise
        report = BenchReport({})  # too little for a back-test, but the past can still be judged
    return replace(report, past=tuple(past))


def bench_folder(
    folder: str | Path,
    *,
    methods: Sequence[str] = tuple(METHODS),
    seed: int = 0,
    n_workers: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> BenchReport:
    """Back-test every method on every matrix of a folder; see `pivots.read_matrices`."""
    tables = read_matrices(folder)
    return bench_tables(tables, methods=methods, seed=seed, n_workers=n_workers, progress=progress)


def bench_tables(
    tables: Mapping[str, TransferTable],
    *,
    methods: Sequence[str] = tuple(METHODS),
    seed: int = 0,
    n_workers: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> BenchReport:
    """Back-test every method on every table.

    Args:
        tables: By name.
        methods: Names in METHODS; `default` is always added.
        seed: The same seed gives the same report, however many work on it.
        n_workers: Processes; each folds out groups of its own, with one thread of linear algebra.
        progress: Told a matrix's name, folds done and folds in all, as folds come back.

    Raises:
        MatrixError: A matrix has fewer than two task groups, or too few candidates.
    """
    for name, table in tables.items():
        if not judged_targets(table) or len(table.group_names) < 2:
            raise MatrixError(
                f"{f'{name}: a' if name else 'A'} back-test needs at least two task groups with "
                f"{MIN_CANDIDATES} measured adapters each; this matrix has {len(table.sources)} "
                f"adapters and {len(table.group_names)} group(s)."
            )
    jobs = [
        _Job(name, table, tuple(methods), seed, group)
        for name, table in tables.items()
        for group in table.group_names
    ]
    # The longest first: a long one that starts last would leave the other workers idle.
    jobs.sort(key=lambda job: -job.table.scores.size)
    parts: dict[str, dict[str, Backtest]] = {name: {} for name in tables}
    for done, (job, part) in enumerate(_run(jobs, n_workers), start=1):
        parts[job.name][job.group] = part
        if progress is not None:
            progress(f"{job.name}: {len(parts[job.name])} groups", done, len(jobs))
    reports = {}
    for name, table in tables.items():
        in_order = [parts[name][group] for group in table.group_names]
        tested = merge_backtests(table, in_order)
        reports[name] = MatrixReport(
            n_targets=tested.n_targets,
            n_groups=tested.n_groups,
            regime=table.regime,
            chosen=tested.chosen,
            methods=tested.methods,
            paired=_paired(table, tested, [*BASELINES, *table.rivals], seed=seed),
            paired_popularity=_paired(table, tested, ["popularity_trimmed"], seed=seed),
            ceiling=noise_ceiling(table, seed=seed),
            unit=table.unit,
            cells=tested.cells,
            warnings=table.warnings,
        )
    return BenchReport(reports)


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """One fold of one table."""

    name: str
    table: TransferTable
    methods: tuple[str, ...]
    seed: int
    group: str


def _run(jobs: Sequence[_Job], n_workers: int) -> Iterator[tuple[_Job, Backtest]]:
    if n_workers < 2 or len(jobs) < 2:
        yield from ((job, _fold(job)) for job in jobs)
        return
    # A fork would copy the locks of threads that it does not copy.
    with ProcessPoolExecutor(n_workers, mp_context=get_context("spawn")) as pool:
        yield from zip(jobs, pool.map(_fold, jobs, chunksize=2), strict=True)


def _fold(job: _Job) -> Backtest:
    # Matrices of this size keep no second thread busy, but threads keep each other waiting.
    with threadpool_limits(limits=1):
        return backtest(job.table, methods=job.methods, seed=job.seed, held_out={job.group})


# --- intervals ----------------------------------------------------------------------------------


def _paired(
    table: TransferTable, tested: Backtest, baselines: Sequence[str], *, seed: int
) -> dict[str, dict[str, Comparison]]:
    """95 % intervals of the difference to the best baseline, task groups resampled as a whole.

    The baseline is the one whose mean is best in this very matrix, which flatters it.
    """
    weights = _group_weights(table, seed=seed)
    names = dict.fromkeys([*BASELINES, *table.rivals])
    learners = [name for name in tested.methods if name not in names]
    drawn: dict[str, dict[str, Array]] = {}
    found: dict[str, dict[str, Comparison]] = {name: {} for name in learners}
    for metric in tested.methods.get(DEFAULT, {}):
        rivals = [b for b in baselines if metric in tested.methods.get(b, {})]
        if metric.startswith(_NO_DIRECTION) or not rivals:
            continue
        sign = -1.0 if "regret" in metric or metric in ("brier", "mae") else 1.0
        best = max(rivals, key=lambda name: sign * tested.methods[name][metric])
        for name in learners:
            if metric not in tested.methods[name]:
                continue
            shared = _shared_targets(tested.per_target[name], tested.per_target[best], metric)
            for of in (name, best):
                if of not in drawn:
                    drawn[of] = means_over_targets(tested.per_target[of], weights)
            if not shared:
                continue
            spread = drawn[name][metric] - drawn[best][metric]
            low, high = np.nanquantile(spread, [_TAIL, 1 - _TAIL])
            difference = tested.methods[name][metric] - tested.methods[best][metric]
            found[name][metric] = Comparison(best, difference, float(low), float(high))
    return {name: row for name, row in found.items() if row}


def _shared_targets(a: Mapping[str, Array], b: Mapping[str, Array], metric: str) -> bool:
    """Whether both were judged on the same targets, so that their difference is paired."""
    if metric not in a or metric not in b:
        return metric in ("verified_share", "brier_skill")
    return bool((np.isfinite(a[metric]) == np.isfinite(b[metric])).all())


def _group_weights(table: TransferTable, *, seed: int) -> Array:
    """How often each target counts in each bootstrap sample of task groups, (n, n_targets)."""
    names = list(table.group_names)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_N_BOOTSTRAP)
    member = np.array([names.index(group) for group in table.groups])
    weights: Array = counts[:, member].astype(np.float64)
    return weights


def noise_ceiling(table: TransferTable, *, seed: int = 0) -> dict[str, float]:
    """Mean ρ that a ranking by the true scores would have with the measured ones.

    Needs standard errors (a registry's cells; a `_seeds.csv` beside a pivot). The true spread of a
    column is taken as its observed variance less the mean squared error, and both are drawn.
    """
    rng = np.random.default_rng(seed)
    found = []
    for t in range(len(table.targets)):
        scores, errors = table.transfer_scores[:, t], table.errors[:, t]
        known = np.isfinite(scores) & np.isfinite(errors)
        if known.sum() < MIN_CANDIDATES:
            continue
        seen, error = scores[known], errors[known]
        true = seen.mean() + np.sqrt(table.reliability[t]) * (seen - seen.mean())
        noisy = true + error * rng.standard_normal((_N_CEILING_DRAWS, len(true)))
        found.append(float(np.mean([spearman(draw, true) for draw in noisy])))
    return {"spearman_rho": float(np.mean(found))} if found else {}
