"""The JSON form of everything that people see: a function per record, what is unknown is absent."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from adapt_lora.data.suite import BASE_SIZES, SuiteTask, gpu_hours
from adapt_lora.registry.records import AdapterRecord, Cell, MatrixRow, TransferMatrix
from adapt_lora.report.transfer import GainSummary, cells_by_place, gain_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from adapt_lora.analysis import GainCorrelations, SideEffects, TwinComparison
    from adapt_lora.analysis.effects import KinshipCount
    from adapt_lora.analysis.twins import MeanDifference
    from adapt_lora.data import Echo
    from adapt_lora.evaluator import CellFailure
    from adapt_lora.recommender import Recommendation
    from adapt_lora.recommender.answer import (
        BaseChoice,
        LabelBias,
        ModelSummary,
        RankedAdapter,
    )
    from adapt_lora.recommender.bench import BenchReport, Comparison
    from adapt_lora.recommender.bench import MatrixReport as BenchedMatrix
    from adapt_lora.recommender.calibration import Share
    from adapt_lora.recommender.own_training import OwnTraining
    from adapt_lora.recommender.traits import Traits
    from adapt_lora.results import (
        Evaluation,
        EvaluationPlan,
        Run,
        Sweep,
        TargetRanking,
        Training,
        VerificationReport,
    )

SCHEMA_VERSION = 1
"""Of every object that is printed or kept."""


def versioned(content: Mapping[str, Any]) -> dict[str, Any]:
    """The object with the version of its schema in front."""
    return {"schema_version": SCHEMA_VERSION, **content}


def known_fields(record: "DataclassInstance") -> dict[str, Any]:
    """A record whose fields are its JSON form."""
    return _known(asdict(record))


def adapter_json(record: AdapterRecord, *, whole: bool = False) -> dict[str, Any]:
    """An adapter as `list` gives it; the whole of it, every figure by section, as `show` does."""
    content: dict[str, Any] = {
        "name": record.name,
        "version": record.version,
        "adapter_id": record.adapter_id,
        "base_model": record.base.name,
        "has_weights": record.has_weights,
        "warnings": list(record.warnings),
        "tags": dict(record.tags),
    }
    if record.unchecked is not None:
        content["not_checked"] = record.unchecked
    if record.group is not None:
        content["group"] = record.group
    if record.dataset is not None:
        content["dataset"] = known_fields(record.dataset)
    if whole:
        sections: dict[str, Mapping[str, Any]] = {
            "fingerprint/": record.fingerprint.values,
            "weights/": record.weights,
            "behaviour/": record.behaviour,
            "trait/": record.traits,
            "": {**record.params, **record.metrics},
        }
        for section, values in sections.items():
            content |= {f"{section}{key}": value for key, value in values.items()}
    return content


def gains_json(summaries: Sequence[GainSummary]) -> dict[str, Any]:
    """An adapter's mean gains by unit, as `list` gives them."""
    return {
        one.unit: _known({"mean": one.mean, "n_tasks": one.n_tasks, "own": one.own})
        for one in summaries
    }


def echo_json(echo: "Echo") -> dict[str, Any]:
    """How many rows of a source are used, how many are not, and why."""
    content = {"n_rows": echo.n_rows, "n_skipped": echo.n_skipped, "encoding": echo.encoding}
    return {**content, "reasons": [known_fields(reason) for reason in echo.reasons]}


def recommendation_json(answer: "TargetRanking") -> dict[str, Any]:
    """What `recommend` answers; of two rankings that of labels, and both under their kinds."""
    ranking = ranking_json(answer.recommendation)
    for entry in ranking["ranking"]:
        entry["has_weights"] = entry["adapter_id"] not in answer.figures_only
    target = {
        "name": answer.target.name,
        **echo_json(answer.target.echo),
        "shape": answer.target.shape,
        "labelled": answer.target.is_labelled,
        "metric": answer.metric,
        "fingerprint": dict(answer.fingerprint.values),
    }
    content = {"target": target, **ranking, "base_model": answer.base.name}
    content["warnings"] += answer.warnings
    if answer.verification is not None:
        content["verification"] = _verification_json(answer.verification)
    content["timing_s"] = {key: round(value, 3) for key, value in answer.timing_s.items()}
    if answer.other is not None:
        content["rankings"] = {each.kind: _kind_json(each) for each in answer.rankings}
    return content


