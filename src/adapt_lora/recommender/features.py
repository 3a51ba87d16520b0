"""What a registry's records say of adapters and tasks, as the features of a table."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from adapt_lora.recommender.borrowing import Translations, translate
from adapt_lora.recommender.catalogue import (
    BASE_SCORE,
    FEATURES,
    LEVEL_FEATURES,
    TARGET_FEATURES,
)
from adapt_lora.recommender.columns import Array
from adapt_lora.recommender.table import TransferTable, consensus, table_from_matrix
from adapt_lora.registry.records import (
    AdapterRecord,
    DatasetRecord,
    Fingerprint,
    TaskRecord,
    TransferMatrix,
    Unit,
)

TARGET_NAME = "(target)"
"""Name of the column that stands for the unseen target in a table made for it."""


def _margin(over: str) -> Callable[[Mapping[str, float]], float]:
    def of(values: Mapping[str, float]) -> float:
        return values.get(over, float("nan")) - values.get(BASE_SCORE, float("nan"))

    return of


LEVEL_STATISTICS: Mapping[str, Callable[[Mapping[str, float]], float]] = {
    "probe_margin": _margin("probe_score"),
    "bias_margin": _margin("base_unbiased"),
    "response_nll": lambda values: values.get("response_nll_mean", float("nan")),
}
"""From a fingerprint's values to each of LEVEL_FEATURES; NaN where unknown."""


def registry_table(
    matrix: TransferMatrix, *, unit: Unit, others: Sequence[TransferMatrix] = ()
) -> TransferTable:
    """The table of a registry's matrix with all features of its adapters and tasks.

    Args:
        matrix: What was measured under the base model.
        unit: The tasks of this unit alone.
        others: What was measured under other base models: it becomes the table's `elsewhere`.
    """
    lent = translate(matrix, others, unit=unit)
    return _lent_to(_featured(lent.matrix, unit), lent, {task.name for task in matrix.tasks})


def table_for_target(
    matrix: TransferMatrix,
    target: Fingerprint,
    *,
    metric: str,
    unit: Unit,
    group: str,
    others: Sequence[TransferMatrix] = (),
) -> TransferTable:
    """The registry's table plus one last column, never measured, that stands for the target.

    Where nothing was measured under the base model itself, the table holds the adapters' standing
    under the others in its place, and its `lenders` say so: then that is all there is to learn
    from. What others measured of the target's group is not looked at.
    """
    column = TaskRecord(
        name=TARGET_NAME,
        group=group,
        metric=metric,
        dataset=DatasetRecord(name=TARGET_NAME, digest="", group=group, n_rows=0),
        fingerprint=target,
    )
    lent = translate(matrix, [other.without_groups([group]) for other in others], unit=unit)
    wide = _featured(replace(lent.matrix, tasks=(*lent.matrix.tasks, column)), unit)
    table = _lent_to(wide, lent, {TARGET_NAME, *(task.name for task in matrix.tasks)})
    if table.elsewhere is None or np.isfinite(table.transfer_scores).any():
        return table
    return _stand_in(wide, table.elsewhere)


def _lent_to(wide: TransferTable, lent: Translations, own: Collection[str]) -> TransferTable:
    """The own columns, with what other base models say as `elsewhere`."""
    if not lent.tables:
        return wide
    kept = [t for t, name in enumerate(wide.targets) if name in own]
    return replace(wide.columns(kept), elsewhere=consensus(wide, lent.tables))


def _stand_in(wide: TransferTable, elsewhere: TransferTable) -> TransferTable:
    """The others' columns and the target's in the place of a base's own."""
    kept = [t for t, name in enumerate(wide.targets) if name in {*elsewhere.targets, TARGET_NAME}]
    table = wide.described.columns(kept)
    scores = np.full(table.scores.shape, np.nan)
    for t, name in enumerate(table.targets):
        if name != TARGET_NAME:
            scores[:, t] = elsewhere.scores[:, elsewhere.targets.index(name)]
    blank = np.full(len(kept), np.nan)
    return replace(table, scores=scores, base_scores=blank, lenders=elsewhere.lenders)


def _featured(matrix: TransferMatrix, unit: Unit) -> TransferTable:
    """The matrix as a table with all that is known of its adapters and tasks."""
    table = table_from_matrix(matrix, unit=unit)
    by_name = {task.name: task for task in matrix.tasks}
    tasks = [by_name[name] for name in table.targets]
    data, scored = [a.fingerprint for a in matrix.adapters], [task.fingerprint for task in tasks]
    names = sorted({name for task in scored for name in task.vectors if name.endswith("_mean")})
    target_features = {key: _column([p.values for p in scored], key) for key in TARGET_FEATURES}
    target_features[BASE_SCORE] = np.array([_base_hint(t, matrix.adapters) for t in tasks])
    level_features = {
        name: np.array([LEVEL_STATISTICS[name](print_.values) for print_ in scored])
        for name in LEVEL_FEATURES[unit]
    }
    return replace(
        table,
        pair_features=_pair_features(data, scored),
        source_features=_source_features(matrix.adapters),
        target_features=target_features,
        level_features=level_features,
        source_vectors=_vectors(data, names),
        target_vectors=_vectors(scored, names),
    )


