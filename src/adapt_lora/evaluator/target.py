"""Measuring a few adapters against their base on an unseen target, batch of rows by batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import numpy as np

from adapt_lora.data import Dataset, Row
from adapt_lora.errors import TaskError
from adapt_lora.evaluator.cells import CellResult, CellUnit, measure_cell
from adapt_lora.evaluator.comparison import PairedComparison, compare_with_base
from adapt_lora.evaluator.grading import needed_grader
from adapt_lora.evaluator.measuring import Measuring
from adapt_lora.evaluator.metrics import WHOLE_SET_DECISIONS, LabelDecision
from adapt_lora.evaluator.plan import MatrixPlan, measure_pace, size_task
from adapt_lora.evaluator.tasks import Task
from adapt_lora.model.scoring import Steps
from adapt_lora.registry.records import BASE_ROW, Cell, MatrixRow, Prediction

_SWITCH_S = 1.0  # putting a 135M model's adapter on and checking that it is: .6-1.2 s on two cores


@dataclass(frozen=True, slots=True)
class PairedGain:
    """What a model gained over the bare base on the same rows."""

    gain: float
    """Difference of scores, in the metric's unit."""
    se: float
    """Its standard error, paired by row; at least 1/n."""
    n: int
    """Rows."""

    @classmethod
    def of(cls, compared: PairedComparison) -> "PairedGain":
        """What a comparison says."""
        # Constant answers come with no error, yet one more row could break the habit.
        return cls(compared.gain, max(compared.se, 1 / compared.n), compared.n)


@dataclass(frozen=True, slots=True)
class UnbiasedGain:
    """A model whose label bias is taken off (decision "unbiased")."""

    gain: PairedGain
    """What it gains over the bare base as it is."""
    offsets: Mapping[str, float]
    """What is taken off each label's log-likelihood, nats: the label's mean over the rows, less
    that of all labels."""


@dataclass(frozen=True, slots=True)
class TargetBatch:
    """What is known after one more batch of rows."""

    gains: Mapping[str, PairedGain]
    """By adapter id, on all rows that adapter and base have answered by now."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Adapter id → why it could not be measured."""


