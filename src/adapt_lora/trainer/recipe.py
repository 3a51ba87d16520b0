"""Recipes: every setting that decides what comes out of a training, as one frozen record."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from adapt_lora.errors import ConfigError

LrSchedule = Literal["cosine", "constant"]
TrainingDtype = Literal["auto", "float32", "bfloat16"]
AdapterDtype = Literal["float32", "bfloat16"]
TrainingMethod = Literal["lora", "full"]
TrainingTemplate = Literal["base", "plain", "question-answer"]

SEVEN_PROJECTIONS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)
"""All linear layers of a Llama-like block, attention and MLP."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an adapter is trained; the data and the base model are all that is missing."""

    name: str
    """The name people choose it by; it stays the same when fields are overridden."""
    method: TrainingMethod = "lora"
    """"lora" trains an update of rank r; "full" trains every weight and then keeps what fits into
    rank r on the target modules, so that the result is an adapter like any other."""
    r: int = 8
    """Rank of the update."""
    lora_alpha: int = 16
    """The update is scaled by lora_alpha / r."""
    target_modules: tuple[str, ...] = SEVEN_PROJECTIONS
    """Names of the linear layers that get an update."""
    use_rslora: bool = False
    """Scale the update by lora_alpha / √r instead, so that high ranks learn (arXiv:2312.03732)."""
    use_dora: bool = False
    """Also learn the length of each weight column apart from its direction (arXiv:2402.09353)."""
    lora_dropout: float = 0.0
    """Share of the update's inputs dropped in training, in [0, 1)."""
    learning_rate: float = 5e-4
    """Highest learning rate of the schedule."""
    lr_schedule: LrSchedule = "cosine"
    """How the learning rate goes on after the warm-up: down to 0 in half a cosine, or constant."""
    warmup_ratio: float = 0.1
    """Share of all steps over which the learning rate climbs from 0, in [0, 1)."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    batch_size: int = 8
    """Rows per step."""
    micro_batch_size: int | None = None
    """Rows per forward pass at most, gradients summed up to a step; None for the whole batch."""
    packing: bool = False
    """Put the rows of a pass into one sequence, without padding; none of them sees another."""
    gradient_checkpointing: bool = False
    """Keep no activations inside the layers and compute them again: slower, far less memory."""
    template: TrainingTemplate = "base"
    """How a row is written: "base" as it is scored (the base's chat template where it has one);
    "plain", a newline between prompt and answer; "question-answer", as massive-sft does."""
    epochs: int = 1
    """Times that every training row is seen."""
    keep_epochs: bool = False
    """Keep the adapter as it is after every epoch, each a version of its own."""
    max_rows: int | None = None
    """Training rows used at most, drawn with the seed; None for all."""
    max_tokens: int | None = None
    """Tokens (prompt and response, one epoch) of all training rows at most; None for no limit."""
    max_length: int = 1024
    """Rows with more tokens than this are left out: a cut answer would teach to stop early."""
    held_out_rows: int = 32
    """Rows kept aside for the held-out loss; never more than a tenth of the data."""
    seed: int = 0
    """Decides the rows drawn, their order, the first weights and the dropout."""
    dtype: TrainingDtype = "auto"
    """Type of the frozen weights; "auto" takes the base as it is. The update learns in float32."""
    adapter_dtype: AdapterDtype = "float32"
    """Type that the trained update is stored in; "bfloat16" halves the file."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_type(field.name, getattr(self, field.name))
        methods = get_args(TrainingMethod)
        self._check(self.method in methods, "method", _one_of(methods))
        self._check(
            self.method == "lora" or not (self.use_dora or self.lora_dropout),
            "method",
            "'lora' for use_dora and lora_dropout to have a meaning",
        )
        self._check(self.r >= 1, "r", "a rank of at least 1")
        self._check(self.lora_alpha >= 1, "lora_alpha", "a whole number of at least 1")
        self._check(bool(self.target_modules), "target_modules", "at least one layer name")
        self._check(0 <= self.lora_dropout < 1, "lora_dropout", "a share in [0, 1)")
        self._check(0 < self.learning_rate < 1, "learning_rate", "a number in (0, 1)")
        schedules = get_args(LrSchedule)
        self._check(self.lr_schedule in schedules, "lr_schedule", _one_of(schedules))
        self._check(0 <= self.warmup_ratio < 1, "warmup_ratio", "a share in [0, 1)")
        self._check(0 <= self.weight_decay < 1, "weight_decay", "a number in [0, 1)")
        self._check(self.max_grad_norm > 0, "max_grad_norm", "a number above 0")
        self._check(self.batch_size >= 1, "batch_size", "at least one row")
        self._check(
            self.micro_batch_size is None or self.micro_batch_size >= 1,
            "micro_batch_size",
            "at least one row",
        )
        templates = get_args(TrainingTemplate)
        self._check(self.template in templates, "template", _one_of(templates))
        self._check(self.epochs >= 1, "epochs", "at least one")
        self._check(self.max_rows is None or self.max_rows >= 1, "max_rows", "at least one row")
        self._check(
            self.max_tokens is None or self.max_tokens >= 1, "max_tokens", "at least one token"
        )
        self._check(self.max_length >= 2, "max_length", "at least two tokens")
        self._check(self.held_out_rows >= 0, "held_out_rows", "0 or more")
        self._check(self.seed >= 0, "seed", "0 or more")
        dtypes = get_args(TrainingDtype)
        self._check(self.dtype in dtypes, "dtype", _one_of(dtypes))
        stored = get_args(AdapterDtype)
        self._check(self.adapter_dtype in stored, "adapter_dtype", _one_of(stored))

    @property
    def params(self) -> dict[str, str]:
        """The settings as flat strings, "recipe/learning_rate" and so on; unset ones are absent."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            f"recipe/{key}": _as_text(value) for key, value in values.items() if value is not None
        }

    @property
    def sources(self) -> dict[str, str]:
        """Where each setting comes from: a paper's section, Adapt's own choice, or the user."""
        shipped = RECIPES.get(self.name)
        said = SOURCES.get(self.name, {})
        return {
            field.name: said.get(field.name, OURS)
            if shipped is not None and getattr(shipped, field.name) == getattr(self, field.name)
            else "set by the user"
            for field in fields(self)
            if field.name != "name"
        }

    def _check(self, holds: bool, field: str, wanted: str) -> None:
        if not holds:
            raise ConfigError(
                f"Recipe '{self.name}': {field} is {getattr(self, field)!r}, but must be {wanted}."
            )


def find_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of that name, with some fields replaced.

    Args:
        name: A key of RECIPES.
        overrides: New values by field name; strings are read as the field's type, as options
            and environment variables give them.

    Raises:
        ConfigError: Unknown recipe or field, or a value that the field can't take.
    """
    if name not in RECIPES:
        raise ConfigError(f"There is no recipe '{name}'. Choose {_one_of(tuple(RECIPES))}.")
    return override_recipe(RECIPES[name], overrides or {})


def override_recipe(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """A copy of the recipe with these fields replaced; see `find_recipe`."""
    known = [field.name for field in fields(recipe)]
    for key in overrides:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known are {', '.join(known)}."
            raise ConfigError(f"A recipe has no setting '{key}'. {hint}")
    return replace(recipe, **{key: _read_value(key, value) for key, value in overrides.items()})


def read_recipe(path: Path, start: str) -> Recipe:
    """The recipe of a TOML file: `recipe = "NAME"` to start from, then any fields.

    Args:
        path: A flat table, e.g. `recipe = "massive-sft"`, `epochs = 3`, `seed = 1`.
        start: Recipe to start from where the file names none.

    Raises:
        ConfigError: Not readable, or a name or value that can't be used.
    """
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror}). Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as TOML ({error}).") from error
    try:
        return find_recipe(str(settings.pop("recipe", start)), settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def recipe_from_params(params: Mapping[str, str]) -> Recipe:
    """The recipe that was stored with an adapter: the inverse of `Recipe.params`.

    Raises:
        ConfigError: These are not a recipe's params, or a later version's.
    """
    settings = {
        key.removeprefix("recipe/"): value
        for key, value in params.items()
        if key.startswith("recipe/")
    }
    if "name" not in settings:
        raise ConfigError(
            "No recipe is stored with this adapter: it was registered, not trained here."
        )
    return override_recipe(Recipe(name=settings["name"]), settings)


_TYPES: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "method": (str,),
    "use_rslora": (bool,),
    "use_dora": (bool,),
    "packing": (bool,),
    "gradient_checkpointing": (bool,),
    "keep_epochs": (bool,),
    "template": (str,),
    "target_modules": (tuple,),
    "lr_schedule": (str,),
    "dtype": (str,),
    "adapter_dtype": (str,),
    "lora_dropout": (float, int),
    "learning_rate": (float, int),
    "warmup_ratio": (float, int),
    "weight_decay": (float, int),
    "max_grad_norm": (float, int),
    "micro_batch_size": (int, type(None)),
    "max_rows": (int, type(None)),
    "max_tokens": (int, type(None)),
}
"""Types that a field takes; those not named here are whole numbers."""


