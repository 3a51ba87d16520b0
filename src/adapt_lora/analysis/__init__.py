"""The papers' questions asked of one's own transfer matrix: records in, tables out."""

from adapt_lora.analysis.correlations import GainCorrelations, gain_correlations
from adapt_lora.analysis.effects import SideEffects, side_effects

__all__ = ["GainCorrelations", "SideEffects", "gain_correlations", "side_effects"]
