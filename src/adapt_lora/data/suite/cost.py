"""What reading a suite costs on a GPU, by the arithmetic of docs/science.md."""

FLOPS_PER_PARAMETER = 2
"""Floating-point operations of a forward pass for each parameter and token: a multiplication and an
addition (Kaplan et al. 2020, arXiv:2001.08361, section 2.1)."""

A100_FLOPS = 312e12
"""Dense bfloat16 operations a second of an NVIDIA A100; an H100 has about three times as many."""

UTILISATION = 0.3
"""Share of them that is got in practice on short prompts (an assumption)."""

BASE_SIZES = {"1B": 1e9, "8B": 8e9}
"""Base models for which hours are told, by their number of parameters."""


def gpu_hours(n_tokens: int, *, n_parameters: float) -> float:
    """Hours of an A100 for a forward pass over so many tokens."""
    n_operations = FLOPS_PER_PARAMETER * n_parameters * n_tokens
    return n_operations / (UTILISATION * A100_FLOPS) / 3600


def describe_cost(n_tokens: int) -> str:
    """Tokens and hours as a sentence: "1,234 tokens: about 0.1 A100 hours for a 1B base, …"."""
    hours = [
        f"{gpu_hours(n_tokens, n_parameters=size):.2g} for a base of {name} parameters"
        for name, size in BASE_SIZES.items()
    ]
    return (
        f"{n_tokens:,} tokens: A100 hours about {', '.join(hours)} "
        f"(2 FLOPs a parameter and token, {UTILISATION:.0%} of the card's peak)."
    )
