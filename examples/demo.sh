#!/usr/bin/env bash
# From nothing to a recommendation: the measured adapters that come with Adapt, ranked for a dataset
# that none of them has seen. A second run finds the registry filled.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export ADAPT_TRACKING_URI="demo/registry"
mkdir -p demo

step() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }

step "Fill a registry with the adapters that come with Adapt"
adapt import starter

step "Which of them will help on examples/mydata.jsonl?"
adapt recommend --target examples/mydata.jsonl --top 8 --save demo/recommendation.json

best=$(python - <<'PYTHON'
import json

answer = json.load(open("demo/recommendation.json", encoding="utf-8"))
print(next((e["adapter"] for e in answer["ranking"] if e["has_weights"]), ""))
PYTHON
)
cat <<END

The registry is in demo/registry, the answer as JSON in demo/recommendation.json. From here:
  export PATH="\$PWD/.venv/bin:\$PATH" ADAPT_TRACKING_URI=demo/registry
  adapt pull $best demo/$best     # the PEFT files; in Python:
      from peft import PeftModel
      from adapt_lora.model.base import load_base_model
      model = PeftModel.from_pretrained(load_base_model().model, "demo/$best")
  adapt matrix                                          # who helps where
  adapt recommend --target YOURS.jsonl                  # with a file of your own
  adapt ui                                              # browse it all in MLflow
END
