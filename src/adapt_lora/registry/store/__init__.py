"""The registry on MLflow; what lies where is said in `layout`, here it is moved.

`client` opens and searches a store, `homes` finds a base model's experiments, `sync` keeps a local
copy, `entries` and `cells` write, `files` moves PEFT folders. `Registry` is the face of them all.
"""

from adapt_lora.registry.store.cells import MatrixAddition
from adapt_lora.registry.store.registry import Registry

__all__ = ["MatrixAddition", "Registry"]