def _check_type(field: str, value: object) -> None:
    wanted = _TYPES.get(field, (int,))
    # bool is an int to Python, but `epochs=True` is somebody's mistake.
    if isinstance(value, bool) != (bool in wanted) or not isinstance(value, wanted):
        raise ConfigError(f"Recipe setting {field} is {value!r}, but must be {_say_types(wanted)}.")


def _read_value(field: str, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, str):
        return value
    wanted = _TYPES.get(field, (int,))
    if str in wanted:
        return value
    if bool in wanted:
        return {"true": True, "yes": True, "false": False, "no": False}.get(value.lower(), value)
    if tuple in wanted:
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if type(None) in wanted and value.lower() in ("", "none", "all"):
        return None
    try:
        return float(value) if float in wanted else int(value)
    except ValueError as error:
        raise ConfigError(
            f"Recipe setting {field} is {value!r}, but must be {_say_types(wanted)}."
        ) from error


def _say_types(wanted: tuple[type, ...]) -> str:
    words = {
        str: "text",
        bool: "true or false",
        tuple: "a list of names",
        float: "a number",
        int: "a whole number",
    }
    return words[wanted[0]]


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _one_of(names: tuple[str, ...]) -> str:
    return " or ".join(f"'{name}'" for name in names)


# Stands last, since a recipe is checked as it is made.
RECIPES: Mapping[str, Recipe] = {
    # 320 rows of sst2 (23,000 tokens) lift SmolLM2-135M from .49 to .9 accuracy; two cores train
    # about 200 tokens/s, so the token limit holds any dataset to some four minutes.
    "quick": Recipe(name="quick", max_rows=320, max_tokens=48_000),
    "latent-traits": Recipe(
        name="latent-traits",
        r=64,
        lora_alpha=32,
        gradient_checkpointing=True,
        learning_rate=2e-4,
        batch_size=16,
        micro_batch_size=8,
        max_rows=10_000,
        max_length=2048,
    ),
    # For 20k rows the paper holds the rate constant: max_rows=20000 and lr_schedule=constant.
    "massive-sft": Recipe(
        name="massive-sft",
        r=16,
        lora_alpha=32,
        learning_rate=2e-6,
        batch_size=128,
        micro_batch_size=8,
        epochs=10,
        keep_epochs=True,
        template="question-answer",
        max_rows=1_000,
        max_length=2048,
    ),
    "massive-sft-full": Recipe(
        name="massive-sft-full",
        method="full",
        r=64,
        lora_alpha=64,
        learning_rate=1e-5,
        batch_size=32,
        micro_batch_size=8,
        epochs=10,
        keep_epochs=True,
        template="question-answer",
        max_rows=1_000,
        max_length=2048,
        # A step of 1e-5 is lost in the 8 bits of a bfloat16 weight.
        dtype="float32",
    ),
}
"""The recipes that ship with Adapt."""

