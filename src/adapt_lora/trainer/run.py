"""A training in progress, and how it goes into a checkpoint and out of one."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

from adapt_lora.trainer.checkpoint import Checkpoint, write_checkpoint
from adapt_lora.trainer.loss import mean_loss
from adapt_lora.trainer.processes import Processes
from adapt_lora.trainer.recipe import Recipe
from adapt_lora.trainer.records import EpochRecord, StepMetrics, TrainingResult
from adapt_lora.trainer.rows import TrainingRows
from adapt_lora.trainer.tuning import Tuning


class Run:
    """A training in progress: all that a checkpoint keeps, and a resumed run takes up again."""

    def __init__(
        self,
        tuning: Tuning,
        rows: TrainingRows,
        processes: Processes,
        *,
        key: str,
        home: Path | None,
        say: Callable[[str], None] | None,
    ) -> None:
        self.tuning, self.base, self.recipe = tuning, tuning.base, tuning.recipe
        self.rows, self.processes = rows, processes
        recipe = tuning.recipe
        self.steps_per_epoch = math.ceil(len(rows.train) / recipe.batch_size)
        self.n_steps = recipe.epochs * self.steps_per_epoch
        self.parameters = tuning.parameters
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.schedule = _schedule(self.optimizer, recipe, self.n_steps)
        self.rows_at_once = min(recipe.micro_batch_size or recipe.batch_size, recipe.batch_size)
        self.history: list[StepMetrics] = []
        self.epochs: list[EpochRecord] = []
        self.nll_sum, self.n_response = 0.0, 0  # of the epoch in hand
        self.before: float | None = None
        self.train_seconds = 0.0
        self.notes: list[str] = []
        self.resumed_at, self.seconds_before = 0, 0.0
        self._key, self._home, self._say = key, home, say
        self._saved_at = time.perf_counter()

    def tell(self, note: str) -> None:
        """Keep a sentence for the result, and say it now."""
        self.notes.append(note)
        if self._say is not None:
            self._say(note)

    def held_out_loss(self) -> float | None:
        """Mean loss per response token of the rows kept aside, as the model is now."""
        return mean_loss(self.base, self.rows.held_out, self.rows_at_once)

    def save(self, *, every_s: float = 0.0) -> None:
        """Write a checkpoint if the last one is older than that; a full disk is said once."""
        if self._home is None or time.perf_counter() - self._saved_at < every_s:
            return
        try:
            write_checkpoint(self._home, self._checkpoint())
        except OSError as error:
            self.tell(
                f"{self._home}: no checkpoint can be written ({error.strerror or error}). Training "
                "goes on, but would start afresh if it were killed; make room there."
            )
            self._home = None
        self._saved_at = time.perf_counter()

    def go_on(self, saved: Checkpoint) -> None:
        """Take up a checkpoint's state."""
        figures, tensors = saved.figures, saved.tensors
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"weights/{name}"])
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            section, _, rest = name.partition("/")
            if section == "optimizer":
                index, _, field = rest.partition("/")
                state.setdefault(int(index), {})[field] = tensor
        self.optimizer.load_state_dict({"state": state, "param_groups": figures["param_groups"]})
        self.schedule.load_state_dict(dict(figures["schedule"]))
        torch.set_rng_state(tensors["random/cpu"])
        if "random/device" in tensors:
            torch.cuda.set_rng_state(tensors["random/device"], self.base.device)
        self.history = [StepMetrics(**step) for step in figures["history"]]
        self.epochs = [
            EpochRecord(**{**epoch, "folder": Path(epoch["folder"]) if epoch["folder"] else None})
            for epoch in figures["epochs"]
        ]
        self.nll_sum, self.n_response = figures["nll_sum"], figures["n_response"]
        self.rows_at_once = figures["rows_at_once"]
        self.before, self.train_seconds = figures["before"], figures["train_seconds"]
        self.notes = list(figures["notes"])
        self.resumed_at, self.seconds_before = saved.step, float(figures["train_seconds"])
        self.tell(f"Training goes on after step {saved.step} of {self.n_steps}, where it stopped.")

    def _checkpoint(self) -> Checkpoint:
        tensors = {f"weights/{name}": p.detach() for name, p in self.parameters.items()}
        optimizer = self.optimizer.state_dict()
        for index, fields in optimizer["state"].items():
            tensors |= {f"optimizer/{index}/{field}": value for field, value in fields.items()}
        tensors["random/cpu"] = torch.get_rng_state()
        if self.base.device.startswith("cuda"):
            tensors["random/device"] = torch.cuda.get_rng_state(self.base.device)
        figures = {
            "param_groups": optimizer["param_groups"],
            "schedule": self.schedule.state_dict(),
            "history": [dataclasses.asdict(step) for step in self.history],
            "epochs": [
                {**dataclasses.asdict(epoch), "folder": str(epoch.folder) if epoch.folder else None}
                for epoch in self.epochs
            ],
            "nll_sum": self.nll_sum,
            "n_response": self.n_response,
            "rows_at_once": self.rows_at_once,
            "before": self.before,
            "train_seconds": self.train_seconds,
            "notes": self.notes,
        }
        stored = {name: value.cpu().contiguous() for name, value in tensors.items()}
        return Checkpoint(self._key, len(self.history), stored, figures)

    def result(self, out: Path, held_out_loss: float | None, seconds: float) -> TrainingResult:
        """The finished training: its folder, the loss at its end, this process's wall time."""
        rows, last = self.rows, self.epochs[-1]
        return TrainingResult(
            folder=out,
            recipe=self.recipe,
            history=tuple(self.history),
            train_loss=last.train_loss,
            held_out_loss=held_out_loss,
            held_out_loss_base=self.before,
            n_rows=len(rows.train),
            n_held_out=len(rows.held_out),
            n_too_long=rows.n_too_long,
            n_without_response=rows.n_without_response,
            n_tokens=self.recipe.epochs * sum(row.n_tokens for row in rows.train),
            train_seconds=self.train_seconds,
            seconds=self.seconds_before + seconds,
            epochs=(*self.epochs[:-1], dataclasses.replace(last, held_out_loss=held_out_loss)),
            resumed_at=self.resumed_at,
            notes=(*rows.notes, *self.notes),
        )


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, n_steps: int) -> LambdaLR:
    n_warmup = math.ceil(recipe.warmup_ratio * n_steps) if n_steps > 1 else 0
    if recipe.lr_schedule == "constant":
        flat: LambdaLR = get_constant_schedule_with_warmup(optimizer, n_warmup)
        return flat
    cosine: LambdaLR = get_cosine_schedule_with_warmup(optimizer, n_warmup, n_steps)
    return cosine
