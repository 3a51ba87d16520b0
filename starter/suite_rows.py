"""Write the digests by which the rows of the suite are known, from the datasets of the starter.

`python starter/suite_rows.py FOLDER` reads FOLDER/NAME/test.jsonl of every task and leaves the
first bytes of each row's digest in `src/adapt_lora/data/suite/rows.npz`; no row itself is written.
"""

import sys
from pathlib import Path

import numpy as np

from adapt_lora.data import read_dataset
from adapt_lora.data.suite import suite_tasks
from adapt_lora.data.suite.definitions import DIGEST_BYTES

PLACE = Path(__file__).resolve().parents[1] / "src/adapt_lora/data/suite/rows.npz"


def main(folder: Path) -> None:
    """Read every task's test rows and write their digests."""
    digests = {}
    for task in suite_tasks():
        rows = read_dataset(folder / task.name).rows
        known = [bytes.fromhex(row.digest[: 2 * DIGEST_BYTES]) for row in rows]
        digests[task.name] = np.frombuffer(b"".join(known), np.uint8).reshape(-1, DIGEST_BYTES)
    np.savez(PLACE, **digests)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
