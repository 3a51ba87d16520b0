"""The training loop: rows and a recipe in, a folder that PEFT can load out.

Kept by hand rather than taken from transformers' `Trainer`: the head is computed at answer
positions alone, and a killed run goes on to the same losses. `benchmarks/train.py` has it beside
TRL's.
"""

import contextlib
import dataclasses
import gc
import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from adapt_lora.data import Row
from adapt_lora.errors import TrainingError
from adapt_lora.model.base import BaseModel
from adapt_lora.model.scoring import Encoded, Steps, shared_beginning
from adapt_lora.trainer.checkpoint import read_checkpoint
from adapt_lora.trainer.loss import is_out_of_memory, no_room, response_nll
from adapt_lora.trainer.processes import Processes
from adapt_lora.trainer.recipe import Recipe
from adapt_lora.trainer.records import EpochRecord, StepMetrics, TrainingResult
from adapt_lora.trainer.rows import epoch_batches, length_groups, share_out_rows
from adapt_lora.trainer.run import Run
from adapt_lora.trainer.saving import (
    check_folders,
    epoch_folder,
    extracted_share,
    extraction_note,
    save_adapter,
)
from adapt_lora.trainer.tuning import check_dtype, tuned


def train_adapter(
    base: BaseModel,
    rows: Sequence[Row],
    *,
    recipe: Recipe,
    out: Path,
    labels: Sequence[str] = (),
    checkpoint: Path | None = None,
    checkpoint_every_s: float = 60.0,
    processes: Processes | None = None,
    progress: Steps | None = None,
    say: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train a LoRA adapter on the responses of these rows.

    Only response tokens, the end of turn among them, carry loss. Batches hold rows of like length,
    and the language-model head runs at answer positions alone. Same base, rows, recipe and machine:
    same losses. The base model is left as it was, weights bit for bit, whatever happens.

    Args:
        base: The frozen model to train on.
        rows: Training data; rows without a response are left out and counted.
        recipe: Every setting.
        out: Folder to make; it appears whole, at the end, or not at all. Where the recipe keeps
            epochs, earlier ones stand beside it as `out-epoch-N`.
        labels: The label set, where it may be larger than what the rows hold.
        checkpoint: Folder for checkpoints; a killed run with the same folder, base, rows and recipe
            goes on from the last one. The caller removes it when the adapter is safe.
        checkpoint_every_s: Seconds between checkpoints; one stands at the end of each epoch, too.
        processes: Who trains together, each making this call; None for this process alone. Only the
            first one writes, and only its `checkpoint` is read.
        progress: Told (steps done, steps in all) after each step.
        say: Told each note as it arises.

    Raises:
        TrainingError: `out` exists, nothing to train on, dtypes that don't fit, a loss that is
            not finite, or memory that does not hold one row.
    """
    started = time.perf_counter()
    key = training_key(base, rows, recipe)
    group = processes or Processes()
    saved = None
    if group.is_first:
        saved = None if checkpoint is None else read_checkpoint(checkpoint, key)
        check_folders(recipe, out, fresh=saved is None)
    saved = group.tell_all(saved)
    check_dtype(base, recipe)
    shared = share_out_rows(base, rows, recipe=recipe, labels=labels)
    if say is not None:
        for note in shared.notes:
            say(note)
    with _seeded(recipe.seed), tuned(base, recipe) as tuning:
        home = checkpoint if group.is_first else None
        run = Run(tuning, shared, group, key=key, home=home, say=say)
        if saved is None:
            run.before = run.held_out_loss()
        else:
            run.go_on(saved)
        _run_epochs(run, out, checkpoint_every_s, progress)
        held_out_loss = run.held_out_loss()
        if group.is_first:
            save_adapter(tuning, out)
        share = extracted_share(tuning) if recipe.method == "full" else None
    group.wait()  # the others must not be gone, or look for the adapter, before it is written
    if share is not None and group.is_first:
        with base.adapted(out):
            whole, held_out_loss = held_out_loss, run.held_out_loss()
        run.tell(extraction_note(recipe, share, whole=whole, stored=held_out_loss))
    return run.result(out, held_out_loss, time.perf_counter() - started)


def training_key(base: BaseModel, rows: Sequence[Row], recipe: Recipe) -> str:
    """Digest (hex) of all that decides the training: base, rows in order, recipe."""
    parts = [
        base.identity.weights,
        str(base.dtype).removeprefix("torch."),
        base.device,
        torch.__version__,
    ]
    digest = hashlib.sha256(json.dumps([parts, sorted(recipe.params.items())]).encode())
    for row in rows:
        digest.update(row.digest.encode())
    return digest.hexdigest()


def _run_epochs(run: Run, out: Path, checkpoint_every_s: float, progress: Steps | None) -> None:
    """Take every step that is left, and note how each epoch ended."""
    recipe, rows = run.recipe, run.rows.train
    for epoch in range(len(run.epochs), recipe.epochs):
        batches = epoch_batches(len(rows), recipe.batch_size, seed=recipe.seed, epoch=epoch)
        run.base.model.train()
        for batch in batches[len(run.history) - epoch * run.steps_per_epoch :]:
            step = _take_step(run, [rows[i] for i in batch])
            if step.step % run.steps_per_epoch:
                run.save(every_s=checkpoint_every_s)
            if progress is not None:
                progress(step.step, run.n_steps)
        run.base.model.eval()
        run.epochs.append(_end_epoch(run, epoch_folder(out, epoch + 1)))
        run.nll_sum, run.n_response = 0.0, 0
        run.save()


def _take_step(run: Run, rows: Sequence[Encoded]) -> StepMetrics:
    started = time.perf_counter()
    nll = run.processes.gather(_gradients(run, rows))
    run.processes.add_up([p.grad for p in run.parameters.values() if p.grad is not None])
    loss = float(nll.mean())
    norm = float(torch.nn.utils.clip_grad_norm_(run.parameters.values(), run.recipe.max_grad_norm))
    _check_finite(run, loss, norm)
    rate = float(run.schedule.get_last_lr()[0])
    run.optimizer.step()
    run.schedule.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.nll_sum, run.n_response = run.nll_sum + float(nll.sum()), run.n_response + len(nll)
    seconds = time.perf_counter() - started
    run.train_seconds += seconds
    step = StepMetrics(
        step=len(run.history) + 1,
        loss=loss,
        learning_rate=rate,
        grad_norm=norm,
        tokens_per_s=sum(row.n_tokens for row in rows) / seconds,
        peak_memory_mib=_peak_memory_mib(run.base.device),
    )
    run.history.append(step)
    return step


def _gradients(run: Run, rows: Sequence[Encoded]) -> torch.Tensor:
    """Leave gradients of this process's rows; their losses per response token are returned.

    They are divided by the response tokens of all rows, so that their sum is the step's. Where
    memory does not hold the rows, fewer go through at once and the gradients are summed up: the
    step stays what the recipe says.
    """
    n_response = sum(len(row.response_ids) for row in rows)
    rows = run.processes.share_of(rows)
    if not rows:
        for parameter in run.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        return torch.zeros(0)
    while True:
        parts = []
        try:
            for group in _groups(run, rows):
                nll = response_nll(
                    run.base,
                    group,
                    packed=run.recipe.packing,
                    share_beginning=run.tuning.shares_beginnings,
                )
                (nll.sum() / n_response).backward()
                parts.append(nll.detach())
            return torch.cat(parts)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            at_once = min(run.rows_at_once, len(rows))
            if at_once == 1:
                raise no_room(f"at step {len(run.history) + 1}", rows) from error
        # Outside of the handler, whose traceback would keep the tensors alive.
        run.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()
        run.rows_at_once = (at_once + 1) // 2
        run.tell(
            f"Out of memory at step {len(run.history) + 1} with {at_once} rows at a time: going on "
            f"with {run.rows_at_once} at a time and {math.ceil(len(rows) / run.rows_at_once)} "
            "passes per step; what is learned stays the same."
        )


def _groups(run: Run, rows: Sequence[Encoded]) -> list[list[Encoded]]:
    """Rows of one step as they are read together; packed rows need no like length."""
    shared = run.tuning.shares_beginnings and shared_beginning([row.prompt_ids for row in rows])
    if run.recipe.packing or shared:
        starts = range(0, len(rows), run.rows_at_once)
        return [list(rows[at : at + run.rows_at_once]) for at in starts]
    found = length_groups([row.n_tokens for row in rows], run.rows_at_once)
    return [[rows[i] for i in group] for group in found]


def _check_finite(run: Run, loss: float, norm: float) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    recipe = run.recipe
    what = "loss" if not math.isfinite(loss) else "gradient"
    exact = "" if run.base.dtype == torch.float32 else ", or load the base model in float32"
    raise TrainingError(
        f"The {what} is not a number at step {len(run.history) + 1} of {run.n_steps}. Try a lower "
        f"learning_rate (now {recipe.learning_rate:g}) or a longer warm-up (warmup_ratio, now "
        f"{recipe.warmup_ratio:g}){exact}."
    )


def _end_epoch(run: Run, folder: Path) -> EpochRecord:
    record = EpochRecord(len(run.epochs) + 1, run.nll_sum / run.n_response)
    if not run.recipe.keep_epochs or record.epoch == run.recipe.epochs:
        return record
    if run.processes.is_first:
        # It can only be this training's own, of a run that was killed before its next checkpoint.
        shutil.rmtree(folder, ignore_errors=True)
        save_adapter(run.tuning, folder)
    return dataclasses.replace(record, held_out_loss=run.held_out_loss(), folder=folder)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators for a `with` block, and put their state back after it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _peak_memory_mib(device: str) -> float | None:
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
