"""Suites: public benchmark tasks that anybody can measure, as definitions without their rows."""

from adapt_lora.data.suite.cost import BASE_SIZES, describe_cost, gpu_hours
from adapt_lora.data.suite.definitions import SUITE_NAMES, SuiteTask, suite_tasks
from adapt_lora.data.suite.fetching import GITHUB_HOST, SourceFetcher
from adapt_lora.data.suite.reading import RowSource, read_suite_task

__all__ = [
    "BASE_SIZES",
    "GITHUB_HOST",
    "SUITE_NAMES",
    "RowSource",
    "SourceFetcher",
    "SuiteTask",
    "describe_cost",
    "gpu_hours",
    "read_suite_task",
    "suite_tasks",
]
