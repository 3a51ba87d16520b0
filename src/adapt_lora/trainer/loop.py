"""The training loop: rows and a recipe in, a folder that PEFT can load out."""

import contextlib
import json
import math
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

from adapt_lora.base_model import BaseModel
from adapt_lora.data import Row, sample_rows
from adapt_lora.errors import TrainingError
from adapt_lora.scoring import Encoded, encode_rows
from adapt_lora.trainer.recipe import Recipe

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "README.md")
"""All that a trained folder holds; nothing in it is a pickle."""


# Logits of 512 positions × 49,152 tokens × 4 bytes are 100 MB. Longer answers go through the head
# in pieces that are computed again in the backward pass, so that one piece's logits are held.
_HEAD_ROWS = 512


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
    """Wall time, from the first encoding to the finished folder."""

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


def train_adapter(
    base: BaseModel,
    rows: Sequence[Row],
    *,
    recipe: Recipe,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    on_step: Callable[[StepMetrics], None] | None = None,
) -> TrainingResult:
    """Train a LoRA adapter on the responses of these rows.

    Only response tokens, the end of turn among them, carry loss. Batches hold rows of like length,
    and the language-model head runs at answer positions alone. Same base, rows, recipe and machine:
    same losses. The base model is left as it was, weights bit for bit, whatever happens.

    Args:
        base: The frozen model to train on.
        rows: Training data; rows without a response are left out and counted.
        recipe: Every setting.
        out: Folder to make; it appears whole, at the end, or not at all.
        progress: Told (steps done, steps in all) after each step.
        on_step: Told the figures of each step as it ends.

    Raises:
        TrainingError: `out` exists, nothing to train on, dtypes that don't fit, or a loss that is
            not finite.
    """
    started = time.perf_counter()
    _check_start(base, recipe, out)
    split = _split_rows(base, rows, recipe)
    with _seeded(recipe.seed), _lora_on(base, recipe) as peft_model:
        before = _mean_loss(base, split.held_out, recipe.batch_size)
        stepping = time.perf_counter()
        history, train_loss = _run_epochs(base, peft_model, split.train, recipe, progress, on_step)
        train_seconds = time.perf_counter() - stepping
        after = _mean_loss(base, split.held_out, recipe.batch_size)
        _save_adapter(peft_model, base, recipe, out)
    return TrainingResult(
        folder=out,
        recipe=recipe,
        history=tuple(history),
        train_loss=train_loss,
        held_out_loss=after,
        held_out_loss_base=before,
        n_rows=len(split.train),
        n_held_out=len(split.held_out),
        n_too_long=split.n_too_long,
        n_without_response=split.n_without_response,
        n_tokens=recipe.epochs * sum(_length(row) for row in split.train),
        train_seconds=train_seconds,
        seconds=time.perf_counter() - started,
    )


