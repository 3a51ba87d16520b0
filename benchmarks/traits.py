"""How long traits take: 200 adapters × 50 tasks, 30 % of the cells missing, beside scikit-learn.

The rival fills gaps with scikit-learn's IterativeImputer (five nearest features) and takes its PCA.

    .venv/bin/python benchmarks/traits.py
"""

import json
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
from sklearn.decomposition import PCA
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

from adapt_lora.recommender.traits import fit_traits

N_ADAPTERS, N_TASKS, GAPS, RANK = 200, 50, 0.3, 4


def main() -> None:
    """Print both times and one RESULT line."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(N_ADAPTERS, RANK)) @ rng.normal(size=(RANK, N_TASKS))
    scores = truth + 0.5 * rng.normal(size=truth.shape)
    scores[rng.random(scores.shape) < GAPS] = np.nan
    rows = [f"adapter {n}" for n in range(N_ADAPTERS)]
    tasks = [f"task {n}" for n in range(N_TASKS)]
    ours = best(lambda: fit_traits(scores, adapters=rows, tasks=tasks))
    rival = best(lambda: rival_fit(scores))
    print(f"scikit-learn {version('scikit-learn')}, numpy {version('numpy')}")
    print(f"adapt, with cross-validated rank, errors and stability: {ours:.2f} s")
    print(f"IterativeImputer + PCA, neither of them: {rival:.2f} s")
    result = {"traits_s": round(ours, 2), "ratio_vs_sklearn": round(rival / ours, 1)}
    print("RESULT " + json.dumps(result))


def rival_fit(scores: np.ndarray) -> None:
    """Impute column by column, then decompose."""
    filled = IterativeImputer(n_nearest_features=5, random_state=0).fit_transform(scores)
    PCA(n_components=RANK).fit((filled - filled.mean(axis=0)) / filled.std(axis=0))


def best(call: Callable[[], object], tries: int = 3) -> float:
    """Shortest wall-clock time of a few calls, in seconds."""
    seconds = []
    for _ in range(tries):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    main()