class TargetMeter:
    """Measures adapters on a target's rows; what was ever answered there is not asked again.

    Args:
        measuring: What measures; the cells bear the mark `selected`, whatever it says. Its `recall`
            finds what was answered to rows of the target before, in whichever cells.
        dataset: The target's data, for the digests of its batches.
        task: The target with all its rows. They are taken in an order drawn by `seed`, in which
            every stretch holds the labels in about their shares.
        folder_of: Where an adapter's files are; asked only for those that are run.
        save_cell: Keeps a cell.
        seed: Decides the order of the rows.
        progress: Told (tokens done, tokens in all) within a batch.
    """

    def __init__(
        self,
        measuring: Measuring,
        dataset: Dataset,
        task: Task,
        *,
        folder_of: Callable[[str], Path],
        save_cell: Callable[[CellResult, Task], None],
        seed: int = 0,
        progress: Steps | None = None,
    ) -> None:
        self._dataset, self._task = dataset, task
        self._folder_of, self._save_cell = folder_of, save_cell
        self._progress = progress
        self._rows = spread_rows(task, seed=seed)
        self._digests = frozenset(row.digest for row in task.rows)
        self._recall = measuring.recall
        self._answers: dict[MatrixRow, dict[str, Prediction]] = {}
        self._measuring = replace(
            measuring,
            selected=True,
            recall=lambda row, _: self._answered(row),
            base_predictions=lambda *_: tuple(self._answered(BASE_ROW).values()),
        )
        self._whole = size_task(
            measuring.backend,
            task,
            decision=measuring.decision,
            grader=needed_grader(task, measuring.graders),
        )

    def gains(self, adapter_ids: Sequence[str]) -> dict[str, PairedGain]:
        """By adapter id, what each gained on the rows that it and the base have answered by now.

        Those without such a row are left out; nothing is run.
        """
        return {
            name: PairedGain.of(self._compare(MatrixRow(name)))
            for name in adapter_ids
            if self._n_shared(MatrixRow(name))
        }

    def unbiased(self, row: MatrixRow) -> UnbiasedGain | None:
        """What the base, or an adapter, is worth without its label bias.

        None without labels, without answers, or where the bias is taken off anyway.
        """
        if self._whole.protocol.decision in (None, *WHOLE_SET_DECISIONS) or not self._n_shared(row):
            return None
        liked = np.array([one.log_likelihood for one in self._answered(row).values()]).mean(axis=0)
        offsets = (liked - liked.mean()).tolist()
        return UnbiasedGain(
            PairedGain.of(self._compare(row, decision="unbiased")),
            dict(zip(self._task.record.labels, offsets, strict=True)),
        )

    @property
    def base_cell(self) -> Cell | None:
        """How the bare base did on all rows that it has answered by now; None without any."""
        return self._judged(BASE_ROW).cell if self._answered(BASE_ROW) else None

    def estimated_s(self, rounds: Sequence[tuple[Sequence[str], range]]) -> float:
        """Seconds that these (adapters, rows) would take, from a few rows read by the base now."""
        plans = [
            self._plan([(name, Path(name)) for name in names], self._batch(rows))
            for names, rows in rounds
        ]
        if not any(plan.n_tokens for plan in plans):
            return 0.0
        everything = replace(self._measuring, recall=None).plan(
            (), [self._batch(range(len(self._rows)))]
        )
        pace = measure_pace(self._measuring.backend, everything)
        if pace is None:
            return 0.0
        switches = sum(unit.folder is not None for plan in plans for unit in plan.units)
        return sum(plan.span(pace).likely_s for plan in plans) + _SWITCH_S * switches

    def measure(self, adapter_ids: Sequence[str], rows: range) -> TargetBatch:
        """Have these adapters and the base answer rows `rows` of the shuffled target.

        Raises:
            TaskError: The base itself can't be measured there.
        """
        batch = self._batch(rows)

        def keep(result: CellResult) -> None:
            self._answered(result.cell.row).update({one.row: one for one in result.predictions})
            self._save_cell(result, batch)

        plan = self._plan([(name, self._folder_of(name)) for name in adapter_ids], batch)
        report = self._measuring.run(plan, keep, progress=self._progress)
        why = {failure.row: failure.reason for failure in report.failures}
        if not self._answered(BASE_ROW):
            raise TaskError(
                f"{batch.record.name}: the base model could not be measured on the target "
                f"({why.get(BASE_ROW, 'no score came out')})."
            )
        failures = {
            name: why.get(MatrixRow(name), "no score came out")
            for name in adapter_ids
            if MatrixRow(name) in why or not self._n_shared(MatrixRow(name))
        }
        return TargetBatch(self.gains([n for n in adapter_ids if n not in failures]), failures)

    def _answered(self, row: MatrixRow) -> dict[str, Prediction]:
        """What a row of the matrix has answered to rows of the target, by digest of the row."""
        if row not in self._answers:
            found = {} if self._recall is None else self._recall(row, self._whole.protocol)
            self._answers[row] = {key: one for key, one in found.items() if key in self._digests}
        return self._answers[row]

    def _n_shared(self, row: MatrixRow) -> int:
        return len(self._answered(row).keys() & self._answered(BASE_ROW).keys())

    def _compare(
        self, row: MatrixRow, *, decision: LabelDecision | None = None
    ) -> PairedComparison:
        return compare_with_base(
            self._said(row, decision), self._said(BASE_ROW), metric=self._task.record.metric
        )

    def _said(self, row: MatrixRow, decision: LabelDecision | None = None) -> Sequence[Prediction]:
        """What a row of the matrix answered; decided anew only where that hangs on other rows."""
        if decision is None and self._whole.protocol.decision not in WHOLE_SET_DECISIONS:
            known = self._answered(row)
            # In the target's order: what is resampled must not hang on who answered when.
            return [known[one.digest] for one in self._task.rows if one.digest in known]
        return self._judged(row, decision).predictions

    def _judged(self, row: MatrixRow, decision: LabelDecision | None = None) -> CellResult:
        """The cell of all that is known of a row of the matrix; nothing is run for it."""
        known, protocol = self._answered(row), self._whole.protocol
        rows = tuple(one for one in self._task.rows if one.digest in known)
        if decision is not None:
            protocol = replace(protocol, decision=decision)
        task = replace(self._task, rows=rows)
        return measure_cell(
            self._measuring.backend, CellUnit(row, None, task, protocol, n_tokens=0, known=known)
        )

    def _batch(self, rows: range) -> Task:
        chosen = tuple(self._rows[i] for i in rows)
        digest = replace(self._dataset, rows=chosen).digest
        record = self._task.record
        dataset = replace(record.dataset, digest=digest, n_rows=len(chosen))
        return Task(replace(record, dataset=dataset), chosen)

    def _plan(self, adapters: Sequence[tuple[str, Path]], batch: Task) -> MatrixPlan:
        """The units that have rows to run; answers may be as long as in the whole target."""
        rows = [(MatrixRow(name), folder) for name, folder in adapters]
        plan = self._measuring.plan(rows, [batch])
        limit = self._whole.protocol.max_new_tokens
        units = [
            replace(unit, protocol=replace(unit.protocol, max_new_tokens=limit))
            for unit in plan.units
            if unit.unknown.rows
        ]
        # The majority label is worth a cell beside others, not alone.
        if not any(unit.n_tokens for unit in units):
            units = []
        return replace(plan, units=tuple(units), n_skipped=plan.n_cells - len(units))


def spread_rows(task: Task, *, seed: int) -> tuple[Row, ...]:
    """The rows in a drawn order in which every stretch has the labels in about their shares."""
    rng = Random(seed)
    shuffled = list(task.rows)
    rng.shuffle(shuffled)
    if not task.is_label_task:
        return tuple(shuffled)
    of_label: dict[str | None, list[Row]] = {}
    for row in shuffled:
        of_label.setdefault(row.label, []).append(row)
    placed = [
        ((place + rng.random()) / len(rows), row)
        for rows in of_label.values()
        for place, row in enumerate(rows)
    ]
    return tuple(row for _, row in sorted(placed, key=lambda item: item[0]))
