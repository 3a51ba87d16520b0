"""When two base models count as the same one."""

import re
from collections.abc import Iterable

from adapt_lora.errors import BaseModelMismatch
from adapt_lora.model.base import BaseIdentity

LACKS_DIGEST = "lack a digest"
"""Part of the warning about bases that are compared by name alone."""


def compare_bases(registered: BaseIdentity, given: BaseIdentity) -> str | None:
    """Say how near the given base model is to the registered one.

    Returns:
        None when they are the same; a warning when only the weights differ.

    Raises:
        BaseModelMismatch: The architecture or the tokenizer differs.
    """
    if not registered.architecture or not given.architecture:
        return (
            f"{given.name}: the registry's entries or this model {LACKS_DIGEST}, since the weights "
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


_COPY = re.compile(
    r"[-_.](unsloth|bnb|gptq|awq|hqq|aqlm|exl2|mlx|gguf|onnx|quantized|dynamic|hf|fp32|fp16|bf16|"
    r"fp8|nf4|int8|int4|w4a16|w8a8|w8a16|[348]-?bit|q[2-8](_[k01])?(_[sml])?)$"
)
"""What ends the names of copies that hold the same model in other numbers or another layout."""


def same_name(name: str, known: Iterable[str]) -> str | None:
    """The known Hub id that a name means: the Hub does not tell upper and lower case apart."""
    found = [other for other in known if other.lower() == name.lower()]
    return name if name in found else next(iter(sorted(found)), None)


def twin_names(name: str, known: Iterable[str]) -> list[str]:
    """Known Hub ids of what reads as the same model: a 4-bit copy, a mirror, a folder's name."""
    return sorted(other for other in set(known) if other != name and _stem(other) == _stem(name))


def hub_id_in_path(path: str) -> str | None:
    """The Hub id that a path into the Hub's cache spells out; None for any other name."""
    found = re.search(r"(?:^|[/\\])models--([\w.-]+?)--([\w.-]+)", path)
    return f"{found[1]}/{found[2]}" if found else None


def _stem(name: str) -> str:
    """The model in a name: "unsloth/Meta-Llama-3.1-8B-bnb-4bit" and "Llama-3.1-8B" have one."""
    stem = re.split(r"[/\\]", name.rstrip("/\\"))[-1].lower().removesuffix(".gguf")
    while _COPY.search(stem):
        stem = _COPY.sub("", stem)
    return re.sub(r"[^a-z0-9]", "", stem.removeprefix("meta-"))
