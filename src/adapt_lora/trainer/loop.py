"""The training loop: rows and a recipe in, a folder that PEFT can load out."""

import contextlib
import dataclasses
import gc
import hashlib
import json
import math
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

from adapt_lora.data import Row, sample_rows
from adapt_lora.errors import TrainingError
from adapt_lora.model.base import BaseModel
from adapt_lora.model.head import POSITIONS_AT_ONCE, Head
from adapt_lora.model.lora_linear import speed_up_lora
from adapt_lora.model.scoring import Encoded, encode_rows
from adapt_lora.trainer.attention import row_attention
from adapt_lora.trainer.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from adapt_lora.trainer.processes import Processes
from adapt_lora.trainer.recipe import Recipe

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "README.md")
"""All that a trained folder holds; nothing in it is a pickle."""


# Widths of padded batches are multiples of this: a CPU's library compiles and keeps code for each
# width it meets, half a megabyte for each of a dozen products: 0.8 GB over 200 widths.
_WIDTH_STEP = 8


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """What one optimiser step looked like."""

    step: int
    """Number of the step, from 1."""
    loss: float
    """Mean negative log-likelihood over the step's response tokens, before the update, nats."""
    learning_rate: float
    """Learning rate of the update."""
    grad_norm: float
    """Norm of the gradient before it was clipped."""
    tokens_per_s: float
    """Real tokens (padding not counted), prompt and response, through this step per second."""
    peak_memory_mib: float | None
    """Most memory held so far: of the process on a CPU, of the allocator on a GPU; None where the
    system does not count it."""


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """How the training stood at the end of an epoch."""

    epoch: int
    """Number of the epoch, from 1."""
    train_loss: float
    """Mean loss per response token over the epoch, each batch before its update, nats."""
    held_out_loss: float | None = None
    """Mean loss per held-out response token after it; None where it was not measured."""
    folder: Path | None = None
    """The adapter as it was then; None unless the recipe keeps epochs, and for the last one."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A finished training."""

    folder: Path
    """The adapter: adapter_config.json, adapter_model.safetensors, README.md."""
    recipe: Recipe
    """The settings it was trained with."""
    history: tuple[StepMetrics, ...]
    """One record per optimiser step."""
    train_loss: float
    """Mean loss per response token over the last epoch, each batch before its update, nats."""
    held_out_loss: float | None
    """Mean loss per response token on rows kept aside; None when the data were too few."""
    held_out_loss_base: float | None
    """The same rows and tokens before training: what the base model alone gets."""
    n_rows: int
    """Rows trained on."""
    n_held_out: int
    """Rows kept aside."""
    n_too_long: int
    """Rows left out for having more tokens than the recipe's max_length."""
    n_without_response: int
    """Rows left out for having nothing to learn."""
    n_tokens: int
    """Real tokens trained on, over all epochs."""
    train_seconds: float
    """Wall time of the optimiser steps alone."""
    seconds: float
    """Wall time, from the first encoding to the finished folder; what an interrupted run spent on
    steps is counted in."""
    epochs: tuple[EpochRecord, ...] = ()
    """One record per epoch."""
    resumed_at: int = 0
    """Steps that an interrupted run had done already; 0 for a run in one piece."""
    notes: tuple[str, ...] = ()
    """What a person should know about the run, one sentence each."""

    @property
    def tokens_per_s(self) -> float:
        """Real tokens per second over all steps, without encoding and held-out passes."""
        return self.n_tokens / self.train_seconds

    @property
    def peak_memory_mib(self) -> float | None:
        """Most memory held in training, where the system counts it."""
        return self.history[-1].peak_memory_mib


