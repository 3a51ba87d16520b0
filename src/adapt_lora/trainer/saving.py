"""What a training writes: PEFT folders, one for each epoch that is kept.

A full fine-tuning becomes an adapter here: the best update of the recipe's rank on each target
module, by the truncated singular value decomposition of the change (Eckart and Young 1936).
"""

import json
import math
import shutil
import uuid
from pathlib import Path

import torch
from peft import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.nn.functional import pad

from adapt_lora.errors import TrainingError
from adapt_lora.model.base import BaseModel
from adapt_lora.trainer.recipe import Recipe
from adapt_lora.trainer.tuning import Tuning, lora_config


def epoch_folder(out: Path, epoch: int) -> Path:
    """Where the adapter stands as it was after an epoch (from 1)."""
    return out.with_name(f"{out.name}-epoch-{epoch}")


def check_folders(recipe: Recipe, out: Path, *, fresh: bool) -> None:
    """Make sure that nothing stands where the training will write.

    Args:
        recipe: Whether epochs are kept, and how many.
        out: The adapter to be.
        fresh: Whether the training starts from nothing; a resumed one has kept epochs already.

    Raises:
        TrainingError: Something does.
    """
    wanted = [out]
    if recipe.keep_epochs and fresh:
        wanted += [epoch_folder(out, epoch) for epoch in range(1, recipe.epochs)]
    for folder in wanted:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise TrainingError(
                f"{folder} exists already. Choose another folder, or remove it first."
            )


def save_adapter(tuning: Tuning, out: Path) -> None:
    """Write what was learned as a folder that PEFT can load; it appears whole or not at all.

    Raises:
        TrainingError: No room, or no permission.
    """
    base, recipe = tuning.base, tuning.recipe
    if tuning.before is None:
        config = tuning.model.peft_config["default"]
        weights = get_peft_model_state_dict(tuning.model, save_embedding_layers=False)
    else:
        config, weights = lora_config(recipe), extract_low_rank(tuning)
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


def extract_low_rank(tuning: Tuning) -> dict[str, torch.Tensor]:
    """The best update of rank r on each target module, as a LoRA's tensors.

    The singular values are shared evenly between A and B.
    """
    r = tuning.recipe.r
    scaling = tuning.recipe.lora_alpha / (math.sqrt(r) if tuning.recipe.use_rslora else r)
    tensors = {}
    for name, change in tuning.changes().items():
        u, s, v = torch.linalg.svd(change, full_matrices=False)
        root = s[:r].sqrt()
        a, b = root[:, None] * v[:r], u[:, :r] * root / scaling
        # Zeros fill it up where a layer is narrower than the rank.
        lacking = r - len(a)
        stem = f"base_model.model.{name}"
        tensors[f"{stem}.lora_A.weight"] = pad(a, (0, 0, 0, lacking))  # (r, n_in)
        tensors[f"{stem}.lora_B.weight"] = pad(b, (0, lacking))  # (n_out, r)
    return tensors


def extracted_share(tuning: Tuning) -> float:
    """Share of the squared change of all weights that `extract_low_rank` keeps, in [0, 1]."""
    assert tuning.before is not None
    kept = sum(
        float(torch.linalg.svdvals(change)[: tuning.recipe.r].square().sum())
        for change in tuning.changes().values()
    )
    whole = sum(
        float((parameter.detach() - tuning.before[name]).square().sum())
        for name, parameter in tuning.parameters.items()
    )
    return kept / whole if whole else 0.0


def extraction_note(
    recipe: Recipe, share: float, *, whole: float | None, stored: float | None
) -> str:
    """What a person should know about an extraction.

    Args:
        recipe: How the model was trained.
        share: As `extracted_share` says.
        whole: Held-out loss of the whole model, nats; None where it was not measured.
        stored: Held-out loss of the base with the stored adapter.
    """
    losses = ""
    if whole is not None and stored is not None:
        losses = f"; held-out loss {whole:.3f} of the whole model, {stored:.3f} of what is kept"
    return (
        f"Every weight was trained; the adapter keeps the best rank-{recipe.r} part of the change "
        f"on its target modules, {share:.0%} of the squared change of all weights{losses}."
    )


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
