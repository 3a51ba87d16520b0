"""The answer as records: adapters ranked for one target, with gains, doubts and evidence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from adapt_lora.data import counted, short_repr
from adapt_lora.recommender.own_training import OwnTraining
from adapt_lora.registry.records import Measurement, Unit

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the gain lies with the recommendation's `interval_level`."""

    low: float
    """Lower end, in the target's unit."""
    high: float
    """Upper end."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One part of a prediction."""

    feature: str
    """Its name in `catalogue.FEATURES`, or a method's."""
    contribution: float
    """What it adds over the average candidate, as gain (without any measured gain: as score)."""
    text: str
    """The same in words."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A measured gain that speaks for or against an adapter."""

    task: str
    """A measured task."""
    gain: float
    """What the adapter gained there, in the table's unit."""
    similarity: float | None = None
    """How near the task is to the target; None where nothing tells."""


@dataclass(frozen=True, slots=True)
class LabelBias:
    """A model with its label bias taken off: of each log-likelihood, its label's mean over prompts.

    Batch calibration (Zhou et al. 2024, arXiv:2309.17249) with the mean of logarithms.
    """

    gain: Measurement | None
    """What it gains over the base as it is; None where the target has no labels of its own."""
    offsets: Mapping[str, float]
    """What to take off each label's log-likelihood, nats."""
    caution: str | None = None
    """Why it is not to be trusted here; None where nothing speaks against it."""


@dataclass(frozen=True, slots=True)
class RankedAdapter:
    """One adapter's place and all that is known about its chances."""

    rank: int
    """From 1, best first."""
    adapter: str
    """Name of the registered model."""
    adapter_id: str
    """Its registry id."""
    predicted_gain: float | None
    """Predictive median of the gain over the base; None when too little was measured."""
    interval: Interval | None
    """None when too few task groups carry one."""
    p_harm: float | None
    """Probability that the adapter does worse than the base."""
    p_best: float | None
    """Probability that it is the best of all candidates and the base."""
    reasons: tuple[Reason, ...]
    """The largest contributions; at least one."""
    evidence: tuple[Evidence, ...]
    """Its measured gains on the tasks nearest to the target."""
    warnings: tuple[str, ...]
    """Sentences to show beside it."""
    measured: Measurement | None = None
    """Its measurement on the target, when there is one; `predicted_gain` then contains it."""
    predicted_alone: float | None = None
    """What was predicted before anything was measured on the target; None without measurements."""
    unbiased: LabelBias | None = None
    """The adapter with its label bias taken off, where it was measured on labels."""

    @property
    def is_promising(self) -> bool:
        """Whether more speaks for it than for the bare base, as far as anything is known."""
        if self.predicted_gain is None:
            return True
        return self.predicted_gain > 0 and (self.p_harm is None or self.p_harm < 0.5)

    def __repr__(self) -> str:
        gain, harm = self.predicted_gain, self.p_harm
        return short_repr(
            self,
            f"{self.rank}. {self.adapter}",
            "" if gain is None else f"gain {gain:+.3f}",
            "" if harm is None else f"P(harm) {harm:.2f}",
            "" if self.measured is None else f"measured {self.measured.gain:+.3f}",
        )


@dataclass(frozen=True, slots=True)
class BaseChoice:
    """The bare base model as a candidate."""

    score: float | None
    """Its score on the target; None when the target is unlabelled."""
    se: float | None
    """Standard error of that score."""
    p_best: float | None
    """Probability that no adapter beats it."""
    recommended: bool
    """True when no adapter is expected to help."""
    unbiased: LabelBias | None = None
    """The base with its label bias taken off; None without labels."""
    majority: float | None = None
    """Score of the commonest label as every answer; None without labels."""
    few_shot: Mapping[str, float] = field(default_factory=dict)
    """Scores of the base shown examples, where stored for these rows, by row of the matrix."""


@dataclass(frozen=True, slots=True)
class Borrowed:
    """What other base models lent to a ranking."""

    base_models: tuple[str, ...]
    """Their names."""
    n_groups: int
    """Task groups that were measured under them, the target's left out."""
    n_adapters: int
    """Candidates whose training data an adapter of theirs shares."""
    share: float
    """Their part of the starting weight of an adapter's standing; 1 where nothing was measured
    under the target's own base model."""


