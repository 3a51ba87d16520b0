"""The verdict: one thing to do, from all that an answer holds."""

from collections.abc import Sequence
from math import hypot

from adapt_lora.recommender.answer import BaseChoice, RankedAdapter, Use, Verdict
from adapt_lora.recommender.own_training import OwnTraining

_SAME = 0.0005  # predicted gains that are printed alike are no order


def decide(
    ranking: Sequence[RankedAdapter],
    base: BaseChoice,
    *,
    own: OwnTraining | None = None,
    chance: float | None = None,
) -> Verdict:
    """Which of all candidates is expected to be best, the base and a training among them.

    An adapter stands for itself where it is likelier to help than to harm. A label bias is taken
    off where that was measured to win more than its standard error and nothing speaks against it;
    of an adapter, what that wins is added to what is expected of it. A training is the verdict
    where even the low end of what it might give is above all others.

    Args:
        ranking: Adapters, best first.
        base: The base model.
        own: What a training might give.
        chance: Score of who knows nothing, where that has a meaning.
    """
    first = ranking[0] if ranking else None
    if first is not None and first.predicted_gain is None:
        return Verdict("try", first.adapter_id, chance=chance)
    options: list[tuple[float, Use, RankedAdapter | None]] = [(0.0, "base", None)]
    for entry in ranking:
        gain = entry.predicted_gain
        if gain is None:
            continue
        if entry.is_promising:
            options.append((gain, "adapter", entry))
        bias, seen = entry.unbiased, entry.measured
        if bias is not None and bias.gain is not None and seen is not None and not bias.caution:
            more = bias.gain.gain - seen.gain
            if more > bias.gain.se:
                options.append((gain + more, "adapter_unbiased", entry))
    of_base = base.unbiased
    won = None if of_base is None or of_base.caution else of_base.gain
    if won is not None and won.gain > won.se:
        options.append((won.gain, "base_unbiased", None))
    best, use, chosen = max(options, key=lambda option: option[0])
    if own is not None and own.interval[0] > best:
        best, use, chosen = own.gain, "train", None
    n_measured = None
    if chosen is not None and chosen.measured is not None:
        n_measured = chosen.measured.n
    elif use == "base_unbiased" and won is not None:
        n_measured = won.n
    return Verdict(
        use,
        adapter_id=None if chosen is None else chosen.adapter_id,
        gain=best,
        score=None if base.score is None else base.score + best,
        n_measured=n_measured,
        chance=chance,
        ties=() if chosen is None or use != "adapter" else _ties(chosen, ranking),
    )


def _ties(best: RankedAdapter, ranking: Sequence[RankedAdapter]) -> tuple[str, ...]:
    """Adapters within one standard error of a measured best, or predicted just as good."""
    found = []
    for entry in ranking:
        if entry is best or entry.predicted_gain is None or best.predicted_gain is None:
            continue
        apart = best.predicted_gain - entry.predicted_gain
        if best.measured is not None and entry.measured is not None:
            if abs(apart) <= hypot(best.measured.se, entry.measured.se):
                found.append(entry.adapter)
        elif best.measured is None and entry.measured is None and abs(apart) < _SAME:
            found.append(entry.adapter)
    return tuple(found)
