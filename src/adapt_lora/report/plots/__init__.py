"""Pictures of fingerprints, training, transfer and predictions, each one PNG file."""

from adapt_lora.report.plots.answer_sheets import plot_outcomes
from adapt_lora.report.plots.calibration_curves import plot_calibration
from adapt_lora.report.plots.heat_map import plot_matrix
from adapt_lora.report.plots.histograms import plot_histograms
from adapt_lora.report.plots.loss_curve import plot_loss
from adapt_lora.report.plots.trait_pictures import plot_trait_profiles, plot_traits

__all__ = [
    "plot_calibration",
    "plot_histograms",
    "plot_loss",
    "plot_matrix",
    "plot_outcomes",
    "plot_trait_profiles",
    "plot_traits",
]