def _kind_json(answer: "TargetRanking") -> dict[str, Any]:
    """One of two rankings: what of `recommend`'s answer differs between them."""
    whole = recommendation_json(answer)
    shared = ("target", "timing_s", "base_model")
    own = {key: value for key, value in whole.items() if key not in shared}
    return {"metric": answer.metric, **own}


def ranking_json(ranking: "Recommendation") -> dict[str, Any]:
    """A recommendation without its target."""
    entries, own = [_entry_json(entry) for entry in ranking.ranking], ranking.own_training
    if ranking.interval_level is not None:
        for entry in entries:
            if "interval" in entry:
                entry["interval_level"] = ranking.interval_level
    return {
        "base_model": ranking.base_model,
        "verdict": {**known_fields(ranking.verdict), "ties": list(ranking.verdict.ties)},
        "base": _base_json(ranking.base),
        **({} if own is None else {"own_training": _own_json(own)}),
        "model": _model_json(ranking.model),
        "n_adapters": len(entries),
        "ranking": entries,
        "warnings": list(ranking.warnings),
    }


def _entry_json(entry: "RankedAdapter") -> dict[str, Any]:
    interval, measured = entry.interval, entry.measured
    return _known(
        {
            "rank": entry.rank,
            "adapter": entry.adapter,
            "adapter_id": entry.adapter_id,
            "predicted_gain": entry.predicted_gain,
            "predicted_alone": entry.predicted_alone,
            "interval": None if interval is None else [interval.low, interval.high],
            "p_harm": entry.p_harm,
            "p_best": entry.p_best,
            "measured": None if measured is None else asdict(measured),
            "unbiased": None if entry.unbiased is None else _bias_json(entry.unbiased),
            "reasons": [asdict(reason) for reason in entry.reasons],
            "evidence": [known_fields(item) for item in entry.evidence],
            "warnings": list(entry.warnings),
        }
    )


def _own_json(own: "OwnTraining") -> dict[str, Any]:
    return {**known_fields(own), "interval": list(own.interval)}


def _base_json(base: "BaseChoice") -> dict[str, Any]:
    content = known_fields(base)
    if base.unbiased is not None:
        content["unbiased"] = _bias_json(base.unbiased)
    if not base.few_shot:
        del content["few_shot"]
    return content


def _bias_json(bias: "LabelBias") -> dict[str, Any]:
    gain = None if bias.gain is None else asdict(bias.gain)
    return _known({"gain": gain, "offsets": dict(bias.offsets), "caution": bias.caution})


def _model_json(model: "ModelSummary") -> dict[str, Any]:
    content = known_fields(model)
    if model.borrowed is not None:
        content["borrowed"]["base_models"] = list(model.borrowed.base_models)
    return content


def _verification_json(report: "VerificationReport") -> dict[str, Any]:
    return {
        "rounds": [{"n_adapters": n, "n_rows": rows} for n, rows in report.rounds],
        "n_rows": report.n_rows,
        "estimated_s": round(report.estimated_s, 1),
        "seconds": round(report.seconds, 1),
    }


def evaluation_json(evaluation: "Evaluation") -> dict[str, Any]:
    """What `evaluate` measured, left alone and could not measure."""
    report, names = evaluation.report, evaluation.names
    content = {
        "measured": [_named_json(cell, names) for cell in report.cells],
        "skipped": report.n_skipped,
        "n_failed": report.n_failed,
        "failed": [_named_json(failure, names) for failure in report.failures],
        "seconds": report.seconds,
        "read": {task: echo_json(echo) for task, echo in evaluation.read.items()},
        "code_protection": evaluation.code_protection or None,
    }
    return _known(content)


def plan_json(plan: "EvaluationPlan") -> dict[str, Any]:
    """What `evaluate --dry-run` would do."""
    n_there = plan.n_cells - len(plan.cells)
    n_tokens = sum(cell.n_tokens for cell in plan.cells)
    content = {
        "base_model": plan.base,
        "cells": [known_fields(cell) for cell in plan.cells],
        "n_cells": plan.n_cells,
        "n_to_measure": len(plan.cells),
        "n_there": n_there,
        "n_skipped": n_there,  # its first name, which means rows elsewhere
        "n_tokens": n_tokens,
        "gpu_hours": {
            name: gpu_hours(n_tokens, n_parameters=size) for name, size in BASE_SIZES.items()
        },
        "estimated_s": plan.estimated_s,
        "range_s": plan.range_s,
        "tokens_per_s": plan.tokens_per_s,
        "failed": [_row_json(failure) for failure in plan.failures],
        "read": {task: echo_json(echo) for task, echo in plan.read.items()},
    }
    return _known(content)