@dataclass(frozen=True, slots=True)
class _Split:
    """Encoded rows, shared out."""

    train: list[Encoded]
    held_out: list[Encoded]
    n_too_long: int
    n_without_response: int
    notes: list[str]


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
    progress: Callable[[int, int], None] | None = None,
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
        _check_folders(recipe, out, fresh=saved is None)
    saved = group.tell_all(saved)
    _check_dtype(base, recipe)
    split = _split_rows(base, rows, recipe, labels)
    if say is not None:
        for note in split.notes:
            say(note)
    tuned = _lora_on(base, recipe) if recipe.method == "lora" else _every_weight_on(base, recipe)
    with _seeded(recipe.seed), tuned as peft_model:
        home = checkpoint if group.is_first else None
        run = _Run(base, peft_model, recipe, split, group, key=key, home=home, say=say)
        if saved is None:
            run.before = run.held_out_loss()
        else:
            run.go_on(saved)
        _run_epochs(run, out, checkpoint_every_s, progress)
        after = run.held_out_loss()
        run.save_adapter(out)
        kept = peft_model.kept_share(recipe) if isinstance(peft_model, _WholeModel) else None
    group.wait()  # the others must not be gone, or look for the adapter, before it is written
    if kept is not None and group.is_first:
        with base.adapted(out):
            whole, after = after, _mean_loss(base, split.held_out, run.rows_at_once)
        run.tell(_extraction_text(recipe, kept, whole, after))
    spent = 0.0 if saved is None else float(saved.figures["train_seconds"])
    return TrainingResult(
        folder=out,
        recipe=recipe,
        history=tuple(run.history),
        train_loss=run.epochs[-1].train_loss,
        held_out_loss=after,
        held_out_loss_base=run.before,
        n_rows=len(split.train),
        n_held_out=len(split.held_out),
        n_too_long=split.n_too_long,
        n_without_response=split.n_without_response,
        n_tokens=recipe.epochs * sum(_length(row) for row in split.train),
        train_seconds=run.train_seconds,
        seconds=spent + time.perf_counter() - started,
        epochs=(*run.epochs[:-1], dataclasses.replace(run.epochs[-1], held_out_loss=after)),
        resumed_at=0 if saved is None else saved.step,
        notes=(*split.notes, *run.notes),
    )


def training_key(base: BaseModel, rows: Sequence[Row], recipe: Recipe) -> str:
    """Digest (hex) of all that decides the training: base, rows in order, recipe."""
    parts = [base.identity.weights, _plain(base.dtype), base.device, torch.__version__]
    digest = hashlib.sha256(json.dumps([parts, sorted(recipe.params.items())]).encode())
    for row in rows:
        digest.update(row.digest.encode())
    return digest.hexdigest()


