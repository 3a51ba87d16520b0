#!/usr/bin/env bash
# From nothing to a recommendation: four adapters are trained, registered and measured on five tasks,
# then ranked for a task that nobody measured. A second run finds everything done and takes seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export ADAPT_TRACKING_URI="tour/registry"
mkdir -p tour

step() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }

for data in product_reviews customer_intent arithmetic extraction; do
    step "Train and register: $data"
    adapt train "examples/$data" --name "$data" --set max_rows=200
done

step "Measure every adapter, and the bare base model, on five tasks"
adapt evaluate --max-rows 50 \
    --task examples/product_reviews --task examples/customer_intent --task examples/arithmetic \
    --task examples/extraction --task examples/ticket_urgency

step "Which of them will help on examples/mydata.jsonl?"
adapt recommend --target examples/mydata.jsonl --verify 0 --save tour/recommendation.json

best=$(python - <<'PYTHON'
import json

answer = json.load(open("tour/recommendation.json", encoding="utf-8"))
print("base" if answer["base"]["recommended"] else answer["ranking"][0]["adapter"])
PYTHON
)
cat <<END

The registry is in tour/registry, the answer as JSON in tour/recommendation.json. From here:
  export PATH="\$PWD/.venv/bin:\$PATH" ADAPT_TRACKING_URI=tour/registry
  adapt list                                            # what is registered
  adapt matrix                                          # who helps where
  adapt recommend --target examples/mydata.jsonl --verify 2   # measure the best two on the target
  adapt ui                                              # browse it all in MLflow
END
if [ "$best" = base ]; then
    echo "  # the advice is to use the base model as it is"
else
    echo "  adapt pull $best tour/$best     # the PEFT files, for PeftModel.from_pretrained"
fi