def suite_json(name: str, tasks: Sequence[SuiteTask]) -> dict[str, Any]:
    """What a suite holds, and where its rows come from."""
    fields = ("name", "family", "group", "labels", "metric", "n_rows", "licence", "citation")
    sources = ("repository", "commit", "files", "n_tokens")
    return {
        "suite": name,
        "tasks": [{key: getattr(task, key) for key in (*fields, *sources)} for task in tasks],
    }


def matrix_json(matrix: TransferMatrix) -> dict[str, Any]:
    """Rows, tasks and measured cells with gains."""
    names = {row: row.label for row in matrix.rows}
    tasks = {task.name: task for task in matrix.tasks}
    cells_at = cells_by_place(matrix)
    cells = []
    for cell in matrix.cells:
        content = _named_json(cell, names)
        gain = None if cell.row.is_reference else gain_of(cells_at, cell.row, tasks[cell.task])
        if gain is not None:
            content |= _known({"gain": gain.gain, "gain_se": gain.se})
        cells.append(content)
    return {
        "base_model": matrix.base.name,
        "rows": [{"adapter_id": row.id, "adapter": row.label} for row in matrix.rows],
        "tasks": [
            {"task": t.name, "metric": t.metric, "group": t.group, "family": t.family}
            for t in matrix.tasks
        ],
        "cells": cells,
    }


def _row_json(record: "Cell | CellFailure") -> dict[str, Any]:
    """A cell or a failure with its row's id."""
    content = known_fields(record)
    del content["row"]
    return {"adapter_id": record.row.id, **content}


def _named_json(record: "Cell | CellFailure", names: Mapping[MatrixRow, str]) -> dict[str, Any]:
    """The same with the row's name beside."""
    return {**_row_json(record), "adapter": names.get(record.row, record.row.label)}


def traits_json(traits: "Traits") -> dict[str, Any]:
    """A fit of the traits."""
    content: dict[str, Any] = {
        "explained_variance_ratio": list(traits.explained_variance_ratio),
        "loadings": {task: list(row) for task, row in traits.loadings.items()},
        "scores": {adapter: list(row) for adapter, row in traits.scores.items()},
        "names": list(traits.names),
        "keys": list(traits.keys),
        "poles": [{"high": list(pole.high), "low": list(pole.low)} for pole in traits.poles],
        "n_imputed": traits.n_imputed,
        "notes": list(traits.notes),
    }
    if traits.standard_errors:
        errors = {adapter: list(row) for adapter, row in traits.standard_errors.items()}
        content["standard_errors"] = errors
    if traits.stability:
        content["stability"] = [
            {"median": one.median, "min": one.minimum, "row": one.row} for one in traits.stability
        ]
    if traits.rank is not None:
        content["imputation"] = {
            "n_components": traits.rank.n_components,
            "held_out_rmse": list(traits.rank.errors),
        }
    return content


def bench_json(bench: "BenchReport") -> dict[str, Any]:
    """A back-test of every method on every matrix, and kept recommendations judged."""
    content: dict[str, Any] = {
        "matrices": {name: _benched_json(report) for name, report in bench.matrices.items()}
    }
    if bench.past:
        content["past"] = [known_fields(past) for past in bench.past]
    return content


def _benched_json(report: "BenchedMatrix") -> dict[str, Any]:
    content: dict[str, Any] = {
        "n_targets": report.n_targets,
        "n_groups": report.n_groups,
        "regime": report.regime,
        "chosen": report.chosen,
        "methods": {name: dict(row) for name, row in report.methods.items()},
        "paired": _comparisons_json(report.paired),
        "paired_popularity": _comparisons_json(report.paired_popularity),
    }
    if report.ceiling:
        content["ceiling"] = dict(report.ceiling)
    if report.warnings:
        content["warnings"] = list(report.warnings)
    if report.cells:
        from adapt_lora.recommender.calibration import calibrate

        found = calibrate(report.cells)
        content["calibration"] = {
            "harm": [_share_json(share) for share in found.harm],
            "coverage": [_share_json(share) for share in found.coverage],
        }
    return content


def _comparisons_json(
    comparisons: "Mapping[str, Mapping[str, Comparison]]",
) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        method: {
            metric: {
                "baseline": one.baseline,
                "difference": one.difference,
                "interval": [one.low, one.high],
            }
            for metric, one in row.items()
        }
        for method, row in comparisons.items()
    }