def epoch_batches(n_rows: int, batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Row indices in batches, in random order; seed and epoch decide all of it.

    A batch is a fair draw: were it filled with rows of like length, each step would learn from one
    kind of row, and rows with short answers would weigh more than their tokens do.
    """
    order = np.random.default_rng([seed, epoch]).permutation(n_rows).tolist()
    return [order[i : i + batch_size] for i in range(0, n_rows, batch_size)]


def length_groups(lengths: Sequence[int], at_once: int) -> list[list[int]]:
    """Rows of one step in groups that are read together, so that little of it is padding.

    Args:
        lengths: Tokens per row.
        at_once: Rows of a group at most.

    Returns:
        Indices, shorter rows first; at least four fifths of each group's rectangle are tokens.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        group = groups[-1] if groups else []
        held = sum(lengths[i] for i in group) + lengths[index]
        if not group or len(group) == at_once or (len(group) + 1) * lengths[index] > 1.25 * held:
            groups.append([index])
        else:
            group.append(index)
    return groups


def epoch_folder(out: Path, epoch: int) -> Path:
    """Where the adapter stands as it was after an epoch (from 1)."""
    return out.with_name(f"{out.name}-epoch-{epoch}")


def _check_folders(recipe: Recipe, out: Path, *, fresh: bool) -> None:
    wanted_folders = [out]
    if recipe.keep_epochs and fresh:
        wanted_folders += [epoch_folder(out, epoch) for epoch in range(1, recipe.epochs)]
    for folder in wanted_folders:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise TrainingError(
                f"{folder} exists already. Choose another folder, or remove it first."
            )


def _check_dtype(base: BaseModel, recipe: Recipe) -> None:
    if recipe.method == "full" and base.dtype != torch.float32:
        raise TrainingError(
            f"Full fine-tuning needs float32 weights, since small steps are lost in "
            f"{_plain(base.dtype)}. Load {base.identity.name} in float32: set dtype=float32."
        )
    wanted = None if recipe.dtype == "auto" else getattr(torch, recipe.dtype)
    if wanted not in (None, base.dtype):
        raise TrainingError(
            f"Recipe '{recipe.name}' asks for {recipe.dtype}, but {base.identity.name} is loaded "
            f"in {_plain(base.dtype)}. Load it in {recipe.dtype}, or set the recipe's dtype to "
            "'auto'."
        )


def _split_rows(
    base: BaseModel, rows: Sequence[Row], recipe: Recipe, labels: Sequence[str]
) -> _Split:
    if not rows:
        raise TrainingError("The dataset has no rows, so there is nothing to train on.")
    answered = [row for row in rows if row.response]
    if not answered:
        raise TrainingError(
            f"None of the {len(rows)} rows has a response, so there is nothing to learn. "
            "Name the field that holds the answers with --map response=FIELD."
        )
    rng = np.random.default_rng(recipe.seed)
    wanted = None if recipe.max_rows is None else recipe.max_rows + recipe.held_out_rows
    drawn: Sequence[Row] = answered
    if wanted is not None and wanted < len(answered):
        drawn = sample_rows(answered, wanted, seed=recipe.seed)
    encoded = encode_rows(base, drawn, template=recipe.template)
    context = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    limit = min(recipe.max_length, context or recipe.max_length)
    fitting = [i for i, row in enumerate(encoded) if _length(row) <= limit]
    if not fitting:
        shortest = min(_length(row) for row in encoded)
        raise TrainingError(
            f"All {len(encoded)} rows are too long: the shortest has {shortest} tokens, the recipe "
            f"allows {recipe.max_length}{_context_text(context, recipe)}. "
            f"{'Raise max_length or shorten' if limit == recipe.max_length else 'Shorten'} the "
            "prompts."
        )
    order = [fitting[i] for i in rng.permutation(len(fitting))]
    n_held_out = min(recipe.held_out_rows, len(order) // 10)
    train = _within_budget([encoded[i] for i in order[n_held_out:]], recipe)
    # A held-out row that is also trained on would flatter the held-out loss.
    seen = set(train)
    held_out = [encoded[i] for i in order[:n_held_out] if encoded[i] not in seen]
    trained_on = [drawn[i] for i in order[n_held_out:][: len(train)]]
    notes = []
    if wanted is not None and len(answered) < wanted and recipe.max_rows != len(train):
        notes.append(
            f"Recipe '{recipe.name}' takes up to {recipe.max_rows:,} rows; the data have "
            f"{len(answered):,}, so all are used: {len(train):,} to train on, {len(held_out):,} "
            f"held out, {len(encoded) - len(fitting):,} too long."
        )
    notes += _unsupervised_labels(rows, trained_on, labels)
    return _Split(
        train=train,
        held_out=held_out,
        n_too_long=len(encoded) - len(fitting),
        n_without_response=len(rows) - len(answered),
        notes=notes,
    )


def _context_text(context: int | None, recipe: Recipe) -> str:
    if context is None or context >= recipe.max_length:
        return ""
    return f" and the base model reads {context}"


def _unsupervised_labels(
    rows: Sequence[Row], trained_on: Sequence[Row], labels: Sequence[str]
) -> list[str]:
    """A sentence if the adapter never sees some label as the answer of a row."""
    known = dict.fromkeys([*labels, *(row.label for row in rows if row.label is not None)])
    taught = {row.label for row in trained_on}
    missing = [label for label in known if label not in taught]
    if not missing:
        return []
    names = ", ".join(repr(label) for label in missing[:5]) + (", …" if len(missing) > 5 else "")
    return [
        f"No row trained on has the label {names} ({len(missing)} of {len(known)} labels), so the "
        "adapter never learns to give it. Raise max_rows, max_tokens or max_length, or add rows."
    ]


def _within_budget(rows: list[Encoded], recipe: Recipe) -> list[Encoded]:
    """The first rows that keep to max_rows and max_tokens; always at least one."""
    kept = rows[: recipe.max_rows]
    if recipe.max_tokens is None:
        return kept
    totals = np.cumsum([_length(row) for row in kept])
    return kept[: max(1, int(np.searchsorted(totals, recipe.max_tokens, side="right")))]


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators for a `with` block, and put their state back after it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _lora_on(base: BaseModel, recipe: Recipe) -> Iterator[Any]:
    """The base model with a fresh trainable LoRA, for the duration of a `with` block."""
    if base.adapter_digest is not None:
        raise TrainingError("An adapter is on the base model; leave its block before training.")
    wrapped: Any = None
    needed_grad = {name: p.requires_grad for name, p in base.model.named_parameters()}
    try:
        try:
            # PEFT holds the new weights in float32 even where the frozen ones are bfloat16.
            wrapped = get_peft_model(base.model, _lora_config(recipe))
        except ValueError as error:
            raise TrainingError(
                f"{base.identity.name} can't take a LoRA on {', '.join(recipe.target_modules)}: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
        speed_up_lora(wrapped)
        if recipe.gradient_checkpointing:
            base.model.gradient_checkpointing_enable({"use_reentrant": False})
        with _reading(base, recipe):
            yield wrapped
    finally:
        if recipe.gradient_checkpointing:
            base.model.gradient_checkpointing_disable()
        if wrapped is not None:
            wrapped.unload()
        for name, parameter in base.model.named_parameters():
            parameter.requires_grad_(needed_grad[name])
        base.model.eval()


@contextlib.contextmanager
def _reading(base: BaseModel, recipe: Recipe) -> Iterator[None]:
    with row_attention(base.model) as by_rows:
        if recipe.packing and not by_rows:
            raise TrainingError(
                f"The attention of {base.identity.name} can't keep packed rows apart. Set "
                "packing=false."
            )
        yield


def _lora_config(recipe: Recipe) -> LoraConfig:
    return LoraConfig(
        r=recipe.r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
        target_modules=list(recipe.target_modules),
        task_type="CAUSAL_LM",
    )


class _Run:
    """A training in progress: all that a checkpoint keeps, and a resumed run takes up again."""

    def __init__(
        self,
        base: BaseModel,
        peft_model: Any,
        recipe: Recipe,
        split: _Split,
        processes: Processes,
        *,
        key: str,
        home: Path | None,
        say: Callable[[str], None] | None,
    ) -> None:
        self.base, self.peft_model, self.recipe = base, peft_model, recipe
        self.split, self.processes = split, processes
        self.steps_per_epoch = math.ceil(len(split.train) / recipe.batch_size)
        self.n_steps = recipe.epochs * self.steps_per_epoch
        self.parameters = {n: p for n, p in peft_model.named_parameters() if p.requires_grad}
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
        self._key, self._home, self._say = key, home, say
        self._saved_at = time.perf_counter()

    def tell(self, note: str) -> None:
        """Keep a sentence for the result, and say it now."""
        self.notes.append(note)
        if self._say is not None:
            self._say(note)

    def nll(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """Loss of every response token of these rows, (n_response_tokens,)."""
        return _response_nll(self.base, rows, packed=self.recipe.packing)

    def groups(self, rows: Sequence[Encoded]) -> list[list[Encoded]]:
        """Rows of one step as they are read together; packed rows need no like length."""
        if self.recipe.packing:
            starts = range(0, len(rows), self.rows_at_once)
            return [list(rows[at : at + self.rows_at_once]) for at in starts]
        found = length_groups([_length(row) for row in rows], self.rows_at_once)
        return [[rows[i] for i in group] for group in found]

    def held_out_loss(self) -> float | None:
        """Mean loss per response token of the rows kept aside, as the model is now."""
        return _mean_loss(self.base, self.split.held_out, self.rows_at_once)

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter as it is now; the first process does it for all."""
        if self.processes.is_first:
            _save_adapter(self.peft_model, self.base, self.recipe, folder)

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


@dataclass(frozen=True)
class _WholeModel:
    """A base model with every weight in training, and what the weights were before."""

    model: Any
    before: Mapping[str, torch.Tensor]

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """All weights, shared ones once."""
        yield from self.model.named_parameters()

    def low_rank(self, recipe: Recipe) -> dict[str, torch.Tensor]:
        """The best update of rank r on each target module, as a LoRA's tensors.

        It is the truncated singular value decomposition of the change (Eckart and Young 1936), its
        singular values shared evenly between A and B.
        """
        scaling = recipe.lora_alpha / (math.sqrt(recipe.r) if recipe.use_rslora else recipe.r)
        tensors = {}
        for name, change in self._changes(recipe).items():
            u, s, v = torch.linalg.svd(change, full_matrices=False)
            root = s[: recipe.r].sqrt()
            stem = f"base_model.model.{name}"
            tensors[f"{stem}.lora_A.weight"] = _rows_up_to(recipe.r, root[:, None] * v[: recipe.r])
            b = u[:, : recipe.r] * root / scaling
            tensors[f"{stem}.lora_B.weight"] = _rows_up_to(recipe.r, b.T).T
        return tensors

    def kept_share(self, recipe: Recipe) -> float:
        """Share of the squared change of all weights that `low_rank` keeps, in [0, 1]."""
        kept = sum(
            float(torch.linalg.svdvals(change)[: recipe.r].square().sum())
            for change in self._changes(recipe).values()
        )
        whole = sum(
            float((parameter.detach() - self.before[name]).square().sum())
            for name, parameter in self.named_parameters()
        )
        return kept / whole if whole else 0.0

    def _changes(self, recipe: Recipe) -> dict[str, torch.Tensor]:
        return {
            name: (module.weight.detach() - self.before[f"{name}.weight"])  # (n_out, n_in)
            for name, module in self.model.named_modules()
            if isinstance(module, torch.nn.Linear)
            and name.rpartition(".")[2] in recipe.target_modules
        }


@contextlib.contextmanager
def _every_weight_on(base: BaseModel, recipe: Recipe) -> Iterator[_WholeModel]:
    """The base model with every weight trainable, for the duration of a `with` block."""
    if base.adapter_digest is not None:
        raise TrainingError("An adapter is on the base model; leave its block before training.")
    parameters = dict(base.model.named_parameters())
    needed_grad = {name: p.requires_grad for name, p in parameters.items()}
    whole = _WholeModel(base.model, {n: p.detach().clone() for n, p in parameters.items()})
    if not whole._changes(recipe):
        raise TrainingError(
            f"{base.identity.name} has no linear layer called {', '.join(recipe.target_modules)}, "
            "so nothing of a full fine-tuning could be kept. Set target_modules."
        )
    try:
        base.model.requires_grad_(True)
        if recipe.gradient_checkpointing:
            base.model.gradient_checkpointing_enable({"use_reentrant": False})
        with _reading(base, recipe):
            yield whole
    finally:
        if recipe.gradient_checkpointing:
            base.model.gradient_checkpointing_disable()
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(whole.before[name])
                parameter.grad = None
                parameter.requires_grad_(needed_grad[name])
        base.model.eval()


def _rows_up_to(r: int, tensor: torch.Tensor) -> torch.Tensor:
    """Rows of zeros added below, where a layer is narrower than the rank."""
    return torch.nn.functional.pad(tensor, (0, 0, 0, r - len(tensor)))


def _extraction_text(recipe: Recipe, kept: float, whole: float | None, stored: float | None) -> str:
    losses = ""
    if whole is not None and stored is not None:
        losses = f"; held-out loss {whole:.3f} of the whole model, {stored:.3f} of what is kept"
    return (
        f"Every weight was trained; the adapter keeps the best rank-{recipe.r} part of the change "
        f"on its target modules, {kept:.0%} of the squared change of all weights{losses}."
    )


def _run_epochs(
    run: _Run,
    out: Path,
    checkpoint_every_s: float,
    progress: Callable[[int, int], None] | None,
) -> None:
    recipe, split = run.recipe, run.split
    for epoch in range(len(run.epochs), recipe.epochs):
        batches = epoch_batches(len(split.train), recipe.batch_size, seed=recipe.seed, epoch=epoch)
        run.base.model.train()
        for batch in batches[len(run.history) - epoch * run.steps_per_epoch :]:
            step = _take_step(run, [split.train[i] for i in batch])
            if step.step % run.steps_per_epoch:
                run.save(every_s=checkpoint_every_s)
            if progress is not None:
                progress(step.step, run.n_steps)
        run.base.model.eval()
        run.epochs.append(_end_epoch(run, epoch_folder(out, epoch + 1), epoch + 1))
        run.nll_sum, run.n_response = 0.0, 0
        run.save()


def _take_step(run: _Run, rows: Sequence[Encoded]) -> StepMetrics:
    started = time.perf_counter()
    number = len(run.history) + 1
    nll = run.processes.gather(_gradients(run, rows))
    run.processes.add_up([p.grad for p in run.parameters.values() if p.grad is not None])
    loss = float(nll.mean())
    norm = torch.nn.utils.clip_grad_norm_(run.parameters.values(), run.recipe.max_grad_norm)
    _check_finite(loss, float(norm), number, run.n_steps, run.recipe, run.base)
    rate = run.schedule.get_last_lr()[0]
    run.optimizer.step()
    run.schedule.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.nll_sum, run.n_response = run.nll_sum + float(nll.sum()), run.n_response + len(nll)
    seconds = time.perf_counter() - started
    run.train_seconds += seconds
    step = StepMetrics(
        step=number,
        loss=loss,
        learning_rate=float(rate),
        grad_norm=float(norm),
        tokens_per_s=sum(_length(row) for row in rows) / seconds,
        peak_memory_mib=_peak_memory_mib(run.base.device),
    )
    run.history.append(step)
    return step


def _gradients(run: _Run, rows: Sequence[Encoded]) -> torch.Tensor:
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
            for group in run.groups(rows):
                nll = run.nll(group)
                (nll.sum() / n_response).backward()
                parts.append(nll.detach())
            return torch.cat(parts)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            at_once = min(run.rows_at_once, len(rows))
            if at_once == 1:
                raise _no_room(f"at step {len(run.history) + 1}", rows) from error
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


def _no_room(where: str, rows: Sequence[Encoded]) -> TrainingError:
    return TrainingError(
        f"Out of memory {where} with one row at a time (of {max(map(_length, rows))} tokens). "
        "Set gradient_checkpointing=true, lower max_length or r, or take a smaller base model."
    )


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        # Torch's CPU allocator has no error of its own.
        "can't allocate memory" in str(error)
    )


def _end_epoch(run: _Run, folder: Path, epoch: int) -> EpochRecord:
    record = EpochRecord(epoch, run.nll_sum / run.n_response)
    if not run.recipe.keep_epochs or epoch == run.recipe.epochs:
        return record
    if run.processes.is_first:
        # It can only be this training's own, of a run that was killed before its next checkpoint.
        shutil.rmtree(folder, ignore_errors=True)
    run.save_adapter(folder)
    return dataclasses.replace(record, held_out_loss=run.held_out_loss(), folder=folder)


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, n_steps: int) -> LambdaLR:
    n_warmup = math.ceil(recipe.warmup_ratio * n_steps) if n_steps > 1 else 0
    if recipe.lr_schedule == "constant":
        flat: LambdaLR = get_constant_schedule_with_warmup(optimizer, n_warmup)
        return flat
    cosine: LambdaLR = get_cosine_schedule_with_warmup(optimizer, n_warmup, n_steps)
    return cosine


def _response_nll(
    base: BaseModel, rows: Sequence[Encoded], *, packed: bool = False
) -> torch.Tensor:
    """Negative log-likelihood of every response token of a batch, (n_response_tokens,), float32."""
    hidden = _packed_states(base, rows) if packed else _padded_states(base, rows)
    lengths = [_length(row) for row in rows]
    width = len(hidden) // len(rows)
    starts = np.cumsum([0, *lengths[:-1]]) if packed else width * np.arange(len(rows))
    # A state predicts the token after it.
    before = [
        int(start) + at - 1
        for start, row, length in zip(starts, rows, lengths, strict=True)
        for at in range(len(row.prompt_ids), length)
    ]
    states = hidden[torch.tensor(before, device=base.device)]  # (n_response_tokens, hidden)
    answers = [token for row in rows for token in row.response_ids]
    targets = torch.tensor(answers, device=base.device)
    head = Head(base.model)
    if head.is_frozen_linear:
        nll: torch.Tensor = _FrozenNll.apply(states, targets, head)  # type: ignore[no-untyped-call]
        return nll
    if len(states) <= POSITIONS_AT_ONCE:
        return _nll(head, states, targets)
    pieces = zip(states.split(POSITIONS_AT_ONCE), targets.split(POSITIONS_AT_ONCE), strict=True)
    return torch.cat([checkpoint(_nll, head, s, t, use_reentrant=False) for s, t in pieces])


def _padded_states(base: BaseModel, rows: Sequence[Encoded]) -> torch.Tensor:
    """Last hidden states of rows side by side, (rows · width, hidden)."""
    longest = max(_length(row) for row in rows)
    context = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    width = math.ceil(longest / _WIDTH_STEP) * _WIDTH_STEP
    width = max(longest, min(width, context or width))
    pad = int(base.tokenizer.pad_token_id or 0)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : _length(row)] = torch.tensor([*row.prompt_ids, *row.response_ids])
    # Padding stands on the right, where the causal mask already hides it from every real token;
    # without a mask of its own the attention kernel takes its faster path.
    states = base.model.get_decoder()(input_ids=ids.to(base.device), use_cache=False)
    hidden: torch.Tensor = states.last_hidden_state
    return hidden.flatten(0, 1)


def _packed_states(base: BaseModel, rows: Sequence[Encoded]) -> torch.Tensor:
    """Last hidden states of rows one after another, (tokens, hidden); none sees another."""
    lengths = [_length(row) for row in rows]
    ids = [token for row in rows for token in (*row.prompt_ids, *row.response_ids)]
    positions = [at for length in lengths for at in range(length)]
    states = base.model.get_decoder()(
        input_ids=torch.tensor([ids], device=base.device),
        position_ids=torch.tensor([positions], device=base.device),
        use_cache=False,
        row_lengths=lengths,
    )
    hidden: torch.Tensor = states.last_hidden_state
    return hidden[0]


def _nll(head: Head, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(head.logits(states), targets, reduction="none")


class _FrozenNll(torch.autograd.Function):
    """Loss of each state under a frozen head; its gradient is made while the logits are at hand.

    So one piece's logits are held, in one copy, and no product with the head is made twice.
    """

    @staticmethod
    def forward(
        context: Any, states: torch.Tensor, targets: torch.Tensor, head: Head
    ) -> torch.Tensor:
        losses, gradients = [], []
        pieces = zip(states.split(POSITIONS_AT_ONCE), targets.split(POSITIONS_AT_ONCE), strict=True)
        for piece, wanted in pieces:
            logits = head.logits(piece)  # (n, vocabulary)
            total = logits.logsumexp(1, keepdim=True)
            losses.append((total - logits.gather(1, wanted[:, None]))[:, 0])
            if context.needs_input_grad[0]:
                # d loss / d logits: the probabilities, less one at the target.
                slope = logits.sub_(total).exp_()
                slope[torch.arange(len(wanted), device=wanted.device), wanted] -= 1
                gradients.append((slope.to(piece.dtype) @ head.layer.weight).mul_(head.scale))
        if gradients:
            context.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        (of_states,) = context.saved_tensors
        return (of_states * gradients[0][:, None]).to(of_states.dtype), None, None


@torch.no_grad()
def _mean_loss(base: BaseModel, rows: Sequence[Encoded], batch_size: int) -> float | None:
    """Mean loss per response token with whatever is on the model now; None without rows."""
    if not rows:
        return None
    base.model.eval()
    by_length = sorted(rows, key=_length)
    while True:
        try:
            parts = [
                _response_nll(base, by_length[i : i + batch_size])
                for i in range(0, len(by_length), batch_size)
            ]
            return float(torch.cat(parts).mean())
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise _no_room("on the held-out rows", by_length) from error
        torch.cuda.empty_cache()
        batch_size = (batch_size + 1) // 2


def _check_finite(
    loss: float, norm: float, step: int, n_steps: int, recipe: Recipe, base: BaseModel
) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    what = "loss" if not math.isfinite(loss) else "gradient"
    exact = "" if base.dtype == torch.float32 else ", or load the base model in float32"
    raise TrainingError(
        f"The {what} is not a number at step {step} of {n_steps}. Try a lower learning_rate (now "
        f"{recipe.learning_rate:g}) or a longer warm-up (warmup_ratio, now {recipe.warmup_ratio:g})"
        f"{exact}."
    )


def _save_adapter(peft_model: Any, base: BaseModel, recipe: Recipe, out: Path) -> None:
    """Write the folder beside its place, then move it there in one step."""
    if isinstance(peft_model, _WholeModel):
        config, weights = _lora_config(recipe), peft_model.low_rank(recipe)
    else:
        config = peft_model.peft_config["default"]
        weights = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    # PEFT notes the path that the base was loaded from; other machines know it by its name only.
    config.base_model_name_or_path = base.identity.name
    config.inference_mode = True
    kept = getattr(torch, recipe.adapter_dtype)
    scratch = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        scratch.mkdir(parents=True)
        config.save_pretrained(str(scratch))
        save_file(
            {key: value.detach().to(kept).cpu().contiguous() for key, value in weights.items()},
            str(scratch / "adapter_model.safetensors"),
            metadata={"format": "pt"},
        )
        (scratch / "README.md").write_text(_card(base, recipe, out.name), encoding="utf-8")
        scratch.replace(out)
    # safetensors reports a full disk by an error of its own, which is not an OSError.
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{out}: the trained adapter can't be written "
            f"({getattr(error, 'strerror', None) or error}). "
            "Make room there, or choose another folder."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _card(base: BaseModel, recipe: Recipe, name: str) -> str:
    base_name = json.dumps(base.identity.name, ensure_ascii=False)
    sources = recipe.sources
    values = {key.removeprefix("recipe/"): value for key, value in recipe.params.items()}
    settings = "\n".join(
        f"| {key} | {value} | {sources.get(key, '')} |" for key, value in values.items()
    )
    return (
        "---\n"
        f"base_model: {base_name}\n"
        "library_name: peft\n"
        "pipeline_tag: text-generation\n"
        "tags:\n- lora\n- adapt\n"
        "---\n"
        f"# {name}\n\n"
        f"A LoRA adapter for {base.identity.name}, trained with Adapt.\n\n"
        f"| setting | value | source |\n|---|---|---|\n{settings}\n"
    )


def _length(row: Encoded) -> int:
    return len(row.prompt_ids) + len(row.response_ids)


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _peak_memory_mib(device: str) -> float | None:
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
