"""Fingerprint of an adapter's weights: how far they move the base, where, in which directions."""

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapt_lora.registry.adapter import (
    Adapter,
    base_files,
    base_weight_name,
    iter_factors,
    read_tensors,
)

_THIRDS = ("lower", "middle", "upper")
_LATE_MIDDLE = 0.6
"""Relative depth at which hidden states are read too; see the embeddings of a dataset."""


@dataclass(frozen=True, slots=True)
class _Delta:
    """What one LoRA pair does to its module."""

    module: str
    squared_norm: float
    base_squared_norm: float
    effective_rank: float
    stable_rank: float

    @property
    def kind(self) -> str:
        return self.module.rsplit(".", 1)[-1]

    @property
    def layer(self) -> int | None:
        return _layer_of(self.module)


def fingerprint_weights(adapter: Adapter, base_folder: Path, cache_dir: Path) -> dict[str, float]:
    """Norms, shares by depth and effective ranks of ΔW = scaling · B A, without ever forming ΔW.

    ‖BA‖_F² = tr((BᵀB)(AAᵀ)), and the singular values of BA are the square roots of the eigenvalues
    of the r × r matrix (AAᵀ)^½ (BᵀB) (AAᵀ)^½. The effective rank is exp of the entropy of the
    singular values divided by their sum (Roy & Vetterli 2007, EUSIPCO); the stable rank is ‖ΔW‖_F²
    / ‖ΔW‖₂².
    Of a DoRA only the product B A counts, not its magnitude vector; of a PiSSA or OLoRA too, though
    part of it was taken off the base's weights.

    Args:
        adapter: As read; must fit the base.
        base_folder: Transformers folder of the base, safetensors.
        cache_dir: Keeps the base's weight norms, computed once per base.

    Returns:
        Flat keys: delta_norm (‖ΔW‖_F over all modules), delta_norm_relative (÷ ‖W‖_F of the
        adapted modules), delta_norm_relative_<module kind>, delta_norm_relative_at_06 (the layer
        at relative depth 0.6), delta_share_{lower,middle,upper} (share of ‖ΔW‖_F² by thirds of the
        base's layers), effective_rank_{mean,min,max}, stable_rank_mean, rank_used_share (effective
        rank ÷ rank, mean).
        What can't be told, for lack of numbered layers, is absent.
    """
    norms = base_squared_norms(base_folder, cache_dir)
    deltas, rank_shares = [], []
    for pair, a, b in iter_factors(adapter):
        squared = pair.scaling**2 * _squared_singular_values(a, b)  # (rank,)
        total = float(squared.sum())
        name = base_weight_name(norms, pair.module)
        effective = _effective_rank(squared)
        deltas.append(
            _Delta(
                module=pair.module,
                squared_norm=total,
                base_squared_norm=norms[name] if name else 0.0,
                effective_rank=effective,
                stable_rank=total / float(squared.max()) if total > 0 else 0.0,
            )
        )
        rank_shares.append(effective / pair.rank)
    values = {
        "delta_norm": float(np.sqrt(sum(delta.squared_norm for delta in deltas))),
        **_relative_norms(deltas),
        **_depth_values(deltas, n_layers=_n_layers(norms)),
    }
    # Modules that training left at zero have no directions to count.
    ranks = [delta.effective_rank for delta in deltas if delta.squared_norm > 0]
    values["effective_rank_mean"] = float(np.mean(ranks))
    values["effective_rank_min"] = float(np.min(ranks))
    values["effective_rank_max"] = float(np.max(ranks))
    values["stable_rank_mean"] = float(
        np.mean([delta.stable_rank for delta in deltas if delta.squared_norm > 0])
    )
    values["rank_used_share"] = float(np.mean(rank_shares))
    return values


def base_squared_norms(base_folder: Path, cache_dir: Path) -> dict[str, float]:
    """‖W‖_F² of each weight matrix of a base model, by tensor name; computed once, then cached."""
    files = base_files(base_folder)
    cached = Path(cache_dir) / "weight-norms" / f"{_files_key(files)}.json"
    try:
        stored = json.loads(cached.read_text(encoding="utf-8"))
        return {name: float(value) for name, value in stored.items()}
    except (OSError, ValueError, AttributeError):
        pass  # not there yet, or damaged: both are mended by computing it again
    norms = {
        name: _squared_norm(tensor.values())
        for path in files
        for name, tensor in read_tensors(path).items()
        if tensor.is_float and len(tensor.shape) >= 2
    }
    cached.parent.mkdir(parents=True, exist_ok=True)
    part = cached.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(norms), encoding="utf-8")
    part.replace(cached)
    return norms


def _squared_singular_values(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared singular values of B A, descending; a is (rank, d_in), b is (d_out, rank)."""
    eigenvalues, vectors = np.linalg.eigh(a @ a.T)
    root = vectors * np.sqrt(np.clip(eigenvalues, 0.0, None))  # root @ root.T = A Aᵀ
    squared: np.ndarray = np.linalg.eigvalsh(root.T @ (b.T @ b) @ root)[::-1]
    return squared.clip(min=0.0)


def _effective_rank(squared: np.ndarray) -> float:
    values = np.sqrt(squared)
    total = values.sum()
    if total == 0:
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _relative_norms(deltas: Iterable[_Delta]) -> dict[str, float]:
    groups: dict[str, list[_Delta]] = defaultdict(list)
    for delta in deltas:
        groups["delta_norm_relative"].append(delta)
        groups[f"delta_norm_relative_{delta.kind}"].append(delta)
    values = {name: _relative_norm(members) for name, members in sorted(groups.items())}
    return {name: value for name, value in values.items() if value is not None}


def _relative_norm(deltas: Iterable[_Delta]) -> float | None:
    known = [delta for delta in deltas if delta.base_squared_norm > 0]
    if not known:
        return None
    moved = sum(delta.squared_norm for delta in known)
    return float(np.sqrt(moved / sum(delta.base_squared_norm for delta in known)))


def _depth_values(deltas: Iterable[_Delta], *, n_layers: int) -> dict[str, float]:
    layered = [(delta.layer, delta) for delta in deltas if delta.layer is not None]
    total = sum(delta.squared_norm for _, delta in layered)
    if n_layers == 0 or total == 0:
        return {}
    shares = dict.fromkeys(_THIRDS, 0.0)
    for layer, delta in layered:
        shares[_THIRDS[min(3 * layer // n_layers, 2)]] += delta.squared_norm / total
    values = {f"delta_share_{third}": share for third, share in shares.items()}
    wanted = round(_LATE_MIDDLE * (n_layers - 1))
    at_depth = _relative_norm([delta for layer, delta in layered if layer == wanted])
    if at_depth is not None:
        values["delta_norm_relative_at_06"] = at_depth
    return values


def _n_layers(names: Mapping[str, float]) -> int:
    """Number of decoder layers, counted from the names of the base's weights."""
    layers = [layer for layer in map(_layer_of, names) if layer is not None]
    return max(layers) + 1 if layers else 0


def _layer_of(name: str) -> int | None:
    match = re.search(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.", name)
    return int(match[1]) if match else None


def _squared_norm(weight: np.ndarray) -> float:
    # In slices: float64 copies of a whole embedding matrix would cost gigabytes on large bases.
    flat = weight.reshape(-1)
    step = 1 << 22
    return float(
        sum(
            np.square(flat[start : start + step], dtype=np.float64).sum()
            for start in range(0, flat.size, step)
        )
    )


def _files_key(files: Iterable[Path]) -> str:
    """Changes when a weight file is replaced."""
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:32]