def _share_json(share: "Share") -> dict[str, Any]:
    return {
        "predicted": share.predicted,
        "observed": share.observed,
        "interval": [share.low, share.high],
        "n": share.n,
        "n_groups": share.n_groups,
    }


def training_json(name: str, training: "Training") -> dict[str, Any]:
    """What `train` leaves behind, under the name that was asked for."""
    record, result = training.record, training.result
    content: dict[str, Any] = {"name": name, "rows": len(training.dataset.rows)}
    content["read"] = echo_json(training.dataset.echo)
    if training.folder is not None:
        content["folder"] = str(training.folder)
    if record is not None:
        content |= {"adapter_id": record.adapter_id, "version": record.version}
    if result is not None:
        content |= {
            "train_loss": result.train_loss,
            "held_out_loss": result.held_out_loss,
            "tokens_per_s": result.tokens_per_s,
            "seconds": result.seconds,
            "resumed_at": result.resumed_at or None,
            "notes": list(result.notes) or None,
        }
    return _known({**content, "trained": result is not None})


def sweep_json(sweep: "Sweep") -> dict[str, Any]:
    """The runs of a manifest, planned or done."""
    return {"runs": [_run_json(run) for run in sweep.runs], "seconds": round(sweep.seconds, 3)}


def _run_json(run: "Run") -> dict[str, Any]:
    asked = run.request
    plain = asdict(run)
    del plain["request"]
    plain["read"] = None if run.read is None else echo_json(run.read)
    plain |= {"name": run.name, "base_model": asked.base_model, "group": asked.group}
    plain |= {"mapping": asked.mapping, "recipe": asked.recipe.name}
    kept = {key: value for key, value in plain.items() if value not in (None, 0)}
    kept |= {"seed": asked.recipe.seed, "dataset": str(asked.dataset)}
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in kept.items()}


def correlations_json(found: "GainCorrelations") -> dict[str, Any]:
    """What goes along with gains."""
    rows = []
    for row in found.rows:
        item: dict[str, Any] = {
            "statistic": row.statistic,
            "unit": row.unit,
            "rho": row.rho,
            "interval": list(row.interval),
            "interval_level": row.interval_level,
            "n": row.n,
            "n_adapters": row.n_adapters,
            "n_task_groups": row.n_task_groups,
            "verdict": row.verdict,
        }
        if row.claim is not None:
            item |= {"expected": row.claim.sign, "source": row.claim.source}
        rows.append(item)
    return {"rows": rows, "skipped": [asdict(one) for one in found.skipped]}


def side_effects_json(found: "SideEffects") -> dict[str, Any]:
    """Where each adapter helps and harms, and the count by kinship."""
    return {
        "adapters": [
            {
                "adapter": item.adapter,
                "adapter_id": item.adapter_id,
                "best": [known_fields(effect) for effect in item.best],
                "worst": [known_fields(effect) for effect in item.worst],
                **_counts_json(item.counts),
            }
            for item in found.adapters
        ],
        "kinship": [_kinship_json(count) for count in found.kinship],
        "quadrants": [_kinship_json(count) for count in found.quadrants],
        "n_unknown_family": found.n_unknown_family,
    }


def _counts_json(counts: Mapping[Any, int]) -> dict[str, int]:
    return {f"n_{outcome}": count for outcome, count in counts.items()}


def _kinship_json(count: "KinshipCount") -> dict[str, Any]:
    content = {"kinship": count.kinship, **_counts_json(count.counts)}
    return content if count.share_harmed is None else content | {"share_harmed": count.share_harmed}


def twins_json(comparisons: "Sequence[TwinComparison]") -> dict[str, Any]:
    """Twins one against the other."""
    twins = []
    for one in comparisons:
        content: dict[str, Any] = {
            "first": one.first,
            "second": one.second,
            "unit": one.unit,
            "scores": _mean_json(one.scores),
            "mean_absolute": one.mean_absolute,
            "foreign": [known_fields(difference) for difference in one.foreign],
            "own": [known_fields(difference) for difference in one.own],
        }
        if one.evenness is not None:
            content["evenness"] = _mean_json(one.evenness)
        twins.append(content)
    return {"twins": twins}


def _mean_json(found: "MeanDifference") -> dict[str, Any]:
    content: dict[str, Any] = {"mean": found.mean, "n_task_groups": found.n_task_groups}
    if found.interval is not None:
        content |= {"interval": list(found.interval), "interval_level": found.interval_level}
    return content


def _known(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if value is not None}
