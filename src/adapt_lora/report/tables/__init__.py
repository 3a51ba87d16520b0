"""Tables for the terminal, as rich renderables made from records."""

from adapt_lora.report.tables.findings import (
    bench_table,
    correlations_table,
    side_effects_table,
    traits_table,
    twins_table,
)
from adapt_lora.report.tables.gain_grid import matrix_table
from adapt_lora.report.tables.one_adapter import adapter_page
from adapt_lora.report.tables.ranked import recommendation_table
from adapt_lora.report.tables.shelf import adapters_table, plan_table, suite_table, sweep_table

__all__ = [
    "adapter_page",
    "adapters_table",
    "bench_table",
    "correlations_table",
    "matrix_table",
    "plan_table",
    "recommendation_table",
    "side_effects_table",
    "suite_table",
    "sweep_table",
    "traits_table",
    "twins_table",
]
