"""Which base model is meant, and what the registry knows of the others."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapt_lora.errors import AdapterError, BaseModelError
from adapt_lora.model.base import (
    BaseIdentity,
    bases_at_hand,
    find_base_model,
    full_hub_id,
    load_base_model,
)
from adapt_lora.registry import Registry
from adapt_lora.registry.identity import find_base, hub_id_in_path, same_name, twin_names
from adapt_lora.registry.records import TransferMatrix

if TYPE_CHECKING:
    from adapt_lora.model.base import BaseModel


def which_base(registry: Registry, base_model: str | None) -> BaseIdentity:
    """The registered base model that a name means, so that figures can be shown without weights.

    Without a name: the only one there is; else the one on this disk.

    Raises:
        BaseModelError: Neither registered nor on this disk.
    """
    known = {identity.name: identity for identity in registry.bases()}
    if base_model is None:
        return next(iter(known.values())) if len(known) == 1 else find_base_model(None)
    same = same_name(base_model, known)
    if same is not None:
        return known[same]
    try:
        return find_base_model(base_model)
    except BaseModelError as error:
        twins = twin_names(base_model, known)
        if not twins:
            raise
        raise BaseModelError(f"{error} The registry knows {', '.join(twins)}.") from error


def other_matrices(registry: Registry, base: BaseIdentity) -> list[TransferMatrix]:
    """What was measured under the registry's other base models; a fresh base starts from it."""
    found = (registry.transfer_matrix(other) for other in registry.bases() if other != base)
    return [matrix for matrix in found if matrix.cells]


@dataclass(frozen=True, slots=True)
class SettledBase:
    """Which base model an adapter is taken to sit on."""

    identity: BaseIdentity
    """As the registry calls it, or is going to."""
    model: "BaseModel | None" = None
    """Loaded; None where it is not at hand."""
    reason: str | None = None
    """Why it is not at hand, with what else it may be."""


def settle_base(folder: Path, base: "BaseModel | None", registry: Registry) -> SettledBase:
    """Find the base model that was named, by the user or else by the adapter's config.

    Raises:
        AdapterError: The config names none, or a path that leads nowhere here.
    """
    from adapt_lora.registry.adapter import is_hub_id, stored_base
    from adapt_lora.registry.adapter_files import CONFIG_FILE

    stored = stored_base(folder)
    if base is not None:
        return SettledBase(_as_registered(base.identity, registry), base)
    if stored is None:
        raise AdapterError(
            f"{folder / CONFIG_FILE}: base_model_name_or_path is not set; say which model it sits "
            "on with --base-model."
        )
    place = Path(stored).expanduser()
    if (place / "config.json").is_file():  # transformers too takes a folder before the Hub
        base = load_base_model(place)
        return SettledBase(_as_registered(base.identity, registry), base)
    if (place / CONFIG_FILE).is_file():
        raise AdapterError(
            f"{folder / CONFIG_FILE}: base_model_name_or_path is {stored!r}, which is an adapter "
            "itself. One on top of another is not scored: merge that one into its base first, or "
            "say with --base-model which base this one sits on."
        )
    known = {*(identity.name for identity in registry.bases()), *bases_at_hand()}
    named = full_hub_id(hub_id_in_path(stored) or stored)
    name = same_name(named, known) or named
    if not is_hub_id(name) and name not in known:
        raise AdapterError(
            f"{folder / CONFIG_FILE}: base_model_name_or_path is {stored!r}, which is no Hub id "
            "of the form org/name and leads nowhere on this disk; say the base's Hub id with "
            "--base-model."
            f"{_likely_base(folder, stored, known)}"
        )
    try:
        base = load_base_model(name)
    # Figures of the weights need no base; those that do are left out, and it is said.
    except BaseModelError as error:
        unseen = next((one for one in registry.bases() if one.name == name), None)
        identity = unseen or BaseIdentity(name, "", "")
        return SettledBase(identity, reason=f"{error}{_likely_base(folder, stored, known)}")
    return SettledBase(_as_registered(base.identity, registry), base)


def _as_registered(identity: BaseIdentity, registry: Registry) -> BaseIdentity:
    """The same model under the name that the registry has for it."""
    known = find_base(registry.bases(), identity)
    return identity if known is None else replace(identity, name=known.name)


def _likely_base(folder: Path, stored: str, known: Iterable[str]) -> str:
    """What a base model that is not at hand may be, as a sentence; "" where nothing is like it."""
    from adapt_lora.registry.adapter import check_fits, read_adapter

    at_hand = bases_at_hand()
    twins = twin_names(stored, known)
    for name in [*twins, *(name for name in at_hand if name not in twins)]:
        place = at_hand.get(name)
        if place is None:
            if name in twins:
                return f" It reads like {name}: if it is, add --base-model {name}."
            continue
        try:
            check_fits(read_adapter(folder, base_model=name), place)
        except AdapterError:
            continue
        like = "It reads like" if name in twins else "Its tensors fit"
        return f" {like} {name}, which is on this disk: if it is, add --base-model {name}."
    return ""
