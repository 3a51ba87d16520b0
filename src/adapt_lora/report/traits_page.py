"""A fit of the traits in Markdown: what heads the page of the bare base's run."""

from typing import TYPE_CHECKING

from adapt_lora.report.wording import GAP, one_line, share_text

if TYPE_CHECKING:
    from adapt_lora.recommender.traits import Traits


def traits_markdown(traits: "Traits") -> str:
    """Which trait is which."""
    lines = [
        "**Traits of the transfer matrix.** `trait/T1`, `trait/T2`, … of each run are its scores, "
        "`trait/T1_se`, … their standard errors.",
        "",
        "| trait | name | variance | high scores: good at | low scores: good at |",
        "|---|---|---|---|---|",
    ]
    for key, name, ratio, pole in zip(
        traits.keys, traits.names, traits.explained_variance_ratio, traits.poles, strict=True
    ):
        high, low = (", ".join(side) or GAP for side in (pole.high, pole.low))
        # An automatic name says the poles once more.
        own = GAP if name.startswith(f"{key} ") else name
        lines.append(f"| {' | '.join(map(_cell, (key, own, share_text(ratio), high, low)))} |")
    lines += [f"\n{_cell(note)}" for note in traits.notes]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|").replace("<", "&lt;")
