"""When two base models count as the same one."""

from adapt_lora.errors import BaseModelMismatch
from adapt_lora.model.base import BaseIdentity


def compare_bases(registered: BaseIdentity, given: BaseIdentity) -> str | None:
    """Say how near the given base model is to the registered one.

    Returns:
        None when they are the same; a warning when only the weights differ.

    Raises:
        BaseModelMismatch: The architecture or the tokenizer differs.
    """
    if not registered.architecture or not given.architecture:
        return (
            f"{given.name}: the registry's entries or this model lack a digest, since the weights "
            "were not at hand; that they belong together is taken from the name."
        )
    if registered.architecture != given.architecture:
        raise BaseModelMismatch(
            f"{given.name} has another architecture or tokenizer "
            f"({given.architecture[:12]}) than the {registered.name} in the registry "
            f"({registered.architecture[:12]}); their figures can't be compared. "
            "Load the registered base model, or use another registry."
        )
    if registered.weights != given.weights:
        return (
            f"{given.name}: these weights ({given.weights[:12]}) are not the ones in the registry "
            f"({registered.weights[:12]}), the architecture is the same: figures are near, not "
            f"equal."
        )
    return None


def find_base(registered: list[BaseIdentity], given: BaseIdentity) -> BaseIdentity | None:
    """The registered base that the given one belongs to: of its name, or the same under another."""
    for base in registered:
        if base.name == given.name:
            return base
    for base in registered:
        # Without digests (a base known by name alone) nothing tells two models apart but names.
        if base.architecture and (base.architecture, base.weights) == (
            given.architecture,
            given.weights,
        ):
            return base
    return None
