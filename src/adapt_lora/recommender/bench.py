"""Every method on every matrix of a folder, each target unseen: the table behind `adapt bench`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt_lora.errors import MatrixError
from adapt_lora.recommender.backtest import MIN_CANDIDATES, backtest
from adapt_lora.recommender.features import registry_table
from adapt_lora.recommender.models import METHODS
from adapt_lora.recommender.table import TransferTable, read_matrices
from adapt_lora.registry.records import TransferMatrix, Unit

SCHEMA_VERSION = 1


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

    def to_json(self) -> dict[str, Any]:
        """One entry of `bench --json`."""
        return {
            "n_targets": self.n_targets,
            "n_groups": self.n_groups,
            "regime": self.regime,
            "chosen": self.chosen,
            "methods": {name: dict(row) for name, row in self.methods.items()},
        }


@dataclass(frozen=True, slots=True)
class BenchReport:
    """The reports of a folder."""

    matrices: Mapping[str, MatrixReport]
    """By the name of the matrix."""

    def to_json(self) -> dict[str, Any]:
        """What `adapt bench --json` prints."""
        found = {name: report.to_json() for name, report in self.matrices.items()}
        return {"schema_version": SCHEMA_VERSION, "matrices": found}


def bench_matrix(
    table: TransferTable, *, methods: Sequence[str] = tuple(METHODS), seed: int = 0
) -> MatrixReport:
    """Back-test every method on one matrix, leaving out one task group at a time.

    Raises:
        MatrixError: Fewer than two task groups, or too few candidates to rank anywhere.
    """
    tested = backtest(table, methods=methods, seed=seed)
    if not tested.n_targets or len(table.group_names) < 2:
        raise MatrixError(
            f"A back-test needs at least two task groups with {MIN_CANDIDATES} measured adapters "
            f"each; this matrix has {len(table.sources)} adapters and "
            f"{len(table.group_names)} group(s)."
        )
    return MatrixReport(
        n_targets=tested.n_targets,
        n_groups=tested.n_groups,
        regime=table.regime,
        chosen=tested.chosen,
        methods=tested.methods,
    )


def bench_registry(
    matrix: TransferMatrix, *, methods: Sequence[str] = tuple(METHODS), seed: int = 0
) -> BenchReport:
    """Back-test every method on a registry's own matrix, with all its fingerprints as features.

    Tasks in the commoner unit are judged (points where both are as common): the two never mix.

    Raises:
        MatrixError: Too little was measured to rank anywhere.
    """
    units = [task.unit for task in matrix.tasks]
    unit: Unit = "nats" if units.count("nats") > units.count("points") else "points"
    table = registry_table(matrix, unit=unit)
    return BenchReport({"registry": bench_matrix(table, methods=methods, seed=seed)})


def bench_folder(
    folder: str | Path,
    *,
    methods: Sequence[str] = tuple(METHODS),
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> BenchReport:
    """Back-test every method on every matrix of a folder.

    Args:
        folder: Pivot CSV files with their companions; see `table.read_matrices`.
        methods: Names in METHODS; `default` is always added.
        seed: The same seed gives the same report.
        progress: Called with a matrix's name before it is tested, its number and how many.
    """
    tables = read_matrices(folder)
    reports: dict[str, MatrixReport] = {}
    for number, (name, table) in enumerate(tables.items()):
        if progress is not None:
            progress(name, number, len(tables))
        try:
            reports[name] = bench_matrix(table, methods=methods, seed=seed)
        except MatrixError as error:
            raise MatrixError(f"{name}: {error}") from error
    return BenchReport(reports)