def _pair_features(data: Sequence[Fingerprint], tasks: Sequence[Fingerprint]) -> dict[str, Array]:
    """Parts are named `feature/part`; those without a single known number are left out."""
    parts: dict[str, Array] = {}
    of_data, of_tasks = [print_.values for print_ in data], [print_.values for print_ in tasks]
    for name, feature in FEATURES.items():
        for key in feature.ratios:
            a, b = _logs(_column(of_data, key)), _logs(_column(of_tasks, key))
            parts[f"{name}/{key}"] = -np.abs(a[:, None] - b[None, :])
    for name, feature in FEATURES.items():
        for key in feature.differences:
            a, b = _column(of_data, key), _column(of_tasks, key)
            parts[f"{name}/{key}"] = -np.abs(a[:, None] - b[None, :])
    shape = (len(data), len(tasks))
    overlap, variation, pull = (np.full(shape, np.nan) for _ in range(3))
    for s, source in enumerate(data):
        for t, task in enumerate(tasks):
            overlap[s, t] = label_overlap(source, task)
            if overlap[s, t] > 0:
                variation[s, t] = -total_variation(source.label_shares, task.label_shares)
            if overlap[s, t] == 1 and task.base_label_shares:
                pull[s, t] = total_variation(source.label_shares, task.base_label_shares)
    parts["label_match/overlap"] = overlap
    parts["label_match/shares"] = variation
    parts["habit_pull"] = pull
    return {name: x for name, x in parts.items() if np.isfinite(x).any()}


def label_overlap(source: Fingerprint, target: Fingerprint) -> float:
    """Jaccard overlap of two label sets, in [0, 1]; NaN where either is unlabelled."""
    a, b = set(source.label_shares), set(target.label_shares)
    return len(a & b) / len(a | b) if a and b else float("nan")


def total_variation(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Half the summed difference of two label distributions, in [0, 1]."""
    # In the order of the labels: that of a set is another one in each process, and sums round.
    return 0.5 * sum(abs(a.get(label, 0.0) - b.get(label, 0.0)) for label in {**a, **b})


def _base_hint(task: TaskRecord, adapters: Sequence[AdapterRecord]) -> float:
    """The base's score on a task, from other rows than those that gains come from; NaN unknown.

    That is its mean score on training data of the task's group with the same labels: another split
    of the same benchmark, which the adapters' fingerprints hold. Altered copies (balanced, wrong
    labels) are no such split. On the scored rows themselves an unlucky base would look like a task
    with much to gain. The target, where no gain is known, has its own rows' score.
    """
    if task.name == TARGET_NAME:
        return task.fingerprint.values.get(BASE_SCORE, float("nan"))
    found = [
        adapter.fingerprint.values[BASE_SCORE]
        for adapter in adapters
        if adapter.dataset is not None
        and adapter.dataset.group == task.group
        and not adapter.dataset.parent
        and adapter.dataset.digest != task.dataset.digest
        and BASE_SCORE in adapter.fingerprint.values
        and adapter.fingerprint.label_shares.keys() == task.fingerprint.label_shares.keys()
    ]
    return float(np.mean(found)) if found else float("nan")


def _source_features(adapters: Sequence[AdapterRecord]) -> dict[str, Array]:
    data = [a.fingerprint.values for a in adapters]
    rows = np.array([a.dataset.n_rows if a.dataset else np.nan for a in adapters], dtype=np.float64)
    behaviour = [a.behaviour for a in adapters]
    change = _column([a.weights for a in adapters], "delta_norm_relative", "delta_norm")
    features = {
        "perplexity": -_logs(_column(data, "response_ppl")),
        "training_rows": _logs(rows),
        "response_length": _logs(_column(data, "response_tokens_mean")),
        "weight_change": _logs(change),
        "behaviour_change": _logs(_column(behaviour, "hidden_shift_relative")),
        "prior_shift": _column(behaviour, "label_prior_tv"),
    }
    return {name: x for name, x in features.items() if np.isfinite(x).any()}


def _vectors(prints: Sequence[Fingerprint], names: Sequence[str]) -> dict[str, Array]:
    """Embeddings of many fingerprints by name, NaN rows where absent; those of one width alone."""
    found = {}
    for name in names:
        vectors = [print_.vectors.get(name) for print_ in prints]
        widths = {len(vector) for vector in vectors if vector}
        if len(widths) == 1:
            blank = (float("nan"),) * widths.pop()
            found[name] = np.array([v or blank for v in vectors], dtype=np.float64)
    return found


def _column(records: Sequence[Mapping[str, float]], *keys: str) -> Array:
    """One column by the first key that any record has: two scales are never mixed."""
    key = next((key for key in keys if any(key in record for record in records)), keys[0])
    return np.array([record.get(key, float("nan")) for record in records], dtype=np.float64)


def _logs(values: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        logs: Array = np.where(values > 0, np.log(values), np.nan)
    return logs