Use = Literal["adapter", "adapter_unbiased", "base", "base_unbiased", "train", "try"]
"""What a verdict says to use: an adapter or the base, as it is or without its label bias; to train
an adapter; "try" where nothing tells more than an order."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do, as far as anything is known."""

    use: Use
    """What to use."""
    adapter_id: str | None = None
    """Which adapter; None for the base and for training."""
    gain: float | None = None
    """Expected gain over the base as it is; None where it is not known."""
    score: float | None = None
    """Expected score; None where the base's is not known."""
    n_measured: int | None = None
    """Rows of the target that it was measured on; None where it is predicted."""
    chance: float | None = None
    """Score of who knows nothing; None where that has no meaning."""
    ties: tuple[str, ...] = ()
    """Names of other adapters that can't be told from it."""


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """Which model ranked, on what it was fitted, and how well it did in the back-test."""

    name: str
    """The method, e.g. "stack"."""
    regime: str
    """How the adapters were used when they were measured."""
    unit: Unit
    """What gains are counted in."""
    metric: str
    """The target's metric."""
    n_groups: int
    """Task groups that it was fitted on."""
    n_cells: int
    """Measured transfer cells that it was fitted on."""
    backtest: Mapping[str, Any] = field(default_factory=dict)
    """Leave-one-task-group-out figures; empty when fewer than two groups were measured."""
    borrowed: Borrowed | None = None
    """What other base models lent; None where none was measured on the same sources."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Adapters ranked for one target."""

    base_model: str
    """The base model that all candidates sit on."""
    base: BaseChoice
    """The base model as a candidate; it has no entry in `ranking`."""
    model: ModelSummary
    """What made the ranking."""
    ranking: tuple[RankedAdapter, ...]
    """Best first."""
    interval_level: float | None
    """Nominal coverage of the intervals, marginal over targets; None when there are none."""
    verdict: Verdict
    """What to do."""
    own_training: OwnTraining | None = None
    """What training on the target's own rows might give; None where too little is known."""
    warnings: tuple[str, ...] = ()
    """What the reader must know before trusting it."""

    def __repr__(self) -> str:
        return short_repr(self, self.summary)

    @property
    def summary(self) -> str:
        """What comes first, in a few words: "snli +0.023, sst2 +0.019, ... of 20 adapters"."""
        first = [
            each.adapter + ("" if each.predicted_gain is None else f" {each.predicted_gain:+.3f}")
            for each in self.ranking[:2]
        ]
        best = ["the base"] if self.base.recommended else []
        shown = ", ".join([*best, *first])
        n = counted(len(self.ranking), "adapter")
        return f"{self.model.metric}: {shown}, ... of {n}" if self.ranking else self.model.metric

    def to_pandas(self) -> "pd.DataFrame":
        """One row per adapter, best first."""
        import pandas as pd

        return pd.DataFrame(
            {
                "rank": entry.rank,
                "adapter": entry.adapter,
                "predicted_gain": entry.predicted_gain,
                "low": entry.interval.low if entry.interval else None,
                "high": entry.interval.high if entry.interval else None,
                "p_harm": entry.p_harm,
                "p_best": entry.p_best,
                "predicted_alone": entry.predicted_alone,
                "measured_gain": entry.measured.gain if entry.measured else None,
                "measured_se": entry.measured.se if entry.measured else None,
                "measured_rows": entry.measured.n if entry.measured else None,
                "reason": entry.reasons[0].text,
                "warnings": " ".join(entry.warnings),
            }
            for entry in self.ranking
        )

    def _repr_html_(self) -> str:
        """The ranking as a notebook shows it: a table, the base's chances and the warnings."""
        frame = self.to_pandas()
        shown = frame.loc[:, frame.notna().any()]  # columns that nothing is known in say nothing
        table: str = shown.to_html(index=False, float_format=lambda x: f"{x:.3f}", na_rep="·")
        base = "The base model competes"
        if self.base.p_best is not None:
            base += f": best with probability {self.base.p_best:.0%}"
        if self.base.recommended:
            base = f"<b>Use the base model: no adapter is likely to help.</b> {base}"
        notes = "".join(f"<p>{escape(warning)}</p>" for warning in self.warnings)
        return f"{table}<p>{base}; gains in {self.model.unit}.</p>{notes}"
