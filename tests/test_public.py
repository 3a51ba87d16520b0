"""What the package offers by name."""

import subprocess
import sys

import adapt_lora


def test_the_public_names_are_listed_before_they_are_used():
    assert {"recommend", "evaluate", "train", "register", "read_dataset"} <= set(dir(adapt_lora))
    assert all(hasattr(adapt_lora, name) for name in dir(adapt_lora))
    assert not [name for name in dir(adapt_lora) if name.startswith("_") and name != "__version__"]


def test_listing_them_imports_nothing():
    code = "import sys, adapt_lora; dir(adapt_lora); print('adapt_lora.roads' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
