"""Which base model is meant, and what the registry knows of the others."""

from adapt_lora.model.base import BaseIdentity, find_base_model
from adapt_lora.registry import Registry
from adapt_lora.registry.records import TransferMatrix


def which_base(registry: Registry, base_model: str | None) -> BaseIdentity:
    """The registered base model that a name means, so that figures can be shown without weights.

    Without a name: the only one there is; else the one on this disk.

    Raises:
        BaseModelError: Neither registered nor on this disk.
    """
    known = registry.bases()
    if base_model is None and len(known) == 1:
        return known[0]
    for identity in known:
        if identity.name == base_model:
            return identity
    return find_base_model(base_model)


def other_matrices(registry: Registry, base: BaseIdentity) -> list[TransferMatrix]:
    """What was measured under the registry's other base models; a fresh base starts from it."""
    found = (registry.transfer_matrix(other) for other in registry.bases() if other != base)
    return [matrix for matrix in found if matrix.cells]
