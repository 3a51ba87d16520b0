"""The papers' questions asked of one's own transfer matrix: records in, tables out."""

from adapt_lora.analysis.correlations import GainCorrelations, gain_correlations
from adapt_lora.analysis.effects import SideEffects, side_effects
from adapt_lora.analysis.twins import TwinComparison, compare_twins

__all__ = [
    "GainCorrelations",
    "SideEffects",
    "TwinComparison",
    "compare_twins",
    "gain_correlations",
    "side_effects",
]
