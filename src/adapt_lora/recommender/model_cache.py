"""Fitted models by content: what was learned once is not learned again while nothing changed.

A file holds plain JSON (LightGBM models as their own text) under a digest of all that decides the
fit, and a checksum of itself. Nothing is pickled, so a file can't run code when it is read. What
can't be read back exactly is no model: it is fitted again and written anew. (skops makes such files
too, but trusts scikit-learn's types alone: neither LightGBM's boosters nor the rankers here.)
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from adapt_lora.recommender.columns import Scale
from adapt_lora.recommender.level import GainModel
from adapt_lora.recommender.models import read_booster
from adapt_lora.recommender.rankers import Ranker
from adapt_lora.recommender.table import TransferTable
from adapt_lora.recommender.training_set import TrainingSet
from adapt_lora.registry.kept import KeptTexts, code_digest

_KEPT = 64
"""Models in a cache folder; the longest unused go first. One is some 10 kB to 3 MB."""

_LIBRARIES = ("adapt-lora", "lightgbm", "numpy", "scikit-learn", "scipy")


@dataclass(frozen=True, slots=True, eq=False)
class FittedModel:
    """All that a recommendation learns from the measured cells, before it sees a target."""

    method: str
    """The method that ranks."""
    ranker: Ranker
    """Fitted on every measured task group."""
    gains: GainModel | None
    """From a score to a gain; None when no gain was measured."""
    backtest: Mapping[str, Any]
    """Figures to show beside a ranking; empty when fewer than two groups were measured."""


def model_key(table: TransferTable, settings: Mapping[str, Any]) -> str:
    """Digest of a table without the target's group, the settings, and the code that learns."""
    digest = hashlib.sha256(_code_digest())
    _feed(digest.update, [table, dict(settings)])
    return digest.hexdigest()


class ModelCache:
    """Fitted models in a folder, one file each; safe for several processes at once."""

    def __init__(self, folder: Path) -> None:
        self._kept = KeptTexts(folder, most=_KEPT)

    def load(self, key: str, train: TrainingSet) -> FittedModel | None:
        """The model under a key, put onto its training set; None when it is not there, or damaged.

        A damaged file is as good as none: the caller fits again and `save` replaces it.
        """
        text = self._kept.load(key)
        try:
            return None if text is None else _decoded(text, train)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def save(self, key: str, model: FittedModel) -> None:
        """Keep a model; one that can't be written is only slower next time."""
        with contextlib.suppress(ValueError, TypeError):
            self._kept.save(key, _encoded(model))

    def path(self, key: str) -> Path:
        """File of a model."""
        return self._kept.path(key)


@cache
def _code_digest() -> bytes:
    """Of the code in this folder and of the libraries under it: other code, other models."""
    return code_digest(Path(__file__).parent.glob("*.py"), _LIBRARIES)


def _feed(update: Callable[[bytes], None], value: Any) -> None:
    """Feed a digest with plain values, arrays and dataclasses of them, each marked by its kind."""
    if isinstance(value, np.ndarray):
        update(f"array {value.dtype.str} {value.shape}".encode())
        update(np.ascontiguousarray(value).tobytes())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        update(type(value).__name__.encode())
        for field in dataclasses.fields(value):
            update(field.name.encode())
            _feed(update, getattr(value, field.name))
    elif isinstance(value, Mapping):
        update(f"mapping {len(value)}".encode())
        for key in sorted(value, key=str):
            update(str(key).encode())
            _feed(update, value[key])
    elif isinstance(value, list | tuple):
        update(f"sequence {len(value)}".encode())
        for item in value:
            _feed(update, item)
    else:
        update(f"{type(value).__name__} {value!r}".encode())


# --- models as text -----------------------------------------------------------------------------


def _encoded(model: FittedModel) -> str:
    return json.dumps(
        {
            "method": model.method,
            "ranker": _plain(model.ranker),
            "gains": _plain(model.gains),
            "backtest": _plain(model.backtest),
        },
        allow_nan=True,
    )


def _decoded(text: str, train: TrainingSet) -> FittedModel:
    content = json.loads(text)
    ranker, levels = _revived(content["ranker"], train), _revived(content["gains"], train)
    if not isinstance(ranker, Ranker) or not isinstance(levels, GainModel | None):
        raise TypeError("the file holds something else than a model")
    return FittedModel(content["method"], ranker, levels, _revived(content["backtest"], train))


def _plain(value: Any) -> Any:
    """JSON of what models keep; floats come back exactly as they were."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError("An array of objects can't be kept.")
        return {"array": value.ravel().tolist(), "dtype": value.dtype.str, "shape": value.shape}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_plain(item) for item in value]}
    if isinstance(value, Mapping):
        return {"mapping": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if hasattr(value, "model_to_string"):
        return {"booster": value.model_to_string()}
    if isinstance(value, Ranker):
        settings = value.get_params(deep=False)
        learned = {k: v for k, v in vars(value).items() if k not in settings and k != "train_"}
        return {
            "ranker": type(value).__name__,
            "settings": _plain(settings),
            "learned": _plain(learned),
        }
    if isinstance(value, GainModel):
        return {"gain_model": _plain(vars(value))}
    if isinstance(value, Scale):
        return {"scale": [_plain(value.mean), _plain(value.spread)]}
    raise TypeError(f"A {type(value).__name__} can't be kept as text.")


def _revived(value: Any, train: TrainingSet) -> Any:
    if not isinstance(value, dict):
        return value
    if "array" in value:
        flat = np.array(value["array"], dtype=np.dtype(value["dtype"]))
        return flat.reshape(value["shape"])
    if "list" in value:
        return [_revived(item, train) for item in value["list"]]
    if "tuple" in value:
        return tuple(_revived(item, train) for item in value["tuple"])
    if "mapping" in value:
        pairs = [(_revived(key, train), _revived(item, train)) for key, item in value["mapping"]]
        return dict(pairs)
    if "booster" in value:
        return read_booster(value["booster"])
    if "ranker" in value:
        ranker = _ranker_class(value["ranker"])(**_revived(value["settings"], train))
        ranker.__dict__.update(_revived(value["learned"], train))
        ranker.train_ = train
        return ranker
    if "gain_model" in value:
        model = GainModel()
        model.__dict__.update(_revived(value["gain_model"], train))
        return model
    if "scale" in value:
        mean, spread = (_revived(item, train) for item in value["scale"])
        return Scale(mean, spread)
    raise ValueError(f"unknown content: {', '.join(value)}")


def _ranker_class(name: str) -> type[Ranker]:
    known = [Ranker]
    for kind in known:
        known += kind.__subclasses__()
    return next(kind for kind in known if kind.__name__ == name)
