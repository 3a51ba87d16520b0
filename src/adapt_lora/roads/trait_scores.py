"""Traits of a registry's adapters: fitted, and kept with each of them."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from adapt_lora.registry import Registry
from adapt_lora.registry.records import TransferMatrix
from adapt_lora.roads.bases import which_base
from adapt_lora.roads.progress import Progress, of_step

if TYPE_CHECKING:
    from adapt_lora.recommender.traits import Traits


def write_traits(
    *,
    registry: Registry,
    base_model: str | None = None,
    n_components: int = 4,
    names: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> "Traits":
    """Fit traits on the registry's transfer matrix and write each adapter's scores back.

    The fit is kept on the bare base's run, with a picture of the loadings, and the next one is
    matched to it; every adapter's run gets its scores, their errors and a picture of its profile.

    Args:
        registry: Where the matrix is.
        base_model: As for `load_base_model`.
        n_components: How many traits.
        names: Key ("T1", …) → name; remembered. An empty name goes back to the automatic one.
        progress: Told (“draw traits”, pictures done, in all).

    Raises:
        MatrixError: Fewer than two rows or two tasks are measured.
        ConfigError: A name is for a trait that there is not.
    """
    from adapt_lora.recommender.scores import measured_scores
    from adapt_lora.recommender.traits import TraitMemory, fit_traits

    identity = which_base(registry, base_model)
    matrix = registry.transfer_matrix(identity)
    table = measured_scores(matrix)
    kept = registry.trait_fit(identity)
    traits = fit_traits(
        table.values,
        n_components=n_components,
        adapters=table.rows,
        tasks=table.tasks,
        last=None if kept is None else TraitMemory.from_json(kept["memory"]),
        names=names,
    )
    _keep_traits(registry, matrix, traits, progress)
    registry.ensure_views(identity)
    return traits


def _keep_traits(
    registry: Registry, matrix: TransferMatrix, traits: "Traits", progress: Progress | None
) -> None:
    from adapt_lora.recommender.scores import unique_names
    from adapt_lora.report.plain import traits_json
    from adapt_lora.report.plots import plot_trait_profiles, plot_traits
    from adapt_lora.report.traits_page import traits_markdown

    rows = {row.id: name for row, name in unique_names(matrix).items() if name in traits.scores}
    scores = {adapter_id: _trait_figures(traits, name) for adapter_id, name in rows.items()}
    with tempfile.TemporaryDirectory(prefix="adapt-traits-") as scratch:
        drawn = of_step(progress, "draw traits")
        profiles = plot_trait_profiles(traits, Path(scratch) / "profiles", progress=drawn)
        heat_map = plot_traits(traits, Path(scratch) / "loadings.png")
        plots = {adapter_id: profiles[name] for adapter_id, name in rows.items()}
        registry.set_traits(matrix.base, scores, plots=plots)
        # The fit goes last: a later one must be matched to what the adapters' runs say.
        registry.set_trait_fit(
            matrix.base,
            {**traits_json(traits), "memory": traits.memory.to_json()},
            note=traits_markdown(traits),
            plots={"trait_loadings.png": heat_map},
        )


def _trait_figures(traits: "Traits", row: str) -> dict[str, float]:
    """Scores and errors by key: MLflow can't take a metric away, so keys never bear a name."""
    figures = dict(zip(traits.keys, traits.scores[row], strict=True))
    errors = zip(traits.keys, traits.standard_errors.get(row, ()), strict=False)
    return figures | {f"{key}_se": error for key, error in errors}