def epoch_batches(
    lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int
) -> list[list[int]]:
    """Row indices in batches of like length, in random order; seed and epoch decide all of it.

    Rows are shuffled, then sorted by length within windows of 50 batches, so that padding stays low
    while long data are not simply sorted; then the batches are shuffled.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    window = 50 * batch_size
    batches = []
    for start in range(0, len(order), window):
        by_length = sorted(order[start : start + window].tolist(), key=lambda i: lengths[i])
        batches += [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _check_start(base: BaseModel, recipe: Recipe, out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TrainingError(f"{out} exists already. Choose another folder, or remove it first.")
    wanted = None if recipe.dtype == "auto" else getattr(torch, recipe.dtype)
    if wanted not in (None, base.dtype):
        raise TrainingError(
            f"Recipe '{recipe.name}' asks for {recipe.dtype}, but {base.identity.name} is loaded "
            f"in {_plain(base.dtype)}. Load it in {recipe.dtype}, or set the recipe's dtype to "
            "'auto'."
        )


def _split_rows(base: BaseModel, rows: Sequence[Row], recipe: Recipe) -> _Split:
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
    encoded = encode_rows(base, drawn)
    fitting = [row for row in encoded if _length(row) <= recipe.max_length]
    if not fitting:
        shortest = min(_length(row) for row in encoded)
        raise TrainingError(
            f"All {len(encoded)} rows are too long: the shortest has {shortest} tokens, the recipe "
            f"allows {recipe.max_length}. Raise max_length or shorten the prompts."
        )
    shuffled = [fitting[i] for i in rng.permutation(len(fitting))]
    n_held_out = min(recipe.held_out_rows, len(shuffled) // 10)
    train = _within_budget(shuffled[n_held_out:], recipe)
    # A held-out row that is also trained on would flatter the held-out loss.
    seen = set(train)
    return _Split(
        train=train,
        held_out=[row for row in shuffled[:n_held_out] if row not in seen],
        n_too_long=len(encoded) - len(fitting),
        n_without_response=len(rows) - len(answered),
    )


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
    config = LoraConfig(
        r=recipe.r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=list(recipe.target_modules),
        task_type="CAUSAL_LM",
    )
    wrapped: Any = None
    needed_grad = {name: p.requires_grad for name, p in base.model.named_parameters()}
    try:
        try:
            # PEFT holds the new weights in float32 even where the frozen ones are bfloat16.
            wrapped = get_peft_model(base.model, config)
        except ValueError as error:
            raise TrainingError(
                f"{base.identity.name} can't take a LoRA on {', '.join(recipe.target_modules)}: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
        yield wrapped
    finally:
        if wrapped is not None:
            wrapped.unload()
        for name, parameter in base.model.named_parameters():
            parameter.requires_grad_(needed_grad[name])
        base.model.eval()


def _run_epochs(
    base: BaseModel,
    peft_model: Any,
    rows: list[Encoded],
    recipe: Recipe,
    progress: Callable[[int, int], None] | None,
    on_step: Callable[[StepMetrics], None] | None,
) -> tuple[list[StepMetrics], float]:
    parameters = [p for p in peft_model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    lengths = [_length(row) for row in rows]
    n_steps = recipe.epochs * math.ceil(len(rows) / recipe.batch_size)
    schedule = _schedule(optimizer, recipe, n_steps)
    history: list[StepMetrics] = []
    nll_sum, n_response = 0.0, 0
    for epoch in range(recipe.epochs):
        nll_sum, n_response = 0.0, 0
        base.model.train()
        for batch in epoch_batches(lengths, recipe.batch_size, seed=recipe.seed, epoch=epoch):
            started = time.perf_counter()
            nll = _response_nll(base, [rows[i] for i in batch])
            nll.mean().backward()
            nll = nll.detach()
            loss = float(nll.mean())
            norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
            _check_finite(loss, float(norm), len(history) + 1, n_steps, recipe, base)
            rate = schedule.get_last_lr()[0]
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            nll_sum, n_response = nll_sum + float(nll.sum()), n_response + len(nll)
            step = StepMetrics(
                step=len(history) + 1,
                loss=loss,
                learning_rate=float(rate),
                grad_norm=float(norm),
                tokens_per_s=sum(lengths[i] for i in batch) / (time.perf_counter() - started),
                peak_memory_mib=_peak_memory_mib(base.device),
            )
            history.append(step)
            if on_step is not None:
                on_step(step)
            if progress is not None:
                progress(step.step, n_steps)
    base.model.eval()
    return history, nll_sum / n_response


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, n_steps: int) -> LambdaLR:
    n_warmup = math.ceil(recipe.warmup_ratio * n_steps) if n_steps > 1 else 0
    if recipe.lr_schedule == "constant":
        flat: LambdaLR = get_constant_schedule_with_warmup(optimizer, n_warmup)
        return flat
    cosine: LambdaLR = get_cosine_schedule_with_warmup(optimizer, n_warmup, n_steps)
    return cosine


def _response_nll(base: BaseModel, rows: Sequence[Encoded]) -> torch.Tensor:
    """Negative log-likelihood of every response token of a batch, (n_response_tokens,), float32."""
    width = max(_length(row) for row in rows)
    pad = int(base.tokenizer.pad_token_id or 0)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    places: list[tuple[int, int]] = []
    for i, row in enumerate(rows):
        tokens = [*row.prompt_ids, *row.response_ids]
        ids[i, : len(tokens)] = torch.tensor(tokens)
        places += [(i, t) for t in range(len(row.prompt_ids), len(tokens))]
    ids, where = ids.to(base.device), torch.tensor(places, device=base.device)
    # Padding stands on the right, where the causal mask already hides it from every real token;
    # without a mask of its own the attention kernel takes its faster path.
    hidden = base.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    states = hidden[where[:, 0], where[:, 1] - 1]  # (n_response_tokens, hidden)
    targets = ids[where[:, 0], where[:, 1]]
    if len(states) <= _HEAD_ROWS:
        return _head_nll(base, states, targets)
    chunks = zip(states.split(_HEAD_ROWS), targets.split(_HEAD_ROWS), strict=True)
    return torch.cat([checkpoint(_head_nll, base, s, t, use_reentrant=False) for s, t in chunks])


def _head_nll(base: BaseModel, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(_logits(base, states), targets, reduction="none")


def _logits(base: BaseModel, states: torch.Tensor) -> torch.Tensor:
    """Next-token logits of some hidden states, (n, vocabulary), float32."""
    logits: torch.Tensor = base.model.get_output_embeddings()(states).float()
    config = base.model.config.get_text_config()
    logits = logits * (getattr(config, "logit_scale", None) or 1.0)
    logits = logits / (getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


@torch.no_grad()
def _mean_loss(base: BaseModel, rows: Sequence[Encoded], batch_size: int) -> float | None:
    """Mean loss per response token with whatever is on the model now; None without rows."""
    if not rows:
        return None
    base.model.eval()
    by_length = sorted(rows, key=_length)
    parts = [
        _response_nll(base, by_length[i : i + batch_size])
        for i in range(0, len(by_length), batch_size)
    ]
    return float(torch.cat(parts).mean())


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
    config = peft_model.peft_config["default"]
    # PEFT notes the path that the base was loaded from; other machines know it by its name only.
    config.base_model_name_or_path = base.identity.name
    config.inference_mode = True
    weights = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    scratch = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        scratch.mkdir(parents=True)
        config.save_pretrained(str(scratch))
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in weights.items()},
            str(scratch / "adapter_model.safetensors"),
            metadata={"format": "pt"},
        )
        (scratch / "README.md").write_text(_card(base, recipe, out.name), encoding="utf-8")
        scratch.replace(out)
    except OSError as error:
        raise TrainingError(
            f"{out}: the trained adapter can't be written ({error.strerror or error}). "
            "Make room there, or choose another folder."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _card(base: BaseModel, recipe: Recipe, name: str) -> str:
    base_name = json.dumps(base.identity.name, ensure_ascii=False)
    settings = "\n".join(
        f"| {key.removeprefix('recipe/')} | {value} |" for key, value in recipe.params.items()
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
        f"| setting | value |\n|---|---|\n{settings}\n"
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