OURS = "ours: no paper says"
"""The source of a setting that a recipe's paper leaves out."""

_PAPER_1 = "Krishna et al. 2025"
_PAPER_2 = "Harada et al. 2025"

_MASSIVE_SFT = {
    "lr_schedule": f"{_PAPER_2}, §3.3 (cosine; constant in its 20k runs)",
    "weight_decay": f"{_PAPER_2}, App. D",
    "epochs": f"{_PAPER_2}, App. D",
    "keep_epochs": f"{_PAPER_2}, App. C (a checkpoint after every epoch)",
    "template": f"{_PAPER_2}, App. D",
    "max_rows": f"{_PAPER_2}, §3.3 (1k; 20k in a further experiment)",
}

SOURCES: Mapping[str, Mapping[str, str]] = {
    "latent-traits": {
        "method": f"{_PAPER_1}, §4",
        "r": f"{_PAPER_1}, §4 and A.2",
        "lora_alpha": f"{_PAPER_1}, A.2",
        "target_modules": f"{_PAPER_1}, A.2",
        "lr_schedule": f"{_PAPER_1}, A.2 (cosine)",
        "gradient_checkpointing": f"{_PAPER_1}, A.2",
        "max_rows": f"{_PAPER_1}, §4",
    },
    "massive-sft": {
        **_MASSIVE_SFT,
        "method": f"{_PAPER_2}, §3.3",
        "learning_rate": f"{_PAPER_2}, App. D (LoRA)",
        "batch_size": f"{_PAPER_2}, App. D (LoRA)",
    },
    "massive-sft-full": {
        **_MASSIVE_SFT,
        "method": f"{_PAPER_2}, §3.3 (keeping rank r of it is ours)",
        "learning_rate": f"{_PAPER_2}, App. D (full)",
        "batch_size": f"{_PAPER_2}, App. D (full)",
    },
}
"""Where a shipped recipe's settings come from; all others are ours."""
