"""How well is ranked what is new: an adapter that nobody measured, a whole family of tasks.

A tenth of the adapters lose every score, under other base models too, and are predicted from what
is known of them and from the other adapters' scores. Each is judged by a fit that has not seen it,
all of them together per task; `both new` leaves the task's group out as well. `new family` lets
groups of tasks that are alike leave together.

    .venv/bin/python benchmarks/new_adapters.py [--matrices DIR]

Without matrices the starter registry's label tasks are ranked.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from threadpoolctl import threadpool_limits

from adapt_lora.recommender.backtest import backtest
from adapt_lora.recommender.choice import INNER_SEEDS, group_folds
from adapt_lora.recommender.columns import Array, standardise
from adapt_lora.recommender.features import registry_table
from adapt_lora.recommender.metrics import judge_scores
from adapt_lora.recommender.models import make_ranker
from adapt_lora.recommender.pivots import read_matrices
from adapt_lora.recommender.table import Fold, TransferTable
from adapt_lora.recommender.training_set import TrainingSet
from adapt_lora.registry.exchange.portable import read_export

ROOT = Path(__file__).parents[1]
METHOD = "stack"
ALIKE = 0.5
"""Mean given similarity above which groups are one family."""


def main() -> None:
    """Print ρ per matrix and way of being new, and one RESULT line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--matrices", type=Path)
    arguments = options.parse_args()
    if arguments.matrices is None:
        matrix = read_export(ROOT / "starter").matrix
        tables = {"starter": registry_table(matrix, unit="points")}
    else:
        tables = read_matrices(arguments.matrices)
    rows = []
    print("| matrix | new task | new adapter | both new | new family (groups → families) |")
    print("|---|---|---|---|---|")
    with threadpool_limits(limits=1):
        for name, table in tables.items():
            families = by_family(table)
            found = [
                new_tasks(table),
                new_adapters(table),
                new_adapters(table, new_tasks=True),
                new_tasks(families),
            ]
            rows.append(found)
            counts = f"({len(table.group_names)} → {len(families.group_names)})"
            print(f"| {name} | " + " | ".join(f"{rho:.2f}" for rho in found) + f" {counts} |")
    names = ("new_task", "new_adapter", "both_new", "new_family")
    means = dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))
    result = {f"rho_{name}": round(mean, 3) for name, mean in means.items()}
    print("RESULT " + json.dumps({"n_matrices": len(rows), **result}))


def new_tasks(table: TransferTable) -> float:
    """Mean ρ over tasks whose group was left out."""
    tested = backtest(table, methods=(METHOD,), judge_gains=False, n_seeds=INNER_SEEDS)
    return tested.methods[METHOD]["spearman_rho"]


def new_adapters(table: TransferTable, *, new_tasks: bool = False) -> float:
    """Mean ρ over tasks on which no adapter was known to its judge."""
    return judge_scores(table, unseen_scores(table, METHOD, new_tasks=new_tasks))["spearman_rho"]


def unseen_scores(
    table: TransferTable,
    method: str,
    *,
    new_tasks: bool = False,
    seed: int = 0,
    n_folds: int | None = 10,
    n_seeds: int = INNER_SEEDS,
) -> Array:
    """Z of predictions for adapters that were not measured, (n_sources, n_targets).

    Args:
        table: What was measured.
        method: A name in METHODS.
        new_tasks: Also leave out the task's group: both at once.
        seed: Of folds, random ranks and LightGBM.
        n_folds: Folds over adapters; None leaves each alone.
        n_seeds: LightGBM models averaged per fit.
    """
    scores = np.full(table.scores.shape, np.nan)
    for hidden in group_folds(table.sources, n_folds, seed=seed):
        rows = [table.sources.index(name) for name in hidden]
        rest = without_adapters(table, rows)
        everywhere = tuple(range(len(table.targets)))
        known = [Fold(rest, everywhere, tuple(rest.query(t, everywhere) for t in everywhere))]
        for fold in [rest.hold_out([g]) for g in table.group_names] if new_tasks else known:
            train = TrainingSet(fold.table)
            if train.n_groups == 0:
                continue
            ranker = make_ranker(method, seed=seed, n_seeds=n_seeds).fit(train)
            for t, query in zip(fold.held, fold.queries, strict=True):
                if ranker.can_rank(query):
                    scores[rows, t] = standardise(ranker.predict(query))[rows]
    return scores


def without_adapters(table: TransferTable, sources: Sequence[int]) -> TransferTable:
    """The table as if these adapters had never been measured, under any base model."""
    scores = table.scores.copy()
    scores[list(sources)] = np.nan
    elsewhere = table.elsewhere
    if elsewhere is not None:
        elsewhere = without_adapters(elsewhere, sources)
    return replace(table.described, scores=scores, elsewhere=elsewhere)


def by_family(table: TransferTable, families: Mapping[str, str] | None = None) -> TransferTable:
    """The table with whole families of tasks as groups, so that related ones leave together.

    Args:
        table: What was measured.
        families: Family of each group; None joins groups whose tasks are alike above .5 by the
            mean given similarity (average linkage), such as entailment with entailment.
    """
    named = linked_groups(table) if families is None else families
    return replace(table, groups=tuple(named.get(group, group) for group in table.groups))


def linked_groups(table: TransferTable) -> dict[str, str]:
    """Group → the first group of its cluster; each alone where no similarity was given."""
    names = table.group_names
    if table.similarity is None or len(names) < 2:
        return {}
    member = np.array([[group == name for group in table.groups] for name in names], dtype=float)
    share = member / member.sum(axis=1, keepdims=True)
    alike = share @ np.nan_to_num(table.similarity) @ share.T  # (n_groups, n_groups)
    distance = 1.0 - (alike + alike.T) / 2
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(np.maximum(distance, 0.0), checks=False), method="average")
    cluster = fcluster(tree, 1.0 - ALIKE, criterion="distance")
    first: dict[int, str] = {}
    return {name: first.setdefault(int(c), name) for name, c in zip(names, cluster, strict=True)}


if __name__ == "__main__":
    main()
