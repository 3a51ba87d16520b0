"""What test_cluster.py sends to workers, in a module that they import at once."""

import os
from dataclasses import dataclass
from pathlib import Path

from adapt_lora.errors import DatasetError


@dataclass
class Visitor:
    """Notes which process was asked for what; some units go wrong."""

    folder: Path

    def __post_init__(self):
        (self.folder / f"{os.getpid()}.made").touch()

    def __call__(self, unit):
        if unit == "broken":
            raise DatasetError("broken.jsonl does not exist. Check the path.")
        if unit == "odd":
            raise ZeroDivisionError("a bug of somebody else's")
        if unit == "deadly":
            os._exit(3)
        return f"{unit} {os.getpid()}"
