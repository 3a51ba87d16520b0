"""Suites: public benchmark tasks that anybody can measure, as definitions without their rows."""

from adapt_lora.data.suite.definitions import SUITE_NAMES, SuiteTask, suite_tasks
from adapt_lora.data.suite.reading import RowSource, read_suite_task

__all__ = ["SUITE_NAMES", "RowSource", "SuiteTask", "read_suite_task", "suite_tasks"]
