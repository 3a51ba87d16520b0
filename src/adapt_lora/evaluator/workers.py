"""Cells measured by the workers of a Ray cluster, each with a base model of its own."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

from adapt_lora.cluster import spread
from adapt_lora.evaluator.backends import TransformersBackend
from adapt_lora.evaluator.cells import CellFailure, CellResult, CellUnit
from adapt_lora.evaluator.grading import Grader
from adapt_lora.evaluator.measuring import Measuring
from adapt_lora.evaluator.request import EvaluationRequest
from adapt_lora.model.base import load_base_model


def measure_on_cluster(
    units: Sequence[CellUnit],
    *,
    address: str,
    request: EvaluationRequest,
    dtype: str,
    graders: Mapping[str, Grader],
) -> Iterator[tuple[CellUnit, CellResult | CellFailure]]:
    """Units with what came of them, one by one as they end; an adapter stays with its worker.

    Args:
        units: Of a plan; their folders must be the workers' too.
        address: Of the cluster's head.
        request: What is asked for.
        dtype: Number format of the base model that the cells were planned for.
        graders: What grades written answers, by metric; pickled on their way.

    Raises:
        ConfigError: No such cluster can be used.
    """
    make = functools.partial(_cell_worker, request, dtype, dict(graders))
    for end in spread(units, make, address=address, key=lambda unit: unit.folder):
        unit = units[end.index]
        lost = CellFailure(unit.row, unit.task.record.name, unit.named(end.reason or ""))
        yield unit, end.result or lost


def _cell_worker(
    request: EvaluationRequest, dtype: str, graders: Mapping[str, Grader]
) -> Callable[[CellUnit], CellResult | CellFailure]:
    """What measures units in a worker."""
    backend = TransformersBackend(load_base_model(request.base_model, dtype=dtype))
    measuring = Measuring(backend, graders=graders, keep_text=request.keep_text)

    def measure(unit: CellUnit) -> CellResult | CellFailure:
        (outcome,) = measuring.outcomes([unit])
        return outcome

    return measure
