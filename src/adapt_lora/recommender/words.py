"""Reasons, evidence and warnings of a ranking in sentences."""

import numpy as np

from adapt_lora.recommender.answer import Borrowed, Evidence, Reason
from adapt_lora.recommender.catalogue import FEATURES, FROM_SCORES
from adapt_lora.recommender.feature_words import feature_words, is_silent
from adapt_lora.recommender.level import MIN_GROUPS_FOR_INTERVAL
from adapt_lora.recommender.odds import OUTSIDE_WIDENING, Forecast
from adapt_lora.registry.records import Measurement

_N_REASONS = 3
_N_EVIDENCE = 3


def reasons_for(forecast: Forecast, s: int, measured: Measurement | None) -> tuple[Reason, ...]:
    """The measurement first, then the largest summands of the score, in units of gain."""
    reasons = []
    if measured is not None:
        text = f"it was measured on {measured.n} of the target's own rows"
        reasons.append(Reason("measured", measured.gain, text))
    gains = forecast.model.gains
    scale = gains.slope_ if gains is not None and gains.slope_ > 0 else 1.0
    sizes = {
        name: scale * float(part[s])
        for name, part in forecast.parts.items()
        if not is_silent(name, forecast.query)
    }
    for name, size in sorted(sizes.items(), key=lambda item: -abs(item[1]))[:_N_REASONS]:
        if abs(size) > 1e-9:
            reasons.append(Reason(name, size, _reason_text(forecast, s, name, size)))
    if reasons:
        return tuple(reasons)
    if forecast.train.n_groups == 0:
        text = "nothing was measured and nothing is known that would set it apart"
    else:
        text = "all that is known about it is average"
    return (Reason("nothing", 0.0, text),)


def _reason_text(forecast: Forecast, s: int, name: str, size: float) -> str:
    train = forecast.train
    n_tasks = int(np.isfinite(train.standard[s]).sum())
    if name == "popularity" and n_tasks == 0:
        return "it was never measured, so it counts as an average adapter"
    feature = FEATURES.get(name)
    if feature is None:
        return f"{name.replace('_', ' ')} speaks {'for' if size > 0 else 'against'} it"
    standing = train.describe(forecast.query).get(name, forecast.parts[name])
    is_high = standing[s] > 0
    text = feature_words(feature, forecast.query, is_high=is_high)
    if name == "popularity":
        text += f" ({n_tasks} measured)"
    if train.table.lenders and name in FROM_SCORES:
        text += ", under other base models"
    if feature.nonnegative and is_high == (size > 0):
        return text
    # A free weight or a tree holds a high value against an adapter, or a low one for it.
    return f"{text}, which {'helped' if size > 0 else 'hurt'} on the measured tasks"


def evidence_for(forecast: Forecast, s: int) -> tuple[Evidence, ...]:
    """Measured gains on the tasks nearest to the target, own cells excepted."""
    table, nearest = forecast.train.table, forecast.nearest
    known = np.flatnonzero(np.isfinite(table.gains[s]))
    if nearest is None:
        return tuple(
            Evidence(table.targets[t], float(table.gains[s, t])) for t in known[:_N_EVIDENCE]
        )
    order = np.argsort(-np.nan_to_num(nearest[known], nan=-np.inf), kind="stable")
    return tuple(
        Evidence(
            task=table.targets[t],
            gain=float(table.gains[s, t]),
            similarity=float(nearest[t]) if np.isfinite(nearest[t]) else None,
        )
        for t in known[order][:_N_EVIDENCE]
    )


def warnings_about(forecast: Forecast, borrowed: Borrowed | None) -> tuple[str, ...]:
    """What must be said aloud about the whole ranking."""
    train, model = forecast.train, forecast.model
    said = list(train.table.warnings)
    if borrowed is not None:
        said.append(_loan_words(borrowed))
    if train.table.lenders:
        said.append(
            "No adapter was measured under this base model yet, so gains can't be predicted, only "
            "an order. Run `adapt evaluate`, or verify the top ones on the target."
        )
    elif train.n_groups == 0:
        how = (
            "by the likeness of training data to the target alone"
            if train.similarity(forecast.query) is not None
            else "by nothing: the order says nothing"
        )
        said.append(
            "No adapter was measured on any other task, so gains can't be predicted; ranked "
            f"{how}. Run `adapt evaluate` first, or verify the top ones on the target."
        )
    elif train.n_groups < MIN_GROUPS_FOR_INTERVAL:
        said.append(
            f"Only {train.n_groups} task group(s) were measured: the ranking is the prior (half "
            "standing on other tasks, half likeness of training data), and intervals or odds can't "
            "be given. Three task groups are the least, ten are better."
        )
    elif model.gains is None or model.gains.n_groups_ == 0:
        said.append(
            "The base model was never measured, so gains can't be predicted, only an order."
        )
    elif model.backtest.get("spearman_rho", 1.0) < 0.1:
        said.append(
            "On the measured tasks this ranking did hardly better than chance (mean ρ "
            f"{model.backtest['spearman_rho']:.2f}): trust a measurement on the target more than "
            "this order."
        )
    if forecast.outside and model.gains is not None and model.gains.interval_level is not None:
        said.append(
            "The target is unlike every measured task: intervals, which hold on average over "
            f"targets like the measured ones, are {OUTSIDE_WIDENING:g} times as wide here. How "
            "wide they ought to be, nothing measured can tell."
        )
    elif forecast.outside:
        said.append("The target is unlike every measured task.")
    return tuple(said)


def _loan_words(lent: Borrowed) -> str:
    names = " and ".join(lent.base_models[:2])
    if len(lent.base_models) > 2:
        names = f"{len(lent.base_models)} other base models ({names}, …)"
    counted = "stand in for" if lent.share == 1 else f"start with {lent.share:.0%} of the weight of"
    return (
        f"Scores of {names} on {lent.n_groups} task group(s) {counted} an adapter's standing here: "
        f"{lent.n_adapters} of the adapters have a counterpart there, trained on the same data."
    )
